"""Two small windows on one metadata value: all of a long one, page by page, and one to change it."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QPlainTextEdit,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)

from app.inspect_messages import PAGE, PAGE_CHARACTERS, MetadataEntry, ReadValue, ValueRead
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.inspect_reader import Reader
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, button, label
from converter.spec import QuenchError

NUMBERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")
TYPES = ("string", "bool", *NUMBERS)


def type_for_edit(kind: str) -> str:
    """``ARRAY INT32`` -> ``[int32]``, ``STRING`` -> ``string``: how ``--override-kv`` writes a type."""
    return f"[{kind.removeprefix('ARRAY ').lower()}]" if kind.startswith("ARRAY ") else kind.lower()


class EditDialog(QDialog):
    """One key, its type and its value. ``changed`` carries them when they can be stored."""

    changed = Signal(str, str, str)

    def __init__(self, context: Context, key: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._forget: Callable[[], None] = lambda: None
        self.setWindowTitle(self.tr("Edit a key") if key else self.tr("Add a key"))
        self.setMinimumSize(520, 320)
        self.key = QLineEdit(key)
        self.key.setAccessibleName(self.tr("Key"))
        self.key.setReadOnly(bool(key))
        self.kind = QComboBox()
        self.kind.setAccessibleName(self.tr("Type"))
        self.kind.addItems([*TYPES, *(f"[{kind}]" for kind in TYPES)])
        self.value = QPlainTextEdit()
        self.value.setAccessibleName(self.tr("Value"))
        self.value.setFont(context.theme.mono(12))
        self.value.setTabChangesFocus(True)
        self.trouble = label("", "bad", wrap=True)
        self.trouble.hide()
        form = QFormLayout()
        form.setVerticalSpacing(8)
        form.addRow(self.tr("Key"), self.key)
        form.addRow(self.tr("Type"), self.kind)
        form.addRow(self.tr("Value"), self.value)
        self.ok = button(self.tr("OK"), self.accept, "primary")
        row = QHBoxLayout()
        row.addWidget(label(self.tr("A list is written as JSON: [1, 2]"), "small"))
        row.addStretch(1)
        row.addWidget(button(self.tr("Cancel"), self.reject))
        row.addWidget(self.ok)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(12)
        layout.addLayout(form, 1)
        layout.addWidget(self.trouble)
        layout.addLayout(row)
        (self.value if key else self.key).setFocus()

    def set_value(self, kind: str, value: str) -> None:
        self.kind.setCurrentText(kind)
        self.value.setPlainText(value)

    def wait_for(self, reader: Reader, path: str, entry: MetadataEntry) -> None:
        """A long text is read first; one that is too long for a field cannot be edited here."""
        self.kind.setCurrentText(type_for_edit(entry.type))
        self.value.setEnabled(False)
        self.ok.setEnabled(False)
        subject = f"edit {id(self)}"
        self._forget = lambda: reader.forget(subject)
        reader.ask(subject, lambda number: ReadValue(number, path, entry.key), self._read)

    def _read(self, answer: ValueRead | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self._say(answer)
        elif answer.total > PAGE_CHARACTERS:
            self._say(
                QuenchError("too_long", self.tr("This text is too long to be edited here."), hint="--override-kv")
            )
        else:
            self.set_value(type_for_edit(answer.type), "".join(answer.items))
            self.value.setEnabled(True)
            self.ok.setEnabled(True)
            self.value.setFocus()

    def done(self, result: int) -> None:
        self._forget()
        super().done(result)

    def accept(self) -> None:
        from converter.options import parse_override

        key, kind, value = self.key.text().strip(), self.kind.currentText(), self.value.toPlainText()
        try:
            if "=" in key:
                raise QuenchError("bad_override", self.tr("A key has no equals sign in its name."))
            parse_override(f"{key}={kind}:{value}")
        except QuenchError as error:
            self._say(error)
            return
        self.changed.emit(key, kind, value)
        super().accept()

    def _say(self, error: QuenchError) -> None:
        self.trouble.setText(f"{error.title} {error.detail[:300]}".strip())
        self.trouble.show()


class PagesDialog(QDialog):
    """A long value: items of a list with their numbers, or a text, a page at a time."""

    def __init__(self, context: Context, reader: Reader, path: str, entry: MetadataEntry, parent: QWidget) -> None:
        super().__init__(parent)
        self._reader, self._path, self._entry = reader, path, entry
        self._step = PAGE if isinstance(entry.value, list) else PAGE_CHARACTERS
        self._subject = f"page {id(self)}"
        self._start = 0
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(entry.key)
        self.resize(640, 520)
        self.list = QListWidget()
        self.list.setAccessibleName(entry.key)
        self.list.setFont(context.theme.mono(12))
        self.list.setUniformItemSizes(True)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName(entry.key)
        self.text.setFont(context.theme.mono(12))
        self.error = ErrorCard()
        self._stack = QStackedLayout()
        for part in (self.list, self.text, self.error):
            self._stack.addWidget(part)
        self.place = label("", "muted")
        self.back = button(self.tr("Previous"), lambda: self.go(self._start - self._step))
        self.forth = button(self.tr("Next"), lambda: self.go(self._start + self._step))
        row = QHBoxLayout()
        row.setSpacing(8)
        for made in (self.back, self.forth, self.place):
            row.addWidget(made)
        row.addStretch(1)
        row.addWidget(button(self.tr("Close"), self.close))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(12)
        title = ElidedLabel(entry.key)
        set_role(title, "heading")
        layout.addWidget(title)
        layout.addLayout(self._stack, 1)
        layout.addLayout(row)
        self.go(0)

    def done(self, result: int) -> None:
        self._reader.forget(self._subject)
        super().done(result)

    def go(self, start: int) -> None:
        """Show the page that begins at item or character ``start``."""
        self._start = max(0, start)
        self.back.setEnabled(False)
        self.forth.setEnabled(False)
        self._reader.ask(
            self._subject, lambda number: ReadValue(number, self._path, self._entry.key, self._start), self._answered
        )

    def _answered(self, answer: ValueRead | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self.error.show_error(answer, [(self.tr("Retry"), lambda: self.go(self._start))])
            self._stack.setCurrentWidget(self.error)
            return
        is_list = answer.type.startswith("ARRAY")
        if is_list:
            self.list.clear()
            width = len(str(answer.start + len(answer.items)))
            self.list.addItems([f"{answer.start + n:{width}}  {text!r}" for n, text in enumerate(answer.items)])
        else:
            self.text.setPlainText("".join(answer.items))
        self._stack.setCurrentWidget(self.list if is_list else self.text)
        shown = len(answer.items) if is_list else sum(map(len, answer.items))
        what = self.tr("Items {0} to {1} of {2}") if is_list else self.tr("Characters {0} to {1} of {2}")
        last = answer.start + shown
        self.place.setText(what.format(*map(fmt.number, (answer.start, max(last - 1, answer.start), answer.total))))
        self.back.setEnabled(answer.start > 0)
        self.forth.setEnabled(last < answer.total)
