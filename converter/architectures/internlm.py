"""InternLM 2, whose queries, keys and values are one matrix, group by group, and InternLM 3, a Llama."""

from __future__ import annotations

from dataclasses import replace

from converter.architectures.base import KEYS, SILU, Family, Parameters, TensorRule, layer, not_run
from converter.architectures.llama import LLAMA
from converter.sources.views import Size, View

# A group's queries, then its key, then its value; halves that rotate become neighbours, as in Llama.
_GROUP: dict[str, Size] = {"g": "kv_heads", "s": "heads / kv_heads + 2", "p": 2, "j": "head/2"}
_QUERIES = View("(g s p j) ... -> (g s j p) ...", _GROUP, keep={"s": (0, "heads / kv_heads")})
_KEYS = View("(g s p j) ... -> (g j p) ...", _GROUP, at={"s": "heads / kv_heads"})
_VALUES = View(
    "(g s d) ... -> (g d) ...",
    {"g": "kv_heads", "s": "heads / kv_heads + 2", "d": "head"},
    at={"s": "heads / kv_heads + 1"},
)


def _check(found: Parameters) -> None:
    if found.values.get("bias"):
        raise not_run(found, "Its matrices have biases")


INTERNLM2 = Family(
    title="InternLM 2",
    architecture="internlm2",
    classes=("InternLM2ForCausalLM",),
    model_types=("internlm2",),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    tensors=(
        TensorRule("model.tok_embeddings.weight", "token_embd.weight", ("vocabulary", "embedding")),
        TensorRule("output.weight", "output.weight", ("vocabulary", "embedding"), required=False),
        TensorRule("model.norm.weight", "output_norm.weight", ("embedding",)),
        layer("attention_norm.weight", "attn_norm.weight", "embedding"),
        layer("ffn_norm.weight", "ffn_norm.weight", "embedding"),
        layer("attention.wqkv.weight", "attn_q.weight", "query + 2 * key", "embedding", view=_QUERIES),
        layer("attention.wqkv.weight", "attn_k.weight", "query + 2 * key", "embedding", view=_KEYS),
        layer("attention.wqkv.weight", "attn_v.weight", "query + 2 * key", "embedding", view=_VALUES),
        layer("attention.wo.weight", "attn_output.weight", "embedding", "query"),
        layer("feed_forward.w1.weight", "ffn_gate.weight", "feed_forward", "embedding"),
        layer("feed_forward.w3.weight", "ffn_up.weight", "feed_forward", "embedding"),
        layer("feed_forward.w2.weight", "ffn_down.weight", "embedding", "feed_forward"),
    ),
    keys=KEYS,
    activations=SILU,
    check=_check,
    vocabulary="internlm2",
)

INTERNLM3 = replace(
    LLAMA,
    title="InternLM 3",
    classes=("InternLM3ForCausalLM",),
    model_types=("internlm3",),
    defaults={"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    activations=SILU,
    vocabulary="internlm3",
)
