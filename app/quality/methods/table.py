"""The methods that can be compared: what each is, which engine runs it, and what it makes of a group of matrices.

A group are the matrices that are multiplied with the same inputs. As these engines do, the embedding and the output
matrix are left in 16 bits; only what stands in the layers is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import kernels
from app.quality.methods import awq as awq_method
from app.quality.methods import grids
from app.quality.methods.activations import rowwise_int8, smoothing, without_outliers
from app.quality.methods.gptq import gptq
from app.quality.methods.grids import IntGrid
from app.quality.methods.hqq import hqq, hqq_bits

Floats = npt.NDArray[np.float32]
Change = Callable[[Floats], Floats]

NOTHING, SIZES, COVARIANCE = "nothing", "sizes", "covariance"
"""What a method needs to know of the inputs: nothing, how large each column is, or how they go together."""

INT4 = IntGrid(4, 128, zero=True)


@dataclass(frozen=True)
class Group:
    """Matrices (rows, columns) of one input. ``most`` and ``mean`` (columns,) of |x|, ``covariance`` (columns,
    columns): None where nobody asked for them. ``after_norm``: factors of the columns can be put into the norm that
    makes the input; ``after_product``: or into the rows of the matrix before."""

    matrices: Sequence[Floats]
    most: Floats | None = None
    mean: Floats | None = None
    covariance: npt.NDArray[np.float32] | npt.NDArray[np.float64] | None = None
    after_norm: bool = False
    after_product: bool = False


Made = tuple[list[Floats], Change | None]
"""What the matrices of a group are then, and what is done to their input before each product."""


@dataclass(frozen=True)
class Method:
    """``make`` rounds a group; ``bits`` of a matrix by rows and columns. ``engines`` are other programs that run it;
    ``here`` says that this one does (then it is no simulation, and ``recipe`` names the types). ``importance``: with an
    importance matrix of the calibration text. ``inputs``: rounds what goes into products too."""

    key: str
    name: str
    what: str
    engines: tuple[str, ...] = ()
    needs: str = NOTHING
    make: Callable[[Group], Made] | None = None
    bits: Callable[[int, int], float] | None = None
    inputs: bool = False
    recipe: str = ""
    importance: bool = False

    @property
    def here(self) -> bool:
        return bool(self.recipe)

    @property
    def calibrated(self) -> bool:
        return self.needs != NOTHING


def _each(act: Callable[[Floats], Floats], inputs: Change | None = None) -> Callable[[Group], Made]:
    def make(group: Group) -> Made:
        return [act(matrix) for matrix in group.matrices], inputs

    return make


def _gptq(group: Group) -> Made:
    assert group.covariance is not None
    given = kernels.feedback(group.covariance, damping=kernels.DAMPING)
    return [gptq(matrix, given, INT4) for matrix in group.matrices], None


def _awq(group: Group) -> Made:
    assert group.covariance is not None and group.mean is not None
    scale = np.ones_like(group.mean)
    if group.after_norm or group.after_product:
        scale = awq_method.factors(group.matrices, group.mean, group.covariance, INT4)
    return [awq_method.awq(matrix, scale, group.covariance, INT4) for matrix in group.matrices], None


def _smoothquant(group: Group) -> Made:
    assert group.most is not None
    by = smoothing(group.matrices, group.most) if group.after_norm else np.ones_like(group.most)

    def inputs(x: Floats) -> Floats:
        return rowwise_int8(x / by)

    return [rowwise_int8(matrix * by) for matrix in group.matrices], inputs


def _k_quant(recipe: str, *, importance: bool = False) -> Method:
    return Method(
        key=f"{recipe.lower()}-i" if importance else recipe.lower(),
        name=f"{recipe} + importance" if importance else recipe,
        what=f"The standard {recipe} recipe"
        + (", with an importance matrix of the calibration text." if importance else "."),
        engines=("llama.cpp", "Ollama", "LM Studio"),
        needs=SIZES if importance else NOTHING,
        recipe=recipe,
        importance=importance,
    )


_METHODS = (
    Method(
        "int8-row", "int8, per channel", "Round to nearest, a scale for each output.",
        ("torchao", "optimum-quanto", "vLLM"), make=_each(IntGrid(8).matrix), bits=IntGrid(8).total_bits,
    ),
    Method(
        "int8", "int8, groups of 128", "Round to nearest, a scale for each 128 weights.",
        ("GPTQModel", "vLLM"), make=_each(IntGrid(8, 128).matrix), bits=IntGrid(8, 128).total_bits,
    ),
    Method(
        "int4-row", "int4, per channel", "Round to nearest, a scale and a zero for each output.",
        ("vLLM",), make=_each(IntGrid(4, 0, zero=True).matrix),
        bits=IntGrid(4, 0, zero=True).total_bits,
    ),
    Method(
        "int4", "int4, groups of 128", "Round to nearest, a scale and a zero for each 128 weights.",
        ("torchao", "optimum-quanto", "vLLM"), make=_each(INT4.matrix), bits=INT4.total_bits,
    ),
    Method(
        "nf4", "NF4", "Sixteen levels at the quantiles of a normal distribution, a scale for each 64 weights.",
        ("bitsandbytes",), make=_each(grids.nf4), bits=grids.nf4_bits,
    ),
    Method(
        "hqq", "HQQ, 4 bits", "Zeros fitted to the weights, robust against outliers, groups of 64.",
        ("HQQ", "vLLM"), make=_each(hqq), bits=hqq_bits,
    ),
    Method(
        "gptq", "GPTQ, 4 bits", "Later columns make up for the errors of earlier ones, groups of 128.",
        ("GPTQModel", "vLLM", "ExLlamaV2"), COVARIANCE, make=_gptq, bits=INT4.total_bits,
    ),
    Method(
        "awq", "AWQ, 4 bits", "Columns with large inputs are scaled up before rounding, groups of 128.",
        ("AutoAWQ", "vLLM", "TensorRT-LLM"), COVARIANCE, make=_awq, bits=INT4.total_bits,
    ),
    Method(
        "fp8", "FP8 (E4M3), W8A8", "Weights (a scale for each output) and inputs (for each token) as 8-bit floats.",
        ("vLLM", "TensorRT-LLM"), make=_each(grids.scaled_e4m3, grids.scaled_e4m3), bits=grids.row_bits, inputs=True,
    ),
    Method(
        "smoothquant", "SmoothQuant, W8A8",
        "Weights and inputs in int8; outliers behind norms are shared between both.",
        ("vLLM", "TensorRT-LLM"), SIZES, make=_smoothquant, bits=grids.row_bits, inputs=True,
    ),
    Method(
        "llm.int8", "LLM.int8()", "Weights and inputs in int8, but columns with inputs of 6 and more in 16 bits.",
        ("bitsandbytes",), make=_each(rowwise_int8, without_outliers), bits=grids.row_bits, inputs=True,
    ),
    *(_k_quant(recipe) for recipe in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")),
    *(_k_quant(recipe, importance=True) for recipe in ("Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")),
)  # fmt: skip

METHODS: Mapping[str, Method] = {method.key: method for method in _METHODS}
"""By key, in the order in which they are shown."""

__all__ = ["COVARIANCE", "METHODS", "NOTHING", "SIZES", "Change", "Group", "Made", "Method"]
