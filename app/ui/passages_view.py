"""The passages on which a candidate is farthest from the reference, word by word: what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QVBoxLayout, QWidget

from app.measure_messages import CandidateQuality, Passage, PassageToken
from app.protocol import Alternative, ScoredToken
from app.ui import format as fmt
from app.ui.divergence_view import DivergenceView, ShadeLegend
from app.ui.markdown import clean
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, icon_button, label

if TYPE_CHECKING:
    from PySide6.QtGui import QResizeEvent

    from app.ui.theme import Theme

ROOM = 300
"""Pixels of height from which on the legend has a place."""

BEFORE = 160
"""Characters of the text before a passage that are shown."""


class PassagesView(QWidget):
    """A candidate, its worst passages one at a time, each token shaded and explained."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._passages: tuple[Passage, ...] = ()
        self._place = 0
        self.model = QComboBox()
        self.model.setAccessibleName(self.tr("Model whose passages are shown"))
        self.back = icon_button(theme, "chevron-left", self.tr("Passage before"), lambda: self.go(self._place - 1))
        self.next = icon_button(theme, "chevron-right", self.tr("Next passage"), lambda: self.go(self._place + 1))
        self.where = ElidedLabel()
        self.before = ElidedLabel("", Qt.TextElideMode.ElideLeft)
        for quiet in (self.where, self.before):
            set_role(quiet, "muted")
        self.view = DivergenceView(theme)
        self.words = label("", "muted", wrap=True)
        self.legend = ShadeLegend(theme)
        self.legend.mark = False
        self.nothing = label(self.tr("Passages are there when the measurement is done"), "muted")
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.view.said.connect(self.words.setText)
        self.model.currentIndexChanged.connect(self._choose)
        head = QHBoxLayout()
        head.setSpacing(8)
        for widget in (self.model, self.back, self.next):
            head.addWidget(widget)
        head.addWidget(self.where, 1)
        self._shown = QWidget()
        inside = QVBoxLayout(self._shown)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(4)
        inside.addLayout(head)
        inside.addWidget(self.before)
        inside.addWidget(self.view, 1)
        inside.addWidget(self.words)
        inside.addWidget(self.legend)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 0)
        layout.addWidget(self._shown, 1)
        layout.addWidget(self.nothing, 1)
        self.set_results({}, [])

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.legend.setVisible(event.size().height() >= ROOM)

    def set_results(self, named: dict[str, str], candidates: list[CandidateQuality]) -> None:
        """``named`` has a short name for each candidate's key. Those without passages are not offered."""
        before = self.model.currentData()
        known = {item.key: item.passages for item in candidates if item.passages}
        self.model.blockSignals(True)
        self.model.clear()
        for path in sorted(known, key=lambda path: -known[path][0].kld):
            self.model.addItem(named.get(path) or Path(path).stem, path)
        self.model.setCurrentIndex(max(0, self.model.findData(before)))
        self.model.blockSignals(False)
        self._known = known
        self._shown.setVisible(bool(known))
        self.nothing.setVisible(not known)
        self._choose()

    def is_empty(self) -> bool:
        """Whether there is nothing to look at yet."""
        return not self._known

    def go(self, place: int) -> None:
        """Show the passage ``place``, from 0; beyond the ends nothing changes."""
        if not 0 <= place < len(self._passages):
            return
        self._place = place
        passage = self._passages[place]
        self.view.set_tokens(tuple(_scored(token) for token in passage.tokens), -1)
        self.words.setText(self.tr("Move the pointer or the arrow keys over the words."))
        self.before.setText("… " + clean(passage.before).replace("\n", "↵ ")[-BEFORE:])
        where = self.tr("{0} of {1} · {2}, window {3} · {4} nats").format(
            place + 1,
            len(self._passages),
            Path(passage.text).stem,
            passage.window + 1,
            fmt.significant(passage.kld, 2),
        )
        self.where.setText(where)
        self.where.setToolTip(
            self.tr("Mean divergence of the tokens {0} to {1} of the window").format(
                passage.position + 1, passage.position + len(passage.tokens)
            )
        )
        self.back.setEnabled(place > 0)
        self.next.setEnabled(place + 1 < len(self._passages))

    def _choose(self) -> None:
        self._passages = self._known.get(self.model.currentData(), ())
        self.view.clear_tokens()
        self.go(0)


def _scored(token: PassageToken) -> ScoredToken:
    """As the shaded view takes it."""
    return ScoredToken(
        text=token.text,
        probability=token.probability,
        kld=token.kld,
        agree=token.first == token.reference_first,
        top=_alternatives(token.first, token.first_probability, token.text, token.probability),
        reference_top=_alternatives(
            token.reference_first, token.reference_first_probability, token.text, token.reference_probability
        ),
    )


def _alternatives(first: str, first_probability: float, text: str, probability: float) -> tuple[Alternative, ...]:
    """The likeliest token, and the one that came unless it is the same."""
    likeliest = Alternative(first, first_probability)
    return (likeliest,) if text == first else (likeliest, Alternative(text, probability))
