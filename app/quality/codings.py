"""Hidden states in few bytes: each coding is what the engine itself makes of its input before it multiplies.

A product with a float16 matrix rounds the states to float16, one with a quantized matrix to eight bits in blocks. A
state that is kept in just that form gives the same logits to the last bits, in half the bytes or fewer; which form it
is, is not assumed but found out on the engine's own logits (:mod:`app.quality.recording`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import kernels

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_SUPER = 256
_Q8_K = np.dtype([("scale", "<f4"), ("codes", "i1", _SUPER)])
"""Eight bits in blocks of 256 with a float32 scale: what K-quants are multiplied with. 260 bytes."""


class Coding(NamedTuple):
    """``block``: values that go together; ``bytes``: what they take; (n, width) to bytes (n, ...) and back."""

    block: int
    bytes: int
    encode: Callable[[Floats], Bytes]
    decode: Callable[[Bytes, int], Floats]

    def row_bytes(self, width: int) -> int:
        return width // self.block * self.bytes


def _plain(kind: str) -> Coding:
    block = kernels.block_size(kind)

    def encode(rows: Floats) -> Bytes:
        return kernels.quantize(kind, rows)

    def decode(data: Bytes, width: int) -> Floats:
        return kernels.dequantize(kind, np.ascontiguousarray(data), width)

    return Coding(block.weights, block.bytes, encode, decode)


def _encode_super(rows: Floats) -> Bytes:
    """The value of the largest size becomes -127 exactly, as the engine has it; a block of zeros has the scale 0."""
    blocks = rows.reshape(len(rows), -1, _SUPER)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    inverse = np.float32(-127) / np.where(largest == 0, np.float32(np.inf), largest)
    packed = np.zeros(blocks.shape[:2], _Q8_K)
    packed["codes"] = np.minimum(127, np.rint(blocks * inverse))
    packed["scale"] = np.float32(1) / np.where(inverse == 0, np.float32(np.inf), inverse)[..., 0]
    return packed.view(np.uint8).reshape(len(rows), -1)


def _decode_super(data: Bytes, width: int) -> Floats:
    packed = np.ascontiguousarray(data).view(_Q8_K)
    values: Floats = packed["codes"].astype(np.float32) * packed["scale"][..., None]
    return values.reshape(len(data), width)


CODINGS: dict[str, Coding] = {
    "Q8_K": Coding(_SUPER, _Q8_K.itemsize, _encode_super, _decode_super),
    "Q8_0": _plain("Q8_0"),
    "F16": _plain("F16"),
    "BF16": _plain("BF16"),
    "F32": _plain("F32"),
}
"""By name, the smallest first."""


def usable(name: str, rows: Floats) -> bool:
    """Whether ``rows`` can be kept so at all: whole blocks, and nothing too large for 16 bits."""
    if rows.shape[1] % CODINGS[name].block:
        return False
    return bool(np.isfinite(rows).all()) and (name in ("BF16", "F32") or float(np.abs(rows).max()) < 65504.0)


__all__ = ["CODINGS", "Coding", "usable"]
