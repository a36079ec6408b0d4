"""Every message between Quench's processes, as typed structs: one JSON object a line.

Down the pipe (parent to child) go commands, up go events. Messages carry paths and numbers, never tensors or logits.
Times are seconds, sizes bytes, rates per second, divergences nats. ``PROTOCOL`` is raised when a message changes
its meaning; a child says it in :class:`Hello` and the parent refuses another number.
"""

from __future__ import annotations

from typing import Any

import msgspec

from app.adapter_messages import AdaptersSet, SetAdapters
from app.chat_messages import CheckConstraint, Constraint, ConstraintChecked, GuessedAhead, TokenChoices
from app.context_messages import ContextFitted, Summary
from app.fit_messages import (
    FitChosen,
    FitPlanned,
    FitPreviewed,
    FitProgress,
    Fitted,
    FitTypes,
    PlanFit,
    ReadRecipe,
    RecipeRead,
    Wish,
)
from app.hub.messages import (
    AskToken,
    CardRead,
    Download,
    DownloadPlanned,
    DownloadProgress,
    DownloadResult,
    DownloadStarted,
    HubFound,
    InspectRemote,
    KeepToken,
    LimitRate,
    LookedUp,
    LookUp,
    PlanDownload,
    ReadCard,
    SearchHub,
    TokenTold,
)
from app.inspect_messages import (
    MetadataRead,
    ReadMetadata,
    ReadValue,
    RenderTemplate,
    SplitText,
    TemplateRendered,
    TextSplit,
    ValueRead,
)
from app.load_options import LoadOptions as LoadOptions  # noqa: PLC0414 - part of the protocol
from app.local.entry import Listed
from app.local.places import Place
from app.local.verify import VerifiedFile
from app.measure_messages import (
    BenchResult,
    BenchUpdate,
    ImatrixRead,
    ImatrixResult,
    ImatrixUpdate,
    MeasureBench,
    MeasureImatrix,
    MeasureMethods,
    MeasureQuality,
    MeasureSensitivity,
    MethodsResult,
    MethodUpdate,
    QualityResult,
    QualityUpdate,
    ReadImatrix,
    SensitivityResult,
    SensitivityUpdate,
)
from app.memory_messages import LoadPlanned, Memory, MemoryPlan, PlanLoad
from app.remote.messages import AskMachine, AskServer, Connect, KeepKey, KeyTold, MachineTold, ServerTold
from app.serving.messages import Embed, Embedded, Served, Serving, StartServing
from converter.difference import Compared, ComparisonDone
from converter.spec import (
    ConversionResult,
    ConversionSpec,
    ModelInfo,
    Plan,
    Planned,
    Progress,
    QuenchError,
    TensorDone,
)

PROTOCOL = 1


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation; ``role`` is ``system``, ``user``, ``assistant`` or ``tool``.

    ``tool_calls`` is JSON for the template: the calls that an assistant's message made; ``tool_call_id`` says which one
    a tool's message answers.
    """

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is drawn. ``temperature`` 0 is greedy; ``seed`` -1 draws a fresh one."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = -1
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()


# ---- commands (down) -------------------------------------------------------------------------------------------


class Cancel(msgspec.Struct, frozen=True, tag_field="message", tag="cancel"):
    """Stop the job; the child answers :class:`Cancelled` and leaves."""


class Pause(msgspec.Struct, frozen=True, tag_field="message", tag="pause"):
    """Stop the job but keep what it has finished, if it can go on from there; the child answers :class:`Paused`."""


class Convert(msgspec.Struct, frozen=True, tag_field="message", tag="convert"):
    """Start of a conversion (worker ``convert``)."""

    spec: ConversionSpec


class Inspect(msgspec.Struct, frozen=True, tag_field="message", tag="inspect"):
    """Read the header of a folder or GGUF (worker ``scout``); answered by :class:`Inspected` or :class:`Failed`."""

    request: int
    path: str


class MakePlan(msgspec.Struct, frozen=True, tag_field="message", tag="plan"):
    """Plan a conversion without starting it (worker ``scout``); answered by :class:`PlanMade` or :class:`Failed`."""

    request: int
    spec: ConversionSpec


class Scan(msgspec.Struct, frozen=True, tag_field="message", tag="scan"):
    """Look into places for models (worker ``scout``); many :class:`Found`, then :class:`ScanDone`.

    With ``watch`` what changes afterwards is told by further :class:`Found` and :class:`Gone` of the same request,
    until another Scan.
    """

    request: int
    places: tuple[Place, ...]
    watch: bool = False


class VerifyModels(msgspec.Struct, frozen=True, tag_field="message", tag="verify_models"):
    """Read every model of some places whole and compare it with what it should be (worker ``verify``); answered by
    :class:`Status` and :class:`VerifyResult`. What was found good after ``since`` (s since 1970) is not read again."""

    places: tuple[Place, ...]
    since: float = 0.0


class CheckKernels(msgspec.Struct, frozen=True, tag_field="message", tag="check_kernels"):
    """Say which kernel backend is used here, testing them first if need be (worker ``scout``); answered by
    :class:`KernelsChecked` or :class:`Failed`."""

    request: int


class TryModel(msgspec.Struct, frozen=True, tag_field="message", tag="try_model"):
    """Load a GGUF file and ask it for one token (worker ``trial``); answered by :class:`ModelTried` or Failed.

    ``texts`` are split into tokens before, answered by :class:`Tokenized`. ``vocabulary_only``: for a file without
    weights, which is asked for no token.
    """

    path: str
    texts: tuple[str, ...] = ()
    vocabulary_only: bool = False


class CompareModels(msgspec.Struct, frozen=True, tag_field="message", tag="compare_models"):
    """Compare two models tensor by tensor (worker ``compare``): :class:`Compared` and :class:`Progress` ..., then
    :class:`ComparisonDone`. ``threads`` 0: all cores."""

    first: str
    second: str
    threads: int = 0


class RunSelftest(msgspec.Struct, frozen=True, tag_field="message", tag="run_selftest"):
    """Run the self-test of these backends (worker ``selftest``): for each :class:`BackendStarted` and
    :class:`BackendTested`, then :class:`KernelsTested`."""

    backends: tuple[str, ...]


class Load(msgspec.Struct, frozen=True, tag_field="message", tag="load"):
    """Load a model (worker ``chat``); :class:`Loading` ..., then :class:`Loaded` or :class:`Failed`.

    A model that does not fit is refused (``no_memory``) unless ``anyway``. ``replaces`` and ``ratio`` as in
    :class:`app.memory_messages.PlanLoad`. ``prompt_cache``: most bytes that may be kept on disk of what models held of
    conversations (:mod:`app.prompt_files`); 0: nothing is kept or taken back.
    """

    path: str
    options: LoadOptions = LoadOptions()
    anyway: bool = False
    replaces: tuple[int, ...] = ()
    ratio: float = 1.0
    prompt_cache: int = 0


class Generate(msgspec.Struct, frozen=True, tag_field="message", tag="generate"):
    """Answer a conversation (worker ``chat``); :class:`Tokens` ..., then :class:`Replied`.

    ``continue_last`` goes on with the last assistant message instead of opening a new one. ``probabilities``: whether
    :class:`TokenChoices` are wanted: ``always``, ``never``, or ``auto``, where they cost next to nothing. ``overflow``:
    one of :data:`app.context_messages.OVERFLOWS`; where turns were left out, a :class:`ContextFitted` says so.
    ``summary`` is what an earlier one carried. ``conversation`` names what the answer belongs to, so that it can be
    found again. ``draft``: who guesses tokens ahead, ``lookup`` or a smaller model's file; empty: nobody. ``tools`` is
    JSON for the template: the tools that may be called; ``no_tools`` where it knows none.
    """

    request: int
    messages: tuple[ChatMessage, ...]
    sampling: Sampling = Sampling()
    continue_last: bool = False
    constraint: Constraint = Constraint()
    probabilities: str = "never"
    overflow: str = "stop"
    summary: Summary | None = None
    conversation: str = ""
    draft: str = ""
    tools: str = ""


class Complete(msgspec.Struct, frozen=True, tag_field="message", tag="complete"):
    """Go on with a text as it stands, without a template (worker ``chat``); answered as :class:`Generate`."""

    request: int
    prompt: str
    sampling: Sampling = Sampling()
    probabilities: str = "never"


class Stop(msgspec.Struct, frozen=True, tag_field="message", tag="stop"):
    """Stop the reply ``request``; it ends with :class:`Replied` whose ``stop`` is ``cancelled``."""

    request: int


class Count(msgspec.Struct, frozen=True, tag_field="message", tag="count"):
    """Count tokens (worker ``chat``); answered by :class:`Counted`, or ``context_full`` where the length says it.

    ``text`` is counted by itself, ``messages`` as the prompt that they make.
    """

    request: int
    messages: tuple[ChatMessage, ...]
    text: str


class Score(msgspec.Struct, frozen=True, tag_field="message", tag="score"):
    """Teacher-force ``answer`` after ``messages`` (workers ``chat`` and ``server``); answered by :class:`Scored`.

    ``write`` is a file for this model's log-probabilities (the reference does this), ``against`` such a file written
    by the reference: then the divergence from it is computed. With neither, only the probabilities are told. Without
    ``messages`` the text stands by itself, after the token that begins a text.
    """

    request: int
    messages: tuple[ChatMessage, ...]
    answer: str
    write: str | None = None
    against: str | None = None


# ---- events (up) -----------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag_field="message", tag="hello"):
    """First line of every child."""

    protocol: int
    worker: str
    pid: int


class Failed(msgspec.Struct, frozen=True, tag_field="message", tag="failed"):
    """A QuenchError from the child. ``request`` is 0 for a whole job, which ends with it."""

    code: str
    title: str
    detail: str
    hint: str
    request: int = 0
    exit_status: int = 3
    choices: tuple[str, ...] = ()

    def to_error(self) -> QuenchError:
        return QuenchError(
            self.code, self.title, self.detail, self.hint, exit_status=self.exit_status, choices=self.choices
        )


class Cancelled(msgspec.Struct, frozen=True, tag_field="message", tag="cancelled"):
    """The job stopped because it was asked to."""


class Paused(msgspec.Struct, frozen=True, tag_field="message", tag="paused"):
    """The job stopped because it was asked to pause, or because nobody listens any more."""


class Status(msgspec.Struct, frozen=True, tag_field="message", tag="status"):
    """What a long job is doing. ``done`` runs 0..``total``; ``label`` is a short phrase for people."""

    label: str
    done: float
    total: float
    seconds_left: float | None = None
    memory: int = 0


class Inspected(msgspec.Struct, frozen=True, tag_field="message", tag="inspected"):
    request: int
    info: ModelInfo


class PlanMade(msgspec.Struct, frozen=True, tag_field="message", tag="plan_made"):
    request: int
    plan: Plan


class Found(msgspec.Struct, frozen=True, tag_field="message", tag="found"):
    """Models seen by a scan, or changed since; broken ones have ``problems``."""

    request: int
    models: tuple[Listed, ...]


class Gone(msgspec.Struct, frozen=True, tag_field="message", tag="gone"):
    """Models that are no longer where they were when a scan saw them."""

    request: int
    paths: tuple[str, ...]


class ScanDone(msgspec.Struct, frozen=True, tag_field="message", tag="scan_done"):
    request: int
    seen: int


NO_KERNELS = frozenset({"no_trusted_kernels", "no_kernels", "unknown_backend"})
"""Codes of errors that leave no kernel to compute with."""


class VerifyResult(msgspec.Struct, frozen=True, tag_field="message", tag="verify_result"):
    """The end of a verification: every file that was looked at, ``bytes`` of them together."""

    files: tuple[VerifiedFile, ...]
    bytes: int
    seconds: float


class KernelCheck(msgspec.Struct, frozen=True):
    """Which backend of the kernels is used. ``failed`` has those that computed something else here, with the reason;
    ``fresh`` if that was found out just now."""

    backend: str
    failed: dict[str, str] = {}
    fresh: bool = False


class KernelsChecked(msgspec.Struct, frozen=True, tag_field="message", tag="kernels_checked"):
    request: int
    check: KernelCheck


class BackendStarted(msgspec.Struct, frozen=True, tag_field="message", tag="backend_started"):
    """If nothing follows, it was this backend that ended the process."""

    backend: str


class BackendTested(msgspec.Struct, frozen=True, tag_field="message", tag="backend_tested"):
    """``results`` as :func:`kernels.selftest` gives them."""

    backend: str
    results: tuple[dict[str, Any], ...]


class KernelsTested(msgspec.Struct, frozen=True, tag_field="message", tag="kernels_tested"):
    """The end of a self-test."""

    backends: tuple[str, ...]


class Tokenized(msgspec.Struct, frozen=True, tag_field="message", tag="tokenized"):
    """The engine's tokens of each text, special ones found in the text, none put in front or behind."""

    tokens: tuple[tuple[int, ...], ...]


class ModelTried(msgspec.Struct, frozen=True, tag_field="message", tag="model_tried"):
    """The engine loaded a file and answered with this token; -1 if it was not asked."""

    token: int


class Loading(msgspec.Struct, frozen=True, tag_field="message", tag="loading"):
    """``fraction`` 0..1 of the weights are read."""

    fraction: float


class Loaded(msgspec.Struct, frozen=True, tag_field="message", tag="loaded"):
    """The model answers now. ``defaults`` come from the model's own metadata where it has any; ``plan`` is what it was
    expected to take."""

    path: str
    description: str
    parameters: int
    context: int
    context_trained: int
    threads: int
    seconds: float
    memory: Memory
    has_template: bool
    defaults: Sampling
    plan: MemoryPlan | None = None


class Tokens(msgspec.Struct, frozen=True, tag_field="message", tag="tokens"):
    """New text of a reply, coalesced (at most 30 a second). ``rate`` is tokens/s over the last second or so."""

    request: int
    text: str
    tokens: int
    rate: float
    context_used: int
    memory: int


class Replied(msgspec.Struct, frozen=True, tag_field="message", tag="replied"):
    """The end of a reply. ``stop`` is ``end``, ``stop_string``, ``max_tokens``, ``context`` or ``cancelled``.

    ``seed`` is the one that was drawn with, -1 where nothing was drawn (temperature 0). ``ahead``: how guesses did,
    None where nobody was to guess.
    """

    request: int
    stop: str
    tokens: int
    tokens_per_second: float
    first_token: float
    prompt_tokens: int
    prompt_reused: int
    prompt_per_second: float
    context_used: int
    memory: Memory
    seed: int = -1
    ahead: GuessedAhead | None = None


class Counted(msgspec.Struct, frozen=True, tag_field="message", tag="counted"):
    """Tokens of a text, of the prompt, and what fits into the context."""

    request: int
    tokens: int
    prompt_tokens: int
    context: int


class Alternative(msgspec.Struct, frozen=True):
    """A next-token candidate: its text and probability."""

    text: str
    probability: float


class ScoredToken(msgspec.Struct, frozen=True):
    """One token of the answer. ``kld`` in nats (0 for the reference); ``agree``: both put the same token first.

    ``probability`` of a token that a server does not tell is the most that it can be.
    """

    text: str
    probability: float
    kld: float
    agree: bool
    top: tuple[Alternative, ...]
    reference_top: tuple[Alternative, ...]


class Scored(msgspec.Struct, frozen=True, tag_field="message", tag="scored"):
    """Answer to :class:`Score`. ``first_divergence`` is the first token where greedy choices differ, or -1.

    ``bounds``: the divergences are lower bounds, as one of the two is served and tells its likeliest tokens only.
    """

    request: int
    tokens: tuple[ScoredToken, ...]
    mean_kld: float
    top1: float
    first_divergence: int
    bounds: bool = False


# Serving relays: what the worker ``serve`` is asked goes up, what the model's worker answers comes down.
Command = (
    Cancel
    | Pause
    | Convert
    | Inspect
    | MakePlan
    | Scan
    | VerifyModels
    | ReadImatrix
    | CheckKernels
    | CompareModels
    | ReadMetadata
    | ReadValue
    | SplitText
    | RenderTemplate
    | RunSelftest
    | Load
    | Generate
    | Stop
    | Score
    | Count
    | CheckConstraint
    | TryModel
    | MeasureQuality
    | MeasureBench
    | MeasureImatrix
    | MeasureSensitivity
    | MeasureMethods
    | FitTypes
    | Wish
    | PlanFit
    | ReadRecipe
    | Download
    | SearchHub
    | LookUp
    | ReadCard
    | PlanDownload
    | InspectRemote
    | AskToken
    | KeepToken
    | LimitRate
    | PlanLoad
    | SetAdapters
    | Connect
    | AskServer
    | AskMachine
    | KeepKey
    | Complete
    | Embed
    | StartServing
    | Tokens
    | TokenChoices
    | Replied
    | Embedded
    | Failed
)

Event = (
    Hello
    | Failed
    | Cancelled
    | Paused
    | Status
    | Inspected
    | PlanMade
    | Found
    | Gone
    | VerifyResult
    | ScanDone
    | ImatrixRead
    | KernelsChecked
    | BackendStarted
    | BackendTested
    | KernelsTested
    | Loading
    | Loaded
    | Tokens
    | TokenChoices
    | ConstraintChecked
    | Replied
    | Scored
    | Counted
    | QualityUpdate
    | SensitivityUpdate
    | SensitivityResult
    | MethodUpdate
    | MethodsResult
    | FitPlanned
    | FitProgress
    | FitChosen
    | Fitted
    | FitPreviewed
    | RecipeRead
    | QualityResult
    | BenchUpdate
    | BenchResult
    | ImatrixUpdate
    | ImatrixResult
    | Planned
    | TensorDone
    | Progress
    | ConversionResult
    | Tokenized
    | ModelTried
    | Compared
    | ComparisonDone
    | MetadataRead
    | ValueRead
    | TextSplit
    | TemplateRendered
    | DownloadStarted
    | DownloadProgress
    | DownloadResult
    | HubFound
    | LookedUp
    | CardRead
    | DownloadPlanned
    | TokenTold
    | LoadPlanned
    | ContextFitted
    | AdaptersSet
    | ServerTold
    | MachineTold
    | KeyTold
    | Embedded
    | Serving
    | Served
    | Generate
    | Complete
    | Embed
    | Stop
)

TERMINAL = (
    ConversionResult,
    ModelTried,
    ComparisonDone,
    QualityResult,
    BenchResult,
    ImatrixResult,
    SensitivityResult,
    MethodsResult,
    FitPlanned,
    Fitted,
    VerifyResult,
    KernelsTested,
    DownloadResult,
    LoadPlanned,
    Cancelled,
    Paused,
)
"""Events that end a job well, beside :class:`Failed` with ``request`` 0."""

_encoder = msgspec.json.Encoder()
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

MAX_LINE = 32 << 20
"""A line longer than this is a broken child, not a message."""


def encode(message: msgspec.Struct) -> bytes:
    """One line, newline included. Half characters (file names that are no UTF-8 have them) become U+FFFD."""
    try:
        return _encoder.encode(message) + b"\n"
    except UnicodeEncodeError:
        return _encoder.encode(whole_text(msgspec.to_builtins(message))) + b"\n"


def whole_text(value: Any) -> Any:
    """``value`` (plain JSON data) with U+FFFD for every lone surrogate in it, which no JSON can carry."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {whole_text(key): whole_text(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [whole_text(entry) for entry in value]
    return value


def decode_command(line: bytes) -> Command:
    """Parse a line from the parent; ``msgspec.DecodeError`` or ``ValidationError`` if it is not one."""
    return _commands.decode(line)


def decode_event(line: bytes) -> Event:
    """Parse a line from a child; ``msgspec.DecodeError`` or ``ValidationError`` if it is not one."""
    return _events.decode(line)


def failed(error: QuenchError, request: int = 0) -> Failed:
    """The message for an error, for the job (``request`` 0) or for one request."""
    return Failed(error.code, error.title, error.detail, error.hint, request, error.exit_status, error.choices)
