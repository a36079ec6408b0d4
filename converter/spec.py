"""What a conversion is asked to do, what it will make, what it says while it works, and how it fails.

Everything here is plain data (msgspec structs): it travels between processes as JSON and is cheap to import.
Shapes are row-major as in numpy and Hugging Face: ``(rows, columns)``; a row is what a quantized block runs along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec


class QuenchError(Exception):
    """A failure that a person can act on.

    ``code`` is a stable identifier (``bad_header``, ``unknown_architecture``, ``no_space`` ...), ``title`` one short
    sentence without jargon, ``detail`` the facts (names, numbers), ``hint`` what to do next. ``exit_status`` is the
    command line's: 2 usage, 3 bad input, 4 not enough disk or memory, 5 the engine died, 130 interrupted. ``choices``
    are what a person may choose from to go on, the likeliest first; what is chosen there depends on the code.
    """

    def __init__(
        self,
        code: str,
        title: str,
        detail: str = "",
        hint: str = "",
        *,
        exit_status: int = 3,
        choices: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{title} {detail}".strip())
        self.code = code
        self.title = title
        self.detail = detail
        self.hint = hint
        self.exit_status = exit_status
        self.choices = choices

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
    ``notes`` are sentences about a usable model, such as what an earlier quantization has cost it.
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
    notes: tuple[str, ...] = ()


class ConversionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One conversion: one source, any number of recipes, one pass. Paths are strings so that it travels as JSON.

    ``output`` is a file for one type and a folder for several. ``tensor_types`` are ``(regular expression, type)``
    rules, the first match wins. ``lora`` are folders of adapters, merged in this order. ``threads`` 0 means all cores;
    ``memory_mib`` 0 means the default cap. ``resume`` goes on where an interrupted run of the same conversion ended, if
    there was one. ``override_kv`` are ``KEY=TYPE:VALUE`` texts (:func:`converter.options.parse_override`),
    ``remove_kv`` keys to leave out, ``prune_layers`` numbers of layers to leave out, ``split_size`` the most bytes of
    tensors in one file (0: one file), ``keep_split`` the source's own division.
    ``check``: a sample of what was written is compared with the source before it is done. ``pre_tokenizer`` is the
    engine's name for how text is split, for a source whose way is not recognised; the output says that it was chosen.
    ``blocks`` is a GGUF file with tensors that are taken as they are (:mod:`converter.ready`).
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
    override_kv: tuple[str, ...] = ()
    prune_layers: tuple[int, ...] = ()
    keep_split: bool = False
    split_size: int = 0
    check: bool = True
    pre_tokenizer: str | None = None
    remove_kv: tuple[str, ...] = ()
    blocks: str | None = None


class PlannedTensor(msgspec.Struct, frozen=True):
    """A tensor of an output file before it exists. ``reason`` says in words why it got its type.

    ``seconds`` is what making it is expected to take, on all threads together.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    reason: str = ""
    seconds: float = 0.0


class RuleCount(msgspec.Struct, frozen=True):
    """What a tensor rule does in one output: how many tensors it matches by name, how many got their type from it."""

    pattern: str
    type: str
    matches: int
    wins: int


class PlannedOutput(msgspec.Struct, frozen=True):
    """One output to be made: exact size in bytes (header and padding included) and bits per weight.

    ``path`` is the file to open; ``files`` are all of them where the output is split, else empty. ``rules`` follow
    ``ConversionSpec.tensor_types``.
    """

    type: str
    path: str
    bytes: int
    bpw: float
    tensors: tuple[PlannedTensor, ...]
    files: tuple[str, ...] = ()
    rules: tuple[RuleCount, ...] = ()

    @property
    def all_files(self) -> tuple[str, ...]:
        return self.files or (self.path,)


class Plan(msgspec.Struct, frozen=True):
    """Everything that is known before the first byte is written. Bytes and seconds; ``warnings`` are sentences.

    ``loading`` is the part of ``seconds`` for making quantized weights whole, once for all outputs.
    """

    source: ModelInfo
    outputs: tuple[PlannedOutput, ...]
    read_bytes: int
    disk_needed: int
    disk_free: int
    memory_needed: int
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    loading: float = 0.0


_READ_RATE, _WRITE_RATE = 2e9, 0.7e9
"""Bytes a second that a disk is assumed to give and to take: it cannot be measured without filling it."""
_STARTUP_SECONDS = 0.1
"""Before the first slab and behind the last one: headers, flushing, reading back."""


def expected_seconds(outputs: Sequence[PlannedOutput], read_bytes: int, loading: float) -> float:
    """Seconds for some outputs of one plan together: equal types of a tensor are made once, the source is read and made
    whole once."""
    rows = zip(*(output.tensors for output in outputs), strict=True)
    work = loading + sum(sum({entry.type: entry.seconds for entry in entries}.values()) for entries in rows)
    # The next rows are read while these are worked on; what is written must be on the disk at the end.
    reading, writing = read_bytes / _READ_RATE, sum(output.bytes for output in outputs) / _WRITE_RATE
    return _STARTUP_SECONDS + max(work, reading) + writing


class TensorDone(msgspec.Struct, frozen=True, tag_field="message", tag="tensor_done"):
    """One tensor of one output was quantized and written. ``rmse`` is root-mean-square error, 0 for lossless.

    ``relative_error`` is sqrt(sum(w (x - y)^2) / sum(w x^2)) over the weights x, what became of them y and each
    column's importance w (1 without an importance matrix).
    """

    output: int
    name: str
    type: str
    bytes: int
    rmse: float
    relative_error: float = 0.0


class Progress(msgspec.Struct, frozen=True, tag_field="message", tag="progress"):
    """At most ten a second. ``done``/``total`` count source bytes, ``rate`` bytes a second, ``memory`` is RssAnon."""

    done: int
    total: int
    rate: float
    seconds_left: float | None
    memory: int
    label: str = ""


class TextDifference(msgspec.Struct, frozen=True):
    """A text that the source's tokenizer and the engine's split into different tokens. ``composing``: they agree on the
    same text with its characters composed (Unicode's NFC), which the source does first and the engine never does."""

    text: str
    source: tuple[int, ...]
    engine: tuple[int, ...]
    composing: bool = False


class TokenizerCheck(msgspec.Struct, frozen=True):
    """How many hard texts both tokenizers were given, on how many they differ, on how many of those only for
    ``composing``, and the first of them, others before those."""

    texts: int
    different: int = 0
    composing: int = 0
    examples: tuple[TextDifference, ...] = ()


class Checked(msgspec.Struct, frozen=True):
    """How a finished file was looked at: ``rows`` of it were compared with the source's, and the engine was asked for
    a ``token`` after a short text. None if it was not asked, or could not be; ``note`` says why, in a sentence.
    ``tokenizer``: the engine's tokens against those of the source; None for a source without files of a tokenizer."""

    rows: int
    token: int | None = None
    note: str = ""
    tokenizer: TokenizerCheck | None = None


class OutputDone(msgspec.Struct, frozen=True):
    """A finished file: renamed into place, re-opened and verified.

    ``error`` maps tensor name to RMSE, ``relative_error`` to the error that :class:`TensorDone` explains. ``files`` are
    all files of a split output, else empty.
    """

    path: str
    type: str
    bytes: int
    bpw: float
    tensors: dict[str, str]
    error: dict[str, float]
    files: tuple[str, ...] = ()
    relative_error: dict[str, float] = {}
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
