"""A model folder's vocabulary as GGUF keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from converter.sources.base import MetaEntry
from converter.sources.files import ByteFile
from converter.spec import QuenchError
from converter.vocabulary import byte_pair, sentencepiece
from converter.vocabulary.files import TokenizerFiles
from converter.vocabulary.pretokenizer import recognise
from converter.vocabulary.special import chat_template

if TYPE_CHECKING:
    from pathlib import Path

    from converter.architectures.base import Family

# Vocabulary sizes by which llama.cpp's converter knows two groups of Llama models.
_CODE_LLAMA_SIZE, _GRANITE_SIZE = 32016, 49152
_CODE_LLAMA_IDS = (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010))


class Outline(NamedTuple):
    """What can be said about a vocabulary in milliseconds. ``pre`` is empty where it is not known."""

    model: str
    pre: str
    chat_template: str | None
    problems: list[str]


def outline(folder: Path, family: Family) -> Outline:
    """A quick look without loading the vocabulary; what is wrong becomes a problem, not an error."""
    files = TokenizerFiles(folder)
    problems = []
    model = pre = ""
    template: str | dict[str, str] | None = None
    try:
        kind = _kind(files, family)
        model, pre = ("gpt2", "") if kind == "bpe" else ("llama", "default")
        if kind == "bpe":
            pre, _ = recognise(files.outline, None)
    except QuenchError as error:
        if error.code == "unknown_pre_tokenizer":
            pre = _by_fingerprint(files)
        if not pre:
            problems.append(f"{error.title} {error.detail}".strip())
    try:
        template = chat_template(files)
    except QuenchError as error:
        problems.append(f"{error.title} {error.detail}".strip())
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    return Outline(model, pre, template, problems)


def entries(folder: Path, family: Family, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys. ``n_vocab`` is the number of rows of the embedding. Raises ``QuenchError``."""
    files = TokenizerFiles(folder)
    kind = _kind(files, family)
    result = {
        "bpe": byte_pair.entries,
        "sentencepiece": sentencepiece.entries,
        "sentencepiece-json": sentencepiece.json_entries,
    }[kind](files, config, n_vocab)
    if family.vocabulary == "llama":
        result = _llama_habits(files, result, n_vocab)
    return result


def _kind(files: TokenizerFiles, family: Family) -> str:
    """``sentencepiece``, ``sentencepiece-json`` or ``bpe``, by the files that are there."""
    has_json = files.has("tokenizer.json")
    if files.has("tokenizer.model"):
        file = ByteFile(files.folder / "tokenizer.model")
        beginning = file.read(0, min(file.size, 3))
        file.close()
        # Some Llama 3 folders hold another format under this name.
        if sentencepiece.looks_like_model(beginning) or not has_json:
            return "sentencepiece"
    if not has_json:
        raise QuenchError(
            "missing_tokenizer",
            "The folder has no vocabulary.",
            f"Neither tokenizer.json nor tokenizer.model is in {files.folder}.",
            "Download the tokenizer's files from the model's page into this folder.",
        )
    decoder = (files.outline.decoder or {}).get("type")
    if family.vocabulary == "llama" and files.outline.model.byte_fallback and decoder == "Sequence":
        return "sentencepiece-json"
    return "bpe"


def _by_fingerprint(files: TokenizerFiles) -> str:
    try:
        return recognise(files.outline, byte_pair.load_tokenizer(files, 1 << 24))[0]
    except QuenchError:
        return ""


def _llama_habits(files: TokenizerFiles, found: list[MetaEntry], n_vocab: int) -> list[MetaEntry]:
    """Keys that only the Llama class has: the leading space, infilling tokens, Granite's missing first token."""
    keyed = {entry.key: entry for entry in found}
    prefix = files.config.get("add_prefix_space")
    if isinstance(prefix, bool):
        keyed["tokenizer.ggml.add_space_prefix"] = MetaEntry("tokenizer.ggml.add_space_prefix", prefix, "BOOL")
    if n_vocab == _CODE_LLAMA_SIZE:
        for name, number in _CODE_LLAMA_IDS:
            key = f"tokenizer.ggml.{name}_token_id"
            keyed[key] = MetaEntry(key, number, "UINT32")
    if n_vocab == _GRANITE_SIZE:
        keyed["tokenizer.ggml.add_bos_token"] = MetaEntry("tokenizer.ggml.add_bos_token", False, "BOOL")
    return list(keyed.values())
