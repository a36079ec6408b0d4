"""A model's residual stream: the state after every layer, seen by the eval callback of a second context."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from app.engine import native, tensors
from app.engine.loading import context_params, no_context, tokens_in_steps
from app.engine.model import Model
from app.engine.native import DECODE_OK, lib
from converter.spec import QuenchError

States = npt.NDArray[np.float32]

_LAYER = re.compile(rb"l_out-(\d+)")
"""What the engine's graphs call the sum after a layer, in nearly every architecture."""


def hidden_states(model: Model, tokens: Sequence[int], rows: int) -> States:
    """The states of the last ``rows`` of ``tokens`` after each layer: float32 (layers, rows, width).

    No layers where the engine has no names for them, or where a layer passes on less than ``rows`` of them. The
    model's own context stays as it is; the second one takes its memory for as long as this runs.

    Raises:
        QuenchError: ``context_failed``, ``decode_failed``, ``not_finite``.
    """
    watch = _Watch()
    options = msgspec.structs.replace(model.options, context=len(tokens))
    params = context_params(options, tokens_in_steps(len(tokens)), model.prompt_threads, rows, 1)
    params.cb_eval = watch.callback
    context = lib.llama_init_from_model(model.model_pointer, params)
    if not context:
        raise no_context(len(tokens), options)
    batch = native.Batch(len(tokens))
    try:
        batch.add(tokens, 0, 0, len(tokens) - rows)
        code = batch.decode(context)
        if code != DECODE_OK:
            raise QuenchError(
                "decode_failed", "The engine could not compute this.", f"Code {code}. {native.log.errors()}".strip(), ""
            )
    finally:
        batch.free()
        lib.llama_free(context)
    return watch.last(rows)


class _Watch:
    """Keeps the named tensors of one decode call. The callback runs in native code, where nothing may be raised."""

    def __init__(self) -> None:
        tensors.check()
        self._parts: dict[int, list[States]] = {}
        self._error: BaseException | None = None
        self.callback: Any = lib.ggml_backend_sched_eval_callback(self._receive)

    def last(self, rows: int) -> States:
        if self._error is not None:
            raise self._error
        layers = [np.concatenate(self._parts[layer])[-rows:] for layer in sorted(self._parts)]
        whole = layers and max(self._parts) == len(layers) - 1 and all(len(each) == rows for each in layers)
        found = np.stack(layers) if whole else np.empty((0, rows, 0), np.float32)
        if not np.isfinite(found).all():
            raise QuenchError(
                "not_finite",
                "The model computes numbers that are not finite.",
                "",
                "The file may be damaged; try the full-precision one.",
            )
        return found

    def _receive(self, address: int, ask: bool, _data: int | None) -> bool:
        if self._error is not None:
            return not ask
        try:
            pointer = ctypes.cast(address, ctypes.POINTER(tensors.Tensor))
            match = _LAYER.fullmatch(pointer[0].name)
            if ask:
                return match is not None and pointer[0].type == tensors.F32
            if match is not None:
                values = tensors.array(pointer, np.float32)[0, 0]
                self._parts.setdefault(int(match[1]), []).append(values.copy())
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; last() raises it
            self._error = error
        return True


__all__ = ["States", "hidden_states"]
