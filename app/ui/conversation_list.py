"""The conversations at the left of the Chat page: found, renamed, pinned, saved, read back and deleted here."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, NamedTuple

from PySide6.QtCore import QAbstractListModel, QItemSelectionModel, QModelIndex, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QDragEnterEvent, QDropEvent, QKeySequence, QShortcut
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

from app.exchange import as_json, as_markdown, read_file
from app.files import write_atomically
from app.store import Conversation, Hit
from app.ui.context import Context
from app.ui.hit_delegate import HIT, HitDelegate
from app.ui.undo import UndoStack
from app.ui.widgets import drop_paths, icon_button, label, tip
from converter.spec import QuenchError

SEARCH_MS = 150
ID = Qt.ItemDataRole.UserRole


class Row(NamedTuple):
    """A line of the list: a conversation, or with ``hit`` a message in it that a search has found."""

    conversation: Conversation
    hit: Hit | None = None

    @property
    def id(self) -> int:
        return self.conversation.id

    @property
    def title(self) -> str:
        return self.conversation.title


class _Model(QAbstractListModel):
    """Rows of the store; editing a row renames it."""

    renamed = Signal(int, str)

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self.rows: list[Row] = []

    def fill(self, rows: list[Row]) -> None:
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: Any = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.rows)

    def data(self, index: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        row = self.rows[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            return row.title
        if role == HIT:
            return row.hit
        if role == Qt.ItemDataRole.DecorationRole and row.conversation.pinned:
            return self._context.theme.icon("pin", "muted")
        if role == ID:
            return row.id
        if role == Qt.ItemDataRole.ToolTipRole:
            when = datetime.datetime.fromtimestamp(row.conversation.updated).strftime("%x %H:%M")
            return tip(f"{row.title}\n{Path(row.conversation.model_path).name}\n{when}")
        if role == Qt.ItemDataRole.AccessibleTextRole:
            title = self.tr("{0}, pinned").format(row.title) if row.conversation.pinned else row.title
            return f"{title}: {''.join(text for text, _ in row.hit.parts)}" if row.hit else title
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
    """``chosen(id)`` when the person goes to a conversation, ``found(id, message, words)`` to a message of one,
    ``new_wanted``, ``gone(id)`` after a deletion."""

    chosen = Signal(int)
    found = Signal(int, int, str)
    new_wanted = Signal()
    gone = Signal(int)
    renamed = Signal(int)

    def __init__(self, context: Context, undo: UndoStack, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._undo = undo
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
        self.view.setItemDelegate(HitDelegate(context.theme, self.view))
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
        top.addWidget(icon_button(context.theme, "folder", self.tr("Read a saved conversation"), self._ask_import))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(8)
        layout.addLayout(top)
        layout.addWidget(self._none)
        layout.addWidget(self.view, 1)
        self.setMinimumWidth(180)
        QShortcut(QKeySequence(Qt.Key.Key_Delete), self.view, self._delete_selected,
                  context=Qt.ShortcutContext.WidgetShortcut)  # fmt: skip
        QShortcut(QKeySequence.StandardKey.Undo, self.view, undo.undo, context=Qt.ShortcutContext.WidgetShortcut)
        self.setAcceptDrops(True)
        self.refresh()

    def refresh(self) -> None:
        """Read the list again; the selection stays."""
        words = self.search.text().strip()
        rows = self._rows(words)
        if rows != self.model.rows:
            self.model.fill(rows)
        self._none.setText(self.tr("Nothing found.") if words else self.tr("Your conversations will be listed here."))
        self._none.setVisible(not rows)
        self.view.setVisible(bool(rows))
        self.select(self._current)

    def select(self, conversation: int | None) -> None:
        """Mark a conversation as the one that is shown."""
        self._current = conversation
        now = self.view.currentIndex()
        if (
            now.isValid()
            and self.model.rows[now.row()].id == conversation
            and self.view.selectionModel().hasSelection()
        ):
            return  # of several hits in one conversation the one that was opened stays marked
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
        self._undo.offer(self.tr("Deleted: {0}").format(title), lambda: self._undelete(conversation))

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

    def read(self, path: str) -> None:
        """Take a saved conversation in and open it; one that is none is a notice, and nothing is kept of it."""
        try:
            found = read_file(Path(path))
        except QuenchError as error:
            self._context.notify.error(error)
            return
        made = self._store.add_conversation(found.title, found.model_path, found.system, found.messages, found.head)
        self.search.clear()
        self.refresh()
        self.chosen.emit(made.id)

    # ---- inside

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(_is_saved(path) for path in drop_paths(event)):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        for path in drop_paths(event):
            if _is_saved(path):
                self.read(path)

    def _rows(self, words: str) -> list[Row]:
        """Without words all conversations; with words those with them in the title, then the messages with them."""
        listed = self._store.conversations(words)
        if not words:
            return [Row(each) for each in listed]
        known = {each.id: each for each in listed}
        hits = [Row(known[hit.conversation], hit) for hit in self._store.search(words) if hit.conversation in known]
        found = {row.id for row in hits}
        low = words.casefold()
        titles = [Row(each) for each in listed if low in each.title.casefold() or each.id not in found]
        return titles + hits

    def _open(self, index: Any) -> None:
        row = self.model.rows[index.row()]
        self._current = row.id
        if row.hit is not None:
            self.found.emit(row.id, row.hit.message, self.search.text().strip())
        else:
            self.chosen.emit(row.id)

    def _ask_import(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Read a saved conversation"), "", "*.json *.md")
        if path:
            self.read(path)

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
        menu = self.menu_for(self.model.rows[index.row()].conversation)
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
        if self._undo.name():
            table.append((self.tr("Undo: {0}").format(self._undo.name()), "retry", self._undo.undo))
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


def _is_saved(path: str) -> bool:
    return path.lower().endswith((".json", ".md"))
