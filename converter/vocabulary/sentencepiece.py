"""SentencePiece vocabularies (GGUF's ``llama``) from tokenizer.model, or from the tokenizer.json made of one.

tokenizer.model is a protocol buffer; the few fields that matter are read by a reader of our own, which never
allocates by a number that the file claims.
"""

from __future__ import annotations

import math
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from converter.sources.base import MetaEntry
from converter.sources.files import read_bounded
from converter.spec import QuenchError
from converter.vocabulary.byte_pair import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, looks_special
from converter.vocabulary.files import MAX_TOKEN_ID, check_text, damaged
from converter.vocabulary.special import SpecialTokens, merge_lines, template_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from converter.vocabulary.files import TokenizerFiles

MODEL_LIMIT = 64 << 20
_PADDING_SCORE, _ADDED_SCORE = -10000.0, -1000.0
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 1, 2, 3
_SHORT = struct.Struct("<Bf")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Piece(NamedTuple):
    """A token of a SentencePiece model; ``type`` numbers are those of GGUF."""

    text: str
    score: float
    type: int


def entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys from tokenizer.model, padded to ``n_vocab``."""
    pieces = [Piece(f"[PAD{i}]", _PADDING_SCORE, UNUSED) for i in range(n_vocab)]
    for number, piece in enumerate(read_model(read_bounded(files.folder / "tokenizer.model", MODEL_LIMIT))[:n_vocab]):
        # The engine treats user-defined pieces of the model itself as ordinary ones.
        pieces[number] = piece._replace(type=NORMAL) if piece.type == USER_DEFINED else piece
    for text, number in files.optional_json("added_tokens.json").items():
        if type(number) is not int or number < 0:
            raise damaged(f"added_tokens.json gives {text[:40]!r} the number {str(number)[:40]!r}")
        if number < n_vocab:
            pieces[number] = Piece(text, _ADDED_SCORE, USER_DEFINED)
    for number, token in files.declared_tokens.items():
        if number < n_vocab:
            special = token.special or looks_special(token.content)
            text = token.content if special else token.content.replace("▁", " ")
            pieces[number] = Piece(text, _ADDED_SCORE, CONTROL if special else USER_DEFINED)
    return _written(files, config, pieces)


def json_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys from a BPE tokenizer.json with byte fallback, which stands for a SentencePiece model.

    The engine merges by score, highest first, so a token's score is minus the rank of the merge that makes it: the
    order in which tokenizer.json applies its merges.
    """
    bpe = files.bpe
    scores: dict[str, float] = {}
    for rank, line in enumerate(merge_lines(bpe.merges)):
        left, _, right = line.partition(" ")
        scores.setdefault(left + right, -float(rank))
    pieces = [Piece(f"[PAD{i}]", _PADDING_SCORE, UNUSED) for i in range(n_vocab)]
    for text, number in bpe.vocab.items():
        _check_number(text, number, n_vocab)
        kind = BYTE if _BYTE_TOKEN.fullmatch(text) else UNKNOWN if text == bpe.unk_token else NORMAL
        pieces[number] = Piece(text, scores.get(text, _ADDED_SCORE if kind == NORMAL else 0.0), kind)
    declared = {token.id: token for token in files.added_tokens} | files.declared_tokens
    for number, token in declared.items():
        _check_number(token.content, number, n_vocab)
        if pieces[number].type == UNKNOWN:
            continue
        special = token.special or looks_special(token.content)
        pieces[number] = Piece(token.content, _ADDED_SCORE, CONTROL if special else USER_DEFINED)
    return _written(files, config, pieces)


def read_model(data: bytes) -> list[Piece]:
    """The pieces of a SentencePiece model file. Raises ``QuenchError`` ``bad_vocabulary``."""
    pieces = []
    for field, wire, value in _fields(data):
        if field == _PIECES and wire == _BYTES:
            pieces.append(_piece(value))
    if not pieces:
        raise damaged("tokenizer.model holds no tokens; it is not a SentencePiece model")
    return pieces


def looks_like_model(data: bytes) -> bool:
    """Whether ``data`` (the beginning of a file) starts with a piece, as every SentencePiece model does."""
    return data[:1] == bytes([_PIECES << 3 | _BYTES]) and data[2:3] == bytes([_PIECE_TEXT << 3 | _BYTES])


def _check_number(text: str, number: int, n_vocab: int) -> None:
    if not 0 <= number < min(n_vocab, MAX_TOKEN_ID):
        raise QuenchError(
            "vocabulary_size",
            "The tokenizer has more tokens than the model.",
            f"Token {text[:40]!r} has number {number}, but the model has {n_vocab} tokens.",
            "The tokenizer's files belong to another model or version; download them again together.",
        )


def _written(files: TokenizerFiles, config: dict[str, Any], pieces: list[Piece]) -> list[MetaEntry]:
    return [
        MetaEntry("tokenizer.ggml.model", "llama", "STRING"),
        MetaEntry("tokenizer.ggml.pre", "default", "STRING"),
        MetaEntry("tokenizer.ggml.tokens", [check_text(p.text, "a token") for p in pieces], "ARRAY", "STRING"),
        MetaEntry("tokenizer.ggml.scores", [p.score for p in pieces], "ARRAY", "FLOAT32"),
        MetaEntry("tokenizer.ggml.token_type", [p.type for p in pieces], "ARRAY", "INT32"),
        *SpecialTokens(files, config, len(pieces)).entries(),
        *template_entries(files),
    ]


_TEXT_TAG, _SCORE_TAG, _TYPE_TAG = (
    field << 3 | wire for field, wire in ((_PIECE_TEXT, _BYTES), (_PIECE_SCORE, _FIXED32), (_PIECE_TYPE, _VARINT))
)


def _piece(data: bytes) -> Piece:
    """One token. Nearly all are a short text, a score, and a type or none, which is worth a look of its own: there are
    tens of thousands, and field by field they take as long as quantizing a small model."""
    length = data[1] if len(data) >= 7 and data[0] == _TEXT_TAG else 0x80
    rest = len(data) - 2 - length
    if length < 0x80 and (rest == 5 or (rest == 7 and data[-2] == _TYPE_TAG and data[-1] < 0x80)):
        found = _SHORT.unpack_from(data, 2 + length)
        if found[0] == _SCORE_TAG:
            return _checked(data[2 : 2 + length], found[1], data[-1] if rest == 7 else NORMAL)
    return _any_piece(data)


def _any_piece(data: bytes) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    for field, wire, value in _fields(data):
        if field == _PIECE_TEXT and wire == _BYTES:
            text = value
        elif field == _PIECE_SCORE and wire == _FIXED32:
            score = struct.unpack("<f", value)[0]
        elif field == _PIECE_TYPE and wire == _VARINT:
            kind = int.from_bytes(value, "little")
    return _checked(text, score, kind)


def _checked(raw: bytes, score: float, kind: int) -> Piece:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(f"tokenizer.model has a token that is no text: {error}") from error
    if kind not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE) or not math.isfinite(score):
        raise damaged(f"tokenizer.model gives {text[:40]!r} the type {kind} and score {score}")
    return Piece(text, score, kind)


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """``(field, wire type, value)`` of a message; a variable-length number comes as 8 little-endian bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            number, position = _varint(data, position)
            yield field, wire, number.to_bytes(8, "little")
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise damaged(f"tokenizer.model has a field of the unknown kind {wire} at {position}")
        if field == 0 or length > len(data) - position:
            raise damaged(f"tokenizer.model has a field of {length} bytes at {position}, of {len(data)}")
        yield field, wire, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value & (1 << 64) - 1, position
        shift += 7
    raise damaged(f"tokenizer.model ends inside a number at {position}")
