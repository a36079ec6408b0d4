"""The Library page: what is on this machine, whether it fits, how good and how fast it is, and what to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPoint, Qt, QTimer, QUrl
from PySide6.QtGui import (
    QAction,
    QDesktopServices,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDropEvent,
    QGuiApplication,
    QShowEvent,
)
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QPushButton,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)

from app import hardware
from app.local import places
from app.remote import address
from app.remote.address import Server
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.first_start import FirstStartCard, PocketStart
from app.ui.inspect import InspectDialog
from app.ui.library_disk import DiskPanel
from app.ui.library_filler import Filler, Filling
from app.ui.library_keeper import Keeper
from app.ui.library_rows import Room, Row, make_rows, measured
from app.ui.library_table import LibraryTable, arranged
from app.ui.library_view import make_action, make_bar, make_view
from app.ui.server_dialog import ServerDialog
from app.ui.servers import KIND
from app.ui.similarity import SimilarityDialog
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ProgressLine, button, drop_paths, icon_button, label

REFRESH_MS = 100
AT_ONCE = 300
"""Models whose rows are made between two events without anybody noticing."""
CHATTING = frozenset({"gguf", KIND})
LONG = 1000
"""A list of more models has its groups closed at first."""


class LibraryPage(QWidget):
    """Requests: ``{"add": path}`` takes a folder or file in and selects it."""

    key = "library"
    title = "Library"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._wanted: str | None = None
        self._collapsed: set[str] = set()
        self._opened: set[str] = set()
        self._expanding = False
        self.setAcceptDrops(True)
        self.table = LibraryTable(context.theme, self)
        self.pocket = PocketStart(context)
        self.pocket.ready.connect(lambda path: context.navigate.emit("chat", {"model": path}))
        self.first = FirstStartCard(context)
        self.error = ErrorCard()
        self.scanning = ProgressLine()
        self.scanning.set_cancellable(False)
        self.view = make_view(context.theme, self.table)
        self.empty = EmptyState(
            "library",
            self.tr("No models yet"),
            self.tr("Drop a model folder or a .gguf file here, or open one."),
            [(self.tr("Open a GGUF file"), self.open_file), (self.tr("Open a folder"), self.open_folder)],
            theme=context.theme,
        )
        self.nothing = EmptyState("search", self.tr("Nothing matches the filter"), theme=context.theme)
        self._stack = QStackedLayout()
        self.disk = DiskPanel(context.theme)
        self.keeper = Keeper(context, self)
        self.disk.delete_asked.connect(self.keeper.delete)
        self.disk.verify_asked.connect(self.keeper.verify)
        for part in (self.view, self.empty, self.nothing, self.disk):
            self._stack.addWidget(part)
        self.actions_by_name = self._make_actions()
        bar, self._bar_buttons = make_bar(self.actions_by_name)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 12)
        layout.setSpacing(12)
        layout.addLayout(self._make_head())
        layout.addWidget(self.first)
        layout.addWidget(self.pocket)
        layout.addWidget(self.error)
        layout.addWidget(self.scanning)
        layout.addLayout(bar)
        layout.addLayout(self._stack, 1)
        layout.addWidget(self._make_detail())
        self._drop = label(self.tr("Drop to add to the library"), "heading", parent=self)
        self._drop_frame = QFrame(self)
        set_role(self._drop_frame, "drop")
        self._drop.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._drop_frame.hide()
        self._drop.hide()
        self._soon = QTimer(self, singleShot=True, interval=REFRESH_MS)
        self._soon.timeout.connect(self._refresh_soon)
        self._filler = Filler(self)
        self._filler.filled.connect(self._show_rows)
        context.closing.connect(self._filler.close)
        self._connect()
        self.refresh()

    def receive(self, request: dict[str, Any]) -> None:
        """``{"add": path}``."""
        if request.get("add"):
            self.add(str(request["add"]))

    def help_text(self) -> str:
        return self.tr(
            "Every model that Quench knows on this machine: files it made, the Hugging Face cache, and folders that "
            "you opened. Models made from the same original stand together. **Fits?** compares weights, KV cache and "
            "compute buffer with the memory that is free now; hold the mouse over it for the sum. **KLD** and "
            "**Tokens/s** are measured on this machine: choose *Measure* to fill them in.\n\nDouble-click a GGUF file "
            "to chat with it, a model folder to convert it. Drop files and folders anywhere on this page.\n\n"
            "*Add*, *Server…* lists the models of a server with OpenAI's form of the API (llama-server, vLLM, Ollama, "
            "TGI). They chat and take part in Compare; what is written there leaves this machine if the server is "
            "elsewhere. The address is in their status line, its key in the system's keyring."
        )

    # ---- what the person does ----------------------------------------------------------------------------------

    def add(self, path: str) -> None:
        """Take a path into the library and select it when it is there."""
        self._wanted = str(Path(path).expanduser().absolute())
        self._context.library.add(path)
        self._dismiss()

    def open_file(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, self.tr("Open models"), "", self.tr("GGUF models (*.gguf)"))
        for path in paths:
            self.add(path)

    def open_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, self.tr("Open a model folder"))
        if path:
            self.add(path)

    def open_server(self) -> ServerDialog:
        """Ask for a server whose models are to be listed."""
        return self._server_dialog(None)

    def edit_server(self) -> ServerDialog | None:
        """Change the address, name or key of the selected model's server."""
        chosen = next((row for row in self.selected() if row.is_served), None)
        server = address.find(self._context.servers.known, address.split_path(chosen.info.path)[0]) if chosen else None
        return self._server_dialog(server) if server is not None else None

    def _server_dialog(self, server: Server | None) -> ServerDialog:
        dialog = ServerDialog(self._context, self, server)
        dialog.accepted.connect(self._dismiss)
        dialog.open()
        return dialog

    def find(self) -> None:
        self._context.navigate.emit("find", {})

    def selected(self) -> list[Row]:
        """The selected models; a group stands for all of its models."""
        found: dict[str, Row] = {}
        for index in self.view.selectionModel().selectedRows():
            for row in self.table.rows_at(index):
                found.setdefault(row.info.path, row)
        return list(found.values())

    def select(self, path: str) -> bool:
        """Select a model and scroll to it; False if it is not shown."""
        index = self.table.index_of(path)
        if not index.isValid():
            return False
        flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
        self.view.selectionModel().setCurrentIndex(index, flags)
        self.view.scrollTo(index)
        return True

    def chat(self) -> None:
        rows = [row for row in self.selected() if row.info.kind in CHATTING and not row.makes_vectors]
        if rows:
            self._context.navigate.emit("chat", {"model": rows[0].info.path})

    def convert(self) -> None:
        if rows := self.selected():
            self._context.navigate.emit("convert", {"source": rows[0].info.path})

    def compare(self) -> None:
        reference, others = self._reference_and_others(CHATTING)
        if reference is not None:
            paths = [row.info.path for row in others]
            self._context.navigate.emit("compare", {"reference": reference.info.path, "models": paths})

    def measure(self) -> None:
        reference, others = self._reference_and_others(frozenset({"gguf"}))
        if reference is not None:
            paths = [row.info.path for row in others]
            self._context.navigate.emit("quality", {"reference": reference.info.path, "candidates": paths})

    def bench(self) -> None:
        paths = [row.info.path for row in self.selected() if row.info.kind == "gguf" and not row.makes_vectors]
        if paths:
            self._context.navigate.emit("bench", {"models": paths})

    def inspect(self) -> InspectDialog | None:
        rows = self.selected()
        if not rows:
            return None
        dialog = InspectDialog(self._context, rows[0].info.path, self)
        dialog.show()
        return dialog

    def similarity(self) -> SimilarityDialog | None:
        """What an embeddings model is for: how alike texts are."""
        chosen = next((row for row in self.selected() if row.makes_vectors), None)
        if chosen is None:
            return None
        dialog = SimilarityDialog(self._context, chosen.info.path, self)
        dialog.show()
        return dialog

    def show_in_files(self) -> None:
        for row in self.selected()[:1]:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(Path(row.info.path).parent)))

    def copy_path(self) -> None:
        QGuiApplication.clipboard().setText("\n".join(row.info.path for row in self.selected()))

    def remove(self) -> None:
        """Take the selection off the list; the files stay, and so does the bundled model. A model of a server goes with
        its server."""
        library = self._context.library
        chosen = self.selected()
        self._remove_servers({address.split_path(row.info.path)[0] for row in chosen if row.is_served})
        gone = library.remove(*(row.info.path for row in chosen if not row.is_served))
        if gone:
            one, many = (
                self.tr("1 model is off the list; its files stay."),
                self.tr("{0} models are off the list; their files stay."),
            )
            said = one if len(gone) == 1 else many.format(len(gone))
            self._context.notify.info(said, [(self.tr("Undo"), lambda: library.put_back(*gone))])

    def _remove_servers(self, names: set[str]) -> None:
        for name in sorted(names):
            self._context.servers.remove(name)
            self._context.notify.info(self.tr("{0} is off the list, and its key forgotten.").format(name))

    def _put_back(self) -> None:
        library = self._context.library
        library.put_back(*library.removed)

    def _name_put_back(self) -> None:
        count = len(self._context.library.removed)
        self.put_back_action.setText(self.tr("What was removed from the list ({0})").format(count))
        self.put_back_action.setVisible(count > 0)

    def delete(self) -> None:
        """Move the selection to the wastebasket, after asking."""
        self.keeper.delete([row.info.path for row in self.selected() if not places.holds_bundled(row.info.path)])

    def show_disk(self, shown: bool) -> None:
        """The disk use in place of the list, or the list again."""
        self.disk_button.setChecked(shown)
        if shown:
            self.disk.show_models(self._context.library.models)
        self._show_state()

    # ---- showing -----------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Fill the table from the library and the store; selection and open groups stay."""
        context = self._context
        rows = make_rows(context.library.everything, context.store, context.settings, self.tr)
        view = self.table.view_of()
        self._show_rows(Filling(rows, arranged(rows, *view), view))

    def _refresh_soon(self) -> None:
        """As :meth:`refresh`; a long list is put together beside the window's own work."""
        context = self._context
        models = context.library.everything
        if len(models) <= AT_ONCE:
            self.refresh()
            return
        room = Room(context.settings, hardware.memory_available(), self.tr)
        last = not context.library.scanning
        self._filler.start(models, measured(context.store), room, self.table.view_of(), last=last)

    def _show_rows(self, filling: Filling) -> None:
        context = self._context
        chosen = [row.info.path for row in self.selected()] if self.view.selectionModel() else []
        place = self.view.verticalScrollBar().value()
        self.table.show_arranged(filling.rows, filling.groups, filling.view)
        self._expand()
        self._select_again(chosen)
        self.view.verticalScrollBar().setValue(place)
        if self.disk_button.isChecked():
            self.disk.show_models(context.library.models)
        if self._wanted and self.select(self._wanted):
            self._wanted = None
        self._show_state()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._soon.start()  # memory and measurements may have changed meanwhile

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if drop_paths(event):
            event.acceptProposedAction()
            for part in (self._drop_frame, self._drop):
                part.setGeometry(self.rect().adjusted(8, 8, -8, -8))
                part.raise_()
                part.show()

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._hide_drop()

    def dropEvent(self, event: QDropEvent) -> None:
        self._hide_drop()
        for path in drop_paths(event):
            self.add(path)
        event.acceptProposedAction()

    def _hide_drop(self) -> None:
        self._drop.hide()
        self._drop_frame.hide()

    def _show_state(self) -> None:
        library, settings = self._context.library, self._context.settings
        if library.error is None:
            self.error.clear()
        elif library.error is not self.error.error:
            self.error.show_error(library.error, [(self.tr("Look again"), library.rescan)])
        count, shown = len(library.everything), len(self.table.shown())
        one, many = self.tr("1 model"), self.tr("{0} models")
        self._count.setText("" if not count else one if count == 1 else many.format(count))
        self.first.setVisible(settings.first_start)
        for part in self.empty.buttons:
            part.setVisible(not settings.first_start)  # the card above has the same
        self.scanning.setVisible(library.scanning)
        self.scanning.set_progress(None, self.tr("Looking for models"))
        on_disk = self.disk_button.isChecked() and count > 0
        self._stack.setCurrentWidget(
            self.disk if on_disk else self.view if shown else self.nothing if count else self.empty
        )
        for tool in self._bar_buttons.values():
            tool.setVisible(count > 0 and not on_disk)
        self.filter.setEnabled(not on_disk)
        self.disk_button.setEnabled(count > 0)
        self._selection_changed()

    def _selection_changed(self) -> None:
        rows = self.selected()
        usable = [row for row in rows if not row.is_broken]
        files = [row for row in usable if row.info.kind == "gguf" and not row.makes_vectors]
        local = [row for row in rows if not row.is_served]
        answering = [row for row in usable if row.info.kind in CHATTING and not row.makes_vectors]
        allowed = {
            "chat": len(answering) > 0 and len(rows) == 1,
            "convert": len(usable) == 1 and len(local) == 1,
            "compare": len(answering) >= 1,
            "measure": len(files) >= 1,
            "bench": len(files) >= 1,
            "similarity": len(rows) == 1 and not rows[0].is_broken and rows[0].makes_vectors,
            "inspect": len(usable) == 1 and len(local) == 1,
            "show": len(rows) == 1 and len(local) == 1,
            "path": len(rows) >= 1,
            "server": len(rows) == 1 and not local,
            "remove": any(not places.is_bundled(row.info.path) for row in rows),
            "delete": any(not places.holds_bundled(row.info.path) for row in local),
        }
        for name, action in self.actions_by_name.items():
            action.setEnabled(allowed[name])
        # What hardly any model can do takes no room but beside one that can.
        self._bar_buttons["similarity"].setVisible(allowed["similarity"] and not self.disk_button.isChecked())
        self._show_detail(rows)

    def _show_detail(self, rows: list[Row]) -> None:
        self._detail.setVisible(bool(rows) and not self.disk_button.isChecked())
        if not rows:
            return
        row = rows[0]
        if len(rows) > 1:
            self._facts.setText(self.tr("{0} models selected").format(len(rows)))
            self._facts.setToolTip("")
            set_role(self._facts, "muted")
            self._path.setText("")
            return
        self._path.setText(fmt.path(row.info.path))
        if row.is_broken:
            self._facts.setText(row.info.problems[0])
            set_role(self._facts, "warn" if row.is_partial else "bad")
            return
        set_role(self._facts, "muted")
        if row.is_served:
            self._show_served(row)
            return
        kind = self.tr("makes vectors, does not write") if row.makes_vectors else ""
        facts = [row.info.architecture, kind, self.tr("{0} layers").format(row.info.layers)]
        facts.append(self.tr("trained for a context of {0} tokens").format(fmt.number(row.info.context_length)))
        if row.fit is not None:
            facts.append(row.fit.why.splitlines()[1])
        if row.owner:
            facts.insert(0, self.tr("In {0}'s folder").format(row.owner))
        if row.copies:
            facts.insert(0, self.tr("The same as {0}").format(fmt.path(row.copies[0])))
        self._facts.setText(" · ".join(fact for fact in facts if fact))

    def _show_served(self, row: Row) -> None:
        software = str(row.info.metadata.get("software", ""))
        context = self.tr("a context of {0} tokens").format(fmt.number(row.info.context_length))
        what = self.tr("Served by {0}").format(software) if software else self.tr("Not asked yet")
        self._facts.setText(" · ".join([what, context] if row.info.context_length else [what]))
        self._path.setText(str(row.info.metadata.get("url", "")))

    def _expand(self) -> None:
        """Groups are open unless closed by hand; in a long list they are closed unless opened by hand."""
        is_long = len(self.table.shown()) > LONG
        self._expanding = True
        for number in self.table.group_lines():
            index = self.table.index(number, 0)
            name = str(index.data()).lower()
            if name in self._opened if is_long else name not in self._collapsed:
                self.view.setExpanded(index, True)
        self._expanding = False

    def _opened_or_closed(self, index: QModelIndex, is_open: bool) -> None:
        if not self._expanding:
            name = str(index.data()).lower()
            (self._opened.add if is_open else self._opened.discard)(name)
            (self._collapsed.discard if is_open else self._collapsed.add)(name)

    def _select_again(self, paths: list[str]) -> None:
        selection = self.view.selectionModel()
        for path in paths:
            index = self.table.index_of(path)
            if index.isValid():
                flags = QItemSelectionModel.SelectionFlag.Select | QItemSelectionModel.SelectionFlag.Rows
                selection.select(index, flags)

    def _reference_and_others(self, kinds: frozenset[str]) -> tuple[Row | None, list[Row]]:
        """Of the selected files the most precise one is the reference; with one file its own group has it."""
        rows = [
            row for row in self.selected() if row.info.kind in kinds and not row.is_broken and not row.makes_vectors
        ]
        if len(rows) == 1 and not rows[0].is_served:
            family = [row for row in self.table.shown() if row.base.lower() == rows[0].base.lower()]
            rows += [row for row in family if row.info.kind == "gguf" and not row.is_broken and row not in rows]
            best = max(rows, key=lambda row: row.info.bytes)
            return best, [rows[0]] if rows[0] is not best else []
        rows.sort(key=lambda row: -row.info.bytes)
        return (rows[0], rows[1:]) if rows else (None, [])

    def _dismiss(self) -> None:
        self._context.update_settings(first_start=False)

    def _activated(self, index: QModelIndex) -> None:
        rows = self.table.rows_at(index)
        if len(rows) != 1 or rows[0].is_broken:
            return
        if rows[0].makes_vectors:
            self.similarity()
            return
        page, name = ("chat", "model") if rows[0].info.kind in CHATTING else ("convert", "source")
        self._context.navigate.emit(page, {name: rows[0].info.path})

    def _menu(self, where: QPoint) -> None:
        if not self.selected():
            return
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for name, action in self.actions_by_name.items():
            if name in ("inspect", "remove"):
                menu.addSeparator()
            menu.addAction(action)
        menu.popup(self.view.viewport().mapToGlobal(where))

    # ---- parts -------------------------------------------------------------------------------------------------

    def _make_actions(self) -> dict[str, QAction]:
        table = (
            ("chat", self.tr("Chat"), self.chat, "chat", ""),
            ("convert", self.tr("Convert"), self.convert, "convert", ""),
            ("compare", self.tr("Compare"), self.compare, "compare", ""),
            ("measure", self.tr("Measure"), self.measure, "quality", ""),
            ("bench", self.tr("Bench"), self.bench, "bench", ""),
            ("similarity", self.tr("Similarity"), self.similarity, "compare", ""),
            ("inspect", self.tr("Inspect"), self.inspect, "inspect", "Ctrl+I"),
            ("show", self.tr("Show in files"), self.show_in_files, "folder", ""),
            ("path", self.tr("Copy path"), self.copy_path, "copy", "Ctrl+C"),
            ("server", self.tr("Server…"), self.edit_server, "settings", ""),
            ("remove", self.tr("Remove from the list"), self.remove, "close", ""),
            ("delete", self.tr("Delete…"), self.delete, "trash", "Del"),
        )
        theme = self._context.theme
        return {name: make_action((theme, icon), self.view, text, run, keys) for name, text, run, icon, keys in table}

    def _make_head(self) -> QHBoxLayout:
        self._count = label("", "muted")
        self.filter = QLineEdit()
        self.filter.setPlaceholderText(self.tr("Filter"))
        self.filter.setAccessibleName(self.tr("Filter models"))
        self.filter.setClearButtonEnabled(True)
        self.filter.setMaximumWidth(280)
        self.filter.textChanged.connect(self._filter)
        add = QPushButton(self.tr("Add"))
        add.setAccessibleName(self.tr("Add models"))
        set_role(add, "primary")
        self._context.theme.set_icon(add, "add", "on_accent")
        menu = QMenu(add)
        menu.addAction(self.tr("GGUF file…"), self.open_file)
        menu.addAction(self.tr("Model folder…"), self.open_folder)
        menu.addAction(self.tr("Server…"), self.open_server)
        menu.addSeparator()
        self.put_back_action = menu.addAction("", self._put_back)
        menu.aboutToShow.connect(self._name_put_back)
        add.clicked.connect(lambda checked=False: menu.popup(add.mapToGlobal(add.rect().bottomLeft())))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(label(self.tr("Library"), "title"))
        row.addWidget(self._count)
        row.addStretch(1)
        row.addWidget(self.filter, 2)
        self.disk_button = button(self.tr("Disk use"))
        self.disk_button.setCheckable(True)
        self.disk_button.clicked.connect(self.show_disk)
        row.addWidget(self.disk_button)
        row.addWidget(button(self.tr("Find models"), self.find))
        again = self.tr("Look for models again")
        row.addWidget(icon_button(self._context.theme, "retry", again, self._context.library.rescan))
        row.addWidget(add)
        return row

    def _make_detail(self) -> QWidget:
        self._detail = QWidget()
        self._facts = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self._path = ElidedLabel()
        set_role(self._path, "small")
        column = QVBoxLayout(self._detail)
        column.setContentsMargins(2, 0, 2, 0)
        column.setSpacing(2)
        column.addWidget(self._facts)
        column.addWidget(self._path)
        return self._detail

    def _connect(self) -> None:
        context = self._context
        context.library.changed.connect(self._soon.start)
        context.settings_changed.connect(self._soon.start)
        context.jobs.finished.connect(self._soon.start)
        self.first.pocket.connect(self.pocket.start)
        self.first.find_model.connect(self.find)
        self.first.open_file.connect(self.open_file)
        self.first.open_folder.connect(self.open_folder)
        self.first.dismissed.connect(self._dismiss)
        self.view.selectionModel().selectionChanged.connect(self._selection_changed)
        self.view.activated.connect(self._activated)
        self.view.customContextMenuRequested.connect(self._menu)
        self.view.collapsed.connect(lambda index: self._opened_or_closed(index, False))
        self.view.expanded.connect(lambda index: self._opened_or_closed(index, True))

    def _filter(self, text: str) -> None:
        self.table.set_filter(text)
        self._expand()
        self._show_state()
