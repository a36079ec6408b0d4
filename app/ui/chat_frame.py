"""The middle of the Chat page: title and panel buttons above, messages or a start, the question's field below."""

from __future__ import annotations

import json

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QScrollArea, QStackedWidget, QToolButton, QVBoxLayout, QWidget

import resources
from app.chat_messages import GRAMMAR, SCHEMA
from app.ui.composer import Composer
from app.ui.context import Context
from app.ui.first_start import PocketStart
from app.ui.theme import set_role
from app.ui.transcript import Transcript
from app.ui.widgets import ElidedLabel, EmptyState, ErrorCard, ProgressLine, button, icon_button

WIDE = 1040
"""Below this width the inspector steps aside, below ``NARROW`` the conversations too, until they are called."""
NARROW = 720


class ChatFrame(QWidget):
    """Widgets and their places; what they do is the page's. ``stack`` shows one of the three faces."""

    side_wanted = Signal(str, bool)
    new_wanted = Signal()
    suggested = Signal(str)
    pocket_wanted = Signal()
    file_wanted = Signal()
    held_wanted = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        theme = context.theme
        self.left_button = self._toggle("panel-left", self.tr("Conversations"), "left")
        self.right_button = self._toggle("panel-right", self.tr("Inspector"), "right")
        self.heading = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self.heading.setFont(theme.font(15, True))
        self.new_button = icon_button(theme, "add", self.tr("New chat"), self.new_wanted.emit)
        head = QHBoxLayout()
        head.setContentsMargins(8, 8, 8, 4)
        head.setSpacing(8)
        head.addWidget(self.left_button)
        head.addWidget(self.heading, 1)
        self.held_button = button("", self.held_wanted.emit, "link")
        self.held_button.hide()
        head.addWidget(self.held_button)
        head.addWidget(self.new_button)
        head.addWidget(self.right_button)
        self.transcript = Transcript(theme)
        self.pocket = PocketStart(context)
        self.suggestions: list[QPushButton] = []
        self.stack = QStackedWidget()
        self.stack.setMinimumHeight(64)  # an error's card below it comes first
        self.stack.addWidget(self._make_no_model())
        self.stack.addWidget(self._make_suggestions())
        self.stack.addWidget(self.transcript)
        self.progress = ProgressLine()
        self.progress.hide()
        self.error = ErrorCard()
        self.composer = Composer(context)
        foot = QVBoxLayout()
        foot.setContentsMargins(16, 0, 16, 12)
        foot.setSpacing(8)
        for part in (self.pocket, self.progress, self.error, self.composer):
            foot.addWidget(part)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self.stack, 1)
        layout.addLayout(foot)
        self.setMinimumWidth(320)

    def show_face(self, *, conversation: bool, model: bool) -> None:
        """The messages of a conversation; else questions to begin with, or where to get a model."""
        if conversation:
            self.stack.setCurrentWidget(self.transcript)
        else:
            self.stack.setCurrentIndex(1 if model else 0)

    def show_held(self, kind: str) -> None:
        """Say above the messages that the answers are held to something; ``kind`` as in a constraint."""
        names = {SCHEMA: self.tr("JSON schema"), GRAMMAR: self.tr("Grammar")}
        self.held_button.setText(names.get(kind, ""))
        words = self.tr("The answers of this conversation are held to this: {0}. Show it.").format(names.get(kind, ""))
        self.held_button.setToolTip(words)
        self.held_button.setAccessibleName(words)
        self.held_button.setVisible(kind in names)

    def _toggle(self, icon: str, name: str, side: str) -> QToolButton:
        made = icon_button(self._context.theme, icon, name)
        made.setCheckable(True)
        made.clicked.connect(lambda checked=False: self.side_wanted.emit(side, checked))
        return made

    def _make_no_model(self) -> QWidget:
        return EmptyState(
            "chat",
            self.tr("No model yet"),
            self.tr("Chat with Pocket, the small model that comes with Quench, or open a GGUF file of your own."),
            [
                (self.tr("Chat with Pocket"), self.pocket_wanted.emit),
                (self.tr("Open a file…"), self.file_wanted.emit),
            ],
            theme=self._context.theme,
        )

    def _make_suggestions(self) -> QWidget:
        page = EmptyState("chat", self.tr("What would you like to know?"), theme=self._context.theme)
        grid = QVBoxLayout()
        grid.setSpacing(8)
        for text in suggestions():
            made = button(text, lambda text=text: self.suggested.emit(text))
            self.suggestions.append(made)
            grid.addWidget(made, 0, Qt.AlignmentFlag.AlignHCenter)
        body = page.layout()
        body.insertSpacing(body.count() - 1, 8)
        body.insertLayout(body.count() - 1, grid)
        set_role(page, "page")
        area = QScrollArea()  # in a low window, above an error's card, they would be pressed together
        area.setWidget(page)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        return area


def suggestions() -> list[str]:
    """Questions to begin with, as they ship; none if the file is not there or not what it should be."""
    try:
        found = json.loads(resources.path("texts/questions.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    listed = found.get("suggestions", []) if isinstance(found, dict) else []
    return [text for text in listed if isinstance(text, str)]
