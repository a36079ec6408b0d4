"""LoRA adapters (GGUF) on a loaded model. The library takes anything for one, so each file is checked here first."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.adapter_messages import Adapter
from app.engine import native
from app.engine.native import lib
from converter import open_model
from converter.sources.files import ByteFile
from converter.sources.gguf_header import Header, read_header
from converter.spec import QuenchError

MOST = 16
"""Adapters at once."""
LARGEST = 100.0
"""The largest scale, up or down: beyond it there is only noise."""
_SUFFIXES = (".lora_a", ".lora_b")


class Adapters:
    """The adapters of one context; they live as long as its model."""

    def __init__(self, path: str, model: Any, context: Any) -> None:
        self.used: tuple[Adapter, ...] = ()
        self._path = path
        self._model = model
        self._context = context
        self._loaded: dict[str, Any] = {}

    def use(self, adapters: Sequence[Adapter]) -> bool:
        """Use exactly these from the next decode on; False if that is no change. All stays as it is on an error.

        Raises:
            QuenchError: ``bad_adapter`` (no GGUF adapter, damaged, a scale that is no number), ``adapter_mismatch`` (of
                another model), and what reading a file may raise.
        """
        wanted = tuple(adapters)
        if wanted == self.used:
            return False
        _check_scales(wanted)
        fresh: dict[str, Any] = {}
        try:
            for adapter in wanted:
                if adapter.path not in self._loaded and adapter.path not in fresh:
                    fresh[adapter.path] = self._load(adapter.path)
        except BaseException:
            for pointer in fresh.values():
                lib.llama_adapter_lora_free(pointer)
            raise
        self._loaded |= fresh
        pointers = (ctypes.c_void_p * max(1, len(wanted)))(
            *(ctypes.cast(self._loaded[adapter.path], ctypes.c_void_p).value for adapter in wanted)
        )
        scales = (ctypes.c_float * max(1, len(wanted)))(*(adapter.scale for adapter in wanted))
        array = ctypes.cast(pointers, ctypes.POINTER(lib.llama_adapter_lora_p_ctypes))
        lib.llama_set_adapters_lora(self._context, array, len(wanted), scales)
        for path in self._loaded.keys() - {adapter.path for adapter in wanted}:
            lib.llama_adapter_lora_free(self._loaded.pop(path))
        self.used = wanted
        return True

    def _load(self, path: str) -> Any:
        check_adapter(path, self._path)
        native.log.clear()
        pointer = lib.llama_adapter_lora_init(self._model, path.encode())
        if not pointer:
            raise _bad(path, native.log.errors() or "The engine does not take it.")
        return pointer


def check_adapter(path: str, model_path: str) -> None:
    """Refuse what is no whole LoRA adapter for the model; errors as :meth:`Adapters.use`."""
    file = ByteFile(Path(path))
    try:
        header = read_header(file)
    finally:
        file.close()
    if header.value("general.type") != "adapter" or header.value("adapter.type") != "lora":
        raise _bad(path, "It says nowhere that it is a LoRA adapter (general.type, adapter.type).")
    alpha = header.value("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _bad(path, f"adapter.lora.alpha is {alpha!r}.")
    with open_model(model_path) as model:
        architecture = model.info.architecture
        shapes = {tensor.name: tuple(tensor.shape) for tensor in model.info.tensors}
    if header.value("general.architecture") != architecture:
        found = header.value("general.architecture")
        raise _mismatch(path, f"The adapter is for {found}, the model is {architecture}.")
    _check_tensors(path, header, shapes)


def _check_tensors(path: str, header: Header, shapes: dict[str, tuple[int, ...]]) -> None:
    """Pairs A (rank, inputs) and B (outputs, rank) for matrices that the model has; for the embedding, whose rows are
    taken and not multiplied, A (tokens, rank) and B (width, rank)."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in header.tensors:
        base, suffix = tensor.name[:-7], tensor.name[-7:]
        if suffix not in _SUFFIXES:
            raise _bad(path, f"The tensor {tensor.name!r} is no part of a pair.")
        pairs.setdefault(base, {})[suffix] = tuple(tensor.shape)
    if not pairs:
        raise _bad(path, "It has no tensors.")
    for base, pair in pairs.items():
        if len(pair) != 2:
            raise _bad(path, f"{base} has only one half of its pair.")
        target = shapes.get(base)
        if target is None:
            raise _mismatch(path, f"The model has no tensor {base}.")
        if base == "token_embd.weight" and "output.weight" not in shapes:
            # The engine multiplies with the same tensor at the end, and aborts over the pair's other shape.
            raise _bad(path, "It changes an embedding that is the output matrix too; the engine cannot do that.")
        a, b = pair[".lora_a"], pair[".lora_b"]
        if base == "token_embd.weight":
            a = (*a[:-2], *a[:-3:-1])
            target = (*target[:-2], *target[:-3:-1])
        fits = len(a) == len(b) == len(target) and a[:-2] == target[:-2] and a[-2] == b[-1]
        if not fits or (b[-2], a[-1]) != target[-2:]:
            raise _mismatch(path, f"{base} is {list(target)}, the adapter's pair {list(a)} and {list(b)}.")


def _check_scales(adapters: Sequence[Adapter]) -> None:
    if len(adapters) > MOST:
        raise QuenchError("bad_adapter", "These are too many adapters.", f"{len(adapters)}, at most {MOST}.", "")
    paths = [adapter.path for adapter in adapters]
    for adapter in adapters:
        if not math.isfinite(adapter.scale) or abs(adapter.scale) > LARGEST:
            raise _bad(adapter.path, f"Its scale is {adapter.scale}; -{LARGEST:g} to {LARGEST:g} can be.")
        if paths.count(adapter.path) > 1:
            raise _bad(adapter.path, "It is there twice.")


def _bad(path: str, detail: str) -> QuenchError:
    return QuenchError(
        "bad_adapter",
        "This is no LoRA adapter that can be used.",
        f"{Path(path).name}: {detail}",
        "Choose a GGUF file made by convert_lora_to_gguf.py. A PEFT folder can be merged into the model instead: "
        "Convert, Advanced.",
    )


def _mismatch(path: str, detail: str) -> QuenchError:
    return QuenchError(
        "adapter_mismatch",
        "The adapter belongs to another model.",
        f"{Path(path).name}: {detail}",
        "Choose the model that it was trained for.",
    )


__all__ = ["Adapters", "check_adapter"]
