"""The blind test: two answers without names, a key a vote, and in the end who was preferred and how sure that is."""

from __future__ import annotations

import secrets

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QScrollArea, QSizePolicy, QStackedWidget, QVBoxLayout, QWidget

from app.compare import rounds
from app.compare.results import names_of
from app.compare.rounds import FIRST, SECOND, SKIP, TIE, Round
from app.compare.votes import Tally
from app.quality import numbers
from app.store import Vote
from app.ui import format as fmt
from app.ui.compare_queue import QueueRun
from app.ui.context import Context
from app.ui.markdown import clean
from app.ui.theme import set_role
from app.ui.transcript import Transcript
from app.ui.widgets import Card, button, label

ANSWER = 1


class BlindPane(QWidget):
    """``asked`` when answers are wanted: the page runs its queue and gives it to :meth:`begin`. ``ended`` when names
    may be seen again."""

    asked = Signal()
    ended = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._queue: QueueRun | None = None
        self._rounds: list[Round] = []
        self._votes: list[tuple[Round, str, int]] = []
        self._alike: list[Round] = []
        self._test = ""
        self.round: Round | None = None
        self.revealed = False
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(self.tr("Blind test"))
        self.stack = QStackedWidget()
        self._build_start()
        self._build_vote()
        self._build_result()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.stack)
        for key, choice in (("1", FIRST), ("2", SECOND), ("=", TIE), ("S", SKIP)):
            self._shortcut(key, lambda choice=choice: self.vote(choice))
        self._shortcut("Backspace", self.undo)

    def _shortcut(self, key: str, slot: object) -> None:
        made = QShortcut(QKeySequence(key), self)
        made.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        made.activated.connect(slot)

    # ---- building

    def _build_start(self) -> None:
        page = QWidget()
        self.intro = label(
            self.tr(
                "Two answers to a prompt stand side by side, without names and in a random order. Say which is better: "
                "1 or 2, = for alike, S to pass over. Every model meets the reference on every prompt of the set that "
                "is chosen under Prompts. The names are told in the end."
            ),
            wrap=True,
        )
        self.start_button = button(self.tr("Begin"), self.asked.emit, "primary")
        self.waiting = label("", "muted", wrap=True)
        card = Card(self.tr("Which do you prefer?"))
        card.body.addWidget(self.intro)
        card.body.addWidget(self.waiting)
        row = QHBoxLayout()
        row.addWidget(self.start_button)
        row.addStretch()
        card.body.addLayout(row)
        _centre(page, card, 640)
        self._start = page
        self.stack.addWidget(page)

    def _build_vote(self) -> None:
        page = QWidget()
        self.count = label("", "muted")
        self.advice = label("", "", wrap=True)
        self.advice.setAccessibleName(self.tr("Whether it is decided"))
        self.prompt = label("", "", wrap=True)
        self.prompt.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        asked = QScrollArea()
        asked.setWidget(self.prompt)
        asked.setWidgetResizable(True)
        asked.setMaximumHeight(80)
        asked.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.prompt.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.prompt.setFont(self._context.theme.font(15, True))
        asked.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.answers: list[Transcript] = []
        sides = QHBoxLayout()
        sides.setSpacing(8)
        for number in (1, 2):
            card = Card(self.tr("Answer {0}").format(number))
            shown = Transcript(self._context.theme, editable=False)
            shown.setAccessibleName(self.tr("Answer {0}").format(number))
            card.body.addWidget(shown, 1)
            self.answers.append(shown)
            sides.addWidget(card, 1)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.vote_buttons = {}
        for choice, words in (
            (FIRST, self.tr("1  First is better")),
            (SECOND, self.tr("2  Second is better")),
            (TIE, self.tr("=  Alike")),
            (SKIP, self.tr("S  Pass over")),
        ):
            made = button(words, lambda choice=choice: self.vote(choice))
            self.vote_buttons[choice] = made
            row.addWidget(made)
        self.undo_button = button(self.tr("Take back"), self.undo, "link")
        self.undo_button.setToolTip(self.tr("The last vote (Backspace)"))
        row.addWidget(self.undo_button)
        row.addStretch()
        self.end_button = button(self.tr("End and reveal"), self.reveal)
        row.addWidget(self.end_button)
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(self.count)
        head.addWidget(self.advice, 1)
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        column.addLayout(head)
        column.addWidget(asked)
        column.addLayout(sides, 1)
        column.addLayout(row)
        self._voting = page
        self.stack.addWidget(page)

    def _build_result(self) -> None:
        page = QWidget()
        self.result = label("", "", wrap=True)
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.result.setAccessibleName(self.tr("Result of the blind test"))
        self.note = label(
            self.tr(
                "The interval and the decision hold however often one looks after a vote: of twenty tests of equal "
                "models at most one finds a winner. p is the exact sign test's, which promises that only for a number "
                "of votes that was settled beforehand. Ties and passes count for nobody."
            ),
            "small",
            wrap=True,
        )
        card = Card(self.tr("Who was who"))
        card.body.addWidget(self.result)
        card.body.addWidget(self.note)
        row = QHBoxLayout()
        row.addWidget(button(self.tr("New test"), self.reset))
        row.addStretch()
        card.body.addLayout(row)
        _centre(page, card, 760)
        self._results = page
        self.stack.addWidget(page)

    # ---- the test

    def begin(self, queue: QueueRun, seed: int | None = None) -> None:
        """A new test over the answers of ``queue``, which may still be coming."""
        self._follow(queue)
        self._rounds = rounds.draw(
            len(queue.prompts), len(queue.models), secrets.randbits(32) if seed is None else seed
        )
        self._votes, self._alike, self._test = [], [], secrets.token_hex(8)
        self.revealed = False
        self._show_next()

    def reset(self) -> None:
        """No test."""
        self._follow(None)
        self._rounds, self._votes, self._alike, self.round = [], [], [], None
        self.waiting.setText("")
        self.start_button.setEnabled(True)
        self.stack.setCurrentWidget(self._start)
        self.ended.emit()

    def _follow(self, queue: QueueRun | None) -> None:
        if self._queue is not None:
            self._queue.answered.disconnect(self._more)
            self._queue.finished.disconnect(self._more)
        self._queue = queue
        if queue is not None:
            queue.answered.connect(self._more)
            queue.finished.connect(self._more)

    def active(self) -> bool:
        """Whether names must not be seen."""
        return self._queue is not None and not self.revealed

    def votes(self) -> list[tuple[Round, str]]:
        return [(made, key) for made, key, _ in self._votes]

    def vote(self, choice: str) -> None:
        """``choice`` is one of the keys."""
        if self.round is None or self._queue is None or self.stack.currentWidget() is not self._voting:
            return
        made, prompt = self.round, self._queue.prompts[self.round.prompt]
        winner = made.winner(choice)
        words = {None: "tie" if choice == TIE else "skip", 0: "reference"}.get(winner, "model")
        kept = Vote(
            self._test,
            self._queue.models[0],
            self._queue.models[made.model],
            prompt.prompt,
            prompt.slice,
            words,
            made.shown[0] == 0,
        )
        self._votes.append((made, choice, self._context.store.add_vote(kept)))
        self._rounds.remove(made)
        self._show_next()

    def undo(self) -> None:
        """Take the last vote back; its answers are shown again."""
        if not self._votes or self.stack.currentWidget() is not self._voting:
            return
        made, _, kept = self._votes.pop()
        self._context.store.remove_vote(kept)
        self._rounds.insert(0, made)
        self._show_next()

    def reveal(self) -> None:
        """End the test: names and figures."""
        self.revealed = True
        self.round = None
        self.result.setText(self._result_words())
        self.stack.setCurrentWidget(self._results)
        self.ended.emit()

    def _more(self, *_: int) -> None:
        if self.round is None and not self.revealed:
            self._show_next()
        else:
            self._show_count()

    def _show_next(self) -> None:
        """The next round whose answers are there; those with nothing to choose are passed over."""
        queue = self._queue
        if queue is None:
            return
        entries = queue.comparison().entries
        for made in [each for each in self._rounds if rounds.ready(entries[each.prompt], each)]:
            if rounds.alike(entries[made.prompt], made):
                self._rounds.remove(made)
                self._alike.append(made)
        self.round = next((each for each in self._rounds if rounds.ready(entries[each.prompt], each)), None)
        if self.round is None:
            if queue.running:
                self._wait()
            else:
                self.reveal()
            return
        columns = entries[self.round.prompt].columns
        self.prompt.setText(clean(queue.prompts[self.round.prompt].prompt))
        for place, shown in zip(self.round.shown, self.answers, strict=True):
            column = columns[place]
            shown.clear_messages()
            shown.add(ANSWER, "assistant", column.text if column is not None else "", name=self.tr("Answer"))
            shown.verticalScrollBar().setValue(0)
        self.stack.setCurrentWidget(self._voting)
        self.setFocus()  # keys vote from here; a text that has the focus would show its caret
        self._show_count()

    def _wait(self) -> None:
        self.waiting.setText(self.tr("The next answers are being written…"))
        self.stack.setCurrentWidget(self._start)
        self.start_button.setEnabled(False)

    def _show_count(self) -> None:
        self.start_button.setEnabled(True)
        total = len(self._votes) + len(self._rounds)
        words = self.tr("Vote {0} of {1}").format(fmt.number(len(self._votes) + 1), fmt.number(total))
        if self._alike:
            words += " · " + self.tr("same words, not shown: {0}").format(fmt.number(len(self._alike)))
        self.count.setText(words)
        self.undo_button.setEnabled(bool(self._votes))
        self.advice.setText(self._advice())
        set_role(self.advice, "good" if self.decided() else "muted")

    def decided(self) -> bool:
        """Whether every model's test is decided, or can no longer be."""
        tallies = self._tallies()
        return bool(tallies) and all(tally.decided or not tally.can_decide(left) for tally, left in tallies)

    def _tallies(self) -> list[tuple[Tally, int]]:
        """Every model's tally, and how many rounds it still has."""
        if self._queue is None:
            return []
        found = rounds.count(self.votes(), len(self._queue.models))
        left = [sum(made.model == number for made in self._rounds) for number in range(1, len(self._queue.models))]
        return list(zip(found, left, strict=True))

    def _advice(self) -> str:
        """Whether to stop, without a word on who is ahead."""
        tallies = self._tallies()
        if not self.decided():
            return self.tr("Not decided yet")
        if all(tally.decided for tally, _ in tallies):
            return self.tr("It is decided: you can stop here.")
        return self.tr("What is left cannot decide it any more: you can stop here.")

    def _result_words(self) -> str:
        assert self._queue is not None
        names = names_of(self._queue.models)
        blocks = []
        for place, (tally, left) in enumerate(self._tallies(), start=1):
            low, high = tally.interval()
            figures = self.tr("{0} votes for {1}, {2} for {3}; {4} alike, {5} passed over").format(
                fmt.number(tally.wins),
                names[place],
                fmt.number(tally.losses),
                names[0],
                fmt.number(tally.ties),
                fmt.number(tally.skipped),
            )
            share = self.tr("{0} is preferred in {1} to {2} of the cases (95 %); p = {3}").format(
                names[place], fmt.percent(low, 0), fmt.percent(high, 0), numbers.probability(tally.p)
            )
            before = {vote.test for vote in self._context.store.votes(self._queue.models[0], self._queue.models[place])}
            earlier = len(before - {self._test})
            lines = [self._outcome(rounds.outcome(tally, left), names[0], names[place]), figures + ".", share + "."]
            if earlier:
                lines.append(self.tr("Earlier tests of these two: {0}; their votes are kept.").format(earlier))
            blocks.append("\n".join(lines))
        if self._alike:
            blocks.append(
                self.tr("Pairs with the same words, which were not shown: {0}.").format(fmt.number(len(self._alike)))
            )
        return "\n\n".join(blocks)

    def _outcome(self, outcome: str, reference: str, model: str) -> str:
        words = {
            rounds.MODEL: self.tr("{1} is preferred to {0}."),
            rounds.REFERENCE: self.tr("{0} is preferred to {1}."),
            rounds.OPEN: self.tr("Not decided: more votes could tell {0} and {1} apart."),
            rounds.TOO_CLOSE: self.tr("Not decided: {0} and {1} are too close for so few votes."),
        }
        return words[outcome].format(reference, model)


def _centre(page: QWidget, card: QWidget, wide: int) -> None:
    """A card in the middle, at most so wide; its wrapped texts get the height that they need there."""
    card.setMaximumWidth(wide)
    row = QHBoxLayout()
    row.addStretch(1)
    row.addWidget(card, 1000)
    row.addStretch(1)
    column = QVBoxLayout(page)
    column.addStretch()
    column.addLayout(row)
    column.addStretch()


__all__ = ["BlindPane"]
