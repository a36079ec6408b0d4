"""One column of the Compare page: a model, its answer or its divergence, and its figures."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app import library
from app.compare import align, recipes
from app.protocol import Scored, Tokens
from app.quality.numbers import AT_LEAST
from app.remote.address import is_remote
from app.ui import format as fmt
from app.ui.compare_making import expected_bytes, made_file
from app.ui.compare_run import (
    ANSWERING,
    DONE,
    FAILED,
    LOADING,
    MAKING,
    READY,
    SCORING,
    STOPPED,
    TIMED_TOKENS,
    TIMING,
    WAITING,
    Part,
)
from app.ui.context import Context
from app.ui.divergence_view import DivergenceView
from app.ui.free_run_view import FreeRunView
from app.ui.quality_table import VERDICTS
from app.ui.servers import KIND
from app.ui.theme import set_role
from app.ui.transcript import Transcript
from app.ui.widgets import ElidedLabel, ErrorCard, ModelPicker, ProgressLine, button, icon_button, label
from converter.spec import QuenchError

ANSWER = 1
ANSWERS, DIVERGENCE, FREE_RUN = "answers", "divergence", "free"
"""What the columns show: each model's own answer, the reference's answer shaded, or each one's own against it."""
USUAL = "Q4_K_M"
"""What is made of a folder unless another type is chosen."""
WIDE = 400
"""Pixels from which on figures stand two in a row."""


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
        self._unscored: QuenchError | None = None
        self._view = ANSWERS
        self._wanted = ""
        self._setting = False
        set_role(self, "card")
        self.role = label("", "small")
        self.role.setMinimumHeight(32)  # the first column has no button to give the row its height
        self.picker = ModelPicker(context, {"gguf", "hf", KIND})
        self.picker.setMinimumWidth(100)
        self.picker.changed.connect(self._picked)
        self.recipe = QComboBox()
        self.recipe.setAccessibleName(self.tr("Type to make of it"))
        self.recipe.setToolTip(self.tr("The model is converted to this type first, into the cache."))
        self.recipe.setMinimumWidth(80)
        self.recipe.hide()
        self.recipe.activated.connect(self._recipe_chosen)
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
        self.free = FreeRunView(context.theme)
        self.free.said.connect(self._say)
        self._hint = label("", "muted", wrap=True)
        self._hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.stack = QStackedWidget()
        for widget in (self.transcript, self.divergence, self.free, self._hint):
            self.stack.addWidget(widget)
        self.words = label("", "", wrap=True)
        self.words.setMinimumHeight(3 * self.words.fontMetrics().lineSpacing())
        self.words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.words.setAccessibleName(self.tr("The token in words"))
        self.jump_button = button(self.tr("Where they part"), self._jump, "link")
        self._figures: dict[str, QLabel] = {}
        self._captions: list[tuple[QLabel, QLabel]] = []
        self._pairs = 0
        self._lab: tuple[str, str] = ("", "")
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
        chosen = QHBoxLayout()
        chosen.setSpacing(4)
        chosen.addWidget(self.picker, 1)
        chosen.addWidget(self.recipe)
        layout.addLayout(chosen)
        layout.addWidget(self.progress)
        layout.addWidget(self.error)
        layout.addWidget(self.stack, 1)
        layout.addWidget(self.words)
        layout.addLayout(self._make_figures())
        self.setMinimumWidth(190)
        context.library.changed.connect(self._library_changed)
        self.show_view(ANSWERS)

    def _make_figures(self) -> QGridLayout:
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(2)
        rows = (
            ("kld", self.tr("Mean KLD"), ""),
            ("top1", self.tr("Same first choice"), self.tr("How often both models put the same token first.")),
            ("speed", self.tr("Speed"), ""),
            ("first", self.tr("First token"), self.tr("Seconds from the question to the first token.")),
            ("memory", self.tr("Memory"), self.tr("What the engine's process needs for itself.")),
            ("size", self.tr("Size"), self.tr("The file on disk.")),
            ("lab", self.tr("Lab"), self.tr("The verdict of the Quality page, where the model was measured there.")),
        )
        for key, text, why in rows:
            caption, value = label(text, "small"), label(fmt.DASH, "number")
            value.setFont(self._context.theme.mono(12))
            value.setAlignment(Qt.AlignmentFlag.AlignRight)
            caption.setToolTip(why)
            value.setToolTip(why)
            self._captions.append((caption, value))
            self._figures[key] = value
        self._arrange(1)
        return self._grid

    def _arrange(self, pairs: int) -> None:
        """One figure a row, or two where the column is wide."""
        if pairs == self._pairs:
            return
        self._pairs = pairs
        for number, (caption, value) in enumerate(self._captions):
            row, place = divmod(number, pairs)
            for offset, widget in enumerate((caption, value)):
                self._grid.removeWidget(widget)
                self._grid.addWidget(widget, row, 2 * place + offset)
        for column in (1, 3):
            self._grid.setColumnStretch(column, 1 if column < 2 * pairs else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange(2 if self.width() >= WIDE else 1)

    # ---- for the page ------------------------------------------------------------------------------------------

    def set_place(self, index: int, count: int) -> None:
        """The first column is the reference; two stay at least."""
        self._reference = index == 0
        self.role.setText(self.tr("Reference") if self._reference else "")
        self.picker.setAccessibleName(
            self.tr("Reference model") if self._reference else self.tr("Model {0}").format(index + 1)
        )
        self.remove_button.setVisible(count > 2 and not self._reference)
        self._refresh_bottom()

    def path(self) -> str:
        """What is compared: a model, or a source with the recipe that is made of it; empty while none is chosen."""
        return recipes.with_recipe(self.picker.path() or "", str(self.recipe.currentData() or ""))

    def set_path(self, path: str) -> None:
        """Choose what :meth:`path` gives."""
        source, recipe = (path, "") if is_remote(path) else recipes.split(path)
        before = self.path()
        self._wanted, self._setting = recipe, True
        self.picker.set_path(source)
        self._setting = False
        self._offer_recipes()
        at = self.recipe.findData(recipe)
        if at >= 0:
            self.recipe.setCurrentIndex(at)
        if self.path() != before:
            self._recipe_chosen()

    def show_view(self, view: str) -> None:
        """``ANSWERS``, ``DIVERGENCE`` or ``FREE_RUN``."""
        self._view = view
        self._refresh()

    def begin(self, part: Part) -> None:
        """A new run starts."""
        self._clear()
        self._lab = self._from_lab()
        self.refresh(part)

    def forget(self) -> None:
        """No run any more (another model was chosen)."""
        self._clear()
        self._part = None
        self.progress.hide()
        self._refresh()

    def _clear(self) -> None:
        self._unscored = None
        self.error.clear()
        self.transcript.clear_messages()
        self.divergence.clear_tokens()
        self.free.clear_tokens()
        self.words.setText("")

    def feed(self, text: str) -> None:
        if not self.transcript.has(ANSWER):
            self.transcript.add(ANSWER, "assistant", "", name=self.tr("Answer"), streaming=True)
        self.transcript.feed(ANSWER, text)

    def figures(self, event: Tokens) -> None:
        self._figures["speed"].setText(fmt.tokens_per_second(event.rate) if event.rate > 0 else fmt.DASH)
        self._figures["memory"].setText(fmt.size(event.memory or None))

    def load(self, fraction: float) -> None:
        making = self._part is not None and self._part.state == MAKING
        words = self.tr("Making {0}").format(self.recipe.currentText()) if making else self.tr("Loading")
        self.progress.set_progress(fraction if fraction > 0 else None, words)

    def refresh(self, part: Part) -> None:
        """Show a part's state."""
        self._part = part
        self.progress.setVisible(part.state in {LOADING, MAKING})
        if part.state in {LOADING, MAKING}:
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
            found = part.scored
            self.divergence.set_tokens(
                found.tokens, found.first_divergence, reference=part.index == 0, bounds=found.bounds
            )
        self._refresh()

    def verdict(self) -> str:
        """What the lab said of this model, empty where it was not measured."""
        return self._lab[0]

    def set_unscored(self, why: QuenchError | None) -> None:
        """Why nothing will be shaded here: this model or the reference does not tell how likely a text is."""
        if why is not self._unscored:
            self._unscored = why
            self._refresh()

    def show_free_run(self, part: Part, reference: Part) -> None:
        """This model's own answer, aligned with the reference's."""
        tokens = [each.tokens() for each in (reference, part)]
        theirs, own = align.alike(reference.text, tokens[0], part.text, tokens[1])
        scored = None if None in tokens else part.own or part.scored
        self.free.set_answer(own, theirs, scored.tokens if scored is not None else (), reference=part is reference)
        self._refresh()

    def _note(self, part: Part) -> str:
        if part.replied is None:
            return ""
        first = self.tr("first token {0}").format(fmt.seconds(part.replied.first_token))
        return self.tr("{0} tokens").format(fmt.number(part.replied.tokens)) + " · " + first

    # ---- inside ------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        part = self._part
        for key, text in self._summary():
            self._figures[key].setText(text)
            self._figures[key].setAccessibleName(text)
        for widget in self._captions[-1]:
            widget.setVisible(bool(self._lab[0]))
        for widget in self._captions[0]:
            widget.setToolTip(self._divergence_words())
        alone = part is not None and part.timed is not None
        self._captions[2][0].setText(self.tr("Speed alone") if alone else self.tr("Speed"))
        for widget in self._captions[2]:
            widget.setToolTip(self._speed_words())
        set_role(self._figures["lab"], self._lab[1] or "number")
        states = {
            WAITING: self.tr("Waits for its turn"),
            MAKING: self.tr("Is being made"),
            ANSWERING: self.tr("Answering"),
            SCORING: self.tr("Scoring the reference's answer"),
            READY: self.tr("Waits to be timed by itself"),
            TIMING: self.tr("Timed by itself"),
            STOPPED: self.tr("Stopped"),
            FAILED: self.tr("Failed"),
        }
        self.status.setText(states.get(part.state, "") if part is not None else "")
        shown = {DIVERGENCE: self.divergence, FREE_RUN: self.free}.get(self._view)
        if shown is not None and shown.tokens():
            self.stack.setCurrentWidget(shown)
        elif shown is not None or not self.transcript.keys():
            self._hint.setText(self._hint_text())
            self.stack.setCurrentWidget(self._hint)
        else:
            self.stack.setCurrentWidget(self.transcript)
        self._refresh_bottom()

    def _token_view(self) -> DivergenceView | None:
        """The view of tokens that is shown, None while there is none."""
        view = {DIVERGENCE: self.divergence, FREE_RUN: self.free}.get(self._view)
        return view if view is not None and view.tokens() else None

    def _refresh_bottom(self) -> None:
        view = self._token_view()
        self.words.setVisible(view is not None)
        parts = view is not None and view.first_divergence() >= 0
        self.jump_button.setVisible(parts and not self._reference)
        if view is None or self._reference or self._part is None or self._part.state != DONE:
            return
        if view is self.free:
            self.status.setText(self.free.summary())
        elif not parts:
            self.status.setText(self.tr("They never part"))

    def _summary(self) -> list[tuple[str, str]]:
        """The figures as (key, text); a dash where there is none."""
        part, path = self._part, self.path()
        scored = part.scored if part is not None and part.index else None
        replied = part.speed if part is not None else None
        speed = fmt.tokens_per_second(replied.tokens_per_second) if replied is not None else fmt.DASH
        return [
            ("kld", _divergence(scored) if scored is not None else fmt.DASH),
            ("top1", fmt.percent(scored.top1) if scored is not None else fmt.DASH),
            ("speed", speed),
            ("first", fmt.seconds(replied.first_token) if replied is not None else fmt.DASH),
            ("memory", fmt.size(replied.memory.anonymous or None) if replied is not None else fmt.DASH),
            ("size", fmt.size((expected_bytes(self._context, path) or None) if path and not is_remote(path) else None)),
            ("lab", self._lab[0] or fmt.DASH),
        ]

    def _divergence_words(self) -> str:
        words = self.tr("Mean divergence from the reference over its answer, in nats.")
        scored = self._part.scored if self._part is not None else None
        if scored is not None and scored.bounds:
            words += " " + self.tr("At least so much: a server tells the likeliest tokens only, not all.")
        return words

    def _speed_words(self) -> str:
        part = self._part
        if part is not None and part.timed is not None:
            words = self.tr("By itself, with nothing else at work: the first {0} tokens of the answer once more.")
            return words.format(fmt.number(min(TIMED_TOKENS, part.timed.tokens)))
        if part is not None and part.state == DONE:
            return self.tr("While it answered.")
        return self.tr("Columns that run at once share the processor; each is timed by itself afterwards.")

    def _from_lab(self) -> tuple[str, str]:
        """The newest verdict on this model: (words, colour's role)."""
        path = self.path()
        if not path or is_remote(path):
            return "", ""
        file = made_file(path)
        listed = self._context.library.listed(file)
        content = listed.content if listed is not None else ""
        for entry in self._context.store.measurements(None, "quality"):
            known = entry.content == content if content and entry.content else entry.model_path == file
            if known and entry.payload.get("reference") == entry.model_path:
                return self.tr("reference"), ""  # what others are judged by has no verdict
            if known and not entry.payload.get("kv") and entry.payload.get("verdict") in VERDICTS:
                mark, role = VERDICTS[entry.payload["verdict"]]
                words = {"pass": self.tr("Pass"), "review": self.tr("Review"), "fail": self.tr("Fail")}
                return f"{mark} {words[entry.payload['verdict']]}", role
        return "", ""

    def _offer_recipes(self) -> None:
        """Types to make of a model that has full precision; of a folder one has to be made."""
        info = self.picker.info()
        folder = info is not None and info.kind == "hf"
        full = info is not None and info.kind == "gguf" and library.type_label(info) in recipes.FULL
        offered = ([] if folder else [(self.tr("As it is"), "")]) + [(name, name) for name in recipes.choices()]
        if not (folder or full):
            offered = [(self._wanted, self._wanted)] if self._wanted and info is None else []
        have = [(self.recipe.itemText(at), self.recipe.itemData(at)) for at in range(self.recipe.count())]
        if have != offered:
            before = str(self.recipe.currentData() or self._wanted or (USUAL if folder else ""))
            self.recipe.clear()
            for text, name in offered:
                self.recipe.addItem(text, name)
            self.recipe.setCurrentIndex(max(self.recipe.findData(before), 0) if offered else -1)
        self.recipe.setVisible(bool(offered))

    def _hint_text(self) -> str:
        if self._view == FREE_RUN:
            return self.tr("Ask something: each model's own answer appears here, beside the reference's.")
        if self._view == DIVERGENCE:
            why = self._unscored
            if why is not None:
                own = self._part is not None and self._part.unscored is why
                whose = "" if own else self.tr("There is nothing to hold this model against.")
                return "\n\n".join(each for each in (whose, why.title, why.detail, why.hint) if each)
            if self._part is not None and self._part.state not in {FAILED, STOPPED}:
                return self.tr("The shading appears when the answer is scored.")
            return self.tr("Ask something: the reference's answer appears here, shaded where this model differs.")
        return "" if self._part is not None else self.tr("Choose a model above and ask below.")

    def _jump(self) -> None:
        view = self._token_view()
        if view is not None:
            view.setFocus()
            view.jump()

    def _say(self, words: str) -> None:
        self.words.setText(words)

    def _picked(self) -> None:
        if self._setting:
            return
        self._wanted = ""
        self._offer_recipes()
        self._recipe_chosen()

    def _recipe_chosen(self) -> None:
        self._lab = self._from_lab()
        self._refresh()
        self.picked.emit()

    def _library_changed(self) -> None:
        """A model that was read meanwhile may turn out to be one that something can be made of."""
        before = self.path()
        self._offer_recipes()
        if self.path() != before:
            self._recipe_chosen()

    def _remove(self) -> None:
        self.removed.emit(self)

    def _retry(self) -> None:
        self.retried.emit(self)


def _divergence(scored: Scored) -> str:
    """Mean divergence in nats; of a server that tells its likeliest tokens only, the least that it can be."""
    return (AT_LEAST if scored.bounds else "") + fmt.significant(scored.mean_kld, 3)
