"""Methods of quantization on one model: what other engines' ways would cost it, beside the K-quants'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QColor, QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QHBoxLayout, QMenu, QSpinBox, QTabBar, QVBoxLayout, QWidget

from app import measurements
from app.measure_messages import CandidateQuality, MeasureMethods, MethodQuality, MethodsResult, MethodUpdate
from app.quality.methods.table import METHODS
from app.quality.texts import DEFAULT
from app.remote.address import is_remote
from app.ui import format as fmt
from app.ui.chart_pareto import ParetoChart, ParetoPoint
from app.ui.chart_parts import SeriesStyle
from app.ui.convert_source import is_quantized
from app.ui.method_table import MethodTable
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, ModelPicker, ProgressLine, button, label

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

WIDE = 900
"""Pixels from which table and chart stand side by side."""

NEAREST = (("Q8_0", 7.0), ("Q6_K", 5.75), ("Q5_K", 4.75), ("Q4_K", 3.5), ("Q3_K", 2.75), ("Q2_K", 0.0))
"""Types by the bits from which a simulated method has their colour."""


class MethodChart(ParetoChart):
    """Bits a weight across, divergence up, logarithmic. Simulated methods are diamonds."""

    def __init__(self, theme: Any, parent: QWidget | None = None, title: str = "", empty: str = "") -> None:
        self.simulated: frozenset[str] = frozenset()
        super().__init__(theme, parent, title, empty)
        self.set_log(True)

    def set_rows(self, rows: Sequence[MethodQuality]) -> None:
        self.simulated = frozenset(row.name for row in rows if row.simulated)
        self.set_points(
            [(row.name, row.type or _colour_type(row.bits), row.bpw, row.kld.value, row.kld.error) for row in rows]
        )

    def x_axis(self) -> tuple[str, float]:
        return self.tr("bits per weight of the whole model"), 1.0

    def x_words(self, point: ParetoPoint) -> str:
        where = self.tr("simulated") if point.label in self.simulated else self.tr("runs here")
        return self.tr("{0} bits per weight, {1}").format(fmt.number(point.bytes, 2), where)

    def symbol(self, point: ParetoPoint) -> str:
        return "d" if point.label in self.simulated else "o"

    def styles(self) -> list[SeriesStyle]:
        color = QColor(self.theme.tokens.text)
        kinds = [SeriesStyle(self.tr("runs here"), color, symbol="o", kind="dot")]
        if self.simulated:
            kinds.append(SeriesStyle(self.tr("simulated"), color, symbol="d", kind="dot"))
        front = SeriesStyle(
            self.tr("front: nothing smaller is closer"), QColor(self.theme.tokens.accent), Qt.PenStyle.DashLine
        )
        return [front, *kinds]

    def data(self) -> tuple[list[str], list[list[Any]]]:
        headers, rows = super().data()
        headers[0], headers[2] = self.tr("Method"), self.tr("Bits per weight")
        headers[1] = self.tr("Computed")
        for row in rows:
            row[1] = self.tr("simulated") if row[0] in self.simulated else self.tr("runs here")
        return headers, rows


def _colour_type(bits: float) -> str:
    return next(name for name, least in NEAREST if bits >= least)


class MethodLabPanel(QWidget):
    """A model, a button that measures, the table and the chart."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._result: MethodsResult | None = None
        self._files: list[str] = []
        self.job: Job | None = None
        self.model = ModelPicker(context, {"gguf", "hf"})  # of a folder what the command line has measured is shown
        self.model.setAccessibleName(self.tr("Model that methods are compared on"))
        self.chosen = button("", None)
        self.menu = QMenu(self)
        self.chosen.setMenu(self.menu)
        self.methods: dict[str, QAction] = {}
        self.minutes = QSpinBox()
        self.minutes.setRange(0, 600)
        self.minutes.setSpecialValueText(self.tr("no limit"))
        self.minutes.setSuffix(self.tr(" min"))
        self.minutes.setAccessibleName(self.tr("Time limit in minutes"))
        self.minutes.lineEdit().setAccessibleName(self.minutes.accessibleName())
        self.minutes.setToolTip(
            self.tr("Fewer windows are measured, and methods whose turn does not come are left out")
        )
        self.run_button = button(self.tr("Compare methods"), self.measure)
        self.guide_button = button(self.tr("Which one?"), self._ask_guide, "quiet")
        self.guide_button.setToolTip(self.tr("Three questions, and a recipe for your machine"))
        self.note = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.note, "muted")
        theme = context.theme
        self.table = MethodTable(theme)
        self.chart = MethodChart(theme, title=self.tr("Bits against divergence"))
        self.error = ErrorCard()
        self.progress = ProgressLine()
        self.nothing = label("", "muted", wrap=True)
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.views = QTabBar()
        self.views.addTab(self.tr("Table"))
        self.views.addTab(self.tr("Chart"))
        self.views.setAccessibleName(self.tr("Table or chart"))
        self.views.setDrawBase(False)
        self._fill_menu()
        self._lay_out()
        self.model.changed.connect(self._show)
        self.progress.cancelled.connect(self._cancel)
        self.views.currentChanged.connect(self._arrange)
        context.jobs.added.connect(self._on_job)
        self._show()

    def set_results(self, reference: str, candidates: Sequence[CandidateQuality]) -> None:
        """What the page has measured: its files can be set beside the methods."""
        self._files = [item.path for item in candidates if not item.kv and not is_remote(item.path)]
        if not self.model.path() and reference.lower().endswith(".gguf"):
            self.model.set_path(reference)
        self._refresh()

    def is_empty(self) -> bool:
        """Whether there is no table."""
        return not self.table.rows.rows

    def command(self) -> MeasureMethods | None:
        """What is chosen; None while something is missing."""
        path = self.model.path()
        keys = [key for key, action in self.methods.items() if action.isChecked()]
        if not path or not keys or self._quantized(path) or self._is_folder(path):
            return None
        everything = len(keys) == len(self.methods)
        return MeasureMethods(
            reference=path,
            texts=DEFAULT,
            methods=() if everything else tuple(keys),
            files=tuple(self._files) if self.with_files.isChecked() else (),
            minutes=float(self.minutes.value()),
            threads=self._context.settings.threads,
        )

    def measure(self) -> None:
        """Measure what is chosen."""
        command = self.command()
        if command is not None:
            title = self.tr("Methods on {0}").format(self.model.currentText())
            self._context.jobs.submit("measure", title, command, "quality")

    # ---- inside

    def _fill_menu(self) -> None:
        for key, method in METHODS.items():
            action = self.menu.addAction(method.name)
            action.setCheckable(True)
            action.setChecked(True)
            action.setToolTip(method.what)
            action.toggled.connect(self._refresh)
            self.methods[key] = action
        self.menu.setToolTipsVisible(True)
        self.menu.addSeparator()
        self.menu.addAction(self.tr("All"), lambda: self._tick(everything=True))
        self.menu.addAction(self.tr("Quick: none that need calibration"), lambda: self._tick(everything=False))
        self.menu.addSeparator()
        self.with_files = self.menu.addAction(self.tr("Also the files measured above"))
        self.with_files.setCheckable(True)

    def _tick(self, *, everything: bool) -> None:
        for key, action in self.methods.items():
            action.setChecked(everything or not (METHODS[key].calibrated or METHODS[key].inputs))

    def _lay_out(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.model, 1)
        for widget in (self.chosen, self.minutes, self.run_button, self.guide_button):
            head.addWidget(widget)
        self.body = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self.body.setSpacing(12)
        self.body.addWidget(self.table, 1)
        self.body.addWidget(self.chart, 1)
        foot = QHBoxLayout()
        foot.setSpacing(8)
        foot.addWidget(self.views)
        foot.addWidget(self.note, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.error)
        layout.addWidget(self.progress)
        layout.addWidget(self.nothing, 1)
        layout.addLayout(self.body, 1)
        layout.addLayout(foot)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self, *_: object) -> None:
        """Both side by side where there is room, else one of them."""
        filled = bool(self.table.rows.rows)
        wide = self.width() >= WIDE
        self.views.setVisible(filled and not wide)
        self.table.setVisible(filled and (wide or self.views.currentIndex() == 0))
        self.chart.setVisible(filled and (wide or self.views.currentIndex() == 1))

    def _quantized(self, path: str) -> bool:
        info = self._context.library.entry(path)
        return info is not None and is_quantized(info)

    def _is_folder(self, path: str) -> bool:
        """Whether it would have to be converted first."""
        info = self._context.library.entry(path)
        return info.kind != "gguf" if info is not None else not path.lower().endswith(".gguf")

    def _on_job(self, job: Job) -> None:
        if not isinstance(job.command, MeasureMethods) or (self.job is not None and self.job.is_active):
            return
        self.job = job
        self.error.clear()
        job.event.connect(self._on_event)
        job.changed.connect(self._on_changed)
        job.finished.connect(self._on_finished)
        if job.command.reference == self.model.path():
            self._set_rows([])
        self._on_changed()
        self._refresh()

    def _on_event(self, event: object) -> None:
        if isinstance(event, MethodUpdate) and self.job and self.job.command.reference == self.model.path():
            self._set_rows([*self.table.rows.rows, event.row])
            self._refresh()

    def _on_changed(self) -> None:
        job = self.job
        if job is not None and job.is_active:
            waiting = job.state == "queued"
            words = self.tr("Waiting for the job before it") if waiting else job.label or self.tr("Starting")
            self.progress.button.setEnabled(True)
            self.progress.set_progress(
                job.progress if job.progress > 0 or waiting else None, words, "", job.seconds_left
            )

    def _on_finished(self) -> None:
        job = self.job
        if job is None:
            return
        if job.state == "done" and isinstance(job.result, MethodsResult):
            measurements.keep_methods(self._context.store, job.result)
        elif job.state == "failed" and job.error is not None:
            self.error.show_error(job.error, [(self.tr("Retry"), self.measure)])
        self._show()

    def _cancel(self) -> None:
        if self.job is not None:
            self.progress.button.setEnabled(False)
            self.progress.set_progress(None, self.tr("Stopping"))
            self.job.cancel()

    def _show(self) -> None:
        """The last result of the chosen model, unless it is being measured."""
        path = self.model.path() or ""
        running = self.job is not None and self.job.is_active and self.job.command.reference == path
        if not running:
            self._result = measurements.methods_of(self._context.store, path) if path else None
            self._set_rows(list(self._result.rows) if self._result is not None else [])
        self._refresh()

    def _set_rows(self, rows: list[MethodQuality]) -> None:
        self.table.rows.set_rows(rows)
        self.chart.set_rows(rows)

    def _refresh(self, *_: object) -> None:
        running = self.job is not None and self.job.is_active
        count = sum(action.isChecked() for action in self.methods.values())
        self.chosen.setText(self.tr("{0} methods").format(fmt.number(count)))
        self.chosen.setAccessibleName(self.tr("Methods to compare: {0}").format(fmt.number(count)))
        self.with_files.setEnabled(bool(self._files))
        self.progress.setVisible(running)
        self.run_button.setEnabled(not running and self.command() is not None)
        self.nothing.setVisible(not self.table.rows.rows)
        self.nothing.setText(self._words_for_nothing())
        self.note.setText(self._words_under())
        self.note.setToolTip(self._words_under())
        self._arrange()

    def _words_for_nothing(self) -> str:
        path = self.model.path()
        if path and self._quantized(path):
            return self.tr("This file is quantized itself: choose the full model, in 16 or 32 bits.")
        if path and self._is_folder(path):
            return self.tr(
                "Here a GGUF file in 16 or 32 bits is measured: convert this folder to BF16 first. "
                "What “quench methods” has measured of the folder is shown here too."
            )
        return self.tr(
            "GPTQ, AWQ, NF4, FP8 and others beside the K-quants, on your own model and on texts that none has seen."
        )

    def _words_under(self) -> str:
        found = self._result
        if found is None or not self.table.rows.rows:
            return ""
        words = [self.tr("Simulated: the method's arithmetic, in 32-bit floats.")]
        if found.floor is not None:
            words.append(self.tr("Below {0} nats nothing is told apart.").format(fmt.significant(found.floor.value, 1)))
        words.append(self.tr("{0} tokens scored.").format(fmt.number(found.tokens)))
        words += [f"{left.name}: {left.reason}" for left in found.left_out]
        return " ".join(words)

    def _ask_guide(self) -> None:
        from app.ui.guide_dialog import GuideDialog

        GuideDialog(self._context, self, self.model.path() or "").open()


__all__ = ["MethodChart", "MethodLabPanel"]
