"""The line at the bottom of the window: what is loaded and what it takes, memory left, speed now, jobs."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QToolButton, QWidget

from app import hardware
from app.remote.address import host, is_remote
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.engines import BUSY, DEAD, LOADING, STARTING, Engine
from app.ui.serve_desk import OFF
from app.ui.theme import set_role
from app.ui.widgets import LiveLabel, tip, title_of

TICK_MS = 1000
MEMORY_EVERY = 2
"""Ticks between two looks at the system's memory."""


def memory_parts(engine: Engine) -> list[tuple[str, int]]:
    """An engine's memory, part by part: (name, bytes); empty until it is loaded."""
    memory = engine.memory
    if memory is None or is_remote(engine.path):
        return []
    tr = engine.tr
    return [
        (tr("weights"), memory.weights),
        (tr("KV cache"), memory.kv),
        (tr("compute buffer"), memory.compute),
        (tr("process, its own"), memory.anonymous),
        (tr("process, with its share of the file"), memory.share),
        (tr("process, highest so far"), memory.peak),
    ]


class StatusBar(QFrame):
    """``model_clicked``, ``serve_clicked`` and ``jobs_clicked`` when the person presses those parts."""

    model_clicked = Signal()
    serve_clicked = Signal()
    jobs_clicked = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        set_role(self, "status")
        self._context = context
        self._ticks, self._due = 0, False
        self.model = self._part("memory", self.model_clicked)
        self.serve = self._part("share", self.serve_clicked)
        self.memory = LiveLabel(context.theme.mono(12), "small")
        self.speed = LiveLabel(context.theme.mono(12), "small")
        self.speed.setToolTip(self.tr("Tokens per second that the loaded models write now."))
        self.jobs = self._part("jobs", self.jobs_clicked)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(8, 2, 8, 2)
        layout.setSpacing(16)
        layout.addWidget(self.model)
        layout.addWidget(self.serve)
        layout.addStretch(1)
        layout.addWidget(self.speed)
        layout.addWidget(self.memory)
        layout.addWidget(self.jobs)
        self._timer = QTimer(self, interval=TICK_MS)
        self._timer.timeout.connect(self._tick)
        context.engines.changed.connect(self.refresh)
        context.engines.wrote.connect(self._look)
        context.library.changed.connect(self.refresh)
        context.jobs.changed.connect(self._show_jobs)
        context.serving.changed.connect(self._show_serving)
        context.engines.changed.connect(self._show_serving)
        self.refresh()
        self._show_jobs()
        self._show_serving()
        self._show_memory()

    # A tool button puts its icon right against the text: a space keeps them apart.

    def refresh(self) -> None:
        """Show what is loaded now."""
        alive = [engine for engine in self._context.engines.engines if engine.state != DEAD]
        self.model.setText(f" {self._model_text(alive)}")
        lines = []
        for engine in alive:
            lines.append(engine.path)
            lines += [f"    {name}: {fmt.size(count)}" for name, count in memory_parts(engine)]
        self.model.setToolTip(tip("\n".join(lines)) or self.tr("Choose a model on the Chat page to load it."))
        self.model.setAccessibleName(self._model_text(alive))
        self._show_speed()

    def _show_speed(self) -> None:
        rate = sum(engine.rate for engine in self._context.engines.engines if engine.state == BUSY)
        self.speed.setText(fmt.tokens_per_second(rate) if rate > 0 else "")

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._timer.start()

    def hideEvent(self, event: QHideEvent) -> None:
        self._timer.stop()
        super().hideEvent(event)

    def _model_text(self, alive: list[Engine]) -> str:
        if not alive:
            return self.tr("No model loaded")
        total = sum(engine.memory.anonymous for engine in alive if engine.memory is not None)
        if len(alive) > 1:
            return self.tr("{0} models loaded · {1}").format(len(alive), fmt.size(total))
        name = self._name(alive[0])
        if alive[0].state in (STARTING, LOADING) or alive[0].memory is None:
            words = self.tr("Connecting to {0}") if is_remote(alive[0].path) else self.tr("Loading {0}")
            return words.format(name)
        return name if is_remote(alive[0].path) else f"{name} · {fmt.size(total)}"

    def _name(self, engine: Engine) -> str:
        info = self._context.library.entry(engine.path)
        text = title_of(info) if info is not None else engine.path.replace("\\", "/").rsplit("/", 1)[-1]
        return text if len(text) <= 48 else text[:24] + "…" + text[-23:]

    def _part(self, icon: str, clicked: object) -> QToolButton:
        made = QToolButton()
        set_role(made, "status")
        made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._context.theme.set_icon(made, icon, "muted")
        made.setIconSize(QSize(16, 16))
        made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        made.clicked.connect(clicked)
        return made

    def _tick(self) -> None:
        """A second has passed. While an engine writes, its next words are waited for: one paint shows both."""
        self._ticks += 1
        self._due = True
        if not any(engine.rate > 0 for engine in self._context.engines.engines):
            self._look()

    def _look(self) -> None:
        if not self._due:
            return
        self._due = False
        self._show_speed()
        if self._ticks % MEMORY_EVERY == 0:
            self._show_memory()

    def _show_memory(self) -> None:
        available, total = hardware.memory_available(), hardware.memory_total()
        text = self.tr("{0} free").format(fmt.size(available))
        if text == self.memory.text():
            return
        self.memory.setText(text)
        self.memory.setToolTip(
            self.tr("Memory that programs can still have: {0} of {1}.").format(fmt.size(available), fmt.size(total))
        )

    def _show_serving(self) -> None:
        desk = self._context.serving
        self.serve.setVisible(desk.state != OFF or desk.offer() is not None)
        words = self.tr("Serve") if desk.state == OFF else self.tr("Serving")
        if desk.url:
            words = self.tr("Serving at {0}").format(host(desk.address))
        self.serve.setText(f" {words}")
        self.serve.setAccessibleName(words)
        self.serve.setToolTip(self.tr("Offer the loaded model to other programs"))

    def _show_jobs(self) -> None:
        active = self._context.jobs.active()
        if not active:
            text = self.tr("No jobs")
        elif len(active) == 1:
            text = self.tr("1 job · {0}").format(fmt.percent(active[0].progress, 0))
        else:
            text = self.tr("{0} jobs · {1}").format(len(active), fmt.percent(active[0].progress, 0))
        if self.jobs.text() != f" {text}":
            self.jobs.setText(f" {text}")
            self.jobs.setAccessibleName(self.tr("Jobs: {0}").format(text))
            self.jobs.setToolTip(self.tr("Show the jobs"))
