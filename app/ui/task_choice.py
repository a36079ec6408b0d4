"""Which graded tasks are asked: none, one of the two sets that come with the program, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QCheckBox, QComboBox, QFileDialog, QVBoxLayout, QWidget

from app.ui.widgets import label

POCKET, QUENCH = "pocket", "quench"
_OTHER = "?"


class TaskChoice(QWidget):
    """``changed`` when the choice did. Programs that models write are run only where the switch says so."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._touched = False
        self._before = 1
        self.box = QComboBox()
        self.box.setAccessibleName(self.tr("Tasks"))
        self.box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.box.setMinimumContentsLength(12)
        for text, name, tip in (
            (self.tr("No tasks"), None, self.tr("Only the texts are measured")),
            (self.tr("Pocket's, 480 short ones"), POCKET, self.tr("Made for the Pocket model: four kinds")),
            (
                self.tr("Quench's, 330 in 17 slices"),
                QUENCH,
                self.tr("For models of 1B and more: arithmetic to JSON, eight languages, needles in long texts"),
            ),
            (self.tr("A file…"), _OTHER, self.tr("JSONL of yours, of GSM8K, MMLU, ARC or HumanEval")),
        ):
            self.box.addItem(text, name)
            self._tip(self.box.count() - 1, tip)
        self.box.setCurrentIndex(1)
        self.run_code = QCheckBox(self.tr("Run what the models write"))
        self.run_code.setAccessibleName(self.run_code.text())
        self.warning = label(
            self.tr(
                "For files like HumanEval's. Each program runs apart, for ten seconds at most, without network or your "
                "files as far as the system can lock them. It is no virtual machine: only with models and tasks that "
                "you trust."
            ),
            "muted",
            wrap=True,
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.box, self.run_code, self.warning):
            layout.addWidget(widget)
        self.box.activated.connect(self._picked)
        self.box.currentIndexChanged.connect(self._on_index)
        self.run_code.toggled.connect(lambda *_: self.changed.emit())
        self._on_index()

    def chosen(self) -> str | None:
        """The name of a set or the path of a file; None for no tasks."""
        name = self.box.currentData()
        return None if name in (None, _OTHER) else str(name)

    def may_run_code(self) -> bool:
        return self.run_code.isChecked() and self._is_file()

    def choose(self, name: str | None) -> None:
        """Choose a set by its name, a file by its path, or no tasks."""
        self._touched = True
        at = self._place_of(name)
        if at < 0:
            at = self.box.count() - 1
            self.box.insertItem(at, Path(str(name)).name, name)
            self._tip(at, str(name))
        self.box.setCurrentIndex(at)
        self._before = at

    def suggest(self, name: str) -> None:
        """Choose a set, unless a person has chosen already."""
        if not self._touched:
            self._before = self._place_of(name)
            self.box.setCurrentIndex(self._before)

    # ---- inside

    def _place_of(self, name: str | None) -> int:
        return next((i for i in range(self.box.count()) if self.box.itemData(i) == name), -1)

    def _tip(self, place: int, text: str) -> None:
        self.box.setItemData(place, text, Qt.ItemDataRole.ToolTipRole)

    def _is_file(self) -> bool:
        return self.chosen() not in (None, POCKET, QUENCH)

    def _picked(self, place: int) -> None:
        """A person chose; “A file…” asks for one."""
        self._touched = True
        if self.box.itemData(place) != _OTHER:
            self._before = place
            return
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Tasks"), "", self.tr("Tasks (*.jsonl);;All files (*)"))
        if path:
            self.choose(path)
        else:
            self.box.setCurrentIndex(self._before)

    def _on_index(self, *_: Any) -> None:
        file = self._is_file()
        self.run_code.setVisible(file)
        self.warning.setVisible(file)
        self.changed.emit()
