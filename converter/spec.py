"""What a conversion is asked to do, what it will make, what it says while it works, and how it fails.

Everything here is plain data (msgspec structs): it travels between processes as JSON and is cheap to import.
Shapes are row-major as in numpy and Hugging Face: ``(rows, columns)``; a row is what a quantized block runs along.
"""

from __future__ import annotations

from typing import Any

import msgspec


class QuenchError(Exception):
    """A failure that a person can act on.

    ``code`` is a stable identifier (``bad_header``, ``unknown_architecture``, ``no_space`` ...), ``title`` one short
    sentence without jargon, ``detail`` the facts (names, numbers), ``hint`` what to do next. ``exit_status`` is the
    command line's: 2 usage, 3 bad input, 4 not enough disk or memory, 5 the engine died, 130 interrupted.
    """

    def __init__(self, code: str, title: str, detail: str = "", hint: str = "", *, exit_status: int = 3) -> None:
        super().__init__(f"{title} {detail}".strip())
        self.code = code
        self.title = title
        self.detail = detail
        self.hint = hint
        self.exit_status = exit_status

    def as_dict(self) -> dict[str, str]:
        """The ``error`` object of the headless contract."""
        return {"code": self.code, "title": self.title, "detail": self.detail, "hint": self.hint}


class Cancelled(Exception):  # noqa: N818 - it is not an error
    """The person asked to stop; nothing half-written is left behind."""


class Paused(Cancelled):
    """The person asked to pause; what is finished was kept (if anything is) for a run with ``resume``."""


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor of a model file. ``name`` is the GGUF name, ``type`` a GGML type name such as ``Q4_K``."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int


class ModelInfo(msgspec.Struct, frozen=True):
    """What a folder or a GGUF file is, read from headers alone. ``kind`` is ``hf`` or ``gguf``.

    ``name`` is the base name for outputs (``<name>-<TYPE>.gguf``). ``metadata`` holds scalars and short previews of
    GGUF keys, never a whole vocabulary. ``problems`` are sentences; an empty tuple means that the model is usable.
    """

    path: str
    kind: str
    name: str
    architecture: str
    parameters: int
    layers: int
    context_length: int
    embedding_length: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    experts: int
    vocabulary: int
    tokenizer: str
    pre_tokenizer: str
    types: dict[str, int]
    bytes: int
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, Any]
    problems: tuple[str, ...] = ()
    chat_template: str | None = None
    tied_embeddings: bool = False


class ConversionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One conversion: one source, any number of recipes, one pass. Paths are strings so that it travels as JSON.

    ``output`` is a file for one type and a folder for several. ``tensor_types`` are ``(regular expression, type)``
    rules, the first match wins. ``lora`` are folders of adapters, merged in this order. ``threads`` 0 means all cores;
    ``memory_mib`` 0 means the default cap. ``resume`` goes on where an interrupted run of the same conversion ended, if
    there was one. ``check``: a sample of what was written is compared with the source before it is done.
    """

    source: str
    output: str
    types: tuple[str, ...]
    imatrix: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    leave_output: bool = False
    refined: bool = False
    threads: int = 0
    memory_mib: int = 0
    lora: tuple[str, ...] = ()
    overwrite: bool = False
    allow_requantize: bool = False
    resume: bool = False
    check: bool = True


class PlannedTensor(msgspec.Struct, frozen=True):
    """A tensor of an output file before it exists. ``reason`` says in words why it got its type."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    reason: str = ""


class PlannedOutput(msgspec.Struct, frozen=True):
    """One file to be made: exact size in bytes (header and padding included) and bits per weight."""

    type: str
    path: str
    bytes: int
    bpw: float
    tensors: tuple[PlannedTensor, ...]


class Plan(msgspec.Struct, frozen=True):
    """Everything that is known before the first byte is written. Bytes and seconds."""

    source: ModelInfo
    outputs: tuple[PlannedOutput, ...]
    read_bytes: int
    disk_needed: int
    disk_free: int
    memory_needed: int
    seconds: float | None = None


class TensorDone(msgspec.Struct, frozen=True, tag_field="message", tag="tensor_done"):
    """One tensor of one output was quantized and written. ``rmse`` is root-mean-square error, 0 for lossless."""

    output: int
    name: str
    type: str
    bytes: int
    rmse: float


class Progress(msgspec.Struct, frozen=True, tag_field="message", tag="progress"):
    """At most ten a second. ``done``/``total`` count source bytes, ``rate`` bytes a second, ``memory`` is RssAnon."""

    done: int
    total: int
    rate: float
    seconds_left: float | None
    memory: int
    label: str = ""


class Checked(msgspec.Struct, frozen=True):
    """How a finished file was looked at: ``rows`` of it were compared with the source's, and the engine was asked for
    a ``token`` after a short text. None if it was not asked, or could not be; ``note`` says why, in a sentence."""

    rows: int
    token: int | None = None
    note: str = ""


class OutputDone(msgspec.Struct, frozen=True):
    """A finished file: renamed into place, re-opened and verified. ``error`` maps tensor name to RMSE."""

    path: str
    type: str
    bytes: int
    bpw: float
    tensors: dict[str, str]
    error: dict[str, float]
    checked: Checked | None = None


class ConversionResult(msgspec.Struct, frozen=True, tag_field="message", tag="converted"):
    """The end of a conversion that succeeded. ``peak_rss`` in bytes; ``kernels`` names the backend."""

    outputs: tuple[OutputDone, ...]
    read_bytes: int
    seconds: float
    peak_rss: int
    kernels: str


class Planned(msgspec.Struct, frozen=True, tag_field="message", tag="planned"):
    """Sent once before the first :class:`TensorDone`.

    ``kept`` is the part of the work, 0 to 1, that an interrupted run of the same conversion had left done. With
    ``resume`` it is taken over, else it is lost.
    """

    plan: Plan
    kept: float = 0.0


ConversionEvent = Planned | TensorDone | Progress | ConversionResult
