"""Writes ``quantized.safetensors``: small weights as the quantization libraries store them, and as they decode them.

Run in an environment of its own (torch, safetensors and the libraries named in ``LIBRARIES``; see there what is not
installed but read from a source folder). Names in the file are ``<case>/<tensor>``; ``<case>/expected/<tensor>`` is the
weight that the library itself makes of the parts, computed in float32 and rounded to bfloat16. ``__metadata__`` has
every case's quantization settings as JSON.

    python tests/golden/make_quantized.py
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

LIBRARIES = "auto-gptq 0.7.1, autoawq 0.2.7.post3, bitsandbytes 0.50.2"
ROWS, COLUMNS = 32, 64
MODULE = "model.layers.0.mlp.up_proj"

tensors: dict[str, torch.Tensor] = {}
settings: dict[str, dict] = {}


def seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, name)))


def matrix(name: str, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(rows, columns, generator=seeded(name)) * 0.05


def add(case: str, config: dict, parts: dict[str, torch.Tensor], expected: torch.Tensor, name: str = "") -> None:
    settings[case] = config
    for part, values in parts.items():
        tensors[f"{case}/{part}"] = values.contiguous()
    assert expected.dtype == torch.float32, case
    tensors[f"{case}/expected/{name or MODULE + '.weight'}"] = expected.contiguous().to(torch.bfloat16)


def package(name: str) -> None:
    """Makes a package importable without running its ``__init__``, which wants a graphics card."""
    spec = importlib.util.find_spec(name)
    module = types.ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = module


def in_module(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{MODULE}.{part}": values for part, values in parts.items()}


# --- GPTQ ------------------------------------------------------------------------------------------------------------


def gptq() -> None:
    for name in ("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear"):
        package(name)
    from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear

    def packed(bits, size, scales, zeros, codes, order):  # noqa: PLR0917
        linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
        linear.weight.data = ((codes - zeros[:, order]) * scales[:, order]).float()
        module = QuantLinear(bits, size, COLUMNS, ROWS, False, weight_dtype=torch.float32)
        module.pack(linear, scales.float(), zeros.float().clone(), order.int())
        return module

    def case(name, bits, size, *, ordered=False, sym=True, dtype=torch.float16, version=1, meta=None, plain=False):
        generator = seeded(name)
        groups = COLUMNS // size
        codes = torch.randint(0, 2**bits, (ROWS, COLUMNS), generator=generator)
        scales = (torch.rand(ROWS, groups, generator=generator) * 0.02 + 0.001).to(dtype).float()
        zeros = torch.full((ROWS, groups), 2 ** (bits - 1))
        if not sym:
            zeros = torch.randint(1, 2**bits, (ROWS, groups), generator=generator)
        order = torch.arange(COLUMNS) // size
        if ordered:
            order = order[torch.randperm(COLUMNS, generator=generator)]
        module = packed(bits, size, scales, zeros, codes, order)
        expected = module(torch.eye(COLUMNS)).T
        qzeros = module.qzeros
        if version == 2:
            qzeros = packed(bits, size, scales, zeros + 1, codes, order).qzeros
        parts = {"qweight": module.qweight, "qzeros": qzeros, "scales": module.scales.to(dtype)}
        if not plain:
            parts["g_idx"] = module.g_idx.int()
        config = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": ordered, "sym": sym}
        if version == 2:
            config["checkpoint_format"] = "gptq_v2"
        if meta:
            config["meta"] = meta
        add(name, config, in_module(parts), expected)

    for bits in (2, 3, 4, 8):
        case(f"gptq-{bits}", bits, 32)
    case("gptq-3-asymmetric", 3, 16, sym=False)
    case("gptq-4-asymmetric", 4, 16, sym=False)
    case("gptq-4-act-order", 4, 16, ordered=True, sym=False)
    case("gptq-3-act-order-v2", 3, 16, ordered=True, sym=False, version=2)
    case("gptq-4-v2", 4, 32, sym=False, version=2)
    case("gptq-4-bf16", 4, 32, dtype=torch.bfloat16)
    case("gptq-4-no-g_idx", 4, 64, plain=True)

    # GPTQModel takes one from whole words, so that a zero of 0 borrows from its neighbour, and adds it back so.
    name = "gptq-4-zero-of-0"
    codes = torch.randint(0, 16, (ROWS, COLUMNS), generator=seeded(name))
    scales = torch.rand(ROWS, 2, generator=seeded(name)).half().float() * 0.02
    scales = scales.half().float()
    zeros = torch.randint(0, 4, (ROWS, 2), generator=seeded(name))
    order = torch.arange(COLUMNS) // 32
    words = sum((zeros.T.reshape(2, ROWS // 8, 8)[..., i] << 4 * i) for i in range(8))
    expected = (codes - zeros[:, order]).float() * scales[:, order]
    qweight = sum((codes.T.reshape(COLUMNS // 8, 8, ROWS)[:, i] << 4 * i) for i in range(8)).to(torch.int32)
    parts = {"qweight": qweight, "qzeros": (words - 0x11111111).to(torch.int32), "scales": scales.T.half()}
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    add(name, {**config, "meta": {"quantizer": ["gptqmodel:4.0.0"]}}, in_module(parts), expected)


# --- AWQ -------------------------------------------------------------------------------------------------------------


def awq() -> None:
    for name in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
        package(name)
    sys.modules["awq.utils.utils"] = types.SimpleNamespace(get_best_device=lambda: "cpu")
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.modules.linear.gemv import WQLinear_GEMV
    from awq.utils.packing_utils import dequantize_gemm

    for name, kind, size in (("awq-gemm", WQLinear_GEMM, 32), ("awq-gemv", WQLinear_GEMV, 32)):
        generator = seeded(name)
        columns = 128
        groups = columns // size
        codes = torch.randint(0, 16, (ROWS, columns), generator=generator)
        zeros = torch.randint(0, 16, (ROWS, groups), generator=generator)
        scales = (torch.rand(ROWS, groups, generator=generator) * 0.02 + 0.001).half()
        group = torch.arange(columns) // size
        expected = (codes - zeros[:, group]).float() * scales.float()[:, group]
        linear = torch.nn.Linear(columns, ROWS, bias=False)
        linear.weight.data = expected
        across = kind is WQLinear_GEMM
        module = kind.from_linear(
            linear,
            4,
            size,
            scales=scales.float().T.contiguous() if across else scales.float(),
            zeros=zeros.T.contiguous() if across else zeros,
        )
        if across:
            decoded = dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, size).T
            assert torch.equal(decoded, expected)
        parts = {part: getattr(module, part) for part in ("qweight", "qzeros", "scales")}
        config = {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True}
        add(name, {**config, "version": name.removeprefix("awq-")}, in_module(parts), expected)


# --- bitsandbytes ----------------------------------------------------------------------------------------------------


def bitsandbytes() -> None:
    from bitsandbytes import functional

    def four_bit(name, kind, block, *, nested=False, shape=(ROWS, COLUMNS), dtype=torch.float32):
        weight = matrix(name, *shape).to(dtype)
        packed, state = functional.quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=kind)
        state.dtype = torch.float32
        expected = functional.dequantize_4bit(packed, state)
        state.dtype = dtype
        parts = {f"{MODULE}.weight": packed}
        parts |= {f"{MODULE}.weight.{part}": values for part, values in state.as_dict(packed=True).items()}
        config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
        add(name, {**config, "bnb_4bit_use_double_quant": nested}, parts, expected)

    four_bit("bnb-nf4", "nf4", 64)
    four_bit("bnb-nf4-nested", "nf4", 32, nested=True, shape=(32, 264), dtype=torch.bfloat16)
    four_bit("bnb-fp4", "fp4", 64)
    four_bit("bnb-fp4-nested", "fp4", 128, nested=True, dtype=torch.float16)
    four_bit("bnb-nf4-blocks-across-rows", "nf4", 64, shape=(16, 80))

    weight = matrix("bnb-int8").half()
    codes, scales, _ = functional.int8_vectorwise_quant(weight)
    parts = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    add("bnb-int8", config, in_module(parts), functional.int8_vectorwise_dequant(codes, scales))


if __name__ == "__main__":
    for make in (gptq, awq, bitsandbytes):
        make()
    target = Path(__file__).with_name("quantized.safetensors")
    save_file(tensors, target, metadata={"settings": json.dumps(settings), "libraries": LIBRARIES})
    print(target.stat().st_size, "bytes,", len(settings), "cases")
