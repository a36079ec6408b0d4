"""The Chat page: conversations at the left, the one that is open in the middle, the inspector at the right."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QSize, Qt, QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent, QKeySequence, QResizeEvent, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QSplitter, QWidget

from app import prompt_files
from app.chat_messages import SCHEMA, Constraint
from app.protocol import Replied
from app.remote.address import is_remote
from app.store import StoredMessage
from app.ui.chat_frame import NARROW, WIDE, ChatFrame
from app.ui.chat_inspector import Inspector
from app.ui.context import Context
from app.ui.conversation_list import ConversationList
from app.ui.drafts import Drafts
from app.ui.engines import LOADING, STARTING, Engine
from app.ui.markdown import highlight, split
from app.ui.reply import Prompt, Reply, note_of, prompt_of, seed_of, unfinished
from app.ui.servers import KIND
from app.ui.thread import Thread
from app.ui.token_dialog import TokenDialog
from app.ui.transcript_actions import CONTINUE, EDIT, REGENERATE, SEED, TOKENS
from app.ui.undo import UndoStack
from app.ui.widgets import drop_paths, title_of
from converter.spec import QuenchError

OWNER = "chat"
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
        self._engine: Engine | None = None
        self._reply: Reply | None = None
        self._tool: int | None = None
        self._sides: dict[str, bool | None] = {"left": None, "right": None}
        self.setAcceptDrops(True)
        self._undo = UndoStack(context.notify)
        self.list = ConversationList(context, self._undo)
        self.inspector = Inspector(context)
        self.frame = frame = ChatFrame(context)
        self.transcript, self.composer, self.stack = frame.transcript, frame.composer, frame.stack
        self.pocket, self.progress, self.error = frame.pocket, frame.progress, frame.error
        self.suggestions = frame.suggestions
        self._thread = Thread(self._store, self.transcript, self._undo, self._model_name, self)
        system = self.inspector.system.toPlainText
        self._drafts = Drafts(self._store, self.composer, self._thread, context.notify, system)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("main")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.addWidget(self.list)
        self.splitter.addWidget(frame)
        self.splitter.addWidget(self.inspector)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([220, 640, 320])
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.splitter)
        self._connect()
        self.inspector.set_model(context.settings.last_model or None)
        # The first coloured code block would pay for loading the highlighter in the middle of an answer.
        QTimer.singleShot(WARM_MS, self, lambda: highlight("x = 1", "python"))
        self.new_chat()

    def _connect(self) -> None:
        self.frame.side_wanted.connect(self._show_side)
        self.frame.new_wanted.connect(self.new_chat)
        self.frame.suggested.connect(self.send)
        self.frame.pocket_wanted.connect(self.pocket_chat)
        self.frame.file_wanted.connect(self._open_file)
        self.frame.held_wanted.connect(self._show_constraint)
        self.list.chosen.connect(self.open_conversation)
        self.list.found.connect(self._open_hit)
        self.list.new_wanted.connect(self.new_chat)
        self.list.gone.connect(self._conversation_gone)
        self.list.renamed.connect(lambda conversation: self._show_title())
        self.transcript.action.connect(self._act)
        self.transcript.tool_wanted.connect(self._answer_as_tool)
        self.inspector.constraint_panel.changed.connect(self._save_constraint)
        self.composer.sent.connect(self.send)
        self.composer.stopped.connect(self.stop)
        QShortcut(QKeySequence.StandardKey.Undo, self.transcript, self._undo.undo,
                  context=Qt.ShortcutContext.WidgetShortcut)  # fmt: skip
        self.inspector.model_picked.connect(self._model_picked)
        self.inspector.options_applied.connect(self._load)
        self.inspector.system_changed.connect(self._save_system)
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
            "T shows its tokens with their probabilities, Delete removes it, Ctrl+Z brings it back, Ctrl+C copies it. "
            "The same is in the menu of each message.\n\n"
            "An edited question or another answer begins a branch; the earlier one stays. Under a message with several "
            "versions ‹ 2 / 3 › goes from one to the next, as do Alt+Left and Alt+Right.\n\n"
            "A model's reasoning is folded; a click opens it. A tool that a model calls is never run: its card offers "
            "to copy the call, or to answer in the tool's place. The inspector's settings can hold the answers of a "
            "conversation to a JSON schema or a grammar.\n\n"
            "The inspector at the right has the model, the sampling and, live, tokens per second and memory. "
            "Everything that you see here is kept at once, what you have not sent yet too; a crash loses nothing."
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
        self._save_system()
        self._drafts.keep()
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
        if self._thread.conversation is not None:
            self._store.set_model(self._thread.conversation, path)
        self._load()

    def _load(self, *, anyway: bool = False) -> Engine | None:
        """The engine for the chosen model, loading it if need be; ``anyway``: also where it does not fit."""
        path = self.inspector.picker.path()
        if not path:
            return None
        options = self.inspector.options()
        if self._reply is not None and (self._reply.engine.path, self._reply.engine.options) != (path, options):
            self._give_up()
        if self._engine is not None and self._engine.path != path:
            self._drop_engine()
        engine = self._context.engines.get(path, options, OWNER, anyway=anyway)
        if engine is not self._engine:
            self._engine = engine
            engine.state_changed.connect(self._engine_changed)
            engine.loading.connect(self._show_loading)
            engine.failed.connect(self._engine_failed)
            engine.silent.connect(self._engine_silent)
            engine.awake.connect(self.error.clear)
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
        engine.silent.disconnect(self._engine_silent)
        engine.awake.disconnect(self.error.clear)
        self.inspector.follow(None)
        self._drafts.follow(None)
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
        self._drafts.follow(engine)

    def _show_loading(self, fraction: float) -> None:
        path = self._engine.path if self._engine is not None else ""
        words = self.tr("Connecting to {0}") if is_remote(path) else self.tr("Loading {0}")
        name = self._model_name(path)
        self.progress.set_progress(fraction if fraction > 0 else None, words.format(name))

    def _engine_failed(self, failure: Any) -> None:
        """The engine died or could not load while no answer was coming; an answer's own failure is handled there."""
        if self._reply is None and isinstance(failure, QuenchError):
            self._show_error(failure, self._load)

    def _engine_silent(self) -> None:
        """It hangs, or the whole machine does: a person decides how long to wait."""
        engine = self._engine
        if engine is None:
            return
        error = QuenchError(
            "engine_silent",
            self.tr("The engine has not been heard of for a while."),
            engine.path,
            self.tr("If the memory is full the system may only be slow: wait, or close other programs. Ending the "
                    "engine keeps the conversation and what was written so far."),
        )  # fmt: skip
        self.error.show_error(error, [(self.tr("Wait"), self.error.clear), (self.tr("End the engine"), engine.end)])

    def _show_error(self, error: QuenchError, retry: Any) -> None:
        actions = [(self.tr("Retry"), retry), (self.tr("Choose another model"), self._focus_picker)]
        if error.code.startswith("machine_") or error.code in ("no_rpc", "no_memory_elsewhere"):
            actions = [(self.tr("On this machine alone"), lambda: self._stay_here(retry)), actions[0]]
        elif error.code == "no_memory":
            actions = [(self.tr("Load anyway"), lambda: self._load_anyway(retry)), actions[1]]
            if self.inspector.loading.context_spin.value():
                actions.insert(0, (self.tr("Smaller context"), lambda: self._load_smaller(retry)))
        elif error.code == "context_full" and self.inspector.loading.overflow() == "stop":
            ways = ((self.tr("Leave out old turns"), "shift"), (self.tr("Sum them up"), "summarise"))
            actions = [(words, lambda way=way: self._give_way(way, retry)) for words, way in ways]
        self.error.show_error(error, actions)

    def _load_anyway(self, retry: Any) -> None:
        self._load(anyway=True)
        if retry != self._load:
            retry()

    def _stay_here(self, retry: Any) -> None:
        """Without the other machines."""
        self.inspector.loading.stay_here()
        retry()

    def _load_smaller(self, retry: Any) -> None:
        """The longest context that fits."""
        self._context.update_settings(context=0)
        retry()

    def _give_way(self, overflow: str, retry: Any) -> None:
        self._context.update_settings(overflow=overflow)
        retry()

    def _focus_picker(self) -> None:
        self._show_side("right", True)
        self.inspector.picker.setFocus()

    def _model_name(self, path: str) -> str:
        info = self._context.library.entry(path)
        return title_of(info) if info is not None else path.replace("\\", "/").rsplit("/", 1)[-1]

    # ---- conversations -----------------------------------------------------------------------------------------

    def new_chat(self) -> None:
        """An empty page; the conversation is made with its first message."""
        self._leave()
        self._thread.open(None)
        self.list.select(None)
        self.inspector.set_system("")
        self.inspector.constraint_panel.set_constraint(Constraint())
        self.frame.show_held("")
        self._drafts.show()
        self._show_title()
        self._show_stack()
        self.composer.field.setFocus()

    def open_conversation(self, conversation: int) -> None:
        """Show a conversation of the store."""
        self._leave()
        row = self._store.conversation(conversation)
        self._thread.open(conversation)
        self.list.select(conversation)
        self.inspector.set_system(row.system)
        held = self._store.held_to(conversation)
        self.inspector.constraint_panel.set_constraint(held)
        self.frame.show_held(held.kind)
        engine = self._engine
        if row.model_path and (engine is None or engine.path != row.model_path) and self._reply is None:
            self._drop_engine()
            self.inspector.set_model(row.model_path)
        self._drafts.show()
        self._show_stack()
        self._show_title()

    def _open_hit(self, conversation: int, message: int, words: str) -> None:
        """Show what a search has found."""
        if conversation != self._thread.conversation:
            self.open_conversation(conversation)
        self._thread.find(message, words)

    def _leave(self) -> None:
        """Another conversation comes: what was written in this one is kept."""
        self._save_system()
        self._drafts.leave()
        self.error.clear()

    def conversation(self) -> int | None:
        return self._thread.conversation

    def _conversation_gone(self, conversation: int) -> None:
        prompt_files.forget(str(conversation))
        if self._reply is not None and self._reply.conversation == conversation:
            self._reply.stop()
        if conversation == self._thread.conversation:
            self.new_chat()

    def _show_title(self) -> None:
        title = (
            self._store.conversation(self._thread.conversation).title if self._thread.conversation is not None else ""
        )
        self.frame.heading.setText(title or self.tr("New chat"))

    def _show_stack(self) -> None:
        has_model = bool(self.inspector.picker.path()) or bool(self._context.library.usable({"gguf", KIND}))
        self.frame.show_face(conversation=self._thread.conversation is not None, model=has_model)
        if has_model and not self.inspector.picker.path() and self._engine is None:
            self.inspector.set_model(self._context.library.usable({"gguf", KIND})[0].path)

    def _show_constraint(self) -> None:
        self._show_side("right", True)
        self.inspector.show_constraint()

    def _save_constraint(self) -> None:
        self.frame.show_held(self.inspector.constraint_panel.constraint().kind)
        if self._thread.conversation is not None:
            self._store.hold_to(self._thread.conversation, self.inspector.constraint_panel.constraint())

    def _save_system(self) -> None:
        if self._thread.conversation is None:
            return
        row = self._store.conversation(self._thread.conversation)
        text = self.inspector.system.toPlainText()
        if text != row.system:
            self._store.set_model(self._thread.conversation, row.model_path, text)

    # ---- asking ------------------------------------------------------------------------------------------------

    def send(self, text: str) -> None:
        """Ask; the first message makes and names the conversation. An edited question begins a branch beside it."""
        text = text.strip()
        if not text or self._reply is not None:
            return
        path = self.inspector.picker.path()
        if not path:
            self._show_stack()
            self._focus_picker()
            return
        system = self.inspector.system.toPlainText()
        conversation = self._thread.conversation
        if conversation is None:
            title = " ".join(_words(text).split())[:TITLE] or self.tr("New chat")
            conversation = self._store.create_conversation(title, path, system).id
            self._store.hold_to(conversation, self.inspector.constraint_panel.constraint())
        else:
            self._store.set_model(conversation, path, system)
        if self._drafts.editing is not None and self._drafts.editing == self._tool:
            self._store.set_head(conversation, self._tool)
            message = self._store.add_message(conversation, "tool", text)
        elif self._drafts.editing is not None:
            message = self._store.add_alternative(self._drafts.editing, "user", text)
        else:
            message = self._store.add_message(conversation, "user", text)
        if text == self.composer.question():
            self._drafts.forget()  # only now: at no moment is the question in neither place
        self._drafts.editing = self._tool = None
        self._thread.conversation = conversation
        self._drafts.show()
        self._thread.add(message)
        self._show_title()
        self._show_stack()
        self.list.select(self._thread.conversation)
        self.list.refresh()
        self.answer()

    def answer(self, *, beside: int | None = None) -> None:
        """Let the model answer the branch that is shown; ``beside`` is the answer to which another one is wanted."""
        engine, conversation = self._load(), self._thread.conversation
        if engine is None or conversation is None or self._reply is not None:
            return
        if beside is None:
            message = self._store.add_message(conversation, "assistant", "", partial=True)
        else:
            message = self._store.add_alternative(beside, "assistant", "", partial=True)
        held = self.inspector.constraint_panel.constraint()
        self._thread.add(message, streaming=True, json=held.kind == SCHEMA)
        reply = self._expect(Reply(self._store, engine, conversation, message, self, beside=beside))
        wanted = self.inspector.sampling_panel.wanted_probabilities()
        self._start(reply, self._thread.rows(), probabilities=wanted)

    def go_on(self, message: int) -> None:
        """Let the model continue its last answer."""
        engine, conversation, rows = self._load(), self._thread.conversation, self._thread.rows()
        if engine is None or conversation is None or self._reply is not None or rows[-1].id != message:
            return
        self.transcript.reopen(message)
        reply = self._expect(Reply(self._store, engine, conversation, message, self))
        self._start(reply, rows, before=rows[-1].content, continue_last=True)

    def _start(self, reply: Reply, rows: list[StoredMessage], **more: Any) -> None:
        panel = self.inspector
        held = panel.constraint_panel.constraint()
        draft = self._context.settings.draft
        prompt = Prompt(rows, panel.system.toPlainText(), panel.loading.overflow(), draft)
        reply.start(prompt, panel.sampling(), constraint=held, **more)

    def _expect(self, reply: Reply) -> Reply:
        self._reply = self._thread.reply = reply
        reply.text.connect(self._heard)
        reply.fitted.connect(self._fitted)
        reply.ended.connect(self._ended)
        reply.failed.connect(self._failed)
        self._set_busy(True)
        return reply

    def stop(self) -> None:
        """Stop the answer; what came so far stays."""
        if self._reply is not None:
            self._reply.stop()

    def busy(self) -> bool:
        """Is an answer coming?"""
        return self._reply is not None

    def _heard(self, text: str) -> None:
        reply = self._reply
        if reply is not None and self._is_shown(reply):
            self.transcript.feed(reply.message, text)

    def _fitted(self) -> None:
        """The model does not see all of the conversation any more: the page says so."""
        if self._reply is not None and self._is_shown(self._reply):
            self._thread.refresh()

    def _is_shown(self, reply: Reply) -> bool:
        return reply.conversation == self._thread.conversation and self.transcript.has(reply.message)

    def _ended(self, event: Replied) -> None:
        reply = self._over()
        if reply is not None and self._is_shown(reply):
            note, cut = note_of(self.tr, reply.stats, False), unfinished(reply.stats, False)
            self.transcript.finish(reply.message, note, unfinished=cut, seed=seed_of(reply.stats))
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
        if not reply.content:
            self._store.delete_message(reply.message)
            if reply.beside is not None:
                self._store.choose(reply.beside)
            if reply.conversation == self._thread.conversation:
                self._thread.refresh()
        elif self._is_shown(reply):
            self.transcript.finish(reply.message, note_of(self.tr, None, True), unfinished=True)

    def _over(self) -> Reply | None:
        reply, self._reply, self._thread.reply = self._reply, None, None
        if reply is not None:
            reply.deleteLater()
        self._set_busy(False)
        return reply

    def _retry(self, reply: Reply) -> None:
        """Load again and answer again what the dead engine left unfinished."""
        self.error.clear()
        if self._reply is not None:
            return
        if reply.conversation != self._thread.conversation:
            self.open_conversation(reply.conversation)
        self.answer(beside=reply.message if reply.content else reply.beside)

    def _set_busy(self, busy: bool) -> None:
        self.composer.set_busy(busy)
        self.transcript.set_busy(busy)

    # ---- actions on messages -----------------------------------------------------------------------------------

    def _act(self, name: str, message: int) -> None:
        if self._reply is not None or self._thread.conversation is None or self._thread.act(name, message):
            return
        if name == REGENERATE:
            self.answer(beside=message)
        elif name == CONTINUE:
            self.go_on(message)
        elif name == EDIT:
            self._tool = None
            self._drafts.edit(message, self.transcript.text_of(message))
        elif name in (TOKENS, SEED):
            row = next(row for row in self._thread.rows() if row.id == message)
            if name == SEED:
                self._use_seed(seed_of(row.stats))
            else:
                self._show_tokens(row)

    def _use_seed(self, seed: int) -> None:
        """The next answers are drawn with the seed of an earlier one."""
        panel = self.inspector.sampling_panel
        before = panel.spins["seed"].value()
        panel.use_seed(seed)
        words = self.tr("Answers are drawn with seed {0} from now on.").format(seed)
        undo = (self.tr("Undo"), lambda: panel.use_seed(before))
        self._context.notify.info(words, [undo])

    def _show_tokens(self, row: StoredMessage) -> None:
        """How sure the model was of each token of an answer."""
        rows = self._thread.rows()
        before = prompt_of(rows[: [each.id for each in rows].index(row.id)], self.inspector.system.toPlainText())
        TokenDialog(self._context, row, before, self._load, self).show()

    def _answer_as_tool(self, message: int, name: str) -> None:
        """A person answers in the place of the tool that the model wanted; no tool is ever run."""
        if self._reply is not None:
            return
        what = self.tr("In the place of the tool “{0}”: write or paste what it would have answered.").format(name)
        plain = self.tr("In the place of the tool: write or paste what it would have answered.")
        self._tool = message
        self._drafts.edit(message, "", what if name else plain)

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
        self.frame.new_button.setVisible(not show_left)
        self.frame.left_button.setChecked(show_left)
        self.frame.right_button.setChecked(show_right)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def sizeHint(self) -> QSize:
        return QSize(1192, 772)


def _words(text: str) -> str:
    """A message's first words, without the files that stand before them."""
    prose = [chunk.body for chunk in split(text, plain=True) if chunk.kind == "text"]
    return prose[0] if prose else text.splitlines()[0].strip("`")
