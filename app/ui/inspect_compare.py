"""Two models against each other: which metadata and which tensors differ, and by how much."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QTabWidget, QVBoxLayout, QWidget

from app.child import Verdict
from app.protocol import CompareModels
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.filtered_table import Cells, FilteredTable, Table
from app.ui.inspect_reader import Attendant
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ModelPicker, ProgressLine, button, label
from converter.difference import (
    DIFFERENT,
    ONLY_FIRST,
    ONLY_SECOND,
    SAME,
    SAME_VALUES,
    SHAPE,
    Compared,
    ComparisonDone,
    MetadataDifference,
    MetadataValue,
    TensorDifference,
)
from converter.spec import ModelInfo, Progress


class CompareTab(QWidget):
    """Choose another model, start, and see the rows come. ``done`` is the result's end, None before."""

    def __init__(self, context: Context, info: ModelInfo, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context, self._info = context, info
        self._worker: Attendant | None = None
        self.done: ComparisonDone | None = None
        self.metadata: list[MetadataDifference] = []
        self.tensors: list[TensorDifference] = []
        self.other = ModelPicker(context, {"gguf", "hf"})
        self.other.setAccessibleName(self.tr("Compare with"))
        self.other.changed.connect(self._enable)
        self.start_button = button(self.tr("Compare"), self.start, "primary")
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self.cancel)
        self.progress.hide()
        self.error = ErrorCard()
        self.words = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.words, "muted")
        self.only_differences = QCheckBox(self.tr("Only what differs"))
        self.only_differences.toggled.connect(self._refill)
        mono = context.theme.mono(12)
        headers = [self.tr("Tensor"), self.tr("Type"), self.tr("RMSE"), self.tr("Largest"), self.tr("Relative"), ""]
        self.tensor_table = FilteredTable(Table(headers, [], {2, 3, 4}, self), self.tr("Tensors compared"), mono)
        self.tensor_table.set_widths(0)
        self.tensor_table.beside.addWidget(self.only_differences)
        keys = [self.tr("Key"), self.tr("This model"), self.tr("The other"), ""]
        self.metadata_table = FilteredTable(Table(keys, [], set(), self), self.tr("Metadata compared"), mono)
        self.metadata_table.set_widths(1)
        self.metadata_table.share(2)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("Parts of the comparison"))
        self.tabs.tabBar().setAccessibleName(self.tr("Parts of the comparison"))
        self.tabs.tabBar().setDrawBase(False)
        self.tabs.addTab(self.tensor_table, self.tr("Tensors"))
        self.tabs.addTab(self.metadata_table, self.tr("Metadata"))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(label(self.tr("Compare with"), "muted"))
        row.addWidget(self.other, 1)
        row.addWidget(self.start_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 12, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(row)
        layout.addWidget(self.progress)
        layout.addWidget(self.error)
        layout.addWidget(self.words)
        layout.addWidget(self.tabs, 1)
        self.nothing = EmptyState(
            "compare",
            self.tr("Nothing compared yet"),
            self.tr("Every weight of both is read: how far apart are they, and are their bytes the same?"),
            theme=context.theme,
        )
        layout.addWidget(self.nothing, 1)
        self.words.hide()
        self.tabs.hide()
        self._enable()

    def start(self) -> None:
        """Compare with the chosen model."""
        path = self.other.path()
        if not path or self._worker is not None:
            return
        self.error.clear()
        self.nothing.hide()
        self.words.show()
        self.tabs.show()
        self.done, self.metadata, self.tensors = None, [], []
        self._refill()
        self.words.setText("")
        self.progress.set_progress(None, self.tr("Reading both headers…"))
        self.progress.show()
        self._worker = Attendant(self._context, "compare")
        self._worker.event.connect(self._heard)
        self._worker.finished.connect(self._ended)
        self._worker.process.send(CompareModels(self._info.path, path))
        self._enable()
        self.progress.button.setFocus()

    def cancel(self) -> None:
        if self._worker is not None:
            self._worker.process.stop()

    def close_worker(self) -> None:
        """The dialog goes: nobody waits for the comparison."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _enable(self) -> None:
        self.start_button.setEnabled(self.other.path() is not None and self._worker is None)
        self.other.setEnabled(self._worker is None)

    def _heard(self, message: object) -> None:
        if isinstance(message, Progress):
            fraction = message.done / message.total if message.total else 0.0
            self.progress.set_progress(fraction, message.label, fmt.rate(message.rate), message.seconds_left)
        elif isinstance(message, Compared):
            self.metadata += message.metadata
            self.tensors += message.tensors
            self.metadata_table.model.append(self._metadata_cells(message.metadata))
            self.tensor_table.model.append(self._tensor_cells(message.tensors))
        elif isinstance(message, ComparisonDone):
            self.done = message

    def _ended(self, verdict: Verdict) -> None:
        self._worker = None
        self.progress.hide()
        self._enable()
        if verdict.error is not None:
            self.error.show_error(verdict.error, [(self.tr("Retry"), self.start)])
        elif verdict.cancelled:
            self.words.setText(self.tr("Stopped: what was compared until then is listed."))
        elif self.done is not None:
            self.words.setText(self._summary(self.done))
        self._titles()

    # ---- rows

    def _refill(self) -> None:
        self.metadata_table.model.replace(self._metadata_cells(tuple(self.metadata)))
        self.tensor_table.model.replace(self._tensor_cells(tuple(self.tensors)))
        self._titles()

    def _titles(self) -> None:
        differ = sum(entry.change not in (SAME, SAME_VALUES) for entry in self.tensors)
        known = self.done is not None
        tensors = self.tr("Tensors ({0} differ)").format(fmt.number(differ)) if known else self.tr("Tensors")
        keys = self.tr("Metadata ({0} differ)").format(fmt.number(len(self.metadata))) if known else self.tr("Metadata")
        self.tabs.setTabText(0, tensors)
        self.tabs.setTabText(1, keys)

    def _tensor_cells(self, entries: tuple[TensorDifference, ...]) -> Cells:
        cells: Cells = []
        first = len(self.tensors) - len(entries)
        for number, entry in enumerate(entries):
            if self.only_differences.isChecked() and entry.change in (SAME, SAME_VALUES):
                continue
            told = entry.change == DIFFERENT
            kinds = [kind for kind in (entry.first_type, entry.second_type) if kind]
            kind = kinds[0] if len(set(kinds)) == 1 else " → ".join(kinds)
            relative = entry.relative if told else None
            cells.append(
                [
                    (entry.name, first + number),
                    (kind, kind),
                    (fmt.significant(entry.rmse, 4) if told else "", entry.rmse if told else -1.0),
                    (fmt.significant(entry.largest, 4) if told else "", entry.largest if told else -1.0),
                    (fmt.percent(relative, 3) if relative is not None else "", -1.0 if relative is None else relative),
                    (self._in_words(entry), self._in_words(entry)),
                ]
            )
        return cells

    def _in_words(self, entry: TensorDifference) -> str:
        if entry.change == SHAPE:
            sides = (" × ".join(map(str, shape)) for shape in (entry.first_shape, entry.second_shape))
            return self.tr("shape: {0} → {1}").format(*sides)
        if entry.change == DIFFERENT:
            if entry.not_finite:
                return self.tr("{0} are no numbers").format(fmt.number(entry.not_finite))
            return self.tr("{0} weights differ").format(fmt.number(entry.unequal))
        words = {
            SAME: self.tr("same bytes"),
            SAME_VALUES: self.tr("same values"),
            ONLY_FIRST: self.tr("only in this model"),
            ONLY_SECOND: self.tr("only in the other"),
        }
        return words.get(entry.change, entry.note)

    def _metadata_cells(self, entries: tuple[MetadataDifference, ...]) -> Cells:
        words = {"added": self.tr("only in the other"), "removed": self.tr("only in this model")}
        cells: Cells = []
        for entry in entries:
            sides = [self._value(entry.first), self._value(entry.second)]
            part = self.tr("from item {0} on").format(fmt.number(entry.at)) if entry.at >= 0 else self.tr("changed")
            told = words.get(entry.change, part)
            cells.append([(entry.key, entry.key), *((side, side) for side in sides), (told, told)])
        return cells

    def _value(self, value: MetadataValue | None) -> str:
        if value is None:
            return ""
        if value.type.startswith("ARRAY "):
            return f"{fmt.number(value.items)} × {value.type.removeprefix('ARRAY ').lower()}"
        text = f"{value.value:.7g}" if isinstance(value.value, float) else str(value.value)
        return f"{text} ({value.type.lower()})".replace("\n", "↵ ")

    def _summary(self, done: ComparisonDone) -> str:
        counts = {change: sum(entry.change == change for entry in self.tensors) for change in (SAME, SAME_VALUES)}
        text = self.tr("{0} of {1} tensors have the same bytes, {2} more the same values; {3} keys are the same.")
        figures = (counts[SAME], done.tensors, counts[SAME_VALUES], done.keys_same)
        read = self.tr("{0} read in {1}").format(fmt.size(done.bytes), fmt.seconds(done.seconds))
        return " ".join([text.format(*map(fmt.number, figures)), read + ".", *done.notes])
