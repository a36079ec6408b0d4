"""Find models: the Hugging Face hub searched with filters, one model beside the list. A second face of the Library.

Nothing is asked of the network before the page is shown for the first time. What is typed is asked after a pause; a
newer question overtakes an older one.
"""

from __future__ import annotations

from typing import Any

import msgspec
from PySide6.QtCore import QEvent, QModelIndex, QObject, Qt, QTimer
from PySide6.QtGui import QKeyEvent, QShowEvent
from PySide6.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLineEdit,
    QListView,
    QSplitter,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)

from app.hub.access import access
from app.hub.messages import DownloadResult, HubFound, Query
from app.hub.names import parse_repo
from app.jobs import DONE
from app.ui.context import Context
from app.ui.find_details import DetailsPane
from app.ui.find_results import ResultDelegate, ResultsModel
from app.ui.hub_errors import actions_for, can_go_online, go_online, is_offline
from app.ui.job_center import Job
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ProgressLine, button, label
from converter.spec import QuenchError

TYPING_MS = 350
LOOK_MS = 150
"""A model is looked up when the selection stays on it so long: arrow keys pass over many."""
STEP, MOST = 40, 200
"""Results to begin with and at most; "Show more" asks for as many again."""

SORTS = (
    ("trending_score", "Trending"),
    ("downloads", "Most downloads"),
    ("likes", "Most likes"),
    ("last_modified", "Changed last"),
    ("created_at", "Newest"),
)
KINDS = (("", "Any files"), ("gguf", "GGUF"), ("convertible", "Can be converted"))
TASKS = (
    ("", "Any task"),
    ("text-generation", "Text generation"),
    ("image-text-to-text", "Text and pictures"),
    ("text2text-generation", "Text to text"),
    ("translation", "Translation"),
    ("summarization", "Summaries"),
    ("feature-extraction", "Embeddings"),
    ("sentence-similarity", "Sentence similarity"),
)
LICENCES = (
    ("", "Any licence"),
    ("apache-2.0", "Apache 2.0"),
    ("mit", "MIT"),
    ("llama3.1", "Llama 3.1"),
    ("llama3.2", "Llama 3.2"),
    ("llama3.3", "Llama 3.3"),
    ("gemma", "Gemma"),
    ("cc-by-4.0", "CC BY 4.0"),
    ("cc-by-nc-4.0", "CC BY-NC 4.0"),
    ("bsd-3-clause", "BSD 3-clause"),
    ("openrail", "OpenRAIL"),
    ("other", "Other"),
)
ACCESS = ((None, "Gated or not"), (False, "Not gated"), (True, "Gated only"))


class FindPage(QWidget):
    """Requests: ``{"search": text}``, ``{"model": name}``."""

    key = "find"
    title = "Find models"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._request = 0
        self._asked: Query | None = None
        self._begun = False
        self._to_convert: list[Job] = []
        self._soon = QTimer(self, singleShot=True, interval=TYPING_MS)
        self._soon.timeout.connect(self.search)
        self._look = QTimer(self, singleShot=True, interval=LOOK_MS)
        self._look.timeout.connect(self._look_up)
        self.results = ResultsModel(context.theme, self)
        self.details = DetailsPane(context)
        self.details.misspelt.connect(self._spell)
        self.details.convert_when_done.connect(self._to_convert.append)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 12)
        layout.setSpacing(12)
        layout.addLayout(self._make_head())
        layout.addLayout(self._make_filters())
        layout.addWidget(self._make_middle(), 1)
        context.settings_changed.connect(self._settings_changed)
        context.hub.restarted.connect(self._restarted)
        context.jobs.finished.connect(self._job_ended)
        self._show_way()

    def receive(self, request: dict[str, Any]) -> None:
        """``{"search": text}`` or ``{"model": name}``."""
        text = str(request.get("model") or request.get("search") or "")
        if text:
            self.field.setText(text)
            self._entered()

    def help_text(self) -> str:
        return self.tr(
            "Models of the Hugging Face hub. Type a few words, or the whole name of a model (*organization/name*, or "
            "the address of its page) and press Enter. **Fits?** in the list is an estimate for a 4-bit file of the "
            "model; beside each of its files stands what that very file needs; hold the mouse over it for the sum.\n\n"
            "*Download* puts files into the Hugging Face cache, where other programs find them too; every file's "
            "checksum is verified. *Download and convert* fetches only what a conversion reads. Downloads go on in "
            "the jobs drawer, can be paused, and survive a restart.\n\n"
            "Gated models want their licence accepted on the hub, and a token in Settings."
        )

    def escape(self) -> bool:
        """Esc: stop the search, else back to the library."""
        if self.loading.isVisible():
            self.stop()
        else:
            self.back()
        return True

    def back(self) -> None:
        self._context.navigate.emit("library", {})

    # ---- searching ---------------------------------------------------------------------------------------------

    def query(self) -> Query:
        """What the fields ask for."""
        kind = self.kind.currentData()
        return Query(
            text=self.field.text().strip(),
            sort=self.sort.currentData(),
            limit=STEP,
            gguf=kind == "gguf",
            convertible=kind == "convertible",
            fits=self.fits.isChecked(),
            gated=self.gated.currentData(),
            licence=self.licence.currentData(),
            task=self.task.currentData(),
        )

    def search(self, limit: int = STEP) -> None:
        """Ask now; what was asked before and not answered yet is forgotten."""
        self._soon.stop()
        self._context.hub.forget(self._request)
        self.error.clear()
        if is_offline(self._context):
            self._show_offline()
            return
        self._asked = msgspec.structs.replace(self.query(), limit=limit)
        self._more.hide()
        self.loading.set_progress(None, self.tr("Asking {0}").format(self._host()))
        self.loading.show()
        self._request = self._context.hub.search(self._asked, self._found)

    def show_more(self) -> None:
        """Ask for more results of the same question."""
        self.search(min(MOST, self.results.rowCount() + STEP))

    def stop(self) -> None:
        """Give up waiting for the answer; what was found before stays."""
        self._context.hub.forget(self._request)
        self.loading.hide()
        self._show_state()

    def _found(self, answer: HubFound | QuenchError) -> None:
        self.loading.hide()
        if isinstance(answer, QuenchError):
            self.results.set_models(())
            self.error.show_error(answer, actions_for(self._context, self, answer, self.search, self._spell))
            self._stack.setCurrentWidget(self._trouble)
            return
        chosen = self.details.repository.id if self.details.repository is not None else ""
        self.results.set_models(answer.models)
        row = self.results.row_of(chosen)
        if row >= 0:
            self.list.setCurrentIndex(self.results.index(row, 0))
        self._show_state()

    def _show_state(self) -> None:
        count = self.results.rowCount()
        self._stack.setCurrentWidget(self._listed if count else self.empty)
        self._more.setVisible(bool(count) and self._asked is not None and self._asked.limit <= count < MOST)

    def _show_offline(self) -> None:
        self.loading.hide()
        self.results.set_models(())
        self._stack.setCurrentWidget(self.offline)
        possible = can_go_online(self._context)
        for part in self.offline.buttons:
            part.setVisible(possible)
        why = self.tr("Everything on this machine works as ever; the hub is not asked.")
        if not possible:
            why += " " + self.tr("HF_HUB_OFFLINE in the environment says so: start Quench without it to search.")
        self.offline.set_text(self.tr("Offline mode is on"), why)

    def _changed(self) -> None:
        """A filter has changed: ask at once."""
        if self._begun:
            self.search()

    def _typed(self) -> None:
        if self._begun:
            self._soon.start()

    def _entered(self) -> None:
        """Enter: a whole name is looked up itself, whether the search knows it or not."""
        text = self.field.text().strip()
        if "/" in text and not is_offline(self._context):
            try:
                name = parse_repo(text)
            except QuenchError:
                name = None
            if name is not None:
                self.list.setCurrentIndex(QModelIndex())
                self._look.stop()
                self.details.show_model(f"{name.id}@{name.revision}" if name.revision else name.id)
                if text != name.id:
                    self.field.setText(name.id)
        self.search()

    def _spell(self) -> None:
        self.field.setFocus()
        self.field.selectAll()

    def _picked(self, index: QModelIndex) -> None:
        if index.isValid():
            self._look.start()

    def _look_up(self) -> None:
        index = self.list.currentIndex()
        if index.isValid():
            self.details.show_model(self.results.models[index.row()].id)

    # ---- the way to the hub ------------------------------------------------------------------------------------

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self._begun:
            self._begun = True
            self.search()
        self.field.setFocus()

    def _settings_changed(self) -> None:
        self._show_way()
        if self._begun and is_offline(self._context) != (self._stack.currentWidget() is self.offline):
            self.search()

    def _restarted(self) -> None:
        """Another hub, or another token: what was not to be had may be now."""
        if self._begun and not is_offline(self._context):
            self.search()
            self.details.look_again()

    def _host(self) -> str:
        try:
            return access(self._context.settings).host
        except QuenchError:
            return self.tr("the hub")

    def _show_way(self) -> None:
        text = self.tr("offline") if is_offline(self._context) else self._host()
        self._way.setText(text)

    def _job_ended(self, job: Job) -> None:
        if job in self._to_convert:
            if job.state == DONE and isinstance(job.result, DownloadResult) and self.isVisible():
                self._context.navigate.emit("convert", {"source": job.result.folder})
            if job.kept is None:
                self._to_convert.remove(job)

    # ---- parts -------------------------------------------------------------------------------------------------

    def _make_head(self) -> QVBoxLayout:
        back = button(self.tr("Back to the library"), self.back, "quiet")
        self._context.theme.set_icon(back, "chevron-left")
        self._way = ElidedLabel()
        set_role(self._way, "small")
        self._way.setAlignment(Qt.AlignmentFlag.AlignRight)
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(label(self.tr("Find models"), "title"))
        head.addWidget(self._way, 1)
        head.addWidget(back)
        self.field = QLineEdit()
        self.field.setPlaceholderText(self.tr("Search the Hugging Face hub, or type a model's whole name"))
        self.field.setAccessibleName(self.tr("Search"))
        self.field.setClearButtonEnabled(True)
        self.field.textEdited.connect(self._typed)
        self.field.returnPressed.connect(self._entered)
        self.field.installEventFilter(self)
        self.sort = self._choice(SORTS, self.tr("Order"))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.field, 1)
        row.addWidget(self.sort)
        column = QVBoxLayout()
        column.setSpacing(12)
        column.addLayout(head)
        column.addLayout(row)
        return column

    def _make_filters(self) -> QHBoxLayout:
        self.kind = self._choice(KINDS, self.tr("Files"))
        self.task = self._choice(TASKS, self.tr("Task"))
        self.licence = self._choice(LICENCES, self.tr("Licence"))
        self.gated = self._choice(ACCESS, self.tr("Access"))
        self.fits = QCheckBox(self.tr("Fits this machine"))
        self.fits.setAccessibleName(self.tr("Only models that fit this machine"))
        self.fits.setToolTip(self.tr("As a 4-bit file, estimated from the number of parameters"))
        self.fits.clicked.connect(self._changed)
        row = QHBoxLayout()
        row.setSpacing(8)
        for part in (self.kind, self.task, self.licence, self.gated):
            row.addWidget(part)
        row.addWidget(self.fits)
        row.addStretch(1)
        return row

    def _choice(self, table: tuple[tuple[Any, str], ...], name: str) -> QComboBox:
        made = QComboBox()
        for value, text in table:
            made.addItem(self.tr(text), value)
        made.setAccessibleName(name)
        made.setToolTip(name)
        made.activated.connect(self._changed)
        return made

    def _make_middle(self) -> QSplitter:
        self.list = QListView()
        self.list.setModel(self.results)
        self.list.setItemDelegate(ResultDelegate(self._context.theme, self.results, self.list))
        self.list.setAccessibleName(self.tr("Models on the hub"))
        self.list.setUniformItemSizes(True)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.list.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.selectionModel().currentChanged.connect(self._picked)
        self.list.clicked.connect(self._picked)
        self._context.theme.changed.connect(self.list.viewport().update)
        self._more = button(self.tr("Show more"), self.show_more, "quiet")
        self.loading = ProgressLine()
        self.loading.button.setText(self.tr("Stop"))
        self.loading.button.setAccessibleName(self.tr("Stop searching"))
        self.loading.cancelled.connect(self.stop)
        self.loading.hide()
        self.error = ErrorCard()
        self.empty = EmptyState(
            "search",
            self.tr("Nothing matches"),
            self.tr("Try fewer words or fewer filters. A private model is found by its whole name and Enter."),
            theme=self._context.theme,
        )
        self.offline = EmptyState(
            "search", "", "-", [(self.tr("Go online"), lambda: go_online(self._context))], theme=self._context.theme
        )
        self._listed = QWidget()
        column = QVBoxLayout(self._listed)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.list, 1)
        column.addWidget(self._more)
        self._trouble = QWidget()
        column = QVBoxLayout(self._trouble)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.error)
        column.addStretch(1)
        self._blank = QWidget()
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 16, 0)
        column.setSpacing(8)
        column.addWidget(self.loading)
        self._stack = QStackedLayout()
        for part in (self._blank, self._listed, self.empty, self.offline, self._trouble):
            self._stack.addWidget(part)
        column.addLayout(self._stack, 1)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("find")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(1)
        left.setMinimumWidth(260)
        self.details.setMinimumWidth(360)
        for number, (part, stretch) in enumerate(((left, 4), (self.details, 6))):
            self.splitter.addWidget(part)
            self.splitter.setStretchFactor(number, stretch)
        self.splitter.setSizes([420, 640])
        return self.splitter

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Down leads from the field into the list."""
        pressed = event.key() if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress else None
        if watched is self.field and pressed == Qt.Key.Key_Down and self.results.rowCount():
            self.list.setFocus()
            if not self.list.currentIndex().isValid():
                self.list.setCurrentIndex(self.results.index(0, 0))
            return True
        return super().eventFilter(watched, event)
