"""What a model would take in memory, asked of a worker that makes a dry load; and what was learned from real loads."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer, Signal

from app.child import Verdict
from app.memory_messages import LoadPlanned, PlanLoad
from app.protocol import LoadOptions, Replied
from app.settings import Settings
from app.ui.engines import Engine
from app.ui.process import WorkerProcess
from converter.spec import QuenchError

WAIT_MS = 300
"""A person who turns a number is not done yet."""
_SOUND = (0.5, 2.0)  # a ratio outside was measured wrongly
_ENOUGH = 256  # tokens: fewer leave most of the compute buffer untouched


class Planner(QObject):
    """``planned`` brings a :class:`app.memory_messages.MemoryPlan` or a QuenchError for the last question asked."""

    planned = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._wanted: PlanLoad | None = None
        self._process: WorkerProcess | None = None
        self._last = 0
        self._timer = QTimer(self, singleShot=True, interval=WAIT_MS)
        self._timer.timeout.connect(self._start)

    def ask(self, path: str, options: LoadOptions, replaces: tuple[int, ...], ratio: float) -> None:
        """Ask, after a short wait for further changes; an earlier question is forgotten."""
        self._last += 1
        self._wanted = PlanLoad(self._last, path, options, replaces, ratio)
        self._timer.start()

    def forget(self) -> None:
        """No answer is wanted any more."""
        self._wanted = None
        self._timer.stop()
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()

    def processes(self) -> list[WorkerProcess]:
        """Running workers (used at the end of the program)."""
        return self.findChildren(WorkerProcess)

    def _start(self) -> None:
        wanted = self._wanted
        self.forget()
        if wanted is None:
            return
        process = WorkerProcess("plan", self)
        self._process, self._wanted = process, wanted
        process.event.connect(lambda message: self._heard(process, message))
        process.finished.connect(lambda verdict: self._ended(process, verdict))
        process.start()
        process.send(wanted)

    def _heard(self, process: WorkerProcess, message: object) -> None:
        if process is self._process and isinstance(message, LoadPlanned):
            self._process = None
            self.planned.emit(message.plan)

    def _ended(self, process: WorkerProcess, verdict: Verdict) -> None:
        process.deleteLater()
        if process is not self._process:
            return
        self._process = None
        unknown = QuenchError("engine_died", self.tr("What this model needs is unknown."), "", "", exit_status=5)
        self.planned.emit(verdict.error or unknown)


def learned(settings: Settings, engine: Engine, event: Replied) -> dict[str, float] | None:
    """The ratios with what this answer showed; None where it shows nothing.

    The truth is the weights in the file and the process's own memory, after a prompt of some length has been through
    the compute buffers.
    """
    plan = engine.loaded.plan if engine.loaded is not None else None
    if plan is None or plan.layers or event.prompt_tokens - event.prompt_reused < _ENOUGH or not plan.total:
        return None
    ratio = (event.memory.weights + event.memory.anonymous) / plan.total
    if not _SOUND[0] <= ratio <= _SOUND[1]:
        return None
    before = settings.memory_ratios.get(plan.architecture, ratio)
    return {**settings.memory_ratios, plan.architecture: round((before + ratio) / 2, 4)}


def ratio_of(settings: Settings, architecture: str) -> float:
    """What was learned of an architecture; 1 if nothing."""
    ratio = settings.memory_ratios.get(architecture, 1.0)
    return ratio if _SOUND[0] <= ratio <= _SOUND[1] else 1.0


__all__ = ["Planner", "learned", "ratio_of"]
