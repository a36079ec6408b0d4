"""A conversation on one page: a single text document, in which only the end of the last answer is ever written again.

Streamed text is taken at any rate and drawn at once, then at most once in 40 ms; an update that was dear is followed by
a longer pause, so that writing and painting take less than a hundredth of a core.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from PySide6.QtCore import QEvent, QMimeData, QPoint, QRect, QRectF, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import (
    QAction,
    QColor,
    QGuiApplication,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QShowEvent,
    QTextBlock,
    QTextCharFormat,
    QTextCursor,
    QTextTable,
)
from PySide6.QtWidgets import QFrame, QMenu, QTextBrowser, QTextEdit, QWidget

from app.marks import THOUGHT_END
from app.ui.link_box import confirm
from app.ui.markdown import Block, Run, clean, split, with_open_thought
from app.ui.theme import Theme, set_role
from app.ui.transcript_actions import (
    CONTINUE,
    COPY,
    DELETE,
    EDIT,
    NEXT,
    PREVIOUS,
    REGENERATE,
    SEED,
    TOKENS,
    TOOL,
    MessageActions,
)
from app.ui.transcript_blocks import (
    JSON_BEGINS,
    JSON_FENCE,
    MAX_SHOWN,
    Entry,
    Message,
    blocks_of,
    call_of,
    mark_blocks,
    note_block,
    shown_of,
)
from app.ui.transcript_style import KEY, KIND, PAD, QUOTE, ROLE, Formats

FLUSH_MS, SLOWEST_MS = 40, 180
LATE_MS = 160
"""What may be drawn again waits so long for the next text: then all that a message changes is painted at once."""
SHARE = 150
"""New text is followed by a pause of this many times the processor's time that writing and painting it took: an
engine's threads, which may be on every core, wait for each other, and what is taken from one is taken from all."""
MARGIN = 40
"""Pixels above and below what is to be painted in which blocks may have a surface that reaches into it."""
MAX_MARKS = 200
MEASURE = 820
"""The widest column of text, in pixels: longer lines are hard to read."""


class Transcript(QTextBrowser):
    """Messages from top to bottom. Keys are the caller's numbers (the store's ids).

    ``action(name, key)`` asks the page to ``regenerate``, ``edit``, ``continue`` or ``delete``, for the ``previous``
    or ``next`` version of a message, for its ``tokens`` or to take its ``seed``; ``tool_wanted(key, name)`` wants to
    answer in a tool's place. Copying is done here.
    ``editable`` False (the Compare page) leaves only copying.
    """

    action = Signal(str, int)
    tool_wanted = Signal(int, str)

    def __init__(self, theme: Theme, parent: QWidget | None = None, *, editable: bool = True) -> None:
        super().__init__(parent)
        self._theme = theme
        self._editable = editable
        self._busy = False
        self._messages: list[Message] = []
        self._formats = Formats(theme)
        self._hovered: int | None = None
        self._current: int | None = None
        self._cost = self._paint_cost = 0.0
        self._drawn = 0.0
        self._touched: int | None = None
        self._ground = "background"
        set_role(self, "plain")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setAccessibleName(self.tr("Conversation"))
        self.setOpenLinks(False)
        self.setUndoRedoEnabled(False)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextBrowserInteraction | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWordWrapMode(self.wordWrapMode().WrapAtWordBoundaryOrAnywhere)
        self._page_margins()
        self.viewport().setMouseTracking(True)
        # Painted whole by paintEvent: nothing behind it is painted with every word, and scrolling moves pixels.
        self.viewport().setAttribute(Qt.WidgetAttribute.WA_OpaquePaintEvent)
        self.anchorClicked.connect(self._clicked)
        self._timer = QTimer(self, singleShot=True, timerType=Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self.flush)
        self._bar = MessageActions(theme, self)
        self._bar.chosen.connect(self._chosen)
        self.verticalScrollBar().valueChanged.connect(self._place_bar)
        theme.changed.connect(self._restyle)

    # ---- messages ----------------------------------------------------------------------------------------------

    def add(self, key: int, role: str, text: str, *, name: str = "", note: str = "", streaming: bool = False) -> None:
        """Append a message; with ``streaming`` its text grows by :meth:`feed` until :meth:`finish`."""
        self.append(Entry(key, role, text, name, note), streaming=streaming)

    def append(self, entry: Entry, *, streaming: bool = False) -> None:
        """Like :meth:`add`."""
        follow = self.at_bottom()
        if self._messages and self._messages[-1].unfinished:
            self._messages[-1].unfinished = False
            self._rewrite(len(self._messages) - 1)
        message = _message(entry)
        message.streaming = streaming
        self._messages.append(message)
        self._edit(lambda: self._write_message(message), follow)

    def set_messages(self, entries: list[Entry]) -> None:
        """Show other messages; ends at the bottom."""
        self.clear_messages()
        self._messages = [_message(entry) for entry in entries]
        self._edit(self._write_all, True)

    def show_branch(self, entries: list[Entry]) -> None:
        """Show another branch of the same conversation: what both have stays where it is, and so does the page."""
        same = 0
        while same < min(len(entries), len(self._messages)) and _is_shown(self._messages[same], entries[same]):
            same += 1
        if not self._messages or not entries:
            self.set_messages(entries)
            return
        value = self.verticalScrollBar().value()
        held = self._messages[same].key if same < len(self._messages) else None
        start = self._messages[same].start if same < len(self._messages) else None
        self._messages[same:] = [_message(entry) for entry in entries[same:]]

        def write() -> None:
            if start is not None:
                self._cut(start)
            for message in self._messages[same:]:
                self._write_message(message)

        self._edit(write, False)
        if held is not None and self._current == held and same < len(entries):
            self._current = entries[same].key  # the keyboard stays at this place
        self._forget_gone()
        self.verticalScrollBar().setValue(value)
        self._place_bar()

    def clear_messages(self) -> None:
        """An empty page."""
        self._timer.stop()
        self._messages.clear()
        self._current = self._hovered = None
        self._bar.hide()
        self.setExtraSelections([])
        self.document().clear()
        self._page_margins()

    def _page_margins(self) -> None:
        frame = self.document().rootFrame()
        form = frame.frameFormat()
        form.setMargin(0)
        form.setTopMargin(12)
        form.setBottomMargin(12)
        frame.setFrameFormat(form)

    def feed(self, key: int, text: str) -> None:
        """More text of a streaming message; drawn at once, or a little later when some was drawn just before."""
        message = self._message(key)
        message.text += text
        if len(message.shown) < MAX_SHOWN:
            begins = not message.shown and message.json and text.lstrip().startswith(JSON_BEGINS)
            message.shown += (JSON_FENCE if begins else "") + clean(text)
            if message.shown.startswith(JSON_FENCE):
                pass  # in JSON a mark is a part of some text
            elif THOUGHT_END.search(message.shown[-len(text) - 40 :]) and not message.shown.startswith("<think>\n"):
                fixed = with_open_thought(message.shown)
                if fixed is not message.shown:
                    message.shown = fixed
                    self._rewrite(self._messages.index(message))
        pause = min(SLOWEST_MS, max(FLUSH_MS, 1000 * SHARE * (self._cost + self._paint_cost)))
        wait = round(pause - 1000 * (time.monotonic() - self._drawn))
        if wait <= 0:
            self.flush()
        elif not self._timer.isActive():
            self._timer.start(wait + LATE_MS)

    def finish(self, key: int, note: str = "", *, unfinished: bool = False, seed: int = -1) -> None:
        """The message is whole; ``note`` is the muted line under it, ``unfinished`` offers to go on."""
        message = self._message(key)
        message.unfinished, message.seed = unfinished, seed
        follow = self.at_bottom()

        def close() -> None:
            self._stream(message)
            message.streaming = False
            message.note = note
            self._settle(message)

        if message is self._messages[-1] and message.streaming:
            self._edit(close, follow)
        else:
            message.streaming, message.note = False, note
            self._rewrite(self._messages.index(message))

    def reopen(self, key: int) -> None:
        """Let an answer grow again (continue)."""
        message = self._message(key)
        message.streaming, message.note, message.unfinished = True, "", False
        self._rewrite(self._messages.index(message))

    def remove_from(self, key: int) -> None:
        """Take this message and all after it off the page."""
        index = self._messages.index(self._message(key))
        start = self._messages[index].start
        del self._messages[index:]
        self._forget_gone()
        self._edit(lambda: self._cut(start), self.at_bottom())

    def remove(self, key: int) -> None:
        """Take one message off the page."""
        index = self._messages.index(self._message(key))
        start = self._messages[index].start
        del self._messages[index]
        self._forget_gone()

        def write() -> None:
            self._cut(start)
            for message in self._messages[index:]:
                self._write_message(message)

        self._edit(write, self.at_bottom())

    def keys(self) -> list[int]:
        return [message.key for message in self._messages]

    def has(self, key: int) -> bool:
        return any(message.key == key for message in self._messages)

    def streaming(self, key: int) -> bool:
        return any(message.key == key and message.streaming for message in self._messages)

    def text_of(self, key: int) -> str:
        """The message as it came, Markdown and all."""
        return self._message(key).text

    def find_words(self, key: int, words: list[str]) -> None:
        """Go to a message and mark the words in it, until another message is shown or a key is pressed."""
        at = self.keys().index(key)
        end = self._messages[at + 1].start if at + 1 < len(self._messages) else self._end().position()
        mark = QTextCharFormat()
        mark.setBackground(QColor(self._theme.tokens.accent_soft))
        mark.setForeground(QColor(self._theme.tokens.text))
        marks: list[QTextEdit.ExtraSelection] = []
        first = None
        for word in words:
            cursor = self.document().find(word, self._messages[at].start)
            while not cursor.isNull() and cursor.position() <= end and len(marks) < MAX_MARKS:
                first = cursor if first is None or cursor.position() < first.position() else first
                selection = QTextEdit.ExtraSelection()
                selection.cursor, selection.format = cursor, mark
                marks.append(selection)
                cursor = self.document().find(word, cursor)
        self.setExtraSelections(marks)
        target = QTextCursor(first) if first is not None else QTextCursor(self.document())
        target.setPosition(target.selectionStart() if first is not None else self._messages[at].start)
        self.setTextCursor(target)
        self._current = key
        area = self._area(target.block())
        bar = self.verticalScrollBar()
        bar.setValue(bar.value() + round(area.top() - self.viewport().height() / 3))
        self._place_bar()

    def set_busy(self, busy: bool) -> None:
        """While an answer is coming only copying is offered."""
        self._busy = busy
        self._place_bar()

    def flush(self) -> None:
        """Draw what was fed since the last time."""
        self._timer.stop()
        waiting = [message for message in self._messages if message.streaming]
        if not waiting:
            return
        begun = time.thread_time()
        with self._painting_what_changes():
            self._edit(lambda: self._stream(waiting[-1]), follow=False)  # the page's height is told afterwards
        self._cost, self._drawn = time.thread_time() - begun, time.monotonic()

    @contextlib.contextmanager
    def _painting_what_changes(self) -> Iterator[None]:
        """Paint from the first line that changes on. A paragraph that grows is laid out whole, and the layout would
        have all of it painted."""
        self._touched = None
        layout, bar = self.document().documentLayout(), self.verticalScrollBar()
        size, follow = layout.documentSize(), self.at_bottom()
        layout.blockSignals(True)
        try:
            yield
        finally:
            layout.blockSignals(False)
        now = layout.documentSize()
        if now != size:
            layout.documentSizeChanged.emit(now)
            if follow:
                bar.setValue(bar.maximum())
        self._paint_from(self._touched, max(size.height(), now.height()))

    def _paint_from(self, position: int | None, end: float) -> None:
        """Have the page painted from the line above ``position``, a word of which may have moved, to ``end``."""
        if position is None:
            return
        block = self.document().findBlock(position)
        line = block.layout().lineForTextPosition(position - block.position())
        top = self._area(block).top() + (line.y() - line.height() if line.isValid() else 0) - MARGIN
        bottom = end - self.verticalScrollBar().value()
        self.viewport().update(QRectF(0, top, self.viewport().width(), bottom - top).toAlignedRect())

    # ---- writing the document ----------------------------------------------------------------------------------

    def at_bottom(self) -> bool:
        """Is the end of the conversation in sight?"""
        bar = self.verticalScrollBar()
        return bar.value() >= bar.maximum() - 8

    def _edit(self, write: Any, follow: bool) -> None:
        cursor = QTextCursor(self.document())
        cursor.beginEditBlock()
        write()
        cursor.endEditBlock()
        if follow:
            bar = self.verticalScrollBar()
            bar.setValue(bar.maximum())
        self._place_bar()

    def _rewrite(self, index: int) -> None:
        value, follow = self.verticalScrollBar().value(), self.at_bottom()

        def write() -> None:
            self._cut(self._messages[index].start)
            for message in self._messages[index:]:
                self._write_message(message)

        self._edit(write, follow)
        if not follow:
            self.verticalScrollBar().setValue(value)

    def _end(self) -> QTextCursor:
        cursor = QTextCursor(self.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        return cursor

    def _cut(self, position: int) -> None:
        """Remove everything from ``position`` on; an empty paragraph is left to write into."""
        cursor = QTextCursor(self.document())
        cursor.setPosition(position)
        cursor.movePosition(QTextCursor.MoveOperation.End, QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()
        cursor.setBlockFormat(self._formats.rest)
        cursor.setBlockCharFormat(self._formats.rest_text)

    def _write_message(self, message: Message) -> None:
        message.start = self._end().position()
        message.open_from, message.in_list, message.open, message.colours = 0, False, [], {}
        message.call = ""
        for block in mark_blocks(message):
            self._put(block, message, "mark")
        self._put(
            Block("label", (Run(message.name or self._role_name(message.role), bold=True, role="muted"),)), message
        )
        self._stream(message)
        if not message.streaming:
            self._settle(message)

    def _write_all(self) -> None:
        for message in self._messages:
            self._write_message(message)

    def _settle(self, message: Message) -> None:
        """Close the last chunk and write the line under the message."""
        last = self._editable and message is self._messages[-1]
        block = note_block(message, self.tr, last=last)
        if block is not None:
            self._put(block, message)

    def _stream(self, message: Message) -> None:
        """Write what is new: the open chunk as it is now, and the chunks after it."""
        plain = message.role != "assistant"
        source = message.shown[message.open_from :]
        wanted: list[Block] = []
        open_at, open_from, in_list = 0, message.open_from, message.in_list
        for chunk in split(source, plain=plain, in_list=in_list, whole=open_from == 0):
            open_at = len(wanted)
            final = chunk.closed or not message.streaming
            if chunk.kind == "call" and final:
                message.call = f"{message.open_from + chunk.start}.0"
            wanted += blocks_of(chunk, message, self.tr, plain=plain, final=final)
            if final:
                open_at, open_from, in_list = len(wanted), message.open_from + chunk.end, chunk.in_list
            else:
                open_from = message.open_from + chunk.start
        positions = self._update(message, wanted)
        message.open = list(zip(wanted[open_at:], positions[open_at:], strict=True))
        message.open_from, message.in_list = open_from, in_list

    def _update(self, message: Message, wanted: list[Block]) -> list[int]:
        """Bring the open part of the document to ``wanted`` with the least writing; returns each block's position."""
        have = message.open
        same = 0
        while same < len(have) and same < len(wanted) and have[same][0] == wanted[same]:
            same += 1
        positions = [position for _, position in have[:same]]
        if wanted != [block for block, _ in have]:
            self._touched = have[same][1] if same < len(have) else self._end().position()
        if same < len(have):
            if same == len(have) - 1 and same < len(wanted) and self._grow(have[same], wanted[same], message):
                positions.append(have[same][1])
                same += 1
            else:
                self._cut(have[same][1])
        positions.extend(self._put(block, message) for block in wanted[same:])
        return positions

    def _grow(self, have: tuple[Block, int], wanted: Block, message: Message) -> bool:
        """Append to the last block instead of writing it again, where that is all that changed."""
        old, position = have
        if wanted.kind == "table" and old.kind == "table" and old.marker == wanted.marker:
            return self._grow_table(position, old, wanted, message)
        count = len(old.runs)
        if not count or old._replace(runs=()) != wanted._replace(runs=()) or len(wanted.runs) < count:
            return False
        last, now = old.runs[-1], wanted.runs[count - 1]
        if old.runs[:-1] != wanted.runs[: count - 1] or last[1:] != now[1:] or not now.text.startswith(last.text):
            return False
        cursor = self._end()
        cursor.movePosition(QTextCursor.MoveOperation.PreviousCharacter)
        self._touched = cursor.position()
        for run in (now._replace(text=now.text[len(last.text) :]), *wanted.runs[count:]):
            if run.text:
                cursor.insertText(run.text, self._formats.char(run, wanted))
        return True

    def _put(self, block: Block, message: Message, role: str = "") -> int:
        """Write a block at the end, as a part of the message or in another ``role``; returns its position."""
        cursor = self._end()
        position = cursor.position()
        if block.kind == "table":
            self._put_table(cursor, block, message)
            return position
        formats = self._formats
        cursor.setBlockFormat(formats.block(block, message.key, role or message.role))
        if block.marker and block.kind == "item":
            cursor.insertText(f"{block.marker}\t", formats.char(Run(""), block))
        for run in block.runs:
            cursor.insertText(run.text, formats.char(run, block))
        if not block.runs:
            cursor.setBlockCharFormat(formats.char(Run("", code=block.kind == "code"), block))
        cursor.insertBlock(formats.rest, formats.rest_text)
        return position

    def _put_table(self, cursor: QTextCursor, block: Block, message: Message) -> None:
        columns = max(len(row) for row in block.rows)
        table = cursor.insertTable(len(block.rows), columns, self._formats.table(columns, message.key, message.role))
        for row, cells in enumerate(block.rows):
            self._fill(table, row, cells, block, message)

    def _fill(self, table: QTextTable, row: int, cells: tuple[Any, ...], block: Block, message: Message) -> None:
        for column, runs in enumerate(cells):
            cell = table.cellAt(row, column)
            if row == 0:
                form = cell.format()
                form.setBackground(self._formats.header_cell)
                cell.setFormat(form)
            cursor = cell.firstCursorPosition()
            cursor.setPosition(cell.lastCursorPosition().position(), QTextCursor.MoveMode.KeepAnchor)
            if cursor.hasSelection():
                cursor.removeSelectedText()
            cursor.setBlockFormat(self._formats.cell(block.marker[column : column + 1], message.key, message.role))
            for run in runs:
                cursor.insertText(run.text, self._formats.char(run, block))

    def _grow_table(self, position: int, old: Block, wanted: Block, message: Message) -> bool:
        cursor = QTextCursor(self.document())
        cursor.setPosition(position + 1)
        table = cursor.currentTable()
        if table is None or table.rows() != len(old.rows) or len(wanted.rows) < len(old.rows):
            return False
        if len(wanted.rows) > len(old.rows):
            table.appendRows(len(wanted.rows) - len(old.rows))
        for row, cells in enumerate(wanted.rows):
            if row >= len(old.rows) or cells != old.rows[row]:
                self._fill(table, row, cells, wanted, message)
        return True

    def _role_name(self, role: str) -> str:
        return {"user": self.tr("You"), "system": self.tr("System"), "tool": self.tr("Tool")}.get(
            role, self.tr("Answer")
        )

    # ---- links and actions -------------------------------------------------------------------------------------

    def loadResource(self, kind: int, name: QUrl) -> Any:
        """Nothing is ever loaded: a model's words must not make the program read files or the network."""
        return None

    def _clicked(self, url: QUrl) -> None:
        address = url.toString()
        if address.startswith("quench:"):
            verb, key, offset = address.removeprefix("quench:").split("/")
            message = next((m for m in self._messages if m.key == int(key)), None)
            if message is None:
                return
            if verb in (TOOL, "callcopy"):
                self._call_clicked(verb, message, offset)
            elif verb == COPY:
                self._copy_code(message, int(offset))
            elif verb == "fold":
                message.unfolded ^= {int(offset)}
                self._rewrite(self._messages.index(message))
            else:
                self.act(verb, message.key)
        elif url.scheme() in {"http", "https"}:
            confirm(url, self)

    def _copy_code(self, message: Message, offset: int) -> None:
        chunks = split(message.shown[offset:], plain=message.role != "assistant")
        if chunks:
            QGuiApplication.clipboard().setText(chunks[0].body)

    def _call_clicked(self, verb: str, message: Message, place: str) -> None:
        call = call_of(message, place)
        if call is None:
            return
        if verb == TOOL:
            if not self._busy:
                self.tool_wanted.emit(message.key, call.name)
        else:
            QGuiApplication.clipboard().setText(call.arguments)

    def createMimeDataFromSelection(self) -> Any:
        """Copy plain text: colours of our theme have no place in another program's document."""
        data = QMimeData()
        data.setText(self.textCursor().selection().toPlainText())
        return data

    def actions_for(self, key: int) -> list[str]:
        """What can be done with a message now."""
        if not self._editable or self._busy:
            return [COPY]
        message = self._message(key)
        at, count = message.place
        versions = [*([PREVIOUS] if at > 1 else []), *([NEXT] if at < count else [])]
        if message.role == "user":
            return [COPY, EDIT, DELETE, *versions]
        if message.role != "assistant":
            return [COPY, DELETE, *versions]
        last = message is self._messages[-1]
        more = [*([TOOL] if message.call else []), *([SEED] if message.seed >= 0 else [])]
        return [COPY, REGENERATE, *([CONTINUE] if last else []), TOKENS, DELETE, *more, *versions]

    def _chosen(self, name: str) -> None:
        key = self._acting()
        if key is not None:
            self.act(name, key)

    def act(self, name: str, key: int) -> None:
        """Do or ask for an action on a message."""
        if name not in self.actions_for(key):
            return
        if name == COPY:
            QGuiApplication.clipboard().setText(self._message(key).text)
        elif name == TOOL:
            self._call_clicked(TOOL, self._message(key), self._message(key).call)
        else:
            self.action.emit(name, key)

    def _acting(self) -> int | None:
        current = self._current if self.hasFocus() else None
        return next((key for key in (self._hovered, current) if key is not None and self.has(key)), None)

    def _message(self, key: int) -> Message:
        for message in reversed(self._messages):
            if message.key == key:
                return message
        raise KeyError(key)

    def _forget_gone(self) -> None:
        keys = set(self.keys())
        self._hovered = self._hovered if self._hovered in keys else None
        self._current = self._current if self._current in keys else None

    # ---- pointer and keyboard ----------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        super().mouseMoveEvent(event)
        self._hover(self._key_at(event.position().toPoint()))

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._hover(None)

    def focusInEvent(self, event: Any) -> None:
        super().focusInEvent(event)
        self._place_bar()

    def focusOutEvent(self, event: Any) -> None:
        super().focusOutEvent(event)
        self._place_bar()

    def _hover(self, key: int | None) -> None:
        if key != self._hovered:
            self._hovered = key
            self._place_bar()

    def _key_at(self, point: QPoint) -> int | None:
        block = self.cursorForPosition(point).block()
        key = block.blockFormat().intProperty(KEY)
        return key or None

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Up: -1, Qt.Key.Key_Down: 1}.get(Qt.Key(event.key()))
        if step and event.modifiers() & Qt.KeyboardModifier.AltModifier and self._messages:
            self._step(step)
            return
        key = self._current
        if key is not None and self.has(key):
            version = (
                _VERSIONS.get(Qt.Key(event.key())) if event.modifiers() & Qt.KeyboardModifier.AltModifier else None
            )
            if version:
                self.act(version, key)
                return
            if event.matches(QKeySequence.StandardKey.Copy) and not self.textCursor().hasSelection():
                self.act(COPY, key)
                return
            plain = event.modifiers() == Qt.KeyboardModifier.NoModifier
            name = _KEYS.get(Qt.Key(event.key())) if plain else None
            if name and name in self.actions_for(key):
                self.act(name, key)
                return
        super().keyPressEvent(event)

    def _step(self, step: int) -> None:
        keys = self.keys()
        at = keys.index(self._current) if self._current in keys else (len(keys) if step < 0 else -1)
        at = min(max(at + step, 0), len(keys) - 1)
        self._current = keys[at]
        self._hovered = None
        message = self._messages[at]
        cursor = QTextCursor(self.document())
        cursor.setPosition(message.start)
        self.setTextCursor(cursor)
        self.ensureCursorVisible()
        self._place_bar()
        self.viewport().update()

    def contextMenuEvent(self, event: Any) -> None:
        key = self._key_at(event.pos()) if event.reason() == event.Reason.Mouse else self._current
        menu = self.createStandardContextMenu(event.pos())
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if key is not None and self.has(key):
            self._fill_menu(menu, key)
        menu.popup(event.globalPos())

    def _fill_menu(self, menu: QMenu, key: int) -> None:
        first = menu.actions()[0] if menu.actions() else None
        offered = self.actions_for(key)
        for name, text in self._bar.menu_table():
            if name in offered:
                made = QAction(text, menu)
                made.triggered.connect(lambda checked=False, name=name: self.act(name, key))
                menu.insertAction(first, made)
        if first is not None:
            menu.insertSeparator(first)

    def _place_bar(self) -> None:
        key = self._acting()
        if key is None:
            self._bar.hide()
            return
        self._bar.offer(self.actions_for(key))
        block = self.document().findBlock(self._message(key).start)
        area = self._area(block)
        top = max(area.top() - 4, 2)
        bottom = self._message_bottom(key)
        origin = self.viewport().pos()
        if bottom < 0 or area.top() > self.viewport().height():
            self._bar.hide()
            return
        self._bar.move(origin.x() + self.viewport().width() - self._bar.width() - 10, origin.y() + round(top))
        self._bar.show()
        self._bar.raise_()

    def _message_bottom(self, key: int) -> float:
        index = self.keys().index(key)
        if index + 1 == len(self._messages):
            return float(self.viewport().height())
        return self._area(self.document().findBlock(self._messages[index + 1].start)).top()

    # ---- drawing -----------------------------------------------------------------------------------------------

    def _area(self, block: QTextBlock) -> QRectF:
        """A block's rectangle on the viewport."""
        offset = self.verticalScrollBar().value()
        return self.document().documentLayout().blockBoundingRect(block).translated(0, -offset)

    def paintEvent(self, event: QPaintEvent) -> None:
        begun = time.thread_time()
        self._paint_behind(event.rect())
        super().paintEvent(event)
        self._paint_cost = time.thread_time() - begun

    def _paint_behind(self, dirty: QRect) -> None:
        """The ground, surfaces behind questions and code, bars beside quotes, rules: only what is to be painted."""
        painter = QPainter(self.viewport())
        tokens = self._theme.tokens
        painter.fillRect(dirty, QColor(getattr(tokens, self._ground)))
        if not self._messages:
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width = self.viewport().width()
        layout, offset = self.document().documentLayout(), self.verticalScrollBar().value()
        at_end = self.at_bottom()  # as while an answer comes
        block = self.document().lastBlock() if at_end else self.cursorForPosition(QPoint(0, dirty.top())).block()
        while block.previous().isValid():  # a surface is painted from its beginning, or from above what is in sight
            bottom = layout.blockBoundingRect(block).bottom() - offset
            form = block.blockFormat()
            surface = form.stringProperty(ROLE) == "user" or form.stringProperty(KIND) in _SURFACES
            if bottom <= 0 or (bottom <= dirty.top() - MARGIN and not surface):
                break
            block = block.previous()
        spans: dict[str, list[tuple[int, float, float, float]]] = {"user": [], "code": []}
        rows: list[tuple[QRectF, str, int, float]] = []
        while block.isValid():
            area = layout.blockBoundingRect(block).translated(0, -offset)
            if area.top() > dirty.bottom() + MARGIN:
                break
            form = block.blockFormat()
            key, kind = form.intProperty(KEY), form.stringProperty(KIND)
            if key and form.stringProperty(ROLE) == "user":
                _span(spans["user"], key, area, 0, joined=True)
            if kind in _SURFACES:
                _span(spans["code"], key, area, form.leftMargin() - PAD, joined=kind == "code")
            if form.intProperty(QUOTE) or kind == "rule":
                rows.append((area, kind, form.intProperty(QUOTE), form.bottomMargin()))
            block = block.next()
        painter.setPen(Qt.PenStyle.NoPen)
        for _, top, bottom, _left in spans["user"]:
            painter.setBrush(QColor(tokens.raised))
            painter.drawRoundedRect(QRectF(0, top - 8, width, bottom - top + 16), 6, 6)
        for _, top, bottom, left in spans["code"]:
            painter.setPen(QPen(QColor(tokens.border), 1))
            painter.setBrush(QColor(tokens.surface))
            painter.drawRoundedRect(QRectF(left + 0.5, top - 7.5, width - left - PAD - 1, bottom - top + 15), 6, 6)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(tokens.border))
        for area, kind, bars, gap in rows:
            if kind == "rule":
                painter.drawRect(QRectF(PAD, area.center().y(), width - 2 * PAD, 1))
            for bar in range(bars):
                painter.drawRect(QRectF(PAD + 14 * bar + 1, area.top(), 3, area.height() + gap))
        height = self.viewport().height()
        if self.hasFocus() and self._current is not None and self.has(self._current):
            top = self._area(self.document().findBlock(self._message(self._current).start)).top() - 4
            painter.setBrush(QColor(tokens.accent))
            painter.drawRect(QRectF(0, top, 2, min(self._message_bottom(self._current), height) - top - 8))
        painter.end()

    def showEvent(self, event: QShowEvent) -> None:
        parent = self.parentWidget()
        while parent is not None and parent.property("role") != "card":
            parent = parent.parentWidget()
        self._ground = "background" if parent is None else "surface"
        super().showEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        follow = self.at_bottom()
        bar = self.verticalScrollBar().sizeHint().width()
        side = max((self.width() - bar - MEASURE) // 2, 8)
        self.setViewportMargins(side, 0, side, 0)
        super().resizeEvent(event)
        if follow:
            self.verticalScrollBar().setValue(self.verticalScrollBar().maximum())
        self._place_bar()

    def _restyle(self) -> None:
        self._formats = Formats(self._theme)
        if self._messages:
            self._rewrite(0)
        self.viewport().update()


def _message(entry: Entry) -> Message:
    return Message(
        entry.key,
        entry.role,
        entry.name,
        entry.text,
        entry.note,
        shown=shown_of(entry.text, entry.json),
        json=entry.json,
        place=entry.place,
        unfinished=entry.unfinished,
        seed=entry.seed,
        mark=entry.mark,
    )


def _is_shown(message: Message, entry: Entry) -> bool:
    shown = Entry(
        message.key, message.role, message.text, message.name, message.note, message.place, message.unfinished,
        message.seed, message.json, message.mark,
    )  # fmt: skip
    return not message.streaming and shown == entry


_SURFACES = frozenset({"code", "code_head"})
_VERSIONS = {Qt.Key.Key_Left: PREVIOUS, Qt.Key.Key_Right: NEXT}
_KEYS = {
    Qt.Key.Key_R: REGENERATE,
    Qt.Key.Key_E: EDIT,
    Qt.Key.Key_C: CONTINUE,
    Qt.Key.Key_T: TOKENS,
    Qt.Key.Key_Delete: DELETE,
}
"""Keys on the message that Alt+Up and Alt+Down have chosen."""


def _span(spans: list[tuple[int, float, float, float]], key: int, area: QRectF, left: float, *, joined: bool) -> None:
    """Add a block to the run of blocks above it, or begin a new run."""
    if joined and spans and spans[-1][0] == key:
        _, top, bottom, first_left = spans[-1]
        spans[-1] = (key, min(top, area.top()), max(bottom, area.bottom()), first_left)
    else:
        spans.append((key, area.top(), area.bottom(), left))
