"""Tokenizer files of a Hugging Face folder, rebuilt from a GGUF vocabulary: real vocabularies without a download.

The pinned engine's source archive holds the vocabularies of well-known models (``models/ggml-vocab-<name>.gguf``),
most with the tokens that the models' own tokenizers make of some texts (``.inp``, ``.out``). A GGUF does not say how
tokenizer.json splits text; those steps are written down here, and that the rebuilt tokenizer gives the recorded tokens
shows that they are the right ones.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.converter.folders import QWEN2_REGEX, write_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
QWEN_SPECIALS = 208
"""Special tokens that Qwen 1's tokenizer has behind those of its file."""
SEPARATOR = "\n__ggml_vocab_test__\n"

# One token of a SentencePiece model: text, score, type.
Pieces = Sequence[tuple[str, float, int]]


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool = True, prefix: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


DIGITS = {"type": "Digits", "individual_digits": True}
NFC = {"type": "NFC"}
LLAMA3_REGEX = QWEN2_REGEX.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
QWEN35_REGEX = QWEN2_REGEX.replace(r"?\p{L}+|", r"?[\p{L}\p{M}]+|").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-"
    "\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
DEEPSEEK_SIGNS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


@dataclass(frozen=True)
class Rebuilt:
    """How a vocabulary's tokenizer.json splits text, and what its folder says beside. ``begin``: its post-processor
    puts the beginning-of-text token in front."""

    steps: dict[str, Any] | None = None
    normalizer: dict[str, Any] | None = None
    model: dict[str, Any] = field(default_factory=dict)
    begin: bool = False
    tokenizer_class: str = "PreTrainedTokenizerFast"


BYTE_LEVEL: dict[str, Rebuilt] = {
    "aquila": Rebuilt(byte_level(), tokenizer_class="GPT2Tokenizer"),
    "command-r": Rebuilt(sequence(DIGITS, byte_level()), NFC, begin=True, tokenizer_class="CohereTokenizerFast"),
    "deepseek-coder": Rebuilt(
        sequence(
            split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"), split(DEEPSEEK_CJK), DIGITS, byte_level(False)
        ),
        begin=True,
        tokenizer_class="LlamaTokenizerFast",
    ),
    "deepseek-llm": Rebuilt(
        sequence(
            *(split(step) for step in ("[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_SIGNS, "\\s+$", DEEPSEEK_CJK)),
            DIGITS,
            byte_level(False),
        ),
        begin=True,
        tokenizer_class="LlamaTokenizerFast",
    ),
    "falcon": Rebuilt(
        sequence({"type": "Punctuation", "behavior": "Contiguous"}, byte_level(), split("[0-9][0-9][0-9]"))
    ),
    "gpt-2": Rebuilt(byte_level(), tokenizer_class="GPT2Tokenizer"),
    "gpt-neox": Rebuilt(byte_level(), NFC, tokenizer_class="GPTNeoXTokenizer"),
    "llama-bpe": Rebuilt(sequence(split(LLAMA3_REGEX), byte_level(False)), model={"ignore_merges": True}, begin=True),
    "mpt": Rebuilt(byte_level(), NFC, tokenizer_class="GPTNeoXTokenizer"),
    "qwen2": Rebuilt(sequence(split(QWEN2_REGEX), byte_level(False)), NFC, tokenizer_class="Qwen2Tokenizer"),
    "qwen35": Rebuilt(sequence(split(QWEN35_REGEX), byte_level(False)), tokenizer_class="Qwen2Tokenizer"),
    "refact": Rebuilt(sequence(DIGITS, byte_level()), tokenizer_class="GPT2Tokenizer"),
    "starcoder": Rebuilt(sequence(DIGITS, byte_level()), tokenizer_class="GPT2Tokenizer"),
}
SENTENCEPIECE = ("baichuan", "llama-spm", "phi-3")
WORDPIECE = ("bert-bge",)
UNIGRAMS = ("nomic-bert-moe",)
NAMES = (*BYTE_LEVEL, *SENTENCEPIECE, *WORDPIECE, *UNIGRAMS)


class Vocabulary:
    """The tokenizer part of a GGUF file. ``tokens`` and ``types`` by number; ``keys`` without their prefix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: dict[str, Any] = {
            key.removeprefix("tokenizer.").removeprefix("ggml."): value
            for key, value in read_keys(path.read_bytes()).items()
            if key.startswith("tokenizer.")
        }
        self.tokens: list[str] = self.keys["tokens"]
        self.types: list[int] = self.keys["token_type"]

    @property
    def size(self) -> int:
        return len(self.tokens)

    def is_padding(self, number: int) -> bool:
        """Files of several ages call the room at the end user-defined, unknown or unused."""
        return self.tokens[number].startswith("[PAD") and self.types[number] in (USER_DEFINED, UNKNOWN, UNUSED)

    def special(self, key: str) -> str | None:
        number = self.keys.get(f"{key}_token_id")
        return None if number is None else self.tokens[number]

    def added(self, *kinds: int) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "content": self.tokens[number],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": kind not in (CONTROL, UNKNOWN),
                "special": kind in (CONTROL, UNKNOWN),
            }
            for number, kind in enumerate(self.types)
            if kind in kinds and not self.is_padding(number)
        ]

    def vectors(self) -> list[tuple[str, list[int]]]:
        """Texts and the tokens that the model's own tokenizer makes of them, without special ones."""
        texts = Path(f"{self.path}.inp").read_bytes().decode("utf-8").split(SEPARATOR)
        lines = Path(f"{self.path}.out").read_text(encoding="utf-8").split("\n")
        return [(text, [int(n) for n in line.split()]) for text, line in zip(texts[:-1], lines, strict=False)]


_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_keys(data: bytes) -> dict[str, Any]:
    """The keys of a GGUF file. gguf-py's reader makes an array of each token and each number, which takes minutes."""
    position = 24
    result = {}

    def numbers(code: str, count: int) -> list[Any]:
        nonlocal position
        found = struct.unpack_from(f"<{count}{code}", data, position)
        position += struct.calcsize(f"<{count}{code}")
        return list(found)

    def text() -> str:
        nonlocal position
        (length,) = numbers("Q", 1)
        position += length
        return data[position - length : position].decode("utf-8")

    def value(kind: int) -> Any:
        if kind == _STRING:
            return text()
        if kind != _ARRAY:
            return numbers(_NUMBERS[kind], 1)[0]
        item, count = *numbers("I", 1), *numbers("Q", 1)
        return [text() for _ in range(count)] if item == _STRING else numbers(_NUMBERS[item], count)

    (count,) = struct.unpack_from("<Q", data, 16)
    for _ in range(count):
        key, kind = text(), numbers("I", 1)[0]
        result[key] = value(kind)
    return result


def write_vocabulary(found: Vocabulary, name: str, folder: Path, *, json_form: bool = False) -> None:
    """Tokenizer files into ``folder`` (and no config.json). ``json_form``: tokenizer.json in place of
    tokenizer.model or of sentencepiece.bpe.model."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in BYTE_LEVEL:
        write_json(folder / "tokenizer.json", byte_level_json(found, BYTE_LEVEL[name]))
        tokenizer_class = BYTE_LEVEL[name].tokenizer_class
    elif name in WORDPIECE:
        write_json(folder / "tokenizer.json", word_piece_json(found))
        tokenizer_class = "BertTokenizer"
    elif name in UNIGRAMS:
        tokenizer_class = "XLMRobertaTokenizer"
        if json_form:
            write_json(folder / "tokenizer.json", unigram_json(found))
        else:
            (folder / "sentencepiece.bpe.model").write_bytes(fairseq_model(found))
    else:
        tokenizer_class = "LlamaTokenizer"
        if json_form:
            write_json(folder / "tokenizer.json", sentencepiece_json(found))
        else:
            (folder / "tokenizer.model").write_bytes(sentencepiece_model(own_pieces(found)))
    config = special_names(found) | {"tokenizer_class": tokenizer_class}
    if name in SENTENCEPIECE:
        later = [token for token in found.added(CONTROL, USER_DEFINED) if token["id"] >= len(own_pieces(found))]
        config["added_tokens_decoder"] = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in later}
    write_json(folder / "tokenizer_config.json", config)


def write_tiktoken(path: Path, vocab: dict[str, int]) -> int:
    """Tokens of a byte-level vocabulary, by number without gaps, as a file of the tiktoken library; how many."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    byte_of = {chr(byte) if byte in plain else chr(next(others)): byte for byte in range(256)}
    ordered = sorted(vocab.items(), key=lambda item: item[1])
    lines = [base64.b64encode(bytes(byte_of[c] for c in text)) + f" {number}\n".encode() for text, number in ordered]
    path.write_bytes(b"".join(lines))
    return len(ordered)


def special_names(found: Vocabulary) -> dict[str, Any]:
    """What tokenizer_config.json says: names of special tokens, flags, the chat template."""
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
    config: dict[str, Any] = {
        f"{ours}_token": found.special(theirs)
        for ours, theirs in (*keys.items(), ("cls", "cls"))
        if found.special(theirs)
    }
    for flag in ("add_bos_token", "add_eos_token"):
        if flag in found.keys:
            config[flag] = found.keys[flag]
    if isinstance(found.keys.get("chat_template"), str):
        named = {key.removeprefix("chat_template."): text for key, text in found.keys.items() if "template." in key}
        default = found.keys["chat_template"]
        config["chat_template"] = (
            [{"name": key, "template": text} for key, text in {"default": default, **named}.items()]
            if named
            else default
        )
    return config


def byte_level_json(found: Vocabulary, how: Rebuilt) -> dict[str, Any]:
    added = found.added(CONTROL, USER_DEFINED)
    last = max(number for number, kind in enumerate(found.types) if kind == NORMAL)
    outside = {token["id"] for token in added if token["id"] > last}
    vocab = {
        token: number
        for number, token in enumerate(found.tokens)
        if number not in outside and not found.is_padding(number)
    }
    begin = found.special("bos")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": how.normalizer,
        "pre_tokenizer": how.steps,
        "post_processor": template(begin, found.keys["bos_token_id"]) if how.begin and begin else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": found.keys["merges"],
            **how.model,
        },
    }


def template(begin: str, number: int) -> dict[str, Any]:
    """A post-processor that puts ``begin`` in front."""
    special = {"SpecialToken": {"id": begin, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {begin: {"id": begin, "ids": [number], "tokens": [begin]}},
    }


def word_piece_json(found: Vocabulary) -> dict[str, Any]:
    vocab = {}
    for number, (token, kind) in enumerate(zip(found.tokens, found.types, strict=True)):
        whole = kind == CONTROL or (token.startswith("[") and token.endswith("]") and len(token) > 2)
        vocab[token if whole else token[1:] if token.startswith("▁") else f"##{token}"] = number
    cls, sep = found.special("cls"), found.special("seperator")
    assert cls and sep
    special = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in (cls, sep)}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": found.added(CONTROL),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special[cls], first, special[sep]],
            "pair": [special[cls], first, special[sep], second, special[sep]],
            "special_tokens": {t: {"id": t, "ids": [found.tokens.index(t)], "tokens": [t]} for t in (cls, sep)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": found.special("unknown"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def unigram_json(found: Vocabulary) -> dict[str, Any]:
    """As XLM-RoBERTa's: the mask is the last token, and the room behind it belongs to the model alone."""
    end = found.keys["mask_token_id"] + 1
    charsmap = bytes(n & 0xFF for n in found.keys["precompiled_charsmap"])
    begin, stop = found.special("bos"), found.special("eos")
    assert begin and stop
    special = {name: {"SpecialToken": {"id": name, "type_id": 0}} for name in (begin, stop)}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": found.added(CONTROL, UNKNOWN),
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
        "pre_tokenizer": sequence({"type": "WhitespaceSplit"}, spaces),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special[begin], first, special[stop]],
            "pair": [special[begin], first, special[stop], special[stop], second, special[stop]],
            "special_tokens": {t: {"id": t, "ids": [found.tokens.index(t)], "tokens": [t]} for t in (begin, stop)},
        },
        "decoder": spaces,
        "model": {
            "type": "Unigram",
            "unk_id": found.keys["unknown_token_id"],
            "vocab": [[t, s] for t, s in zip(found.tokens[:end], found.keys["scores"][:end], strict=True)],
            "byte_fallback": False,
        },
    }


def sentencepiece_json(found: Vocabulary) -> dict[str, Any]:
    """A Llama-like tokenizer.json: byte fallback, and a merge for every way to make a token, best token first."""
    pieces = own_pieces(found)
    scores = {text: score for text, score, kind in pieces if kind in (NORMAL, USER_DEFINED)}
    numbers = {text: number for number, (text, _, _) in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    for text in sorted(scores, key=lambda text: -scores[text]):
        ways = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in scores and text[i:] in scores]
        merges += sorted(ways, key=lambda way: (numbers[way[0]], numbers[way[1]]))
    begin = found.special("bos")
    assert begin
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": found.added(CONTROL, UNKNOWN, USER_DEFINED),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": template(begin, found.keys["bos_token_id"]),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": found.tokens[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": numbers,
            "merges": [" ".join(merge) for merge in merges],
        },
    }


def own_pieces(found: Vocabulary) -> list[tuple[str, float, int]]:
    """The tokens of the SentencePiece model itself: all in front of the first that was added later."""
    pieces = list(zip(found.tokens, found.keys["scores"], found.types, strict=True))
    last = max(i for i, kind in enumerate(found.types) if kind == NORMAL)
    # A file of a model with redefined tokens gives them the score of an added one, which the model itself does not.
    return [
        (text, 0.0 if kind != NORMAL else score, UNKNOWN if number == 0 else CONTROL if number < 3 else kind)
        for number, (text, score, kind) in enumerate(pieces[: last + 1])
    ]


def fairseq_model(found: Vocabulary) -> bytes:
    """XLM-RoBERTa's SentencePiece model: three special tokens where the vocabulary has four, and no mask."""
    pieces: list[tuple[str, float, int]] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    end = found.keys["mask_token_id"]
    pieces += list(zip(found.tokens[4:end], found.keys["scores"][4:end], [NORMAL] * (end - 4), strict=True))
    charsmap = bytes(n & 0xFF for n in found.keys["precompiled_charsmap"])
    return sentencepiece_model(pieces, model_type=UNIGRAM, charsmap=charsmap, squeeze=True)


def sentencepiece_model(
    pieces: Pieces, *, model_type: int = BPE, charsmap: bytes = b"", prefix: bool = True, squeeze: bool = False
) -> bytes:
    """A tokenizer.model: the fields of sentencepiece_model.proto that readers look at."""
    body = b""
    parts = []
    for text, score, kind in pieces:
        raw = text.encode()
        entry = _bytes(1, raw) + _tag(2, 5) + struct.pack("<f", score) + (_number(3, kind) if kind != NORMAL else b"")
        parts.append(_bytes(1, entry))
    byte_fallback = any(kind == BYTE for _, _, kind in pieces)
    trainer = _number(3, model_type) + _number(4, len(pieces)) + (_number(35, 1) if byte_fallback else b"")
    normalizer = _bytes(1, b"identity" if not charsmap else b"nmt_nfkc") + (_bytes(2, charsmap) if charsmap else b"")
    normalizer += _number(3, int(prefix)) + _number(4, int(squeeze)) + _number(5, 1)
    body = b"".join(parts) + _bytes(2, trainer) + _bytes(3, normalizer)
    return body


def _varint(value: int) -> bytes:
    result = b""
    while value > 0x7F:
        result += bytes([value & 0x7F | 0x80])
        value >>= 7
    return result + bytes([value])


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(value)) + value
