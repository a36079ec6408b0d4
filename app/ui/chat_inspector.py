"""The right side of the Chat page: which model, how it draws its words, and what it does and takes right now."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from app.protocol import LoadOptions, Replied, Sampling, Tokens
from app.remote.address import is_remote
from app.ui import format as fmt
from app.ui.charts import TimeChart
from app.ui.chat_adapters import AdapterList
from app.ui.chat_loading import LoadingForm
from app.ui.constraint_panel import ConstraintPanel
from app.ui.context import Context
from app.ui.engines import BUSY, DEAD, LOADING, READY, STARTING, Engine
from app.ui.sampling_panel import SamplingPanel
from app.ui.servers import KIND
from app.ui.status_bar import memory_parts
from app.ui.theme import set_role
from app.ui.widgets import LiveBar, LiveLabel, ModelPicker, label

LIVE = 1.0
"""Seconds between two looks at figures that change with every token: each is a repaint."""


class Inspector(QWidget):
    """``model_picked`` when a person chose another model, ``options_applied`` to load it again with other options,

    ``system_changed`` when the system prompt was edited. :meth:`follow` ties it to an engine.
    """

    model_picked = Signal()
    options_applied = Signal()
    system_changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._engine: Engine | None = None
        self._quiet = False
        self._due = 0.0
        self.setMinimumWidth(280)
        self.picker = ModelPicker(context, {"gguf", KIND})
        self.picker.changed.connect(self._picked)
        self._state = label("", "small", wrap=True)
        self.tabs = QTabWidget()
        self.tabs.setAccessibleName(self.tr("Inspector"))
        self.tabs.tabBar().setAccessibleName(self.tr("Inspector"))
        self.tabs.addTab(self._make_live(), self.tr("Live"))
        self._settings = _scroll(self._make_settings())
        self.tabs.addTab(self._settings, self.tr("Settings"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(8)
        layout.addWidget(self.picker)
        layout.addWidget(self._state)
        layout.addWidget(self.tabs, 1)
        self.follow(None)

    # ---- building ----------------------------------------------------------------------------------------------

    def _make_live(self) -> QWidget:
        page = QWidget()
        theme = self._context.theme
        empty = self.tr("Figures appear with the next answer.")
        self.speed = TimeChart(theme, self.tr("Speed"), "tokens/s", [self.tr("tokens/s")], empty=empty)
        self.memory = TimeChart(theme, self.tr("Memory of the engine"), "B", [self.tr("process")], empty=empty)
        for chart in (self.speed, self.memory):
            chart.setMinimumHeight(120)
            chart.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.fill = LiveBar()
        self.fill.setTextVisible(False)
        self.fill.setRange(0, 1000)
        self.fill.setAccessibleName(self.tr("Context in use"))
        self._fill_text = LiveLabel(theme.mono(12), "number")
        head = QHBoxLayout()
        head.addWidget(label(self.tr("Context"), ""), 1)
        head.addWidget(self._fill_text)
        self._parts = QGridLayout()
        self._parts.setHorizontalSpacing(8)
        self._parts.setVerticalSpacing(4)
        self._parts.setColumnStretch(0, 1)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 8, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self.fill)
        layout.addWidget(self.speed, 1)
        layout.addWidget(self.memory, 1)
        layout.addLayout(self._parts)
        return page

    def _make_settings(self) -> QWidget:
        page = QWidget()
        set_role(page, "page")
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 8, 8, 0)
        layout.setSpacing(8)
        self.system = QPlainTextEdit()
        self.system.setAccessibleName(self.tr("System prompt"))
        self.system.setPlaceholderText(self.tr("None. Say here who the model is and how it should answer."))
        self.system.setTabChangesFocus(True)
        self.system.setFixedHeight(84)
        self.system.textChanged.connect(self._system_edited)
        layout.addWidget(label(self.tr("System prompt"), "heading"))
        layout.addWidget(self.system)
        layout.addSpacing(8)
        layout.addWidget(label(self.tr("Sampling"), "heading"))
        self.sampling_panel = SamplingPanel(self._context)
        self.preset, self.spins = self.sampling_panel.preset, self.sampling_panel.spins
        self.reset_button = self.sampling_panel.reset_button
        layout.addWidget(self.sampling_panel)
        layout.addSpacing(8)
        layout.addWidget(label(self.tr("Constraint"), "heading"))
        self.constraint_panel = ConstraintPanel(self._context)
        layout.addWidget(self.constraint_panel)
        layout.addSpacing(8)
        layout.addWidget(label(self.tr("Loading"), "heading"))
        self.loading = LoadingForm(self._context)
        self.loading.applied.connect(self.options_applied)
        layout.addWidget(self.loading)
        layout.addSpacing(8)
        layout.addWidget(label(self.tr("Adapters"), "heading"))
        self.adapters = AdapterList(self._context)
        layout.addWidget(self.adapters)
        layout.addStretch(1)
        return page

    # ---- for the page ------------------------------------------------------------------------------------------

    def sampling(self) -> Sampling | None:
        """What was set by hand, or None for the model's own values."""
        return self.sampling_panel.sampling()

    def options(self) -> LoadOptions:
        """How the model is to be loaded."""
        return self.loading.options()

    def show_constraint(self) -> None:
        """Bring what the answers are held to into sight."""
        self.tabs.setCurrentIndex(1)
        self._settings.ensureWidgetVisible(self.constraint_panel)
        self.constraint_panel.text.setFocus()

    def set_system(self, text: str) -> None:
        """Show a conversation's system prompt."""
        if text != self.system.toPlainText():
            self._quiet = True
            self.system.setPlainText(text)
            self._quiet = False

    def set_model(self, path: str | None) -> None:
        """Show a model without asking for it to be loaded."""
        self._quiet = True
        self.picker.set_path(path)
        self._quiet = False
        self.loading.set_path(path or "")

    def follow(self, engine: Engine | None) -> None:
        """Show this engine's state and figures from now on."""
        if self._engine is not None:
            self._engine.state_changed.disconnect(self._show_state)
            self._engine.tokens.disconnect(self._show_tokens)
            self._engine.replied.disconnect(self._show_reply)
        self._engine = engine
        if engine is not None:
            engine.state_changed.connect(self._show_state)
            engine.tokens.connect(self._show_tokens)
            engine.replied.connect(self._show_reply)
            self.speed.clear()
            self.memory.clear()
        self.loading.set_path(self.picker.path() or "")
        self.loading.follow(engine)
        self.adapters.follow(engine)
        self.memory.setVisible(engine is None or not is_remote(engine.path))
        self._show_state()

    # ---- showing -----------------------------------------------------------------------------------------------

    def _show_state(self) -> None:
        engine = self._engine
        loaded = engine.loaded if engine is not None else None
        if engine is None or engine.state == DEAD:
            text = self.tr("Not loaded") if self.picker.path() else self.tr("Choose a model to chat with.")
        elif engine.state in (STARTING, LOADING) or loaded is None:
            text = self.tr("Loading")
        else:
            one = {READY: self.tr("Ready"), BUSY: self.tr("Answering")}[engine.state]
            count = loaded.threads
            threads = self.tr("1 thread") if count == 1 else self.tr("{0} threads").format(count)
            text = self.tr("{0} · loaded in {1} · {2}").format(one, fmt.seconds(loaded.seconds), threads)
            if is_remote(engine.path):
                text = f"{one} · {loaded.description}"
        self._state.setText(text)
        served = is_remote(self.picker.path() or "")
        self.loading.set_served(served)
        self.adapters.setEnabled(not served)
        self.sampling_panel.set_defaults(loaded.defaults if loaded is not None else Sampling())
        self._show_fill(engine.context_used if engine is not None else 0)
        self._show_parts()

    def _show_tokens(self, event: Tokens) -> None:
        if event.rate > 0:
            self.speed.append(self.speed.series[0], event.rate)
        self.memory.append(self.memory.series[0], float(event.memory))
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LIVE
            self._show_fill(event.context_used)

    def _show_reply(self, event: Replied) -> None:
        self._show_fill(event.context_used)
        self._show_parts()

    def _show_fill(self, used: int) -> None:
        loaded = self._engine.loaded if self._engine is not None else None
        if loaded is None or not loaded.context:
            self.fill.setValue(0)
            self._fill_text.setText(fmt.DASH)
            return
        share = used / loaded.context
        self.fill.setValue(round(min(share, 1.0) * 1000))
        set_role(self.fill, "bad" if share > 0.9 else "")
        text = self.tr("{0} of {1} · {2}").format(fmt.number(used), fmt.number(loaded.context), fmt.percent(share, 0))
        self._fill_text.setText(text)
        self._fill_text.setToolTip(
            self.tr("Tokens in use, of what is loaded. The model was trained for {0}.").format(
                fmt.number(loaded.context_trained)
            )
        )

    def _show_parts(self) -> None:
        parts = memory_parts(self._engine) if self._engine is not None else []
        rows = self._parts.count() // 2
        for place in range(rows, len(parts)):
            self._parts.addWidget(label("", "small"), place, 0)
            number = label("", "number")
            number.setFont(self._context.theme.mono(12))
            number.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._parts.addWidget(number, place, 1)
        for place in range(max(rows, len(parts))):
            name, count = parts[place] if place < len(parts) else ("", None)
            self._parts.itemAtPosition(place, 0).widget().setText(name)
            self._parts.itemAtPosition(place, 1).widget().setText(fmt.size(count) if count is not None else "")

    # ---- editing -----------------------------------------------------------------------------------------------

    def _picked(self) -> None:
        self.loading.set_path(self.picker.path() or "")
        self._show_state()
        if not self._quiet:
            self.model_picked.emit()

    def _system_edited(self) -> None:
        if not self._quiet:
            self.system_changed.emit()


def _scroll(page: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidget(page)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return area
