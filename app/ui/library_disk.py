"""Disk use: what each family of models takes up, what could go and why, and the way to the wastebasket."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QSplitter,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from app.local import disk
from app.local.disk import FamilyUse, Removable
from app.local.entry import Listed
from app.ui import format as fmt
from app.ui.theme import Theme
from app.ui.widgets import button, label, tip

BAR_WIDTH = 72
SHOWN = 300
"""Lines of a list at most: it is sorted by size, and the rest is small."""
_SHARE_ROLE = int(Qt.ItemDataRole.UserRole) + 1
_PATH_ROLE = int(Qt.ItemDataRole.UserRole)


class DiskPanel(QWidget):
    """``show_models`` fills it. ``delete_asked`` carries the paths of the ticked models, ``verify_asked`` nothing."""

    delete_asked = Signal(list)
    verify_asked = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._could: list[Removable] = []
        self._total = ""
        self._sum = label("", "muted", wrap=True)
        self.families = self._tree(
            [self.tr("Family"), self.tr("Models"), self.tr("Size"), ""], self.tr("Disk use by family")
        )
        self.families.setItemDelegateForColumn(3, _ShareDelegate(theme, self))
        self.families.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.could = self._tree([self.tr("Model"), self.tr("Frees"), self.tr("Why")], self.tr("What can go"))
        self.could.itemChanged.connect(self._ticked)
        self.nothing = label(self.tr("Nothing here is superfluous."), "muted")
        self.delete = button(self.tr("Move to the wastebasket…"), self._delete, "primary")
        self.verify = button(self.tr("Verify all"), self.verify_asked.emit)
        self.verify.setToolTip(
            self.tr("Read every file whole and compare it with the checksum that is known of it. This takes a while.")
        )
        split = QSplitter(Qt.Orientation.Horizontal)
        split.setChildrenCollapsible(False)
        split.addWidget(self._side(self.tr("By family"), [self.families]))
        split.addWidget(self._side(self.tr("What can go"), [self.nothing, self.could]))
        split.widget(0).layout().setContentsMargins(0, 0, 8, 0)
        split.widget(1).layout().setContentsMargins(8, 0, 0, 0)
        split.setSizes([420, 620])
        bottom = QHBoxLayout()
        bottom.setSpacing(8)
        bottom.addWidget(self._sum, 1)
        bottom.addWidget(self.verify)
        bottom.addWidget(self.delete)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(12)
        layout.addWidget(split, 1)
        layout.addLayout(bottom)
        theme.changed.connect(self.families.viewport().update)

    def show_models(self, models: list[Listed]) -> None:
        """Work out and show what ``models`` take up; ticks stay."""
        uses, could = disk.use_by_family(models), disk.removable(models)
        self._could = could
        ticked = set(self.ticked())
        self._fill_families(uses)
        self.could.blockSignals(True)
        self.could.clear()
        titles = {listed.path: listed.title or Path(listed.path).name for listed in models}
        for each in could[:SHOWN]:
            item = QTreeWidgetItem([titles.get(each.path, each.path), fmt.size(each.bytes), self._why(each, titles)])
            item.setData(0, _PATH_ROLE, each.path)
            item.setCheckState(0, Qt.CheckState.Checked if each.path in ticked else Qt.CheckState.Unchecked)
            item.setToolTip(0, tip(each.path))
            item.setToolTip(2, tip(item.text(2) + (f"\n{each.kept}" if each.kept else "")))
            item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            item.setFont(1, self._theme.mono(13))
            self.could.addTopLevelItem(item)
        self.could.blockSignals(False)
        self.nothing.setVisible(not could)
        self.could.setVisible(bool(could))
        self._ticked()

    def ticked(self) -> list[str]:
        """Paths of the models that are ticked to go."""
        items = [self.could.topLevelItem(number) for number in range(self.could.topLevelItemCount())]
        return [
            str(item.data(0, _PATH_ROLE))
            for item in items
            if item is not None and item.checkState(0) == Qt.CheckState.Checked
        ]

    def _fill_families(self, uses: list[FamilyUse]) -> None:
        self.families.clear()
        largest = max((use.bytes for use in uses), default=0) or 1
        for use in uses[:SHOWN]:
            item = QTreeWidgetItem([use.name, fmt.number(use.models), fmt.size(use.bytes), ""])
            item.setToolTip(0, tip(use.name))
            item.setData(3, _SHARE_ROLE, use.bytes / largest)
            for column in (1, 2):
                item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                item.setFont(column, self._theme.mono(13))
            self.families.addTopLevelItem(item)
        total = sum(use.bytes for use in uses)
        self._total = self.tr("{0} on disk").format(fmt.size(total))

    def _why(self, each: Removable, titles: dict[str, str]) -> str:
        kept = titles.get(each.kept, each.kept)
        return {
            disk.DUPLICATE: self.tr("The same as {0}").format(kept),
            disk.LEFTOVER: self.tr("Left over: not whole"),
            disk.SOURCE: self.tr("Original of {0}: needed to convert again").format(kept),
            disk.REVISION: self.tr("An old revision that no branch names"),
        }[each.reason]

    def _ticked(self) -> None:
        chosen = set(self.ticked())
        self.delete.setEnabled(bool(chosen))
        size = sum(each.bytes for each in self._could if each.path in chosen)
        words = [self._total]
        if self._could:
            words.append(
                self.tr("{0} ticked to go").format(fmt.size(size)) if chosen else self.tr("tick what should go")
            )
        self._sum.setText(" · ".join(words))

    def _delete(self) -> None:
        self.delete_asked.emit(self.ticked())

    def _side(self, title: str, parts: list[QWidget]) -> QWidget:
        side = QWidget()
        column = QVBoxLayout(side)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addWidget(label(title, "heading"))
        for part in parts:
            column.addWidget(part, 1 if isinstance(part, QTreeWidget) else 0)
        if len(parts) > 1:
            column.addStretch(0)
        return side

    @staticmethod
    def _tree(titles: list[str], name: str) -> QTreeWidget:
        tree = QTreeWidget()
        tree.setHeaderLabels(titles)
        tree.setAccessibleName(name)
        tree.setRootIsDecorated(False)
        tree.setUniformRowHeights(True)
        tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = tree.header()
        header.setStretchLastSection(False)
        tree.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in range(1, len(titles)):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
            if titles[column] and column < 3 and column != len(titles) - 1:  # numbers
                tree.headerItem().setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if titles[-1]:
            header.setSectionResizeMode(len(titles) - 1, QHeaderView.ResizeMode.Stretch)
        else:  # the bars
            header.setSectionResizeMode(len(titles) - 1, QHeaderView.ResizeMode.Fixed)
            header.resizeSection(len(titles) - 1, BAR_WIDTH)
        return tree


class _ShareDelegate(QStyledItemDelegate):
    """A bar: how much of the largest family's size this one has."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        share = float(index.data(_SHARE_ROLE) or 0.0)
        area = QRectF(option.rect).adjusted(8, 0, -8, 0)
        painter.fillRect(
            QRectF(area.left(), area.center().y() - 4, max(2.0, area.width() * share), 8),
            QColor(self._theme.color("accent")),
        )
