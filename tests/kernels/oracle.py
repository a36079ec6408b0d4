"""The engine's own quantizers and decoders (``libggml-base`` of the installed llama-cpp-python), through ctypes."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

import kernels

_FILE = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}.get(sys.platform, "libggml-base.so")


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def path() -> Path:
    """The library's file. It is found without importing the package, which would start the engine."""
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None and spec.submodule_search_locations, "llama-cpp-python is a dependency of Quench"
    return Path(spec.submodule_search_locations[0]) / "lib" / _FILE


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(path()))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    return library


def traits(qtype: str) -> tuple[str, int, int]:
    """Name, weights of a block and bytes of a block."""
    found = _library().ggml_get_type_traits(kernels.READABLE[qtype]).contents
    return found.type_name.decode(), found.block_weights, found.block_bytes


def quantize(
    qtype: str, rows: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    rows = np.ascontiguousarray(rows, np.float32)
    _, weights, size = traits(qtype)
    out = np.zeros((rows.shape[0], rows.shape[1] // weights * size), np.uint8)
    address = None if importance is None else importance.ctypes.data
    written = _library().ggml_quantize_chunk(
        kernels.READABLE[qtype], rows.ctypes.data, out.ctypes.data, 0, *rows.shape, address
    )
    assert written == out.nbytes
    return out


def dequantize(qtype: str, blocks: npt.NDArray[np.uint8], n_cols: int) -> npt.NDArray[np.float32]:
    if qtype == "F32":
        return blocks.view(np.float32).reshape(-1, n_cols)
    out = np.zeros((blocks.shape[0], n_cols), np.float32)
    _library().ggml_get_type_traits(kernels.READABLE[qtype]).contents.to_float(
        blocks.ctypes.data, out.ctypes.data, out.size
    )
    return out


class _CpuTraits(ctypes.Structure):
    _fields_ = (
        ("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("rows", ctypes.c_int64),
    )


_VecDot = ctypes.CFUNCTYPE(
    None,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
)


@functools.cache
def _cpu_library() -> ctypes.CDLL:
    _library()
    library = ctypes.CDLL(str(path().with_name(path().name.replace("ggml-base", "ggml-cpu"))))
    library.ggml_cpu_init()
    library.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_CpuTraits)
    return library


_REFERENCE_ENCODERS = {
    "q8_K": "quantize_row_q8_K_ref",
    "q8_0": "quantize_row_q8_0_ref",
    "q8_1": "quantize_row_q8_1_ref",
}


def activations(qtype: str, x: npt.NDArray[np.float32]) -> tuple[str, npt.NDArray[np.uint8]]:
    """Name of the type that the engine multiplies rows of ``qtype`` with, and ``x`` in it, one row for each block."""
    number = _cpu_library().ggml_get_type_traits_cpu(kernels.TYPES[qtype]).contents.vec_dot_type
    other = _library().ggml_get_type_traits(number).contents
    name = other.type_name.decode()
    out = np.zeros((x.size // other.block_weights, other.block_bytes), np.uint8)
    if name in _REFERENCE_ENCODERS:
        getattr(_library(), _REFERENCE_ENCODERS[name])(
            ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(x.size)
        )
    else:
        encode = _cpu_library().ggml_get_type_traits_cpu(number).contents.from_float
        encode(x.ctypes.data, out.ctypes.data, x.size)
    return name, out


def vec_dot(qtype: str) -> int:
    """The address of the engine's own dot product of a row of ``qtype`` with activations."""
    address: int = _cpu_library().ggml_get_type_traits_cpu(kernels.TYPES[qtype]).contents.vec_dot
    return address


def dot(qtype: str, blocks: npt.NDArray[np.uint8], x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows times ``x``, each by the engine's own kernel."""
    kernel, other, out = _VecDot(vec_dot(qtype)), activations(qtype, x)[1], np.zeros(len(blocks), np.float32)
    for row, own in enumerate(blocks):
        kernel(x.size, out.ctypes.data + 4 * row, 0, own.ctypes.data, 0, other.ctypes.data, 0, 1)
    return out
