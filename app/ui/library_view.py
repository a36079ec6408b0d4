"""The parts that the Library page is put together from: the list, its actions and their buttons."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QAbstractItemView, QHBoxLayout, QHeaderView, QToolButton, QTreeView

from app.ui.library_table import NAME, LibraryDelegate, LibraryTable
from app.ui.theme import Theme

WIDTHS = {1: 96, 2: 104, 3: 88, 4: 120, 5: 80, 6: 88}
IN_BAR = ("chat", "convert", "compare", "measure", "bench", "inspect", "similarity", "delete")


def make_view(theme: Theme, table: LibraryTable) -> QTreeView:
    """The list of models."""
    view = QTreeView()
    view.setModel(table)
    view.setItemDelegate(LibraryDelegate(theme, view))
    view.setAccessibleName(view.tr("Models"))
    view.setUniformRowHeights(True)
    view.setTextElideMode(Qt.TextElideMode.ElideMiddle)
    view.setAllColumnsShowFocus(True)
    view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
    view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
    view.setExpandsOnDoubleClick(False)
    view.setIndentation(16)
    view.setSortingEnabled(True)
    view.sortByColumn(NAME, Qt.SortOrder.AscendingOrder)
    header = view.header()
    header.setStretchLastSection(False)
    header.setSectionsMovable(False)
    header.setMinimumSectionSize(72)
    for column, width in WIDTHS.items():
        header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
        view.setColumnWidth(column, width)
    header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
    return view


def make_action(
    look: tuple[Theme, str], view: QTreeView, text: str, run: Callable[[], object], keys: str = ""
) -> QAction:
    """Something to do with the selected models, with its ``look`` (theme, icon) and its shortcut in the list."""
    action = QAction(text, view)
    action.setIconText(f" {text.rstrip('…')}")  # tool buttons put the icon right against the text
    theme, icon = look
    theme.set_icon(action, icon)
    action.triggered.connect(lambda checked=False: run())
    if keys:
        action.setShortcut(QKeySequence(keys))
        action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
    view.addAction(action)
    return action


def make_bar(actions: dict[str, QAction]) -> tuple[QHBoxLayout, dict[str, QToolButton]]:
    """The row of buttons above the list."""
    row = QHBoxLayout()
    row.setSpacing(4)
    buttons: dict[str, QToolButton] = {}
    for name in IN_BAR:
        made = buttons[name] = QToolButton()
        made.setDefaultAction(actions[name])
        made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        made.setAccessibleName(actions[name].text())
        row.addWidget(made)
    row.addStretch(1)
    return row, buttons
