"""The Chat page: conversations at the left, the one that is open in the middle, the inspector at the right."""

from __future__ import annotations

import json
from typing import Any

from PySide6.QtCore import QSize, Qt, QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent, QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QSplitter, QStackedWidget, QToolButton, QVBoxLayout, QWidget

import resources
from app.protocol import Replied
from app.store import StoredMessage
from app.ui.chat_inspector import Inspector
from app.ui.composer import Composer
from app.ui.context import Context
from app.ui.conversation_list import ConversationList
from app.ui.engines import LOADING, STARTING, Engine
from app.ui.first_start import PocketStart
from app.ui.markdown import highlight, split
from app.ui.reply import Reply, note_of, prompt_of, stats_of
from app.ui.transcript import Transcript
from app.ui.transcript_actions import CONTINUE, DELETE, EDIT, REGENERATE
from app.ui.widgets import (
    ElidedLabel,
    EmptyState,
    ErrorCard,
    ProgressLine,
    button,
    drop_paths,
    icon_button,
    title_of,
)
from converter.spec import QuenchError

OWNER = "chat"
WIDE = 1040
"""Below this width the inspector steps aside, below ``NARROW`` the conversations too, until they are called."""
NARROW = 720
TITLE = 60
WARM_MS = 700


class ChatPage(QWidget):
    """``receive({"model": path})`` chats with a model, ``{"new": True}`` begins an empty conversation."""

    key = "chat"
    title = "Chat"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._store = context.store
        self._conversation: int | None = None
        self._engine: Engine | None = None
        self._reply: Reply | None = None
        self._editing: int | None = None
        self._sides: dict[str, bool | None] = {"left": None, "right": None}
        self.setAcceptDrops(True)
        self.list = ConversationList(context)
        self.inspector = Inspector(context)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("main")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.addWidget(self.list)
        self.splitter.addWidget(self._make_middle())
        self.splitter.addWidget(self.inspector)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([220, 640, 320])
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.splitter)
        self._system_timer = QTimer(self, singleShot=True, interval=400)
        self._system_timer.timeout.connect(self._save_system)
        self._connect()
        self.inspector.set_model(context.settings.last_model or None)
        # The first coloured code block would pay for loading the highlighter in the middle of an answer.
        QTimer.singleShot(WARM_MS, self, lambda: highlight("x = 1", "python"))
        self.new_chat()

    # ---- building ----------------------------------------------------------------------------------------------

    def _make_middle(self) -> QWidget:
        middle = QWidget()
        theme = self._context.theme
        self._left_button = self._toggle("panel-left", self.tr("Conversations"), "left")
        self._right_button = self._toggle("panel-right", self.tr("Inspector"), "right")
        self._title = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self._title.setFont(theme.font(15, True))
        head = QHBoxLayout()
        head.setContentsMargins(8, 8, 8, 4)
        head.setSpacing(8)
        head.addWidget(self._left_button)
        head.addWidget(self._title, 1)
        self._new_button = icon_button(theme, "add", self.tr("New chat"), self.new_chat)
        head.addWidget(self._new_button)
        head.addWidget(self._right_button)
        self.transcript = Transcript(theme)
        self.pocket = PocketStart(self._context)
        self.stack = QStackedWidget()
        self.stack.addWidget(self._make_no_model())
        self.stack.addWidget(self._make_suggestions())
        self.stack.addWidget(self.transcript)
        self.progress = ProgressLine()
        self.progress.hide()
        self.error = ErrorCard()
        self.composer = Composer(self._context)
        foot = QVBoxLayout()
        foot.setContentsMargins(16, 0, 16, 12)
        foot.setSpacing(8)
        for part in (self.pocket, self.progress, self.error, self.composer):
            foot.addWidget(part)
        layout = QVBoxLayout(middle)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.stack, 1)
        layout.addLayout(foot)
        middle.setMinimumWidth(320)
        return middle

    def _toggle(self, icon: str, name: str, side: str) -> QToolButton:
        made = icon_button(self._context.theme, icon, name)
        made.setCheckable(True)
        made.clicked.connect(lambda checked=False: self._show_side(side, checked))
        return made

    def _make_no_model(self) -> QWidget:
        return EmptyState(
            "chat",
            self.tr("No model yet"),
            self.tr("Chat with Pocket, the small model that comes with Quench, or open a GGUF file of your own."),
            [(self.tr("Chat with Pocket"), self.pocket_chat), (self.tr("Open a file…"), self._open_file)],
            theme=self._context.theme,
        )

    def _make_suggestions(self) -> QWidget:
        page = EmptyState("chat", self.tr("What would you like to know?"), theme=self._context.theme)
        grid = QVBoxLayout()
        grid.setSpacing(8)
        self.suggestions = []
        for text in suggestions():
            made = button(text, lambda text=text: self.send(text))
            self.suggestions.append(made)
            grid.addWidget(made, 0, Qt.AlignmentFlag.AlignHCenter)
        body = page.layout()
        body.insertSpacing(body.count() - 1, 8)
        body.insertLayout(body.count() - 1, grid)
        return page

    def _connect(self) -> None:
        self.list.chosen.connect(self.open_conversation)
        self.list.new_wanted.connect(self.new_chat)
        self.list.gone.connect(self._conversation_gone)
        self.list.renamed.connect(lambda conversation: self._show_title())
        self.transcript.action.connect(self._act)
        self.composer.sent.connect(self.send)
        self.composer.stopped.connect(self.stop)
        self.composer.edit_left.connect(self._leave_edit)
        self.inspector.model_picked.connect(self._model_picked)
        self.inspector.options_applied.connect(self._load)
        self.inspector.system_changed.connect(self._system_timer.start)
        self.progress.cancelled.connect(self._cancel_loading)
        self.pocket.ready.connect(self.use_model)
        self._context.library.changed.connect(self._show_stack)

    # ---- the window's calls ------------------------------------------------------------------------------------

    def receive(self, request: dict[str, Any]) -> None:
        """A request from another page."""
        if request.get("model"):
            self.new_chat()
            self.use_model(str(request["model"]))
        if request.get("new"):
            self.new_chat()
        if request.get("pocket"):
            self.pocket_chat()
        self.composer.field.setFocus()

    def help_text(self) -> str:
        """What F1 shows."""
        return self.tr(
            "Ask on the left of Send; the answer streams in. Esc stops it.\n\n"
            "Alt+Up and Alt+Down choose a message; then R answers again, E edits the question, C continues the answer, "
            "Delete removes it and Ctrl+C copies it. The same is in the menu of each message.\n\n"
            "The inspector at the right has the model, the sampling and, live, tokens per second and memory. "
            "Everything that you see here is kept at once; a crash loses nothing."
        )

    def escape(self) -> bool:
        """Esc: stop the answer, or leave an edit. True if there was something to do."""
        if self._reply is not None:
            self.stop()
            return True
        if self.composer.editing():
            self.composer.leave_edit()
            return True
        return False

    def closing(self) -> None:
        """The window goes: what was shown is saved."""
        self._system_timer.stop()
        self._save_system()
        self._give_up()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self.escape():
            return
        super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if drop_paths(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        for path in drop_paths(event):
            if path.lower().endswith(".gguf"):
                self.use_model(path)
            else:
                self.composer.attach(path)
        event.acceptProposedAction()

    # ---- models ------------------------------------------------------------------------------------------------

    def use_model(self, path: str) -> None:
        """Load a model and talk to it from now on."""
        self.inspector.set_model(path)
        self._model_picked()

    def pocket_chat(self) -> None:
        """Make the bundled model ready and chat with it."""
        self.pocket.start()

    def engine(self) -> Engine | None:
        """The engine of the chosen model, if it is loaded or loading."""
        return self._engine

    def _open_file(self) -> None:
        path = self.inspector.picker.ask()
        if path:
            self._context.library.add(path)
            self.use_model(path)

    def _model_picked(self) -> None:
        path = self.inspector.picker.path()
        if not path:
            return
        self._context.update_settings(last_model=path)
        if self._conversation is not None:
            self._store.set_model(self._conversation, path)
        self._load()

    def _load(self) -> Engine | None:
        """The engine for the chosen model, loading it if need be."""
        path = self.inspector.picker.path()
        if not path:
            return None
        options = self.inspector.options()
        if self._reply is not None and (self._reply.engine.path, self._reply.engine.options) != (path, options):
            self._give_up()
        if self._engine is not None and self._engine.path != path:
            self._drop_engine()
        engine = self._context.engines.get(path, options, OWNER)
        if engine is not self._engine:
            self._engine = engine
            engine.state_changed.connect(self._engine_changed)
            engine.loading.connect(self._show_loading)
            engine.failed.connect(self._engine_failed)
            self.inspector.follow(engine)
        self.error.clear()
        self._engine_changed()
        self._show_stack()
        return engine

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        engine.state_changed.disconnect(self._engine_changed)
        engine.loading.disconnect(self._show_loading)
        engine.failed.disconnect(self._engine_failed)
        self.inspector.follow(None)
        self._context.engines.release(engine.path, OWNER)

    def _cancel_loading(self) -> None:
        self._give_up()
        self._drop_engine()
        self.progress.hide()

    def _give_up(self) -> None:
        """The engine goes away under an answer: keep what came."""
        reply = self._over()
        if reply is not None:
            reply.give_up()
            self._abandon(reply)

    def _engine_changed(self) -> None:
        engine = self._engine
        loading = engine is not None and engine.state in (STARTING, LOADING)
        if loading and self.progress.isHidden():
            self._show_loading(0.0)
        self.progress.setVisible(loading)

    def _show_loading(self, fraction: float) -> None:
        name = self._model_name(self._engine.path) if self._engine is not None else ""
        self.progress.set_progress(fraction if fraction > 0 else None, self.tr("Loading {0}").format(name))

    def _engine_failed(self, failure: Any) -> None:
        """The engine died or could not load while no answer was coming; an answer's own failure is handled there."""
        if self._reply is None and isinstance(failure, QuenchError):
            self._show_error(failure, self._load)

    def _show_error(self, error: QuenchError, retry: Any) -> None:
        actions = [(self.tr("Retry"), retry), (self.tr("Choose another model"), self._focus_picker)]
        self.error.show_error(error, actions)

    def _focus_picker(self) -> None:
        self._show_side("right", True)
        self.inspector.picker.setFocus()

    def _model_name(self, path: str) -> str:
        info = self._context.library.entry(path)
        return title_of(info) if info is not None else path.replace("\\", "/").rsplit("/", 1)[-1]

    # ---- conversations -----------------------------------------------------------------------------------------

    def new_chat(self) -> None:
        """An empty page; the conversation is made with its first message."""
        self._save_system()
        self._conversation = None
        self._leave_edit()
        self.list.select(None)
        self.transcript.clear_messages()
        self.inspector.set_system("")
        self.error.clear()
        self._show_title()
        self._show_stack()
        self.composer.field.setFocus()

    def open_conversation(self, conversation: int) -> None:
        """Show a conversation of the store."""
        self._save_system()
        row = self._store.conversation(conversation)
        self._conversation = conversation
        self._leave_edit()
        self.error.clear()
        self.list.select(conversation)
        self.inspector.set_system(row.system)
        engine = self._engine
        if row.model_path and (engine is None or engine.path != row.model_path) and self._reply is None:
            self._drop_engine()
            self.inspector.set_model(row.model_path)
        self._show_messages()
        self._show_title()

    def conversation(self) -> int | None:
        return self._conversation

    def _show_messages(self) -> None:
        rows = self._store.messages(self._conversation) if self._conversation is not None else []
        reply = self._reply
        shown = [
            (row.id, row.role, row.content, self._name_of(row), note_of(self.tr, row.stats, row.partial))
            for row in rows
        ]
        self.transcript.set_messages(shown)
        if reply is not None and self.transcript.has(reply.message):
            self.transcript.reopen(reply.message)
            missing = reply.content[len(self.transcript.text_of(reply.message)) :]
            self.transcript.feed(reply.message, missing)
        self._show_stack()

    def _name_of(self, row: StoredMessage) -> str:
        if row.role != "assistant":
            return ""
        path = (row.stats or {}).get("model") or self._store.conversation(self._conversation).model_path
        return self._model_name(str(path)) if path else ""

    def _conversation_gone(self, conversation: int) -> None:
        if self._reply is not None and self._reply.conversation == conversation:
            self._reply.stop()
        if conversation == self._conversation:
            self.new_chat()

    def _show_title(self) -> None:
        title = self._store.conversation(self._conversation).title if self._conversation is not None else ""
        self._title.setText(title or self.tr("New chat"))

    def _show_stack(self) -> None:
        has_model = bool(self.inspector.picker.path()) or bool(self._context.library.usable({"gguf"}))
        if self._conversation is not None:
            self.stack.setCurrentWidget(self.transcript)
        else:
            self.stack.setCurrentIndex(1 if has_model else 0)
        if has_model and not self.inspector.picker.path() and self._engine is None:
            self.inspector.set_model(self._context.library.usable({"gguf"})[0].path)

    def _save_system(self) -> None:
        if self._conversation is None:
            return
        row = self._store.conversation(self._conversation)
        text = self.inspector.system.toPlainText()
        if text != row.system:
            self._store.set_model(self._conversation, row.model_path, text)

    # ---- asking ------------------------------------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Ask; the first message makes and names the conversation. An edited question replaces what came after it."""
        text = text.strip()
        if not text or self._reply is not None:
            return
        path = self.inspector.picker.path()
        if not path:
            self._show_stack()
            self._focus_picker()
            return
        if self._conversation is None:
            title = " ".join(_words(text).split())[:TITLE] or self.tr("New chat")
            row = self._store.create_conversation(title, path, self.inspector.system.toPlainText())
            self._conversation = row.id
        else:
            self._store.set_model(self._conversation, path, self.inspector.system.toPlainText())
        if self._editing is not None:
            self._cut_from(self._editing)
            self._editing = None
        message = self._store.add_message(self._conversation, "user", text)
        self.composer.clear()
        self.transcript.add(message, "user", text)
        self._show_title()
        self._show_stack()
        self.list.select(self._conversation)
        self.list.refresh()
        self.answer()

    def answer(self, *, continued: int | None = None) -> None:
        """Let the model answer the conversation as it stands, or go on with its last answer."""
        engine = self._load()
        if engine is None or self._conversation is None or self._reply is not None:
            return
        rows = self._store.messages(self._conversation)
        before = ""
        if continued is not None:
            message, before = continued, rows[-1].content
            self.transcript.reopen(message)
        else:
            message = self._store.add_message(self._conversation, "assistant", "", partial=True)
            name = self._model_name(engine.path)
            self.transcript.add(message, "assistant", "", name=name, streaming=True)
        system = self.inspector.system.toPlainText()
        reply = Reply(self._store, engine, self._conversation, message, self)
        self._reply = reply
        reply.text.connect(self._heard)
        reply.ended.connect(self._ended)
        reply.failed.connect(self._failed)
        self._set_busy(True)
        prompt = prompt_of(rows, system, continue_last=continued is not None)
        reply.start(prompt, self.inspector.sampling(), before=before, continue_last=continued is not None)

    def stop(self) -> None:
        """Stop the answer; what came so far stays."""
        if self._reply is not None:
            self._reply.stop()

    def busy(self) -> bool:
        """Is an answer coming?"""
        return self._reply is not None

    def _heard(self, text: str) -> None:
        reply = self._reply
        if reply is not None and reply.conversation == self._conversation:
            self.transcript.feed(reply.message, text)

    def _ended(self, event: Replied) -> None:
        reply = self._over()
        if reply is not None and reply.conversation == self._conversation:
            self.transcript.finish(reply.message, note_of(self.tr, stats_of(event, reply.engine.path), False))
        self.list.refresh()

    def _failed(self, error: QuenchError) -> None:
        reply = self._over()
        if reply is None:
            return
        self._abandon(reply)
        self._show_error(error, lambda: self._retry(reply))

    def _abandon(self, reply: Reply) -> None:
        """An answer that will not end: what came stays as unfinished, nothing leaves no row."""
        self._set_busy(False)
        here = reply.conversation == self._conversation
        if not reply.content:
            self._store.delete_message(reply.message)
            if here and self.transcript.has(reply.message):
                self.transcript.remove(reply.message)
        elif here:
            self.transcript.finish(reply.message, note_of(self.tr, None, True))

    def _over(self) -> Reply | None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.deleteLater()
        self._set_busy(False)
        return reply

    def _retry(self, reply: Reply) -> None:
        """Load again and answer again what the dead engine left unfinished."""
        self.error.clear()
        if self._reply is not None:
            return
        if reply.conversation != self._conversation:
            self.open_conversation(reply.conversation)
        known = {row.id for row in self._store.messages(reply.conversation)}
        if reply.message in known:
            self._cut_from(reply.message)
        self.answer()

    def _set_busy(self, busy: bool) -> None:
        self.composer.set_busy(busy)
        self.transcript.set_busy(busy)

    # ---- actions on messages -----------------------------------------------------------------------------------

    def _act(self, name: str, message: int) -> None:
        if self._reply is not None or self._conversation is None:
            return
        if name == REGENERATE:
            self._offer_undo(self._cut_from(message), self.tr("An answer was replaced."))
            self.answer()
        elif name == CONTINUE:
            self.answer(continued=message)
        elif name == EDIT:
            self._editing = message
            self.composer.begin_edit(self.transcript.text_of(message))
        elif name == DELETE:
            self._delete(message)

    def _leave_edit(self) -> None:
        self._editing = None
        if self.composer.editing():
            self.composer.clear()

    def _cut_from(self, message: int) -> list[StoredMessage]:
        """Remove a message and all after it; returns the conversation as it was."""
        before = self._store.messages(self._conversation)
        for row in before:
            if row.id >= message:
                self._store.delete_message(row.id)
        if self.transcript.has(message):
            self.transcript.remove_from(message)
        return before

    def _delete(self, message: int) -> None:
        """Remove a message; a question goes with its answer, which would make no sense alone."""
        before = self._store.messages(self._conversation)
        position = next(i for i, row in enumerate(before) if row.id == message)
        gone = [before[position]]
        if gone[0].role == "user" and position + 1 < len(before) and before[position + 1].role == "assistant":
            gone.append(before[position + 1])
        for row in gone:
            self._store.delete_message(row.id)
            self.transcript.remove(row.id)
        one, many = self.tr("A message was deleted."), self.tr("{0} messages were deleted.").format(len(gone))
        self._offer_undo(before, one if len(gone) == 1 else many)

    def _offer_undo(self, before: list[StoredMessage], text: str) -> None:
        conversation = self._conversation
        self._context.notify.info(text, [(self.tr("Undo"), lambda: self._restore(conversation, before))])

    def _restore(self, conversation: int | None, before: list[StoredMessage]) -> None:
        """Put a conversation back as it was."""
        if conversation is None or self._reply is not None:
            return
        now = self._store.messages(conversation)
        same = 0
        while same < min(len(now), len(before)) and now[same] == before[same]:
            same += 1
        for row in now[same:]:
            self._store.delete_message(row.id)
        for row in before[same:]:
            self._store.add_message(conversation, row.role, row.content, row.stats, row.partial)
        if conversation == self._conversation:
            self._show_messages()

    # ---- side panels -------------------------------------------------------------------------------------------

    def _show_side(self, side: str, shown: bool) -> None:
        self._sides[side] = shown
        self._arrange()

    def _arrange(self) -> None:
        """Show the panels that were asked for; without a word from the person the width decides."""
        width = self.width()
        left, right = self._sides["left"], self._sides["right"]
        show_right = right if right is not None else width >= WIDE
        show_left = left if left is not None else width >= NARROW
        if width < NARROW and show_left and show_right:
            show_left = False
        self.list.setVisible(show_left)
        self.inspector.setVisible(show_right)
        self._new_button.setVisible(not show_left)
        self._left_button.setChecked(show_left)
        self._right_button.setChecked(show_right)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def sizeHint(self) -> QSize:
        return QSize(1192, 772)


def suggestions() -> list[str]:
    """Questions to begin with, as they ship; none if the file is not there or not what it should be."""
    try:
        found = json.loads(resources.path("texts/questions.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    listed = found.get("suggestions", []) if isinstance(found, dict) else []
    return [text for text in listed if isinstance(text, str)]


def _words(text: str) -> str:
    """A message's first words, without the files that stand before them."""
    prose = [chunk.body for chunk in split(text, plain=True) if chunk.kind == "text"]
    return prose[0] if prose else text.splitlines()[0].strip("`")
