"""Quantized checkpoints as sources: their weights become float rows while they are read, a slab at a time.

One file a method; each takes the parts of its weights (codes, scales, zeros ...) out of the list of stored tensors and
puts one tensor with a decoder in their place, under the name and in the shape of an unquantized checkpoint. Arithmetic
is in float32 throughout, so that nothing is lost beyond what the method's own rounding took.

Every number of config.json and every shape is checked before anything is read by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converter.sources.dequantize import aqlm, awq, bitnet, bitsandbytes, compressed, fp8, gptq, hqq, mlx, mxfp4
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
    ``decode`` replaces the parts. ``mark`` is the ending of a part's name that only this
    method has; ``tells_all`` whether the parts alone, without config.json, say how they are read.
    """

    title: str
    names: tuple[str, ...]
    decode: Callable[[Checkpoint, dict[str, Any]], None]
    unsupported: Callable[[dict[str, Any]], str] = lambda settings: ""
    mark: str = ""
    tells_all: bool = False


METHODS = (
    Method("GPTQ", ("gptq",), gptq.decode, gptq.unsupported, mark=".qzeros"),
    Method("AWQ", ("awq",), awq.decode, awq.unsupported),
    Method("bitsandbytes", ("bitsandbytes",), bitsandbytes.decode, mark=".absmax", tells_all=True),
    Method("FP8", ("fp8", "fbgemm_fp8", "modelopt", "mxfp8"), fp8.decode, fp8.unsupported),
    Method(
        "compressed-tensors",
        ("compressed-tensors",),
        compressed.decode,
        compressed.unsupported,
        mark=".weight_packed",
    ),
    Method("MLX", ("mlx", "metal"), mlx.decode, mlx.unsupported, mark=".biases"),
    Method("HQQ", ("hqq",), hqq.decode, mark=".W_q", tells_all=True),
    Method("AQLM", ("aqlm",), aqlm.decode, mark=".codebooks", tells_all=True),
    Method("MXFP4", ("mxfp4",), mxfp4.decode, mark="_blocks", tells_all=True),
    Method("BitNet", ("bitnet",), bitnet.decode, bitnet.unsupported),
)

_SETTINGS_FILES = (("quantize_config.json", "gptq"), ("quant_config.json", "awq"), ("hf_quant_config.json", "modelopt"))
"""Files that older tools wrote instead of an entry in config.json, and the method where they name none."""

_BITS_IN_NAME = ("FP8", "MXFP4", "BitNet")
"""Methods whose name says how many bits they have."""

_HALVES = ("BF16", "F16")

_AUTO_ROUND = {"auto_round:auto_gptq": "gptq", "auto_round:auto_awq": "awq"}
"""AutoRound's names for the layouts of others."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A checkpoint with whole weights.

    ``note`` is what a person should know, ``working_bytes`` memory for reading, ``kinds`` how the weights that were
    quantized are stored, by name (``GPTQ 4-bit``). ``half`` is the 16-bit type of most of their scales (and biases),
    empty if they have none.
    """

    tensors: list[StoredTensor]
    note: str
    working_bytes: int
    kinds: dict[str, str]
    half: str = ""


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a folder says about how its weights are quantized; no method if it says nothing."""

    method: Method | None
    settings: dict[str, Any]

    def decoded(self, stored: list[StoredTensor]) -> Decoded:
        """The stored tensors with every quantized weight made whole. ``QuenchError`` where the parts do not fit."""
        method = self.method or _by_names(stored)
        checkpoint = Checkpoint(stored)
        if method is None:
            fp8.plain(checkpoint)
        else:
            method.decode(checkpoint, self.settings)
        title = method.title if method else "FP8"
        kinds = {decoder.name: _kind(title, {decoder.bits}) for decoder in checkpoint.decoders}
        bits = {decoder.bits for decoder in checkpoint.decoders}
        return Decoded(
            checkpoint.finished(stored),
            _note(title, bits) if bits else "",
            max((decoder.working_bytes for decoder in checkpoint.decoders), default=0),
            kinds,
            _half(checkpoint),
        )


def recognise(folder: Path, config: dict[str, Any]) -> Quantization:
    """What ``config.json`` (or the file of an older tool) says. ``QuenchError`` ``unsupported_quantization`` with the
    list of what is read for methods and forms that are not."""
    settings, name = _settings(folder, config)
    if not settings:
        return Quantization(None, {})
    if not isinstance(settings, dict):
        raise damaged("config.json", f"its quantization is {str(settings)[:40]!r} and no object")
    name = str(settings.get("quant_method") or name).lower()
    if name == "auto-round":
        name = _AUTO_ROUND.get(str(settings.get("packing_format")).lower(), name)
    method = next((method for method in METHODS if name in method.names), None)
    form = method.unsupported(settings) if method else (name[:60] or "a quantization without a name")
    if method is None or form:
        raise _unsupported(f"config.json says {form}.")
    return Quantization(method, settings)


def _settings(folder: Path, config: dict[str, Any]) -> tuple[Any, str]:
    """The settings, and the method that they are for if they do not name one."""
    settings = config.get("quantization_config") or config.get("compression_config")
    if isinstance(settings, dict) and settings.get("quant_method"):
        return settings, ""
    if config.get("quantization"):  # MLX writes the same under both names
        return config["quantization"], "mlx"
    if settings:
        return settings, ""
    for file, name in _SETTINGS_FILES:
        if (folder / file).is_file():
            found = read_json(folder / file)
            return found.get("quantization", found), name
    return None, ""


def _by_names(stored: list[StoredTensor]) -> Method | None:
    """The method that the tensors' names tell of where config.json says nothing."""
    for method in METHODS:
        if method.mark and any(tensor.name.endswith(method.mark) for tensor in stored):
            if not method.tells_all:
                raise _unsupported(
                    f"The tensors look like {method.title}, but config.json does not say how they were quantized."
                )
            return method
    return None


def _unsupported(detail: str) -> QuenchError:
    return QuenchError(
        "unsupported_quantization",
        "These weights are already quantized in a way that cannot be read yet.",
        f"{detail} Read are {', '.join(method.title for method in METHODS)}.",
        "Download the original model in 16 bits instead; it also converts with less loss.",
    )


def _half(checkpoint: Checkpoint) -> str:
    found = Counter(part.dtype for decoder in checkpoint.decoders for part in decoder.parts if part.dtype in _HALVES)
    return found.most_common(1)[0][0] if found else ""


def _kind(title: str, bits: set[int]) -> str:
    """``GPTQ 4-bit``; where the name says it all, the name."""
    numbers = [str(number) for number in sorted(bits) if number]
    return title if title in _BITS_IN_NAME or not numbers else f"{title} {'- and '.join(numbers)}-bit"


def _note(title: str, bits: set[int]) -> str:
    """The loss, said plainly."""
    if title == "BitNet":
        return "The weights are BitNet's: -1, 0 and 1 times a scale, as they were trained. A Q8_0 keeps them."
    keeps = "a Q8_0 keeps nearly all of" if max(bits) > 4 else "a Q8_0 or Q6_K keeps"
    return f"The weights are {_kind(title, bits)}: what that rounding lost stays lost; {keeps} what is left."
