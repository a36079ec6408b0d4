"""The left column of the Convert page: which model, and what was recognised in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from app import library
from app.ui import format as fmt
from app.ui.widgets import ElidedLabel, ErrorCard, ModelPicker, button, label
from converter.spec import ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

FULL_PRECISION = frozenset({"F32", "F16", "BF16", "F64"})


def is_quantized(info: ModelInfo) -> bool:
    """Whether the source is a file with tensors in a quantized type. (Quantized folders are decoded on reading.)"""
    return info.kind == "gguf" and any(kind not in FULL_PRECISION for kind in info.types)


def precision_words(info: ModelInfo) -> str:
    """The types in the source, the most frequent first: ``BF16 (57), F32 (13)``."""
    ranked = sorted(info.types.items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} ({fmt.number(count, 0)})" for kind, count in ranked[:4])


class SourcePane(QWidget):
    """Pick a model; ``changed`` comes when its header is read (``info``), refused, or another one is being read."""

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self.info: ModelInfo | None = None
        self.reading = False
        self.picker = ModelPicker(context, {"hf", "gguf"})
        self.picker.setAccessibleName(self.tr("Source model"))
        self.picker.changed.connect(self._picked)
        self.folder_button = button(self.tr("Folder…"), self._ask_folder)
        self.file_button = button(self.tr("GGUF file…"), self._ask_file)
        self.folder_button.setAccessibleName(self.tr("Open a model folder"))
        self.file_button.setAccessibleName(self.tr("Open a GGUF file"))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.folder_button, 1)
        row.addWidget(self.file_button, 1)
        self._state = label(
            self.tr("A model folder from Hugging Face or a GGUF file. You can drop it here."), "muted", wrap=True
        )
        self.error = ErrorCard()
        self._notes = label("", wrap=True)
        self._notes.hide()
        self._facts = QWidget()
        self._grid = QGridLayout(self._facts)
        self._grid.setContentsMargins(0, 8, 0, 0)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(6)
        self._grid.setColumnStretch(1, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 12, 0)
        layout.setSpacing(8)
        layout.addWidget(label(self.tr("1  Source"), "heading"))
        layout.addWidget(self.picker)
        layout.addLayout(row)
        layout.addWidget(self._state)
        layout.addWidget(self.error)
        layout.addWidget(self._notes)
        layout.addWidget(self._facts)
        layout.addStretch(1)

    def path(self) -> str | None:
        return self.picker.path()

    def open(self, path: str) -> None:
        """Take a folder or file as the source; the library gets to know it once it proves to be a model."""
        if self.picker.path() == path:
            self._picked()
        else:
            self.picker.set_path(path)

    def _picked(self) -> None:
        path = self.picker.path()
        self.info, self.reading = None, path is not None
        self.error.clear()
        self._show_facts(None)
        self._state.setVisible(True)
        self._state.setText(self.tr("Reading the header…") if path else self.tr("Choose a model."))
        if path:
            self._context.scout.inspect(path, lambda answer: self._inspected(path, answer))
        self.changed.emit()

    def _inspected(self, path: str, answer: ModelInfo | QuenchError) -> None:
        if path != self.picker.path():
            return
        self.reading = False
        if isinstance(answer, QuenchError):
            self._refuse(answer)
        elif answer.problems:
            title = self.tr("This model cannot be converted.")
            self._refuse(QuenchError("bad_source", title, "\n".join(answer.problems), self.tr("Choose another model.")))
        else:
            self.info = answer
            if self._context.library.entry(path) is None:
                self._context.library.add(path)
            self._state.hide()
            self._show_facts(answer)
        self.changed.emit()

    def _refuse(self, error: QuenchError) -> None:
        self._state.hide()
        self.error.show_error(error, [(self.tr("Retry"), self._picked)])

    def _show_facts(self, info: ModelInfo | None) -> None:
        while self._grid.count():
            item = self._grid.takeAt(0)
            if item.widget() is not None:
                item.widget().hide()
                item.widget().deleteLater()
        self._notes.setText("\n".join(info.notes) if info else "")
        self._notes.setVisible(bool(self._notes.text()))
        if info is None:
            return
        for row, (name, value) in enumerate(self._rows(info)):
            self._grid.addWidget(label(name, "muted"), row, 0, Qt.AlignmentFlag.AlignTop)
            shown = ElidedLabel(value) if row == 0 else label(value, wrap=True)
            shown.setAccessibleName(f"{name}: {value}")
            self._grid.addWidget(shown, row, 1)

    def _rows(self, info: ModelInfo) -> list[tuple[str, str]]:
        kind = self.tr("Hugging Face") if info.kind == "hf" else self.tr("GGUF file")
        tokenizer = f"{info.tokenizer}, {info.pre_tokenizer}" if info.pre_tokenizer else info.tokenizer
        rows = [
            (self.tr("Name"), library.base_name(info)),
            (self.tr("Kind"), kind),
            (self.tr("Family"), info.architecture),
            (self.tr("Parameters"), fmt.parameters(info.parameters)),
            (self.tr("Layers"), fmt.number(info.layers, 0)),
            (self.tr("Context"), fmt.number(info.context_length, 0)),
            (self.tr("Vocabulary"), fmt.number(info.vocabulary, 0)),
            (self.tr("Tokenizer"), tokenizer or fmt.DASH),
            (self.tr("Precision"), precision_words(info)),
            (self.tr("Embeddings"), self.tr("shared") if info.tied_embeddings else self.tr("separate")),
            (self.tr("Chat template"), self.tr("yes") if info.chat_template else self.tr("none")),
            (self.tr("Size"), fmt.size(info.bytes)),
        ]
        if info.experts:
            rows.insert(5, (self.tr("Experts"), fmt.number(info.experts, 0)))
        return rows

    def _ask_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, self.tr("Open a model folder"))
        if chosen:
            self.open(chosen)

    def _ask_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, self.tr("Open a GGUF file"), "", "GGUF (*.gguf)")
        if chosen:
            self.open(str(Path(chosen)))
