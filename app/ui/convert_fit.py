"""The choices of "Fit to size" on the Convert page: how large, what must stay large, how thoroughly, on which text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.fit_messages import TYPES, FitPreview, Size, Wish
from app.ui import format as fmt
from app.ui.convert_costs import CostsFile
from app.ui.fold import Fold
from app.ui.imatrix_setup import SUFFIXES
from app.ui.size_slider import SizeSlider
from app.ui.theme import set_role
from app.ui.widgets import Card, label
from converter.spec import ModelInfo

if TYPE_CHECKING:
    from app.ui.context import Context

MIB, GIB = 1 << 20, 1 << 30
SIZE, FREE, LIKE = "size", "free", "like"
MINUTES, NOTHING = "minutes", "nothing"
WINDOWS = {"quick": 1, "normal": 2, "thorough": 4}
"""Windows of each text on which every tensor is probed."""

BUNDLED, MATRIX, TEXTS, ASK_TEXTS, ASK_MATRIX = "bundled", "matrix", "texts", "ask texts", "ask matrix"
_USUAL = "Q4_K_M"


def parse_floors(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Lines ``regular expression=TYPE`` as the smallest types of tensors, or the first line that is none."""
    floors = []
    for line in filter(None, map(str.strip, text.splitlines())):
        pattern, equals, kind = line.rpartition("=")
        if not equals or not pattern.strip() or kind.strip().upper() not in TYPES:
            return (), line
        try:
            re.compile(pattern)
        except re.error:
            return (), line
        floors.append((pattern.strip(), kind.strip().upper()))
    return tuple(floors), ""


class FitPane(QWidget):
    """``changed`` when a choice changed: what it comes to is then asked for, and told with :meth:`show_preview`."""

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._info: ModelInfo | None = None
        self._bytes = 0
        self._unit = GIB
        self.preview: FitPreview | None = None
        self._build()
        self._show_kind()
        self.show_preview(None)

    # ---- faces

    def set_source(self, info: ModelInfo | None, matrices: list[str]) -> None:
        """Another model, and importance matrices that belong to it."""
        before, self._info = self._info, info
        if info is None or before is None or before.path != info.path:
            self._bytes = 0
            self.costs.set_path("")  # they are of one model
            self._fill_calibration(matrices)
            self.show_preview(None)

    def set_matrices(self, matrices: list[str]) -> None:
        """Importance matrices that there are now; the choice stays."""
        self._fill_calibration(matrices, self.calibration.currentData())

    def choose_size(self, size: int) -> None:
        """Ask for a file of so many bytes."""
        self.kind.setCurrentIndex(self.kind.findData(SIZE))
        self._bytes = size
        self._show_size()
        self.changed.emit()

    def wish(self, folder: str) -> Wish | None:
        """What is asked for, into ``folder``; None while something is missing (:meth:`problem`)."""
        if self._info is None or not folder or self.problem():
            return None
        texts, matrix = self._texts()
        effort = self.effort.currentData()
        limited, measured = effort == MINUTES, effort != NOTHING
        return Wish(
            source=self._info.path,
            output=str(Path(folder) / f"{self._info.name}-Fit-{self._name()}.gguf"),
            size=self._size(),
            imatrix=matrix,
            texts=texts,
            calibration=texts,
            floors=parse_floors(self.floors.toPlainText())[0],
            windows=0 if limited else WINDOWS.get(effort, 1),
            minutes=float(self.minutes.value()) if limited else 0.0,
            refined=measured and self.refined.isChecked(),
            feedback=measured and self.feedback.isChecked(),
            speed=float(self.speed.value()) if measured else 0.0,
            threads=self._context.settings.threads,
            sensitivity=self.costs.path() if measured else "",
            unmeasured=not measured,
        )

    def problem(self) -> str:
        """A sentence about what cannot be used; empty if all can."""
        bad = parse_floors(self.floors.toPlainText())[1]
        return (
            self.tr("This is not “regular expression=TYPE”, with a type from Q2_K to Q8_0: {0}").format(bad)
            if bad
            else ""
        )

    def show_preview(self, preview: FitPreview | None) -> None:
        """What the wish comes to; None if that is not known."""
        self.preview = preview
        for part in (self.slider, self.number, self.like):
            part.setEnabled(preview is not None or bool(self._bytes))
        if preview is not None:
            self._unit = MIB if preview.largest < GIB else GIB
            self._fill_like(preview)
            if not self._bytes:  # a new model: as large as most people take it
                self._bytes = preview.standards.get(_USUAL, preview.largest)
            self.slider.set_span(
                preview.smallest, preview.largest, tuple(preview.standards.items()), preview.budget.standard
            )
            self._show_size()
        self._show_words()

    # ---- building

    def _build(self) -> None:
        theme = self._context.theme
        self.kind = QComboBox()
        self.kind.setAccessibleName(self.tr("What the size is given by"))
        self.kind.addItem(self.tr("File size"), SIZE)
        self.kind.addItem(self.tr("Leave free"), FREE)
        self.kind.addItem(self.tr("Like a type"), LIKE)
        for index, tip in enumerate(
            (
                self.tr("So large a file"),
                self.tr("So much memory is to be free while it runs"),
                self.tr("As large a file as a standard type makes"),
            )
        ):
            self.kind.setItemData(index, tip, Qt.ItemDataRole.ToolTipRole)
        self.slider = SizeSlider(theme, self.tr("Size of the file"))
        self.number = QDoubleSpinBox()
        self.free = QDoubleSpinBox()
        for box, name in ((self.number, self.tr("Size of the file")), (self.free, self.tr("Memory to leave free"))):
            box.setAccessibleName(name)
            box.lineEdit().setAccessibleName(name)
            box.setKeyboardTracking(False)
            box.setMinimumWidth(100)
        self.free.setRange(0.1, 4096.0)
        self.free.setDecimals(1)
        self.free.setSingleStep(0.5)
        self.free.setValue(2.0)
        self.free.setSuffix(" GiB")
        self.like = QComboBox()
        self.like.setAccessibleName(self.tr("Standard type"))
        for choice in (self.kind, self.like):
            choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            choice.setMinimumContentsLength(4)
        self.words = label("", wrap=True)
        self.sum_words = label("", "muted", wrap=True)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self.kind, 1)
        for part in (self.number, self.free, self.like):
            top.addWidget(part, 1)
        card = Card()
        card.body.setContentsMargins(10, 8, 10, 8)
        card.body.setSpacing(6)
        card.body.addLayout(top)
        for told in (self.slider, self.words, self.sum_words):
            card.body.addWidget(told)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(card)
        layout.addLayout(self._build_how())
        self.more = Fold(self.tr("Advanced"), self.tr("Advanced choices of the fit"), self._build_more())
        layout.addWidget(self.more)
        layout.addStretch(1)
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.slider.changed.connect(self.choose_size)
        self.number.valueChanged.connect(lambda value: self.choose_size(round(value * self._unit)))
        self.free.valueChanged.connect(self.changed)
        self.like.currentIndexChanged.connect(self.changed)

    def _build_how(self) -> QFormLayout:
        form = QFormLayout()
        form.setContentsMargins(2, 0, 2, 0)
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.effort = QComboBox()
        self.effort.addItem(self.tr("Quick"), "quick")
        self.effort.addItem(self.tr("Normal"), "normal")
        self.effort.addItem(self.tr("Thorough"), "thorough")
        self.effort.addItem(self.tr("Minutes"), MINUTES)
        self.effort.addItem(self.tr("None: by rule of thumb"), NOTHING)
        self.effort.setCurrentIndex(1)
        self._name_it(self.effort, self.tr("How thoroughly every tensor is probed: on 1, 2 or 4 windows of each text"))
        self.minutes = QSpinBox()
        self.minutes.setRange(1, 9999)
        self.minutes.setMinimumWidth(76)
        self.minutes.setValue(30)
        self.minutes.setSuffix(self.tr(" min"))
        self.minutes.setKeyboardTracking(False)
        self._name_it(self.minutes, self.tr("About this long; every tensor is probed once in any case"))
        self.minutes.lineEdit().setAccessibleName(self.tr("Minutes"))
        row = QHBoxLayout()
        row.setSpacing(6)
        row.addWidget(self.effort, 1)
        row.addWidget(self.minutes)
        form.addRow(label(self.tr("Probing"), "muted"), row)
        self.speed = QSpinBox()
        self.speed.setRange(0, 9999)
        self.speed.setSpecialValueText(self.tr("No goal"))
        self.speed.setSuffix(self.tr(" tokens/s"))
        self.speed.setKeyboardTracking(False)
        self._name_it(
            self.speed,
            self.tr(
                "The file is to write at least so fast on this machine; measured for each type before the choice, and "
                "for the result"
            ),
        )
        self.speed.lineEdit().setAccessibleName(self.tr("Speed at least"))
        form.addRow(label(self.tr("Speed"), "muted"), self.speed)
        self.calibration = QComboBox()
        self._name_it(
            self.calibration,
            self.tr("Text that tensors are probed on and an importance matrix is made from, or a matrix that is there"),
        )
        form.addRow(label(self.tr("Calibration"), "muted"), self.calibration)
        for box in (self.effort, self.calibration):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(4)
        self.refined = QCheckBox(self.tr("Refined blocks"))
        self._name_it(
            self.refined, self.tr("Same types and sizes, numbers closer to the source's; kept where it measures better")
        )
        self.refined.setAccessibleName(self.refined.text())
        self.feedback = QCheckBox(self.tr("Error feedback"))
        self._name_it(
            self.feedback,
            self.tr(
                "Rounds each column so that it makes up for the errors of those before, guarded by texts that were "
                "held back. Takes longer; only a fit makes the same bytes again, a recipe the same types"
            ),
        )
        self.feedback.setAccessibleName(self.feedback.text())
        form.addRow(self.refined)  # side by side they are wider than the column of a small window
        form.addRow(self.feedback)
        self.effort.currentIndexChanged.connect(self._on_kind)
        self.minutes.valueChanged.connect(self.changed)
        self.speed.valueChanged.connect(self.changed)
        self.calibration.activated.connect(self._on_calibration)
        self.refined.toggled.connect(self.changed)
        self.feedback.toggled.connect(self.changed)
        self._fill_calibration([])
        return form

    def _build_more(self) -> QWidget:
        body = QWidget()
        form = QFormLayout(body)
        form.setContentsMargins(2, 0, 2, 0)
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.floors = QPlainTextEdit()
        self.floors.setPlaceholderText("attn_v=Q4_K\ntoken_embd=Q6_K")
        self.floors.setFixedHeight(50)
        self.floors.setTabChangesFocus(True)
        self._name_it(
            self.floors, self.tr("The smallest type of tensors, one a line: regular expression=TYPE; the first counts")
        )
        form.addRow(label(self.tr("At least"), "muted"), self.floors)
        self.counts = label("", "muted", wrap=True)
        self.counts.setAccessibleName(self.tr("What the smallest types match"))
        form.addRow(self.counts)
        self.costs = CostsFile()
        form.addRow(label(self.tr("Probes"), "muted"), self.costs)
        self.costs.changed.connect(self.changed)
        self.floors.textChanged.connect(self.changed)
        return body

    @staticmethod
    def _name_it(widget: QWidget, words: str) -> None:
        widget.setAccessibleName(words)
        widget.setToolTip(words)

    # ---- the size

    def _size(self) -> Size:
        kind = self.kind.currentData()
        if kind == FREE:
            settings = self._context.settings
            return Size(leave_free=round(self.free.value() * GIB), context=settings.context, kv_type=settings.kv_type)
        if kind == SIZE and self._bytes:
            return Size(size=self._bytes)
        return Size(like=self.like.currentData() or _USUAL)

    def _name(self) -> str:
        """What the file is called after the model's name: the size that was asked for."""
        size = self._size()
        if size.like:
            return size.like
        if size.leave_free:
            return f"leaves-{size.leave_free / GIB:.1f}GiB"
        return f"{size.size / self._unit:.{self.number.decimals()}f}{'MiB' if self._unit == MIB else 'GiB'}"

    def _on_kind(self, *_: object) -> None:
        self._show_kind()
        self.changed.emit()

    def _show_kind(self) -> None:
        kind = self.kind.currentData()
        for box, own in ((self.number, SIZE), (self.free, FREE), (self.like, LIKE)):
            box.setVisible(kind == own)
        self.slider.setVisible(kind == SIZE)
        self.minutes.setVisible(self.effort.currentData() == MINUTES)
        measured = self.effort.currentData() != NOTHING
        for part in (self.speed, self.refined, self.feedback, self.costs):  # they need measuring
            part.setEnabled(measured)
        self.calibration.setItemText(0, self._bundled_words())
        if not measured and self.calibration.currentData()[0] == TEXTS:
            self._chosen = 0
            self.calibration.setCurrentIndex(0)
        self._show_words()

    def _show_size(self) -> None:
        """The number and the slider agree, and neither tells of it."""
        preview = self.preview
        if preview is None:
            return
        self.number.blockSignals(True)
        large = preview.largest / self._unit
        self.number.setDecimals(1 if large >= 100 else 2)
        self.number.setSuffix(" MiB" if self._unit == MIB else " GiB")
        self.number.setSingleStep(max(0.01, round(large / 100, 2)))
        # A size that became too small is refused with the numbers, and not made larger behind somebody's back.
        self.number.setRange(min(preview.smallest, self._bytes) / self._unit, preview.largest / self._unit)
        self.number.setValue(self._bytes / self._unit)
        self.number.blockSignals(False)
        self.slider.set_size(self._bytes)

    def _fill_like(self, preview: FitPreview) -> None:
        chosen = self.like.currentData() or _USUAL
        self.like.blockSignals(True)
        self.like.clear()
        for name, size in preview.standards.items():
            self.like.addItem(f"{name}  ({fmt.size(size)})", name)
        self.like.setCurrentIndex(max(self.like.findData(chosen), 0))
        self.like.blockSignals(False)

    # ---- the text

    def _fill_calibration(self, matrices: list[str], chosen: Any = None) -> None:
        if chosen and chosen[0] == MATRIX and chosen[1] not in matrices:
            matrices = [*matrices, chosen[1]]
        self.calibration.clear()
        self.calibration.addItem(self._bundled_words(), (BUNDLED, ""))
        if chosen and chosen[0] == TEXTS:
            more = f" +{len(chosen[1]) - 1}" if len(chosen[1]) > 1 else ""
            self.calibration.addItem(Path(chosen[1][0]).name + more, chosen)
        for path in matrices:
            self.calibration.addItem(Path(path).name, (MATRIX, path))
            self.calibration.setItemData(self.calibration.count() - 1, fmt.path(path), Qt.ItemDataRole.ToolTipRole)
        self.calibration.addItem(self.tr("Own texts…"), (ASK_TEXTS, ""))
        self.calibration.addItem(self.tr("Importance matrix…"), (ASK_MATRIX, ""))
        entries = [self.calibration.itemData(i) for i in range(self.calibration.count())]
        self._chosen = entries.index(chosen) if chosen in entries else 0
        self.calibration.setCurrentIndex(self._chosen)

    def _bundled_words(self) -> str:
        return self.tr("None") if self.effort.currentData() == NOTHING else self.tr("Calibration text of Quench")

    def use_texts(self, paths: list[str]) -> None:
        """Calibrate on own texts."""
        good = tuple(path for path in paths if Path(path).suffix.lower() in SUFFIXES)
        if good:
            self._fill_calibration(self._matrices(), (TEXTS, good))
            self.changed.emit()

    def use_matrix(self, path: str) -> None:
        """Take an importance matrix that is there; the bundled text is probed on."""
        self._fill_calibration(self._matrices(), (MATRIX, path))
        self.changed.emit()

    def _matrices(self) -> list[str]:
        entries = [self.calibration.itemData(i) for i in range(self.calibration.count())]
        return [path for kind, path in entries if kind == MATRIX]

    def _texts(self) -> tuple[tuple[str, ...], str]:
        """Own texts, and an importance matrix that is there."""
        kind, value = self.calibration.currentData()
        return (tuple(value), "") if kind == TEXTS else ((), value) if kind == MATRIX else ((), "")

    def _on_calibration(self, index: int) -> None:
        kind = self.calibration.itemData(index)[0]
        if kind not in (ASK_TEXTS, ASK_MATRIX):
            self._chosen = index
            self.changed.emit()
            return
        self.calibration.setCurrentIndex(self._chosen)
        if kind == ASK_TEXTS:
            found, _ = QFileDialog.getOpenFileNames(
                self, self.tr("Own texts"), "", self.tr("Texts (*.txt *.md *.jsonl)")
            )
            self.use_texts(found)
        else:
            wanted = self.tr("Importance matrices (*.gguf *.dat *.imatrix);;All files (*)")
            path, _ = QFileDialog.getOpenFileName(self, self.tr("Importance matrix"), "", wanted)
            if path:
                self.use_matrix(path)

    # ---- what it says

    def _show_words(self) -> None:
        preview = self.preview
        self.words.setText(self._budget_words(preview) if preview else "")
        told = preview is not None and preview.running.weights > 0 and bool(self._size().leave_free)
        self.sum_words.setText(self._free_words(preview) if preview is not None and told else "")
        for part in (self.words, self.sum_words):
            part.setVisible(bool(part.text()))
        floors, bad = parse_floors(self.floors.toPlainText())
        lines = []
        known = preview is not None and len(preview.floors) == len(floors)
        for (pattern, kind), count in zip(floors, preview.floors if preview and known else (), strict=False):
            words = self.tr("{0}: at least {1}, {2} tensors") if count else self.tr("{0}: matches no tensor")
            lines.append(words.format(pattern, kind, count))
        self.counts.setText("\n".join(lines) if not bad else "")
        self.counts.setVisible(bool(self.counts.text()))
        set_role(self.counts, "warn" if preview and known and 0 in preview.floors else "muted")

    def _budget_words(self, preview: FitPreview) -> str:
        budget = preview.budget
        sizes = preview.standards
        if budget.file < preview.smallest:
            return ""
        words = self.tr("At most {0}, {1} bits per weight. To be judged against {2} ({3}).")
        if self.effort.currentData() == NOTHING:
            words = self.tr("At most {0}, {1} bits per weight. Not measured: {2} ({3}) with some types exchanged.")
        words = words.format(
            fmt.size(budget.file), fmt.number(budget.bpw, 2), budget.standard, fmt.size(sizes.get(budget.standard))
        )
        if sizes.get(budget.standard, 0) > budget.file:
            words += " " + self.tr("No standard type is that small: its divergence will be larger.")
        if self.speed.value() and preview.speed:
            told = (
                self.tr("{0} writes {1} tokens/s here.")
                if preview.speed_known
                else self.tr("{0} writes about {1} tokens/s here, a guess until this model was measured.")
            )
            words += " " + told.format(budget.standard, fmt.number(preview.speed, 0 if preview.speed >= 10 else 1))
        return words

    def _free_words(self, preview: FitPreview) -> str:
        """Where the memory goes."""
        sum_ = preview.running
        words = self.tr(
            "{0} are free now: {1} stay free, {2} go to weights, {3} to the KV cache of {4} tokens, {5} to computing."
        )
        return words.format(
            fmt.size(sum_.available),
            fmt.size(max(0, sum_.available - max(0, sum_.weights) - sum_.kv - sum_.compute)),
            fmt.size(max(0, sum_.weights)),
            fmt.size(sum_.kv),
            fmt.number(sum_.context),
            fmt.size(sum_.compute),
        )


__all__ = ["FREE", "LIKE", "MINUTES", "NOTHING", "SIZE", "FitPane", "parse_floors"]
