"""Writes ``quantized.safetensors.xz``: small weights as the quantization libraries store them, and as they decode them.

Run in an environment of its own (torch, safetensors and the libraries named in ``LIBRARIES``; see there what is not
installed but read from a source folder). With a seed and a file behind it, other random numbers go into that file,
from the libraries that are there. Names in the file are ``<case>/<tensor>``; ``<case>/expected/<tensor>`` is the
weight that the library itself makes of the parts, computed in float32 and rounded to bfloat16. ``__metadata__`` has
every case's quantization settings as JSON.

    TORCHDYNAMO_DISABLE=1 PYTHONPATH=<source of hqq> python tests/golden/make_quantized.py
"""

from __future__ import annotations

import importlib
import json
import lzma
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save

LIBRARIES = (
    "auto-gptq 0.7.1, autoawq 0.2.7.post3, bitsandbytes 0.50.2, compressed-tensors 0.20.1, mlx 0.32.4 (CPU), hqq 0.2.8 "
    "(from its source), aqlm 1.1.7, transformers 5.24.0"
)
ROWS, COLUMNS = 32, 64
MODULE = "model.layers.0.mlp.up_proj"

SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 0
tensors: dict[str, torch.Tensor] = {}
settings: dict[str, dict] = {}


def seeded(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, name)) + SEED)


def matrix(name: str, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return torch.randn(rows, columns, generator=seeded(name)) * 0.05


def add(case: str, config: dict, parts: dict[str, torch.Tensor], expected: torch.Tensor, name: str = "") -> None:
    settings[case] = config
    for part, values in parts.items():
        tensors[f"{case}/{part}"] = values.detach().clone().contiguous()
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


# --- FP8 -------------------------------------------------------------------------------------------------------------


def fp8() -> None:
    """torch decodes the bytes; the scales are factors, which transformers' ``Fp8Dequantize`` says too."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    every = torch.arange(256, dtype=torch.uint8)
    for name, kind in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        codes = every[torch.randperm(256, generator=seeded(name))].reshape(8, 32)
        weight = codes.view(kind)
        weight = torch.where(weight.float().isfinite(), weight.float(), 0).to(kind)
        for shape in ((), (8,), (8, 1)):
            scale = torch.rand(shape, generator=seeded(name)) * 0.01
            case = f"fp8-{name}-{len(shape)}"
            parts = in_module({"weight": weight, "weight_scale": scale, "input_scale": torch.ones(())})
            factor = scale if len(shape) != 1 else scale[:, None]
            add(case, {"quant_method": "fp8", "activation_scheme": "static"}, parts, weight.float() * factor)
    weight = matrix("fp8-blocks", 48, 80).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 5, generator=seeded("fp8-blocks"))
    config = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    expected = Fp8Dequantize(None)._dequantize_one(weight, scale, torch.float32)
    add("fp8-blocks", config, in_module({"weight": weight, "weight_scale_inv": scale}), expected)
    # The last block of rows and of columns is cut short.
    weight, scale = weight[:40, :72], scale.to(torch.bfloat16)
    expected = weight.float() * scale.float().repeat_interleave(16, 0)[:40].repeat_interleave(16, 1)[:, :72]
    add("fp8-blocks-cut", config, in_module({"weight": weight, "weight_scale_inv": scale}), expected)
    # A stack of experts, a scale for each.
    weight = matrix("fp8-experts", 48, 32).reshape(3, 16, 32).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 2, 2, generator=seeded("fp8-experts"))
    expected = weight.float() * scale.repeat_interleave(8, 1).repeat_interleave(16, 2)
    parts = {"mlp.experts.down_proj": weight, "mlp.experts.down_proj_scale_inv": scale}
    add("fp8-experts", {**config, "weight_block_size": [8, 16]}, parts, expected, "mlp.experts.down_proj")


# --- compressed-tensors ----------------------------------------------------------------------------------------------


def compressed() -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def case(name, layout, *, shape=(16, COLUMNS), dtype=torch.float32, g_idx=False, **args):
        weights = QuantizationArgs(**args)
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
        rows, columns = shape
        generator = seeded(name)
        groups = columns // weights.group_size if weights.group_size and weights.group_size > 0 else 1
        size = (rows, groups)
        if weights.strategy == "tensor":
            size = (1,)
        elif weights.strategy == "block":
            height, width = weights.block_structure
            size = (-(-rows // height), -(-columns // width))
        scale = (torch.rand(size, generator=generator) * 0.01 + 0.002).to(dtype)
        state = {"weight": matrix(name, rows, columns).to(dtype), "weight_scale": scale}
        if not weights.symmetric:
            low, high = -(2 ** (weights.num_bits - 1)), 2 ** (weights.num_bits - 1)
            state["weight_zero_point"] = torch.randint(low, high, size, generator=generator).to(torch.int8)
        compressor = BaseCompressor.get_value_from_registry(layout)
        packed = compressor.compress(dict(state), scheme)
        wide = {**packed, "weight_scale": packed["weight_scale"].float()}
        expected = compressor.decompress(wide, scheme)["weight"]
        group = {"targets": ["Linear"], "weights": json.loads(weights.model_dump_json()), "input_activations": None}
        config = {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}
        add(name, {**config, "ignore": ["lm_head"]}, in_module(packed), expected)

    int4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}
    case("ct-int4", "pack-quantized", symmetric=True, **int4)
    case("ct-int4-asymmetric", "pack-quantized", symmetric=False, **int4, shape=(36, 48), dtype=torch.bfloat16)
    case("ct-int8-packed", "pack-quantized", num_bits=8, type="int", strategy="channel", symmetric=True)
    case("ct-int3", "pack-quantized", num_bits=3, type="int", strategy="channel", symmetric=False, shape=(20, 72))
    case("ct-int8", "int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True)
    case("ct-int8-asymmetric", "int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False)
    case("ct-int8-tensor", "naive-quantized", num_bits=8, type="int", strategy="tensor", symmetric=True)
    case("ct-int8-group", "naive-quantized", num_bits=8, type="int", strategy="group", group_size=32, symmetric=True)
    case("ct-fp8", "float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True)
    case("ct-fp8-tensor", "float-quantized", num_bits=8, type="float", strategy="tensor", symmetric=True)
    block = {"strategy": "block", "block_structure": [16, 16], "symmetric": True}
    case("ct-fp8-block", "float-quantized", num_bits=8, type="float", **block, shape=(40, 48))

    # Before packing became dense, a word held whole codes only: ten of three bits, highest last.
    name = "ct-int3-old"
    codes = torch.randint(0, 8, (ROWS, COLUMNS), generator=seeded(name))
    padded = torch.nn.functional.pad(codes, (0, 6)).reshape(ROWS, 7, 10)
    words = sum(padded[..., i] << 3 * i for i in range(10)).to(torch.int32)
    scale = torch.rand(ROWS, 1, generator=seeded(name))
    weights = {"num_bits": 3, "type": "int", "strategy": "channel", "symmetric": True}
    groups = {"a": {"targets": ["Linear"], "weights": weights}, "b": {"targets": ["x"], "weights": {"num_bits": 8}}}
    config = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    parts = {"weight_packed": words, "weight_scale": scale, "weight_shape": torch.tensor([ROWS, COLUMNS])}
    add(name, config, in_module(parts), (codes - 4).float() * scale)


# --- MLX -------------------------------------------------------------------------------------------------------------


def mlx() -> None:
    import mlx.core as mx
    import numpy as np

    def torch_of(array):
        return torch.from_numpy(np.array(array))

    settled = {"group_size": 64, "bits": 4, "mode": "affine"}
    for bits, size in ((2, 32), (3, 64), (4, 64), (5, 64), (6, 32), (8, 64)):
        name = f"mlx-{bits}"
        packed, scales, biases = mx.quantize(mx.array(matrix(name, 24, 64).numpy()), group_size=size, bits=bits)
        half, half_bias = (each.astype(mx.float16) for each in (scales, biases))
        wide = [each.astype(mx.float32) for each in (half, half_bias)]
        expected = torch_of(mx.dequantize(packed, *wide, group_size=size, bits=bits))
        parts = {"weight": torch_of(packed), "scales": torch_of(half), "biases": torch_of(half_bias)}
        add(name, {**settled, MODULE: {"group_size": size, "bits": bits}}, in_module(parts), expected)
    packed, scales = mx.quantize(mx.array(matrix("mlx-mxfp4", 24, 64).numpy()), group_size=32, bits=4, mode="mxfp4")
    expected = torch_of(
        mx.dequantize(packed, scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32).astype(mx.float32)
    )
    parts = {"weight": torch_of(packed), "scales": torch_of(scales)}
    add("mlx-mxfp4", {"group_size": 32, "bits": 4, "mode": "mxfp4"}, in_module(parts), expected)


# --- HQQ -------------------------------------------------------------------------------------------------------------


def hqq() -> None:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    def case(name, bits, axis, size=16, shape=(20, COLUMNS), as_float=False):  # noqa: PLR0917
        linear = torch.nn.Linear(shape[1], shape[0], bias=False)
        linear.weight.data = matrix(name, *shape)
        config = BaseQuantizeConfig(nbits=bits, group_size=size, axis=axis, view_as_float=as_float)
        layer = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu")
        expected = layer.dequantize()
        parts = {part: v for part, v in layer.state_dict().items() if isinstance(v, torch.Tensor)}
        add(name, {"quant_method": "hqq", "quant_config": {}}, in_module(parts), expected.float())

    for bits in (8, 4, 3, 2, 1):
        case(f"hqq-{bits}", bits, 1)
    case("hqq-3-rest", 3, 1, shape=(24, 48))
    case("hqq-4-axis-0", 4, 0, size=16)
    case("hqq-3-axis-0", 3, 0, size=16)
    case("hqq-4-as-float", 4, 1, as_float=True)
    case("hqq-4-groups-across-rows", 4, 1, size=32, shape=(24, 48))


# --- AQLM ------------------------------------------------------------------------------------------------------------


def aqlm() -> None:
    from aqlm.utils import _dequantize_weight, unpack_int_data

    for name, count, bits, height in (("aqlm-1x9", 1, 9, 1), ("aqlm-2x8", 2, 8, 1), ("aqlm-3x5-tall", 3, 5, 2)):
        generator = seeded(name)
        kind = torch.int8 if bits <= 8 else torch.int16
        codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (24 // height, 8, count), generator=generator)
        books = torch.randn(count, 2**bits, height, 8 if bits < 9 else 4, generator=generator).half()
        scales = torch.rand(24 // height, 1, 1, 1, generator=generator).half()
        parts = {"codes": codes.to(kind), "codebooks": books, "scales": scales}
        expected = _dequantize_weight(unpack_int_data(parts["codes"], bits), books.float(), scales.float())
        config = {"quant_method": "aqlm", "num_codebooks": count, "nbits_per_codebook": bits}
        add(name, config, in_module(parts), expected)


# --- BitNet and MXFP4 ------------------------------------------------------------------------------------------------


def of_transformers() -> None:
    from transformers.integrations.bitnet import pack_weights, unpack_weights
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    codes = torch.randint(-1, 2, (ROWS, COLUMNS), generator=seeded("bitnet"))
    packed, scale = pack_weights(codes.clone()), torch.tensor([37.25], dtype=torch.bfloat16)
    unpacked = unpack_weights(packed, torch.float32)
    for name, config, expected in (
        ("bitnet", {}, unpacked / scale.float()),
        ("bitnet-auto", {"linear_class": "autobitlinear", "quantization_mode": "offline"}, unpacked * scale.float()),
    ):
        add(name, {"quant_method": "bitnet", **config}, in_module({"weight": packed, "weight_scale": scale}), expected)

    blocks = torch.randint(0, 256, (2, 12, 3, 16), generator=seeded("mxfp4"), dtype=torch.uint8)
    scales = torch.randint(110, 130, (2, 12, 3), generator=seeded("mxfp4"), dtype=torch.uint8)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    parts = {f"{name}_blocks": blocks, f"{name}_scales": scales}
    add("mxfp4", {"quant_method": "mxfp4"}, parts, expected, f"{name}_blocks")


if __name__ == "__main__":
    for make in (gptq, awq, bitsandbytes, fp8, compressed, mlx, hqq, aqlm, of_transformers):
        try:
            make()
        except ImportError as error:
            if not SEED:
                raise
            print(f"without {make.__name__}: {error}")
    target = Path(sys.argv[2] if SEED else Path(__file__).with_name("quantized.safetensors.xz"))
    whole = save(tensors, metadata={"settings": json.dumps(settings), "libraries": LIBRARIES})
    if target.suffix != ".xz":
        target.write_bytes(whole)
        sys.exit()
    target.write_bytes(lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME))
    print(target.stat().st_size, "bytes,", len(settings), "cases")
