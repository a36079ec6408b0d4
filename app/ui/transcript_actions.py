"""What can be done with a message, and the small bar that offers it."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QToolButton, QWidget

from app.ui.theme import Theme, set_role

COPY, REGENERATE, EDIT, CONTINUE, DELETE = "copy", "regenerate", "edit", "continue", "delete"
TOKENS, TOOL, SEED = "tokens", "tool", "seed"
"""How sure the model was; an answer in a tool's place; drawing with the same seed again."""
PREVIOUS, NEXT = "previous", "next"
"""The other versions of a message: under it, in its menu, and with Alt+Left and Alt+Right."""


class MessageActions(QFrame):
    """The small bar at the head of the message under the pointer or the keyboard's message."""

    chosen = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        set_role(self, "popover")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.setSpacing(0)
        self._buttons: dict[str, QToolButton] = {}
        for name, icon, text in self._table():
            made = QToolButton(self)
            theme.set_icon(made, icon, "muted")
            made.setToolTip(text)
            made.setAccessibleName(text)
            made.setFixedSize(28, 28)
            made.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # by keyboard: Alt+Up, then a letter or the menu key
            made.clicked.connect(lambda checked=False, name=name: self.chosen.emit(name))
            layout.addWidget(made)
            self._buttons[name] = made
        self.hide()

    def _table(self) -> list[tuple[str, str, str]]:
        return [
            (COPY, "copy", self.tr("Copy message")),
            (EDIT, "edit", self.tr("Edit and ask again")),
            (REGENERATE, "retry", self.tr("Answer again")),
            (CONTINUE, "play", self.tr("Continue this answer")),
            (TOKENS, "chart", self.tr("Show tokens and probabilities")),
            (DELETE, "trash", self.tr("Delete message")),
        ]

    def menu_table(self) -> list[tuple[str, str]]:
        """(name, text) of all that a message's menu may have."""
        return [
            *((name, text) for name, _, text in self._table()),
            (TOOL, self.tr("Answer as the tool")),
            (SEED, self.tr("Use this seed")),
            (PREVIOUS, self.tr("Previous version")),
            (NEXT, self.tr("Next version")),
        ]

    def offer(self, names: list[str]) -> None:
        for name, made in self._buttons.items():
            made.setVisible(name in names)
        self.adjustSize()
