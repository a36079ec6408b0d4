"""One column of the Compare page: a model, its answer or its divergence, and its figures."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.protocol import Tokens
from app.remote.address import is_remote
from app.ui import format as fmt
from app.ui.compare_run import ANSWERING, DONE, FAILED, LOADING, SCORING, STOPPED, WAITING, Part, summary
from app.ui.context import Context
from app.ui.divergence_view import DivergenceView
from app.ui.servers import KIND
from app.ui.theme import set_role
from app.ui.transcript import Transcript
from app.ui.widgets import ElidedLabel, ErrorCard, ModelPicker, ProgressLine, button, icon_button, label

ANSWER = 1


class Column(QFrame):
    """``removed`` and ``retried`` carry this column; ``picked`` when its model was changed."""

    removed = Signal(object)
    retried = Signal(object)
    picked = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._reference = False
        self._part: Part | None = None
        set_role(self, "card")
        self.role = label("", "small")
        self.role.setMinimumHeight(32)  # the first column has no button to give the row its height
        self.picker = ModelPicker(context, {"gguf", KIND})
        self.picker.setMinimumWidth(120)
        self.picker.changed.connect(self._picked)
        self.remove_button = icon_button(context.theme, "close", self.tr("Remove this column"), self._remove)
        self.status = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.status, "small")
        self.progress = ProgressLine()
        self.progress.set_cancellable(False)
        self.progress.hide()
        self.error = ErrorCard()
        self.transcript = Transcript(context.theme, editable=False)
        self.transcript.setAccessibleName(self.tr("Answer"))
        self.divergence = DivergenceView(context.theme)
        self.divergence.said.connect(self._say)
        self._hint = label("", "muted", wrap=True)
        self._hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.stack = QStackedWidget()
        for widget in (self.transcript, self.divergence, self._hint):
            self.stack.addWidget(widget)
        self.words = label("", "", wrap=True)
        self.words.setMinimumHeight(3 * self.words.fontMetrics().lineSpacing())
        self.words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.words.setAccessibleName(self.tr("The token in words"))
        self.jump_button = button(self.tr("Where they part"), self._jump, "link")
        self._figures: dict[str, QLabel] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 8, 12, 12)
        layout.setSpacing(8)
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self.role)
        head.addWidget(self.status, 1)
        head.addWidget(self.jump_button)
        head.addWidget(self.remove_button)
        layout.addLayout(head)
        layout.addWidget(self.picker)
        layout.addWidget(self.progress)
        layout.addWidget(self.error)
        layout.addWidget(self.stack, 1)
        layout.addWidget(self.words)
        layout.addLayout(self._make_figures())
        self.setMinimumWidth(190)
        self.show_divergence(False)

    def _make_figures(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(2)
        rows = (
            ("kld", self.tr("Mean KLD"), self.tr("Mean divergence from the reference over its answer, in nats.")),
            ("top1", self.tr("Same first choice"), self.tr("How often both models put the same token first.")),
            ("speed", self.tr("Speed"), self.tr("Columns that run at once share the processor.")),
            ("memory", self.tr("Memory"), self.tr("What the engine's process needs for itself.")),
            ("size", self.tr("Size"), self.tr("The file on disk.")),
        )
        for row, (key, text, why) in enumerate(rows):
            caption, value = label(text, "small"), label(fmt.DASH, "number")
            value.setFont(self._context.theme.mono(12))
            value.setAlignment(Qt.AlignmentFlag.AlignRight)
            caption.setToolTip(why)
            value.setToolTip(why)
            grid.addWidget(caption, row, 0)
            grid.addWidget(value, row, 1)
            self._figures[key] = value
        grid.setColumnStretch(1, 1)
        return grid

    # ---- for the page ------------------------------------------------------------------------------------------

    def set_place(self, index: int, count: int) -> None:
        """The first column is the reference; two stay at least."""
        self._reference = index == 0
        self.role.setText(self.tr("Reference") if self._reference else self.tr("Compared"))
        self.picker.setAccessibleName(
            self.tr("Reference model") if self._reference else self.tr("Model {0}").format(index + 1)
        )
        self.remove_button.setVisible(count > 2 and not self._reference)
        self._refresh_bottom()

    def show_divergence(self, shown: bool) -> None:
        """Divergence, or the column's own answer."""
        self._divergent = shown
        self._refresh()

    def begin(self, part: Part) -> None:
        """A new run starts."""
        self._part = part
        self.error.clear()
        self.transcript.clear_messages()
        self.divergence.clear_tokens()
        self.words.setText("")
        self.refresh(part)

    def forget(self) -> None:
        """No run any more (another model was chosen)."""
        self._part = None
        self.error.clear()
        self.transcript.clear_messages()
        self.divergence.clear_tokens()
        self.words.setText("")
        self.progress.hide()
        self._refresh()

    def feed(self, text: str) -> None:
        if not self.transcript.has(ANSWER):
            self.transcript.add(ANSWER, "assistant", "", name=self.tr("Answer"), streaming=True)
        self.transcript.feed(ANSWER, text)

    def figures(self, event: Tokens) -> None:
        self._figures["speed"].setText(fmt.tokens_per_second(event.rate) if event.rate > 0 else fmt.DASH)
        self._figures["memory"].setText(fmt.size(event.memory or None))

    def load(self, fraction: float) -> None:
        self.progress.set_progress(fraction if fraction > 0 else None, self.tr("Loading"))

    def refresh(self, part: Part) -> None:
        """Show a part's state."""
        self._part = part
        self.progress.setVisible(part.state == LOADING)
        if part.state == LOADING:
            self.load(0.0)
        if part.state == WAITING:
            self.error.clear()
            if part.replied is None:
                self.transcript.clear_messages()
        if part.replied is not None and self.transcript.streaming(ANSWER):
            self.transcript.finish(ANSWER, self._note(part))
        if part.state == STOPPED and self.transcript.streaming(ANSWER):
            self.transcript.finish(ANSWER, self.tr("Stopped"))
        if part.state == FAILED and part.error is not None:
            if self.transcript.streaming(ANSWER):
                self.transcript.finish(ANSWER, self.tr("Not finished"))
            self.error.show_error(part.error, [(self.tr("Retry"), self._retry)])
        if part.scored is not None and self.divergence.tokens() is not part.scored.tokens:
            self.divergence.set_tokens(part.scored.tokens, part.scored.first_divergence, reference=part.index == 0)
        self._refresh()

    def _note(self, part: Part) -> str:
        if part.replied is None:
            return ""
        first = self.tr("first token {0}").format(fmt.seconds(part.replied.first_token))
        return self.tr("{0} tokens").format(fmt.number(part.replied.tokens)) + " · " + first

    # ---- inside ------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        part = self._part
        info = self.picker.info()
        known = part if part is not None else Part(0 if self._reference else 1, "")
        for key, text in summary(known, (info.bytes or None) if info is not None else None):
            self._figures[key].setText(text)
            self._figures[key].setAccessibleName(text)
        states = {
            WAITING: self.tr("Waits for its turn"),
            ANSWERING: self.tr("Answering"),
            SCORING: self.tr("Scoring the reference's answer"),
            STOPPED: self.tr("Stopped"),
            FAILED: self.tr("Failed"),
        }
        self.status.setText(states.get(part.state, "") if part is not None else "")
        if self._divergent and self.divergence.tokens():
            self.stack.setCurrentWidget(self.divergence)
        elif self._divergent or not self.transcript.keys():
            self._hint.setText(self._hint_text())
            self.stack.setCurrentWidget(self._hint)
        else:
            self.stack.setCurrentWidget(self.transcript)
        self._refresh_bottom()

    def _refresh_bottom(self) -> None:
        scored = self._divergent and bool(self.divergence.tokens())
        self.words.setVisible(scored)
        parts = self.divergence.first_divergence() >= 0
        self.jump_button.setVisible(scored and parts and not self._reference)
        if scored and not parts and not self._reference:
            self.status.setText(self.tr("They never part"))

    def _hint_text(self) -> str:
        if self._divergent:
            if is_remote(self.picker.path() or ""):
                return self.tr("A server tells no probabilities of a given text: compare its answer by reading it.")
            if self._part is not None and self._part.state == DONE:
                return self.tr("The reference is on a server, which tells no probabilities: there is nothing to shade.")
            if self._part is not None and self._part.state not in {FAILED, STOPPED}:
                return self.tr("The shading appears when the answer is scored.")
            return self.tr("Ask something: the reference's answer appears here, shaded where this model differs.")
        return "" if self._part is not None else self.tr("Choose a model above and ask below.")

    def _jump(self) -> None:
        self.divergence.setFocus()
        self.divergence.jump()

    def _say(self, words: str) -> None:
        self.words.setText(words)

    def _picked(self) -> None:
        self._refresh()
        self.picked.emit()

    def _remove(self) -> None:
        self.removed.emit(self)

    def _retry(self) -> None:
        self.retried.emit(self)
