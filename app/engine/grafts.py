"""Another file's weights inside a loaded model: what one tensor costs is measured without a file for each.

The engine reads a weight through its tensor's address and type, at every decode anew. While a graft lasts these point
at the bytes of another file of the same model, which the engine then computes with as it would after loading that file;
nothing is copied and nothing written. It holds for weights in ordinary memory: the processor's, not repacked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import gguf
import msgspec
import numpy as np
import numpy.typing as npt

from app.engine import native, tensors
from app.engine.loading import context_params, no_context, tokens_in_steps
from app.engine.model import Model
from app.engine.native import DECODE_OK, lib
from converter.spec import QuenchError

Bytes = npt.NDArray[np.uint8]


class Part(Protocol):
    """A tensor to compute with: one of a source, or one that was just encoded."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def row_bytes(self) -> int: ...
    def raw(self, start: int, stop: int) -> Bytes: ...


class Grafts:
    """Of one loaded model (``repack=False``, no layers on a graphics processor), for as long as it is open.

    ``shapes`` has every weight that the engine multiplies with or looks up, row-major as in files.

    Raises:
        QuenchError: ``engine_changed``, ``context_failed``, ``decode_failed``; ``not_in_memory`` where weights lie
            on a device.
    """

    def __init__(self, model: Model) -> None:
        self._tensors: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._operations = (*tensors.check(), tensors.lookup())
        self._find(model)
        self.shapes = {name: _shape(tensor) for name, tensor in self._tensors.items()}

    @contextmanager
    def replaced(self, parts: Mapping[str, Part]) -> Iterator[None]:
        """Compute with these tensors in place of the model's own, by name, until the block ends.

        Raises:
            ValueError: a name or a shape is not the model's.
        """
        held: list[Bytes] = []
        before = {name: _fields(self._tensor(name, part)) for name, part in parts.items()}
        try:
            for name, part in parts.items():
                held.append(_point(self._tensors[name], part))
            yield
        finally:
            for name, fields in before.items():
                _set(self._tensors[name], fields)

    def _tensor(self, name: str, part: Part) -> Any:
        if self.shapes.get(name) != _full(part.shape):
            raise ValueError(f"{name} {part.shape} is not a weight of this model")
        return self._tensors[name]

    def _find(self, model: Model) -> None:
        """One token through a context of its own, whose callback is asked about every operation."""
        callback = lib.ggml_backend_sched_eval_callback(self._look)
        options = msgspec.structs.replace(model.options, context=1)
        params = context_params(options, tokens_in_steps(1), model.threads, 1, 1)
        params.cb_eval = callback
        context = lib.llama_init_from_model(model.model_pointer, params)
        if not context:
            raise no_context(1, options)
        batch = native.Batch(1)
        try:
            batch.add([max(model.bos, 0)], 0, 0, 0)
            code = batch.decode(context)
        finally:
            batch.free()
            lib.llama_free(context)
        if self._error is not None:
            raise self._error
        if code != DECODE_OK:
            raise QuenchError("decode_failed", "The engine could not compute this.", f"Code {code}.", "")

    def _look(self, address: int, ask: bool, _data: int | None) -> bool:
        if self._error is None:
            try:
                node = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))[0]
                if ask and node.op in self._operations:
                    self._note(node.src[0])
            except BaseException as error:  # noqa: BLE001 - nothing may cross native code; _find() raises it
                self._error = error
        return not ask

    def _note(self, pointer: tensors.Pointer) -> None:
        name = pointer[0].name.decode("utf-8", "replace")
        if not name.endswith(".weight"):
            return
        if not tensors.in_memory(pointer) or "#" in name:
            raise QuenchError(
                "not_in_memory",
                "The weights lie on a graphics processor.",
                name,
                "Measure with all layers on the processor.",
            )
        self._tensors[name] = pointer[0]


def _full(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + tuple(shape)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.ne)[::-1]


def _fields(tensor: Any) -> tuple[int, tuple[int, ...], int]:
    return tensor.type, tuple(tensor.nb), tensor.data


def _set(tensor: Any, fields: tuple[int, tuple[int, ...], int]) -> None:
    tensor.type, strides, tensor.data = fields
    for dimension, stride in enumerate(strides):
        tensor.nb[dimension] = stride


def _point(tensor: Any, part: Part) -> Bytes:
    """Let the engine's tensor be the file's; returns the bytes, which must be kept."""
    data: Bytes = part.raw(0, part.n_rows)
    kind = gguf.GGMLQuantizationType[part.type]
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    strides = [block_bytes, part.row_bytes]
    for size in list(tensor.ne)[1:3]:
        strides.append(strides[-1] * size)
    _set(tensor, (int(kind), tuple(strides), data.ctypes.data))
    return data


__all__ = ["Grafts"]
