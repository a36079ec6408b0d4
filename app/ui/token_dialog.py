"""An answer as its tokens: each shaded by how likely it was, with what else could have come beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import shiboken6
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QHBoxLayout, QVBoxLayout, QWidget

from app.chat_messages import Likely, TokenChoice
from app.protocol import Alternative, ChatMessage, Failed, Scored, ScoredToken
from app.store import StoredMessage
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.divergence_view import TICKS, DivergenceView, ShadeLegend, quoted
from app.ui.engines import Engine
from app.ui.reply import unpack
from app.ui.widgets import ErrorCard, ProgressLine, button, label
from converter.spec import QuenchError

MAX_SHOWN = 10_000
"""Tokens that are drawn; the figures are of all."""


class ProbabilityLegend(ShadeLegend):
    """The same shades over the same scale, in probabilities: a nat of surprise is a factor of e."""

    mark = False
    ticks = tuple(tick for tick in TICKS if tick[0] != 0.05)

    def __init__(self, context: Context) -> None:
        super().__init__(context.theme)
        self.title = self.tr("Probability")
        self.setAccessibleName(
            self.tr("Legend: tokens are shaded by their probability, from clear at 100 % to the strongest at 14 %.")
        )

    def caption(self, tick: float, digits: int) -> str:
        return fmt.percent(math.exp(-tick), 0)


class ProbabilityView(DivergenceView):
    """Tokens with probabilities; keys, pointer and words are the divergence view's."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.theme)
        self.setAccessibleName(self.tr("Probabilities, token by token"))

    def show_choices(self, choices: Sequence[TokenChoice]) -> None:
        """Show the tokens of an answer."""
        self.set_tokens(tuple(_scored(choice) for choice in choices), -1)

    def words(self, index: int) -> str:
        token = self.tokens()[index]
        sentence = self.tr("Token {0} {1}: probability {2}.").format(
            index + 1, quoted(token.text) if token.text else self.tr("(part of a character)"), _share(token.probability)
        )
        others = [f"{quoted(each.text)} {_share(each.probability)}" for each in token.top]
        return f"{sentence} {self.tr('Likeliest: {0}.').format(', '.join(others))}" if others else sentence

    def _sides(self, token: ScoredToken) -> list[tuple[str, tuple[Alternative, ...]]]:
        top = list(token.top)
        title = self.tr("Likeliest here")
        if top and token.probability < top[-1].probability * 0.999:
            top[-1] = Alternative(token.text, token.probability)
            title = self.tr("Likeliest, and what came")
        return [(title, tuple(top))]


class TokenDialog(QDialog):
    """Shows what was recorded with an answer, or offers to compute it with the model; ``engine`` gives that, loading it
    if need be. Deleted when closed, which ends a computation."""

    def __init__(
        self,
        context: Context,
        answer: StoredMessage,
        before: list[ChatMessage],
        engine: Callable[[], Engine | None],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._answer = answer
        self._before = before
        self._load = engine
        self._engine: Engine | None = None
        self._request = 0
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Tokens of the answer"))
        self.resize(760, 520)
        self.summary = label("", "muted", wrap=True)
        self.legend = ProbabilityLegend(context)
        self.view = ProbabilityView(context)
        self.said = label("", "", wrap=True)
        self.said.setMinimumHeight(40)
        self.said.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.view.said.connect(self.said.setText)
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._give_up)
        self.progress.hide()
        self.error = ErrorCard()
        self.compute_button = button(self.tr("Compute them now"), self.compute, "primary")
        close = button(self.tr("Close"), self.close)
        foot = QHBoxLayout()
        foot.addWidget(self.compute_button)
        foot.addStretch(1)
        foot.addWidget(close)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 16, 20, 16)
        layout.setSpacing(12)
        parts: tuple[QWidget, ...] = (
            self.summary, self.legend, self.view, self.said, self.progress, self.error,
        )  # fmt: skip
        for part in parts:
            layout.addWidget(part, 1 if part is self.view else 0)
        layout.addLayout(foot)
        packed = context.store.choices(answer.id)
        choices = unpack(packed) if packed else ()
        if choices:
            self._show(choices, self.tr("Recorded while it was written."))
        else:
            self._show_nothing()

    def compute(self) -> None:
        """Let the model go through the answer again."""
        engine = self._load()
        if engine is None or self._request:
            return
        self.error.clear()
        self._engine = engine
        engine.scored.connect(self._scored)
        engine.failed.connect(self._failed)
        engine.destroyed.connect(self._give_up)
        self._request = engine.score(self._before, self._answer.content)
        self.compute_button.hide()
        self.progress.set_progress(None, self.tr("The model reads the answer again"))
        self.progress.show()

    def done(self, result: int) -> None:
        self._give_up()
        super().done(result)

    # ---- inside

    def _show_nothing(self) -> None:
        self.summary.setText(
            self.tr("The probabilities of this answer were not recorded. The model can compute them from its text: it "
                    "reads the conversation up to here again.")
        )  # fmt: skip
        self.legend.hide()
        self.said.hide()
        self.view.hide()
        self.compute_button.setVisible(bool(self._answer.content.strip()))

    def _show(self, choices: Sequence[TokenChoice], how: str) -> None:
        first = sum(not choice.top or choice.probability >= choice.top[0].probability * 0.999 for choice in choices)
        surprise = sum(_nats(choice.probability) for choice in choices) / max(1, len(choices))
        words = self.tr(
            "{0} tokens, {1} of them the model's first choice; perplexity {2}. {3} Probabilities are the model's own, "
            "before temperature, cuts and constraints. Arrow keys go from token to token."
        )
        share = fmt.percent(first / max(1, len(choices)), 0)
        self.summary.setText(words.format(fmt.number(len(choices)), share, fmt.number(math.exp(surprise), 2), how))
        for part in (self.legend, self.said, self.view):
            part.show()
        self.compute_button.hide()
        if len(choices) > MAX_SHOWN:
            cut = self.tr("Only the first {0} are shown.").format(fmt.number(MAX_SHOWN))
            self.summary.setText(f"{self.summary.text()} {cut}")
        self.view.show_choices(choices[:MAX_SHOWN])
        self.view.setFocus()

    def _scored(self, event: Scored) -> None:
        if event.request == self._request and self._engine is not None:
            how = self.tr("Computed now by {0} from its text, which was split into tokens anew.")
            name = Path(self._engine.path).stem
            self._let_go()
            choices = [TokenChoice(token.text, token.probability, _likely(token)) for token in event.tokens]
            self._show(choices, how.format(name))

    def _failed(self, failure: Failed | QuenchError) -> None:
        request = failure.request if isinstance(failure, Failed) else self._request
        if request != self._request:
            return
        self._let_go()
        self.compute_button.show()
        error = failure.to_error() if isinstance(failure, Failed) else failure
        if error.code != "cancelled":
            self.error.show_error(error, [])

    def _give_up(self) -> None:
        engine, request = self._engine, self._request
        if engine is not None:
            self._let_go()
            self.compute_button.show()
            if shiboken6.isValid(engine):
                engine.stop(request)

    def _let_go(self) -> None:
        engine, self._engine, self._request = self._engine, None, 0
        if engine is not None and shiboken6.isValid(engine):  # another model may have been chosen meanwhile
            engine.destroyed.disconnect(self._give_up)
            engine.scored.disconnect(self._scored)
            engine.failed.disconnect(self._failed)
        self.progress.hide()


def _scored(choice: TokenChoice) -> ScoredToken:
    top = tuple(Alternative(each.text, each.probability) for each in choice.top)
    return ScoredToken(choice.text, choice.probability, _nats(choice.probability), True, top, ())


def _likely(token: ScoredToken) -> tuple[Likely, ...]:
    return tuple(Likely(each.text, each.probability) for each in token.top)


def _nats(probability: float) -> float:
    return -math.log(max(probability, 1e-12))


def _share(probability: float) -> str:
    return fmt.percent(probability, 1 if probability < 0.1 else 0)
