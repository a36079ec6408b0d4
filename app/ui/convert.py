"""The Convert page: a source, the types to make of it, and the result. One pass over the source makes all files.

The types are those of standard recipes, those that a fit chooses for a size, or those of a recipe file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QScrollArea,
    QSplitter,
    QStackedWidget,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from app import hardware, library, paths
from app.fit_messages import Wish
from app.protocol import Convert
from app.ui import format as fmt
from app.ui.convert_advanced import AdvancedPane
from app.ui.convert_fit_desk import FitDesk
from app.ui.convert_imatrix import ImatrixCard
from app.ui.convert_recipe_file import RecipeFilePane
from app.ui.convert_recipes import RecipeList
from app.ui.convert_result import ResultPane
from app.ui.convert_source import SourcePane, is_quantized
from app.ui.library_rows import FitWords, fit_words
from app.ui.theme import set_role
from app.ui.widgets import ErrorCard, button, drop_paths, label
from converter.recipes import COPY, RECIPES
from converter.spec import ConversionSpec, ModelInfo, Plan, PlannedOutput, QuenchError, expected_seconds

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

PLAN_DELAY_MS = 250
TYPES, FIT, RECIPE = "types", "fit", "recipe"
"""Where the types come from."""

NEEDS_IMATRIX = frozenset(name for name, recipe in RECIPES.items() if recipe.needs_imatrix)


class ConvertPage(QWidget):
    """See the module. ``receive({"source": path, "types": [...]})`` fills it in."""

    key = "convert"
    title = "Convert"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.job: Job | None = None
        self._planned: dict[str, PlannedOutput] = {}
        self._by_recipe: PlannedOutput | None = None
        self._planned_for = TYPES
        self._disk_free: int | None = None
        self._plan: Plan | None = None
        self._pre_tokenizer: str | None = None
        self._asked = 0
        self.setAcceptDrops(True)
        self._plan_timer = QTimer(self, singleShot=True, interval=PLAN_DELAY_MS)
        self._plan_timer.timeout.connect(self._ask_plan)
        self.fit = FitDesk(context, self.folder, self._standard, self)
        self._build()
        self.source.changed.connect(self._on_source)
        self.recipes.model.changed.connect(self._on_ticks)
        self.advanced.changed.connect(self._on_advanced)
        self.importance.changed.connect(self._on_importance)
        self.fit.changed.connect(self._update)
        self.recipe_file.changed.connect(self._on_recipe)
        self.recipe_file.matrix.connect(self.importance.choose)
        self.tabs.currentChanged.connect(self._on_mode)
        self.output.textChanged.connect(self._on_output)
        self.requantize.toggled.connect(self._update)
        self.result.retried.connect(self._follow)
        context.jobs.added.connect(self._on_job_added)
        context.jobs.resumed.connect(self._on_job_added)
        self._on_mode()
        self._on_advanced()

    # ---- faces

    def mode(self) -> str:
        """Where the types come from: :data:`TYPES`, :data:`FIT` or :data:`RECIPE`."""
        return str(self.tabs.tabData(self.tabs.currentIndex()))

    def set_mode(self, mode: str) -> None:
        self.tabs.setCurrentIndex([self.tabs.tabData(i) for i in range(self.tabs.count())].index(mode))

    def receive(self, request: dict[str, Any]) -> None:
        if request.get("rules"):
            self.advanced.set_rules([str(rule) for rule in request["rules"]])
        if request.get("types"):
            self.recipes.model.set_ticked(request["types"])
        if request.get("recipe"):
            self.set_mode(RECIPE)
            self.recipe_file.open(str(request["recipe"]))
        elif request.get("types") or request.get("rules"):
            self.set_mode(TYPES)
        if request.get("source"):
            self.source.open(str(request["source"]))

    def help_text(self) -> str:
        return self.tr(
            "Choose a model on the left: a Hugging Face folder or a GGUF file. Tick the types to make; each shows the "
            "exact size of its file before anything is written. Convert makes all of them in one pass. The tensor map "
            "shows layers across and tensors down, in the colour of each tensor's type. Arrow keys move over it.\n"
            "Fit to size asks for a size instead, measures what each tensor costs, and chooses every type by that; the "
            "result is judged against the standard type of that size. Recipe makes a file by the recipe of such a fit."
        )

    def spec(self) -> ConversionSpec | None:
        """What Convert would start now, or None while something is missing."""
        info, folder, choices = self.source.info, self.folder(), self.advanced.choices()
        types = self._types()
        if info is None or not types or not folder or choices.problem or self.mode() == FIT:
            return None
        target = str(Path(folder) / self._name(info, types[0])) if len(types) == 1 else folder
        quantized = is_quantized(info)
        return self._spec(target, types, overwrite=bool(self._existing()), requantize=quantized)

    def folder(self) -> str:
        """Where the files go; empty while nothing is typed."""
        return fmt.typed_path(self.output.text())

    # ---- building

    def _build(self) -> None:
        self.source = SourcePane(self.context)
        self.result = ResultPane(self.context)
        self.results = QStackedWidget()
        self.results.addWidget(self.result)
        self.results.addWidget(self.fit.result)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("columns")
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(1)
        for pane, least in ((self.source, 190), (self._build_middle(), 280), (self.results, 332)):
            pane.setMinimumWidth(least)
        for number, (pane, stretch) in enumerate(((self.source, 4), (self._middle, 6), (self.results, 9))):
            self.splitter.addWidget(self._scrolled(pane) if number == 0 else pane)
            self.splitter.setStretchFactor(number, stretch)
        self.splitter.setSizes([215, 465, 510])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        head = QHBoxLayout()
        head.setSpacing(12)
        head.addWidget(label(self.tr("Convert"), "title"))
        head.addWidget(label(self.tr("Make a model smaller, and see what it costs"), "muted"), 1)
        layout.addLayout(head)
        layout.addWidget(self.splitter, 1)

    def _scrolled(self, pane: QWidget) -> QScrollArea:
        area = QScrollArea()
        area.setWidget(pane)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setMinimumWidth(200)
        pane.setProperty("role", "page")
        return area

    def _build_middle(self) -> QWidget:
        self.tabs = QTabBar()
        self.tabs.setAccessibleName(self.tr("Where the types come from"))
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        for words, key, tip in (
            (self.tr("Types"), TYPES, self.tr("Standard types")),
            (self.tr("Fit to size"), FIT, self.tr("The type of every tensor chosen for a size, by what it costs")),
            (self.tr("Recipe"), RECIPE, self.tr("The types that a recipe file names")),
        ):
            self.tabs.setTabToolTip(self.tabs.addTab(words), tip)
            self.tabs.setTabData(self.tabs.count() - 1, key)
        self.recipes = RecipeList(self.context)
        self.recipe_file = RecipeFilePane(self.context)
        self.importance = ImatrixCard(self.context)
        self.advanced = AdvancedPane()
        self.plan_error = ErrorCard()
        self.output = QLineEdit(fmt.path(paths.models()))
        self.output.setCursorPosition(0)
        self.output.setAccessibleName(self.tr("Output folder"))
        self.output.setToolTip(self.tr("The folder for the new files"))
        folder = QHBoxLayout()
        folder.setSpacing(6)
        folder.addWidget(label(self.tr("Into"), "muted"))
        folder.addWidget(self.output, 1)
        folder.addWidget(button(self.tr("Folder…"), self._ask_output))
        self.requantize = QCheckBox(self.tr("Quantize again all the same"))
        self.requantize.setAccessibleName(self.requantize.text())
        self.note = label("", "warn", wrap=True)
        self.sum = label("", "muted", wrap=True)
        self.convert_button = button(self.tr("Convert"), self._convert, "primary")
        scroll_body = QWidget()
        scroll_body.setProperty("role", "page")
        upper = QVBoxLayout(scroll_body)
        upper.setContentsMargins(0, 0, 0, 0)
        upper.setSpacing(6)
        upper.addWidget(self.recipes, 1)
        upper.addWidget(self.fit.pane, 1)
        upper.addWidget(self.recipe_file)
        upper.addWidget(self.importance)
        upper.addWidget(self.advanced)
        upper.addStretch()
        area = QScrollArea()
        area.setWidget(scroll_body)
        area.setWidgetResizable(True)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._middle = QWidget()
        layout = QVBoxLayout(self._middle)
        layout.setContentsMargins(12, 0, 12, 0)
        layout.setSpacing(8)
        layout.addWidget(label(self.tr("2  Types to make"), "heading"))
        layout.addWidget(self.tabs)
        layout.addWidget(self.plan_error)
        layout.addWidget(self.fit.error)
        layout.addWidget(area, 1)
        # After the layout has given the card its new height.
        self.importance.told.connect(
            lambda: area.ensureWidgetVisible(self.importance), Qt.ConnectionType.QueuedConnection
        )
        layout.addLayout(folder)
        layout.addWidget(self.note)
        layout.addWidget(self.requantize)
        row = QHBoxLayout()
        row.setSpacing(12)
        row.addWidget(self.sum, 1)
        row.addWidget(self.convert_button, 0, Qt.AlignmentFlag.AlignBottom)
        layout.addLayout(row)
        return self._middle

    # ---- the plan

    def _spec(self, target: str, types: tuple[str, ...], *, overwrite: bool, requantize: bool) -> ConversionSpec:
        choices, info = self.advanced.choices(), self.source.info
        recipe = self.recipe_file.recipe if self.mode() == RECIPE else None
        rules = self.recipe_file.rules() if recipe is not None else ()
        return ConversionSpec(
            source=info.path if info is not None else "",
            output=target,
            types=types,
            imatrix=self.importance.path(),
            tensor_types=(*choices.tensor_types, *rules),
            output_type=choices.output_type,
            embedding_type=choices.embedding_type,
            pure=choices.pure,
            leave_output=choices.leave_output,
            lora=choices.lora,
            threads=choices.threads,
            overwrite=overwrite,
            allow_requantize=requantize,
            override_kv=choices.override_kv,
            prune_layers=choices.prune_layers,
            split_size=choices.split_size,
            keep_split=choices.keep_split,
            refined=choices.refined or (recipe is not None and recipe.refined),
            memory_mib=choices.memory_mib,
            pre_tokenizer=self._pre_tokenizer,
        )

    def _on_source(self) -> None:
        self._planned, self._disk_free, self._plan, self._pre_tokenizer = {}, None, None, None
        self._by_recipe = None
        self.plan_error.clear()
        self.requantize.setChecked(False)
        self.importance.set_source(self.source.info, self.folder())
        info = self.source.info
        if info is None:  # no plan will come that replaces the last model's sizes
            self.recipes.model.set_plan({}, {})
        self.fit.set_source(info, self.importance.known())
        if self.recipe_file.recipe is not None and self.recipe_file.recipe.imatrix:
            self.importance.choose(self.recipe_file.recipe.imatrix)
        several = info is not None and info.kind == "gguf" and int(info.metadata.get("split.count") or 0) > 1
        self.advanced.set_split_source(several)
        self._on_advanced()
        self._on_ticks()
        self.fit.ask_soon()

    def _on_advanced(self) -> None:
        blocked = dict.fromkeys(NEEDS_IMATRIX, self.tr("Needs an importance matrix: make one below."))
        if self.importance.path() is not None:
            blocked = {}
        if self.source.info is None or self.source.info.kind != "gguf":
            blocked[COPY.name] = self.tr("For GGUF files only.")
        self.recipes.model.set_blocked(blocked)
        self._plan_timer.start()
        self._update()

    def _on_importance(self) -> None:
        self.recipe_file.set_imatrix(self.importance.path())
        self.fit.pane.set_matrices(self.importance.known())
        self._on_advanced()

    def _on_recipe(self) -> None:
        """Another recipe: what it makes is planned."""
        self._by_recipe = None
        self._plan_timer.start()
        self._on_ticks()

    def _on_output(self) -> None:
        self.fit.ask_soon()

    def _on_mode(self, *_: object) -> None:
        mode = self.mode()
        for part, own in (
            (self.recipes, (TYPES,)),
            (self.fit.pane, (FIT,)),
            (self.recipe_file, (RECIPE,)),
            (self.importance, (TYPES, RECIPE)),
            (self.advanced, (TYPES, RECIPE)),
        ):
            part.setVisible(mode in own)
        self.results.setCurrentWidget(self.fit.result if mode == FIT else self.result)
        if mode == FIT:
            self.fit.ask_soon()
        if mode not in (FIT, self._planned_for) or not self._planned:
            self._plan_timer.start()
            self._on_ticks()
        self._planned_for = self._planned_for if mode == FIT else mode
        self._update()

    def _standard(self, name: str) -> PlannedOutput | None:
        return self._planned.get(name)

    def _types(self) -> tuple[str, ...]:
        """Types of the files to be made: those that are ticked, or the recipe file's base."""
        if self.mode() == RECIPE:
            return (self.recipe_file.recipe.base,) if self.recipe_file.recipe is not None else ()
        return self.recipes.model.ticked_names()

    def _chosen(self) -> list[PlannedOutput]:
        """What is planned of :meth:`_types`."""
        if self.mode() == RECIPE:
            return [self._by_recipe] if self._by_recipe is not None else []
        return [self._planned[name] for name in self.recipes.model.ticked_names() if name in self._planned]

    def _on_ticks(self) -> None:
        ticked = self._chosen()
        self.result.show_plan(ticked)
        sizes = {name: output.bytes for name, output in self._planned.items()}
        self.importance.set_types(self.recipes.model.ticked, sizes)
        self.advanced.show_counts([output.rules for output in ticked or self._planned.values()])
        self._update()

    def _ask_plan(self) -> None:
        """Plan every type at once: the list, the map and the sum come from the same answer."""
        choices = self.advanced.choices()
        if self.source.info is None or choices.problem:
            return
        types = tuple(r.name for r in self.recipes.model.recipes if r.name not in self.recipes.model.blocked)
        folder = self.folder() or str(paths.models())
        if self.mode() == RECIPE:
            if not self._types():
                return
            types = self._types()
            folder = str(Path(folder) / self._name(self.source.info, types[0]))
        self._asked += 1
        asked = self._asked
        spec = self._spec(folder, types, overwrite=True, requantize=True)
        self.context.scout.plan(spec, lambda answer: self._on_plan(asked, answer))

    def _on_plan(self, asked: int, answer: Plan | QuenchError) -> None:
        if asked != self._asked or self.source.info is None:
            return
        if self.mode() == RECIPE:
            self._on_recipe_plan(answer)
            return
        if isinstance(answer, QuenchError):
            self._planned, self._disk_free, self._plan = {}, None, None
            actions, choose = [(self.tr("Retry"), self._ask_plan)], ""
            if answer.code == "bad_imatrix":
                actions.insert(0, (self.tr("Go on without it"), lambda: self.importance.choose("")))
            if answer.code == "unknown_pre_tokenizer" and answer.choices:
                choose = self.tr("Split text as this one does")
                actions = [(self.tr("Go on with it"), self._choose_pre_tokenizer)]  # asking again changes nothing
            self.plan_error.show_error(answer, actions, choose)
        else:
            self.plan_error.clear()
            self._planned = {output.type: output for output in answer.outputs}
            self._disk_free, self._plan = answer.disk_free, answer
        info = self.source.info
        free = hardware.memory_available()
        fits = {name: self._fit_words(info, output, free) for name, output in self._planned.items()}
        self.recipes.model.set_plan(self._planned, fits)
        self.fit.show_standard()
        self._on_ticks()

    def _on_recipe_plan(self, answer: Plan | QuenchError) -> None:
        info = self.source.info
        if isinstance(answer, QuenchError) or info is None:
            self._by_recipe, self._plan = None, None
            if isinstance(answer, QuenchError):
                self.plan_error.show_error(answer, [(self.tr("Retry"), self._ask_plan)])
        else:
            self.plan_error.clear()
            (self._by_recipe,) = answer.outputs
            self._disk_free, self._plan = answer.disk_free, answer
        fit = self._fit_words(info, self._by_recipe, hardware.memory_available()) if info and self._by_recipe else None
        self.recipe_file.show_plan(self._by_recipe, fit)
        self._on_ticks()

    def _choose_pre_tokenizer(self) -> None:
        """For this source only: another one is asked about anew."""
        self._pre_tokenizer = self.plan_error.choice.currentText() or None
        self._ask_plan()

    def _fit_words(self, info: ModelInfo, output: PlannedOutput, free: int) -> FitWords:
        """Judged as the library will judge the finished file."""
        made = msgspec.structs.replace(info, kind="gguf", tensors=(), bytes=output.bytes)
        return fit_words(made, self.context.settings, free, self.tr)

    # ---- what the footer says

    def _name(self, info: ModelInfo, kind: str) -> str:
        """What a file of a type is called, before it is divided."""
        return self.recipe_file.file_name(info.name) if self.mode() == RECIPE else f"{info.name}-{kind}.gguf"

    def _names(self) -> list[str]:
        """Names of the files to be made."""
        info = self.source.info
        if info is None:
            return []
        known = [Path(path).name for output in self._chosen() for path in output.all_files]
        return known or [self._name(info, name) for name in self._types()]

    def _existing(self) -> list[str]:
        """Names of files to be made that are in the folder already."""
        folder = self.folder()
        if self.mode() == FIT:
            wish = self.fit.wish()
            return [Path(wish.output).name] if wish is not None and wish.overwrite else []
        return [name for name in self._names() if (Path(folder) / name).exists()] if folder else []

    def _update(self, *_: object) -> None:
        if self.mode() == FIT:
            self._update_fit()
            return
        ticked = self._chosen()
        total = sum(output.bytes for output in ticked)
        short = self._disk_free is not None and total > self._disk_free
        info = self.source.info
        again = info is not None and is_quantized(info) and self._types() != (COPY.name,)
        self.requantize.setVisible(again)
        notes = [self.advanced.choices().problem]
        if again:
            notes.append(self.tr("This file is quantized already; squeezing it again adds to its loss."))
        if self._pre_tokenizer:
            words = self.tr("Text will be split as %1 does, which you chose: answers can be worse.")
            notes.append(words.replace("%1", self._pre_tokenizer))
        if short:
            notes.append(self.tr("There is not enough room on this disk."))
        self._note(notes)
        self.sum.setText(self._sum_words(ticked, total))
        set_role(self.sum, "bad" if short else "muted")
        self.fit.error.hide()
        self.plan_error.setVisible(self.plan_error.error is not None)
        running = self.job is not None and self.job.is_active
        refused = short or self.plan_error.error is not None or (again and not self.requantize.isChecked())
        ready = self.spec() is not None and not running and not refused
        self.convert_button.setEnabled(ready)
        self.convert_button.setText(self.tr("Converting…") if running else self.tr("Convert"))

    def _update_fit(self) -> None:
        self.requantize.hide()
        self.plan_error.hide()
        self.fit.error.setVisible(self.fit.error.error is not None)
        preview = self.fit.pane.preview
        much = preview is not None and preview.memory > preview.memory_free
        self._note([self.fit.pane.problem(), self.tr("That may be more memory than is free.") if much else ""])
        self.sum.setText(self._fit_sum_words())
        set_role(self.sum, "muted")
        self.convert_button.setEnabled(self.fit.is_ready())
        self.convert_button.setText(self.tr("Fitting…") if self.fit.is_running else self.tr("Start fit"))

    def _note(self, notes: list[str]) -> None:
        """Sentences of warning, and which files are replaced."""
        existing = self._existing()
        if existing:
            words = self.tr("Replaces %1") if len(existing) == 1 else self.tr("Replaces %1 files of the same name")
            notes = [*notes, words.replace("%1", existing[0] if len(existing) == 1 else str(len(existing)))]
        self.note.setText("\n".join(filter(None, notes)))
        self.note.setVisible(any(notes))

    def _no_source_words(self) -> str:
        if self.source.reading:
            return ""
        return self.tr("Choose another source.") if self.source.path() else self.tr("Choose a source first.")

    def _sum_words(self, ticked: list[PlannedOutput], total: int) -> str:
        if self.source.info is None:
            return self._no_source_words()
        if not self._types():
            return self.tr("Choose a recipe file.") if self.mode() == RECIPE else self.tr("Tick at least one type.")
        if not ticked:
            return ""
        count = sum(len(output.all_files) for output in ticked)
        files = self.tr("1 file") if count == 1 else self.tr("%1 files").replace("%1", str(count))
        parts = [f"{files}, {fmt.size(total)}", self.tr("%1 free").replace("%1", fmt.size(self._disk_free))]
        if self._plan is not None:
            seconds = expected_seconds(ticked, self._plan.read_bytes, self._plan.loading)
            parts += self._cost_words(self._plan.memory_needed, seconds)
        return " · ".join(parts)

    def _fit_sum_words(self) -> str:
        if self.source.info is None:
            return self._no_source_words()
        preview = self.fit.pane.preview
        if preview is None or preview.refusals:
            return ""
        return " · ".join([*self.fit.disk_words(), *self._cost_words(preview.memory, sum(preview.seconds.values()))])

    def _cost_words(self, memory: int, seconds: float) -> list[str]:
        short = self.tr("about a second")
        about = self.tr("about %1").replace("%1", fmt.seconds(seconds)) if seconds >= 2 else short
        return [self.tr("%1 of memory").replace("%1", fmt.size(memory)), about] if memory else [about]

    # ---- work

    def _convert(self) -> None:
        if self.mode() == FIT:
            self.fit.start()
            return
        spec = self.spec()
        info = self.source.info
        if spec is None or info is None:
            return
        folder = Path(self.folder())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.disk_usage(folder)
        except OSError as problem:
            title = self.tr("The output folder cannot be used.")
            hint = self.tr("Choose another folder.")
            self.result.show_error(QuenchError("bad_output", title, str(problem), hint), self._convert)
            return
        made = Path(self.recipe_file.path).stem if self.mode() == RECIPE else ", ".join(spec.types)
        title = f"{library.base_name(info)} → {made}"
        self._follow(self.context.jobs.submit("convert", title, Convert(spec)))

    def _on_job_added(self, job: Job) -> None:
        """Work begun elsewhere (resumed at the start, retried in the drawer) is shown if nothing else is."""
        if isinstance(job.command, Wish) and not self.fit.is_running:
            self.fit.follow(job)
            if self.job is None or not self.job.is_active:
                self.set_mode(FIT)
        if job.kind == "convert" and isinstance(job.command, Convert) and (self.job is None or not self.job.is_active):
            self._follow(job)

    def _follow(self, job: Job) -> None:
        if self.job is job and self.result.job is job:
            self._update()
            return
        self.job = job
        source = job.command.spec.source
        self.result.watch(job, source if source.lower().endswith(".gguf") else "")
        job.finished.connect(self._update)
        self._update()

    def _ask_output(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, self.tr("Output folder"), self.folder())
        if chosen:
            self.output.setText(fmt.path(chosen))

    # ---- drops

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if drop_paths(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        dropped = drop_paths(event)
        if dropped:
            event.acceptProposedAction()
            self.source.open(dropped[0])
