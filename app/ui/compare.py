"""The Compare page: one prompt, two to four models, and where they part from the first of them."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.protocol import Sampling
from app.ui import format as fmt
from app.ui.compare_column import Column
from app.ui.compare_run import ComparisonRun, memory_plan
from app.ui.composer import Composer
from app.ui.context import Context
from app.ui.divergence_view import ShadeLegend
from app.ui.widgets import ElidedLabel, button, drop_paths

LEAST, MOST = 2, 4
MAX_TOKENS = 256


class ComparePage(QWidget):
    """``receive({"reference": path, "models": [paths]})`` fills the columns."""

    key = "compare"
    title = "Compare"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._run: ComparisonRun | None = None
        self.columns: list[Column] = []
        self.setAcceptDrops(True)
        self._row = QHBoxLayout()
        self._row.setSpacing(8)
        self.prompt = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self.prompt.setFont(context.theme.font(15, True))
        self.legend = ShadeLegend(context.theme)
        self.composer = Composer(context)
        self.composer.field.setAccessibleName(self.tr("Prompt for all models"))
        self.composer.sent.connect(self.ask)
        self.composer.stopped.connect(self.stop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 8, 16, 12)
        layout.setSpacing(8)
        layout.addLayout(self._make_head())
        layout.addWidget(self.prompt)
        layout.addLayout(self._row, 1)
        layout.addWidget(self.legend)
        layout.addWidget(self.composer)
        for _ in range(LEAST):
            self.add_column()
        context.library.changed.connect(self._guess_models)
        self.show_divergence(False)
        self._guess_models()
        self._show_prompt("")

    def _make_head(self) -> QHBoxLayout:
        self.answers_button = QPushButton(self.tr("Answers"))
        self.divergence_button = QPushButton(self.tr("Divergence"))
        self._views = QButtonGroup(self)
        for made in (self.answers_button, self.divergence_button):
            made.setCheckable(True)
            made.setAccessibleName(made.text())
            self._views.addButton(made)
        self.answers_button.clicked.connect(lambda: self.show_divergence(False))
        self.divergence_button.clicked.connect(lambda: self.show_divergence(True))
        self.mode = ElidedLabel("", Qt.TextElideMode.ElideRight)
        self.how = QComboBox()
        self.how.setAccessibleName(self.tr("How tokens are chosen"))
        self.how.addItem(self.tr("Greedy"), "greedy")
        self.how.addItem(self.tr("Same seed"), "seed")
        self.how.setToolTip(self.tr("Greedy takes the likeliest token; with the same seed all columns draw alike."))
        self.how.currentIndexChanged.connect(self._how_changed)
        self.seed = QSpinBox()
        self.seed.setRange(0, 2_147_483_647)
        self.seed.setValue(42)
        self.seed.setAccessibleName(self.tr("Seed"))
        self.seed.setToolTip(self.tr("Seed"))
        self.seed.hide()
        self.max_tokens = QSpinBox()
        self.max_tokens.setRange(1, 8192)
        self.max_tokens.setValue(MAX_TOKENS)
        self.max_tokens.setSuffix(self.tr(" tokens"))
        self.max_tokens.setAccessibleName(self.tr("Most tokens of an answer"))
        self.max_tokens.setToolTip(self.tr("Most tokens of an answer"))
        self.add_button = button(self.tr("Add a column"), self.add_column)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self.answers_button)
        row.addWidget(self.divergence_button)
        row.addSpacing(8)
        row.addWidget(self.mode, 1)
        for widget in (self.how, self.seed, self.max_tokens, self.add_button):
            row.addWidget(widget)
        return row

    # ---- the window's calls ------------------------------------------------------------------------------------

    def receive(self, request: dict[str, Any]) -> None:
        """A request from another page: which models to compare."""
        models = [str(path) for path in request.get("models", [])]
        reference = request.get("reference")
        if reference:
            models = [str(reference), *(path for path in models if path != reference)]
        models = models[:MOST]
        while len(self.columns) < len(models):
            self.add_column()
        while len(self.columns) > max(len(models), LEAST) and models:
            self._remove(self.columns[-1])
        for column, path in zip(self.columns, models, strict=False):
            column.picker.set_path(path)
        self.composer.field.setFocus()

    def help_text(self) -> str:
        """What F1 shows."""
        return self.tr(
            "One prompt goes to all columns; the first is the reference.\n\n"
            "Answers shows what each model says. Divergence shows the reference's answer in every column: the darker a "
            "token, the further that model's probabilities are from the reference's at that place. The framed token is "
            "the first where the model would have said something else.\n\n"
            "In Divergence the arrow keys move from token to token, J jumps to the framed one, and the line below says "
            "what both models thought."
        )

    def escape(self) -> bool:
        """Esc stops the columns. True if there was something to stop."""
        if self.busy():
            self.stop()
            return True
        return False

    def closing(self) -> None:
        """The window goes."""
        self._end_run()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self.escape():
            return
        super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if any(path.lower().endswith(".gguf") for path in drop_paths(event)):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Dropped models take the first free column, or a new one."""
        for path in drop_paths(event):
            if path.lower().endswith(".gguf"):
                free = next((column for column in self.columns if not column.picker.path()), None)
                column = free or self.add_column()
                if column is not None:
                    column.picker.set_path(path)
        event.acceptProposedAction()

    # ---- columns -----------------------------------------------------------------------------------------------

    def add_column(self) -> Column | None:
        """One more column, up to four."""
        if len(self.columns) >= MOST:
            return None
        column = Column(self._context)
        column.removed.connect(self._remove)
        column.retried.connect(self._retry)
        column.picked.connect(self._models_changed)
        column.divergence.moved.connect(lambda index, column=column: self._moved(column, index))
        column.show_divergence(self.divergence_button.isChecked())
        self.columns.append(column)
        self._row.addWidget(column, 1)
        self._placed()
        self._models_changed()
        return column

    def _remove(self, column: Column) -> None:
        if len(self.columns) <= LEAST or column not in self.columns:
            return
        self.columns.remove(column)
        self._row.removeWidget(column)
        column.hide()
        column.deleteLater()
        self._placed()
        self._models_changed()

    def _placed(self) -> None:
        for index, column in enumerate(self.columns):
            column.set_place(index, len(self.columns))
        self.add_button.setEnabled(len(self.columns) < MOST)

    def _guess_models(self) -> None:
        """Before anything was chosen: the largest model as the reference, the others of its base beside it."""
        usable = self._context.library.usable({"gguf"})
        if any(column.picker.path() for column in self.columns) or len(usable) < LEAST:
            return
        for column, info in zip(self.columns, (usable[0], usable[-1]), strict=False):
            column.picker.set_path(info.path)

    def _models_changed(self) -> None:
        """Other models: what is on the page belongs to the old ones."""
        if self._run is not None:
            self._end_run()
            for column in self.columns:
                column.forget()
            self._show_prompt("")
        self._show_mode()

    def models(self) -> list[str]:
        """The columns' models; an empty string where none is chosen."""
        return [column.picker.path() or "" for column in self.columns]

    # ---- running -----------------------------------------------------------------------------------------------

    def ask(self, text: str) -> None:
        """Put a prompt to all columns."""
        if self.busy() or not text.strip():
            return
        missing = next((column for column in self.columns if not column.picker.path()), None)
        if missing is not None:
            missing.picker.setFocus()
            self.mode.setText(self.tr("Choose a model for every column first."))
            return
        self._end_run()
        together, _, _ = memory_plan(self._context, self.models())
        run = ComparisonRun(
            self._context, self.models(), text.strip(), self._sampling(), together=together, parent=self
        )
        self._run = run
        self._show_mode(together)
        self._show_prompt(text)
        self.composer.restore("")
        self.composer.set_busy(True)
        for column, part in zip(self.columns, run.parts, strict=True):
            column.begin(part)
        run.changed.connect(self._changed)
        run.text.connect(self._heard)
        run.figures.connect(self._figures)
        run.loading.connect(self._loading)
        run.finished.connect(self._finished)
        run.start()

    def stop(self) -> None:
        """Stop all columns."""
        if self._run is not None:
            self._run.stop()

    def busy(self) -> bool:
        """Does a column still work?"""
        return self._run is not None and self._run.running

    def run(self) -> ComparisonRun | None:
        """The run that is on the page."""
        return self._run

    def _sampling(self) -> Sampling:
        length = self.max_tokens.value()
        if self.how.currentData() == "greedy":
            return Sampling(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, max_tokens=length)
        own = self._context.settings.sampling
        return Sampling(own.temperature, own.top_k, own.top_p, own.min_p, own.repeat_penalty, self.seed.value(), length)

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
            run.deleteLater()
            self.composer.set_busy(False)

    def _changed(self, index: int) -> None:
        if self._run is not None:
            self.columns[index].refresh(self._run.parts[index])

    def _heard(self, index: int, text: str) -> None:
        column = self.columns[index]
        column.feed(text)
        column.show_divergence(self.divergence_button.isChecked())

    def _figures(self, index: int, event: Any) -> None:
        self.columns[index].figures(event)

    def _loading(self, index: int, fraction: float) -> None:
        self.columns[index].load(fraction)

    def _finished(self) -> None:
        self.composer.set_busy(False)

    def _retry(self, column: Column) -> None:
        if self._run is not None:
            self.composer.set_busy(True)
            self._run.retry(self.columns.index(column))

    # ---- showing -----------------------------------------------------------------------------------------------

    def show_divergence(self, shown: bool) -> None:
        """Divergence in every column, or the answers."""
        (self.divergence_button if shown else self.answers_button).setChecked(True)
        self.legend.setVisible(shown)
        for column in self.columns:
            column.show_divergence(shown)

    def _moved(self, source: Column, index: int) -> None:
        """All columns show the same text, so their token cursors go together."""
        for column in self.columns:
            if column is not source:
                column.divergence.go(index)

    def _how_changed(self) -> None:
        self.seed.setVisible(self.how.currentData() == "seed")

    def _show_prompt(self, text: str) -> None:
        self.prompt.setText(" ".join(text.split()))
        self.prompt.setVisible(bool(text.strip()))

    def _show_mode(self, together: bool | None = None) -> None:
        models = [path for path in self.models() if path]
        if len(models) < len(self.columns):
            self.mode.setText(self.tr("Choose a model for every column."))
            return
        fits, needed, available = memory_plan(self._context, models)
        if fits if together is None else together:
            text = self.tr("All at once: they fit into memory together. Speeds share the processor.")
        else:
            text = self.tr("One after another: together they need {0}, {1} are free.").format(
                fmt.size(needed), fmt.size(available)
            )
        self.mode.setText(text)

    def sizeHint(self) -> QSize:
        return QSize(1192, 772)
