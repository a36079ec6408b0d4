"""The conversations at the left of the Chat page: found, renamed, pinned, saved and deleted here."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QAbstractListModel, QItemSelectionModel, QModelIndex, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QListView,
    QMenu,
    QVBoxLayout,
    QWidget,
)

from app.files import write_atomically
from app.store import Conversation, Store
from app.ui.context import Context
from app.ui.widgets import icon_button, label
from converter.spec import QuenchError

SEARCH_MS = 150
ID = Qt.ItemDataRole.UserRole


def as_markdown(conversation: Conversation, store: Store) -> str:
    """A conversation as a Markdown file."""
    names = {"user": "You", "assistant": "Model", "system": "System"}
    parts = [f"# {conversation.title}", ""]
    if conversation.system:
        parts += ["**System**", "", conversation.system, ""]
    for message in store.messages(conversation.id):
        parts += [f"**{names.get(message.role, message.role)}**", "", message.content, ""]
    return "\n".join(parts)


def as_json(conversation: Conversation, store: Store) -> bytes:
    """A conversation with its figures as JSON."""
    row = msgspec.to_builtins(conversation)
    row["messages"] = [msgspec.to_builtins(message) for message in store.messages(conversation.id)]
    return msgspec.json.format(msgspec.json.encode(row), indent=2)


class _Model(QAbstractListModel):
    """Rows of the store; editing a row renames it."""

    renamed = Signal(int, str)

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self.rows: list[Conversation] = []

    def fill(self, rows: list[Conversation]) -> None:
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: Any = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.rows)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row = self.rows[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return row.title
        if role == Qt.ItemDataRole.DecorationRole and row.pinned:
            return self._context.theme.icon("pin", "muted")
        if role == ID:
            return row.id
        if role == Qt.ItemDataRole.ToolTipRole:
            when = datetime.datetime.fromtimestamp(row.updated).strftime("%x %H:%M")
            return f"{row.title}\n{Path(row.model_path).name}\n{when}"
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return self.tr("{0}, pinned").format(row.title) if row.pinned else row.title
        return None

    def setData(self, index: Any, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        title = str(value).strip()[:200]
        if role != Qt.ItemDataRole.EditRole or not title:
            return False
        self.renamed.emit(self.rows[index.row()].id, title)
        return True

    def flags(self, index: Any) -> Qt.ItemFlag:
        return Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEditable


class ConversationList(QWidget):
    """``chosen(id)`` when the person goes to a conversation, ``new_wanted``, ``gone(id)`` after a deletion."""

    chosen = Signal(int)
    new_wanted = Signal()
    gone = Signal(int)
    renamed = Signal(int)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._store = context.store
        self._current: int | None = None
        self.search = QLineEdit()
        self.search.setPlaceholderText(self.tr("Search"))
        self.search.setAccessibleName(self.tr("Search conversations"))
        self.search.setClearButtonEnabled(True)
        self._delay = QTimer(self, singleShot=True, interval=SEARCH_MS)
        self._delay.timeout.connect(self.refresh)
        self.search.textChanged.connect(lambda text: self._delay.start())
        self.new_button = icon_button(context.theme, "add", self.tr("New chat (Ctrl+N)"), self.new_wanted.emit)
        self.model = _Model(context, self)
        self.model.renamed.connect(self._rename)
        self.view = QListView()
        self.view.setModel(self.model)
        self.view.setAccessibleName(self.tr("Conversations"))
        self.view.setFrameShape(QListView.Shape.NoFrame)
        self.view.setUniformItemSizes(True)
        self.view.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.customContextMenuRequested.connect(self._menu)
        self.view.clicked.connect(self._open)
        self.view.activated.connect(self._open)
        self._none = label("", "muted", wrap=True)
        self._none.setAlignment(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self.search, 1)
        top.addWidget(self.new_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(8)
        layout.addLayout(top)
        layout.addWidget(self._none)
        layout.addWidget(self.view, 1)
        self.setMinimumWidth(180)
        QShortcut(QKeySequence(Qt.Key.Key_Delete), self.view, self._delete_selected,
                  context=Qt.ShortcutContext.WidgetShortcut)  # fmt: skip
        self.refresh()

    def refresh(self) -> None:
        """Read the list again; the selection stays."""
        words = self.search.text().strip()
        rows = self._store.conversations(words)
        if rows != self.model.rows:
            self.model.fill(rows)
        self._none.setText(self.tr("Nothing found.") if words else self.tr("Your conversations will be listed here."))
        self._none.setVisible(not rows)
        self.view.setVisible(bool(rows))
        self.select(self._current)

    def select(self, conversation: int | None) -> None:
        """Mark a conversation as the one that is shown."""
        self._current = conversation
        for row, entry in enumerate(self.model.rows):
            if entry.id == conversation:
                self.view.selectionModel().setCurrentIndex(
                    self.model.index(row), QItemSelectionModel.SelectionFlag.ClearAndSelect
                )
                return
        self.view.clearSelection()

    def delete(self, conversation: int) -> None:
        """Delete, with an undo in the notice."""
        title = self._store.conversation(conversation).title
        self._store.delete(conversation)
        self.refresh()
        self.gone.emit(conversation)
        undo = (self.tr("Undo"), lambda: self._undelete(conversation))
        self._context.notify.info(self.tr("Deleted: {0}").format(title), [undo])

    def _undelete(self, conversation: int) -> None:
        self._store.undelete(conversation)
        self.refresh()
        self.chosen.emit(conversation)

    def pin(self, conversation: int) -> None:
        """Pin, or unpin."""
        self._store.pin(conversation, not self._store.conversation(conversation).pinned)
        self.refresh()

    def export(self, conversation: int, kind: str, path: str) -> None:
        """Write a conversation as ``md`` or ``json``; a failure is a notice."""
        row = self._store.conversation(conversation)
        data = as_json(row, self._store) if kind == "json" else as_markdown(row, self._store).encode()
        try:
            write_atomically(Path(path), data)
        except OSError as error:
            title = self.tr("The conversation could not be saved.")
            hint = self.tr("Choose another folder, or free some disk space.")
            self._context.notify.error(QuenchError("not_saved", title, str(error), hint, exit_status=4))
            return
        self._context.notify.good(self.tr("Saved as {0}").format(Path(path).name))

    # ---- inside

    def _open(self, index: Any) -> None:
        self._current = self.model.rows[index.row()].id
        self.chosen.emit(self._current)

    def _rename(self, conversation: int, title: str) -> None:
        self._store.rename(conversation, title)
        QTimer.singleShot(0, self, self.refresh)  # not while the view's editor still writes into the model
        self.renamed.emit(conversation)

    def _delete_selected(self) -> None:
        index = self.view.currentIndex()
        if index.isValid():
            self.delete(self.model.rows[index.row()].id)

    def _menu(self, point: QPoint) -> None:
        index = self.view.indexAt(point)
        if not index.isValid():
            index = self.view.currentIndex()
        if not index.isValid():
            return
        menu = self.menu_for(self.model.rows[index.row()])
        menu.popup(self.view.viewport().mapToGlobal(point))

    def menu_for(self, row: Conversation) -> QMenu:
        """What can be done with a conversation."""
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        index = next(self.model.index(i) for i, entry in enumerate(self.model.rows) if entry.id == row.id)
        table = [
            (self.tr("Rename"), "edit", lambda: self.view.edit(index)),
            (self.tr("Unpin") if row.pinned else self.tr("Pin"), "pin", lambda: self.pin(row.id)),
            (self.tr("Save as Markdown…"), "save", lambda: self._ask_export(row, "md")),
            (self.tr("Save as JSON…"), "save", lambda: self._ask_export(row, "json")),
            (self.tr("Delete"), "trash", lambda: self.delete(row.id)),
        ]
        for text, icon, run in table:
            made = QAction(self._context.theme.icon(icon), text, menu)
            made.triggered.connect(lambda checked=False, run=run: run())
            menu.addAction(made)
        return menu

    def _ask_export(self, row: Conversation, kind: str) -> None:
        name = "".join(c if c.isalnum() or c in " -_" else "-" for c in row.title).strip()[:60] or "conversation"
        path, _ = QFileDialog.getSaveFileName(self, self.tr("Save the conversation"), f"{name}.{kind}", f"*.{kind}")
        if path:
            self.export(row.id, kind, path)
