"""What is asked of a fit of types to a size, and what it tells. Divergences in nats."""

from __future__ import annotations

import msgspec

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""What a fit chooses from, the smallest first."""


class FitTypes(msgspec.Struct, frozen=True, tag_field="message", tag="fit_types"):
    """Choose a type for every tensor of ``reference`` (a GGUF file in 16 or 32 bits; worker ``measure``).

    ``budget``: bytes for the tensors that can be quantized. ``standard``: the recipe whose divergence is the measure of
    every kind of text, and which the result must beat. ``imatrix``: importance for both, empty for none. ``texts`` are
    what tensors are probed on, ``judges`` what the result is judged on, which nothing else sees; names of bundled texts
    or files. ``windows`` of ``context`` tokens of each text; ``minutes`` 0: no limit. ``floors``: (regular expression,
    type) that a tensor's type must at least be; the first match counts. ``feedback``: round with error feedback, and
    put the tensors that were rounded so into ``blocks``, a GGUF file to be written, if they are kept.
    """

    reference: str
    budget: int
    standard: str
    texts: tuple[str, ...]
    judges: tuple[str, ...]
    imatrix: str = ""
    context: int = 256
    windows: int = 3
    minutes: float = 0.0
    floors: tuple[tuple[str, str], ...] = ()
    threads: int = 0
    feedback: bool = False
    blocks: str = ""


class FitDomain(msgspec.Struct, frozen=True):
    """The mean divergence on one text that no step saw: of what was fitted, of the standard recipe, and of the fitted
    types without error feedback."""

    name: str
    fitted: float
    standard: float
    types: float


class FittedTensor(msgspec.Struct, frozen=True):
    """A tensor's type, and why: ``cost`` is its part of the predicted damage, 0 to 1. ``fed``: it was rounded with
    error feedback."""

    name: str
    type: str
    bytes: int
    cost: float
    reason: str
    fed: bool = False


class FitPlanned(msgspec.Struct, frozen=True, tag_field="message", tag="fit_planned"):
    """The end of a fit. ``kept`` says whether the fitted types are better than ``standard``'s; if not, ``tensors`` has
    the standard ones.

    ``ratio`` is the geometric mean over ``domains`` of fitted / standard, ``types_ratio`` the same without error
    feedback, ``predicted`` the same as the planner had it; ``gap`` how far from the best the planner's choice can be
    (0: it is the best). ``shared``: tensors of several layers had to share a type for want of time. ``bytes`` of the
    tensors.
    """

    tensors: tuple[FittedTensor, ...]
    bytes: int
    standard_bytes: int
    predicted: float
    ratio: float
    types_ratio: float
    gap: float
    domains: tuple[FitDomain, ...]
    kept: bool
    shared: bool
    seconds: float


__all__ = ["TYPES", "FitDomain", "FitPlanned", "FitTypes", "FittedTensor"]
