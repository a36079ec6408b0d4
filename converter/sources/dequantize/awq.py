"""AWQ: four-bit codes with zeros, in two layouts of 32-bit words.

GEMM packs eight output features into a word: ``qweight`` is ``(in, out / 8)``, ``qzeros`` ``(groups, out / 8)``,
``scales`` ``(groups, out)``, and the eight stand in the order 0 2 4 6 1 3 5 7, lowest bits first. GEMV packs eight
input features in plain order: ``qweight`` is ``(out, in / 8)``, with ``qzeros`` ``(out, width)`` and ``scales``
``(out, 8 width)`` whose width was rounded up. ``w = (code - zero) * scale``. Source: AutoAWQ's ``WQLinear_GEMM`` and
``WQLinear_GEMV``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.parts import (
    FLOATS,
    WORDS,
    BandedDecoder,
    Bands,
    Checkpoint,
    Part,
    PartsDecoder,
    as_bytes,
    damaged,
    grouped,
    unpack,
    whole_number,
)

if TYPE_CHECKING:
    import numpy.typing as npt

_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Where in a GEMM word output feature 0 to 7 stands."""


def _layout(settings: dict[str, Any]) -> str:
    return str(settings.get("version") or settings.get("format") or "gemm").lower()


def unsupported(settings: dict[str, Any]) -> str:
    """The name of a form of AWQ that is not read; empty if it is."""
    if str(settings.get("backend")).lower() == "llm-awq":
        return "AWQ in the layout 'llm-awq'"
    layout = _layout(settings)
    return "" if layout in ("gemm", "gemv") else f"AWQ in the layout {layout[:40]!r}"


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    bits = whole_number(settings, "w_bit" if "w_bit" in settings else "bits", 4, 1, 64)
    if bits != 4:
        raise damaged("config.json", f"AWQ has 4 bits, not {bits}")
    size = whole_number(settings, "q_group_size" if "q_group_size" in settings else "group_size", 128, -1, 1 << 30)
    for module in checkpoint.ending(".qweight"):
        make = _gemv if _layout(settings) == "gemv" else _gemm
        checkpoint.put(f"{module}.weight", make(checkpoint, module, size))


def _take(checkpoint: Checkpoint, module: str) -> tuple[Part, Part, Part]:
    weight = checkpoint.take(f"{module}.qweight").of(*WORDS)
    zeros = checkpoint.take(f"{module}.qzeros").of(*WORDS)
    scales = checkpoint.take(f"{module}.scales").of(*FLOATS)
    if len(weight.shape) != 2 or len(scales.shape) != 2:
        raise damaged(module, f"qweight has the shape {list(weight.shape)} and scales {list(scales.shape)}")
    return weight, zeros, scales


def _group_size(module: str, columns: int, size: int) -> int:
    size = columns if size <= 0 else size
    if columns % size:
        raise damaged(module, f"groups of {size} do not divide its {columns} columns")
    return size


def _gemm(checkpoint: Checkpoint, module: str, size: int) -> PartsDecoder:
    weight, zeros, scales = _take(checkpoint, module)
    columns, words = weight.shape
    size = _group_size(module, columns, size)
    scales.shaped(columns // size, 8 * words)
    zeros.shaped(columns // size, words)
    return _Gemm(module, (8 * words, columns), (weight, zeros, scales), size, checkpoint.bands)


def _gemv(checkpoint: Checkpoint, module: str, size: int) -> PartsDecoder:
    weight, zeros, scales = _take(checkpoint, module)
    rows, words = weight.shape
    size = _group_size(module, 8 * words, size)
    if scales.n_rows != rows or scales.n_cols * size < 8 * words:
        raise damaged(scales.name, f"its shape is {list(scales.shape)} for {rows} rows of {8 * words // size} groups")
    if zeros.n_rows != rows or zeros.n_cols * size < words:
        raise damaged(zeros.name, f"its shape is {list(zeros.shape)} for {rows} rows of {8 * words // size} groups")
    return _Gemv(module, (rows, 8 * words), (weight, zeros, scales), size)


class _Gemm(BandedDecoder):
    bits = 4

    def __init__(
        self, name: str, shape: tuple[int, int], parts: tuple[Part, Part, Part], size: int, bands: Bands
    ) -> None:
        self._weight, self._zeros, self._scales = parts
        super().__init__(name, shape, parts, bands=bands, row_bytes=shape[1] // 2 + self._scales.n_rows * 5)
        self._size = size

    def gather(self, first: int, last: int) -> tuple[npt.NDArray[Any], ...]:
        """Words of eight rows ``(rows / 8, columns)``, zeros and scales ``(rows, groups)``."""
        words = self._weight.columns(first // 8, last // 8).view(np.uint32)
        scales = self._scales.float_columns(first, last)
        return words, _eight_rows(self._zeros.columns(first // 8, last // 8), 0, last - first), scales

    def decode_band(
        self, band: tuple[npt.NDArray[Any], ...], start: int, stop: int, out: npt.NDArray[np.float32]
    ) -> None:
        words, zeros, scales = band
        codes = _eight_rows(words[start // 8 : -(-stop // 8)], start % 8, start % 8 + stop - start)
        grouped(codes, scales[start:stop], zeros[start:stop], self._size, out)


def _eight_rows(words: npt.NDArray[Any], start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Rows ``start`` to ``stop`` of those that words ``(rows / 8, columns)`` hold."""
    out = np.empty((stop - start, words.shape[1]), np.uint8)
    for row in range(start, stop):
        word, place = divmod(row, 8)
        # The byte that has the code, without a copy as wide as a word.
        byte, high = divmod(int(_PLACES[place]), 2)
        codes = as_bytes(words[word]).reshape(-1, 4)[:, byte]
        np.right_shift(codes, 4, out=out[row - start]) if high else np.bitwise_and(codes, 15, out=out[row - start])
    return out


class _Gemv(PartsDecoder):
    bits = 4

    def __init__(self, name: str, shape: tuple[int, int], parts: tuple[Part, Part, Part], size: int) -> None:
        super().__init__(name, shape, parts)
        self._weight, self._zeros, self._scales = parts
        self._size = size

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        groups = self.n_cols // self._size
        codes = unpack(as_bytes(self._weight.rows(start, stop)), 4, self.n_cols)
        zeros = unpack(as_bytes(self._zeros.rows(start, stop)), 4, groups)
        grouped(codes, self._scales.floats(start, stop)[:, :groups], zeros, self._size, out)
