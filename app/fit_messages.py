"""What is asked of a fit of types to a size, and what it tells. Divergences in nats."""

from __future__ import annotations

import msgspec

from converter.spec import ConversionResult

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""What a fit chooses from, the smallest first."""

STANDARDS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
"""Recipes that a fit is measured against, the smallest first."""

JUDGING = "Judging"
"""What a run of :class:`FitTypes` says that it does when it compares the choice with the standard recipe."""

REFERENCE, IMPORTANCE, PROBING, JUDGED, WRITING = "reference", "importance", "probing", "judging", "writing"
STEPS = (REFERENCE, IMPORTANCE, PROBING, JUDGED, WRITING)
"""Of a whole fit, in their order."""


class Size(msgspec.Struct, frozen=True):
    """How large the file may become; exactly one is given, or none where speed alone counts. ``size`` and
    ``leave_free`` in bytes.

    ``leave_free`` is memory that is left when the file runs with ``context`` tokens (0: 8,192, or what the model was
    trained for) in a cache of the type ``kv_type``.
    """

    size: int = 0
    bpw: float = 0.0
    like: str = ""
    leave_free: int = 0
    context: int = 0
    kv_type: str = "f16"


class Wish(msgspec.Struct, frozen=True, tag_field="message", tag="fit"):
    """A whole fit: from a model to the file (worker ``fit``, answered by :class:`Fitted`).

    ``texts`` to probe on and ``calibration`` to make an importance matrix from (none: the bundled calibration texts),
    ``floors`` as in :class:`FitTypes`. ``windows`` 0: as many as ``minutes`` allow. ``work`` is a folder where what the
    steps make is kept until the end, and taken over by another run of the same wish; empty: one of its own.
    ``feedback``: round with error feedback. ``speed``: tokens a second that the file must write at least (0: no goal),
    with as many tokens in the cache as ``size.context`` says. ``sensitivity``: a file that probes are taken from, and
    kept in, for other sizes of the same model. ``unmeasured``: no time at all; the types are by rule of thumb
    (:mod:`converter.fit_prior`), and nothing is known of what they cost.
    """

    source: str
    output: str
    size: Size
    imatrix: str = ""
    texts: tuple[str, ...] = ()
    floors: tuple[tuple[str, str], ...] = ()
    windows: int = 2
    minutes: float = 0.0
    refined: bool = False
    threads: int = 0
    overwrite: bool = False
    dry_run: bool = False
    calibration: tuple[str, ...] = ()
    work: str = ""
    feedback: bool = False
    speed: float = 0.0
    sensitivity: str = ""
    unmeasured: bool = False


class Budget(msgspec.Struct, frozen=True):
    """``file`` bytes in all, of which ``tensors`` for those that are chosen; ``standard`` is the recipe to beat."""

    file: int
    tensors: int
    standard: str
    bpw: float


class FitTypes(msgspec.Struct, frozen=True, tag_field="message", tag="fit_types"):
    """Choose a type for every tensor of ``reference`` (a GGUF file in 16 or 32 bits; worker ``measure``).

    ``budget``: bytes for the tensors that can be quantized. ``standard``: the recipe whose divergence is the measure of
    every kind of text, and which the result must beat. ``imatrix``: importance for both, empty for none. ``texts`` are
    what tensors are probed on, ``judges`` what the result is judged on, which nothing else sees; names of bundled texts
    or files. ``windows`` of ``context`` tokens of each text; ``minutes`` 0: no limit. ``floors``: (regular expression,
    type) that a tensor's type must at least be; the first match counts. ``feedback``: round with error feedback, and
    put the tensors that were rounded so into ``blocks``, a GGUF file to be written, if they are kept. ``refined``: try
    blocks with less error than llama.cpp's too. ``speed``: tokens a second at least, with ``cached`` tokens in a cache
    of the type ``kv_type`` (0: no goal); the recipe to beat is then the largest within both budgets, if there is one.
    ``costs``: a file that probes are taken from and kept in (empty: none); one of something else is refused where it
    was ``named`` by somebody, and else written anew.
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
    refined: bool = False
    speed: float = 0.0
    cached: int = 0
    costs: str = ""
    named: bool = False
    kv_type: str = "f16"


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


class TypeCost(msgspec.Struct, frozen=True):
    """What ``tensors``, which share a type, cost in this one, as it was measured: in parts of the standard recipe's
    divergence, the mean over kinds of text. ``error``: its standard error over windows, None where there was one."""

    tensors: tuple[str, ...]
    type: str
    value: float
    error: float | None
    windows: int


class FitPlanned(msgspec.Struct, frozen=True, tag_field="message", tag="fit_planned"):
    """The end of a fit. ``kept`` says whether the fitted types are better than ``standard``'s, or those would be too
    large; if not, ``tensors`` has the standard ones.

    ``ratio`` is the geometric mean over ``domains`` of fitted / standard, ``types_ratio`` the same without error
    feedback, ``predicted`` the same as the planner had it; ``gap`` how far from the best the planner's choice can be
    (0: it is the best). ``shared``: tensors of several layers had to share a type for want of time. ``refined``:
    the blocks without error feedback are refined. ``bytes`` of the tensors. ``standard``: the recipe that was the
    measure. With a goal of speed, else 0 and empty: ``speed`` tokens a second as they were measured, with
    ``speed_threads`` threads, ``speed_predicted`` as the planner had them, and ``decided``: which budget bound
    (:data:`converter.fit.SIZE`, ``SPEED`` or ``BOTH``). ``probes`` were needed, of which ``probes_known`` had been
    measured by an earlier run; ``costs`` are what they found. ``measured`` False: the types are by rule of thumb; all
    figures but the bytes then say nothing. ``repaired``:
    tensors that were rounded once more to put back what those before them have moved.
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
    refined: bool
    seconds: float
    standard: str = ""
    speed: float = 0.0
    speed_predicted: float = 0.0
    speed_threads: int = 0
    decided: str = ""
    probes: int = 0
    probes_known: int = 0
    costs: tuple[TypeCost, ...] = ()
    measured: bool = True
    repaired: int = 0


class FitProgress(msgspec.Struct, frozen=True, tag_field="message", tag="fit_progress"):
    """How far a whole fit is. ``done`` of ``total`` and ``seconds_left`` are of all steps by their expected times;
    ``part`` (0 to 1) and ``part_left`` of ``step`` alone, one of :data:`STEPS`. ``memory`` of the worker that computes,
    ``rate`` in bytes a second where a file is read."""

    step: str
    label: str
    done: int
    total: int
    seconds_left: float | None
    part: float
    part_left: float | None
    memory: int = 0
    rate: float | None = None


class FitChosen(msgspec.Struct, frozen=True, tag_field="message", tag="fit_chosen"):
    """The types are chosen and judged; the file is still to be written."""

    budget: Budget
    plan: FitPlanned


class Fitted(msgspec.Struct, frozen=True, tag_field="message", tag="fitted"):
    """The end of a whole fit: the types with their reasons, and the files; ``conversion`` is None after a dry run."""

    budget: Budget
    plan: FitPlanned
    conversion: ConversionResult | None = None
    recipe: str = ""


# ---- asked before a fit --------------------------------------------------------------------------------------------


class Refusal(msgspec.Struct, frozen=True):
    """Why a wish cannot be fulfilled, as the :class:`converter.spec.QuenchError` of the run would say it."""

    code: str
    title: str
    detail: str
    hint: str


class FitSum(msgspec.Struct, frozen=True):
    """What running the file would take with ``context`` tokens, in bytes, and what is free."""

    context: int
    weights: int
    kv: int
    compute: int
    available: int


class FitPreview(msgspec.Struct, frozen=True):
    """What is known of a wish before it begins. Bytes, of whole files where nothing else is said.

    ``smallest`` and ``largest`` are what the types allow, with the floors, ``standards`` the recipes' sizes.
    ``floors``: how many tensors each matches. ``disk`` is what is written into the output's folder, ``work_disk`` what
    the steps need in the work folder until the end. ``seconds`` by step, for those that are to be done. ``refusals``:
    what stands against it; the run would say the first. ``speed``: tokens a second that the standard recipe of
    ``budget`` is expected to write, 0 without a goal; ``speed_known``: by what was measured of this very model here.
    """

    budget: Budget
    smallest: int
    largest: int
    standards: dict[str, int]
    floors: tuple[int, ...]
    running: FitSum
    disk: int
    disk_free: int
    work_disk: int
    work_free: int
    memory: int
    memory_free: int
    seconds: dict[str, float]
    refusals: tuple[Refusal, ...] = ()
    speed: float = 0.0
    speed_known: bool = False


class PlanFit(msgspec.Struct, frozen=True, tag_field="message", tag="plan_fit"):
    """Look at a wish without beginning (worker ``scout``); answered by :class:`FitPreviewed`."""

    request: int
    wish: Wish


class FitPreviewed(msgspec.Struct, frozen=True, tag_field="message", tag="fit_previewed"):
    """Answer to :class:`PlanFit`."""

    request: int
    preview: FitPreview


class Recipe(msgspec.Struct, frozen=True):
    """A recipe file. ``rules`` as ``RE=TYPE`` texts; ``imatrix``: the path of its importance matrix if that lies beside
    the recipe, else empty; ``matrix`` that file's name and ``digest`` its SHA-256, empty if the recipe names none.
    ``refined``: the blocks are rounded with less error than llama.cpp's; ``feedback``: some are rounded with error
    feedback, which a conversion does not do by itself."""

    base: str
    rules: tuple[str, ...]
    imatrix: str
    matrix: str = ""
    digest: str = ""
    refined: bool = False
    feedback: bool = False


class ReadRecipe(msgspec.Struct, frozen=True, tag_field="message", tag="read_recipe"):
    """Read a recipe file, and say whether ``imatrix`` is its importance matrix (worker ``scout``); answered by
    :class:`RecipeRead`."""

    request: int
    path: str
    imatrix: str = ""


class RecipeRead(msgspec.Struct, frozen=True, tag_field="message", tag="recipe_read"):
    """Answer to :class:`ReadRecipe`. ``same``: the importance matrix that was asked about is the recipe's."""

    request: int
    recipe: Recipe
    same: bool


__all__ = [
    "IMPORTANCE",
    "JUDGED",
    "JUDGING",
    "PROBING",
    "REFERENCE",
    "STANDARDS",
    "STEPS",
    "TYPES",
    "WRITING",
    "Budget",
    "FitChosen",
    "FitDomain",
    "FitPlanned",
    "FitPreview",
    "FitPreviewed",
    "FitProgress",
    "FitSum",
    "FitTypes",
    "Fitted",
    "FittedTensor",
    "PlanFit",
    "ReadRecipe",
    "Recipe",
    "RecipeRead",
    "Refusal",
    "Size",
    "TypeCost",
    "Wish",
]
