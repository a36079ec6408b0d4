"""What is inside a model: facts, metadata, tensors, tokenizer, chat template, and what another model differs in.

Headers are read by the scout; everything else by workers that live as long as this window.
"""

from __future__ import annotations

import math

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QScrollArea,
    QStackedLayout,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from app import library
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.filtered_table import FilteredTable, Table
from app.ui.inspect_compare import CompareTab
from app.ui.inspect_metadata import MetadataTab
from app.ui.inspect_reader import Reader
from app.ui.inspect_template import TemplateTab
from app.ui.inspect_tokens import TokensTab
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, TypeBadge, button, label
from converter.spec import ModelInfo, QuenchError


class InspectDialog(QDialog):
    """A window beside the page, filled as soon as the header is read; a header that cannot be read says why."""

    def __init__(self, context: Context, path: str, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self._path = path
        self._request = 0
        self.info: ModelInfo | None = None
        self.reader = Reader(context, self)
        self.compare: CompareTab | None = None
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Inspect"))
        self.resize(1040, 720)
        self._title = ElidedLabel(path)
        set_role(self._title, "title")
        self._badge = TypeBadge("", context.theme)
        top = QHBoxLayout()
        top.setSpacing(12)
        top.addWidget(self._title, 1)
        top.addWidget(self._badge)
        self._place = ElidedLabel(path)
        set_role(self._place, "small")
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("Parts of the model"))
        self.tabs.tabBar().setAccessibleName(self.tr("Parts of the model"))
        self.tabs.tabBar().setDrawBase(False)
        self.error = ErrorCard()
        self._waiting = label(self.tr("Reading the header…"), "muted")
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        trouble = QWidget()
        column = QVBoxLayout(trouble)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.error)
        column.addStretch(1)
        self._stack = QStackedLayout()
        for part in (self._waiting, self.tabs, trouble):
            self._stack.addWidget(part)
        close = button(self.tr("Close"), self.close)
        bottom = QHBoxLayout()
        bottom.addStretch(1)
        bottom.addWidget(close)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(8)
        layout.addLayout(top)
        layout.addWidget(self._place)
        layout.addLayout(self._stack, 1)
        layout.addLayout(bottom)
        self._ask()

    def done(self, result: int) -> None:
        self._context.scout.forget(self._request)
        self._leave()
        super().done(result)

    def _leave(self) -> None:
        self.reader.close()
        if self.compare is not None:
            self.compare.close_worker()

    def _ask(self) -> None:
        self._stack.setCurrentIndex(0)
        self._request = self._context.scout.inspect(self._path, self._answered)

    def _answered(self, answer: ModelInfo | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self.error.show_error(answer, [(self.tr("Retry"), self._ask)])
            self._stack.setCurrentIndex(2)
            return
        self.info = answer
        self._title.setText(library.base_name(answer))
        kind = library.type_label(answer)
        self._badge.setVisible(bool(kind))
        self._badge.set_type(kind)
        self.tabs.clear()
        self.tabs.addTab(self._facts(answer), self.tr("Overview"))
        self.metadata = MetadataTab(self._context, self.reader, answer)
        self.metadata.copied.connect(self._context.library.add)
        self.tabs.addTab(self.metadata, self.tr("Metadata"))
        self.tabs.addTab(self._tensors(answer), self.tr("Tensors ({0})").format(fmt.number(len(answer.tensors))))
        self.tokens = TokensTab(self._context, self.reader, answer)
        self.tabs.addTab(self.tokens, self.tr("Tokenizer"))
        self.template = TemplateTab(self._context, self.reader, answer)
        self.tabs.addTab(self.template, self.tr("Chat template"))
        self.compare = CompareTab(self._context, answer)
        self.tabs.addTab(self.compare, self.tr("Compare"))
        self._stack.setCurrentIndex(1)
        self.tabs.tabBar().setFocus()

    def _facts(self, info: ModelInfo) -> QWidget:
        bpw = sum(tensor.bytes for tensor in info.tensors) * 8 / info.parameters if info.parameters else None
        kinds = sorted(info.types.items(), key=lambda pair: -pair[1])
        facts = [
            (self.tr("Architecture"), info.architecture),
            (self.tr("Parameters"), f"{fmt.parameters(info.parameters)} ({fmt.number(info.parameters)})"),
            (self.tr("Size on disk"), f"{fmt.size(info.bytes)} ({fmt.number(info.bytes)} B)"),
            (self.tr("Bits per weight"), fmt.number(bpw, 2)),
            (self.tr("Tensor types"), ", ".join(f"{name} × {count}" for name, count in kinds)),
            (self.tr("Layers"), fmt.number(info.layers)),
            (self.tr("Context it was trained for"), self.tr("{0} tokens").format(fmt.number(info.context_length))),
            (self.tr("Embedding length"), fmt.number(info.embedding_length)),
            (self.tr("Attention heads, of them for keys and values"), f"{info.heads}, {info.kv_heads}"),
            (self.tr("Experts"), fmt.number(info.experts) if info.experts else self.tr("none")),
            (self.tr("Vocabulary"), self.tr("{0} tokens").format(fmt.number(info.vocabulary))),
            (self.tr("Tokenizer"), " · ".join(part for part in (info.tokenizer, info.pre_tokenizer) if part)),
            (self.tr("Input and output share one matrix"), self.tr("yes") if info.tied_embeddings else self.tr("no")),
        ]
        inside = QWidget()
        set_role(inside, "page")
        form = QFormLayout(inside)
        form.setContentsMargins(0, 16, 0, 16)
        form.setHorizontalSpacing(32)
        form.setVerticalSpacing(8)
        for name, value in facts:
            shown = label(value or fmt.DASH, wrap=True)
            shown.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            form.addRow(label(name, "muted"), shown)
        for problem in info.problems:
            form.addRow(label(self.tr("Problem"), "bad"), label(problem, "bad", wrap=True))
        for note in info.notes:
            form.addRow(label(self.tr("Note"), "muted"), label(note, wrap=True))
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setWidget(inside)
        return area

    def _tensors(self, info: ModelInfo) -> QWidget:
        cells = [
            [
                (tensor.name, number),
                (" × ".join(str(side) for side in tensor.shape), math.prod(tensor.shape)),
                (tensor.type, tensor.type),
                (fmt.size(tensor.bytes), tensor.bytes),
            ]
            for number, tensor in enumerate(info.tensors)
        ]
        headers = [self.tr("Tensor"), self.tr("Shape"), self.tr("Type"), self.tr("Size")]
        made = FilteredTable(Table(headers, cells, {1, 3}, self), self.tr("Tensors"), self._context.theme.mono(12))
        made.set_widths(0)
        return made
