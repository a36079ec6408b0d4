"""The files of a model on the hub as what they are together: quants, shards, with what each would need in memory."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QRectF, Qt
from PySide6.QtGui import QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTreeView,
    QWidget,
)

from app import hardware
from app.hub.fitting import BITS
from app.hub.messages import FileGroup, Repository
from app.ui import format as fmt
from app.ui.find_results import ROLES
from app.ui.theme import Theme
from app.ui.widgets import badge_size, paint_badge, tip, type_words

_Index = QModelIndex | QPersistentModelIndex
TYPE, NAME, SIZE, NEEDS, FITS = range(5)
BADGE_ROLE = int(Qt.ItemDataRole.UserRole) + 1
WANTED = ("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q6_K", "Q8_0")
"""Types in the order in which one of them is chosen at first, if it fits."""

NARROW = 520


class GroupModel(QAbstractTableModel):
    """One row a group."""

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._repository: Repository | None = None
        self.groups: tuple[FileGroup, ...] = ()

    def show(self, repository: Repository | None) -> None:
        """The groups of another model."""
        self.beginResetModel()
        self._repository = repository
        self.groups = repository.groups if repository is not None else ()
        self.endResetModel()

    def best(self) -> int:
        """The row to begin with: a usual type that fits, else the largest that fits, else the first; -1 for none."""
        good = [n for n, group in enumerate(self.groups) if group.fits == "good" and group.kind == "gguf"]
        for wanted in WANTED:
            if found := [n for n in good if self.groups[n].type == wanted]:
                return found[0]
        ranked = good or [n for n, group in enumerate(self.groups) if group.fits in ("good", "tight")]
        return max(ranked, key=lambda n: self.groups[n].bytes) if ranked else 0 if self.groups else -1

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.groups)

    def columnCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else 5

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            titles = (self.tr("Type"), self.tr("Files"), self.tr("Size"), self.tr("Needs"), self.tr("Fits?"))
            return titles[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(_side(section) | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ToolTipRole and section in (NEEDS, FITS):
            return self.tr("Memory for weights, the cache of 8,192 tokens and computing, against what is free now")
        return None

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        group, column = self.groups[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(group, column)
        if role == BADGE_ROLE:
            return group.type if column == TYPE else ""
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(_side(column) | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.FontRole:
            return self._theme.mono(12) if column in (SIZE, NEEDS) else self._theme.font(13)
        if role == Qt.ItemDataRole.ForegroundRole:
            if group.missing and column in (NAME, FITS):
                return self._theme.color("bad")
            if column == FITS and group.fits:
                return self._theme.color(ROLES[group.fits])
            return self._theme.color("muted") if column == NAME and group.kind == "projector" else None
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(self._tip(group, column) or "") or None
        if role == Qt.ItemDataRole.AccessibleTextRole and column == TYPE:
            parts = (self._text(group, column) for column in range(5))
            return ", ".join(part for part in parts if part)
        return None

    def _text(self, group: FileGroup, column: int) -> str:
        if column == TYPE:
            return group.type or {"projector": "mmproj", "pytorch": "PyTorch"}.get(group.kind, group.kind)
        if column == NAME:
            name = group.name.rpartition("/")[2]
            return name if len(group.files) == 1 else self.tr("{0} ({1} parts)").format(name, len(group.files))
        if column == SIZE:
            return fmt.size(group.bytes)
        if group.missing:
            return self.tr("Incomplete") if column == FITS else fmt.DASH
        if not group.memory:
            return fmt.DASH if column == NEEDS else ""
        if column == NEEDS:
            return f"{'~' if group.estimated else ''}{fmt.size(group.memory)}"
        return {"good": self.tr("Fits"), "tight": self.tr("Just fits"), "no": self.tr("Too large")}.get(group.fits, "")

    def _tip(self, group: FileGroup, column: int) -> str:
        if group.missing:
            return self.tr("{0} parts of it are not in the repository; it cannot be used.").format(group.missing)
        if column == TYPE:
            return type_words(group.type) if group.type else ""
        if column == NAME:
            more = len(group.files) - 12
            lines = [*group.files[:12], *([self.tr("and {0} more").format(more)] if more > 0 else [])]
            return "\n".join(lines)
        if group.kind == "projector":
            return self.tr("The part of the model that sees. Quench does not use it yet.")
        return self.fit_words(group) if group.memory else ""

    def fit_words(self, group: FileGroup) -> str:
        """The sum behind the word."""
        free = fmt.size(hardware.memory_available())
        if group.estimated:
            words = self.tr(
                "About {0} needed, estimated from the size:\n{1} weights + {2} for the cache of 8,192 tokens and "
                "computing\n{3} free now"
            )
            text = words.format(
                fmt.size(group.memory), fmt.size(group.bytes), fmt.size(group.memory - group.bytes), free
            )
        else:
            words = self.tr("{0} needed:\n{1} weights + {2} KV cache (8,192 tokens) + {3} compute buffer\n{4} free now")
            sizes = (group.memory, group.memory - group.cache - group.compute, group.cache, group.compute)
            text = words.format(*map(fmt.size, sizes), free)
        if group.kind in ("safetensors", "pytorch") and self._repository is not None and self._repository.parameters:
            small = self.tr("Converted to Q4_K_M it would be a file of about {0}.")
            text += "\n" + small.format(fmt.size(self._repository.parameters * BITS / 8))
        return text


def _side(column: int) -> Qt.AlignmentFlag:
    return Qt.AlignmentFlag.AlignRight if column in (SIZE, NEEDS) else Qt.AlignmentFlag.AlignLeft


class _Delegate(QStyledItemDelegate):
    """A badge in the type's colour, where the type is known."""

    def __init__(self, theme: Theme, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        kind = str(index.data(BADGE_ROLE) or "")
        self.initStyleOption(option, index)
        if not kind:
            super().paint(painter, option, index)
            return
        option.text = ""
        style = option.widget.style()
        style.drawControl(style.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        wide = badge_size(self._theme, kind).width()
        area = QRectF(option.rect.left() + 8, option.rect.center().y() - 9.5, wide, 20)
        paint_badge(painter, area, kind, self._theme)


class GroupView(QTreeView):
    """The table of a model's groups."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = GroupModel(theme, self)
        self.setModel(self.table)
        self.setItemDelegate(_Delegate(theme, self))
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setAllColumnsShowFocus(True)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setAccessibleName(self.tr("Files of the model"))
        header = self.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(56)
        header.setSectionsMovable(False)
        for column, width in {TYPE: 96, SIZE: 84, NEEDS: 88, FITS: 112}.items():
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            self.setColumnWidth(column, width)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        theme.changed.connect(self.viewport().update)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """A narrow table leaves out what each needs: the sum is in the tooltip of whether it fits."""
        super().resizeEvent(event)
        self.setColumnHidden(NEEDS, self.width() < NARROW)

    def group(self) -> FileGroup | None:
        """The chosen one."""
        index = self.currentIndex()
        return self.table.groups[index.row()] if index.isValid() else None

    def choose(self, row: int) -> None:
        """Choose a row; -1 chooses none."""
        self.setCurrentIndex(self.table.index(row, 0) if row >= 0 else QModelIndex())
