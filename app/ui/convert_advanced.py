"""The foldout of the Convert page with everything that most people leave alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QPlainTextEdit,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.ui.widgets import label
from converter.recipes import BLOCK_WEIGHTS

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16", "BF16", "F32")


@dataclass(frozen=True)
class Advanced:
    """The choices, ready for a ConversionSpec. ``problem`` is a sentence if they cannot be used."""

    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    leave_output: bool = False
    tensor_types: tuple[tuple[str, str], ...] = ()
    threads: int = 0
    problem: str = ""


def parse_rules(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Lines ``regular expression=TYPE`` as rules, or the first line that is none."""
    rules = []
    for line in filter(None, map(str.strip, text.splitlines())):
        pattern, equals, kind = line.rpartition("=")
        if not equals or not pattern or kind.strip().upper() not in BLOCK_WEIGHTS:
            return (), line
        try:
            re.compile(pattern)
        except re.error:
            return (), line
        rules.append((pattern.strip(), kind.strip().upper()))
    return tuple(rules), ""


class AdvancedPane(QWidget):
    """Folded by default; ``changed`` when a choice changed."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.toggle = QToolButton()
        self.toggle.setText(self.tr("Advanced"))
        self.toggle.setCheckable(True)
        self.toggle.setArrowType(Qt.ArrowType.RightArrow)
        self.toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.toggle.setAccessibleName(self.tr("Advanced choices"))
        self.toggle.toggled.connect(self._unfold)
        self._body = QWidget()
        form = QFormLayout(self._body)
        form.setContentsMargins(8, 0, 8, 4)
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(6)
        form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        self.output_type = self._types(self.tr("Type of the output head"))
        self.embedding_type = self._types(self.tr("Type of the embeddings"))
        form.addRow(label(self.tr("Output head"), "muted"), self.output_type)
        form.addRow(label(self.tr("Embeddings"), "muted"), self.embedding_type)
        self.pure = self._check(self.tr("One type for all tensors"), self.tr("No mix: every matrix gets the base type"))
        self.leave_output = self._check(
            self.tr("Leave the output head as it is"), self.tr("Keeps its type from the source")
        )
        form.addRow(self.pure)
        form.addRow(self.leave_output)
        self.rules = QPlainTextEdit()
        self.rules.setPlaceholderText("ffn_down=Q6_K\nblk\\.0\\..*=Q8_0")
        self.rules.setFixedHeight(58)
        self.rules.setTabChangesFocus(True)
        self._name(self.rules, self.tr("Tensor rules, one a line: regular expression=TYPE; the first match wins"))
        form.addRow(label(self.tr("Rules"), "muted"), self.rules)
        self.threads = QSpinBox()
        self.threads.setRange(0, 256)
        self.threads.setSpecialValueText(self.tr("all cores"))
        self._name(self.threads, self.tr("Threads"))
        form.addRow(label(self.tr("Threads"), "muted"), self.threads)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.toggle)
        layout.addWidget(self._body)
        self._body.hide()
        self.rules.textChanged.connect(self.changed)
        self.threads.valueChanged.connect(self.changed)

    def choices(self) -> Advanced:
        rules, bad_line = parse_rules(self.rules.toPlainText())
        problem = self.tr("This rule is not “regular expression=TYPE”: %1").replace("%1", bad_line) if bad_line else ""
        return Advanced(
            self.output_type.currentData(),
            self.embedding_type.currentData(),
            self.pure.isChecked(),
            self.leave_output.isChecked(),
            rules,
            self.threads.value(),
            problem,
        )

    def _unfold(self, on: bool) -> None:
        self.toggle.setArrowType(Qt.ArrowType.DownArrow if on else Qt.ArrowType.RightArrow)
        self._body.setVisible(on)

    def _types(self, name: str) -> QComboBox:
        box = QComboBox()
        box.addItem(self.tr("as the type says"), None)
        for kind in TYPES:
            box.addItem(kind, kind)
        box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        box.setMinimumContentsLength(6)
        self._name(box, name)
        box.currentIndexChanged.connect(self.changed)
        return box

    def _check(self, text: str, words: str) -> QCheckBox:
        box = QCheckBox(text)
        box.setToolTip(words)
        box.setAccessibleName(text)
        box.toggled.connect(self.changed)
        return box

    @staticmethod
    def _name(widget: Any, words: str) -> None:
        widget.setAccessibleName(words)
        widget.setToolTip(words)
        if isinstance(widget, QSpinBox):
            widget.lineEdit().setAccessibleName(words)
