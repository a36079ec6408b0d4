"""Where a question is written: grows with its text, takes files, becomes the Stop button while an answer comes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PySide6.QtCore import QEvent, QSignalBlocker, QSize, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent
from PySide6.QtWidgets import QFileDialog, QFrame, QHBoxLayout, QPlainTextEdit, QSizePolicy, QVBoxLayout, QWidget

from app.ui import format as fmt
from app.ui.attachments import fenced, read_text
from app.ui.context import Context
from app.ui.theme import set_role
from app.ui.widgets import button, drop_paths, icon_button, label
from converter.spec import QuenchError

MAX_LINES = 8


class File(NamedTuple):
    """A file that goes with the question. ``tokens``: ``None`` until the engine has counted it."""

    name: str
    content: str
    tokens: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.content


class _Field(QPlainTextEdit):
    """The text itself. ``submitted`` when the key that sends was pressed."""

    submitted = Signal()
    files = Signal(list)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        set_role(self, "plain")
        self.setTabChangesFocus(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.document().setDocumentMargin(8)
        self.document().documentLayout().documentSizeChanged.connect(lambda size: self._fit())
        self._fit()

    def _fit(self) -> None:
        """As high as the text, up to ``MAX_LINES``."""
        needed = int(self.document().size().height())
        lines = max(1, min(needed, MAX_LINES))
        bar = Qt.ScrollBarPolicy.ScrollBarAsNeeded if needed > MAX_LINES else Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        self.setVerticalScrollBarPolicy(bar)
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + 16)

    def resizeEvent(self, event: object) -> None:
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange:
            self._fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            held = event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
            control = held == Qt.KeyboardModifier.ControlModifier
            bare = held == Qt.KeyboardModifier.NoModifier
            if control or (bare and self._context.settings.enter_sends):
                self.submitted.emit()
                return
            if control or bare or held == Qt.KeyboardModifier.ShiftModifier:
                self.insertPlainText("\n")
                self.ensureCursorVisible()
                return
        if event.key() == Qt.Key.Key_Escape:
            event.ignore()
            return
        super().keyPressEvent(event)

    def insertFromMimeData(self, source: object) -> None:
        self.insertPlainText(source.text())

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if drop_paths(event):
            event.acceptProposedAction()
        else:
            super().dragEnterEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:
        paths = drop_paths(event)
        if paths:
            event.acceptProposedAction()
            self.files.emit(paths)
        else:
            super().dropEvent(event)


class Composer(QFrame):
    """``sent(text)`` with the files in front of the words; ``stopped`` when Stop was pressed; ``edit_left`` when an
    edit was given up; ``changed(files)`` when the words, or the files too, are others than before."""

    changed = Signal(bool)
    sent = Signal(str)
    stopped = Signal()
    edit_left = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._busy = False
        self._files: list[File] = []
        set_role(self, "card")
        self.field = _Field(context)
        self.field.setAccessibleName(self.tr("Message"))
        self.field.submitted.connect(self._submit)
        self.field.files.connect(self.attach_all)
        self.field.textChanged.connect(self._text_changed)
        self.attach_button = icon_button(context.theme, "attach", self.tr("Attach a text file"), self._ask_file)
        self.send_button = button(self.tr("Send"), self._submit, "primary")
        context.theme.set_icon(self.send_button, "send", "on_accent")
        self.send_button.setIconSize(QSize(16, 16))
        self.stop_button = button(self.tr("Stop"), self.stopped.emit)
        context.theme.set_icon(self.stop_button, "stop")
        self.stop_button.setIconSize(QSize(16, 16))
        self.stop_button.setToolTip(self.tr("Stop the answer (Esc)"))
        self._banner = self._make_banner()
        self._chips = QWidget()
        self._chip_row = QHBoxLayout(self._chips)
        self._chip_row.setContentsMargins(8, 0, 8, 0)
        self._chip_row.setSpacing(8)
        self._chips.hide()
        row = QHBoxLayout()
        row.setContentsMargins(8, 4, 8, 8)
        row.setSpacing(8)
        row.addWidget(self.attach_button, 0, Qt.AlignmentFlag.AlignBottom)
        row.addWidget(self.field, 1, Qt.AlignmentFlag.AlignBottom)
        row.addWidget(self.send_button, 0, Qt.AlignmentFlag.AlignBottom)
        row.addWidget(self.stop_button, 0, Qt.AlignmentFlag.AlignBottom)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self._banner)
        layout.addWidget(self._chips)
        layout.addLayout(row)
        context.settings_changed.connect(self._show_hint)
        self._show_hint()
        self.set_busy(False)

    def _make_banner(self) -> QWidget:
        banner = QWidget()
        row = QHBoxLayout(banner)
        row.setContentsMargins(12, 0, 8, 0)
        self._banner_text = label("", "small", wrap=True)
        row.addWidget(self._banner_text, 1)
        self._banner_button = button(self.tr("Cancel edit"), self.leave_edit, "link")
        row.addWidget(self._banner_button)
        banner.hide()
        return banner

    # ---- for the page

    def text(self) -> str:
        return self.field.toPlainText()

    def set_text(self, text: str) -> None:
        self.field.setPlainText(text)
        self.field.moveCursor(self.field.textCursor().MoveOperation.End)

    def set_busy(self, busy: bool) -> None:
        """While an answer comes the button stops it."""
        self._busy = busy
        self.send_button.setVisible(not busy)
        self.stop_button.setVisible(busy)
        self._refresh()

    def begin_edit(self, text: str, note: str = "") -> None:
        """Put an earlier question into the field, or begin something else that ``note`` describes; the files of a draft
        wait until that is over."""
        self.restore("")
        editing = self.tr("Editing a question: sending it begins a branch, the earlier one stays.")
        self._banner_text.setText(note or editing)
        self._banner_button.setText(self.tr("Cancel") if note else self.tr("Cancel edit"))
        self._banner.show()
        self.set_text(text)
        self.field.setFocus()

    def editing(self) -> bool:
        return not self._banner.isHidden()

    def leave_edit(self) -> None:
        """Give the edit up."""
        if self.editing():
            self._banner.hide()
            self.edit_left.emit()

    def files(self) -> tuple[tuple[str, str], ...]:
        """The files (name, content) that go with the question."""
        return tuple(file.key for file in self._files)

    def uncounted(self) -> list[tuple[str, str]]:
        """Those whose tokens are not known."""
        return [file.key for file in self._files if file.tokens is None]

    def set_tokens(self, key: tuple[str, str] | None, tokens: int | None) -> None:
        """What the engine has counted for a file; for all of them with ``None``."""
        self._files = [file._replace(tokens=tokens) if key in (None, file.key) else file for file in self._files]
        self._show_chips()

    def drop(self, key: tuple[str, str]) -> None:
        """Take a file away again."""
        if key in self.files():
            self._drop(self.files().index(key))

    def question(self, last: tuple[str, str] | None = None) -> str:
        """The files and the words, as they are sent; with ``last`` of the files only those counted, and this one."""
        files = [file for file in self._files if last is None or file.tokens is not None or file.key == last]
        return "\n".join([*(fenced(file.name, file.content) for file in files), self.text().strip()]).strip()

    def restore(self, text: str, files: tuple[tuple[str, str], ...] = ()) -> None:
        """Take up a draft; no ``changed`` comes for it."""
        self._banner.hide()
        self._files = [File(name, content) for name, content in files]
        with QSignalBlocker(self):
            self.set_text(text)
            self._show_chips()

    def attach(self, path: str) -> None:
        """Take a text file with the next question; one that is none, or too long, is refused with a reason."""
        try:
            content = read_text(path, self.tr)
        except QuenchError as error:
            self._context.notify.error(error)
            return
        self._files.append(File(Path(path).name, content))
        self._show_chips()
        self.changed.emit(True)
        self.field.setFocus()

    def attach_all(self, paths: list[str]) -> None:
        for path in paths:
            self.attach(path)

    # ---- inside

    def _submit(self) -> None:
        if self._busy or not self.question():
            return
        self.sent.emit(self.question())

    def _ask_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileNames(self, self.tr("Attach text files"))
        self.attach_all(chosen)

    def _show_chips(self) -> None:
        while self._chip_row.count():
            item = self._chip_row.takeAt(0)
            if item.widget() is not None:
                item.widget().deleteLater()
        for position, file in enumerate(self._files):
            size = fmt.size(len(file.content.encode()))
            length = size if file.tokens is None else self.tr("{0} tokens").format(fmt.number(file.tokens))
            chip = button(f"{file.name} · {length}  ✕", lambda position=position: self._drop(position), "quiet")
            chip.setToolTip(self.tr("Remove {0}").format(file.name))
            chip.setAccessibleName(chip.toolTip())
            self._chip_row.addWidget(chip)
        self._chip_row.addStretch(1)
        self._chips.setVisible(bool(self._files))
        self._refresh()

    def _drop(self, position: int) -> None:
        del self._files[position]
        self._show_chips()
        self.changed.emit(True)

    def _text_changed(self) -> None:
        self._refresh()
        self.changed.emit(False)

    def _refresh(self) -> None:
        self.send_button.setEnabled(not self._busy and bool(self.text().strip() or self._files))

    def _show_hint(self) -> None:
        if self._context.settings.enter_sends:
            hint, keys = self.tr("Ask anything"), self.tr("Enter sends, Shift+Enter begins a new line.")
        else:
            hint, keys = self.tr("Ask anything"), self.tr("Ctrl+Enter sends, Enter begins a new line.")
        self.field.setPlaceholderText(hint)
        self.field.setToolTip(keys)
        self.send_button.setToolTip(keys)
