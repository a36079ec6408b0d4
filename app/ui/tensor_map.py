"""The tensor map: layers across, tensors down, every cell in the colour of its type, filling while a job runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PySide6.QtCore import QEvent, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontMetrics, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStackedWidget,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from app.ui import format as fmt
from app.ui.chart_parts import Legend, SeriesStyle, significant
from app.ui.tensor_errors import (
    ErrorTable,
    error_color,
    error_step,
    error_step_color,
    error_step_words,
    error_words,
)
from converter.spec import PlannedOutput, TensorDone

ALL = -1
TYPES, ERRORS, TABLE = range(3)
MAX_TALL = 46
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")

ROWS = {
    "attn_norm": "norm before attention",
    "attn_q": "attention queries",
    "attn_q_norm": "norm of the queries",
    "attn_k": "attention keys",
    "attn_k_norm": "norm of the keys",
    "attn_v": "attention values",
    "attn_qkv": "attention queries, keys and values",
    "attn_output": "attention output",
    "post_attention_norm": "norm after attention",
    "ffn_norm": "norm before the feed-forward part",
    "ffn_gate_inp": "router to the experts",
    "ffn_gate": "feed-forward gate",
    "ffn_up": "feed-forward, going up",
    "ffn_down": "feed-forward, coming down",
    "ffn_gate_exps": "experts' gates",
    "ffn_up_exps": "experts, going up",
    "ffn_down_exps": "experts, coming down",
    "post_ffw_norm": "norm after the feed-forward part",
    "token_embd": "token embeddings",
    "output_norm": "last norm",
    "output": "output head",
}
"""What a tensor does, in plain words; the order is the order of the rows."""


@dataclass
class Entry:
    """One tensor of one output."""

    type: str
    bytes: int
    reason: str
    done: bool = False
    rmse: float = 0.0
    relative: float = 0.0


@dataclass
class Tensor:
    """One cell: where it stands and what each output makes of it."""

    name: str
    shape: tuple[int, ...]
    layer: int | None
    role: str
    entries: dict[int, Entry] = field(default_factory=dict)


def place(name: str) -> tuple[int | None, str]:
    """Layer and role of a GGUF tensor name: ``blk.3.attn_v.weight`` -> (3, ``attn_v``)."""
    found = _LAYER.fullmatch(name)
    role = found.group(2) if found else name
    return (int(found.group(1)) if found else None), role.removesuffix(".weight")


def _row_key(role: str) -> tuple[int, str]:
    base = role.removesuffix(".bias")
    order = list(ROWS)
    return (order.index(base) if base in ROWS else len(order), role)


class MapGrid(QWidget):
    """The cells. Arrow keys move a cursor; ``described`` carries the words for the cell under it or the pointer."""

    described = Signal(str)

    HEADER = 18
    GAP = 8

    def __init__(self, theme: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme = theme
        self.tensors: dict[str, Tensor] = {}
        self.outputs: list[str] = []
        self.view = ALL
        self.by_error = False
        self._edge: list[str] = []
        self._rows: list[str] = []
        self._layers = 0
        self._cells: dict[tuple[int, int], str] = {}
        self._rects: dict[str, QRect] = {}
        self._cursor: str | None = None
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(self.tr("Tensor map"))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(160, 120)
        theme.changed.connect(self.update)

    # ---- data

    def set_outputs(self, outputs: Sequence[PlannedOutput]) -> None:
        self.tensors, self.outputs, self._cursor = {}, [output.type for output in outputs], None
        for number, output in enumerate(outputs):
            for planned in output.tensors:
                layer, role = place(planned.name)
                tensor = self.tensors.setdefault(planned.name, Tensor(planned.name, planned.shape, layer, role))
                tensor.entries[number] = Entry(planned.type, planned.bytes, planned.reason)
        self._arrange()

    def set_done(self, event: TensorDone) -> None:
        tensor = self.tensors.get(event.name)
        if tensor is None or event.output not in tensor.entries:
            return
        entry = tensor.entries[event.output]
        entry.type, entry.bytes, entry.done = event.type, event.bytes, True
        entry.rmse, entry.relative = event.rmse, event.relative_error
        self.update(self._rects.get(event.name, QRect()).adjusted(-1, -1, 1, 1))

    def counts(self) -> tuple[int, int]:
        """Tensors done and planned over what is shown."""
        entries = [entry for tensor in self.tensors.values() for entry in self._shown(tensor)]
        return sum(entry.done for entry in entries), len(entries)

    def error_counts(self) -> Counter[int]:
        """How many finished tensors there are in each step of the error scale."""
        entries = (entry for tensor in self.tensors.values() for entry in self._shown(tensor))
        return Counter(error_step(entry.relative) for entry in entries if entry.done)

    def type_counts(self) -> Counter[str]:
        return Counter(entry.type for tensor in self.tensors.values() for entry in self._shown(tensor))

    def words(self, name: str) -> str:
        """Everything about one tensor, for the tooltip and for screen readers."""
        tensor = self.tensors[name]
        known = ROWS.get(tensor.role.removesuffix(".bias"), "")
        where = "" if tensor.layer is None else self.tr("layer %1").replace("%1", str(tensor.layer))
        lines = [name, " × ".join(map(str, tensor.shape)) + "".join(f" · {part}" for part in (known, where) if part)]
        for number, entry in tensor.entries.items():
            if self.view in (ALL, number):
                lines.append(self._entry_words(self.outputs[number], entry))
        return "\n".join(lines)

    def _entry_words(self, output: str, entry: Entry) -> str:
        parts = [entry.type if output == entry.type else f"{output}: {entry.type}", fmt.size(entry.bytes)]
        if entry.done:
            if entry.rmse == 0:
                parts.append(self.tr("exact"))
            else:
                parts.append(self.tr("RMSE %1").replace("%1", significant(entry.rmse)))
                parts.append(self.tr("relative error %1").replace("%1", error_words(entry.relative)))
        if entry.reason:
            parts.append(entry.reason)
        return " · ".join(parts)

    def _shown(self, tensor: Tensor) -> list[Entry]:
        return [entry for number, entry in tensor.entries.items() if self.view in (ALL, number)]

    # ---- geometry

    def _arrange(self) -> None:
        layers = [tensor.layer for tensor in self.tensors.values() if tensor.layer is not None]
        self._layers = max(layers, default=-1) + 1
        self._edge = sorted(
            (t.name for t in self.tensors.values() if t.layer is None), key=lambda n: _row_key(place(n)[1])
        )
        self._rows = sorted({t.role for t in self.tensors.values() if t.layer is not None}, key=_row_key)
        row_of = {role: row for row, role in enumerate(self._rows)}
        self._cells = {(row_of[t.role], t.layer): t.name for t in self.tensors.values() if t.layer is not None}
        self._layout()
        self.update()

    def _label_width(self) -> int:
        metrics = QFontMetrics(self.theme.font(12))
        return max((metrics.horizontalAdvance(role) for role in self._rows), default=0) + 10

    def _layout(self) -> None:
        self._rects = {}
        left, rows = self._label_width(), len(self._rows) + (1 if self._edge else 0)
        if not rows:
            return
        header = self.HEADER if self._layers else 0
        room = self.height() - header - (self.GAP if self._edge else 0) - 2
        tall = max(6, min(MAX_TALL, room // rows))
        top = 1
        if self._edge:
            wide = (self.width() - left - 2) / len(self._edge)
            for i, name in enumerate(self._edge):
                x = left + round(i * wide)
                self._rects[name] = QRect(x, top, left + round((i + 1) * wide) - x - 2, tall - 2)
            top += tall + self.GAP
        self._grid_top = top + header
        wide = (self.width() - left - 2) / max(1, self._layers)
        gap = 2 if wide >= 8 else 1
        for (row, layer), name in self._cells.items():
            x = left + round(layer * wide)
            size = (left + round((layer + 1) * wide) - x - gap, tall - gap)
            self._rects[name] = QRect(x, self._grid_top + row * tall, max(1, size[0]), max(1, size[1]))

    def resizeEvent(self, event: Any) -> None:
        self._layout()

    def sizeHint(self) -> QSize:
        return QSize(420, 260)

    # ---- painting

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setFont(self.theme.font(12))
        self._paint_labels(painter)
        for name, rect in self._rects.items():
            if rect.intersects(event.rect()):
                self._paint_cell(painter, self.tensors[name], rect)
        if self._cursor in self._rects and self.hasFocus():
            painter.setPen(QPen(QColor(self.theme.tokens.text), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self._rects[self._cursor])
        painter.end()

    def _paint_labels(self, painter: QPainter) -> None:
        painter.setPen(QColor(self.theme.tokens.muted))
        left = self._label_width()
        for row, role in enumerate(self._rows):
            rects = [self._rects[name] for (at, _), name in self._cells.items() if at == row]
            if rects:
                painter.setFont(self._row_font(rects[0].height()))
                area = QRect(0, rects[0].top(), left - 8, rects[0].height())
                flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter | Qt.TextFlag.TextDontClip
                painter.drawText(area, flags, role)
        painter.setFont(self.theme.font(12))
        if not self._layers or not self._rows:
            return
        wide = (self.width() - left - 2) / self._layers
        every = next((step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32) if step * wide >= 24), 64)
        for layer in range(0, self._layers, every):
            area = QRect(left + round(layer * wide), self._grid_top - self.HEADER, max(24, int(wide)), self.HEADER)
            centre = Qt.AlignmentFlag.AlignHCenter if wide >= 24 else Qt.AlignmentFlag.AlignLeft
            painter.drawText(area, centre | Qt.AlignmentFlag.AlignVCenter, str(layer))
        area = QRect(0, self._grid_top - self.HEADER, left - 8, self.HEADER)
        painter.drawText(area, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, self.tr("layer"))

    def _row_font(self, height: int) -> QFont:
        font = QFont(self.theme.font(12))
        font.setPixelSize(max(8, min(12, height)))
        return font

    def _paint_cell(self, painter: QPainter, tensor: Tensor, rect: QRect) -> None:
        entries = self._shown(tensor)
        if not entries:
            return
        for i, entry in enumerate(entries):
            top = rect.top() + round(i * rect.height() / len(entries))
            bottom = rect.top() + round((i + 1) * rect.height() / len(entries))
            painter.fillRect(QRect(rect.left(), top, rect.width(), bottom - top), self.colour(tensor, entry))
        if rect.width() >= 8 and rect.height() >= 8:
            painter.setPen(QPen(QColor(self.theme.tokens.border), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(rect.adjusted(0, 0, -1, -1))
        if tensor.layer is None:
            self._paint_edge_name(painter, tensor, rect, entries)

    def colour(self, tensor: Tensor, entry: Entry) -> QColor:
        """What a cell is filled with."""
        if self.by_error:
            return error_color(entry.relative, self.theme) if entry.done else QColor(0, 0, 0, 0)
        colour = QColor(self.theme.type_color(entry.type))
        if not entry.done:
            colour.setAlpha(64 if self.theme.is_dark else 46)
        return colour

    def _paint_edge_name(self, painter: QPainter, tensor: Tensor, rect: QRect, entries: list[Entry]) -> None:
        metrics = QFontMetrics(painter.font())
        text = metrics.elidedText(tensor.role, Qt.TextElideMode.ElideRight, rect.width() - 12)
        area = QRect(rect.left() + 4, rect.top(), metrics.horizontalAdvance(text) + 6, rect.height())
        if any(entry.done for entry in entries):
            plate = QColor(self.theme.tokens.surface)
            plate.setAlpha(225)
            high = min(rect.height() - 2, metrics.height())
            painter.fillRect(QRect(area.left(), rect.center().y() - high // 2, area.width(), high + 1), plate)
        painter.setPen(QColor(self.theme.tokens.text))
        painter.drawText(area, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextDontClip, text)

    # ---- pointer and keyboard

    def _at(self, point: QPoint) -> str | None:
        return next((name for name, rect in self._rects.items() if rect.contains(point)), None)

    def event(self, event: QEvent) -> bool:
        if isinstance(event, QHelpEvent) and event.type() == QEvent.Type.ToolTip:
            name = self._at(event.pos())
            if name:
                QToolTip.showText(event.globalPos(), self.words(name), self, self._rects[name])
            else:
                QToolTip.hideText()
            return True
        return super().event(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        name = self._at(event.position().toPoint())
        if name:
            self.described.emit(self.words(name))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        name = self._at(event.position().toPoint())
        if name:
            self._move_to(name)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        steps = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
        }
        step = steps.get(Qt.Key(event.key()))
        if step is None or not self._rects:
            super().keyPressEvent(event)
            return
        self._move_to(self._neighbour(*step))

    def _neighbour(self, down: int, right: int) -> str:
        """The cell that comes next in a direction; the nearest by its centre."""
        if self._cursor not in self._rects:
            return next(iter(self._rects))
        here = self._rects[self._cursor].center()
        best, best_cost = self._cursor, float("inf")
        for name, rect in self._rects.items():
            dx, dy = rect.center().x() - here.x(), rect.center().y() - here.y()
            along, across = (dx * right, abs(dy)) if right else (dy * down, abs(dx))
            if along > 2 and along + across * 3 < best_cost:
                best, best_cost = name, along + across * 3
        return best

    def _move_to(self, name: str) -> None:
        self._cursor = name
        words = self.words(name)
        self.setAccessibleDescription(words)
        self.described.emit(words)
        self.update()


class TensorMap(QWidget):
    """The grid with its recipe selector, legend and a line of words for the cell that is looked at."""

    def __init__(self, theme: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.theme = theme
        self.grid = MapGrid(theme)
        self.selector = QComboBox()
        self.selector.setAccessibleName(self.tr("Recipe shown in the tensor map"))
        self.selector.currentIndexChanged.connect(self._on_view)
        self.selector.activated.connect(self._on_choice)
        self._chosen = ""
        self._compact = False
        self.look = QComboBox()
        self.look.setAccessibleName(self.tr("What the tensor map shows"))
        for words, look in ((self.tr("Types"), TYPES), (self.tr("Errors"), ERRORS), (self.tr("Table"), TABLE)):
            self.look.addItem(words, look)
        self.look.currentIndexChanged.connect(self._on_look)
        self.table = ErrorTable(theme)
        self._title = QLabel(self.tr("Tensors"))
        self._title.setFont(theme.font(13, True))
        self.count = QLabel("")
        self.count.setFont(theme.mono())
        self.legend = Legend()
        self.legend.setFont(theme.font(12))
        self._words = QLabel("")
        self._words.setTextFormat(Qt.TextFormat.PlainText)
        self._words.setProperty("role", "muted")
        self._words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._hint = self.tr("Point at a cell to see its tensor")
        header = QHBoxLayout()
        header.addWidget(self._title)
        header.addWidget(self.count, 1)
        header.addWidget(self.selector)
        header.addWidget(self.look)
        self._stack = QStackedWidget()
        self._stack.addWidget(self.grid)
        self._stack.addWidget(self.table)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(header)
        layout.addWidget(self._stack, 1)
        layout.addWidget(self._words)
        layout.addWidget(self.legend)
        self.grid.described.connect(self._describe)
        theme.changed.connect(self._relegend)
        self._show_words(self._hint)

    def set_outputs(self, outputs: Sequence[PlannedOutput]) -> None:
        """Show planned outputs: pale cells until :meth:`set_done`."""
        self.selector.blockSignals(True)
        self.selector.clear()
        if len(outputs) > 1:
            self.selector.addItem(self.tr("All"), ALL)
        for number, output in enumerate(outputs):
            self.selector.addItem(output.type, number)
        self.selector.setCurrentIndex(max(0, self.selector.findText(self._chosen)))
        self.selector.blockSignals(False)
        self.selector.setVisible(len(outputs) > 1)
        self.grid.set_outputs(outputs)
        self.table.set_outputs(outputs)
        self._on_view()
        self._show_words(self._hint if outputs else "")

    def set_done(self, event: TensorDone) -> None:
        self.grid.set_done(event)
        self.table.set_done(event)
        self._recount()
        if self.grid.by_error:
            self._relegend()

    def set_compact(self, on: bool) -> None:
        """Leave out the line of words; the tooltip says the same."""
        self._compact = on
        self._words.setVisible(not on and self.look.currentData() != TABLE)

    def clear(self) -> None:
        self.set_outputs([])

    def _on_choice(self, *_: object) -> None:
        """Somebody's own choice holds for the plans that come after."""
        self._chosen = self.selector.currentText()

    def _on_view(self, *_: object) -> None:
        chosen = self.selector.currentData()
        self.grid.view = ALL if chosen is None else int(chosen)
        self.table.show_output(None if self.grid.view == ALL else self.grid.view)
        self.grid.update()
        self._relegend()
        self._recount()

    def _on_look(self, *_: object) -> None:
        look = self.look.currentData()
        self._stack.setCurrentWidget(self.table if look == TABLE else self.grid)
        self.grid.by_error = look == ERRORS
        self._words.setVisible(look != TABLE and not self._compact)
        self.grid.update()
        self._relegend()

    def _recount(self) -> None:
        done, total = self.grid.counts()
        text = f"{fmt.number(done, 0)} / {fmt.number(total, 0)}" if done else fmt.number(total, 0) if total else ""
        self.count.setText(text)
        self.grid.setAccessibleName(self.tr("Tensor map, %1 tensors").replace("%1", text or "0"))

    def _relegend(self) -> None:
        if self.grid.by_error:
            found = self.grid.error_counts()
            steps = [
                SeriesStyle(f"{words}  {found.get(step, 0)}", error_step_color(step, self.theme), kind="box")
                for step, words in enumerate(error_step_words())
                if found.get(step)
            ]
            self.legend.set_styles(steps, QColor(self.theme.tokens.text), QColor(self.theme.tokens.border))
            self.legend.setVisible(bool(steps))
            return
        counts = self.grid.type_counts()
        styles = [
            SeriesStyle(f"{kind}  {count}", QColor(self.theme.type_color(kind)), kind="box")
            for kind, count in sorted(counts.items(), key=lambda item: (not item[0].startswith("Q"), item[0]))
        ]
        self.legend.set_styles(styles, QColor(self.theme.tokens.text), QColor(self.theme.tokens.border))
        self.legend.setVisible(self.look.currentData() != TABLE)

    def _describe(self, words: str) -> None:
        first, second, *rest = words.split("\n")
        one = len(self.grid.outputs) == 1 or self.grid.view != ALL
        self._show_words(f"{first} · {second}" + (f" · {rest[0]}" if one and rest else ""))

    def _show_words(self, text: str) -> None:
        metrics = QFontMetrics(self._words.font())
        self._words.setText(metrics.elidedText(text, Qt.TextElideMode.ElideRight, max(120, self.width())))
        self._words.setToolTip(text)
