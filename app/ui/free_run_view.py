"""A model's own answer beside the reference's: tokens that the reference does not have there are shaded."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QWidget

from app.compare import align
from app.protocol import Alternative, ScoredToken
from app.ui import format as fmt
from app.ui.divergence_view import DivergenceView, quoted
from app.ui.theme import Theme

SHADE = 0.35
"""Tokens of other words are shaded like a divergence of so many nats."""


class FreeRunView(DivergenceView):
    """As :class:`DivergenceView`, over the model's own answer; the mark is where its answer leaves the reference's."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(theme, parent)
        self.setAccessibleName(self.tr("Own answer, token by token"))
        self._runs: list[align.Run] = []
        self._theirs: tuple[str, ...] = ()
        self._own: tuple[str, ...] = ()
        self._same: list[bool] = []
        self._told = False

    def set_answer(
        self,
        own: tuple[str, ...],
        theirs: tuple[str, ...],
        scored: Sequence[ScoredToken] = (),
        *,
        reference: bool = False,
    ) -> None:
        """Show ``own`` tokens against the reference's. ``scored`` tells their alternatives, where there are any."""
        if (own, theirs) == (self._own, self._theirs) and self.tokens():
            return
        self._own, self._theirs = own, theirs
        self._runs = align.align(theirs, own)
        self._same = [run.same for run in self._runs for _ in range(run.b1 - run.b0)]
        self._told = len(scored) == len(own)
        tokens = tuple(scored) if self._told else tuple(ScoredToken(text, 1.0, 0.0, True, (), ()) for text in own)
        common = align.common_prefix(theirs, own)
        first = common if common < len(own) and not reference else -1
        self.set_tokens(tokens, first, reference=reference)

    def clear_tokens(self) -> None:
        self._own, self._theirs, self._runs, self._same = (), (), [], []
        super().clear_tokens()

    def summary(self) -> str:
        """How much of it is the reference's, in a few words."""
        common = align.common_prefix(self._theirs, self._own)
        if self._own == self._theirs:
            return self.tr("The same answer")
        words = self.tr("Same for {0} tokens · {1} in common")
        return words.format(fmt.number(common), fmt.percent(align.shared(self._runs), 0))

    def counterpart(self, index: int, *, of_reference: bool) -> int:
        """The token that stands where the reference's token ``index`` does, or the other way round."""
        return align.counterpart(self._runs, index, of_a=of_reference)

    def words(self, index: int) -> str:
        number, text = index + 1, quoted(self._own[index])
        if self._reference:
            return self.tr("Token {0} {1} of the reference's answer.").format(number, text)
        there = self.counterpart(index, of_reference=False)
        if self._same[index]:
            return self.tr("Token {0} {1}: the reference says it too, as token {2}.").format(number, text, there + 1)
        if self._replaced(index):
            words = self.tr("Token {0} {1}: the reference says {2} there.").format(
                number, text, quoted(self._theirs[there])
            )
        else:
            words = self.tr("Token {0} {1}: the reference has nothing there.").format(number, text)
        return words + (" " + self.tr("Here they part.") if index == self._first else "")

    def _replaced(self, index: int) -> bool:
        return any(run.b0 <= index < run.b1 and run.a1 > run.a0 for run in self._runs)

    def shade_of(self, index: int) -> QColor:
        if self._reference or self._same[index]:
            return QColor(Qt.GlobalColor.transparent)
        return self._theme.shade(SHADE)

    def _is_far(self, index: int) -> bool:
        return not self._same[index] and (index == 0 or self._same[index - 1])

    def _sides(self, token: ScoredToken) -> list[tuple[str, tuple[Alternative, ...]]]:
        return [(self.tr("This model"), token.top)] if self._told else []


__all__ = ["FreeRunView"]
