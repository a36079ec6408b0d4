"""Vocabularies that are only there as a tiktoken file: a line for each token, its bytes in base64 and its rank.

Qwen 1 (``qwen.tiktoken``), GLM-4 and the first Llama 3 files (``tokenizer.model``) came so. How text is split and what
the special tokens are stands in Python code beside them, which is never run; both are facts about a few known classes.
A token's merge is the last one that byte-pair encoding by ranks makes on the way to it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from converter.sources.files import ByteFile, read_bounded
from converter.spec import QuenchError
from converter.vocabulary.files import MAX_TOKEN_ID, TOKENIZER_LIMIT, damaged
from converter.vocabulary.special import letters

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles

_FILES = ("qwen.tiktoken", "tokenizer.model", "tiktoken.model", "hy.tiktoken", "tokenizer.tiktoken")
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (\d{1,8})\r?\n")
_BYTES = 256
_LONGEST = 512
_WORK = 1 << 29
"""How many pairs may be looked at in all: Qwen's vocabulary takes a fiftieth."""

_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K_SPLIT = _QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_LLAMA3_SIZE = 128000
_LETTERS = dict(enumerate(letters()))


class _Kind(NamedTuple):
    """A class of tokenizers: how it splits, whether it composes characters first, its special tokens from the first
    free number on (none: tokenizer_config.json lists them), whether every way to a token counts as a merge, and
    whether the first special token begins every text."""

    split: str
    composes: bool = False
    specials: tuple[str, ...] = ()
    every_way: bool = False
    begins: bool = False


def _llama3_specials() -> tuple[str, ...]:
    """Those of Llama 3.0; later ones have other names for a few that are reserved here."""
    reserved = iter(range(251))
    named = {0: "begin_of_text", 1: "end_of_text", 6: "start_header_id", 7: "end_header_id", 9: "eot_id"}
    texts = [named.get(at) or f"reserved_special_token_{next(reserved)}" for at in range(256)]
    return tuple(f"<|{text}|>" for text in texts)


_KINDS: dict[str, Callable[[], _Kind]] = {
    "qwen": lambda: _Kind(
        _QWEN_SPLIT,
        composes=True,
        specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))),
    ),
    "glm4": lambda: _Kind(_CL100K_SPLIT),
    "llama3": lambda: _Kind(_CL100K_SPLIT, specials=_llama3_specials(), every_way=True, begins=True),
}
_CLASSES = {"QWenTokenizer": "qwen", "ChatGLM4Tokenizer": "glm4"}


def tiktoken_file(files: TokenizerFiles) -> str:
    """The name of a file in this format; empty where there is none."""
    return next((name for name in _FILES if files.has(name) and _looks_so(files, name)), "")


def as_tokenizer_json(files: TokenizerFiles, name: str) -> dict[str, Any]:
    """The tokenizer.json that the file stands for. ``QuenchError`` ``bad_vocabulary``; ``unknown_tokenizer`` where the
    class is not known."""
    tokens = _read(read_bounded(files.folder / name, TOKENIZER_LIMIT), name)
    kind = _kind(files, name, len(tokens))
    specials = {len(tokens) + at: text for at, text in enumerate(kind.specials)}
    specials |= {number: token.content for number, token in files.declared_tokens.items() if number >= len(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": kind.split}, "behavior": "Isolated", "invert": False}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spelled = [_spelled(raw) for raw in tokens]
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": text, **flags} for number, text in sorted(specials.items())],
        "normalizer": {"type": "NFC"} if kind.composes else None,
        "post_processor": _beginning(specials[len(tokens)], len(tokens)) if kind.begins else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, step]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "ignore_merges": kind.every_way,
            "vocab": {text: number for number, text in enumerate(spelled)},
            "merges": _merges(tokens, every_way=kind.every_way),
        },
    }


def _beginning(text: str, number: int) -> dict[str, Any]:
    """A post-processor that puts a special token in front."""
    first, single = {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, single],
        "pair": [first, single, {"SpecialToken": {"id": text, "type_id": 1}}, second],
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
    }


def _looks_so(files: TokenizerFiles, name: str) -> bool:
    file = ByteFile(files.folder / name)
    try:
        beginning = bytes(file.read(0, min(file.size, 64)))
    finally:
        file.close()
    return _LINE.match(beginning) is not None


def _kind(files: TokenizerFiles, name: str, count: int) -> _Kind:
    declared = files.declared_class
    found = _CLASSES.get(declared, "qwen" if name == "qwen.tiktoken" and not declared else "")
    if not found and count == _LLAMA3_SIZE and name == "tokenizer.model":
        found = "llama3"
    if not found:
        raise QuenchError(
            "unknown_tokenizer",
            "How this model splits text stands only in its Python code, which is never run.",
            f"{name} is a tiktoken vocabulary of the class {declared[:40] or 'without a name'}; known are "
            f"{', '.join(_CLASSES)} and Llama 3's.",
            "Put a tokenizer.json into the folder: many models have one on a newer page, and transformers' "
            "save_pretrained writes it.",
        )
    return _KINDS[found]()


def _read(data: bytes, name: str) -> list[bytes]:
    """The tokens by rank, all of which must be there."""
    tokens: dict[int, bytes] = {}
    at = 0
    for found in _LINE.finditer(data if data.endswith(b"\n") else data + b"\n"):
        if found.start() != at:
            break
        at = found.end()
        try:
            raw = base64.b64decode(found[1], validate=True)
        except (binascii.Error, ValueError) as error:
            raise damaged(f"line {len(tokens) + 1} of {name} is no base64: {error}") from error
        rank = int(found[2])
        if rank in tokens or not 0 < len(raw) <= _LONGEST or rank >= MAX_TOKEN_ID:
            raise damaged(f"line {len(tokens) + 1} of {name} has the rank {rank} for {len(raw)} bytes")
        tokens[rank] = raw
    if at < len(data):
        raise damaged(f"line {len(tokens) + 1} of {name} is no token and rank")
    ordered = [tokens.get(rank, b"") for rank in range(len(tokens))]
    if not all(ordered) or len(set(ordered)) != len(ordered):
        raise damaged(f"{name} leaves out a rank or has a token twice")
    if sum(len(raw) == 1 for raw in ordered) != _BYTES:
        raise damaged(f"{name} does not have the {_BYTES} bytes")
    return ordered


def _merges(tokens: list[bytes], *, every_way: bool) -> list[tuple[str, str]]:
    ranks = {raw: rank for rank, raw in enumerate(tokens)}
    if sum(len(raw) ** 2 for raw in tokens) > _WORK:
        raise damaged("its tokens are longer than those of any model")
    merges = []
    for rank, raw in enumerate(tokens):
        if len(raw) == 1:
            continue
        if every_way:
            ways = [(ranks.get(raw[:i], -1), ranks.get(raw[i:], -1)) for i in range(1, len(raw))]
            pairs = [(tokens[a], tokens[b]) for a, b in sorted(ways) if a >= 0 and b >= 0]
        else:
            pairs = _last_merge(ranks, raw, rank)
        merges += [(_spelled(left), _spelled(right)) for left, right in pairs]
    return merges


def _last_merge(ranks: dict[bytes, int], raw: bytes, rank: int) -> list[tuple[bytes, bytes]]:
    """The two tokens that are left of a token's bytes when all merges before it are made; none if there are more."""
    parts = [raw[i : i + 1] for i in range(len(raw))]
    while len(parts) > 2:
        made = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
        lowest = min(made)
        if lowest >= rank:
            return []
        at = made.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [(parts[0], parts[1])]


def _spelled(raw: bytes) -> str:
    return raw.decode("latin-1").translate(_LETTERS)
