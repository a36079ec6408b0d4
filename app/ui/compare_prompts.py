"""Prompts through all models: a set is chosen, the queue runs, a table fills, and a curve says how long they agree."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QSpinBox,
    QSplitter,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from app.compare import align
from app.compare.documents import one_line, survival_of
from app.compare.results import Column, Comparison, names_of, short_names
from app.quality import prompts
from app.quality.prompts import BUNDLED, Prompt
from app.ui import format as fmt
from app.ui.charts import LineChart
from app.ui.compare_queue import QueueRun
from app.ui.context import Context
from app.ui.widgets import ErrorCard, ProgressLine, button, label, tip
from converter.spec import QuenchError

_Index = QModelIndex | QPersistentModelIndex
MOST_BYTES = 8 << 20
"""A file of prompts that is longer is for the command line: reading it would hold the window up."""
SHORT = 200
LONG = 14
"""Characters of a model's name over a column."""


class PromptTable(QAbstractTableModel):
    """A row a prompt: its kind and words, and for every model but the reference the divergence and the common start."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._comparison = Comparison((), ())
        self._names: list[str] = []

    def show_comparison(self, comparison: Comparison) -> None:
        """Other prompts or models."""
        self.beginResetModel()
        self._comparison, self._names = comparison, names_of(comparison.models)
        self.endResetModel()

    def update_row(self, row: int, comparison: Comparison) -> None:
        """One more answer."""
        self._comparison = comparison
        self.dataChanged.emit(self.index(row, 0), self.index(row, self.columnCount() - 1))

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self._comparison.entries)

    def columnCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else 1 + 2 * max(0, len(self._names) - 1)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return str(section + 1) if role == Qt.ItemDataRole.DisplayRole else None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _side(section)
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        if section == 0:
            return self.tr("Prompt")
        name = self._names[(section + 1) // 2]
        what = self.tr("KLD") if section % 2 else self.tr("same for")
        if role == Qt.ItemDataRole.ToolTipRole:
            words = self.tr("{0}: mean divergence in nats, and tokens for which its answer is the reference's")
            return tip(words.format(name))
        short = short_names(self._names)[(section + 1) // 2]
        return f"{short if len(short) <= LONG else '…' + short[-LONG:]}\n{what}"

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        entry = self._comparison.entries[index.row()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _side(index.column())
        if index.column() == 0:
            words = f"{one_line(entry.slice)} · {one_line(entry.prompt)[:SHORT]}"
            return {Qt.ItemDataRole.DisplayRole: words, Qt.ItemDataRole.ToolTipRole: tip(words)}.get(role)
        column = entry.columns[(index.column() + 1) // 2]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._cell(column, index.column() % 2 == 1)
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleTextRole):
            words = self._words(column, entry.columns[0])
            return tip(words) if role == Qt.ItemDataRole.ToolTipRole else words
        return None

    def _cell(self, column: Column | None, divergence: bool) -> str:
        if column is None:
            return ""
        if column.error:
            return self.tr("failed")
        if divergence:
            return fmt.significant(column.kld, 3) if column.scored else fmt.DASH
        return fmt.number(column.common)

    def _words(self, column: Column | None, reference: Column | None) -> str:
        if column is None:
            return self.tr("not answered yet")
        if column.error:
            return column.error
        if reference is not None and reference.text == column.text:
            return self.tr("the same answer")
        return self.tr("{0} nats; the same for {1} tokens; {2} tokens/s").format(
            fmt.significant(column.kld, 3) if column.scored else fmt.DASH,
            fmt.number(column.common),
            fmt.tokens_per_second(column.tokens_per_second),
        )


def _side(column: int) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignLeft if column == 0 else Qt.AlignmentFlag.AlignRight
    return side | Qt.AlignmentFlag.AlignVCenter


class PromptsPane(QWidget):
    """``asked`` when the queue shall run, ``stopped`` when it shall not, ``chosen(prompt)`` to look at its answers."""

    asked = Signal()
    stopped = Signal()
    chosen = Signal(int)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._queue: QueueRun | None = None
        self._file = ""
        self._prompts: list[Prompt] = []
        self.source = QComboBox()
        self.source.setAccessibleName(self.tr("Set of prompts"))
        self.source.activated.connect(self._source_chosen)
        self.most = QSpinBox()
        self.most.setPrefix(self.tr("first "))
        self.most.setAccessibleName(self.tr("How many prompts of the set"))
        self.most.lineEdit().setAccessibleName(self.most.accessibleName())
        self.run_button = button(self.tr("Run"), self._pressed, "primary")
        self.save_button = button(self.tr("Save set…"), self._save)
        self.save_button.setToolTip(self.tr("Write these prompts as a file: a JSON object a line, to edit or to share"))
        self.progress = ProgressLine()
        self.progress.set_cancellable(False)
        self.progress.hide()
        self.error = ErrorCard()
        self.sum = label("", "muted", wrap=True)
        self.model = PromptTable(self)
        self.table = QTableView()
        self.table.setModel(self.model)
        self.table.setAccessibleName(self.tr("Prompts and how far the models are apart"))
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setTabKeyNavigation(False)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().setDefaultSectionSize(26)
        self.table.setToolTip(self.tr("Enter or a double click shows the answers"))
        self.table.activated.connect(lambda index: self.chosen.emit(index.row()))
        self.chart = LineChart(
            context.theme,
            self.tr("How long answers stay the reference's"),
            self.tr("tokens"),
            self.tr("still the same (%)"),
            unit="%",
            empty=self.tr("Fills while the queue runs"),
        )
        self._build()
        self.load(BUNDLED)

    def _build(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.source)
        head.addWidget(self.most)
        head.addWidget(self.run_button)
        head.addWidget(self.progress, 1)
        head.addStretch()
        head.addWidget(self.save_button)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setChildrenCollapsible(False)
        self.splitter.addWidget(self.table)
        self.splitter.addWidget(self.chart)
        self.splitter.setStretchFactor(0, 5)
        self.splitter.setStretchFactor(1, 3)
        self.splitter.setSizes([700, 400])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self.error)
        layout.addWidget(self.splitter, 1)
        layout.addWidget(self.sum)

    # ---- the set

    def prompts(self) -> list[Prompt]:
        """What the queue is run over."""
        return self._prompts[: self.most.value()]

    def load(self, name: str) -> None:
        """Take the prompts of a file, or the bundled ones; one that cannot be read leaves what was there."""
        try:
            if name != BUNDLED and Path(name).stat().st_size > MOST_BYTES:
                title = self.tr("The file is too large for the window.")
                raise QuenchError(
                    "too_many_prompts", title, name, self.tr("Use quench compare --prompts, or a part of it.")
                )
            self._prompts = prompts.load(name)
        except QuenchError as error:
            self.error.show_error(error)
        except OSError as error:
            self.error.show_error(
                QuenchError(
                    "text_unreadable", self.tr("The file cannot be read."), str(error), self.tr("Choose another.")
                )
            )
        else:
            self.error.clear()
            self._file = name
            self.most.setRange(1, len(self._prompts))
            self.most.setValue(len(self._prompts))
        self._fill_source()

    def _fill_source(self) -> None:
        self.source.clear()
        bundled = self.tr("Bundled prompts ({0})").format(fmt.number(len(prompts.load(BUNDLED))))
        self.source.addItem(bundled, BUNDLED)
        if self._file != BUNDLED:
            self.source.addItem(f"{Path(self._file).name} ({fmt.number(len(self._prompts))})", self._file)
        self.source.addItem(self.tr("A file…"), "")
        self.source.setCurrentIndex(max(self.source.findData(self._file), 0))

    def _source_chosen(self, index: int) -> None:
        name = str(self.source.itemData(index) or "")
        if not name:
            name, _ = QFileDialog.getOpenFileName(
                self, self.tr("A set of prompts"), "", self.tr("Prompts (*.jsonl);;All files (*)")
            )
        if name:
            self.load(name)
        else:
            self._fill_source()

    def _save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, self.tr("Save the prompts"), "prompts.jsonl", "*.jsonl")
        if name:
            self.save(name)

    def save(self, name: str) -> None:
        """Write the chosen prompts as JSONL."""
        try:
            prompts.save(self.prompts(), Path(name))
        except QuenchError as error:
            self.error.show_error(error)
        else:
            self._context.notify.good(self.tr("Saved {0}").format(Path(name).name))

    # ---- the queue

    def follow(self, queue: QueueRun | None) -> None:
        """Show a queue, or none."""
        self._queue = queue
        self.model.show_comparison(queue.comparison() if queue is not None else Comparison((), ()))
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        if self.model.columnCount():
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.chart.clear()
        if queue is not None:
            queue.answered.connect(self._answered)
            queue.changed.connect(self._changed)
            queue.finished.connect(self._changed)
            self._show_results()
        self._changed()

    def _pressed(self) -> None:
        if self._queue is not None and self._queue.running:
            self.stopped.emit()
        else:
            self.asked.emit()

    def _answered(self, prompt: int, model: int) -> None:
        if self.sender() is not self._queue or self._queue is None:
            return
        self.model.update_row(prompt, self._queue.comparison())
        if model:
            self._show_results()

    def _changed(self) -> None:
        queue = self._queue
        running = queue is not None and queue.running
        left = queue is not None and 0 < queue.done < queue.total
        self.run_button.setText(self.tr("Stop") if running else self.tr("Go on") if left else self.tr("Run"))
        for widget in (self.source, self.most):
            widget.setEnabled(not running)
        self.progress.setVisible(running)
        if queue is not None and running:
            self.progress.set_progress(queue.fraction, queue.doing)

    def _show_results(self) -> None:
        assert self._queue is not None
        found = self._queue.comparison()
        words = []
        for place, name in enumerate(short_names(names_of(found.models))[1:], start=1):
            steps = survival_of(found, place)
            if not steps:
                continue
            xs, ys = [0.0], [100.0]
            for step in steps:  # a stair: level to the next parting, then down
                xs += [step.tokens, step.tokens]
                ys += [ys[-1], 100 * step.share]
            self.chart.set_series(name, xs, ys)
            words.append(self._sentence(found, place, name, align.median(steps)))
        self.sum.setText("\n".join(words))

    def _sentence(self, found: Comparison, place: int, name: str, half: int | None) -> str:
        pairs = [
            (entry.columns[0], column)
            for entry in found.entries
            if (column := entry.columns[place]) is not None and not column.error
        ]
        same = sum(reference is not None and reference.text == column.text for reference, column in pairs)
        text = self.tr("{0}: the same answer to {1} of {2}").format(name, fmt.number(same), fmt.number(len(pairs)))
        if half is not None:
            text += " · " + self.tr("half have parted after {0} tokens").format(fmt.number(half))
        scored = [column for _, column in pairs if column.scored]
        if scored:
            kld, top1 = fmean(each.kld for each in scored), fmean(each.top1 for each in scored)
            text += " · " + self.tr("mean KLD {0}, same first choice {1}").format(
                fmt.significant(kld, 3), fmt.percent(top1)
            )
        rates = [column.tokens_per_second for _, column in pairs if column.tokens_per_second > 0]
        if rates:
            text += " · " + self.tr("{0} alone").format(fmt.tokens_per_second(fmean(rates)))
        return text


__all__ = ["PromptTable", "PromptsPane"]
