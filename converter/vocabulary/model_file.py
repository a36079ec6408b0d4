"""SentencePiece's model file, a protocol buffer: tokens with scores and types, and how text is normalized.

The few fields that matter are read by a reader of our own, which never allocates by a number that the file claims.
Field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from converter.vocabulary.files import damaged
from converter.vocabulary.loading import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL_LIMIT = 64 << 20
UNIGRAM, BPE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE = 3
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES = 2, 3, 4
_SHORT = struct.Struct("<Bf")


class Piece(NamedTuple):
    """A token of a SentencePiece model; ``type`` numbers are those of GGUF."""

    text: str
    score: float
    type: int


class ModelFile(NamedTuple):
    """``kind`` is :data:`UNIGRAM`, :data:`BPE` or another number. ``prefix``: a space is put in front of the text;
    ``squeeze``: spaces at the ends and repeated ones are dropped; ``charsmap`` maps characters before all that."""

    pieces: list[Piece]
    kind: int
    prefix: bool
    squeeze: bool
    charsmap: bytes


def read_model(data: bytes) -> ModelFile:
    """A SentencePiece model file. Raises ``QuenchError`` ``bad_vocabulary``."""
    pieces: list[Piece] = []
    kind, prefix, squeeze, charsmap = UNIGRAM, True, True, b""  # the format's defaults
    for field, wire, value in _fields(data):
        if wire != _BYTES:
            continue
        if field == _PIECES:
            pieces.append(_piece(value))
        elif field == _TRAINER:
            kind = _numbers(value).get(_MODEL_TYPE, kind)
        elif field == _NORMALIZER:
            numbers = _numbers(value)
            prefix = bool(numbers.get(_DUMMY_PREFIX, prefix))
            squeeze = bool(numbers.get(_EXTRA_SPACES, squeeze))
            charsmap = next((v for f, w, v in _fields(value) if (f, w) == (_CHARSMAP, _BYTES)), charsmap)
    if not pieces:
        raise damaged("tokenizer.model holds no tokens; it is not a SentencePiece model")
    if any(piece.type == BYTE for piece in pieces):
        # U+0000 has a byte of its own then; as a token its text would be empty for the engine.
        pieces = [p._replace(type=UNUSED) if p.text == "\0" and p.type == NORMAL else p for p in pieces]
    return ModelFile(pieces, kind, prefix, squeeze, charsmap)


def looks_like_model(data: bytes) -> bool:
    """Whether ``data`` (the beginning of a file) starts with a piece, as every SentencePiece model does."""
    return data[:1] == bytes([_PIECES << 3 | _BYTES]) and data[2:3] == bytes([_PIECE_TEXT << 3 | _BYTES])


def check_charsmap(charsmap: bytes) -> bytes:
    """Refuses a map of characters that the engine would read beyond its end: it begins with the length, in bytes, of a
    table of 32-bit numbers, behind which the replacements follow."""
    if charsmap:
        length = int.from_bytes(charsmap[:4], "little")
        if len(charsmap) < 8 or length % 4 or 4 + length >= len(charsmap):
            raise damaged(f"the map of characters has {len(charsmap)} bytes and claims a table of {length}")
    return charsmap


def _numbers(data: bytes) -> dict[int, int]:
    return {field: int.from_bytes(value, "little") for field, wire, value in _fields(data) if wire == _VARINT}


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
