"""A list of the library's models with a tick each: candidates of a measurement, models of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent, QShowEvent
from PySide6.QtWidgets import QFileDialog, QHeaderView, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from app import library
from app.ui import format as fmt
from app.ui.convert_recipes import TYPE_ROLE, BadgeDelegate
from app.ui.servers import KIND, title_of_served
from app.ui.widgets import button, label, tip

if TYPE_CHECKING:
    from app.ui.context import Context
    from converter.spec import ModelInfo

NAME, TYPE, SIZE = range(3)
QWIDGETSIZE_MAX = (1 << 24) - 1
PATH_ROLE = Qt.ItemDataRole.UserRole + 1


class _Tree(QTreeWidget):
    """A click anywhere on a row or the space bar turns its tick."""

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        item = self.itemAt(event.position().toPoint())
        if item is None or event.button() != Qt.MouseButton.LeftButton:
            super().mouseReleaseEvent(event)
            return
        self.setCurrentItem(item)
        self._turn(item)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and self.currentItem() is not None:
            self._turn(self.currentItem())
        else:
            super().keyPressEvent(event)

    @staticmethod
    def _turn(item: QTreeWidgetItem) -> None:
        on = item.checkState(NAME) == Qt.CheckState.Checked
        item.setCheckState(NAME, Qt.CheckState.Unchecked if on else Qt.CheckState.Checked)


class ModelChecks(QWidget):
    """Ticks survive a change of the library. ``changed`` when the ticked paths changed.

    GGUF files, and with ``served`` the models of servers too.
    """

    changed = Signal()

    def __init__(self, context: Context, name: str, parent: QWidget | None = None, *, served: bool = False) -> None:
        super().__init__(parent)
        self._kinds = {"gguf", KIND} if served else {"gguf"}
        self._context = context
        self._ticked: set[str] = set()
        self._extra: list[str] = []
        self._hidden = ""
        self._stale = False
        self.tree = _Tree()
        self.tree.setColumnCount(3)
        self.tree.setHeaderHidden(True)
        self.tree.setRootIsDecorated(False)
        self.tree.setUniformRowHeights(True)
        self.tree.setAccessibleName(name)
        self.tree.setItemDelegateForColumn(TYPE, BadgeDelegate(context.theme, self.tree))
        self.tree.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.tree.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(20)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(TYPE, QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(SIZE, QHeaderView.ResizeMode.ResizeToContents)
        self.tree.setMinimumHeight(96)
        self.tree.itemChanged.connect(self._on_item)
        self.empty = label(self.tr("No GGUF files in the library yet."), "muted", wrap=True)
        self.add_button = button(self.tr("Add files…"), self._ask, "quiet")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.tree, 1)
        layout.addWidget(self.empty, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.add_button, 0, Qt.AlignmentFlag.AlignLeft)
        context.library.changed.connect(self._on_library)
        if served:
            context.servers.changed.connect(self._on_library)
        context.theme.changed.connect(self.tree.viewport().update)
        self.refill()

    def checked(self) -> list[str]:
        """Ticked paths in the list's order."""
        return [path for path in self.paths() if path in self._ticked]

    def paths(self) -> list[str]:
        """All paths in the list."""
        if self._stale:
            self.refill()
        items = (self.tree.topLevelItem(i) for i in range(self.tree.topLevelItemCount()))
        return [str(item.data(NAME, PATH_ROLE)) for item in items if item is not None]

    def set_checked(self, paths: Iterable[str]) -> None:
        """Tick exactly these; ones that the library does not know are listed too."""
        self._ticked = set(paths)
        self._extra = sorted(path for path in self._ticked if self._context.library.entry(path) is None)
        self.refill()
        self.changed.emit()

    def hide_path(self, path: str) -> None:
        """Leave one path out (a reference is no candidate of itself)."""
        if path != self._hidden:
            self._hidden = path
            self.refill()
            self.changed.emit()

    def showEvent(self, event: QShowEvent) -> None:
        if self._stale:
            self.refill()
        super().showEvent(event)

    def _on_library(self) -> None:
        """A library of thousands changes many times while it is read: what nobody sees can wait."""
        self._stale = not self.isVisible()
        if not self._stale:
            self.refill()

    def refill(self) -> None:
        self._stale = False
        usable = self._context.library.usable(self._kinds)
        entries = [(info.path, info) for info in usable if info.kind != KIND or info.name]
        known = {path for path, _ in entries}
        rows: list[tuple[str, ModelInfo | None]] = [*entries, *((p, None) for p in self._extra if p not in known)]
        rows = [row for row in rows if row[0] != self._hidden]
        self.tree.blockSignals(True)
        self.tree.clear()
        for path, info in rows:
            item = self._item(path, info)
            self.tree.addTopLevelItem(item)
            item.setFirstColumnSpanned(info is not None and info.kind == KIND)  # a served one has neither type nor size
        self.tree.blockSignals(False)
        self.tree.setVisible(bool(rows))
        self.empty.setVisible(not rows)
        self.setMaximumHeight(QWIDGETSIZE_MAX if rows else self.sizeHint().height())

    def _item(self, path: str, info: ModelInfo | None) -> QTreeWidgetItem:
        name, _, kind = library.file_title(path).partition(" · ")
        if info is not None and info.kind == KIND:
            name, kind = title_of_served(info), ""
        elif info is not None:
            name, kind = library.base_name(info), library.type_label(info)
        item = QTreeWidgetItem([name, kind, fmt.size(info.bytes) if info is not None and info.bytes else ""])
        item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(NAME, Qt.CheckState.Checked if path in self._ticked else Qt.CheckState.Unchecked)
        item.setData(NAME, PATH_ROLE, path)
        item.setData(TYPE, TYPE_ROLE, kind)
        item.setFont(SIZE, self._context.theme.mono(12))
        item.setTextAlignment(SIZE, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        item.setToolTip(NAME, tip(path))
        return item

    def _on_item(self, item: QTreeWidgetItem, column: int) -> None:
        if column != NAME:
            return
        path = str(item.data(NAME, PATH_ROLE))
        on = item.checkState(NAME) == Qt.CheckState.Checked
        if on != (path in self._ticked):
            self._ticked ^= {path}
            self.changed.emit()

    def _ask(self, *_: Any) -> None:
        chosen, _kind = QFileDialog.getOpenFileNames(self, self.tr("Add GGUF files"), "", "GGUF (*.gguf)")
        for path in chosen:
            self._context.library.add(path)
        if chosen:
            self._extra += [path for path in chosen if path not in self._extra]
            self._ticked |= set(chosen)
            self.refill()
            self.changed.emit()
