"""How a model is loaded: the inspector's form, and under it what that needs in memory, before and after."""

from __future__ import annotations

from typing import Any

import msgspec
from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QComboBox, QGridLayout, QLabel, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from app.memory_messages import Memory, MemoryPlan
from app.protocol import LoadOptions, Replied
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.engines import DEAD, Engine
from app.ui.planner import Planner, learned, ratio_of
from app.ui.theme import set_role
from app.ui.widgets import button, label
from converter.spec import QuenchError

MAX_SPREAD = 100
"""Models of which it is kept that they are spread over several machines."""

KV_TYPES = ("f16", "bf16", "q8_0", "q5_1", "q4_0")
_QUANTIZED = frozenset({"q8_0", "q5_1", "q4_0"})


class LoadingForm(QWidget):
    """``applied`` when the model is to be loaded again with these, ``edited`` when anything was changed."""

    applied = Signal()
    edited = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._engine: Engine | None = None
        self._path = ""
        self._quiet = False
        self._served = False
        self._asked: tuple[Any, ...] = ()
        self.planner = Planner(self)
        self.planner.planned.connect(self._show_answer)
        context.closing.connect(self.planner.forget)
        self.context_spin = QSpinBox()
        self.context_spin.setRange(0, 1 << 20)
        self.context_spin.setSingleStep(1024)
        self.context_spin.setSpecialValueText(self.tr("automatic"))
        self.kv_combo = QComboBox()
        for name in KV_TYPES:
            self.kv_combo.addItem(name, name)
        self.threads_spin = QSpinBox()
        self.threads_spin.setRange(0, 256)
        self.threads_spin.setSpecialValueText(self.tr("automatic"))
        self.gpu_spin = QSpinBox()
        self.gpu_spin.setRange(0, 999)
        self.gpu_spin.setSpecialValueText(self.tr("none"))
        self.flash_combo = QComboBox()
        for name, words in (("auto", self.tr("automatic")), ("on", self.tr("on")), ("off", self.tr("off"))):
            self.flash_combo.addItem(words, name)
        self.overflow_combo = QComboBox()
        for name, words in self._overflow_words():
            self.overflow_combo.addItem(words, name)
        self.machines_combo = QComboBox()
        form = _grid()
        for name, widget, why in self._rows():
            widget.setAccessibleName(name)
            add_field(form, name, why, widget)
        self._machines_caption = form.itemAtPosition(form.rowCount() - 1, 0).widget()
        self.machines_combo.activated.connect(self._spread_edited)
        for spin in (self.context_spin, self.threads_spin, self.gpu_spin):
            spin.valueChanged.connect(self._options_edited)
        for combo in (self.kv_combo, self.flash_combo):
            combo.activated.connect(self._options_edited)
        self.overflow_combo.activated.connect(
            lambda: context.update_settings(overflow=self.overflow_combo.currentData())
        )
        self.problem = label("", "small", wrap=True)
        set_role(self.problem, "warn")
        self.apply_button = button(self.tr("Load again with these"), self.applied.emit, "primary")
        self.plan = PlanTable(context)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(form)
        layout.addWidget(self.problem)
        layout.addWidget(self.apply_button)
        layout.addWidget(self.plan)
        context.settings_changed.connect(self._read_settings)
        self._read_settings()

    def _overflow_words(self) -> tuple[tuple[str, str], ...]:
        return (
            ("stop", self.tr("stop")),
            ("shift", self.tr("leave out old turns")),
            ("summarise", self.tr("sum up old turns")),
        )

    def _rows(self) -> tuple[tuple[str, QWidget, str], ...]:
        return (
            (self.tr("Context"), self.context_spin, self.tr("Tokens the model can look back on. Automatic: 8,192, or "
             "what the model was trained for, or less where that does not fit into memory.")),
            (self.tr("When full"), self.overflow_combo, self.tr("What happens when the conversation is longer than the "
             "context. The system prompt always stays; nothing is deleted, the conversation shows what the model no "
             "longer sees.")),
            (self.tr("KV cache"), self.kv_combo, self.tr("How the conversation is kept in memory: q8_0 takes half of "
             "f16 and loses next to nothing; on a processor it is slower.")),
            (self.tr("Threads"), self.threads_spin, self.tr("Processor threads. Automatic: the fastest number, found "
             "in a short trial for small models, else one for each real core.")),
            (self.tr("GPU layers"), self.gpu_spin, self.tr("Layers that are computed on the graphics processor, if the "
             "engine was built for one; more than the model has means all.")),
            (self.tr("Flash attention"), self.flash_combo, self.tr("Less memory for long contexts. A q8_0, q5_1 or "
             "q4_0 cache needs it.")),
            (self.tr("Computed on"), self.machines_combo, self.tr("The other machines are those in Settings. They get "
             "as many of this model's layers as their memory is a part of all, or as many as GPU layers says. In "
             "trusted networks only: nothing on the way is encrypted.")),
        )  # fmt: skip

    # ---- for the inspector -------------------------------------------------------------------------------------

    def options(self) -> LoadOptions:
        """How the model is to be loaded."""
        return LoadOptions(
            context=self.context_spin.value(),
            threads=self.threads_spin.value(),
            gpu_layers=self.gpu_spin.value(),
            kv_type=self.kv_combo.currentData(),
            flash_attention=self.flash_combo.currentData(),
            machines=self._context.settings.machines if self.machines_combo.currentData() else (),
        )

    def overflow(self) -> str:
        """What happens when the context is full."""
        return str(self.overflow_combo.currentData())

    def follow(self, engine: Engine | None) -> None:
        """Show this engine's figures from now on."""
        if self._engine is not None:
            self._engine.state_changed.disconnect(self.refresh)
            self._engine.replied.disconnect(self._learn)
        self._engine = engine
        if engine is not None:
            engine.state_changed.connect(self.refresh)
            engine.replied.connect(self._learn)
        self.refresh()

    def set_served(self, served: bool) -> None:
        """A server has loaded its model in its own way: nothing of it can be set here."""
        self._served = served
        for field in (
            self.context_spin,
            self.kv_combo,
            self.threads_spin,
            self.gpu_spin,
            self.flash_combo,
            self.machines_combo,
        ):
            field.setEnabled(not served)
        self.overflow_combo.setEnabled(not served)
        self.refresh()

    def set_path(self, path: str) -> None:
        """The chosen model."""
        if path != self._path:
            self._path = path
            self._show_machines()
            self.refresh()

    def stay_here(self) -> None:
        """Take the chosen model off the other machines."""
        self._context.update_settings(
            spread=tuple(path for path in self._context.settings.spread if path != self._path)
        )

    def refresh(self) -> None:
        """Show what holds now: the plan for what is set, and beside it what the loaded model took."""
        engine, options = self._engine, self.options()
        alive = engine is not None and engine.state != DEAD
        if self._served:
            self.planner.forget()
            self.problem.hide()
            self.apply_button.hide()
            self.plan.show_nothing("")
            return
        problem = self._problem(options)
        self.problem.setText(problem)
        self.problem.setVisible(bool(problem))
        self.apply_button.setVisible(alive and engine is not None and engine.options != options)
        self.apply_button.setEnabled(not problem)
        if problem:
            self.planner.forget()
            self._asked = ()
            self.plan.show_nothing("")
            return
        loaded = engine.loaded if engine is not None and alive else None
        if loaded is not None and engine is not None and engine.options == options and loaded.plan is not None:
            self.planner.forget()
            self._asked = ()
            self.plan.show_plan(loaded.plan, engine.memory)
        elif options.machines:
            self.planner.forget()
            self._asked = ()
            self.plan.show_nothing(self.tr("What of this stays here is worked out when the machines are asked."))
        elif self._path and self.isVisible():
            self._ask(options)

    # ---- inside ------------------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()

    def _ask(self, options: LoadOptions) -> None:
        engine = self._engine
        if engine is not None and engine.options == options and engine.state not in (DEAD,):
            return  # it is being loaded, and then says so itself
        pid = engine.pid() if engine is not None else 0
        replaces = (*self._context.engines.leaving(), *((pid,) if pid else ()))
        question = (self._path, options, replaces)
        if question == self._asked:
            return
        self._asked = question
        info = self._context.library.entry(self._path)
        ratio = ratio_of(self._context.settings, info.architecture if info is not None else "")
        self.plan.show_nothing(self.tr("Working out what this needs …"))
        self.planner.ask(self._path, options, replaces, ratio)

    def _show_answer(self, answer: MemoryPlan | QuenchError) -> None:
        if isinstance(answer, MemoryPlan):
            self.plan.show_plan(answer, None)
        else:
            self.plan.show_nothing(self.tr("What this needs is unknown. {0}").format(answer.title))

    def _problem(self, options: LoadOptions) -> str:
        if options.flash_attention == "off" and options.kv_type in _QUANTIZED:
            words = self.tr("A {0} cache needs flash attention. Set that to automatic or on, or choose f16 or bf16.")
            return words.format(options.kv_type)
        return ""

    def _learn(self, event: Replied) -> None:
        if self._engine is not None:
            ratios = learned(self._context.settings, self._engine, event)
            if ratios is not None:
                self._context.update_settings(memory_ratios=ratios)
        self.refresh()

    def _options_edited(self) -> None:
        self.refresh()
        if not self._quiet:
            changed = msgspec.structs.asdict(self.options())
            del changed["machines"]  # which these are is not chosen here
            self._context.update_settings(**changed)
            self.edited.emit()

    def _spread_edited(self) -> None:
        others = tuple(path for path in self._context.settings.spread if path != self._path)
        wanted = (*others, self._path) if self.machines_combo.currentData() and self._path else others
        self._context.update_settings(spread=wanted[-MAX_SPREAD:])
        self.edited.emit()

    def _show_machines(self) -> None:
        """Whether the chosen model is spread, and over how many; nothing where there are no other machines."""
        count = len(self._context.settings.machines)
        self.machines_combo.clear()
        self.machines_combo.addItem(self.tr("this machine"), False)
        if count:
            self.machines_combo.addItem(self.tr("this and {0} more").format(count), True)
        spread = bool(count) and self._path in self._context.settings.spread
        self.machines_combo.setCurrentIndex(int(spread))
        for part in (self.machines_combo, self._machines_caption):
            part.setVisible(count > 0)
        self.gpu_spin.setSpecialValueText(self.tr("by memory") if spread else self.tr("none"))

    def _read_settings(self) -> None:
        settings = self._context.settings
        if self._quiet:
            return
        self._quiet = True
        self.context_spin.setValue(settings.context)
        self.threads_spin.setValue(settings.threads)
        self.gpu_spin.setValue(settings.gpu_layers)
        self.kv_combo.setCurrentIndex(max(0, self.kv_combo.findData(settings.kv_type)))
        self.flash_combo.setCurrentIndex(max(0, self.flash_combo.findData(settings.flash_attention)))
        self.overflow_combo.setCurrentIndex(max(0, self.overflow_combo.findData(settings.overflow)))
        self._show_machines()
        self._quiet = False
        self.refresh()


class PlanTable(QWidget):
    """Parts of memory: what was planned, and what the loaded model took."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._mono = context.theme.mono(12)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(0, 1)
        self._cells: list[tuple[QLabel, QLabel, QLabel]] = []
        self.verdict = label("", "small", wrap=True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(self._grid)
        layout.addWidget(self.verdict)

    def show_nothing(self, words: str) -> None:
        """Only a sentence."""
        self._fill([])
        self._say(words, "small")

    def show_plan(self, plan: MemoryPlan, memory: Memory | None) -> None:
        """A plan, and beside it the truth if there is one."""
        real: list[int | None] = [None] * 6
        if memory is not None:
            rest = max(0, memory.anonymous - memory.repacked - memory.kv - memory.compute)
            total = memory.weights + memory.anonymous
            real = [memory.weights, memory.repacked, memory.kv, memory.compute, rest, total]
        names = (
            self.tr("Weights"),
            self.tr("Weights, repacked"),
            self.tr("KV cache"),
            self.tr("Compute buffer"),
            self.tr("Process"),
            self.tr("Together"),
        )
        planned = (plan.weights, plan.repacked, plan.kv, plan.compute, plan.process, plan.total)
        rows = [
            (name, fmt.size(before), fmt.size(after) if after is not None else "")
            for name, before, after in zip(names, planned, real, strict=True)
            if before or after
        ]
        head = (self.tr("Memory"), self.tr("planned"), self.tr("taken") if memory is not None else "")
        self._fill([head, *rows])
        if memory is not None:
            self._say(self._elsewhere(plan) or self._learned(plan), "small")
        elif plan.fits:
            fits = self.tr("Fits: {0} can be had.").format(fmt.size(plan.room))
            self._say(" ".join(filter(None, (fits, self._reduced(plan), self._learned(plan)))), "small")
        else:
            words = self.tr("Does not fit: {0} can be had, {1} too little.")
            missing = words.format(fmt.size(plan.room), fmt.size(plan.expected - plan.room))
            self._say(f"{missing} {self._learned(plan)}".strip(), "warn")

    def _reduced(self, plan: MemoryPlan) -> str:
        words = self.tr("The context is {0} instead of {1} tokens so that it does.")
        return words.format(fmt.number(plan.context), fmt.number(plan.asked)) if plan.asked else ""

    def _elsewhere(self, plan: MemoryPlan) -> str:
        if not plan.layers:
            return ""
        words = self.tr("{0} layers with {1} are on the other machines.")
        return words.format(fmt.number(plan.layers), fmt.size(plan.elsewhere))

    def _learned(self, plan: MemoryPlan) -> str:
        if abs(plan.ratio - 1) < 0.005:
            return ""
        words = self.tr("{0} models took {1} times their plan here, which is counted in.")
        return words.format(plan.architecture, f"{plan.ratio:.2f}")

    def _say(self, words: str, role: str) -> None:
        self.verdict.setText(words)
        self.verdict.setVisible(bool(words))
        set_role(self.verdict, role)

    def _fill(self, rows: list[tuple[str, str, str]]) -> None:
        while len(self._cells) < len(rows):
            cells = (label("", "small"), label("", "number"), label("", "number"))
            for column, cell in enumerate(cells):
                self._grid.addWidget(cell, len(self._cells), column)
                if column:
                    cell.setFont(self._mono)
                    cell.setAlignment(Qt.AlignmentFlag.AlignRight)
            self._cells.append(cells)
        for at, cells in enumerate(self._cells):
            for cell, text in zip(cells, rows[at] if at < len(rows) else ("", "", ""), strict=True):
                cell.setText(text)
                cell.setVisible(at < len(rows))


def add_field(form: QGridLayout, text: str, why: str, widget: QWidget) -> None:
    """A caption and its field; the field takes the width that is left and never asks for more."""
    caption = label(text, "muted")
    caption.setToolTip(why)
    widget.setToolTip(why)
    widget.setMinimumWidth(96)
    widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    row = form.rowCount()
    form.addWidget(caption, row, 0)
    form.addWidget(widget, row, 1)


def _grid() -> QGridLayout:
    form = QGridLayout()
    form.setHorizontalSpacing(12)
    form.setVerticalSpacing(8)
    form.setColumnStretch(1, 1)
    return form


__all__ = ["KV_TYPES", "LoadingForm", "PlanTable", "add_field"]
