"""The recipes, and the choice of a type for every tensor.

A recipe names one base type and, for a few kinds of tensors, a mix (``converter.mixes``) that gives some layers more
bits. All of it follows llama.cpp's ``llama-quantize`` (release bundled with llama-cpp-python 0.3.36), so that a file
made here has the same type for every tensor. :func:`types` is pure: names, shapes and a few hyperparameters in, a type
and a sentence for every tensor out. Nothing here touches numpy or a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from converter.mixes import EIGHT_WHY, EMBEDDINGS, MIXES, NO_MIX, OUTPUTS, TWO_BIT, Mix, Place
from converter.spec import QuenchError, RuleCount

QUANTIZATION_VERSION = 2
"""``general.quantization_version``: the revision of the block formats that the kernels write."""

BLOCK_WEIGHTS: Mapping[str, int] = {
    "F32": 1, "F16": 1, "BF16": 1,
    "Q4_0": 32, "Q4_1": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32, "IQ4_NL": 32,
    "Q2_K": 256, "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "IQ4_XS": 256,
}  # fmt: skip
"""Weights in one block of every type that can be written. A row must be a whole number of blocks."""

PLAIN_TYPES = frozenset({"F32", "F16", "BF16"})
MXFP4_FILE_TYPE = 38
"""``general.file_type`` of a file whose experts are MXFP4, whatever the rest is."""
"""Types without blocks: a recipe with such a base runs no mix."""

_UNWRITTEN_BLOCKS = {
    "IQ1_S": 256, "IQ1_M": 256, "IQ2_XXS": 256, "IQ2_XS": 256, "IQ2_S": 256, "IQ3_XXS": 256, "IQ3_S": 256,
    "TQ1_0": 256, "TQ2_0": 256, "MXFP4": 32, "NVFP4": 64, "Q1_0": 128, "Q2_0": 64,
}  # fmt: skip
"""The same of types that a recipe may name and no kernel here writes."""

_BLOCKS = {**BLOCK_WEIGHTS, **_UNWRITTEN_BLOCKS}

_NARROWER = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q2_0": "Q4_0",
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
}  # fmt: skip
"""Where a row is no whole number of 256-weight blocks: the 32-weight type that takes its place."""


class TensorLike(Protocol):
    """What the choice needs of a tensor. ``shape`` is row-major, ``type`` its type in the source."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...


class Hints(Protocol):
    """Hyperparameters the mixes depend on (``converter.sources.base.RecipeHints``)."""

    @property
    def architecture(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def half(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user asked for beside the recipe. ``tensor_types`` are (regular expression, type), first match wins.

    ``in_order`` walks the tensors as they are given, not in llama.cpp's order: what it does when it keeps a split.
    """

    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    leave_output: bool = False
    has_imatrix: bool = False
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """One choice in the list of types.

    ``base`` is the type of every tensor that no rule names (``auto``: the 16-bit type of the source), ``bits`` the
    usual bits per weight of a whole file (a hint; a plan gives the exact number), ``file_type`` the number that goes
    into ``general.file_type``. ``title`` and ``sentence`` are for people; ``instead`` names the recipe to take in place
    of one that no kernel here writes.
    """

    name: str
    base: str
    bits: float
    file_type: int
    title: str
    sentence: str
    needs_imatrix: bool = False
    instead: str = ""

    @property
    def gains(self) -> bool:
        """Whether it is visibly better with an importance matrix: few bits, or steps that are hard to place."""
        return self.bits < 4.6 or self.base.startswith("IQ")

    @property
    def mix(self) -> Mix:
        return MIXES.get(self.name, NO_MIX)


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("Q4_K_M", "Q4_K", 4.89, 15, "4-bit, medium mix",
               "The usual choice: under a third of the full size, and the loss is hard to notice."),
        Recipe("Q8_0", "Q8_0", 8.5, 7, "8-bit",
               "Practically the original at half its size."),
        Recipe("Q6_K", "Q6_K", 6.56, 18, "6-bit",
               "Very close to the original; takes four tenths of its size."),
        Recipe("Q5_K_M", "Q5_K", 5.7, 17, "5-bit, medium mix",
               "High quality at about a third of the full size."),
        Recipe("Q5_K_S", "Q5_K", 5.57, 16, "5-bit, small",
               "A little smaller than the medium 5-bit mix, and nearly as good."),
        Recipe("IQ4_NL", "IQ4_NL", 4.7, 25, "4-bit, uneven steps",
               "Steps that lie closer near zero, in small blocks: for models whose rows fit no K-quant."),
        Recipe("IQ4_XS", "IQ4_XS", 4.46, 30, "4-bit, uneven, small",
               "The smallest at four bits: nearly as good as the small mix, slower on some processors."),
        Recipe("Q4_K_S", "Q4_K", 4.67, 14, "4-bit, small",
               "A little smaller than the usual 4-bit mix, with slightly more loss."),
        Recipe("Q3_K_L", "Q3_K", 4.3, 13, "3-bit, large mix",
               "The best of the 3-bit mixes; the loss shows in careful work."),
        Recipe("Q3_K_M", "Q3_K", 4.0, 12, "3-bit, medium mix",
               "For when 4-bit does not fit: answers get visibly weaker."),
        Recipe("Q3_K_S", "Q3_K", 3.64, 11, "3-bit, small",
               "Very small; expect clear mistakes, most of all in small models."),
        Recipe("Q2_K", "Q2_K", 3.16, 10, "2-bit mix",
               "The smallest: only for large models that would not fit otherwise."),
        Recipe("Q2_K_S", "Q2_K", 2.97, 21, "2-bit, small",
               "Smaller still; only with an importance matrix.", needs_imatrix=True),
        Recipe("Q5_1", "Q5_1", 6.0, 9, "5-bit, plain blocks with an offset",
               "An older 5-bit format; the 6-bit mix is better at nearly the same size."),
        Recipe("Q5_0", "Q5_0", 5.5, 8, "5-bit, plain blocks",
               "An older 5-bit format for programs that know no K-quants."),
        Recipe("Q4_1", "Q4_1", 5.0, 3, "4-bit, plain blocks with an offset",
               "An older 4-bit format; the small 5-bit mix is better at a little more."),
        Recipe("Q4_0", "Q4_0", 4.5, 2, "4-bit, plain blocks",
               "An older 4-bit format: quick on phones, less exact than the 4-bit mixes."),
        Recipe("auto", "auto", 16.0, 0, "16-bit, as the source",
               "Keeps the source's own 16-bit numbers: BF16 where it has them, else F16."),
        Recipe("BF16", "BF16", 16.0, 32, "16-bit, bfloat",
               "The full model as most are published; the reference for measuring quality."),
        Recipe("F16", "F16", 16.0, 1, "16-bit, half precision",
               "The full model in half precision; runs faster than BF16 on older processors."),
        Recipe("F32", "F32", 32.0, 0, "32-bit",
               "Every number in full; twice the size of the 16-bit file and seldom worth it."),
    )
}  # fmt: skip
"""All recipes by name, in the order in which a list should show them."""

COPY = Recipe("copy", "copy", 0.0, 0, "as it is", "Every tensor keeps its type; only container and description change.")
"""No quantizing at all: for metadata, splitting, pruning. From GGUF only; the file type is the source's."""

UNWRITTEN: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("IQ3_M", "IQ3_S", 3.76, 27, "3-bit lattice, medium", "", instead="Q3_K_M"),
        Recipe("IQ3_S", "IQ3_S", 3.66, 26, "3-bit lattice", "", instead="Q3_K_S"),
        Recipe("IQ3_XS", "IQ3_S", 3.5, 22, "3-bit lattice, small", "", instead="Q3_K_S"),
        Recipe("IQ3_XXS", "IQ3_XXS", 3.25, 23, "3-bit lattice, smallest", "", needs_imatrix=True, instead="Q2_K"),
        Recipe("IQ2_M", "IQ2_S", 2.93, 29, "2-bit lattice, medium", "", needs_imatrix=True, instead="Q2_K_S"),
        Recipe("IQ2_S", "IQ2_XS", 2.74, 28, "2-bit lattice", "", needs_imatrix=True, instead="Q2_K_S"),
        Recipe("IQ2_XS", "IQ2_XS", 2.59, 20, "2-bit lattice, small", "", needs_imatrix=True, instead="Q2_K_S"),
        Recipe("IQ2_XXS", "IQ2_XXS", 2.38, 19, "2-bit lattice, smallest", "", needs_imatrix=True, instead="Q2_K_S"),
        Recipe("IQ1_M", "IQ1_M", 2.15, 31, "1-bit lattice, medium", "", needs_imatrix=True, instead="Q2_K_S"),
        Recipe("IQ1_S", "IQ1_S", 2.01, 24, "1-bit lattice", "", needs_imatrix=True, instead="Q2_K_S"),
        Recipe("TQ2_0", "TQ2_0", 2.38, 37, "ternary", "", instead="Q2_K"),
        Recipe("TQ1_0", "TQ1_0", 2.0, 36, "ternary, packed", "", instead="Q2_K"),
        Recipe("Q2_0", "Q2_0", 2.5, 41, "2-bit, plain blocks", "", instead="Q2_K"),
        Recipe("Q1_0", "Q1_0", 1.5, 40, "1-bit, plain blocks", "", instead="Q2_K"),
        Recipe("MXFP4_MOE", "MXFP4", 4.5, 38, "4-bit floats for experts", "", instead="Q4_K_M"),
    )
}
"""Recipes of llama.cpp that no kernel here writes: :func:`types` knows them, a conversion refuses them."""

_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "FP16": "F16", "FP32": "F32", "AUTO": "auto"}

_NEED_IMATRIX = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})

_LARGE_LLAMAS = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
"""Architectures whose model of that many layers counts as a 70B one (for ``llama``: with grouped-query attention)."""

_NEVER = (
    ("_norm.weight", "norms stay exact"),
    ("ffn_gate_inp.weight", "the expert router stays exact"),
    ("ffn_gate_tid2eid.weight", "the expert table stays exact"),
    ("altup", "tiny"),
    ("laurel", "tiny"),
    ("per_layer_model_proj", "small and sensitive"),
    ("ssm_conv1d", "small convolution weights stay exact"),
    ("shortconv.conv.weight", "small convolution weights stay exact"),
    ("indexer.k_proj.weight", "tiny"),
    ("indexer.q_proj.weight", "tiny"),
    *(
        (f"time_mix_{part}.weight", "small and sensitive")
        for part in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2",
                     "decay_w1", "decay_w2", "lerp_fused")
    ),
    ("attn_rel_b.weight", "position biases stay exact"),
    (".position_embd", "positions stay exact"),
    ("sam.pos_embd", "positions stay exact"),
    ("sam.neck.", "vision weights stay exact"),
    ("sam.net_", "vision weights stay exact"),
    (".rel_pos", "positions stay exact"),
    (".patch_embd", "vision weights stay exact"),
    (".patch_merger", "vision weights stay exact"),
    ("a.rvq.codebook", "audio weights stay exact"),
    ("mm.a.code_embd", "audio weights stay exact"),
)  # fmt: skip
"""(part of a name, why): tensors that are never quantized."""

_NEVER_WHOLE = {"position_embd.weight": "positions stay exact", "token_types.weight": "token types stay exact"}

_NEVER_GLM5_NEXT = ("hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate",
                    "indexer_compressor_ape", "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight",
                    "ssm_beta.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_v_b.weight")  # fmt: skip
_EIGHT_BITS_GLM5_NEXT = ("attn_q_a", "attn_q_b", "nextn.eh_proj")

_FULL_PRECISION = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d", "shortconv.conv",
                   "time_mix_first", "time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2",
                   "time_mix_lerp_fused", "position_embd.weight", "token_types.weight", "altup_correct_coef",
                   "altup_predict_coef", "posnet", "indexer.proj")  # fmt: skip
"""Parts of names that a 16-bit conversion keeps in 32 bits."""

_ROLES = (
    ("attn_qkv.weight", "attn_v"),  # fused projections follow the values' rule
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)

_LAYER = re.compile(r"blk\.(\d+)\.")


def recipe(name: str) -> Recipe:
    """The recipe called ``name``; ``QuenchError`` ``unknown_type`` or ``unwritten_type`` otherwise.

    Any case; llama.cpp's aliases (``Q4_K`` is ``Q4_K_M``) and the names of its enumeration (``MOSTLY_Q4_K_M``,
    ``ALL_F32``) mean the same.
    """
    upper = re.sub(r"^(?:LLAMA_FTYPE_)?(?:MOSTLY|ALL)_", "", name.strip().upper())
    found = COPY if upper == "COPY" else RECIPES.get(_ALIASES.get(upper, upper))
    if found is None and upper in UNWRITTEN:
        other = UNWRITTEN[upper]
        raise QuenchError(
            "unwritten_type",
            f"{upper} cannot be made here.",
            f"{upper} ({other.title}, about {other.bits:g} bits per weight) can be read and run, but not written.",
            f"Take {other.instead} instead: about {RECIPES[other.instead].bits:g} bits per weight.",
            exit_status=2,
        )
    if found is None:
        raise QuenchError(
            "unknown_type",
            f"There is no type called {name!r}.",
            f"Known types: {', '.join(RECIPES)}.",
            "Choose one of the known types.",
            exit_status=2,
        )
    return found


def tensor_type(name: str) -> str:
    """A GGML type name that can be written (any case), for rules and options; ``unknown_type`` otherwise."""
    upper = name.strip().upper()
    if upper not in BLOCK_WEIGHTS:
        raise QuenchError(
            "unknown_type",
            f"There is no tensor type called {name!r}.",
            f"Known tensor types: {', '.join(BLOCK_WEIGHTS)}. (Q4_K_M and its like are mixes, not tensor types.)",
            "Choose one of the known tensor types.",
            exit_status=2,
        )
    return upper


def checked(overrides: Overrides) -> Overrides:
    """The same overrides with canonical type names; ``QuenchError`` for an unknown type or a broken expression."""
    rules = []
    for pattern, kind in overrides.tensor_types:
        try:
            re.compile(pattern)
        except re.error as error:
            raise QuenchError(
                "bad_pattern",
                "A tensor rule is not a valid regular expression.",
                f"{pattern!r}: {error}.",
                "Correct the rule, for example ffn_down=Q6_K.",
                exit_status=2,
            ) from error
        rules.append((pattern, tensor_type(kind)))
    return replace(
        overrides,
        tensor_types=tuple(rules),
        output_type=tensor_type(overrides.output_type) if overrides.output_type else None,
        embedding_type=tensor_type(overrides.embedding_type) if overrides.embedding_type else None,
    )


def sixteen_bit(hints: Hints, tensors: Sequence[TensorLike]) -> str:
    """``BF16`` or ``F16``: the type of the first matrix that has one of them, else ``F16`` (llama.cpp's ``auto``).

    A checkpoint all of whose matrices are quantized, which llama.cpp's converter does not read, has the type of its
    scales.
    """
    for tensor in tensors:
        if len(tensor.shape) >= 2 and tensor.type in {"BF16", "F16"}:
            return tensor.type
    return hints.half or "F16"


def resolve(name: str, hints: Hints, tensors: Sequence[TensorLike]) -> Recipe:
    """The recipe called ``name``, with ``auto`` replaced by the 16-bit recipe it stands for."""
    found = recipe(name)
    return RECIPES[sixteen_bit(hints, tensors)] if found.base == "auto" else found


def converted_type(tensor: TensorLike, target: str) -> tuple[str, str]:
    """Type and reason of a tensor in a plain conversion of a model folder to ``target`` (F32, F16 or BF16).

    Vectors, norms, anything that is not called ``.weight`` and a few sensitive matrices are kept in 32 bits.
    """
    name = tensor.name
    if tensor.type == "MXFP4":
        return tensor.type, "stored in these four bits: kept as it is"
    if len(tensor.shape) <= 1:
        return "F32", "vectors stay in 32 bits"
    if name.endswith("_norm.weight"):
        return "F32", "norms stay in 32 bits"
    if not name.endswith((".weight", ".lora_a", ".lora_b")):
        return "F32", "not a weight matrix"
    if any(part in name for part in _FULL_PRECISION):
        return "F32", "small and sensitive: stays in 32 bits"
    return target, ""


def _dimensions(shape: tuple[int, ...]) -> int:
    """Dimensions as GGML counts them: leading ones of length 1 do not count."""
    count = len(shape)
    while count > 1 and shape[len(shape) - count] == 1:
        count -= 1
    return count


def unquantizable(architecture: str, tensor: TensorLike) -> str:
    """Why a tensor must not be quantized, or an empty string if it may."""
    name = tensor.name
    if _dimensions(tensor.shape) < 2:
        return "vectors stay exact"
    if not name.endswith("weight"):
        return "not a weight matrix"
    if name in _NEVER_WHOLE:
        return _NEVER_WHOLE[name]
    for part, why in _NEVER:
        if part in name:
            return why
    if architecture == "glm5-next" and any(part in name for part in _NEVER_GLM5_NEXT):
        return "small and sensitive"
    return ""


def role(name: str) -> str:
    """The kind of a tensor as the mixes see it: ``output``, ``token_embd``, ``attn_v``, ``ffn_down`` and so on."""
    if name == "output.weight":
        return "output"
    if name in {"token_embd.weight", "per_layer_token_embd.weight"}:
        return "token_embd"
    return next((kind for part, kind in _ROLES if part in name), "other")


def _order(name: str) -> tuple[int, str]:
    """llama.cpp's order of tensors: those outside the layers first, then layer by layer, each by name."""
    layer = _LAYER.match(name)
    return (int(layer[1]) if layer else -1, name)


def fitting(kind: str, columns: int) -> str:
    """``kind``, or the nearest type whose blocks divide a row of ``columns`` weights (``F16`` when none does)."""
    if columns % _BLOCKS[kind] == 0:
        return kind
    narrower = _NARROWER.get(kind, kind)
    return narrower if columns % _BLOCKS[narrower] == 0 else "F16"


class _Chooser:
    """Walks the tensors in llama.cpp's order and keeps its counters.

    The counters advance only where the mix itself decides. A rule of the user's takes a tensor out of the count, and
    so shifts which of the other layers get more bits: llama.cpp does this, and so do we.
    """

    def __init__(self, hints: Hints, tensors: Sequence[TensorLike], chosen: Recipe, overrides: Overrides) -> None:
        self.hints = hints
        self.recipe = chosen
        self.overrides = overrides
        self.rules = [(re.compile(pattern, re.IGNORECASE), kind) for pattern, kind in overrides.tensor_types]
        roles = [role(tensor.name) for tensor in tensors]
        self.tied = "output" not in roles
        self.values = roles.count("attn_v")
        self.counters = {"attn_v": 0, "ffn_down": 0, "ffn_gate": 0, "ffn_up": 0}
        self.wins = [0] * len(self.rules)
        large = _LARGE_LLAMAS.get(hints.architecture) == hints.layers
        if hints.architecture == "llama":
            large = large and hints.heads != hints.kv_heads
        self.large = large

    def choose(self, tensor: TensorLike) -> tuple[str, str]:
        """Type and reason of a tensor that may be quantized."""
        base, overrides, kind = self.recipe.base, self.overrides, role(tensor.name)
        rule = next((i for i, (pattern, _) in enumerate(self.rules) if pattern.search(tensor.name)), None)
        named = tensor.name == "per_layer_token_embd.weight" and rule is not None
        if overrides.embedding_type and kind == "token_embd" and not named:
            return self._fit(tensor, overrides.embedding_type, "the chosen type for embeddings")
        if overrides.output_type and kind == "output":
            return self._fit(tensor, overrides.output_type, "the chosen type for the output")
        if base in PLAIN_TYPES:
            return base, "" if rule is None else "tensor rules apply to quantized recipes only"
        if rule is not None:
            self.wins[rule] += 1
            return self._fit(tensor, self.rules[rule][1], "a tensor rule")
        if overrides.pure:
            return self._fit(tensor, base, "one type everywhere")
        return self._fit(tensor, *self._mixed(tensor, kind))

    def _mixed(self, tensor: TensorLike, kind: str) -> tuple[str, str]:
        hints, base = self.hints, self.recipe.base
        if hints.architecture == "glm5-next" and any(part in tensor.name for part in _EIGHT_BITS_GLM5_NEXT):
            return "Q8_0", "sensitive in this architecture"
        if kind == "output" or (self.tied and kind == "token_embd"):
            return self._output(tensor, base)
        if self.recipe.name == "MXFP4_MOE":
            return ("MXFP4", "") if len(tensor.shape) > 2 else ("Q8_0", "only experts get four bits")
        if kind == "token_embd":
            return EMBEDDINGS.get(self.recipe.name, base), ""
        place = self._place(tensor, kind)
        target, why = base, ""
        for rule in self.recipe.mix.get(kind, ()):
            if rule.when(place):
                target, why = rule.type, rule.why
                break
        usual = self.recipe.name not in TWO_BIT
        if usual and kind == "attn_v" and self.large and target in {"Q3_K", "Q4_K"}:
            target, why = "Q5_K", "eight query heads share these values in a model of this size"
        if usual and kind in {"attn_v", "attn_k"} and hints.experts == 8:
            target, why = "Q8_0", EIGHT_WHY
        if kind in self.counters:
            self.counters[kind] += 1
        return target, why

    def _output(self, tensor: TensorLike, base: str) -> tuple[str, str]:
        if self.overrides.output_type:
            return self.overrides.output_type, "the chosen type for the output (shared with the embeddings)"
        if self.hints.architecture == "falcon" or tensor.shape[-1] % _BLOCKS[base]:
            return "Q8_0", "the output layer in 8 bits: its rows do not fit the mix"
        if self.recipe.name in OUTPUTS:
            return OUTPUTS[self.recipe.name], "the output layer gets more bits"
        if base == "Q8_0":
            return base, ""
        return "Q6_K", "the output layer always gets six bits" + (", shared with the embeddings" if self.tied else "")

    def _place(self, tensor: TensorLike, kind: str) -> Place:
        hints = self.hints
        index = self.counters.get(kind, 0)
        if kind.startswith("ffn_") and hints.experts > 1 and self.recipe.name not in TWO_BIT:
            layer = _LAYER.match(tensor.name)
            index = int(layer[1]) if layer else index
        count = self.values if kind == "attn_v" else hints.layers
        shared = hints.heads // hints.kv_heads if hints.kv_heads else 0
        falcon = hints.architecture == "falcon"
        return Place(index, count, shared, hints.experts, falcon, self.overrides.has_imatrix)

    @staticmethod
    def _fit(tensor: TensorLike, target: str, why: str) -> tuple[str, str]:
        columns = tensor.shape[-1]
        fitted = fitting(target, columns)
        if fitted == target:
            return target, why
        return fitted, f"rows of {columns} weights do not fit {target}'s blocks of {_BLOCKS[target]}"


def types(
    hints: Hints, tensors: Sequence[TensorLike], chosen: Recipe, overrides: Overrides | None = None, kind: str = "hf"
) -> list[tuple[str, str]]:
    """The type of every tensor, in the order given, each with the reason in words (empty: the recipe's base type).

    ``kind`` is the source's: in a folder (``hf``) a tensor that must not be quantized gets what a 16-bit conversion
    gives it; in a GGUF it keeps the type that it has. ``overrides`` must have passed :func:`checked`. Equal to
    llama.cpp's choice, with one difference: a type chosen for the output or the embeddings falls back too where its
    blocks do not fit.
    """
    return _choose(hints, tensors, chosen, overrides or Overrides(), kind)[0]


def rule_counts(
    hints: Hints, tensors: Sequence[TensorLike], chosen: Recipe, overrides: Overrides, kind: str = "hf"
) -> list[RuleCount]:
    """What every tensor rule does in the same choice: which to mistype costs a run, so it is told before."""
    wins = _choose(hints, tensors, chosen, overrides, kind)[1]
    return [
        RuleCount(pattern, target, sum(bool(re.search(pattern, t.name, re.IGNORECASE)) for t in tensors), won)
        for (pattern, target), won in zip(overrides.tensor_types, wins, strict=True)
    ]


def _choose(
    hints: Hints, tensors: Sequence[TensorLike], chosen: Recipe, overrides: Overrides, kind: str
) -> tuple[list[tuple[str, str]], list[int]]:
    """Types with reasons, and for every rule how many tensors it decided."""
    if chosen.base == "copy":
        return [(tensor.type, "copied as it is") for tensor in tensors], [0] * len(overrides.tensor_types)
    if chosen.base == "auto":
        chosen = RECIPES[sixteen_bit(hints, tensors)]
    plain = chosen.base if chosen.base in PLAIN_TYPES else sixteen_bit(hints, tensors)
    chooser = _Chooser(hints, tensors, chosen, overrides)
    result: dict[int, tuple[str, str]] = {}
    walk: Sequence[int] = range(len(tensors))
    for index in walk if overrides.in_order else sorted(walk, key=lambda i: _order(tensors[i].name)):
        tensor = tensors[index]
        why = unquantizable(hints.architecture, tensor)
        if overrides.leave_output and tensor.name == "output.weight":
            why = "left as it is, as chosen"
        kept = converted_type(tensor, plain) if kind == "hf" else (tensor.type, why)
        if why:
            result[index] = (kept[0], kept[1] or why)
        elif chosen.base in PLAIN_TYPES and kind == "hf" and kept[0] != chosen.base:
            result[index] = kept
        else:
            result[index] = chooser.choose(tensor)
    return [result[index] for index in range(len(tensors))], chooser.wins


def needs_imatrix(chosen: Recipe, name: str, kind: str) -> bool:
    """Whether a tensor of type ``kind`` in this recipe is garbage without an importance matrix (llama.cpp's rule)."""
    if role(name) in {"output", "token_embd"}:
        return False
    return kind in _NEED_IMATRIX or (chosen.name == "Q2_K_S" and kind == "Q2_K")
