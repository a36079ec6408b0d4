"""What a family of architectures does with its vocabulary beyond its files: which files it trusts, keys it adds.

``Family.vocabulary`` names a row of :data:`HABITS`. What a file holds decides in the end: a family of byte-level
models whose tokenizer.json stands for a SentencePiece model gets a SentencePiece vocabulary. Which family does what
follows llama.cpp's converter, so that the engine finds what it expects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from converter.sources.base import MetaEntry
from converter.vocabulary.word_piece import type_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from converter.vocabulary.files import TokenizerFiles

    Keyed = dict[str, MetaEntry]
    Extra = Callable[[TokenizerFiles, dict[str, Any], Keyed, int], None]

_TOKENIZER = "tokenizer.ggml."
# Vocabulary sizes by which llama.cpp's converter knows two groups of Llama models.
_CODE_LLAMA_SIZE, _CODE_LLAMA_EOT, _GRANITE_SIZE = 32016, 32010, 49152
_GEMMA_EOT = 107
# Token text -> the special tokens that it is, in families that name them nowhere.
_GLM = (("[gMASK]", ("bos",)), ("<|user|>", ("eot",)), ("<|endoftext|>", ("unknown",)), ("<|observation|>", ("eom",)))
_GLM4 = (("<|endoftext|>", ("eos", "unknown", "bos")), ("<|user|>", ("eot",)))
_CHATGLM = (("<|endoftext|>", ("eos", "unknown")), ("<|user|>", ("eot",)))
_CHAT_END, _TEXT_END = "<|im_end|>", "<|endoftext|>"


class Habit(NamedTuple):
    """``reading`` is the first reader to try (see :mod:`converter.vocabulary`); ``extra`` changes the keys."""

    reading: str = "plain"
    extra: Extra | None = None


def _llama(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    """The leading space, CodeLlama's end of a turn, Granite's missing first token."""
    _prefix_space(files, config, keyed, n_vocab)
    if n_vocab == _CODE_LLAMA_SIZE:
        _token(keyed, "eot", _CODE_LLAMA_EOT)
    if n_vocab == _GRANITE_SIZE:
        _flag(keyed, "add_bos_token", False)


def _prefix_space(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    prefix = files.config.get("add_prefix_space")
    if isinstance(prefix, bool):
        _flag(keyed, "add_space_prefix", prefix)


def _gemma(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    keyed.setdefault(f"{_TOKENIZER}eot_token_id", MetaEntry(f"{_TOKENIZER}eot_token_id", _GEMMA_EOT, "UINT32"))
    _flag(keyed, "add_space_prefix", False)


def _gemma2(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    if keyed[f"{_TOKENIZER}model"].value == "llama":
        _flag(keyed, "add_space_prefix", False)


def _internlm2(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    """A chat model ends with the end of a turn, else it would go on."""
    for token in (*files.declared_tokens.items(), *((token.id, token) for token in files.added_tokens)):
        if token[1].content == _CHAT_END:
            _token(keyed, "eos", token[0])


def _internlm3(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    _prefix_space(files, config, keyed, n_vocab)
    for number, token in files.declared_tokens.items():
        if token.special and token.content == _CHAT_END and f"{_TOKENIZER}eos_token_id" in keyed:
            _token(keyed, "eos", number)


def _nemotron(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    _token(keyed, "padding", 0)
    _token(keyed, "unknown", 1)


def _mpt(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    """SEA-LION, an MPT with a SentencePiece vocabulary."""
    if keyed[f"{_TOKENIZER}model"].value == "llama":
        _flag(keyed, "add_bos_token", False)
        for name, number in (("padding", 3), ("eos", 1), ("unknown", 0)):
            _token(keyed, name, number)


def _modern_bert(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    for name in ("add_bos_token", "add_eos_token", "add_sep_token"):
        keyed.setdefault(f"{_TOKENIZER}{name}", MetaEntry(f"{_TOKENIZER}{name}", True, "BOOL"))


def _no_first_token(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    keyed.setdefault(f"{_TOKENIZER}add_bos_token", MetaEntry(f"{_TOKENIZER}add_bos_token", False, "BOOL"))


def _segments(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    key = f"{_TOKENIZER}token_type_count"
    keyed.setdefault(key, MetaEntry(key, type_count(config), "UINT32"))


def _hunyuan(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    """The end of a text and of a turn, which published configs have wrong elsewhere."""
    end = config.get("eod_token_id")
    if type(end) is int and 0 <= end < n_vocab:
        _token(keyed, "eos", end)
    ends = files.optional_json("generation_config.json").get("eos_token_id")
    if isinstance(ends, list) and len(ends) > 1 and type(ends[0]) is int and 0 <= ends[0] < n_vocab:
        _token(keyed, "eot", ends[0])


def _qwen1(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
    """One token for all ends, as its authors' code has it."""
    tokens = keyed[f"{_TOKENIZER}tokens"].value
    if _TEXT_END in tokens:
        number = tokens.index(_TEXT_END)
        for name in ("bos", "eos"):
            if f"{_TOKENIZER}{name}_token_id" not in keyed:
                _token(keyed, name, number)
        _token(keyed, "unknown", number)


def _named(table: tuple[tuple[str, tuple[str, ...]], ...], first: bool | None = None) -> Extra:
    def extra(files: TokenizerFiles, config: dict[str, Any], keyed: Keyed, n_vocab: int) -> None:
        numbers = {token.content: token.id for token in files.added_tokens}
        numbers |= {token.content: number for number, token in files.declared_tokens.items()}
        for text, names in table:
            for name in names:
                key = f"{_TOKENIZER}{name}_token_id"
                if text in numbers and key not in keyed:
                    _token(keyed, name, numbers[text])
        if first is not None:
            key = f"{_TOKENIZER}add_bos_token"
            keyed.setdefault(key, MetaEntry(key, first, "BOOL"))

    return extra


def _token(keyed: Keyed, name: str, number: int) -> None:
    keyed[f"{_TOKENIZER}{name}_token_id"] = MetaEntry(f"{_TOKENIZER}{name}_token_id", number, "UINT32")


def _flag(keyed: Keyed, name: str, value: bool) -> None:
    keyed[f"{_TOKENIZER}{name}"] = MetaEntry(f"{_TOKENIZER}{name}", value, "BOOL")


HABITS: dict[str, Habit] = {
    "bpe": Habit(),
    "qwen": Habit("model first"),
    "qwen1": Habit(extra=_qwen1),
    "sentencepiece": Habit("model first"),
    "llama": Habit("model first", _llama),
    "ernie": Habit("model first", _prefix_space),
    "gemma": Habit("model first", _gemma),
    "gemma2": Habit("model first", _gemma2),
    "phi2": Habit(extra=_no_first_token),
    "phi3": Habit("declared"),
    "internlm2": Habit("internlm", _internlm2),
    "internlm3": Habit("model first", _internlm3),
    "hunyuan": Habit(extra=_hunyuan),
    "nemotron": Habit("model first", _nemotron),
    "mpt": Habit(extra=_mpt),
    "glm": Habit(extra=_named(_GLM)),
    "glm4": Habit(extra=_named(_GLM4)),
    "chatglm": Habit(extra=_named(_CHATGLM, first=False)),
    "bert": Habit(),
    "roberta": Habit(extra=_segments),
    "xlm-roberta": Habit("fairseq"),
    "nomic-bert": Habit("nomic"),
    "modern-bert": Habit(extra=_modern_bert),
    "t5": Habit("t5"),
    "none": Habit("none"),
}
