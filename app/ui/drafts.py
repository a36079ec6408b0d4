"""What is in the question's field: the draft of its conversation, an edit of an earlier question, files with tokens."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, QTimer

from app.protocol import ChatMessage
from app.store import Store, StoredMessage
from app.ui.attachments import TokenCounter
from app.ui.composer import Composer
from app.ui.engines import BUSY, READY, Engine
from app.ui.notify import Notify
from app.ui.reply import prompt_of
from app.ui.thread import Thread
from converter.spec import QuenchError

LONG = 1 << 16
"""Characters up to which a draft is kept with every key; a longer one in the next pause."""
PAUSE_MS = 400


class Drafts(QObject):
    """Keeps the composer's content in the store, each conversation's and each edit's apart. ``editing`` is the message
    that is being edited. ``system`` gives the system prompt, which has its part in what fits."""

    def __init__(
        self, store: Store, composer: Composer, thread: Thread, notify: Notify, system: Callable[[], str]
    ) -> None:
        super().__init__(composer)
        self.editing: int | None = None
        self._store = store
        self._composer = composer
        self._thread = thread
        self._notify = notify
        self._system = system
        self._counter = TokenCounter(self)
        self._counter.counted.connect(self._counted)
        self._counter.refused.connect(self._refuse)
        self._pause = QTimer(self, singleShot=True, interval=PAUSE_MS)
        self._pause.timeout.connect(self.keep)
        composer.changed.connect(self._changed)
        composer.edit_left.connect(self._edit_left)

    def keep(self, *, files: bool = False) -> None:
        """Store what is in the field, with ``files`` the attached ones too."""
        self._pause.stop()
        kept = self._composer.files() if files else None
        self._store.keep_draft(self._thread.conversation, self._composer.text(), kept, self.editing or 0)

    def leave(self) -> None:
        """Another conversation comes: what was written in this one is kept."""
        self.keep()
        self.editing = None

    def show(self) -> None:
        """Put the draft of the conversation that is shown into the field."""
        draft = self._store.draft(self._thread.conversation)
        self._composer.restore(draft.content, draft.files)
        self._count()

    def forget(self) -> None:
        """What is in the field is sent, or given up."""
        self._pause.stop()
        self._store.keep_draft(self._thread.conversation, "", (), self.editing or 0)

    def edit(self, message: int, text: str, note: str = "") -> None:
        """Edit an earlier question, or write what stands after a message (``note`` says what); what was left before
        goes on."""
        self.leave()
        self.editing = message
        kept = self._store.draft(self._thread.conversation, message)
        self._composer.begin_edit(kept.content or text, note)

    def follow(self, engine: Engine | None) -> None:
        """Files are counted by this engine from now on."""
        if engine is None or engine.state not in (READY, BUSY):
            self._counter.follow(None)
            self._composer.set_tokens(None, None)
        else:
            self._counter.follow(engine)
            self._count()

    # ---- inside

    def _changed(self, files: bool) -> None:
        if files or len(self._composer.text()) <= LONG:
            self.keep(files=files)
        else:
            self._pause.start()
        if files:
            self._count()

    def _edit_left(self) -> None:
        self.forget()
        self.editing = None
        self.show()

    def _count(self) -> None:
        """Ask for one file after the other: each is counted with those before it, which do fit."""
        for file in self._composer.uncounted():
            if self._counter.ask(file, self._prompt(file)):
                return

    def _prompt(self, file: tuple[str, str]) -> list[ChatMessage]:
        """What would be sent now with the files that are counted and this one."""
        rows = self._thread.rows()
        before = next((at for at, row in enumerate(rows) if row.id == self.editing), len(rows))
        asked = StoredMessage(0, "user", self._composer.question(file), None, False, 0.0)
        return prompt_of([*rows[:before], asked], self._system())

    def _counted(self, file: tuple[str, str], tokens: int) -> None:
        self._composer.set_tokens(file, tokens)
        self._count()

    def _refuse(self, file: tuple[str, str], error: QuenchError) -> None:
        self._composer.drop(file)  # which asks for the next
        self._notify.error(error)
