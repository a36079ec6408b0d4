"""HQQ: codes in planes. The weight is cut into groups, which are the rows of a matrix, and a byte holds the codes of
rows that are half (or a quarter ...) of that matrix apart.

``W_q`` is uint8 (int32 for three bits, ten codes a word), perhaps declared as a float type; ``scale`` and ``zero`` have
one number a group. ``axis`` 1: a group is ``group_size`` neighbours of one row; 0: it runs down a column of the weight
reshaped to ``(group_size, -1)``. ``w = (code - zero) * scale``. ``shape``, ``axis``, ``packing`` ... lie beside it as
small tensors. Source: ``Quantizer``, ``BitPack`` and ``HQQLinear.state_dict`` of the hqq library.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from converter.sources.dequantize.parts import FLOATS, Checkpoint, Part, PartsDecoder, damaged, widened

if TYPE_CHECKING:
    import numpy.typing as npt


class _Packing(NamedTuple):
    """``planes`` codes of ``bits`` in an element of ``width`` bytes; plane 0 is highest."""

    bits: int
    planes: int
    width: int


_PACKINGS = {
    "8bit_u8": _Packing(8, 1, 1),
    "4bit_u8": _Packing(4, 2, 1),
    "3bit_32": _Packing(3, 10, 4),
    "2bit_u8": _Packing(2, 4, 1),
    "1bit_u8": _Packing(1, 8, 1),
}
_BY_BITS = {8: "8bit_u8", 6: "8bit_u8", 5: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}
_SETTINGS = (
    "nbits", "group_size", "shape", "axis", "packing", "unpack_view_dtype", "view_as_float", "quant_scale",
    "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise",
    "optimize", "round_zero",
)  # fmt: skip
_TEXT_LIMIT = 64


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    for module in checkpoint.ending(".W_q"):
        checkpoint.put(f"{module}.weight", _module(checkpoint, module))


def _module(checkpoint: Checkpoint, module: str) -> _Hqq:
    packed = checkpoint.take(f"{module}.W_q")
    scales = checkpoint.take(f"{module}.scale").of(*FLOATS)
    zeros = checkpoint.take(f"{module}.zero").of(*FLOATS)
    shape = tuple(int(n) for n in _small(checkpoint, module, "shape"))
    axis, bits = int(_small(checkpoint, module, "axis")[0]), float(_small(checkpoint, module, "nbits")[0])
    name = _BY_BITS.get(int(bits), "")
    if checkpoint.has(f"{module}.packing"):
        name = _small(checkpoint, module, "packing").tobytes()[:20].decode("latin-1")
    quantized = [s for s in ("quant_scale", "quant_zero") if checkpoint.has(f"{module}.{s}")]
    if any(_small(checkpoint, module, each)[0] for each in quantized):
        raise damaged(module, "its scales are quantized too, which is not read")
    checkpoint.drop(*(f"{module}.{setting}" for setting in _SETTINGS))
    packing = _PACKINGS.get(name)
    if packing is None or len(shape) != 2 or min(shape) < 1 or axis not in (0, 1):
        raise damaged(module, f"it has the shape {list(shape)}, the axis {axis} and the packing {name[:20]!r}")
    return _Hqq(module, shape, (packed, scales, zeros), axis, (packing, max(int(bits), 1)))


def _small(checkpoint: Checkpoint, module: str, setting: str) -> npt.NDArray[Any]:
    """A setting that lies in the file as a tensor."""
    part = checkpoint.take(f"{module}.{setting}")
    if part.size > _TEXT_LIMIT:
        raise damaged(part.name, f"it has {part.size} numbers")
    values = part.flat(0, part.size)
    if part.dtype in (*FLOATS, "F64"):
        values = widened(values, part.dtype)
        if not np.isfinite(values).all():
            raise damaged(part.name, "it is not a number")
    return values


class _Hqq(PartsDecoder):
    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        parts: tuple[Part, Part, Part],
        axis: int,
        packing: tuple[_Packing, int],
    ) -> None:
        super().__init__(name, shape, parts)
        self._packed, self._scales, self._zeros = parts
        self._axis = axis
        self._packing, self.bits = packing
        count, groups = prod(shape), self._scales.size
        if self._zeros.size not in (1, groups) or count % groups:
            raise damaged(name, f"{groups} scales and {self._zeros.size} zeros do not fit {count} weights")
        size = count // groups
        # The matrix of groups: its rows are groups (axis 1), or its columns are.
        rows, self._width = (groups, size) if axis == 1 else (size, groups)
        self._plane = -(-rows // self._packing.planes) * self._width
        if self._packed.n_bytes != self._plane * self._packing.width:
            wanted = self._plane * self._packing.width
            raise damaged(self._packed.name, f"it has {self._packed.n_bytes} bytes, not {wanted}")

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        begin, end = start * self.n_cols, stop * self.n_cols
        flat = out.reshape(-1)
        for plane in range(begin // self._plane, -(-end // self._plane)):
            low, high = max(begin, plane * self._plane), min(end, (plane + 1) * self._plane)
            flat[low - begin : high - begin] = self._codes(plane, low - plane * self._plane, high - plane * self._plane)
        if self._axis == 1:
            self._scale_rows(begin, end, flat)
        else:
            self._scale_columns(begin, end, flat)

    def _codes(self, plane: int, low: int, high: int) -> npt.NDArray[Any]:
        bits, planes, width = self._packing
        stored = self._packed.stored
        if stored.strides is not None:
            raise damaged(self._packed.name, "its elements lie apart in the file")
        elements = stored.file.view(stored.offset + low * width, (high - low) * width).view(f"<u{width}")
        if bits == 8:
            return elements
        codes: npt.NDArray[Any] = elements >> elements.dtype.type(bits * (planes - 1 - plane)) & elements.dtype.type(
            (1 << bits) - 1
        )
        return codes

    def _scale_rows(self, begin: int, end: int, flat: npt.NDArray[np.float32]) -> None:
        size = self._width
        first, last = begin // size, -(-end // size)
        scales, zeros = self._read(self._scales, first, last), self._read(self._zeros, first, last)
        if begin % size == 0 and end % size == 0:
            groups = flat.reshape(-1, size)
            groups -= zeros[:, None]
            groups *= scales[:, None]
            return
        index = np.arange(begin, end) // size - first
        flat -= zeros[index] if len(zeros) > 1 else zeros
        flat *= scales[index]

    def _scale_columns(self, begin: int, end: int, flat: npt.NDArray[np.float32]) -> None:
        """A row of the matrix of groups at a time: neighbours are of neighbouring groups."""
        at = begin
        while at < end:
            first = at % self._width
            last = min(self._width, first + end - at)
            row = flat[at - begin : at - begin + last - first]
            row -= self._read(self._zeros, first, last)
            row *= self._read(self._scales, first, last)
            at += last - first

    @staticmethod
    def _read(part: Part, first: int, last: int) -> npt.NDArray[np.float32]:
        first, last = (0, 1) if part.size == 1 else (first, last)
        return widened(part.flat(first, last), part.dtype)
