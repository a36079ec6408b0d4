"""A model under measurement: its file, its loaded engine for a while, and everything found out about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app import library
from app.engine.head import HeadCapture
from app.engine.model import Model
from app.engine.states import States
from app.measure_messages import CandidateQuality, TaskFlip, TaskShift
from app.memory_messages import Memory
from app.protocol import LoadOptions
from app.quality import tasks as graded
from app.quality import verdict
from app.quality.divergence import Divergence
from app.quality.drift import drift
from app.quality.footprint import Footprint, solo_speed
from app.quality.probe import PROBE
from converter import open_model
from converter.identity import content_id
from converter.spec import ModelInfo, QuenchError

SAMPLED_TOKENS = 4096


@dataclass(frozen=True)
class Vocabulary:
    """What tells two vocabularies apart: size, the bytes of a sample of tokens, and how a probe text is cut."""

    size: int
    pieces: tuple[bytes, ...]
    probe: tuple[int, ...]

    @classmethod
    def of(cls, model: Model) -> Vocabulary:
        step = max(1, model.vocabulary // SAMPLED_TOKENS)
        pieces = tuple(model.piece(token, special=True) for token in range(0, model.vocabulary, step))
        return cls(model.vocabulary, pieces, tuple(model.tokenize(PROBE, special=True, add_special=False)))

    def check(self, model: Model, name: str) -> None:
        """QuenchError ``other_vocabulary`` unless ``model`` has the same tokens: divergence means nothing then."""
        other = Vocabulary.of(model)
        if other == self:
            return
        if other.size != self.size:
            detail = f"{name} has {other.size} tokens, the reference {self.size}."
        else:
            differing = sum(ours != theirs for ours, theirs in zip(self.pieces, other.pieces, strict=True))
            detail = f"{name} has as many tokens as the reference, but other ones ({differing} of a sample differ)."
        raise QuenchError(
            "other_vocabulary",
            "The model has another vocabulary than the reference.",
            detail,
            "Compare files that were made from the same model.",
        )


def read_header(path: str) -> ModelInfo:
    """What the file says about itself. A damaged header is refused here, before anything native reads it."""
    with open_model(path) as source:
        return source.info


class Subject:
    """One file in a quality run; ``index`` is its place among the candidates, -1 for the reference."""

    is_served = False

    def __init__(self, path: str, index: int, kv: str = "") -> None:
        self.path = path
        self.index = index
        self.kv = kv
        self.name = f"{Path(path).name}, {kv} cache" if kv else Path(path).name
        self.model: Model | None = None
        self.capture: HeadCapture | None = None
        self.saved_bytes = 0
        self.vocabulary: Vocabulary | None = None
        self.divergence = Divergence()
        self.states: list[States] = []
        self.answers: list[graded.Graded] = []
        self.asked = ""
        self.tokens_per_second = 0.0
        self.memory = Memory(0, 0, 0)
        self.load_seconds = 0.0
        self.trained = 0
        self.type = ""
        self.content = ""
        self.identity = b""
        self.error: QuenchError | None = None
        self.next_update = 0.0

    @property
    def bytes(self) -> int:
        """Size of the model's file, 0 if it is not there."""
        if self.saved_bytes:
            return self.saved_bytes
        file = Path(self.path)
        return file.stat().st_size if file.is_file() else 0

    @property
    def right(self) -> list[bool]:
        """Which of the tasks so far were solved."""
        return [answer.right for answer in self.answers]

    @property
    def open_model(self) -> Model:
        """The loaded model."""
        if self.model is None:
            raise RuntimeError(f"{self.name} is not loaded")
        return self.model

    def open(
        self,
        options: LoadOptions,
        outputs: int,
        task_context: int,
        on_progress: Callable[[float], bool],
        on_model: Callable[[Model], None],
    ) -> Model:
        """Load the model; the first time also measure its speed and memory, before another model is loaded.

        ``task_context``: tokens that tasks need (0: none are asked). The context grows to that, but not beyond what the
        model was trained on, and takes several tasks at once.
        """
        start = time.monotonic()
        if not self.type:
            header = read_header(self.path)
            self.type, self.trained = library.type_label(header), header.context_length
        if task_context > options.context:
            longest = self.trained or task_context
            options = msgspec.structs.replace(options, context=max(options.context, min(task_context, longest)))
        sequences = graded.sequences(options.context) if task_context else 1
        self.content = self.content or content_id(self.path)
        footprint = Footprint()
        self.model = model = Model.load(
            self.path,
            options,
            on_progress,
            outputs=max(outputs, sequences),
            sequences=sequences,
            capture=self.capture,
        )
        on_model(model)
        self.load_seconds = time.monotonic() - start
        if not self.tokens_per_second:
            self.tokens_per_second = solo_speed(model)
            self.memory = footprint.memory(model)
        return model

    def answer(self, tasks: Sequence[graded.Task], stopped: Callable[[], bool]) -> None:
        """Let the loaded model solve the next ``tasks``; errors as :func:`app.quality.tasks.grade`."""
        self.asked = self.asked or graded.form(self.open_model)
        self.answers += graded.grade(self.open_model, tasks, stopped)

    def close(self) -> None:
        """Free the engine; what was found out stays."""
        if self.model is not None:
            self.model.close()
            self.model = None

    def flips(self, reference: Subject, tasks: Sequence[graded.Task]) -> tuple[TaskFlip, ...]:
        """Tasks that only one of the two solved, as many as are kept."""
        return tuple(graded.flips(tasks, reference.answers, self.answers)[: graded.MAX_FLIPS])

    def quality(
        self, reference: Subject, tasks: Sequence[graded.Task], thresholds: verdict.Thresholds, replicates: int
    ) -> CandidateQuality:
        """The figures so far, without flips; the reference's own verdict is ``pass``."""
        found = self.divergence.summary(replicates)
        change, shifts = None, dict[str, TaskShift]()
        if self is reference:
            level, reason = verdict.PASS, "This is the reference."
        else:
            change = graded.change(reference.right, self.right)
            shifts = graded.shifts(tasks, reference.right, self.right)
            by_slice = {name: part.kld for name, part in found.slices.items()}
            level, reason = verdict.judge(
                found.kld.mean, found.top1, change, thresholds, slices=by_slice, missing=found.missing
            )
        return CandidateQuality(
            path=self.path,
            content=self.content,
            type=self.type,
            kv=self.kv,
            bytes=self.bytes,
            perplexity=found.perplexity,
            ln_ratio=found.ln_ratio,
            kld=found.kld,
            top1=found.top1,
            rms_dp=found.rms_dp,
            tasks=graded.scores(tasks, self.answers),
            task_shift=TaskShift(change.n, change.lost, change.gained, change.p) if change else None,
            task_shifts=shifts,
            tasks_asked=self.asked,
            slices={
                name: msgspec.structs.replace(part, verdict=verdict.by_divergence(part.kld, thresholds, found.missing))
                for name, part in found.slices.items()
            },
            tokens_per_second=self.tokens_per_second,
            memory=self.memory,
            verdict=level,
            reason=reason,
            histogram=found.histogram,
            by_position=found.by_position,
            drift=drift(reference.states, self.states) if self is not reference else (),
            reverse_kld=found.reverse_kld,
            top5=found.top5,
            shift=found.shift,
        )
