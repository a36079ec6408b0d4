"""MLX: codes in words along the input features, with a scale and a bias for each group.

``weight`` is uint32 ``(..., out, in * bits / 32)``, codes of 2, 3, 4, 5, 6 or 8 bits from the lowest bit on without
gaps; ``scales`` and ``biases`` are ``(..., out, in / group_size)``; ``w = code * scale + bias``. In the mode ``mxfp4``
codes are four-bit floats, scales are exponents, and there are no biases. config.json's ``quantization`` has the
settings, and others for single modules under their names. Source: ``mlx.core.quantize`` and mlx-lm's ``load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converter.sources.dequantize.mxfp4 import E2M1
from converter.sources.dequantize.parts import (
    FLOATS,
    WORDS,
    Checkpoint,
    Part,
    PartsDecoder,
    as_bytes,
    damaged,
    unpack,
    whole_number,
)
from converter.sources.dequantize.scaled import SCALES, scale_numbers

if TYPE_CHECKING:
    import numpy.typing as npt

BITS = (2, 3, 4, 5, 6, 8)
_MODES = ("affine", "mxfp4")


def _mode(settings: dict[str, Any]) -> str:
    return str(settings.get("mode") or "affine").lower()


def unsupported(settings: dict[str, Any]) -> str:
    """The name of a mode that is not read; empty if all are."""
    modes = [_mode(settings), *(_mode(each) for each in settings.values() if isinstance(each, dict))]
    return next((f"MLX in the mode {mode[:40]!r}" for mode in modes if mode not in _MODES), "")


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    for module in checkpoint.ending(".scales"):
        own = settings.get(module)
        chosen = {**settings, **own} if isinstance(own, dict) else settings
        checkpoint.put(f"{module}.weight", _module(checkpoint, module, chosen))


def _module(checkpoint: Checkpoint, module: str, settings: dict[str, Any]) -> _Mlx:
    floats = _mode(settings) == "mxfp4"
    bits = whole_number(settings, "bits", 4, 1, 64)
    size = whole_number(settings, "group_size", 32 if floats else 64, 1, 1 << 20)
    if bits not in ((4,) if floats else BITS):
        raise damaged("config.json", f"{module} has {bits} bits; MLX has 2, 3, 4, 5, 6 or 8")
    weight = checkpoint.take(f"{module}.weight").of(*WORDS)
    scales = checkpoint.take(f"{module}.scales").of(*(SCALES if floats else FLOATS))
    biases = None
    if not floats:
        name = f"{module}.biases" if checkpoint.has(f"{module}.biases") else f"{module}.qbiases"
        biases = checkpoint.take(name).of(*FLOATS).shaped(*scales.shape)
    columns = scales.n_cols * size
    if weight.shape[:-1] != scales.shape[:-1] or weight.n_cols * 32 != columns * bits or len(weight.shape) < 2:
        raise damaged(
            module,
            f"weight has the shape {list(weight.shape)} and scales {list(scales.shape)}, "
            f"which {bits} bits in groups of {size} do not make",
        )
    return _Mlx(module, weight, scales, biases, bits)


class _Mlx(PartsDecoder):
    def __init__(self, name: str, weight: Part, scales: Part, biases: Part | None, bits: int) -> None:
        shape = (*weight.shape[:-1], weight.n_cols * 32 // bits)
        super().__init__(name, shape, (weight, scales) if biases is None else (weight, scales, biases))
        self.bits = bits
        self._weight, self._scales, self._biases = weight, scales, biases

    def decode(self, start: int, stop: int, out: npt.NDArray[np.float32]) -> None:
        codes = unpack(as_bytes(self._weight.rows(start, stop)), self.bits, self.n_cols)
        scales = scale_numbers(self._scales.rows(start, stop), self._scales.dtype)
        groups = out.reshape(stop - start, scales.shape[1], -1)
        if self._biases is None:
            np.take(E2M1, codes.reshape(groups.shape), out=groups, mode="clip")
            groups *= scales[..., None]
            return
        np.multiply(codes.reshape(groups.shape), scales[..., None], out=groups)
        groups += self._biases.floats(start, stop)[..., None]
