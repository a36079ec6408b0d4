"""Tokenizer files from before tokenizer.json, as the tokenizer.json that they stand for.

GPT-2's ``vocab.json`` and ``merges.txt`` (RoBERTa, Qwen 2, BART and others use them too), and BERT's ``vocab.txt``. How
text is split is not in these files; it is a fact about the tokenizer's class, as the transformers library has it.
Files of the tiktoken library are read here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from converter.sources.files import read_bounded, read_json
from converter.spec import QuenchError
from converter.vocabulary import tiktoken
from converter.vocabulary.files import MAX_TOKEN_ID, TOKENIZER_LIMIT, as_text, damaged
from converter.vocabulary.tiktoken import tiktoken_file

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles

_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
_ROBERTA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def as_tokenizer_json(files: TokenizerFiles) -> bytes:
    """The tokenizer.json for the folder's older files. Raises ``QuenchError`` ``missing_tokenizer`` where there are
    none and ``bad_vocabulary`` for damage."""
    if files.has("vocab.json") and files.has("merges.txt"):
        return msgspec.json.encode(_byte_level(files))
    if name := tiktoken_file(files):
        return msgspec.json.encode(tiktoken.as_tokenizer_json(files, name))
    if files.has("vocab.txt"):
        return msgspec.json.encode(_word_piece(files))
    raise QuenchError(
        "missing_tokenizer",
        "The folder has no vocabulary.",
        f"Neither tokenizer.json nor tokenizer.model is in {files.folder}.",
        "Download the tokenizer's files from the model's page into this folder.",
    )


def _byte_level(files: TokenizerFiles) -> dict[str, Any]:
    vocab = _numbered(read_json(files.folder / "vocab.json", limit=TOKENIZER_LIMIT, code="bad_vocabulary"))
    roberta = files.declared_class in ("Roberta", "RobertaTokenizer") or "<mask>" in vocab
    added = _added(files, vocab, _ROBERTA if roberta else _GPT2)
    qwen = files.declared_class.startswith("Qwen2")
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not qwen}
    split = {"type": "Split", "pattern": {"Regex": _QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, letters]} if qwen else letters,
        "post_processor": _ends(vocab, files, _ROBERTA) if roberta else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "byte_fallback": False, "vocab": vocab, "merges": _merges(files)},
    }


def _word_piece(files: TokenizerFiles) -> dict[str, Any]:
    text = as_text(read_bounded(files.folder / "vocab.txt", TOKENIZER_LIMIT), "vocab.txt")
    vocab: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        vocab[line.removesuffix("\r")] = number
    lower = files.config.get("do_lower_case", True)
    accents = files.config.get("strip_accents")
    return {
        "version": "1.0",
        "added_tokens": _added(files, vocab, _BERT),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": files.config.get("tokenize_chinese_chars", True) is not False,
            "strip_accents": accents if isinstance(accents, bool) else None,
            "lowercase": lower is not False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _ends(vocab, files, _BERT),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": _name(files, "unk", _BERT) or "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def _merges(files: TokenizerFiles) -> list[tuple[str, str]]:
    merges = []
    lines = as_text(read_bounded(files.folder / "merges.txt", TOKENIZER_LIMIT), "merges.txt").split("\n")
    for number, line in enumerate(lines):
        parts = line.split()
        if not parts or (number == 0 and line.startswith("#")):
            continue
        if len(parts) != 2:
            raise damaged(f"line {number + 1} of merges.txt is {line[:60]!r}")
        merges.append((parts[0], parts[1]))
    return merges


def _added(files: TokenizerFiles, vocab: dict[str, int], usual: dict[str, str]) -> list[dict[str, Any]]:
    """Special tokens of the class and of tokenizer_config.json, and what added_tokens.json adds."""
    special = {name for key in _NAMES if (name := _name(files, key, usual)) is not None}
    numbers = {token: vocab[token] for token in special if token in vocab}
    numbers |= _numbered(files.optional_json("added_tokens.json"))
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token in special,
        }
        for token, number in sorted(numbers.items(), key=lambda item: item[1])
    ]


def _ends(vocab: dict[str, int], files: TokenizerFiles, usual: dict[str, str]) -> dict[str, Any] | None:
    """A post-processor that puts the class token in front and the separator behind."""
    pair = [name for key in ("sep", "cls") if (name := _name(files, key, usual)) in vocab and name is not None]
    if len(pair) != 2:
        return None
    sep, cls = ([name, vocab[name]] for name in pair)
    return {"type": "BertProcessing", "sep": sep, "cls": cls}


def _name(files: TokenizerFiles, key: str, usual: dict[str, str]) -> str | None:
    """A special token's text: as tokenizer_config.json or special_tokens_map.json has it, else as the class has it."""
    for place in (files.config, files.optional_json("special_tokens_map.json")):
        entry = place.get(f"{key}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(content, str) and content:
            return content
    return usual.get(key)


def _numbered(found: dict[str, Any]) -> dict[str, int]:
    for token, number in found.items():
        if type(number) is not int or not 0 <= number < MAX_TOKEN_ID:
            raise damaged(f"token {token[:40]!r} has the number {str(number)[:40]!r}")
    return found
