"""The families of models that can be converted, and what they make of a folder. Adding one is adding a data file."""

from __future__ import annotations

from typing import Any

from converter.architectures.arcee import ARCEE
from converter.architectures.baichuan import BAICHUAN, ORION
from converter.architectures.base import Family, Parameters, bad_config
from converter.architectures.bert import BERT, NOMIC_BERT, ROBERTA, XLM_ROBERTA
from converter.architectures.bloom import BLOOM
from converter.architectures.cohere import COHERE, COHERE2
from converter.architectures.config import parameters
from converter.architectures.deepseek import DEEPSEEK2, DEEPSEEK3
from converter.architectures.dots1 import DOTS1
from converter.architectures.ernie import ERNIE4_5, ERNIE4_5_MOE
from converter.architectures.exaone import EXAONE, EXAONE4
from converter.architectures.falcon import FALCON
from converter.architectures.gemma import EMBEDDING_GEMMA, GEMMA, GEMMA2, GEMMA3
from converter.architectures.glm import CHATGLM, GLM, GLM4
from converter.architectures.glm_moe import GLM4_MOE, GLM4_MOE_LITE
from converter.architectures.gpt2 import GPT2
from converter.architectures.gpt_bigcode import GPT_BIGCODE
from converter.architectures.gpt_oss import GPT_OSS
from converter.architectures.gptneox import GPT_NEOX
from converter.architectures.granite import GRANITE, GRANITE_MOE
from converter.architectures.hunyuan import HUNYUAN
from converter.architectures.internlm import INTERNLM2, INTERNLM3
from converter.architectures.keys import is_own, metadata
from converter.architectures.lfm2 import LFM2, LFM2_MOE
from converter.architectures.llama import LLAMA
from converter.architectures.llama4 import LLAMA4
from converter.architectures.matching import is_turned, renamed, source_of, tensors
from converter.architectures.minicpm import MINICPM, MINICPM3
from converter.architectures.mistral import MISTRAL
from converter.architectures.mistral3 import MISTRAL3
from converter.architectures.mixtral import MIXTRAL
from converter.architectures.mpt import MPT
from converter.architectures.nemotron import NEMOTRON
from converter.architectures.olmo import OLMO, OLMO2, OLMO3, OLMOE
from converter.architectures.phi import PHI
from converter.architectures.phi3 import PHI3
from converter.architectures.phimoe import PHIMOE
from converter.architectures.qwen import QWEN
from converter.architectures.qwen2 import QWEN2
from converter.architectures.qwen2_moe import QWEN2_MOE
from converter.architectures.qwen3 import QWEN3
from converter.architectures.qwen3_moe import QWEN3_MOE
from converter.architectures.qwen3_next import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT
from converter.architectures.seed_oss import SEED_OSS
from converter.architectures.smollm3 import SMOLLM3
from converter.architectures.stablelm import STABLELM
from converter.architectures.starcoder2 import STARCODER2
from converter.architectures.t5 import T5, T5_ENCODER
from converter.spec import QuenchError

__all__ = [
    "FAMILIES",
    "Family",
    "Parameters",
    "find_family",
    "is_own",
    "is_turned",
    "metadata",
    "notes",
    "parameters",
    "renamed",
    "source_of",
    "tensors",
]

FAMILIES = (
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
    GPT2,
    PHI3,
    BLOOM,
    COHERE,
    COHERE2,
    FALCON,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GPT_BIGCODE,
    GPT_NEOX,
    GRANITE,
    GRANITE_MOE,
    MPT,
    NEMOTRON,
    OLMO,
    OLMO2,
    OLMO3,
    OLMOE,
    PHI,
    PHIMOE,
    SMOLLM3,
    STABLELM,
    STARCODER2,
    DEEPSEEK2,
    DEEPSEEK3,
    CHATGLM,
    GLM,
    GLM4,
    GPT_OSS,
    ERNIE4_5,
    ERNIE4_5_MOE,
    EXAONE,
    EXAONE4,
    INTERNLM2,
    INTERNLM3,
    LLAMA4,
    MINICPM,
    MINICPM3,
    MISTRAL3,
    BERT,
    ROBERTA,
    XLM_ROBERTA,
    NOMIC_BERT,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
    T5,
    T5_ENCODER,
    ARCEE,
    BAICHUAN,
    DOTS1,
    EMBEDDING_GEMMA,
    GLM4_MOE,
    GLM4_MOE_LITE,
    HUNYUAN,
    LFM2,
    LFM2_MOE,
    ORION,
    QWEN,
    SEED_OSS,
)


def find_family(config: dict[str, Any]) -> Family:
    """The family that ``config.json`` names; ``QuenchError`` ``unknown_architecture`` with the list of known ones."""
    classes = config.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)):
        raise bad_config("architectures is not a list of names")
    model_type = config.get("model_type")
    name = classes[0] if classes else model_type
    if not isinstance(name, str) or not name:
        raise bad_config("config.json names no architecture")
    for family in FAMILIES:
        if name in family.classes or (not classes and name in family.model_types):
            return family
    known = "; ".join(f"{family.title} ({family.classes[0]})" for family in FAMILIES)
    raise QuenchError(
        "unknown_architecture",
        "This kind of model cannot be converted yet.",
        f"The model is a {name[:80]}. Supported are {known}.",
        "Look for a ready GGUF file of this model, or choose a model of a supported family.",
    )


def notes(found: Parameters) -> list[str]:
    """What a person should know although the model can be converted."""
    result = []
    window = found.values.get(found.family.window_key) if found.family.window_key else None
    used = found.values.get("use_sliding_window", True)
    context = found.values["max_position_embeddings"]
    if used and isinstance(window, int) and not isinstance(window, bool) and 0 < window < context:
        result.append(
            f"The model looks back over {window} tokens only; the engine will use its full context of {context}, "
            "which can change answers to longer prompts."
        )
    if found.rope["rope_type"] == "dynamic":
        result.append("The model's dynamic context stretching is not stored; beyond its trained context it degrades.")
    if "auto_map" in found.values:
        result.append("The folder brings Python code of its own, which is never run.")
    return result + (found.family.notes(found) if found.family.notes is not None else [])
