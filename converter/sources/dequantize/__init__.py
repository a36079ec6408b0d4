"""Quantized checkpoints as sources: their weights become float rows while they are read, a slab at a time.

One file a method; each takes the parts of its weights (codes, scales, zeros ...) out of the list of stored tensors and
puts one tensor with a decoder in their place, under the name and in the shape of an unquantized checkpoint. Arithmetic
is in float32 throughout, so that nothing is lost beyond what the method's own rounding took.

Every number of config.json and every shape is checked before anything is read by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.sources.dequantize import awq, bitsandbytes, gptq
from converter.sources.dequantize.parts import Checkpoint, damaged
from converter.sources.files import read_json
from converter.spec import QuenchError

if TYPE_CHECKING:
    from pathlib import Path

    from converter.sources.stored import StoredTensor


@dataclass(frozen=True, slots=True)
class Method:
    """How one kind of quantization is read.

    ``names`` are what config.json calls it, ``unsupported`` the name of a form that is not read (empty if it is),
    ``decode`` replaces the parts and says which bits it met.
    """

    title: str
    names: tuple[str, ...]
    decode: Callable[[Checkpoint, dict[str, Any]], set[int]]
    unsupported: Callable[[dict[str, Any]], str] = lambda settings: ""


METHODS = (
    Method("GPTQ", ("gptq",), gptq.decode, gptq.unsupported),
    Method("AWQ", ("awq",), awq.decode, awq.unsupported),
    Method("bitsandbytes", ("bitsandbytes",), bitsandbytes.decode),
)

_SETTINGS_FILES = (("quantize_config.json", "gptq"), ("quant_config.json", "awq"))
"""Files that older tools wrote instead of an entry in config.json, and the method where they name none."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A checkpoint with whole weights; ``note`` is what a person should know, ``working_bytes`` memory for reading."""

    tensors: list[StoredTensor]
    note: str = ""
    working_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a folder says about how its weights are quantized; no method for plain ones."""

    method: Method | None
    settings: dict[str, Any]

    def decoded(self, stored: list[StoredTensor]) -> Decoded:
        """The stored tensors with every quantized weight made whole. ``QuenchError`` where the parts do not fit."""
        if self.method is None:
            return Decoded(stored)
        checkpoint = Checkpoint(stored)
        bits = self.method.decode(checkpoint, self.settings)
        if not checkpoint.decoders:
            return Decoded(stored)
        working = max(decoder.working_bytes for decoder in checkpoint.decoders)
        return Decoded(checkpoint.finished(stored), _note(self.method.title, bits), working)


def recognise(folder: Path, config: dict[str, Any]) -> Quantization:
    """What ``config.json`` (or the file of an older tool) says. ``QuenchError`` ``unsupported_quantization`` with the
    list of what is read for methods and forms that are not."""
    settings = config.get("quantization_config") or config.get("quantization")
    name = ""
    if not settings:
        settings, name = _beside(folder)
    if not settings:
        return Quantization(None, {})
    if not isinstance(settings, dict):
        raise damaged("config.json", f"its quantization is {str(settings)[:40]!r} and no object")
    name = str(settings.get("quant_method") or name).lower()
    method = next((method for method in METHODS if name in method.names), None)
    form = method.unsupported(settings) if method else (name[:60] or "a quantization without a name")
    if method is None or form:
        raise QuenchError(
            "unsupported_quantization",
            "These weights are already quantized in a way that cannot be read yet.",
            f"config.json says {form}. Read are {', '.join(method.title for method in METHODS)}.",
            "Download the original model in 16 bits instead; it also converts with less loss.",
        )
    return Quantization(method, settings)


def _beside(folder: Path) -> tuple[dict[str, Any] | None, str]:
    for file, name in _SETTINGS_FILES:
        if (folder / file).is_file():
            return read_json(folder / file), name
    return None, ""


def _note(title: str, bits: set[int]) -> str:
    """The loss, said plainly."""
    numbers = sorted(bits)
    shown = "- and ".join(map(str, numbers))
    what = f"{title} {shown}-bit" if numbers else title
    keeps = "a Q8_0 or Q6_K keeps" if numbers and max(numbers) <= 4 else "a Q8_0 keeps nearly all of"
    return f"The weights are {what}: what that rounding lost stays lost; {keeps} what is left."
