"""The engine's library at arm's length: its log, its pointers and its parameters. No policy here.

Results that are NULL are falsy objects, not None.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.engine import waiting
from app.engine.bindings import lib

KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
"""Cache types by name: numbers of ``enum ggml_type``."""

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
"""``enum llama_flash_attn_type``."""

DECODE_OK, DECODE_NO_SLOT, DECODE_ABORTED = 0, 1, 2

_DEBUG, _INFO, _ERROR, _CONTINUED = 1, 2, 4, 5  # enum ggml_log_level
_BUFFER = re.compile(r"(KV|RS|compute|output) buffer size (?:=|of)\s+([0-9.]+) MiB")
_ELSEWHERE = re.compile(r"\bRPC\d+\[\S+\s+(?:model|KV|RS|compute|output) buffer size =")
_HERE = re.compile(r"\bCPU\S* model buffer size =\s+([0-9.]+) MiB")
_COPY = re.compile(r"\S*(?:REPACK|AMX|AARCH64|KLEIDIAI)\S* model buffer size =\s+([0-9.]+) MiB")


class NativeLog:
    """What the library says. It all goes to the standard error (a worker's log); the last lines are kept."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=1000)
        self._level = 0
        self._partial = ""
        self._callback = lib.llama_log_callback(self._receive)

    def install(self) -> None:
        lib.llama_log_set(self._callback, None)

    def clear(self) -> None:
        self.lines.clear()

    def errors(self) -> str:
        """The error lines since :meth:`clear`, first one first, without repeats."""
        texts = [text for level, text in self.lines if level == _ERROR]
        return "\n".join(dict.fromkeys(texts))

    def buffers(self) -> dict[str, int]:
        """Bytes of ``kv`` and ``compute`` buffers and of ``repacked`` weights and of all weights ``here``, on this
        machine, that the library reported since :meth:`clear`.

        The library has no C function for it; the lines are part of every load. What is not reported counts 0.
        """
        sizes = {"kv": 0, "compute": 0, "repacked": 0, "here": 0}
        for _, text in self.lines:
            if _ELSEWHERE.search(text):
                continue
            found, copied, weights = _BUFFER.search(text), _COPY.search(text), _HERE.search(text)
            if found:
                kind = "kv" if found[1] in ("KV", "RS") else "compute"
                sizes[kind] += round(float(found[2]) * (1 << 20))
            elif copied:
                sizes["repacked"] += round(float(copied[1]) * (1 << 20))
            elif weights:
                sizes["here"] += round(float(weights[1]) * (1 << 20))
        return sizes

    def say(self, line: str) -> None:
        """A line of our own between the library's."""
        self._receive(_INFO, f"{line}\n".encode(), None)

    def _receive(self, level: int, text: bytes, _data: int | None) -> None:
        # Called from C: nothing may be raised here.
        if level != _CONTINUED:
            self._level = level
        if self._level == _DEBUG:
            return
        self._partial += text.decode("utf-8", "replace")
        *whole, self._partial = self._partial.split("\n")
        for line in whole:
            self.lines.append((self._level, line))
        try:
            os.write(2, text)
        except OSError:
            return  # the reader of the log is gone; the lines are kept all the same


log = NativeLog()
_started = False


def start() -> None:
    """Set the library up, once a process, and take over its log, every time: other code in it may have taken that."""
    global _started  # noqa: PLW0603 - the library's own state is global
    log.install()
    if not _started:
        log.say(f"threads of the engine: {waiting.used()}")
        lib.llama_backend_init()
        _started = True


class Interrupt:
    """A switch that makes the decode call in progress return within milliseconds, from any thread.

    The library asks a C function before each node of its graph. Ours is ``strlen`` on a buffer of two bytes: its
    answer is 0 until the first byte is set, and the interpreter lock is never taken.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        name = "msvcrt" if sys.platform == "win32" else None
        strlen = ctypes.cast(ctypes.CDLL(name).strlen, ctypes.c_void_p)
        self._callback = ctypes.cast(strlen, lib.ggml_abort_callback)

    def attach(self, context: Any) -> None:
        lib.llama_set_abort_callback(context, self._callback, ctypes.addressof(self._buffer))

    def set(self) -> None:
        self._buffer[0] = b"\x01"

    def clear(self) -> None:
        self._buffer[0] = b"\x00"

    def is_set(self) -> bool:
        return self._buffer[0] != b"\x00"


class Batch:
    """A reusable batch of up to ``capacity`` tokens with explicit positions, sequences and wanted logits."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._batch = lib.llama_batch_init(capacity, 0, 1)
        shape = (capacity,)
        self._token = np.ctypeslib.as_array(self._batch.token, shape)
        self._position = np.ctypeslib.as_array(self._batch.pos, shape)
        self._wanted = np.ctypeslib.as_array(self._batch.logits, shape)
        np.ctypeslib.as_array(self._batch.n_seq_id, shape)[:] = 1
        self.clear()

    def clear(self) -> None:
        self._batch.n_tokens = 0

    def add(self, tokens: Sequence[int], position: int, sequence: int, wanted_from: int) -> None:
        """Append ``tokens`` at ``position`` of ``sequence``; logits are wanted from index ``wanted_from`` on."""
        start = self._batch.n_tokens
        stop = start + len(tokens)
        if stop > self.capacity:
            # The library would abort the process.
            raise ValueError(f"{stop} tokens in a batch of {self.capacity}")
        self._token[start:stop] = tokens
        self._position[start:stop] = np.arange(position, position + len(tokens))
        self._wanted[start:stop] = 0
        self._wanted[start + wanted_from : stop] = 1
        for index in range(start, stop):
            self._batch.seq_id[index][0] = sequence
        self._batch.n_tokens = stop

    def wanted(self) -> int:
        """How many rows of logits the batch will give."""
        return int(np.count_nonzero(self._wanted[: self._batch.n_tokens]))

    def decode(self, context: Any) -> int:
        return int(lib.llama_decode(context, self._batch))

    def free(self) -> None:
        lib.llama_batch_free(self._batch)


def logits(context: Any, rows: int, vocabulary: int) -> npt.NDArray[np.float32]:
    """The wanted logits of the last decode as (rows, vocabulary) float32: a view, valid until the next decode."""
    pointer = lib.llama_get_logits(context)
    if not pointer:
        raise RuntimeError("the engine gave no logits")
    return np.ctypeslib.as_array(pointer, (rows, vocabulary))


def metadata(model: Any, key: str) -> str | None:
    """A metadata value of the model file as text, or None."""
    size = 256
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = int(lib.llama_model_meta_val_str(model, key.encode(), buffer, size))
        if length < 0:
            return None
        if length < size:
            return buffer.value.decode("utf-8", "replace")
        size = length + 1


def metadata_number(model: Any, key: str) -> float | None:
    """A metadata value as a number, or None when it is absent or not one."""
    text = metadata(model, key)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


__all__ = [
    "DECODE_ABORTED",
    "DECODE_NO_SLOT",
    "DECODE_OK",
    "FLASH_ATTENTION",
    "KV_TYPES",
    "Batch",
    "Interrupt",
    "NativeLog",
    "lib",
    "log",
    "logits",
    "metadata",
    "metadata_number",
    "start",
]
