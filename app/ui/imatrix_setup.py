"""The questions before an importance matrix is made: which file runs, on which texts, for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QListWidget,
    QListWidgetItem,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

import resources
from app import library
from app.quality.texts import CALIBRATION
from app.ui import format as fmt
from app.ui.convert_source import is_quantized
from app.ui.theme import set_role
from app.ui.widgets import button, drop_paths, label, title_of
from converter.spec import ModelInfo

if TYPE_CHECKING:
    from app.ui.context import Context

FULL = ("BF16", "F16", "F32")
GOOD = (*FULL, "Q8_0")
"""Types that stand for the original, the best choice first: F32 says no more than the 16-bit ones and takes twice."""
FIRST = ("Q8_0", "BF16")
"""What can be made of the source when no file of it is there to run."""
SUFFIXES = (".txt", ".md", ".jsonl")
WINDOW = 512
TEXT_ROLE = Qt.ItemDataRole.UserRole


@dataclass(frozen=True)
class Choice:
    """What is to be done. ``model`` is a GGUF file; if it is empty, one of the type ``first`` is made before."""

    model: str
    first: str
    texts: tuple[str, ...]
    chunks: int
    minutes: int
    process_output: bool


def runnable(context: Context, source: ModelInfo) -> list[ModelInfo]:
    """GGUF files in the library that are the same model as ``source``, the most faithful first."""

    def rank(info: ModelInfo) -> tuple[int, int]:
        kind = library.type_label(info)
        return (GOOD.index(kind) if kind in GOOD else len(GOOD), -info.bytes)

    return sorted((info for info in context.library.usable({"gguf"}) if _same(info, source)), key=rank)


def _same(one: ModelInfo, other: ModelInfo) -> bool:
    alike = ("architecture", "layers", "embedding_length", "vocabulary", "experts")
    names = library.base_name(one).lower() == library.base_name(other).lower()
    return names and all(getattr(one, name) == getattr(other, name) for name in alike)


class SetupDialog(QDialog):
    """``chosen`` carries the :class:`Choice` when the person starts it. ``sizes``: bytes of a file of a type."""

    chosen = Signal(object)

    def __init__(self, context: Context, source: ModelInfo, sizes: dict[str, int], parent: QWidget) -> None:
        super().__init__(parent)
        self._context, self._source, self._sizes = context, source, sizes
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Make an importance matrix"))
        self.setAcceptDrops(True)
        self.resize(560, 560)
        self._build()
        self._fill_models()
        context.library.changed.connect(self._fill_models)
        self._update()

    # ---- faces

    def choice(self) -> Choice | None:
        """What Start would do, or None while something is missing."""
        data, texts = self.model.currentData(), self.chosen_texts()
        if data is None or not texts:
            return None
        kind, value = data
        return Choice(
            model=value if kind == "file" else "",
            first=value if kind == "make" else "",
            texts=texts,
            chunks=self.chunks.value(),
            minutes=self.minutes.value(),
            process_output=self.output_matrix.isChecked(),
        )

    def chosen_texts(self) -> tuple[str, ...]:
        """Names of the bundled texts and paths of own files that are ticked."""
        ticked = [item for item in self._items() if item.checkState() == Qt.CheckState.Checked]
        return tuple(name for item in ticked for name in item.data(TEXT_ROLE))

    def add_texts(self, paths: list[str]) -> None:
        """Tick own files; what is no text is left out, and that is said."""
        good = [path for path in paths if Path(path).suffix.lower() in SUFFIXES]
        have = {name for item in self._items() for name in item.data(TEXT_ROLE)}
        for path in good:
            if path not in have:
                self._add_text(Path(path).name, (path,), path)
        self._refused = self.tr("Only .txt, .md and .jsonl files can be read.") if len(good) < len(paths) else ""
        self._update()

    # ---- building

    def _build(self) -> None:
        self._refused = ""
        intro = self.tr(
            "The model reads a text, and Quench notes which inputs of each matrix are used most. A conversion then "
            "keeps its precision for those. The text should look like what the model will be used for."
        )
        self.model = QComboBox()
        self.model.setAccessibleName(self.tr("Model to run"))
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.model_note = label("", "muted", wrap=True)
        self.texts = QListWidget()
        self.texts.setAccessibleName(self.tr("Texts"))
        self.texts.setMinimumHeight(96)
        self._add_text(self.tr("Calibration text of Quench"), tuple(CALIBRATION), "")
        words = self.tr("Prose, manuals, code, mathematics, tables, tool calls, chats, and many languages")
        self.texts.item(0).setToolTip(words)
        self.texts.itemChanged.connect(self._update)
        add = button(self.tr("Add texts…"), self._ask_texts)
        drop = label(self.tr("or drop them here: .txt, .md, chats as .jsonl"), "muted", wrap=True)
        row = QHBoxLayout()
        row.setSpacing(12)
        row.addWidget(add)
        row.addWidget(drop, 1)
        self.chunks = self._spin(self.tr("Windows"), 100_000, self.tr("all of the text"))
        self.minutes = self._spin(self.tr("Minutes"), 10_000, self.tr("no limit"))
        self.output_matrix = QCheckBox(self.tr("The output matrix as well"))
        self.output_matrix.setAccessibleName(self.output_matrix.text())
        self.output_matrix.setToolTip(self.tr("Usually left out: it keeps more bits than the others anyway"))
        form = QFormLayout()
        form.setHorizontalSpacing(16)
        form.setVerticalSpacing(8)
        form.addRow(label(self.tr("Windows of 512 tokens"), "muted"), self.chunks)
        form.addRow(label(self.tr("Minutes"), "muted"), self.minutes)
        self.note = label("", "muted", wrap=True)
        self.start_button = button(self.tr("Start"), self._start, "primary")
        foot = QHBoxLayout()
        foot.setSpacing(8)
        foot.addWidget(self.note, 1)
        foot.addWidget(button(self.tr("Cancel"), self.close))
        foot.addWidget(self.start_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(8)
        layout.addWidget(label(self.windowTitle(), "title"))
        layout.addWidget(label(intro, "muted", wrap=True))
        layout.addSpacing(4)
        layout.addWidget(label(self.tr("Model to run"), "heading"))
        layout.addWidget(self.model)
        layout.addWidget(self.model_note)
        layout.addSpacing(4)
        layout.addWidget(label(self.tr("Texts"), "heading"))
        layout.addWidget(self.texts, 1)
        layout.addLayout(row)
        layout.addSpacing(4)
        layout.addLayout(form)
        layout.addWidget(self.output_matrix)
        layout.addSpacing(4)
        layout.addLayout(foot)
        self.model.currentIndexChanged.connect(self._update)
        self.chunks.valueChanged.connect(self._update)

    def _spin(self, name: str, largest: int, zero: str) -> QSpinBox:
        box = QSpinBox()
        box.setRange(0, largest)
        box.setSpecialValueText(zero)
        box.lineEdit().setTextMargins(6, 0, 0, 0)  # as the window gives them to its pages
        box.setAccessibleName(name)
        box.lineEdit().setAccessibleName(name)
        return box

    def _add_text(self, title: str, names: tuple[str, ...], tip: str) -> None:
        item = QListWidgetItem(title)
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked)
        item.setData(TEXT_ROLE, names)
        item.setToolTip(tip)
        self.texts.addItem(item)

    def _items(self) -> list[QListWidgetItem]:
        return [self.texts.item(i) for i in range(self.texts.count())]

    # ---- the model

    def _fill_models(self) -> None:
        """The files that are there, and what could be made of the source if none of them is good."""
        before = self.model.currentData()
        files = runnable(self._context, self._source)
        good = [info for info in files if library.type_label(info) in GOOD]
        entries = [(f"{title_of(info)}  ({fmt.size(info.bytes)})", ("file", info.path)) for info in files]
        make: list[tuple[str, tuple[str, str]]] = []
        if not good and not is_quantized(self._source):
            for kind in FIRST:
                size = f" ({fmt.size(self._sizes[kind])})" if kind in self._sizes else ""
                make.append((self.tr("Make {0} first").format(kind) + size, ("make", kind)))
        self.model.blockSignals(True)
        self.model.clear()
        for text, data in (*make, *entries):
            self.model.addItem(text, data)
        self.model.setCurrentIndex(max(self.model.findData(before), 0) if self.model.count() else -1)
        self.model.blockSignals(False)
        self._update()

    def _model_words(self) -> str:
        kind, value = self.model.currentData() or ("", "")
        if kind == "make":
            return self.tr("There is no full-precision file of this model yet. It is made first, and kept.")
        info = self._context.library.entry(value) if kind == "file" else None
        if info is not None and library.type_label(info) not in GOOD:
            return self.tr("This file is quantized itself: the figures come from it, not from the original.")
        return ""

    # ---- the rest

    def _update(self, *_: object) -> None:
        words = self._model_words()
        self.model_note.setText(words)
        self.model_note.setVisible(bool(words))
        ready = self.choice() is not None
        self.start_button.setEnabled(ready)
        missing = self.tr("No file of this model is there to run.") if self.model.currentData() is None else ""
        if not missing and not self.chosen_texts():
            missing = self.tr("Tick at least one text.")
        self.note.setText(self._refused or missing or self._amount())
        set_role(self.note, "warn" if self._refused else "muted")

    def _amount(self) -> str:
        # A rule of thumb: tokens of 2,000 words have two bytes, tokens of 128,000 words three and a half.
        bytes_a_token = math.log2(max(self._source.vocabulary, 2048)) / 5
        tokens = sum(_bytes(name) for name in self.chosen_texts()) / bytes_a_token
        windows = int(tokens // WINDOW)
        if self.chunks.value():
            windows = min(windows, self.chunks.value())
        return self.tr("About {0} windows").format(fmt.number(windows))

    def _ask_texts(self) -> None:
        chosen, _ = QFileDialog.getOpenFileNames(self, self.tr("Add texts"), "", self.tr("Texts (*.txt *.md *.jsonl)"))
        self.add_texts(chosen)

    def _start(self) -> None:
        choice = self.choice()
        if choice is not None:
            self.chosen.emit(choice)
            self.close()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if drop_paths(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.add_texts(drop_paths(event))


def _bytes(name: str) -> int:
    try:
        return (resources.path(CALIBRATION[name]) if name in CALIBRATION else Path(name)).stat().st_size
    except OSError:
        return 0
