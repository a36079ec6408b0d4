"""The right side of "Find models": one model of the hub, with its files, its card, and what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QDateTime, QLocale, Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QListWidget, QStackedLayout, QTabWidget, QVBoxLayout, QWidget

from app.hub.messages import CardRead, LookedUp, Repository
from app.ui import format as fmt
from app.ui.find_card import MAX_CARD, CardView
from app.ui.find_download import DownloadPanel
from app.ui.find_groups import GroupView
from app.ui.find_results import compact
from app.ui.hub_errors import actions_for, page_of, visit
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ProgressLine, button, label
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

MAX_LISTED = 2000


class DetailsPane(QWidget):
    """``misspelt`` asks for the search field, ``convert_when_done`` carries the job of "Download and convert"."""

    misspelt = Signal()
    convert_when_done = Signal(object)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._name = ""
        self._requests: list[int] = []
        self.repository: Repository | None = None
        self.nothing = EmptyState(
            "search",
            self.tr("No model chosen"),
            self.tr("Choose one on the left to see its files, and what each of them would need on this machine."),
            theme=context.theme,
        )
        self.loading = ProgressLine()
        self.loading.button.setText(self.tr("Stop"))
        self.loading.button.setAccessibleName(self.tr("Stop looking the model up"))
        self.loading.cancelled.connect(self.show_nothing)
        self.error = ErrorCard()
        self._stack = QStackedLayout(self)
        waiting = QWidget()
        column = QVBoxLayout(waiting)
        column.setContentsMargins(16, 0, 0, 0)
        column.addWidget(self.loading)
        column.addWidget(self.error)
        column.addStretch(1)
        self._waiting = waiting
        self._page = self._make_page()
        for part in (self.nothing, waiting, self._page):
            self._stack.addWidget(part)

    # ---- what is shown -----------------------------------------------------------------------------------------

    def show_nothing(self) -> None:
        """No model is chosen."""
        self._forget()
        self._name, self.repository = "", None
        self.panel.show_group(None, None)
        self._stack.setCurrentWidget(self.nothing)

    def show_model(self, name: str) -> None:
        """Look a model up and show it."""
        if name == self._name and (self.repository is not None or self._requests):
            return
        self._forget()
        self._name, self.repository = name, None
        self.panel.show_group(None, None)
        self.error.clear()
        self.loading.set_progress(None, self.tr("Looking at {0}").format(name))
        self.loading.show()
        self._stack.setCurrentWidget(self._waiting)
        self._requests = [self._context.hub.look_up(name, lambda answer: self._looked_up(name, answer))]

    def look_again(self) -> None:
        """Ask anew for what is shown: after a token was set, say."""
        name, self._name = self._name, ""
        if name:
            self.show_model(name)

    def _looked_up(self, name: str, answer: LookedUp | QuenchError) -> None:
        self._requests = []
        self.loading.hide()
        if isinstance(answer, QuenchError):
            actions = actions_for(self._context, self, answer, self.look_again, self.misspelt.emit, repo=name)
            self.error.show_error(answer, actions)
            return
        self.repository = repository = answer.repository
        self._stack.setCurrentWidget(self._page)
        self._title.setText(repository.id)
        self._facts.setText(self._facts_of(repository))
        self._show_notes(repository)
        self.files.table.show(repository)
        self.files.setVisible(bool(repository.groups))
        self._all.clear()
        self._all.addItems([f"{file.path}   {fmt.size(file.bytes)}" for file in repository.files[:MAX_LISTED]])
        if len(repository.files) > MAX_LISTED:
            self._all.addItem(self.tr("and {0} more").format(fmt.number(len(repository.files) - MAX_LISTED)))
        self.tabs.setTabText(2, self.tr("All files ({0})").format(fmt.number(len(repository.files))))
        self.tabs.setCurrentIndex(0)
        self.files.choose(self.files.table.best())
        if not repository.groups:
            self.panel.show_group(repository, None)
        self._card_state(self.tr("Reading the model card…"))
        read = self._context.hub.read_card(repository.id, repository.revision, self._card_read)
        self._requests = [read]

    def _card_read(self, answer: CardRead | QuenchError) -> None:
        self._requests = []
        repository = self.repository
        if repository is None:
            return
        if isinstance(answer, QuenchError):
            if answer.code == "gated":
                self._note.setText(f"{answer.title} {answer.hint}")
            self._card_state(f"{answer.title} {answer.hint}")
            return
        if not answer.text.strip():
            self._card_state(self.tr("This model has no card."))
            return
        cut = answer.cut or len(answer.text) > MAX_CARD
        note = self.tr("The card is longer; the rest is on the model's page.") if cut else ""
        self.card.show_card(self.tr("Written by {0}").format(repository.id.partition("/")[0]), answer.text, note)
        self._card_stack.setCurrentWidget(self.card)

    def _card_state(self, text: str) -> None:
        self._card_note.setText(text)
        self._card_stack.setCurrentIndex(0)

    def _show_notes(self, repository: Repository) -> None:
        """What has to be known before anything is downloaded."""
        notes = []
        if repository.renamed_from:
            notes.append(self.tr("{0} is called {1} now.").format(repository.renamed_from, repository.id))
        if repository.gated:
            notes.append(
                self.tr("Gated: accept its licence on its page and set a token here, then it can be downloaded.")
            )
        if repository.private:
            notes.append(self.tr("Private: only you and those whom its owner lets in can see it."))
        notes += repository.problems[:6]
        if (
            not repository.for_conversion
            and repository.why_not
            and not any(g.kind == "gguf" for g in repository.groups)
        ):
            notes.append(self.tr("It cannot be converted: {0}").format(repository.why_not))
        self._note.setText("\n".join(notes))
        self._note.setVisible(bool(notes))
        set_role(self._note, "warn" if repository.gated or repository.problems else "muted")
        self._licence.setVisible(bool(repository.gated))
        self._token.setVisible(bool(repository.gated))

    def _facts_of(self, repository: Repository) -> str:
        changed = QDateTime.fromString(repository.modified, Qt.DateFormat.ISODate)
        facts = [
            self.tr("{0} parameters").format(fmt.parameters(repository.parameters)) if repository.parameters else "",
            repository.architecture,
            self.tr("context {0}").format(fmt.number(repository.context_length)) if repository.context_length else "",
            repository.task,
            repository.licence or self.tr("no licence named"),
            self.tr("{0} downloads").format(compact(repository.downloads)),
            self.tr("changed {0}").format(QLocale().toString(changed.date(), QLocale.FormatType.ShortFormat))
            if changed.isValid()
            else "",
        ]
        return " · ".join(fact for fact in facts if fact)

    def _chosen(self) -> None:
        self.panel.show_group(self.repository, self.files.group())

    def _forget(self) -> None:
        for request in self._requests:
            self._context.hub.forget(request)
        self._requests = []

    # ---- parts -------------------------------------------------------------------------------------------------

    def _make_page(self) -> QWidget:
        context = self._context
        self._title = ElidedLabel()
        set_role(self._title, "heading")
        self._title.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._facts = label("", "muted", wrap=True)
        self._note = label("", "warn", wrap=True)
        self._licence = button(self.tr("Open the licence page"), self._visit)
        self._token = button(self.tr("Set a token"), lambda: context.navigate.emit("settings", {"section": "hub"}))
        gate = QHBoxLayout()
        gate.setSpacing(8)
        gate.addWidget(self._licence)
        gate.addWidget(self._token)
        gate.addStretch(1)
        self.files = GroupView(context.theme)
        self.files.selectionModel().currentRowChanged.connect(lambda *_: self._chosen())
        self.files.table.modelAboutToBeReset.connect(lambda: self.files.choose(-1))
        self.panel = DownloadPanel(context)
        self.panel.convert_when_done.connect(self.convert_when_done)
        files = QWidget()
        column = QVBoxLayout(files)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(8)
        column.addWidget(self.files, 1)
        column.addWidget(self.panel)
        self.card = CardView(context.theme)
        self._card_note = label("", "muted", wrap=True)
        self._card_note.setAlignment(Qt.AlignmentFlag.AlignCenter)
        card = QWidget()
        self._card_stack = QStackedLayout(card)
        self._card_stack.addWidget(self._card_note)
        self._card_stack.addWidget(self.card)
        self._all = QListWidget()
        self._all.setAccessibleName(self.tr("All files of the repository"))
        self._all.setUniformItemSizes(True)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(self.tr("About the model"))
        self.tabs.tabBar().setAccessibleName(self.tr("About the model"))
        self.tabs.addTab(files, self.tr("Models in it"))
        self.tabs.addTab(card, self.tr("Model card"))
        self.tabs.addTab(self._all, self.tr("All files"))
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self._title, 1)
        head.addWidget(button(self.tr("On the hub"), self._visit, "quiet"))
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(16, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(head)
        layout.addWidget(self._facts)
        layout.addWidget(self._note)
        layout.addLayout(gate)
        layout.addWidget(self.tabs, 1)
        return page

    def _visit(self) -> None:
        if self.repository is not None:
            visit(self, page_of(self._context, self.repository.id))
