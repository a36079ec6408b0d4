"""A model folder's vocabulary as GGUF keys.

``Family.vocabulary`` names a row of :data:`converter.vocabulary.habits.HABITS`; what the folder's files hold decides
which reader is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from converter.sources.base import MetaEntry
from converter.sources.files import ByteFile
from converter.spec import QuenchError
from converter.vocabulary import byte_pair, sentencepiece, tekken, unigram, word_piece
from converter.vocabulary.files import TokenizerFiles
from converter.vocabulary.habits import HABITS
from converter.vocabulary.loading import load_tokenizer
from converter.vocabulary.model_file import looks_like_model
from converter.vocabulary.pretokenizer import known_name, recognise
from converter.vocabulary.special import chat_template
from converter.vocabulary.tiktoken import tiktoken_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from converter.architectures.base import Family

    Reader = Callable[[TokenizerFiles, dict[str, Any], int], list[MetaEntry]]

__all__ = ["Outline", "entries", "outline", "reading"]

_MODEL, _JSON = "tokenizer.model", "tokenizer.json"
_READERS: dict[str, Reader] = {
    "sentencepiece": sentencepiece.entries,
    "declared": sentencepiece.declared_entries,
    "internlm": sentencepiece.internlm_entries,
    "sentencepiece-json": sentencepiece.json_entries,
    "word-piece": word_piece.entries,
    "unigram": unigram.json_entries,
    "t5": unigram.t5_entries,
    "fairseq": unigram.fairseq_entries,
    "nomic": lambda files, config, n_vocab: unigram.fairseq_entries(files, config, n_vocab, unigram.NOMIC_MASK),
    "tekken": tekken.entries,
    "none": lambda files, config, n_vocab: [MetaEntry("tokenizer.ggml.model", "none", "STRING")],
}
_ENGINE_MODELS = {"bpe": "gpt2", "tekken": "gpt2", "word-piece": "bert", "none": "none"} | dict.fromkeys(
    ("unigram", "t5", "fairseq", "nomic"), "t5"
)


class Outline(NamedTuple):
    """What can be said about a vocabulary in milliseconds. ``pre`` is empty where it is not known; ``notes`` say what
    a person will be asked."""

    model: str
    pre: str
    chat_template: str | None
    problems: list[str]
    notes: list[str]


def outline(folder: Path, family: Family) -> Outline:
    """A quick look without loading the vocabulary; what is wrong becomes a problem, not an error."""
    files = TokenizerFiles(folder)
    problems, notes = [], []
    model = pre = ""
    template: str | dict[str, str] | None = None
    try:
        kind = reading(files, family)
        model = _ENGINE_MODELS.get(kind, "llama")
        pre = {"bpe": "", "tekken": "tekken", "none": ""}.get(kind, "default")
        if kind == "bpe":
            pre, _ = recognise(files.outline, None)
    except QuenchError as error:
        if error.code == "unknown_pre_tokenizer":
            pre = _by_fingerprint(files)
            if not pre:
                notes.append(f"{error.title} When it is converted you choose one that it knows.")
        else:
            problems.append(f"{error.title} {error.detail}".strip())
    try:
        template = chat_template(files)
    except QuenchError as error:
        problems.append(f"{error.title} {error.detail}".strip())
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    return Outline(model, pre, template, problems, notes)


def entries(
    folder: Path, family: Family, config: dict[str, Any], n_vocab: int, pre_tokenizer: str | None = None
) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys. ``n_vocab`` is the number of rows of the embedding. ``pre_tokenizer`` is a person's
    choice for byte-level vocabularies whose splitting is not recognised. Raises ``QuenchError``."""
    files = TokenizerFiles(folder)
    kind = reading(files, family)
    if kind == "bpe":
        result = byte_pair.entries(files, config, n_vocab, pre_tokenizer)
    else:
        result = _READERS[kind](files, config, n_vocab)
    habit = HABITS[family.vocabulary]
    if habit.extra is None:
        return result
    keyed = {entry.key: entry for entry in result}
    habit.extra(files, config, keyed, n_vocab)
    return list(keyed.values())


def reading(files: TokenizerFiles, family: Family) -> str:
    """The reader for a folder: ``bpe`` or a key of the table of readers. ``QuenchError`` ``missing_tokenizer`` for a
    folder without a vocabulary, ``unknown_tokenizer`` for one that cannot be read."""
    habit = HABITS[family.vocabulary]
    if habit.reading == "none":
        return "none"
    if habit.reading == "t5" and any(files.has(name) for name in unigram.T5_FILES):
        return "t5"
    if habit.reading in ("fairseq", "nomic") and files.has(unigram.FAIRSEQ_FILE):
        return habit.reading
    if files.has(tekken.FILE) and not files.has(_JSON):
        return "tekken"
    # Phi-4 is a Phi-3 with GPT-2's kind of vocabulary, which its files may say beside an old tokenizer.model.
    phi4 = habit.reading == "declared" and files.declared_class == "GPT2Tokenizer"
    trusted = habit.reading != "plain" or not files.has(_JSON) or _stands_for_model(files)
    if _has_model(files) and trusted and not phi4:
        return habit.reading if habit.reading in ("declared", "internlm") else "sentencepiece"
    if files.kind == "WordPiece":
        return "word-piece"
    if files.kind == "Unigram":
        return "fairseq" if habit.reading in ("fairseq", "nomic") else "unigram"
    return "sentencepiece-json" if _stands_for_model(files) else "bpe"


def _has_model(files: TokenizerFiles) -> bool:
    if not files.has(_MODEL):
        return False
    file = ByteFile(files.folder / _MODEL)
    beginning = file.read(0, min(file.size, 3))
    file.close()
    # Some Llama 3 and GLM-4 folders hold another format under this name.
    return looks_like_model(beginning) or not (files.has(_JSON) or tiktoken_file(files))


def _stands_for_model(files: TokenizerFiles) -> bool:
    """Whether tokenizer.json was made of a SentencePiece BPE model."""
    return files.kind == "BPE" and not files.is_byte_level


def _by_fingerprint(files: TokenizerFiles) -> str:
    try:
        return known_name(load_tokenizer(files, 1 << 24))
    except QuenchError:
        return ""
