"""An importance matrix from a text: which input columns of every matrix carry the most, as llama-imatrix measures it.

The text is cut into windows as the tool cuts it; each runs through the model from a clean context while
:class:`app.engine.capture.Capture` adds up what goes into the matrices. Every few seconds the sums are put beside the
output as a checkpoint, so that a run that is stopped, killed or loses its power goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.engine.capture import Capture, Sums
from app.engine.model import Model
from app.files import refuse_output, write_atomically
from app.imatrix_files import as_messages, checkpoint_entries, checkpoint_path, resumable
from app.measure_messages import Estimate, Experts, ImatrixResult, ImatrixUpdate, MeasureImatrix
from app.protocol import Event, LoadOptions, Status
from app.quality import texts as texts_module
from app.quality.divergence import first_scored, perplexity_estimate, score
from app.quality.limits import MAX_CONTEXT, MIN_CONTEXT
from converter.imatrix_sums import FORMATS, Collected, coverage, dataset_names, encode, read_sums, statistics
from converter.spec import Cancelled, QuenchError

Emit = Callable[[Event], None]
Stopped = Callable[[], bool]

UPDATE_SECONDS = 0.3
FIRST_CHECKPOINT, CHECKPOINT_SECONDS = 1.0, 20.0
"""Sums are put by after a tenth of the time that they took, but not sooner and not later than this, in seconds."""

_HEAD_BYTES = 1 << 20
_FEWEST_ROWS, _UBATCH = 16, 512


class ImatrixRun:
    """Runs one :class:`MeasureImatrix`. Arguments as of :class:`app.quality.lab.QualityRun`."""

    def __init__(
        self,
        command: MeasureImatrix,
        emit: Emit,
        stopped: Stopped,
        on_model: Callable[[Model], None] = lambda model: None,
    ) -> None:
        self._command = command
        self._emit = emit
        self._stopped = stopped
        self._on_model = on_model
        self._output = Path(command.output)
        self.checkpoint = checkpoint_path(self._output)
        self._start = time.monotonic()
        self._written = self._start
        self._shown = 0.0
        self._nll: list[float] = []
        self._done = 0
        self._resumed = 0
        check(command)

    @property
    def done(self) -> int:
        """Windows that are in the sums, with those of the run that it goes on from."""
        return self._done

    def run(self) -> ImatrixResult:
        """Gather and write the file.

        Raises:
            QuenchError: a text or the model is bad, or the disk; ``bad_imatrix`` when the checkpoint is of another run.
            converter.spec.Cancelled: ``stopped`` became true; the checkpoint stays for ``resume``.
        """
        texts = texts_module.load(self._command.texts)
        capture = Capture(output=self._command.process_output)
        options = LoadOptions(context=self._command.context, threads=self._command.threads)
        with Model.load(self._command.model, options, self._loading, capture=capture) as model:
            self._on_model(model)
            windows = self._windows(texts, model)
            key = self._fingerprint(windows)
            if self._command.resume:
                self._take_up(capture, key, len(windows))
            try:
                for window in windows[self._done :]:
                    if self._stopped():
                        raise Cancelled
                    self._one(model, capture, window, len(windows), key)
                    if self._out_of_time():
                        break
            except Cancelled:
                capture.take_back()
                self._save(capture, key, len(windows))
                raise
        self._write(self._output, encode(self._collected(capture), self._command.format))
        self.checkpoint.unlink(missing_ok=True)
        return self._result(capture)

    # ---- the text --------------------------------------------------------------------------------------------

    def _loading(self, part: float) -> bool:
        self._emit(Status("Loading the model", part, 1.0))
        return not self._stopped()

    def _windows(self, texts: list[texts_module.Text], model: Model) -> list[tuple[int, ...]]:
        """Windows of all texts in turns, so that a part of the run is a fair sample of the whole."""
        groups = [texts_module.windows(text, model, self._command.context) for text in texts]
        cut = [window.tokens for window in texts_module.interleave(groups)]
        return cut[: self._command.chunks] if self._command.chunks else cut

    def _out_of_time(self) -> bool:
        return 0 < self._command.minutes * 60 <= time.monotonic() - self._start

    def _fingerprint(self, windows: list[tuple[int, ...]]) -> str:
        """What a checkpoint must agree with: the tokens, the options and the model's file."""
        model = Path(self._command.model)
        digest = hashlib.sha256(f"{self._command.context} {self._command.process_output}".encode())
        digest.update(str(model.stat().st_size).encode())
        with model.open("rb") as file:
            digest.update(file.read(_HEAD_BYTES))
        for window in windows:
            digest.update(np.asarray(window, "<i4").tobytes())
        return digest.hexdigest()

    # ---- one window ------------------------------------------------------------------------------------------

    def _one(self, model: Model, capture: Capture, window: tuple[int, ...], total: int, key: str) -> None:
        first = first_scored(len(window))
        # Logits of every position are asked for: without them the engine leaves out the last layer's rows.
        logits = model.window_logits(window, 0)
        capture.check()
        self._nll += score(logits[first:-1], window[first + 1 :], keep=False).nll.tolist()
        self._done += 1
        now = time.monotonic()
        if now - self._written >= min(max((now - self._start) / 10, FIRST_CHECKPOINT), CHECKPOINT_SECONDS):
            self._save(capture, key, total)
        if now - self._shown >= UPDATE_SECONDS or self._done == total:
            self._shown = now
            pace = (now - self._start) / (self._done - self._resumed)
            seen, experts = coverage(capture.sums)
            memory = model.memory().anonymous
            left = pace * (total - self._done)
            if self._command.minutes:
                left = min(left, max(0.0, self._command.minutes * 60 - (now - self._start)))
            perplexity = self._perplexity()
            label = f"Perplexity {perplexity.value:.3f}" + (f", experts {seen} of {experts}" if experts else "")
            self._emit(Status(label, self._done, total, left, memory))
            self._emit(ImatrixUpdate(self._done, total, perplexity, seen, experts, left, memory))

    def _perplexity(self) -> Estimate:
        return perplexity_estimate(np.asarray(self._nll))

    # ---- files -----------------------------------------------------------------------------------------------

    def _collected(self, capture: Capture) -> Collected:
        return Collected(capture.sums, dataset_names(self._command.texts), self._command.context)

    def _save(self, capture: Capture, key: str, total: int) -> None:
        if not self._done:
            return
        extra = checkpoint_entries(self._command, key, self._done, total, self._nll)
        collected = dataclasses.replace(self._collected(capture), extra=extra)
        self._write(self.checkpoint, encode(collected, "gguf"))
        self._written = time.monotonic()

    def _take_up(self, capture: Capture, key: str, total: int) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        sums, keys = read_sums(self.checkpoint)
        known = resumable(keys, key, total)
        if known is None:
            raise QuenchError(
                "bad_imatrix",
                "The interrupted importance matrix was of something else.",
                f"{self.checkpoint} was made from another model, other texts or other options.",
                "Start again without going on, or give the same model and texts as before.",
            )
        for name, entry in sums.items():
            # A plain matrix of several has one count; its shape comes back with its first product.
            matrices = entry.counts.size
            capture.sums[name] = Sums(entry.squares.reshape(matrices, -1), entry.counts)
        self._done, self._nll = known
        self._resumed = self._done

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except OSError as error:
            raise QuenchError(
                "write_failed",
                "The importance matrix could not be written.",
                f"{path}: {error.strerror or error}.",
                "Free some space or choose another folder.",
                exit_status=4,
            ) from error

    def _result(self, capture: Capture) -> ImatrixResult:
        return ImatrixResult(
            path=str(self._output),
            entries=len(capture.sums),
            chunks=self._done,
            tokens=self._done * self._command.context,
            perplexity=self._perplexity(),
            experts=Experts(*coverage(capture.sums)),
            seconds=time.monotonic() - self._start,
            statistics=as_messages(statistics(capture.sums)),
        )


def check(command: MeasureImatrix) -> None:
    """Refuse what cannot be measured; ``QuenchError`` ``bad_options``, ``no_folder`` or as ``refuse_output``."""
    problem = ""
    if command.format not in FORMATS:
        problem = f"There is no format {command.format!r}. Known: {', '.join(FORMATS)}."
    elif command.minutes < 0:
        problem = f"{command.minutes:g} minutes are no time."
    elif not MIN_CONTEXT <= command.context <= MAX_CONTEXT:
        problem = f"A window has {MIN_CONTEXT} to {MAX_CONTEXT} tokens, not {command.context}."
    elif 0 < command.context % _UBATCH < _FEWEST_ROWS:
        # The engine would compute the rest of each window in a batch too small to be counted.
        problem = f"Windows of {command.context} tokens leave a rest of {command.context % _UBATCH}, which is lost."
    if problem:
        raise QuenchError("bad_options", "It cannot be measured this way.", problem, "", exit_status=2)
    if not Path(command.output).parent.is_dir():
        raise QuenchError(
            "no_folder", "The output folder does not exist.", str(Path(command.output).parent), "Create it first."
        )
    refuse_output(Path(command.output), (command.model, *command.texts))


__all__ = ["ImatrixRun", "check"]
