"""What is asked of measurements and what they tell: quality, speed, importance matrices. Divergences in nats."""

from __future__ import annotations

import msgspec

from app.memory_messages import Memory
from app.proportions import wilson


class Estimate(msgspec.Struct, frozen=True):
    """A measured value with its standard error."""

    value: float
    error: float


class ReadImatrix(msgspec.Struct, frozen=True, tag_field="message", tag="read_imatrix"):
    """Describe an importance matrix, or the checkpoint of one (worker ``scout``); answered by :class:`ImatrixRead`."""

    request: int
    path: str


class ServedCandidate(msgspec.Struct, frozen=True):
    """Where a candidate is served: ``path`` is its name in :class:`MeasureQuality` (:mod:`app.remote.address`).

    ``model`` empty: the first that the server lists. ``secret`` empty: the key that the keyring has for this server.
    ``silence`` is how many seconds without a byte end an answer. It may hold a secret, which it does not print.
    """

    path: str
    url: str
    model: str = ""
    secret: str = ""
    silence: float = 300.0

    def __repr__(self) -> str:
        return f"ServedCandidate(path={self.path!r}, url={self.url!r}, model={self.model!r})"


class MeasureQuality(msgspec.Struct, frozen=True, tag_field="message", tag="measure_quality"):
    """Compare candidates with a reference (worker ``measure``).

    ``texts`` are files (``.txt`` plain, ``.jsonl`` one conversation a line) or names of bundled slices; ``tasks`` a
    JSONL file, ``pocket`` or ``quench``; ``run_code`` lets programs be run that the models write. ``chunks`` is the
    number of windows of each text, 0 means all; ``minutes`` 0 no limit.
    With a ``precision`` windows end as soon as half of the 95 % interval of every candidate's mean KLD is below that
    part of it (0.05: 5 %); 0 is off.
    ``memory_mib`` limits what the models may take together (0: what is free); above it they are loaded in turn.
    The ``pass_``/``fail_`` fields are the limits of the verdict: mean KLD in nats, and agreement on the first choice.
    ``kv`` has the cache type of each candidate (``q8_0`` ...), empty for f16, which the reference always has; a shorter
    tuple means f16 for the rest. ``report`` is an ``.html`` file to write at the end, with its ``.json`` and ``.csv``
    twins beside it.

    ``reference`` may be a fingerprint (:mod:`app.quality.fingerprint`): ``texts`` may then be empty and ``context`` 0,
    which mean what it was made on. ``fingerprint`` is such a file to write of a model (there need be no candidates
    then); ``fingerprint_matrix`` says whether the output matrix goes into it: ``auto``, ``always`` or ``never``.

    Candidates that ``served`` lists are scored by their servers, ``served_top`` tokens of the vocabulary a position (0:
    as many as is sensible). They are given no tasks. ``machines`` are RPC workers that compute a part of each file.

    A run goes on from what an interrupted one of the same command has kept, unless it is ``fresh``.
    """

    reference: str
    candidates: tuple[str, ...]
    texts: tuple[str, ...]
    kv: tuple[str, ...] = ()
    context: int = 512
    chunks: int = 0
    minutes: float = 0.0
    precision: float = 0.0
    tasks: str | None = None
    run_code: bool = False
    threads: int = 0
    memory_mib: int = 0
    pass_kld: float = 0.03
    fail_kld: float = 0.2
    pass_top1: float = 0.95
    report: str | None = None
    fingerprint: str | None = None
    fingerprint_matrix: str = "auto"
    fresh: bool = False
    served: tuple[ServedCandidate, ...] = ()
    served_top: int = 0
    machines: tuple[str, ...] = ()


class MeasureImatrix(msgspec.Struct, frozen=True, tag_field="message", tag="measure_imatrix"):
    """Gather an importance matrix of ``model`` (a GGUF file) on ``texts`` into ``output`` (worker ``measure``).

    ``format`` is ``gguf`` or ``dat``; ``context`` tokens a window; ``chunks`` 0: all windows of the texts; ``minutes``
    0: no limit, else the windows that are done by then make the file; ``process_output``: the output matrix as well;
    ``resume``: go on from what an interrupted run left beside ``output``. ``texts`` as in :class:`MeasureQuality`;
    windows of several come in turns.
    """

    model: str
    texts: tuple[str, ...]
    output: str
    format: str = "gguf"
    context: int = 512
    chunks: int = 0
    process_output: bool = False
    resume: bool = False
    threads: int = 0
    minutes: float = 0.0


class MeasureSensitivity(msgspec.Struct, frozen=True, tag_field="message", tag="measure_sensitivity"):
    """What each tensor of ``candidate`` costs when it alone takes its place in ``reference`` (worker ``measure``).

    ``texts``, ``context``, ``chunks``, ``minutes`` and ``threads`` as in :class:`MeasureQuality`. After ``minutes`` the
    windows that were scored by then count; every tensor has at least two.
    """

    reference: str
    candidate: str
    texts: tuple[str, ...]
    context: int = 512
    chunks: int = 2
    minutes: float = 0.0
    threads: int = 0


class MeasureMethods(msgspec.Struct, frozen=True, tag_field="message", tag="measure_methods"):
    """Compare methods of quantization on ``reference``, a GGUF file in 16 or 32 bits (worker ``measure``).

    ``methods`` are keys of :data:`app.quality.methods.table.METHODS`, none for all; ``files`` are GGUF files of the
    same model that are measured beside them. ``calibration``: texts that the methods may look at, none for the bundled
    ones. ``texts``, ``context``, ``chunks`` and ``threads`` as in :class:`MeasureQuality`. With ``minutes`` fewer
    windows are measured, and methods whose turn does not come are left out.
    """

    reference: str
    texts: tuple[str, ...]
    methods: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    context: int = 512
    chunks: int = 2
    minutes: float = 0.0
    threads: int = 0


class MeasureBench(msgspec.Struct, frozen=True, tag_field="message", tag="measure_bench"):
    """Speed and memory of models (worker ``measure``). No ``threads``: each model's own choice, as in Chat.

    ``machines`` are RPC workers that compute a part of each model.
    """

    models: tuple[str, ...]
    prompt: int = 512
    generate: int = 128
    depths: tuple[int, ...] = (0,)
    threads: tuple[int, ...] = ()
    repeat: int = 5
    machines: tuple[str, ...] = ()


class Kld(msgspec.Struct, frozen=True):
    """KL divergence of a candidate from the reference over all scored tokens, in nats."""

    mean: Estimate
    median: Estimate
    p95: Estimate
    p99: Estimate
    p99_9: Estimate
    max: Estimate


class ChoiceScore(msgspec.Struct, frozen=True):
    """Of ``n`` multiple choices, how often the right one was the likeliest (``acc``), and the likeliest relative to its
    number of characters (``acc_norm``); ``counted`` names the one of the two that is in the score."""

    n: int
    acc: int
    acc_norm: int
    counted: str


class Shift(msgspec.Struct, frozen=True):
    """How the right token's probability changed, candidate less reference: its mean and percentiles, -1 to 1."""

    mean: Estimate
    p1: Estimate
    p5: Estimate
    median: Estimate
    p95: Estimate
    p99: Estimate


class PassageToken(msgspec.Struct, frozen=True):
    """A token of the text as both models saw it coming; ``kld`` in nats, probabilities 0 to 1.

    ``reference_first`` and ``first`` are the tokens that either put first.
    """

    text: str
    kld: float
    reference_probability: float
    probability: float
    reference_first: str
    reference_first_probability: float
    first: str
    first_probability: float


class Passage(msgspec.Struct, frozen=True):
    """A stretch of the window ``window`` (from 0) of ``text`` where a candidate is far from the reference.

    ``position`` is its first token's place in the window, ``kld`` the mean over its tokens, ``before`` what was read
    before it.
    """

    text: str
    window: int
    position: int
    kld: float
    before: str
    tokens: tuple[PassageToken, ...]


class TaskScore(msgspec.Struct, frozen=True):
    """Tasks of one slice, and how many were solved."""

    n: int
    correct: int
    choices: ChoiceScore | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Wilson); fractions."""
        return wilson(self.correct, self.n)


class TaskShift(msgspec.Struct, frozen=True):
    """Of ``n`` tasks, those that only the reference solved (``lost``) and only the candidate (``gained``); ``p`` of
    McNemar's exact test."""

    n: int
    lost: int
    gained: int
    p: float


class TaskFlip(msgspec.Struct, frozen=True):
    """A task that only one of two models solved: what was asked (its middle may be left out), what was expected, and
    what both answered. ``gained``: it was the candidate."""

    category: str
    gained: bool
    prompt: str
    expected: str
    reference: str
    candidate: str


class SliceQuality(msgspec.Struct, frozen=True):
    """Quality on one text; ``verdict`` by its divergence alone."""

    tokens: int
    perplexity: Estimate
    kld: Estimate
    top1: Estimate | None
    verdict: str = ""


class Told(msgspec.Struct, frozen=True):
    """What a server said of the odds: the ``asked`` likeliest tokens of each position (0: the right one alone).

    ``missing`` is the mean probability of all others, 0..1; ``whole``: there were none, and every figure is as exact as
    that of a local file. If not, divergences are lower bounds (:mod:`app.quality.bounds`). Of ``hidden`` right tokens
    it did not say how likely they were: perplexity and its ratio are lower bounds then too. ``requests`` took
    ``seconds``.
    """

    software: str
    asked: int
    missing: float
    whole: bool
    hidden: int
    requests: int
    seconds: float


class CandidateQuality(msgspec.Struct, frozen=True):
    """Everything measured of one candidate so far. For the reference itself ``kld`` is all zero.

    ``ln_ratio`` is ln(PPL candidate / PPL reference); ``top1`` the share of tokens on which both put the same first,
    ``top5`` what the two sets of the five likeliest share, 0..1; ``rms_dp`` the root mean square change of the right
    token's probability and ``shift`` its spread; ``reverse_kld`` the divergence of the reference from the candidate.
    ``histogram`` are counts of log10(KLD) in ``HISTOGRAM_EDGES``, ``by_position`` the mean KLD in eight equal parts of
    the scored half of the window. ``verdict`` is pass, review or fail; ``content`` the id of what was measured
    (:mod:`converter.identity`) and ``passages`` the worst stretches of text, both in the final result. ``drift`` is the
    relative error of the hidden state after each layer, empty where the engine does not show it. ``kv`` is the type of
    the cache, empty for f16. ``kld_by_window`` has the mean of every window in the order in which they were measured,
    in the final result, so that two runs over the same windows can be compared in pairs.

    ``told`` is there where a server was asked; what needs odds that it did not give is None.

    ``task_shifts`` are by slice, ``task_shift`` is of all tasks; ``flips`` come in the final result, at most 200, while
    the shifts count them all. ``tasks_asked``: ``chat`` (by the model's template) or ``plain`` (as text with examples).
    """

    path: str
    type: str
    bytes: int
    perplexity: Estimate
    ln_ratio: Estimate
    kld: Kld
    top1: Estimate | None
    rms_dp: Estimate | None
    tasks: dict[str, TaskScore]
    slices: dict[str, SliceQuality]
    tokens_per_second: float
    memory: Memory
    verdict: str
    reason: str
    histogram: tuple[int, ...] = ()
    by_position: tuple[float, ...] = ()
    content: str = ""
    task_shift: TaskShift | None = None
    task_shifts: dict[str, TaskShift] = {}
    flips: tuple[TaskFlip, ...] = ()
    tasks_asked: str = ""
    reverse_kld: Estimate | None = None
    top5: Estimate | None = None
    shift: Shift | None = None
    passages: tuple[Passage, ...] = ()
    drift: tuple[float, ...] = ()
    kv: str = ""
    kld_by_window: tuple[float, ...] = ()
    told: Told | None = None

    @property
    def at_least(self) -> bool:
        """Whether the divergences are lower bounds."""
        return self.told is not None and not self.told.whole

    @property
    def key(self) -> str:
        """What tells the rows of one measurement apart: the file and its cache."""
        return f"{self.path} {self.kv}".rstrip()

    @property
    def label(self) -> str:
        """The type in short, with that of the cache where it is not f16, and whether a server has it."""
        name = f"{self.type} · served" if self.told is not None else self.type
        return f"{name} · KV {self.kv}" if self.kv else name


HISTOGRAM_EDGES: tuple[float, ...] = tuple(-6 + 0.25 * i for i in range(33))
"""log10(KLD in nats) bin edges: 1e-6 to 100, four bins a decade; values outside fall in the first or last bin."""


class QualityUpdate(msgspec.Struct, frozen=True, tag_field="message", tag="quality_update"):
    """A candidate's figures so far; comes again and again while windows are scored."""

    index: int
    windows: int
    windows_total: int
    result: CandidateQuality


class TensorCost(msgspec.Struct, frozen=True):
    """One tensor: its name, types and bytes in the candidate and in the reference.

    ``kld`` is the mean KL divergence in nats of the reference with this tensor alone as the candidate has it, over
    ``windows`` windows; ``error`` what quantizing did to it, sqrt(sum (x - y)^2 / sum x^2).
    """

    name: str
    type: str
    reference_type: str
    bytes: int
    reference_bytes: int
    kld: Estimate
    windows: int
    error: float


class SensitivityUpdate(msgspec.Struct, frozen=True, tag_field="message", tag="sensitivity_update"):
    """A tensor's cost so far; comes for each tensor again when more windows were scored."""

    cost: TensorCost


class SensitivityResult(msgspec.Struct, frozen=True, tag_field="message", tag="sensitivity_result"):
    """What each tensor costs, the dearest first; ``whole`` all of them together, on the same windows.

    Costs add up to ``whole`` where errors are small and do not know of each other.
    """

    reference: str
    candidate: str
    type: str
    costs: tuple[TensorCost, ...]
    whole: Estimate
    windows: int
    context: int
    texts: tuple[str, ...]
    seconds: float
    content: str = ""


class MethodQuality(msgspec.Struct, frozen=True):
    """What one method makes of the reference. ``key`` and ``name`` of the method or, for a file, of that (``path``).

    ``simulated``: its arithmetic was computed in 32-bit floats, and ``engines`` are programs that run it; else this
    program runs it too. ``calibrated``: it has seen the calibration text. ``inputs``: it rounds what goes into products
    as well. ``bits`` a weight that it rounds, ``bpw`` a weight of the whole model, whose tensors take ``bytes``.
    ``slices``: KLD by text. ``seconds`` until it was made.
    """

    key: str
    name: str
    what: str
    engines: tuple[str, ...]
    simulated: bool
    calibrated: bool
    inputs: bool
    bits: float
    bpw: float
    bytes: int
    kld: Estimate
    top1: Estimate
    slices: dict[str, Estimate]
    verdict: str
    reason: str
    seconds: float
    type: str = ""
    path: str = ""


class MethodLeft(msgspec.Struct, frozen=True):
    """A method that was not measured, and why not, in a sentence."""

    key: str
    name: str
    reason: str


class MethodUpdate(msgspec.Struct, frozen=True, tag_field="message", tag="method_update"):
    """One more method is measured."""

    row: MethodQuality


class MethodsResult(msgspec.Struct, frozen=True, tag_field="message", tag="methods_result"):
    """The end of :class:`MeasureMethods`, in the order of the table.

    ``floor``: KLD of the reference's own weights where the engine computes with them in 32 bits, as it does for all
    that is simulated; None where they are in 32 bits anyway. What is below it cannot be told from it. ``windows`` of
    ``context`` tokens with ``tokens`` that were scored; ``calibration`` the texts that were used for it. ``content`` is
    the reference's identity.
    """

    reference: str
    rows: tuple[MethodQuality, ...]
    left_out: tuple[MethodLeft, ...]
    floor: Estimate | None
    windows: int
    tokens: int
    context: int
    texts: tuple[str, ...]
    calibration: tuple[str, ...]
    seconds: float
    content: str = ""


class CandidateFailure(msgspec.Struct, frozen=True):
    """A candidate that could not be measured; ``index`` is its place in :class:`MeasureQuality`."""

    index: int
    path: str
    code: str
    title: str
    detail: str
    hint: str


class FingerprintUse(msgspec.Struct, frozen=True):
    """The fingerprint that was written, or used as the reference.

    ``name`` is the reference model's file; ``base_bytes`` what llama-perplexity's base file of the same positions
    takes. ``exact``: the whole vocabulary by the output matrix that ``matrix`` names (this file, or a GGUF); otherwise
    by sampled odds. ``error`` is the mean divergence in nats of what was kept from the engine's logits, as measured
    when the file was made.
    """

    path: str
    bytes: int
    base_bytes: int
    written: bool
    name: str
    exact: bool
    matrix: str
    error: float


class QualityResult(msgspec.Struct, frozen=True, tag_field="message", tag="quality_result"):
    """The end of a quality measurement. ``candidates`` are those that were measured, in the order of the command.

    The others are in ``failures``; each was also announced by a :class:`Failed` whose ``request`` is its index + 1.
    ``tasks_left_out`` tasks were longer than the model's context. ``notes`` are sentences about the run: that it went
    on from an interrupted one, or why not. ``texts_id`` tells the windows that were cut from others, whatever the texts
    are called.
    """

    reference: CandidateQuality
    candidates: tuple[CandidateQuality, ...]
    tokens: int
    context: int
    texts: tuple[str, ...]
    seconds: float
    failures: tuple[CandidateFailure, ...] = ()
    tasks_left_out: int = 0
    fingerprint: FingerprintUse | None = None
    notes: tuple[str, ...] = ()
    texts_id: str = ""


class Spread(msgspec.Struct, frozen=True):
    median: float
    p10: float
    p90: float


class SpeedPoint(msgspec.Struct, frozen=True):
    """Tokens/s over the repeats at one depth of context and one number of threads."""

    tokens: int
    depth: int
    threads: int
    tokens_per_second: Spread


class BenchMemory(msgspec.Struct, frozen=True):
    weights: int
    kv: int
    compute: int
    peak: int
    steady: int


class Roofline(msgspec.Struct, frozen=True):
    """``fraction`` = bytes_per_token * tokens/s / bandwidth (bytes/s, measured on this machine)."""

    bytes_per_token: int
    bandwidth: float
    fraction: float


class ModelBench(msgspec.Struct, frozen=True):
    """``content`` as in :class:`CandidateQuality`."""

    path: str
    load_cold: float | None
    load_warm: float
    first_token: float
    prompt: tuple[SpeedPoint, ...]
    generate: tuple[SpeedPoint, ...]
    memory: BenchMemory
    roofline: Roofline
    content: str = ""


class BenchUpdate(msgspec.Struct, frozen=True, tag_field="message", tag="bench_update"):
    """One more point of one model, or the finished model."""

    index: int
    kind: str
    point: SpeedPoint | None = None
    model: ModelBench | None = None


class BenchResult(msgspec.Struct, frozen=True, tag_field="message", tag="bench_result"):
    """``automatic``: each model chose its own number of threads; its points say which."""

    models: tuple[ModelBench, ...]
    cpu: str
    seconds: float
    automatic: bool = False


class ImatrixUpdate(msgspec.Struct, frozen=True, tag_field="message", tag="imatrix_update"):
    """How far an importance matrix is. ``perplexity`` is of the text so far; ``experts`` those that were reached."""

    chunks: int
    total: int
    perplexity: Estimate
    experts_seen: int
    experts: int
    seconds_left: float | None = None
    memory: int = 0


class ImatrixStatistics(msgspec.Struct, frozen=True):
    """Figures of one matrix; :class:`converter.imatrix_sums.Statistics` says what they are."""

    name: str
    columns: int
    total: float
    mean: float
    least: float
    most: float
    deviation: float
    active: float
    entropy: float
    evenness: float
    above: float
    cosine: float | None


class Experts(msgspec.Struct, frozen=True):
    """Of all experts of all layers, how many the text reached; both 0 for a dense model."""

    seen: int
    total: int


class ImatrixCheckpoint(msgspec.Struct, frozen=True):
    """Where an interrupted run stands: ``done`` of ``total`` windows of what ``command`` asked for."""

    done: int
    total: int
    command: MeasureImatrix


class ImatrixDescription(msgspec.Struct, frozen=True):
    """What a file says. ``datasets`` are bare names of texts, ``chunk_size`` is in tokens (0: not said).

    ``checkpoint`` only of a run that was interrupted.
    """

    path: str
    entries: int
    chunks: int
    chunk_size: int
    datasets: tuple[str, ...]
    experts: Experts
    statistics: tuple[ImatrixStatistics, ...]
    checkpoint: ImatrixCheckpoint | None = None


class ImatrixRead(msgspec.Struct, frozen=True, tag_field="message", tag="imatrix_read"):
    """Answer to :class:`ReadImatrix`."""

    request: int
    description: ImatrixDescription


class ImatrixResult(msgspec.Struct, frozen=True, tag_field="message", tag="imatrix_result"):
    """A finished importance matrix. ``entries`` matrices, ``statistics`` of each, the heaviest first."""

    path: str
    entries: int
    chunks: int
    tokens: int
    perplexity: Estimate
    experts: Experts
    seconds: float
    statistics: tuple[ImatrixStatistics, ...]
