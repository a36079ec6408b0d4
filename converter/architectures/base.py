"""What a family of models is: tables that say how its folder becomes GGUF keys and tensors.

Key names, tensor names and the row order of rotary weights are facts of the GGUF format as llama.cpp reads it; names
on the other side are those of the ``transformers`` library's checkpoints and ``config.json``. The code that reads the
tables is in ``config`` (values and sizes), ``keys`` (GGUF keys), ``matching`` (tensors) and ``rope``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converter.sources.views import Size, View
from converter.spec import QuenchError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from converter.sources.base import MetaEntry


@dataclass(frozen=True, slots=True)
class TensorRule:
    """``source`` in the checkpoint becomes ``target``; ``{i}`` is the layer.

    ``shape`` is what the checkpoint holds, each length a name or an expression of sizes (``"query + 2 * key"``).
    ``view`` is the order or the part of it that the engine wants; several views are put one under the other. With
    ``{e}`` in ``source`` there are ``each`` tensors of that shape, stacked into one with a dimension more. ``change``
    names an entry of ``matching.CHANGES``, applied to every number. ``packed`` is for weights that are stored as MXFP4
    and go into GGUF as they are: of every matrix the rows ``first``, ``first + step`` and so on. ``when`` says whether
    a layer (-1: outside the layers) has this tensor at all; a required one must then be there.
    """

    source: str
    target: str
    shape: tuple[Size, ...]
    required: bool = True
    view: View | tuple[View, ...] | None = None
    each: str = "experts"
    change: str = ""
    packed: tuple[int, int] | None = None
    when: Callable[[Parameters, int], bool] | None = None


@dataclass(frozen=True, slots=True)
class KeyRule:
    """A GGUF key ``<architecture>.<key>`` (``key`` as it stands if it begins with ``tokenizer.`` or ``general.``).

    ``source`` names a config value (canonical, see :class:`Family`), or is a function of the model's parameters. None
    is not written. ``type`` is UINT32, INT32, FLOAT32, BOOL or STRING, with ``[]`` for a list of them.
    """

    key: str
    type: str
    source: str | Callable[[Parameters], Any]


@dataclass(frozen=True, slots=True)
class Family:
    """A family of architectures, as data.

    ``aliases`` gives other names under which ``config.json`` may have a value, by its canonical name: the first that is
    there counts. ``defaults`` are what transformers assumes where ``config.json`` is silent: a value, or a function of
    the values so far (in order). ``fixed`` are functions for what the architecture settles, whatever ``config.json``
    says. ``required`` must be there as whole numbers, ``reals`` as numbers. ``sizes`` are further names for shapes:
    config values, or expressions of sizes.

    ``renames`` are (regular expression, replacement) for the names of stored tensors, before the rules; ``ignored``
    are expressions for tensors that no engine reads; ``zeros`` for those that it leaves out because they hold nothing
    but zeros, which is made sure of. ``later_layers_left_out`` stands where checkpoints number layers beyond the
    model's own, which predict tokens further ahead and which the engine does without. ``own_output`` stands where the
    engine wants an output matrix even if it is the embedding, ``pooled`` for models whose vectors of a text's tokens
    become one. ``activations`` are the names of the one function that the engine's code computes in the feed-forward
    (none: not looked at). ``computed`` makes tensors that no file holds.

    ``rope_kinds`` are the rotary scalings that the engine's code for this architecture heeds (none: it has no rotary
    positions), and ``rope_keys`` which keys they get: all, only the base frequency (``base``), all but a base of 10000,
    which goes without saying (``unusual``), or ``none`` where the engine knows it.
    ``vocabulary`` names the habits by which tokenizer files are read. ``check`` raises for what the engine would run
    wrongly, ``notes`` says what a person should know.
    """

    title: str
    architecture: str
    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    tensors: tuple[TensorRule, ...]
    keys: tuple[KeyRule, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    required: tuple[str, ...] = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
                                 "vocab_size")  # fmt: skip
    reals: tuple[str, ...] = ("rms_norm_eps",)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    rope_kinds: frozenset[str] = frozenset({"default", "linear", "yarn", "dynamic"})
    rope_keys: str = "all"
    window_key: str = ""
    vocabulary: str = "bpe"
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    later_layers_left_out: bool = False
    own_output: bool = False
    pooled: bool = False
    activations: frozenset[str] = frozenset()
    computed: Callable[[Parameters], list[tuple[str, npt.NDArray[np.float32]]]] | None = None
    check: Callable[[Parameters], None] | None = None
    notes: Callable[[Parameters], list[str]] | None = None
    extra_keys: Callable[[Parameters], list[MetaEntry]] | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model that tensor shapes are checked against, all in elements. ``others`` are a family's own."""

    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    query: int
    key: int
    vocabulary: int
    experts: int = 0
    others: Mapping[str, int] = field(default_factory=dict)

    def of(self, expression: Size) -> int:
        """A size by name, or a sum of products (``"query + 2 * key"``; ``/`` divides without rest)."""
        if isinstance(expression, int):
            return expression
        total = 0
        for term in expression.replace("-", "+-").split("+"):
            product = -1 if term.startswith("-") else 1
            divided = term.lstrip("-").split("/")
            for factor in divided[0].split("*"):
                product *= self._named(factor.strip())
            for divisor in divided[1:]:
                product //= self._named(divisor.strip())
            total += product
        return total

    def _named(self, name: str) -> int:
        if name.isdecimal():
            return int(name)
        return self.others[name] if name in self.others else int(getattr(self, name))


@dataclass(frozen=True)
class Parameters:
    """``config.json`` with a family's names and defaults; ``values`` holds canonical names (and all others).

    ``rope`` are the rotary settings of the layers that see everything, ``rope_local`` those of layers with a window
    where they have their own.
    """

    family: Family
    values: dict[str, Any]
    sizes: Sizes
    rope: dict[str, Any] = field(default_factory=dict)
    rope_local: dict[str, Any] = field(default_factory=dict)


# Hugging Face's rotary rows (halves rotate) as GGML's Llama wants them (neighbours rotate), for so many heads.
ROTARY_QUERY = View("(h p j) ... -> (h j p) ...", {"h": "heads", "p": 2, "j": "head/2"})
ROTARY_KEY = View("(h p j) ... -> (h j p) ...", {"h": "kv_heads", "p": 2, "j": "head/2"})
# One name for the function, or for what comes so close to it that the engine computes the one for all.
GELU = frozenset({"gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"})
SILU = frozenset({"silu", "swish"})
# One matrix for queries, keys and values, each head's three together, as all queries, all keys, all values.
BY_HEAD = View("(h t d) ... -> (t h d) ...", {"h": "heads", "t": 3, "d": "head"})
# Linear layers of GPT-2's time are stored as (in, out).
TRANSPOSED = View("a b -> b a")


def layer(source: str, target: str, *shape: Size, **options: Any) -> TensorRule:
    """A rule of the layers: ``model.layers.{i}.<source>`` becomes ``blk.{i}.<target>``."""
    return TensorRule(f"model.layers.{{i}}.{source}", f"blk.{{i}}.{target}", shape, **options)


def output_or_embedding(output: str, embedding: str) -> tuple[TensorRule, TensorRule]:
    """The rules for a family with ``own_output``: the output matrix, or the embedding once more where they are one."""
    shape = ("vocabulary", "embedding")
    return (
        TensorRule(output, "output.weight", shape),
        TensorRule(embedding, "output.weight", shape, when=lambda found, _: bool(found.values["tie_word_embeddings"])),
    )


def weight_and_bias(
    source: str, target: str, *shape: Size, biased: bool = True, required: bool = True, view: View | None = None
) -> tuple[TensorRule, ...]:
    """The rules for the weight of a matrix or norm, of ``shape``, and for its bias, if it may have one, of the first
    length. ``required`` is said of the bias."""
    weight = TensorRule(f"{source}.weight", f"{target}.weight", shape, view=view)
    bias = TensorRule(f"{source}.bias", f"{target}.bias", shape[:1], required=required, view=view)
    return (weight, bias) if biased else (weight,)


# Llama's layout, which many families share but for what their own files add.
EMBEDDING = TensorRule("model.embed_tokens.weight", "token_embd.weight", ("vocabulary", "embedding"))
OUTPUT = TensorRule("lm_head.weight", "output.weight", ("vocabulary", "embedding"), required=False)
OUTPUT_NORM = TensorRule("model.norm.weight", "output_norm.weight", ("embedding",))
NORMS = (
    OUTPUT_NORM,
    layer("input_layernorm.weight", "attn_norm.weight", "embedding"),
    layer("post_attention_layernorm.weight", "ffn_norm.weight", "embedding"),
)
VALUE_AND_OUTPUT = (
    layer("self_attn.v_proj.weight", "attn_v.weight", "key", "embedding"),
    layer("self_attn.o_proj.weight", "attn_output.weight", "embedding", "query"),
)
FEED_FORWARD = (
    layer("mlp.gate_proj.weight", "ffn_gate.weight", "feed_forward", "embedding"),
    layer("mlp.up_proj.weight", "ffn_up.weight", "feed_forward", "embedding"),
    layer("mlp.down_proj.weight", "ffn_down.weight", "embedding", "feed_forward"),
)
LAYOUT = (EMBEDDING, OUTPUT, *NORMS, *VALUE_AND_OUTPUT, *FEED_FORWARD)
PLAIN_ATTENTION = (
    layer("self_attn.q_proj.weight", "attn_q.weight", "query", "embedding"),
    layer("self_attn.k_proj.weight", "attn_k.weight", "key", "embedding"),
)
PAIRED_ATTENTION = (
    layer("self_attn.q_proj.weight", "attn_q.weight", "query", "embedding", view=ROTARY_QUERY),
    layer("self_attn.k_proj.weight", "attn_k.weight", "key", "embedding", view=ROTARY_KEY),
)
HEAD_NORMS = (
    layer("self_attn.q_norm.weight", "attn_q_norm.weight", "head"),
    layer("self_attn.k_norm.weight", "attn_k_norm.weight", "head"),
)


def attention_biases(*names: str, paired: bool, required: bool = True) -> tuple[TensorRule, ...]:
    """Bias rules for the projections ``q``, ``k``, ``v`` and ``o`` that ``names`` lists."""
    table: dict[str, tuple[str, str, View | None]] = {
        "q": ("attn_q", "query", ROTARY_QUERY if paired else None),
        "k": ("attn_k", "key", ROTARY_KEY if paired else None),
        "v": ("attn_v", "key", None),
        "o": ("attn_output", "embedding", None),
    }
    return tuple(
        layer(f"self_attn.{name}_proj.bias", f"{target}.bias", size, required=required, view=view)
        for name, (target, size, view) in ((name, table[name]) for name in names)
    )


def feed_forward_biases(*names: str, required: bool = True) -> tuple[TensorRule, ...]:
    """Bias rules for the feed-forward projections ``gate``, ``up`` and ``down`` that ``names`` lists."""
    size = {"gate": "feed_forward", "up": "feed_forward", "down": "embedding"}
    return tuple(layer(f"mlp.{name}_proj.bias", f"ffn_{name}.bias", size[name], required=required) for name in names)


def with_changes(rules: tuple[TensorRule, ...], change: str, suffix: str = "norm.weight") -> tuple[TensorRule, ...]:
    """The same rules, with ``change`` for those whose source ends in ``suffix``."""
    from dataclasses import replace

    return tuple(replace(rule, change=change) if rule.source.endswith(suffix) else rule for rule in rules)


# The keys that llama.cpp's converter writes for every text model whose config has them.
KEYS = (
    KeyRule("block_count", "UINT32", "num_hidden_layers"),
    KeyRule("context_length", "UINT32", "max_position_embeddings"),
    KeyRule("embedding_length", "UINT32", "hidden_size"),
    KeyRule("feed_forward_length", "UINT32", "intermediate_size"),
    KeyRule("attention.head_count", "UINT32", "num_attention_heads"),
    KeyRule("attention.head_count_kv", "UINT32", "num_key_value_heads"),
    KeyRule("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps"),
    KeyRule("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps"),
    KeyRule("expert_count", "UINT32", "num_experts"),
    KeyRule("expert_used_count", "UINT32", "num_experts_per_tok"),
    KeyRule("attention.key_length", "UINT32", "head_dim"),
    KeyRule("attention.value_length", "UINT32", "head_dim"),
    KeyRule("attention.causal", "BOOL", lambda found: False if found.values.get("is_causal") is False else None),
)


def keys_without(*names: str) -> tuple[KeyRule, ...]:
    """:data:`KEYS` without some."""
    return tuple(rule for rule in KEYS if rule.key not in names)


def not_run(found: Parameters, reason: str) -> QuenchError:
    """The error for a variant that the engine's code for the family would run wrongly or not at all."""
    return QuenchError(
        "unsupported_variant",
        "This variant of the model cannot be run.",
        f"{reason}, which the engine's code for {found.family.title} does not know.",
        "Choose another model of the family.",
    )


def bad_config(reason: str) -> QuenchError:
    return QuenchError(
        "bad_config",
        "The model's config.json does not describe a model.",
        f"{reason}.",
        "Download config.json again from the model's page.",
    )
