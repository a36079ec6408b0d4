"""A recipe file on the Convert page: types for every tensor as a fit has chosen them, for this model or a sibling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from app.fit_messages import Recipe, RecipeRead
from app.ui import format as fmt
from app.ui.convert_advanced import parse_rules
from app.ui.library_rows import FitWords
from app.ui.theme import set_role
from app.ui.widgets import Card, ElidedLabel, ErrorCard, TypeBadge, button, label
from converter.spec import PlannedOutput, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

SHOWN = 4
"""Rules without a tensor that are named."""


class RecipeFilePane(QWidget):
    """``changed`` when another recipe is there, or what it says of the importance matrix. ``matrix`` carries the path
    of the recipe's own importance matrix, where that lies beside it."""

    changed = Signal()
    matrix = Signal(str)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self.path = ""
        self.recipe: Recipe | None = None
        self._imatrix = ""
        self._same = False
        self._asked = 0
        self._build()
        self._show()

    # ---- faces

    def open(self, path: str) -> None:
        """Read a recipe file; ``changed`` when that is done."""
        self.path, self.recipe = path, None
        self.error.clear()
        self._ask(first=True)

    def set_imatrix(self, path: str | None) -> None:
        """The importance matrix that the page will use."""
        if (path or "") != self._imatrix:
            self._imatrix, self._same = path or "", False
            if self.recipe is not None:
                self._ask(first=False)

    def rules(self) -> tuple[tuple[str, str], ...]:
        """The rules as a conversion takes them."""
        return parse_rules("\n".join(self.recipe.rules))[0] if self.recipe is not None else ()

    def file_name(self, model: str) -> str:
        """What the new file of a model is called: a sibling's has its own name and the recipe's size."""
        stem = Path(self.path).stem
        _, fit, size = stem.rpartition("-Fit-")
        return (
            f"{model}-Fit-{size}.gguf" if fit else f"{stem}.gguf" if stem.startswith(model) else f"{model}-{stem}.gguf"
        )

    def show_plan(self, output: PlannedOutput | None, fit: FitWords | None) -> None:
        """What the recipe makes of the model on the page."""
        self._size.setText(fmt.size(output.bytes) if output is not None else "")
        self._fit.setText(fit.text if fit is not None else "")
        self._fit.setToolTip(fit.why if fit is not None else "")
        set_role(self._fit, fit.role if fit is not None else "muted")
        self._matches.setText(self._match_words(output) if output is not None else "")
        idle = output is not None and any(not rule.wins for rule in output.rules)
        set_role(self._matches, "warn" if idle else "muted")
        self._matches.setVisible(bool(self._matches.text()))

    # ---- building

    def _build(self) -> None:
        self.error = ErrorCard()
        self.choose_button = button(self.tr("Use a recipe file…"), self._ask_file)
        self._hint = label(
            self.tr(
                "A recipe is a small text file that “Fit to size” writes beside its model: a type for every tensor. "
                "It makes the same file again, or one like it of a sibling model, such as a fine-tune."
            ),
            "muted",
            wrap=True,
        )
        self._name = ElidedLabel()
        self._badge = TypeBadge("", self._context.theme)
        self._size = label("", "number")
        self._fit = label("", "muted")
        self._count = label("", "muted", wrap=True)
        self._matches = label("", "muted", wrap=True)
        self._words = label("", "muted", wrap=True)
        self._card = Card()
        self._card.body.setContentsMargins(10, 8, 10, 8)
        self._card.body.setSpacing(6)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self._badge)
        top.addWidget(self._name, 1)
        figures = QHBoxLayout()
        figures.setSpacing(12)
        figures.addWidget(self._size)
        figures.addWidget(self._fit)
        figures.addStretch(1)
        self._card.body.addLayout(top)
        self._card.body.addLayout(figures)
        for part in (self._count, self._matches, self._words):
            self._card.body.addWidget(part)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.error)
        layout.addWidget(self._card)
        layout.addWidget(self._hint)
        layout.addWidget(self.choose_button, 0, Qt.AlignmentFlag.AlignLeft)

    def _ask_file(self) -> None:
        wanted = self.tr("Recipes (*.recipe);;All files (*)")
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Use a recipe file"), "", wanted)
        if path:
            self.open(path)

    # ---- reading

    def _ask(self, *, first: bool) -> None:
        self._asked += 1
        asked = self._asked
        self._context.scout.read_recipe(self.path, self._imatrix, lambda answer: self._read(asked, answer, first=first))
        self._show()

    def _read(self, asked: int, answer: RecipeRead | QuenchError, *, first: bool) -> None:
        if asked != self._asked:
            return
        if isinstance(answer, QuenchError):
            self.recipe = None
            self.error.show_error(answer, [(self.tr("Retry"), lambda: self.open(self.path))])
        else:
            self.recipe, self._same = answer.recipe, answer.same
            bad = parse_rules("\n".join(answer.recipe.rules))[1]
            if bad:
                self.recipe = None
                title, hint = self.tr("This recipe cannot be used."), self.tr("Choose another recipe.")
                self.error.show_error(QuenchError("bad_recipe", title, bad, hint))
            elif first and answer.recipe.imatrix:
                self.matrix.emit(answer.recipe.imatrix)
        self._show()
        self.changed.emit()

    # ---- words

    def _show(self) -> None:
        recipe = self.recipe
        self._card.setVisible(recipe is not None)
        self._hint.setVisible(recipe is None)
        self.choose_button.setText(self.tr("Use a recipe file…") if recipe is None else self.tr("Another recipe file…"))
        self.choose_button.setAccessibleName(self.choose_button.text())
        if recipe is None:
            return
        self._name.setText(Path(self.path).name)
        self._name.setToolTip(fmt.path(self.path))
        self._badge.set_type(recipe.base)
        count = self.tr("{0} rules; what no rule names gets its type from {1}.")
        self._count.setText(count.format(fmt.number(len(recipe.rules)), recipe.base))
        words, role = self._matrix_words(recipe)
        self._words.setText(words)
        set_role(self._words, role)
        self._words.setVisible(bool(words))

    def _matrix_words(self, recipe: Recipe) -> tuple[str, str]:
        if recipe.feedback:
            words = self.tr("Only a fit rounds with error feedback: this gives the same types, and other bytes.")
            return words, "warn"
        if not recipe.digest:
            return "", "muted"
        if self._same:
            words = self.tr("With the recipe's own importance matrix: the same model gives the same bytes.")
            return words, "good"
        if self._imatrix:
            words = self.tr(
                "Another importance matrix than the recipe's: right for a sibling, other bytes for the same."
            )
            return words, "warn"
        words = self.tr("The recipe's importance matrix ({0}) is not used: choose it, or one of this model, below.")
        return words.format(recipe.matrix), "warn"

    def _match_words(self, output: PlannedOutput) -> str:
        """Which rules decide nothing in this model."""
        missing = [rule.pattern for rule in output.rules if not rule.matches]
        idle = [rule.pattern for rule in output.rules if rule.matches and not rule.wins]
        if not missing and not idle:
            return self.tr("Every rule has its tensor here.")
        lines = []
        for rules, words in (
            (missing, self.tr("{0} of {1} rules match no tensor here: {2}")),
            (idle, self.tr("{0} of {1} rules decide nothing here: {2}")),
        ):
            if rules:
                names = ", ".join(rule.strip("^$").replace("\\", "") for rule in rules[:SHOWN])
                names += "…" if len(rules) > SHOWN else ""
                lines.append(words.format(len(rules), len(output.rules), names))
        return "\n".join(lines)


__all__ = ["RecipeFilePane"]
