"""Finds and loads ``libquench_kernels`` and declares its functions. The library is beside this module, in the wheel's
``kernels`` folder, or where ``QUENCH_KERNELS_LIBRARY`` points (sanitizer builds)."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import sysconfig
from pathlib import Path

ABI = 6

_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_FILE = f"libquench_kernels{_SUFFIX}"

OK, BAD_BACKEND, BAD_TYPE, BAD_SHAPE, BAD_BUFFER, BAD_IMPORTANCE, BAD_FLAGS, NOT_FINITE, OVERFLOW, BAD_TARGET = range(
    10
)
ALLOW_NONFINITE = 1
REFINED = 2


class KernelError(ValueError):
    """A call that the kernels refuse. ``code`` is stable, ``message`` a sentence.

    ``row`` and ``column`` are set for ``not_finite`` and ``overflow`` (the first offending weight, or the first weight
    of the offending block) and ``column`` for ``bad_importance``; otherwise they are None.
    """

    def __init__(self, code: str, message: str, *, row: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.row = row
        self.column = column


class Report(ctypes.Structure):
    """``quench_report``: where the first offending value is."""

    _fields_ = (("row", ctypes.c_int64), ("column", ctypes.c_int64))


def _candidates() -> list[Path]:
    forced = os.environ.get("QUENCH_KERNELS_LIBRARY")
    if forced:
        return [Path(forced)]
    return _places(_FILE)


def _places(name: str) -> list[Path]:
    return [Path(__file__).parent / name, Path(sysconfig.get_path("platlib")) / "kernels" / name]


def threads_file() -> Path | None:
    """``libquench_threads``, which is built beside the kernels on Linux."""
    return next((path for path in _places("libquench_threads.so") if path.is_file()), None)


def _declare(library: ctypes.CDLL) -> None:
    i32, i64, size, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t, ctypes.c_void_p
    # A backend, two types, the rows with their stride, and how many rows and columns they have.
    rows: list[type] = [i32, i32, i32, pointer, i64, i64, i64]
    signatures: dict[str, tuple[type, list[type]]] = {
        "quench_backend": (ctypes.c_char_p, [i32]),
        "quench_note": (ctypes.c_char_p, []),
        "quench_cpu": (i32, [ctypes.c_char_p, size]),
        "quench_block": (i32, [i32, ctypes.POINTER(i32), ctypes.POINTER(i32)]),
        "quench_quantize": (i32, [*rows, pointer, ctypes.c_uint32, pointer, size, pointer, pointer, pointer]),
        "quench_feedback": (
            i32,
            [*rows, pointer, pointer, size, pointer, pointer, size, pointer, size, pointer, pointer, pointer],
        ),
        "quench_polish": (i32, [*rows, pointer, size, i32, pointer, size, pointer, size, pointer, pointer]),
        "quench_energy": (i32, [i32, i32, pointer, i64, i64, i64, pointer, pointer]),
        "quench_dequantize": (i32, [i32, i32, pointer, size, i64, i64, pointer, size]),
        "quench_score_rows": (
            i32,
            [i32, pointer, i64, i64, i64, pointer, i32, pointer, size, pointer, size, pointer, size, pointer],
        ),
        "quench_compare_rows": (
            i32,
            [i32, pointer, i64, pointer, i64, i64, i64, pointer, i32, pointer, size, pointer],
        ),
        "quench_activations_size": (i32, [i32, i64, pointer]),
        "quench_activations": (i32, [i32, i32, pointer, i64, pointer, size, pointer]),
        "quench_dot": (i32, [i32, i32, pointer, size, i64, i64, pointer, size, pointer, size]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def file() -> Path:
    """The library's file. Raises :class:`KernelError` (``no_library``)."""
    candidates = _candidates()
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        places = ", ".join(str(path) for path in candidates)
        build = "cmake -S kernels -B kernels/_build -DQUENCH_INPLACE=ON && cmake --build kernels/_build"
        raise KernelError(
            "no_library",
            f"The kernel library is not at {places}. Install Quench, or in its source tree: {build}",
        )
    return path


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises :class:`KernelError` with code ``no_library`` or ``bad_library``."""
    path = file()
    try:
        loaded = ctypes.CDLL(str(path))
        abi = loaded.quench_abi()
    except (OSError, AttributeError) as error:
        raise KernelError("bad_library", f"The kernel library {path} cannot be loaded: {error}") from error
    if abi != ABI:
        raise KernelError("bad_library", f"The kernel library {path} has interface {abi}; this program needs {ABI}.")
    _declare(loaded)
    return loaded
