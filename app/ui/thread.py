"""The conversation that is open: the branch of the store that the transcript shows, and what changes it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from app.store import Store, StoredMessage
from app.ui.reply import Reply, note_of, seed_of, unfinished
from app.ui.transcript import Transcript
from app.ui.transcript_actions import DELETE, NEXT, PREVIOUS
from app.ui.transcript_blocks import Entry
from app.ui.undo import UndoStack


class Thread(QObject):
    """``conversation`` is its id, ``None`` before the first message; ``reply`` the answer that is coming, in whichever
    conversation. ``name_of(path)`` is a model's name."""

    def __init__(
        self, store: Store, transcript: Transcript, undo: UndoStack, name_of: Callable[[str], str], parent: QObject
    ) -> None:
        super().__init__(parent)
        self.conversation: int | None = None
        self.reply: Reply | None = None
        self._store = store
        self._transcript = transcript
        self._undo = undo
        self._name_of = name_of

    def rows(self) -> list[StoredMessage]:
        """The messages of the branch that is shown."""
        return self._store.messages(self.conversation) if self.conversation is not None else []

    def open(self, conversation: int | None) -> None:
        """Show a conversation from its end, or an empty page."""
        self.conversation = conversation
        self._transcript.set_messages(self._entries())
        self._join(self.reply)

    def refresh(self) -> None:
        """The branch has changed: show it as it is now."""
        self._transcript.show_branch(self._entries())
        self._join(self.reply)

    def find(self, message: int, words: str) -> None:
        """Show the branch of a message, the message and the words in it."""
        if not self._transcript.has(message):
            self._store.choose(message)
            self.refresh()
        if self._transcript.has(message):
            self._transcript.find_words(message, words.split())

    def add(self, message: int, *, streaming: bool = False, json: bool = False) -> None:
        """A message that the store has just been given; ``json``: an answer that will be held to a schema."""
        entries = self._entries()
        self._transcript.show_branch(entries[:-1])
        if entries and entries[-1].key == message:
            self._transcript.append(
                entries[-1]._replace(note="", unfinished=False, seed=-1, json=json), streaming=streaming
            )

    def act(self, name: str, message: int) -> bool:
        """Another version, or a deletion. False if it is no such action."""
        if name in (PREVIOUS, NEXT):
            self._switch(message, 1 if name == NEXT else -1)
        elif name == DELETE:
            self._delete(message)
        else:
            return False
        return True

    def _entries(self) -> list[Entry]:
        rows = self.rows()
        own = self._store.conversation(self.conversation).model_path if self.conversation is not None else ""
        return [self._entry(row, own, last=row is rows[-1]) for row in rows]

    def _entry(self, row: StoredMessage, own: str, *, last: bool) -> Entry:
        path = str((row.stats or {}).get("model") or own) if row.role == "assistant" else ""
        note = note_of(self.tr, row.stats, row.partial)
        place = (row.alternatives.index(row.id) + 1, len(row.alternatives))
        cut = last and row.role == "assistant" and unfinished(row.stats, row.partial)
        name = self._name_of(path) if path else ""
        held = (row.stats or {}).get("constraint") == "schema"
        return Entry(row.id, row.role, row.content, name, note, place, cut, seed_of(row.stats), held)

    def _join(self, reply: Reply | None) -> None:
        """The answer that is coming goes on here, if it is of this branch."""
        if reply is not None and self._transcript.has(reply.message):
            self._transcript.reopen(reply.message)
            self._transcript.feed(reply.message, reply.content[len(self._transcript.text_of(reply.message)) :])

    def _switch(self, message: int, step: int) -> None:
        row = next((row for row in self.rows() if row.id == message), None)
        if row is None:
            return
        at = row.alternatives.index(message) + step
        if 0 <= at < len(row.alternatives):
            self._store.choose(row.alternatives[at])
            self.refresh()

    def _delete(self, message: int) -> None:
        """Remove a version with all that follows it; or, where there is only one, a message, a question with its
        answers, which would make no sense alone. What follows these stays."""
        conversation, rows = self.conversation, self.rows()
        row = next(row for row in rows if row.id == message)
        assert conversation is not None
        if len(row.alternatives) > 1:
            gone = self._store.subtree(conversation, message)
            at = row.alternatives.index(message)
            show = row.alternatives[at - 1 if at else 1]
        else:
            followed = self._store.all_messages(conversation) if row.role == "user" else []
            gone = [message, *(each.id for each in followed if each.parent == message and each.role == "assistant")]
            show = None
        head = self._store.head(conversation)
        self._store.hide_messages(gone)
        if show is not None:
            self._store.choose(show)
        self.refresh()
        one, many = self.tr("A message was deleted."), self.tr("{0} messages were deleted.").format(len(gone))
        self._undo.offer(one if len(gone) == 1 else many, lambda: self._restore(conversation, gone, head))

    def _restore(self, conversation: int, gone: list[int], head: int | None) -> None:
        self._store.unhide_messages(gone)
        self._store.set_head(conversation, head)
        if conversation == self.conversation:
            self.refresh()
