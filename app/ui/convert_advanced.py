"""The foldout of the Convert page with everything that most people leave alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPlainTextEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.ui.fold import Fold
from app.ui.theme import set_role
from app.ui.widgets import button, label
from converter.options import parse_layers, parse_override, parse_size
from converter.recipes import BLOCK_WEIGHTS
from converter.spec import QuenchError, RuleCount

TYPES = ("Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "IQ4_XS", "IQ4_NL", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0",
         "F16", "BF16", "F32")  # fmt: skip
_MOST_MEMORY = 1 << 20
"""In MiB: a terabyte."""


@dataclass(frozen=True)
class Advanced:
    """The choices, ready for a ConversionSpec. ``problem`` is a sentence if they cannot be used."""

    output_type: str | None = None
    embedding_type: str | None = None
    pure: bool = False
    leave_output: bool = False
    tensor_types: tuple[tuple[str, str], ...] = ()
    threads: int = 0
    lora: tuple[str, ...] = ()
    problem: str = ""
    override_kv: tuple[str, ...] = ()
    prune_layers: tuple[int, ...] = ()
    split_size: int = 0
    keep_split: bool = False
    refined: bool = False
    memory_mib: int = 0


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
        body = QWidget()
        form = QFormLayout(body)
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
        self.refined = self._check(
            self.tr("Refined rounding"),
            self.tr(
                "Same types and sizes, numbers closer to the source's than in llama.cpp's own blocks; takes about half "
                "as long again. On the bundled model answers come closer from 4 bits up, not at 2 bits with a matrix"
            ),
        )
        form.addRow(self.pure)
        form.addRow(self.leave_output)
        form.addRow(self.refined)
        self.rules = QPlainTextEdit()
        self.rules.setPlaceholderText("ffn_down=Q6_K\nblk\\.0\\..*=Q8_0")
        self.rules.setFixedHeight(58)
        self.rules.setTabChangesFocus(True)
        self._name(self.rules, self.tr("Tensor rules, one a line: regular expression=TYPE; the first match wins"))
        form.addRow(label(self.tr("Rules"), "muted"), self.rules)
        self.counts = label("", "muted", wrap=True)
        self.counts.setAccessibleName(self.tr("What the tensor rules match"))
        self.counts.hide()
        form.addRow(self.counts)
        form.addRow(label(self.tr("LoRA adapter"), "muted"), self._lora_row())
        self.metadata = QPlainTextEdit()
        self.metadata.setPlaceholderText("KEY=TYPE:VALUE")
        self.metadata.setFixedHeight(40)
        self.metadata.setTabChangesFocus(True)
        words = self.tr("Changed facts about the model, one a line: KEY=TYPE:VALUE; TYPE is int, float, bool or str")
        self._name(self.metadata, words)
        form.addRow(label(self.tr("Metadata"), "muted"), self.metadata)
        self.layers = self._line(
            "3,7-9", self.tr("Layers to leave out, by number. The model gets smaller, and much weaker: measure it")
        )
        form.addRow(label(self.tr("Leave out"), "muted"), self.layers)
        self.split = self._line(
            self.tr("one file"), self.tr("Largest size of a file, such as 2GiB; larger models become several files")
        )
        form.addRow(label(self.tr("File size"), "muted"), self.split)
        self.keep_split = self._check(
            self.tr("As many files as the source"), self.tr("Each file of the source becomes one of the result")
        )
        form.addRow(self.keep_split)
        self.threads = self._number(256, self.tr("all cores"), self.tr("Threads"))
        form.addRow(label(self.tr("Threads"), "muted"), self.threads)
        words = self.tr(
            "The most memory that the conversion may take; by itself a quarter of what is free, at most 2 GiB"
        )
        self.memory = self._number(_MOST_MEMORY, self.tr("automatic"), words)
        self.memory.setSuffix(self.tr(" MiB"))
        self.memory.setSingleStep(64)
        form.addRow(label(self.tr("Memory"), "muted"), self.memory)
        fold = Fold(self.tr("Advanced"), self.tr("Advanced choices"), body)
        self.toggle = fold.toggle
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(fold)
        self.rules.textChanged.connect(self.changed)
        self.lora.textChanged.connect(self.changed)
        self.metadata.textChanged.connect(self.changed)
        self.layers.textChanged.connect(self.changed)
        self.split.textChanged.connect(self.changed)
        self.set_split_source(False)

    def set_rules(self, rules: Sequence[str]) -> None:
        """Put tensor rules in front of those that are there, so that they win, and show them."""
        kept = [line for line in self.rules.toPlainText().splitlines() if line.strip() and line not in rules]
        self.rules.setPlainText("\n".join([*rules, *kept]))
        self.toggle.setChecked(True)

    def set_split_source(self, several: bool) -> None:
        """Whether the source is in several files, so that there is a division to keep."""
        self.keep_split.setVisible(several)
        if not several:
            self.keep_split.setChecked(False)

    def show_counts(self, outputs: Sequence[Sequence[RuleCount]]) -> None:
        """What each rule matches, and the most that it decides in one of the files to be made."""
        lines, idle = [], False
        for rules in zip(*outputs, strict=True):
            matches, wins = rules[0].matches, max(rule.wins for rule in rules)
            if not matches:
                words = self.tr("matches no tensor")
            elif not wins:
                words = self.tr("matches %1, decides none")
            else:
                words = self.tr("matches %1, decides %2")
            idle = idle or not wins
            counted = words.replace("%1", str(matches)).replace("%2", str(wins))
            lines.append(f"{rules[0].pattern}={rules[0].type}: {counted}")
        self.counts.setText("\n".join(lines))
        self.counts.setVisible(bool(lines))
        set_role(self.counts, "warn" if idle else "muted")
        self._fit_counts()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._fit_counts()

    def _fit_counts(self) -> None:
        """A form gives a wrapped label one line; its own width says how many it needs."""
        self.counts.setMinimumHeight(max(0, self.counts.heightForWidth(max(120, self.width() - 24))))

    def choices(self) -> Advanced:
        rules, bad_line = parse_rules(self.rules.toPlainText())
        problem = self.tr("This rule is not “regular expression=TYPE”: %1").replace("%1", bad_line) if bad_line else ""
        overrides = tuple(filter(None, map(str.strip, self.metadata.toPlainText().splitlines())))
        layers: tuple[int, ...] = ()
        size = 0
        try:
            for text in overrides:
                parse_override(text)
            layers = parse_layers(self.layers.text())
            size = parse_size(self.split.text()) if self.split.text().strip() else 0
        except QuenchError as error:
            problem = problem or f"{error.title} {error.detail}"
        if size and self.keep_split.isChecked():
            problem = problem or self.tr("Keep the source's files, or give a size: not both.")
        return Advanced(
            self.output_type.currentData(),
            self.embedding_type.currentData(),
            self.pure.isChecked(),
            self.leave_output.isChecked(),
            rules,
            self.threads.value(),
            tuple(filter(None, [self.lora.text().strip()])),
            problem,
            overrides,
            layers,
            size,
            self.keep_split.isChecked(),
            self.refined.isChecked(),
            self.memory.value(),
        )

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

    def _line(self, placeholder: str, words: str) -> QLineEdit:
        field = QLineEdit()
        field.setMinimumWidth(60)
        field.setPlaceholderText(placeholder)
        self._name(field, words)
        return field

    def _number(self, most: int, nothing: str, words: str) -> QSpinBox:
        """A number whose zero reads ``nothing``."""
        box = QSpinBox()
        box.setRange(0, most)
        box.setSpecialValueText(nothing)
        box.setKeyboardTracking(False)
        box.setMinimumWidth(110)  # its own would push the column under the scroll bar in the smallest window
        self._name(box, words)
        box.valueChanged.connect(self.changed)
        return box

    def _check(self, text: str, words: str) -> QCheckBox:
        box = QCheckBox(text)
        box.setToolTip(words)
        box.setAccessibleName(text)
        box.toggled.connect(self.changed)
        return box

    def _lora_row(self) -> QWidget:
        holder = QWidget()
        row = QHBoxLayout(holder)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self.lora = QLineEdit()
        self.lora.setMinimumWidth(60)
        self.lora.setPlaceholderText(self.tr("none"))
        self._name(self.lora, self.tr("Merge a LoRA adapter: a folder with adapter_config.json"))
        row.addWidget(self.lora, 1)
        row.addWidget(button(self.tr("Folder…"), self._ask_lora))
        return holder

    def _ask_lora(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, self.tr("Merge a LoRA adapter"))
        if chosen:
            self.lora.setText(chosen)

    @staticmethod
    def _name(widget: Any, words: str) -> None:
        widget.setAccessibleName(words)
        widget.setToolTip(words)
        if isinstance(widget, QSpinBox):
            widget.lineEdit().setAccessibleName(words)
