"""Mistral's tekken.json, for folders that have no tokenizer.json: tokens as bytes by rank, merges implied.

Special tokens come first; the tokens of the vocabulary follow in the order of their ranks, cut so that both together
make ``default_vocab_size``. A token's merges are all ways to make it from two others, as the rank decides anyway.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import msgspec

from converter.sources.base import MetaEntry
from converter.sources.files import read_bounded
from converter.vocabulary.files import (
    MAX_PATTERN,
    MAX_TOKEN_ID,
    MAX_TOKEN_LENGTH,
    TOKENIZER_LIMIT,
    check_text,
    damaged,
    decode,
)
from converter.vocabulary.loading import CONTROL, NORMAL, UNUSED, check_number
from converter.vocabulary.special import letters, template_entries

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles

FILE = "tekken.json"
_BYTES = 256
# What files from before they listed their special tokens have, by number.
_EARLY = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


class _Config(msgspec.Struct, frozen=True):
    pattern: str
    default_vocab_size: int
    default_num_special_tokens: int


class _Token(msgspec.Struct, frozen=True):
    rank: int
    token_bytes: str


class _Special(msgspec.Struct, frozen=True):
    rank: int
    token_str: str


class _File(msgspec.Struct, frozen=True):
    config: _Config
    vocab: list[_Token]
    special_tokens: list[_Special] | None = None


def entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys, padded to ``n_vocab``. Raises ``QuenchError`` ``bad_vocabulary``."""
    _, specials, ranks = _read(files)
    tokens = specials + [_spelled(raw) for raw in ranks]
    check_number(tokens[-1], len(tokens) - 1, n_vocab)
    room = range(len(tokens), n_vocab)
    types = [CONTROL] * len(specials) + [NORMAL] * len(ranks) + [UNUSED] * len(room)
    numbers = {text: number for number, text in enumerate(specials)}
    end = numbers.get("</s>", 2)
    ids = {
        "bos_token_id": numbers.get("<s>", 1),
        "eos_token_id": end,
        "unknown_token_id": numbers.get("<unk>", 0),
        "padding_token_id": numbers.get("<pad>", end),
    }
    return [
        MetaEntry("tokenizer.ggml.model", "gpt2", "STRING"),
        MetaEntry("tokenizer.ggml.pre", "tekken", "STRING"),
        MetaEntry("tokenizer.ggml.merges", _merges(ranks), "ARRAY", "STRING"),
        *(MetaEntry(f"tokenizer.ggml.{key}", number, "UINT32") for key, number in ids.items()),
        MetaEntry("tokenizer.ggml.tokens", [*tokens, *(f"[PAD{i}]" for i in room)], "ARRAY", "STRING"),
        MetaEntry("tokenizer.ggml.scores", [0] * (len(tokens) + len(room)), "ARRAY", "INT32"),
        MetaEntry("tokenizer.ggml.token_type", types, "ARRAY", "INT32"),
        MetaEntry("tokenizer.ggml.add_bos_token", True, "BOOL"),
        MetaEntry("tokenizer.ggml.add_eos_token", False, "BOOL"),
        *template_entries(files),
    ]


def tokenizer_json(files: TokenizerFiles) -> dict[str, Any]:
    """The tokenizer.json that the file stands for."""
    pattern, specials, ranks = _read(files)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": text, **flags} for number, text in enumerate(specials)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, step]},
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {text: number for number, text in enumerate([*specials, *map(_spelled, ranks)])},
            "merges": _merges(ranks),
        },
    }


def _read(files: TokenizerFiles) -> tuple[str, list[str], list[bytes]]:
    """Pattern, special tokens, and the tokens of the vocabulary."""
    found = decode(read_bounded(files.folder / FILE, TOKENIZER_LIMIT), _File, FILE)
    specials = _specials(found)
    size = found.config.default_vocab_size
    if not len(specials) + _BYTES <= size <= MAX_TOKEN_ID:
        raise damaged(f"{FILE} gives itself {size} tokens")
    if len(found.config.pattern) > MAX_PATTERN:
        raise damaged(f"{FILE} has a pattern of {len(found.config.pattern)} characters")
    return found.config.pattern, specials, _ranks(found, size - len(specials))


def _specials(found: _File) -> list[str]:
    """Texts of the special tokens by number; those without a name get one."""
    count = found.config.default_num_special_tokens
    if not 0 <= count <= MAX_TOKEN_ID:
        raise damaged(f"{FILE} gives itself {count} special tokens")
    texts = [f"<SPECIAL_{number}>" for number in range(count)]
    listed = list(enumerate(_EARLY))
    if found.special_tokens is not None:
        listed = [(special.rank, special.token_str) for special in found.special_tokens]
    for number, text in listed:
        if not 0 <= number < count:
            raise damaged(f"{FILE} gives {text[:40]!r} the number {number} of {count}")
        texts[number] = check_text(text, "a special token")
    return texts


def _ranks(found: _File, count: int) -> list[bytes]:
    """The bytes of the first ``count`` tokens by rank."""
    tokens: list[bytes] = []
    for number, token in enumerate(found.vocab[:count]):
        if token.rank != number or len(token.token_bytes) > MAX_TOKEN_LENGTH:
            raise damaged(f"token {number} of {FILE} has rank {token.rank}")
        try:
            tokens.append(base64.b64decode(token.token_bytes, validate=True))
        except (binascii.Error, ValueError) as error:
            raise damaged(f"token {number} of {FILE} is no base64: {error}") from error
    if len(tokens) < _BYTES or any(len(raw) != 1 for raw in tokens[:_BYTES]) or len(set(tokens)) != len(tokens):
        raise damaged(f"{FILE} does not begin with the 256 bytes, or names a token twice")
    return tokens


def _merges(tokens: list[bytes]) -> list[str]:
    rank = {raw: number for number, raw in enumerate(tokens)}
    lines = []
    for number, raw in enumerate(tokens[_BYTES:], _BYTES):
        ways = [(rank[raw[:i]], rank[raw[i:]]) for i in range(1, len(raw)) if raw[:i] in rank and raw[i:] in rank]
        if not ways:
            raise damaged(f"token {number} of {FILE} cannot be made from two others")
        lines += [f"{_spelled(tokens[left])} {_spelled(tokens[right])}" for left, right in sorted(ways)]
    return lines


def _spelled(raw: bytes) -> str:
    table = letters()
    return "".join(table[byte] for byte in raw)
