"""Pocket as quantization libraries would store it: packed by plain numpy, with the weights that the parts stand for.

The layouts themselves are held against the libraries' own files in ``converter/test_dequantize.py``; what is here are
whole models, rounded to nearest without calibration.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resources import path as resource

Parts = dict[str, tuple[str, np.ndarray]]
"""Name after the module's, kind of elements as safetensors calls it, and the elements."""


class Packed(NamedTuple):
    parts: Parts
    numbers: np.ndarray


Packer = Callable[[np.ndarray], Packed]


class Scheme(NamedTuple):
    """``settings`` go into config.json under ``key``; ``embedding``: that matrix is quantized too."""

    settings: dict[str, Any]
    pack: Packer
    key: str = "quantization_config"
    embedding: bool = False


def read_pocket() -> dict[str, np.ndarray]:
    raw = (resource("pocket") / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            bits = np.frombuffer(raw[start + begin : start + end], "<u2").astype(np.uint32) << 16
            tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def write_tensors(path: Path, tensors: Parts) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, (kind, values) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(v.tobytes() for _, v in tensors.values()))


def write_pocket(folder: Path, scheme: Scheme | None, plain: Path | None = None) -> Path:
    """Pocket quantized so; at ``plain`` the same weights as float32, as an unquantized model."""
    config = json.loads((resource("pocket") / "config.json").read_text())
    whole: Parts = {}
    packed: Parts = {}
    for name, weight in read_pocket().items():
        whole[name] = packed[name] = ("F32", weight)
        if scheme and (name.endswith("_proj.weight") or (scheme.embedding and "embed" in name)):
            done = scheme.pack(weight)
            whole[name] = ("F32", done.numbers)
            del packed[name]
            module = name.removesuffix(".weight")
            packed |= {f"{module}.{part}": values for part, values in done.parts.items()}
    for target, tensors in ((folder, packed), (plain, whole)):
        if target is not None:
            target.mkdir(parents=True)
            for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                shutil.copy(resource("pocket") / file, target)
            settings = {scheme.key: scheme.settings} if scheme and scheme.settings and target == folder else {}
            (target / "config.json").write_text(json.dumps(config | settings))
            write_tensors(target / "model.safetensors", tensors)
    return folder


def _grouped(weight: np.ndarray, size: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes ``(rows, columns)``, float16 scales and whole zeros ``(rows, groups)``, rounded to nearest."""
    groups = weight.reshape(len(weight), -1, size)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scale = np.maximum((high - low) / (2**bits - 1), 1e-4).astype(np.float16)
    zero = np.clip(np.round(-low / scale.astype(np.float32)), 1, 2**bits - 1).astype(np.int64)
    codes = np.round(groups / scale.astype(np.float32)[..., None]) + zero[..., None]
    return np.clip(codes, 0, 2**bits - 1).astype(np.int64).reshape(weight.shape), scale, zero


def _numbers(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    size = codes.shape[1] // scale.shape[1]
    wide = scale.astype(np.float32).repeat(size, 1)
    return (codes - zero.repeat(size, 1)).astype(np.float32) * wide


def _words(codes: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> np.ndarray:
    """Neighbours along the last axis in words of 32 bits, lowest first; ``order``: which of them stands where."""
    per = 32 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, per).astype(np.uint32)
    words = np.zeros(parts.shape[:-1], np.uint32)
    for place, which in enumerate(order or tuple(range(per))):
        words |= parts[..., which] << np.uint32(place * bits)
    return words


def gptq(weight: np.ndarray) -> Packed:
    """Four bits, groups of 32, in an order of activations."""
    order = np.random.default_rng(weight.size).permutation(weight.shape[1])
    codes, scale, zero = _grouped(weight[:, order], 32, 4)
    group = np.empty(len(order), np.int32)
    group[order] = np.arange(len(order)) // 32
    back = np.argsort(order)
    parts: Parts = {
        "qweight": ("I32", np.ascontiguousarray(_words(codes[:, back], 4).T)),
        "qzeros": ("I32", _words(zero.T - 1, 4)),
        "scales": ("F16", np.ascontiguousarray(scale.T)),
        "g_idx": ("I32", group),
    }
    return Packed(parts, _numbers(codes, scale, zero)[:, back])


def awq(weight: np.ndarray) -> Packed:
    codes, scale, zero = _grouped(weight, 64, 4)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    parts: Parts = {
        "qweight": ("I32", _words(np.ascontiguousarray(codes.T), 4, order)),
        "qzeros": ("I32", _words(np.ascontiguousarray(zero.T), 4, order)),
        "scales": ("F16", np.ascontiguousarray(scale.T)),
    }
    return Packed(parts, _numbers(codes, scale, zero))


def nf4(weight: np.ndarray) -> Packed:
    table = np.array(
        [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0,
         0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1], np.float32,
    )  # fmt: skip
    blocks = weight.reshape(-1, 64)
    largest = np.abs(blocks).max(1)
    codes = np.abs((blocks / largest[:, None])[..., None] - table).argmin(-1).astype(np.uint8).reshape(-1, 2)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
    parts: Parts = {
        "weight": ("U8", (codes[:, :1] << 4) | codes[:, 1:]),
        "weight.absmax": ("F32", largest),
        "weight.quant_map": ("F32", table),
        "weight.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(json.dumps(state).encode(), np.uint8)),
    }
    return Packed(parts, (table[codes].reshape(-1, 64) * largest[:, None]).reshape(weight.shape))


def int8(weight: np.ndarray) -> Packed:
    largest = np.abs(weight).max(1)
    codes = np.round(weight * (127 / largest)[:, None]).astype(np.int8)
    numbers = codes * largest[:, None] * np.float32(7.874015718698502e-3)
    parts: Parts = {"weight": ("I8", codes), "SCB": ("F32", largest), "weight_format": ("U8", np.zeros((), np.uint8))}
    return Packed(parts, numbers.astype(np.float32))


def _e4m3() -> np.ndarray:
    """The finite ones that are not negative, in the order of their codes."""
    codes = np.arange(127)
    exponent, fraction = codes >> 3, codes & 7
    return np.where(exponent > 0, (1 + fraction / 8) * 2.0 ** (exponent - 7), fraction / 8 * 2.0**-6).astype(np.float32)


def fp8(weight: np.ndarray) -> Packed:
    """Blocks of 96 rows and 80 columns, the last ones cut short."""
    rows, columns = weight.shape
    padded = np.pad(weight, ((0, -rows % 96), (0, -columns % 80)))
    blocks = padded.reshape(len(padded) // 96, 96, -1, 80)
    scale = (np.abs(blocks).max((1, 3)) / 448).astype(np.float32)
    wide = scale.repeat(96, 0).repeat(80, 1)[:rows, :columns]
    table = _e4m3()
    at = np.searchsorted((table[1:] + table[:-1]) / 2, np.abs(weight / wide))
    numbers = np.copysign(table[at], weight) * wide
    codes = (at + 128 * np.signbit(weight)).astype(np.uint8)
    return Packed({"weight": ("F8_E4M3", codes), "weight_scale_inv": ("F32", scale)}, numbers.astype(np.float32))


def compressed(weight: np.ndarray) -> Packed:
    codes, scale, zero = _grouped(weight, 32, 4)
    parts: Parts = {
        "weight_packed": ("I32", _words(codes, 4)),
        "weight_scale": ("F16", scale),
        "weight_zero_point": ("I32", np.ascontiguousarray(_words(np.ascontiguousarray(zero.T), 4).T)),
        "weight_shape": ("I64", np.array(weight.shape)),
    }
    return Packed(parts, _numbers(codes, scale, zero))


def mlx(weight: np.ndarray) -> Packed:
    """Six bits in groups of 64: eight codes in six bytes."""
    groups = weight.reshape(len(weight), -1, 64)
    bias = groups.min(-1).astype(np.float16)
    scale = ((groups.max(-1) - bias) / 63).astype(np.float16)
    wide, low = scale.astype(np.float32)[..., None], bias.astype(np.float32)[..., None]
    codes = np.clip(np.round((groups - low) / wide), 0, 63).astype(np.uint8)
    bits = np.unpackbits(codes.reshape(len(weight), -1, 1), axis=-1, bitorder="little")[..., :6]
    packed = np.packbits(bits.reshape(len(weight), -1), axis=-1, bitorder="little").view(np.uint32)
    numbers = (codes.astype(np.float32) * wide + low).reshape(weight.shape)
    return Packed({"weight": ("U32", packed), "scales": ("F16", scale), "biases": ("F16", bias)}, numbers)


def hqq(weight: np.ndarray) -> Packed:
    """Zeros that are no whole numbers; the first half of the groups in the high bits."""
    groups = weight.reshape(-1, 64)
    scale = ((groups.max(1) - groups.min(1)) / 15).astype(np.float16)
    zero = (-groups.min(1) / scale.astype(np.float32)).astype(np.float16)
    wide, low = scale.astype(np.float32)[:, None], zero.astype(np.float32)[:, None]
    codes = np.clip(np.round(groups / wide + low), 0, 15).astype(np.uint8)
    half = len(codes) // 2
    text = np.frombuffer(b"4bit_u8", np.uint8)
    parts: Parts = {
        "W_q": ("U8", (codes[:half] << 4) | codes[half:]),
        "scale": ("F16", scale[:, None]),
        "zero": ("F16", zero[:, None]),
        "shape": ("I64", np.array(weight.shape)),
        "axis": ("I32", np.array(1, np.int32)),
        "nbits": ("I32", np.array(4, np.int32)),
        "group_size": ("I32", np.array(64, np.int32)),
        "packing": ("U8", text),
        "quant_scale": ("U8", np.zeros((), np.uint8)),
    }
    return Packed(parts, ((codes.astype(np.float32) - low) * wide).reshape(weight.shape))


def aqlm(weight: np.ndarray) -> Packed:
    """Pairs of weights as a coarse and a fine vector of a grid."""
    scale = np.abs(weight).max(1).astype(np.float16)
    line = np.linspace(-1, 1, 16)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(256, 1, 2)
    books = np.stack([grid, grid / 15]).astype(np.float16)
    parts, left = [], weight / scale.astype(np.float32)[:, None]
    for step in (1, 15):
        at = np.clip(np.round((left * step + 1) * 7.5), 0, 15).astype(np.int64)
        left = left - line[at] / step
        parts.append(at.reshape(len(weight), -1, 2) @ np.array([16, 1]))
    codes = np.stack(parts, -1)
    wide = books.astype(np.float32).reshape(2, 256, 2)
    numbers = (wide[0][codes[..., 0]] + wide[1][codes[..., 1]]) * scale.astype(np.float32)[:, None, None]
    stored: Parts = {
        "codes": ("I8", codes.astype(np.uint8).view(np.int8)),
        "codebooks": ("F16", books),
        "scales": ("F16", scale.reshape(-1, 1, 1, 1)),
    }
    return Packed(stored, numbers.astype(np.float32).reshape(weight.shape))


def bitnet(weight: np.ndarray) -> Packed:
    scale = np.float32(1 / np.abs(weight).mean()).reshape(1)
    codes = (np.clip(np.round(weight * scale), -1, 1) + 1).astype(np.uint8)
    planes = codes.reshape(4, -1, weight.shape[1])
    packed = planes[0] | planes[1] << 2 | planes[2] << 4 | planes[3] << 6
    return Packed({"weight": ("U8", packed), "weight_scale": ("F32", scale)}, (codes - np.float32(1)) / scale)


_CT = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
SCHEMES = {
    "GPTQ": Scheme({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}, gptq),
    "AWQ": Scheme({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, awq),
    "NF4": Scheme({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4),
    "int8": Scheme({"quant_method": "bitsandbytes", "load_in_8bit": True}, int8),
    "FP8": Scheme({"quant_method": "fp8", "weight_block_size": [96, 80]}, fp8),
    "compressed-tensors": Scheme(
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": _CT}},
        },
        compressed,
    ),
    "MLX": Scheme({"group_size": 64, "bits": 6}, mlx, key="quantization", embedding=True),
    "HQQ": Scheme({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}, hqq),
    "AQLM": Scheme({"quant_method": "aqlm", "num_codebooks": 2, "nbits_per_codebook": 8}, aqlm),
    "BitNet": Scheme({"quant_method": "bitnet"}, bitnet),
}
