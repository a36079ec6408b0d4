"""What the answers of a conversation must be: anything, JSON after a schema, or what a grammar allows."""

from __future__ import annotations

import shiboken6
from PySide6.QtCore import QSignalBlocker, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from app.chat_messages import GRAMMAR, SCHEMA, Constraint
from app.ui.attachments import read_text
from app.ui.context import Context
from app.ui.theme import set_role
from app.ui.widgets import button, label
from converter.spec import QuenchError

PAUSE_MS = 300
MAX_TEXT = 300_000
"""Characters that are taken from a file; what can be used is decided by the check."""

EXAMPLES = {
    SCHEMA: '{\n  "type": "object",\n  "properties": {\n    "answer": {"type": "string"},\n'
    '    "sure": {"type": "boolean"}\n  },\n  "required": ["answer", "sure"]\n}',
    GRAMMAR: 'root ::= "yes" | "no" | "perhaps"',
}


class ConstraintPanel(QWidget):
    """``changed`` when a person chose or wrote something else. The text is checked in the pauses, by the scout; the
    verdict stands under it. What was written of the other kind is kept while the program runs."""

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._texts = {SCHEMA: "", GRAMMAR: ""}
        self._request = 0
        self.valid: bool | None = None
        self.kind = QComboBox()
        self.kind.setAccessibleName(self.tr("Constraint"))
        self.kind.setToolTip(self.tr("What an answer must be. The model can then only write what fits."))
        for key, text in (
            ("", self.tr("None")),
            (SCHEMA, self.tr("JSON schema")),
            (GRAMMAR, self.tr("Grammar (GBNF)")),
        ):
            self.kind.addItem(text, key)
        self.kind.activated.connect(self._kind_chosen)
        self.text = QPlainTextEdit()
        self.text.setTabChangesFocus(True)
        self.text.setFont(context.theme.mono(12))
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.text.setFixedHeight(132)
        self.text.textChanged.connect(self._edited)
        self.verdict = label("", "small", wrap=True)
        self.example_button = button(self.tr("Example"), self._show_example, "link")
        self.file_button = button(self.tr("From a file…"), self._ask_file, "link")
        below = QHBoxLayout()
        below.setContentsMargins(0, 0, 0, 0)
        below.setSpacing(12)
        below.addWidget(self.example_button)
        below.addWidget(self.file_button)
        below.addStretch(1)
        self._editor = QWidget()
        column = QVBoxLayout(self._editor)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.text)
        column.addWidget(self.verdict)
        column.addLayout(below)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.kind)
        layout.addWidget(self._editor)
        self._pause = QTimer(self, singleShot=True, interval=PAUSE_MS)
        self._pause.timeout.connect(self._check)
        self._show_kind()

    def constraint(self) -> Constraint:
        """What is set now; an empty text is no constraint."""
        kind, text = str(self.kind.currentData()), self.text.toPlainText()
        return Constraint(kind, text) if kind and text.strip() else Constraint()

    def set_constraint(self, constraint: Constraint) -> None:
        """Show a conversation's constraint; no ``changed`` comes for it."""
        if constraint == self.constraint() and constraint.kind == self.kind.currentData():
            return
        self._keep()
        self.kind.setCurrentIndex(max(0, self.kind.findData(constraint.kind)))
        if constraint.kind in self._texts:
            self._texts[constraint.kind] = constraint.text
        self._show_kind()

    # ---- inside

    def _keep(self) -> None:
        if self._shown in self._texts:
            self._texts[self._shown] = self.text.toPlainText()

    def _kind_chosen(self) -> None:
        self._keep()
        self._show_kind()
        self.changed.emit()
        if self.kind.currentData():
            self.text.setFocus()

    def _show_kind(self) -> None:
        self._shown = kind = str(self.kind.currentData())
        self._editor.setVisible(bool(kind))
        names = {SCHEMA: self.tr("JSON schema"), GRAMMAR: self.tr("Grammar")}
        hints = {
            SCHEMA: self.tr("A JSON schema. The answer will be JSON of this shape."),
            GRAMMAR: self.tr("Rules in GBNF; “root” is where an answer begins."),
        }
        self.text.setAccessibleName(names.get(kind, self.tr("Constraint")))
        self.text.setPlaceholderText(hints.get(kind, ""))
        with QSignalBlocker(self.text):
            self.text.setPlainText(self._texts.get(kind, ""))
        self._check()

    def _edited(self) -> None:
        self._say("", self.tr("…"), None)
        self._pause.start()
        self.changed.emit()

    def _check(self) -> None:
        self._pause.stop()
        if self._request:
            self._context.scout.forget(self._request)
            self._request = 0
        constraint = self.constraint()
        self.example_button.setVisible(not constraint.kind)
        if not constraint.kind:
            self._say("small", self.tr("Nothing is asked for while this is empty.") if self._shown else "", None)
            return
        self._request = self._context.scout.check_constraint(constraint, self._checked)

    def _checked(self, answer: int | QuenchError) -> None:
        if not shiboken6.isValid(self):
            return  # the page has gone in the meantime
        self._request = 0
        if isinstance(answer, QuenchError):
            self._say("bad", answer.detail or answer.title, False)
        elif answer == 1:
            self._say("good", self.tr("This can be used: a grammar of 1 rule."), True)
        else:
            self._say("good", self.tr("This can be used: a grammar of {0} rules.").format(answer), True)

    def _say(self, role: str, text: str, valid: bool | None) -> None:
        self.valid = valid
        set_role(self.verdict, role or "small")
        self.verdict.setText(text)
        self.text.setAccessibleDescription(text)

    def _show_example(self) -> None:
        self.text.setPlainText(EXAMPLES[self._shown])
        self.text.setFocus()

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Read a constraint"))
        if path:
            self.read_file(path)

    def read_file(self, path: str) -> None:
        """Take the text from a file; one that is no text, or too long, is refused with a reason."""
        try:
            text = read_text(path, self.tr)
        except QuenchError as error:
            self._context.notify.error(error)
            return
        self.text.setPlainText(text[:MAX_TEXT])
