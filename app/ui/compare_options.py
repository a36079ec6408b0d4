"""What the Compare page does with a text, and how tokens are chosen."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSpinBox, QWidget

from app.protocol import Sampling

ASK, SCORE = "ask", "score"
GREEDY, SEED = "greedy", "seed"
MAX_TOKENS = 256


class CompareOptions(QWidget):
    """``changed`` when a choice was changed."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.what = QComboBox()
        self.what.setAccessibleName(self.tr("What is done with the text below"))
        self.what.addItem(self.tr("Ask all"), ASK)
        self.what.addItem(self.tr("Score this text"), SCORE)
        self.what.setToolTip(self.tr("Ask all models, or see how far they are apart on a text of your own."))
        self.how = QComboBox()
        self.how.setAccessibleName(self.tr("How tokens are chosen"))
        self.how.addItem(self.tr("Greedy"), GREEDY)
        self.how.addItem(self.tr("Same seed"), SEED)
        self.how.setToolTip(self.tr("Greedy takes the likeliest token; with the same seed all columns draw alike."))
        self.seed = QSpinBox()
        self.seed.setRange(0, 2_147_483_647)
        self.seed.setValue(42)
        self.seed.setAccessibleName(self.tr("Seed"))
        self.seed.setToolTip(self.tr("Seed"))
        self.max_tokens = QSpinBox()
        self.max_tokens.setRange(1, 8192)
        self.max_tokens.setValue(MAX_TOKENS)
        self.max_tokens.setSuffix(self.tr(" tokens"))
        self.max_tokens.setAccessibleName(self.tr("Most tokens of an answer"))
        self.max_tokens.setToolTip(self.tr("Most tokens of an answer"))
        for spin in (self.seed, self.max_tokens):
            spin.lineEdit().setAccessibleName(spin.accessibleName())  # it has the focus in the box's place
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        for widget in (self.what, self.how, self.seed, self.max_tokens):
            row.addWidget(widget)
        self.what.currentIndexChanged.connect(self._changed)
        self.how.currentIndexChanged.connect(self._changed)
        self._changed()

    @property
    def scores(self) -> bool:
        """Whether the text is scored as it is, instead of answered."""
        return self.what.currentData() == SCORE

    @property
    def greedy(self) -> bool:
        return self.how.currentData() == GREEDY

    def sampling(self, own: Sampling) -> Sampling:
        """Greedy, or as ``own`` with the seed."""
        length = self.max_tokens.value()
        if self.greedy:
            return Sampling(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, max_tokens=length)
        return Sampling(own.temperature, own.top_k, own.top_p, own.min_p, own.repeat_penalty, self.seed.value(), length)

    def _changed(self) -> None:
        self.seed.setVisible(not self.greedy)
        for widget in (self.how, self.seed, self.max_tokens):
            widget.setEnabled(not self.scores)
        self.changed.emit()


__all__ = ["MAX_TOKENS", "CompareOptions"]
