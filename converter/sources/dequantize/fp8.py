"""FP8: weights of eight-bit floats with a scale for a tensor, for each row, or for blocks of rows and columns.

``weight`` is E4M3 or E5M2; beside it lies ``weight_scale_inv`` (DeepSeek's and Hugging Face's, one number for each
block of ``weight_block_size``), ``weight_scale`` (FBGEMM, ModelOpt, vLLM) or ``qscale_weight`` (Mistral). Fused experts
have ``<name>_scale_inv`` or ``<name>_scale``. All are factors: ``w = code * scale``. Scales of activations are dropped.
"""

from __future__ import annotations

from typing import Any

from converter.sources.dequantize.parts import Checkpoint, Part, PartsDecoder, damaged, whole_number
from converter.sources.dequantize.scaled import FLOAT8, SCALES, Cut, ScaledDecoder

_OF_ACTIVATIONS = (
    ".input_scale", "_input_scale", ".activation_scale", "_activation_scale", ".qscale_act", ".input_scale_ub",
    ".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".output_scale", ".prob_scale",
    ".input_zero_point", ".output_zero_point", ".input_global_scale",
)  # fmt: skip
_MODELOPT = ("fp8",)


def unsupported(settings: dict[str, Any]) -> str:
    """The name of a form of ModelOpt that is not read; empty if it is."""
    kind = str(settings.get("quant_algo") or "fp8").lower()
    return "" if kind in _MODELOPT else f"ModelOpt's {kind[:40]!r}"


def decode(checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    """Turns all quantized weights into whole ones."""
    block = _block(settings)
    for name in checkpoint.of_kind(*FLOAT8):
        scales = take_scales(checkpoint, name)
        if scales is None:
            raise damaged(name, "it has no scale")
        checkpoint.put(name, scaled(checkpoint.take(name), scales, block))
    drop_activations(checkpoint)


def plain(checkpoint: Checkpoint) -> None:
    """Weights of eight-bit floats in a folder that says nothing of a quantization: the numbers are what they are."""
    for name in checkpoint.of_kind(*FLOAT8):
        weight, scales = checkpoint.take(name), take_scales(checkpoint, name)
        if scales is not None and Cut(scales.of(*SCALES), weight.shape).in_blocks:
            raise damaged(name, "its scales are for blocks, and config.json does not say how large they are")
        checkpoint.put(name, scaled(weight, scales, None))


def take_scales(checkpoint: Checkpoint, name: str) -> Part | None:
    """The scales of a weight, whatever they are called."""
    names = [f"{name}_scale_inv", f"{name}_scale"]
    if name.endswith("weight"):
        names.append(f"{name.removesuffix('weight')}qscale_weight")
    return next((checkpoint.take(each) for each in names if checkpoint.has(each)), None)


def drop_activations(checkpoint: Checkpoint) -> None:
    """Forgets the scales of activations and caches."""
    for suffix in _OF_ACTIVATIONS:
        checkpoint.drop(*(module + suffix for module in checkpoint.ending(suffix)))


def scaled(weight: Part, scales: Part | None, block: tuple[int, int] | None) -> PartsDecoder:
    """The decoder of a matrix, or of a stack of them, times its scales."""
    if len(weight.shape) < 2:
        raise damaged(weight.name, f"it has the shape {list(weight.shape)}")
    return ScaledDecoder(weight.name, weight, None if scales is None else Cut(scales.of(*SCALES), weight.shape, block))


def _block(settings: dict[str, Any]) -> tuple[int, int] | None:
    sizes = settings.get("weight_block_size")
    if sizes is None:
        return None
    if not isinstance(sizes, list) or len(sizes) != 2:
        raise damaged("config.json", f"the quantization's weight_block_size is {str(sizes)[:40]!r}")
    height, width = (whole_number({"weight_block_size": size}, "weight_block_size", None, 1, 1 << 20) for size in sizes)
    return height, width
