"""BitNet: weights of -1, 0 and 1 in planes of two bits, with one scale for the whole matrix.

``weight`` is uint8 ``(out / 4, in)``; row ``r`` is in bits ``2 p`` and ``2 p + 1`` of row ``r mod (out / 4)``, ``p``
being ``r div (out / 4)``, as one more than it is. The scale divides (``w = (code - 1) / weight_scale``), but for layers
of the class ``autobitlinear``, where it multiplies. Source: ``integrations/bitnet.py`` of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.parts import FLOATS, Checkpoint, Part, PartsDecoder, damaged, widened

if TYPE_CHECKING:
    import numpy.typing as npt

_CLASSES = ("bitlinear", "autobitlinear")


def _kind(settings: dict[str, Any]) -> str:
    return str(settings.get("linear_class") or "bitlinear").lower()


def unsupported(settings: dict[str, Any]) -> str:
    """The name of a form that is not read; empty if it is."""
    if _kind(settings) not in _CLASSES:
        return f"BitNet of the class {_kind(settings)[:40]!r}"
    if _kind(settings) == "autobitlinear" and settings.get("quantization_mode") == "online":
        return "BitNet whose weights are rounded while it runs ('online')"
    return "BitNet with an added norm" if settings.get("use_rms_norm") else ""


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    divides = _kind(settings) == "bitlinear"
    for name in checkpoint.ending("_scale"):
        if not name.endswith("weight") or checkpoint.dtype(name) not in ("U8", "I8"):
            continue
        scale = checkpoint.take(f"{name}_scale").of(*FLOATS)
        weight = checkpoint.take(name)
        if scale.size != 1 or len(weight.shape) != 2:
            raise damaged(name, f"it has the shape {list(weight.shape)} and {scale.size} scales")
        checkpoint.put(name, _BitNet(name, weight, scale, divides=divides))


class _BitNet(PartsDecoder):
    bits = 2

    def __init__(self, name: str, weight: Part, scale: Part, *, divides: bool) -> None:
        super().__init__(name, (4 * weight.n_rows, weight.n_cols), (weight, scale))
        self._weight, self._scale, self._divides = weight, scale, divides

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        scale = widened(self._scale.flat(0, 1), self._scale.dtype)[0]
        ternary = np.arange(-1, 3, dtype=np.float32)
        table = ternary / scale if self._divides else ternary * scale
        height = self._weight.n_rows
        for plane in range(start // height, -(-stop // height)):
            first, last = max(start, plane * height), min(stop, (plane + 1) * height)
            packed = self._weight.rows(first - plane * height, last - plane * height).view(np.uint8)
            np.take(table, packed >> 2 * plane & 3, out=out[first - start : last - start], mode="clip")
