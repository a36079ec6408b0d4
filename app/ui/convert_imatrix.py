"""The importance matrix of the Convert page: none, a file, or one that is made here and then used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QBoxLayout, QComboBox, QFileDialog, QHBoxLayout, QSizePolicy, QWidget

from app import library
from app.imatrix_files import checkpoint_path
from app.jobs import PAUSED
from app.measure_messages import ImatrixDescription, ImatrixResult, ImatrixUpdate, MeasureImatrix
from app.protocol import Convert
from app.ui import format as fmt
from app.ui.glossary import explain
from app.ui.imatrix_setup import Choice, SetupDialog, runnable
from app.ui.imatrix_statistics import StatisticsDialog, facts, texts
from app.ui.theme import set_role
from app.ui.widgets import Card, ErrorCard, ProgressLine, button, label
from converter.recipes import RECIPES
from converter.spec import ConversionResult, ConversionSpec, ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job

ENDING = ".imatrix.gguf"
_CHOOSE, _MAKE = "choose", "make"


class ImatrixCard(Card):
    """``changed`` when another file is chosen, ``told`` when there is something to read. It follows the job that makes
    one, wherever that was begun."""

    changed = Signal()
    told = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__("", parent)
        self._context = context
        self.job: Job | None = None
        self.setup: SetupDialog | None = None
        self.statistics: StatisticsDialog | None = None
        self.description: ImatrixDescription | None = None
        self.stopped: ImatrixDescription | None = None
        self._info: ModelInfo | None = None
        self._folder = ""
        self._path = ""
        self._types: tuple[str, ...] = ()
        self._sizes: dict[str, int] = {}
        self._then: tuple[Job, Choice] | None = None
        self._build()
        context.jobs.added.connect(self._on_job_added)
        context.jobs.resumed.connect(self._on_job_added)
        self._refill()
        self._update()

    # ---- faces

    def path(self) -> str | None:
        """The chosen file, None without one."""
        return self._path or None

    def known(self) -> list[str]:
        """Importance matrices of the model on the page that lie where they would have been saved."""
        return [str(place / self._name()) for place in self._places() if (place / self._name()).is_file()]

    def choose(self, path: str, description: ImatrixDescription | None = None) -> None:
        """Take a file (an empty path: none); what it says is read unless it is given."""
        if path == self._path and description is None:
            return
        self._path, self.description = path, description
        if path and description is None:
            self._context.scout.read_imatrix(path, lambda answer: self._described(path, answer))
        self._refill()
        self._update()
        self.changed.emit()

    def set_source(self, info: ModelInfo | None, folder: str) -> None:
        """Another model is converted; a matrix that was chosen for the one before is not kept."""
        before, self._info, self._folder = self._info, info, folder
        if info is None or before is None or before.path != info.path:
            self.stopped = None
            self.error.clear()
            self.choose("")
            self._look_for_checkpoint()
        self._refill()
        self._update()

    def set_types(self, names: Iterable[str], sizes: dict[str, int]) -> None:
        """What is ticked, and how large a file of each type is."""
        self._types, self._sizes = tuple(names), sizes
        self._update()

    def is_running(self) -> bool:
        return self._then is not None or (self.job is not None and self.job.is_active)

    def act(self, what: str) -> None:
        """The last lines of the list: ``choose`` a file or ``make`` one."""
        if what == _CHOOSE:
            self._ask_file()
        elif self._info is not None and not self.is_running():
            self.setup = SetupDialog(self._context, self._info, self._sizes, self)
            self.setup.chosen.connect(self.start)
            self.setup.show()

    def start(self, choice: Choice) -> None:
        """Make one; what an interrupted run left is dropped. Without a file to run, that is made first."""
        info = self._info
        if info is None:
            return
        if choice.model:
            self._measure(choice, choice.model)
            return
        target = str(Path(self._folder) / f"{info.name}-{choice.first}.gguf")
        spec = ConversionSpec(source=info.path, output=target, types=(choice.first,))
        title = f"{library.base_name(info)} → {choice.first}"
        job = self._context.jobs.submit("convert", title, Convert(spec), "convert")
        self._then = (job, choice)
        self.error.clear()
        self.stopped = None
        job.finished.connect(self._on_first_made)
        job.changed.connect(self._on_changed)
        self._on_changed()
        self._update()

    # ---- building

    def _build(self) -> None:
        self.body.setContentsMargins(10, 8, 10, 8)
        self.body.setSpacing(6)
        self.list = QComboBox()
        self.list.setAccessibleName(self.tr("Importance matrix"))
        self.list.setToolTip(explain("Importance matrix"))
        self.list.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.list.setMinimumContentsLength(4)
        self.list.activated.connect(self._on_activated)
        self.words = label("", "muted", wrap=True)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.statistics_button = button(self.tr("Statistics…"), self.show_statistics, "link")
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._stop)
        self.progress.button.setText(self.tr("Stop"))
        self.progress.button.setAccessibleName(self.tr("Stop; what was measured is kept"))
        self.figures = label("", "small", wrap=True)
        self.go_on_button = button(self.tr("Go on"), self._go_on, "primary")
        self.again_button = button(self.tr("Start again"), self._start_again)
        self._offers = QWidget()
        # Of no width of its own, or two buttons side by side would keep the page from becoming narrower.
        self._offers.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._row = QBoxLayout(QBoxLayout.Direction.LeftToRight, self._offers)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(8)
        for made in (self.go_on_button, self.again_button):
            self._row.addWidget(made, 0, Qt.AlignmentFlag.AlignLeft)
        self._row.addStretch(1)
        self.error = ErrorCard()
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(label(self.tr("Importance matrix")))
        top.addWidget(self.list, 1)
        line = QHBoxLayout()
        line.setSpacing(8)
        line.addWidget(self.words, 1)
        line.addWidget(self.statistics_button, 0, Qt.AlignmentFlag.AlignTop)
        self.body.addLayout(top)
        self.body.addLayout(line)
        for part in (self.progress, self.figures, self._offers, self.error):
            self.body.addWidget(part)

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """The two offers side by side, or one under the other where they would be cut."""
        needed = sum(made.sizeHint().width() + 8 for made in (self.go_on_button, self.again_button)) + 24
        across = QBoxLayout.Direction.LeftToRight
        self._row.setDirection(across if needed <= self.width() else QBoxLayout.Direction.TopToBottom)
        self._offers.setFixedHeight(self._row.minimumSize().height())

    # ---- the list

    def _refill(self) -> None:
        known = self.known()
        if self._path and self._path not in known:
            known.append(self._path)
        self.list.clear()
        self.list.addItem(self.tr("None"), "")
        for path in known:
            self.list.addItem(Path(path).name, path)
            self.list.setItemData(self.list.count() - 1, fmt.path(path), Qt.ItemDataRole.ToolTipRole)
        self.list.addItem(self.tr("Choose a file…"), _CHOOSE)
        self.list.addItem(self.tr("Make one…"), _MAKE)
        self.list.setCurrentIndex(max(self.list.findData(self._path), 0))

    def _name(self) -> str:
        """What a matrix of the model on the page is called."""
        return f"{self._info.name}{ENDING}" if self._info is not None else ENDING

    def _places(self) -> list[Path]:
        """Folders in which a matrix of this model would have been saved."""
        if self._info is None:
            return []
        places = [Path(info.path).parent for info in runnable(self._context, self._info)]
        return list(dict.fromkeys([*places, Path(self._folder)]))

    def _on_activated(self, index: int) -> None:
        data = str(self.list.itemData(index))
        self.list.setCurrentIndex(max(self.list.findData(self._path), 0))
        if data in (_CHOOSE, _MAKE):
            self.act(data)
        else:
            self.choose(data)

    def _ask_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(
            self,
            self.tr("Importance matrix"),
            self._folder,
            self.tr("Importance matrices (*.gguf *.dat *.imatrix);;All files (*)"),
        )
        if chosen:
            self.choose(chosen)

    def _described(self, path: str, answer: ImatrixDescription | QuenchError) -> None:
        if path != self._path:
            return
        self.description = answer if isinstance(answer, ImatrixDescription) else None
        self._update()

    def show_statistics(self) -> None:
        """Open the table of the chosen file."""
        if self._path:
            self.statistics = StatisticsDialog(self._context, self.description or self._path, self)
            self.statistics.show()

    # ---- the work

    def _measure(self, choice: Choice, model: str) -> None:
        folder = Path(model).parent
        if not os.access(folder, os.W_OK):
            folder = Path(self._folder)
        command = MeasureImatrix(
            model=model,
            texts=choice.texts,
            output=str(folder / self._name()),
            chunks=choice.chunks,
            minutes=float(choice.minutes),
            process_output=choice.process_output,
            resume=True,  # so that Retry, and a start after a crash of the window, go on
            threads=self._context.settings.threads,
        )
        self._begin(command, fresh=True)

    def _begin(self, command: MeasureImatrix, *, fresh: bool) -> None:
        if fresh:
            with contextlib.suppress(OSError):
                checkpoint_path(Path(command.output)).unlink(missing_ok=True)
        name = Path(command.output).name.removesuffix(ENDING)
        title = self.tr("{0}: importance matrix").format(name)
        self._follow(self._context.jobs.submit("measure", title, command, "convert"))

    def _on_first_made(self) -> None:
        if self._then is None:
            return
        (job, choice), self._then = self._then, None
        if job.state == "done" and isinstance(job.result, ConversionResult):
            self._measure(choice, job.result.outputs[0].path)
        elif job.error is not None:
            self.error.show_error(job.error, [(self.tr("Retry"), lambda: self.start(choice))])
        self._update()
        self.told.emit()

    def _on_job_added(self, job: Job) -> None:
        """One that was begun elsewhere (resumed at the start, retried in the drawer) is followed too."""
        if isinstance(job.command, MeasureImatrix) and not self.is_running():
            self._follow(job)

    def _follow(self, job: Job) -> None:
        if self.job is not job:
            job.event.connect(self._on_event)
            job.changed.connect(self._on_changed)
            job.finished.connect(self._on_finished)
        self.job, self.stopped = job, None
        self.error.clear()
        self.figures.setText("")
        self.progress.button.setEnabled(True)
        self._on_changed()
        self._update()
        self.told.emit()

    def _on_event(self, event: object) -> None:
        if not isinstance(event, ImatrixUpdate):
            return
        window = self.tr("Window {0} of {1}").format(fmt.number(event.chunks), fmt.number(event.total))
        words = [window, self.tr("perplexity {0}").format(fmt.estimate(event.perplexity))]
        if event.experts:
            seen, total = fmt.number(event.experts_seen), fmt.number(event.experts)
            words.append(self.tr("{0} of {1} experts reached").format(seen, total))
        self.figures.setText(" · ".join(words))
        done = event.chunks / event.total
        self.progress.set_progress(done, fmt.percent(done, 0), "", event.seconds_left)
        self._update()

    def _on_changed(self) -> None:
        """Before the first window, and while the file that is to run is made."""
        job = self._then[0] if self._then is not None else self.job
        if job is None or not job.is_active or self.figures.text():
            return
        waiting = job.state == "queued"
        words = self.tr("Waiting for the job before it") if waiting else job.label or self.tr("Starting")
        if self._then is not None and not waiting:
            words = self.tr("Making {0} first").format(self._then[1].first)
        self.progress.set_progress(job.progress if waiting or self._then else None, words, "", job.seconds_left)

    def _stop(self) -> None:
        """What was measured is kept to go on with; a job that waits, and the file that is made first, leave nothing."""
        job = self._then[0] if self._then is not None else self.job
        if job is None:
            return
        self.progress.button.setEnabled(False)
        self.progress.set_progress(None, self.tr("Stopping"))
        if job.can_pause and self._then is None:
            job.pause()
        else:
            job.cancel()

    def _on_finished(self) -> None:
        job = self.job
        if job is None:
            return
        self.progress.button.setEnabled(True)
        self.figures.setText("")
        self.stopped = None
        if job.state == "done" and isinstance(job.result, ImatrixResult):
            self._finish(job.result, job.command)
        else:
            self._read_checkpoint(Path(job.command.output), job)
        self._update()

    def _finish(self, result: ImatrixResult, command: MeasureImatrix) -> None:
        if self._info is None or Path(result.path).name != self._name():
            return  # another model is on the page by now
        found = ImatrixDescription(
            path=result.path,
            entries=result.entries,
            chunks=result.chunks,
            chunk_size=command.context,
            datasets=tuple(Path(text).name for text in command.texts),
            experts=result.experts,
            statistics=result.statistics,
        )
        self.choose(result.path, found)
        self.told.emit()

    # ---- what an interrupted run left

    def _look_for_checkpoint(self) -> None:
        for place in self._places():
            if checkpoint_path(place / self._name()).is_file():
                self._read_checkpoint(place / self._name(), None)
                return

    def _read_checkpoint(self, output: Path, job: Job | None) -> None:
        def read(answer: ImatrixDescription | QuenchError) -> None:
            if job is not self.job and job is not None:
                return
            if job is None and (self.is_running() or output.name != self._name()):
                return
            self.stopped = answer if isinstance(answer, ImatrixDescription) and answer.checkpoint else None
            if job is not None and job.error is not None:
                first = (self._go_on_words(), self._go_on) if self.stopped else (self.tr("Retry"), self._start_again)
                actions = [first, (self.tr("Start again"), self._start_again)] if self.stopped else [first]
                self.error.show_error(job.error, actions)
            self._update()
            self.told.emit()

        path = checkpoint_path(output)
        if path.is_file():
            self._context.scout.read_imatrix(str(path), read)
        else:
            read(QuenchError("no_checkpoint", ""))

    def _go_on_words(self) -> str:
        left = self.stopped.checkpoint if self.stopped is not None else None
        if left is None:
            return ""
        words = self.tr("Go on from window {0} of {1}")
        return words.format(fmt.number(left.done), fmt.number(left.total))

    def _go_on(self) -> None:
        if self.job is not None and self.job.state == PAUSED:
            self.job.go_on()
        elif self.stopped is not None and self.stopped.checkpoint is not None:
            self._begin(msgspec.structs.replace(self.stopped.checkpoint.command, resume=True), fresh=False)

    def _start_again(self) -> None:
        left = self.stopped.checkpoint if self.stopped is not None else None
        command = left.command if left is not None else self.job.command if self.job is not None else None
        if self.job is not None and self.job.state == PAUSED:
            self.job.cancel()  # which also forgets what it kept
        if command is not None:
            self._begin(msgspec.structs.replace(command, resume=True), fresh=True)

    # ---- what it says

    def _update(self) -> None:
        running = self.is_running()
        offers = self.stopped is not None and not running and self.error.error is None
        self.progress.setVisible(running)
        self.figures.setVisible(running and bool(self.figures.text()))
        self._offers.setVisible(offers)
        self.go_on_button.setText(self._go_on_words() or self.tr("Go on"))
        self.go_on_button.setAccessibleName(self.go_on_button.text())
        words, role = self._words(offers, running)
        self.words.setText(words)
        set_role(self.words, role)
        self.words.setVisible(bool(words))
        self.statistics_button.setVisible(bool(self._path))
        make = self.list.findData(_MAKE)
        item: Any = self.list.model()
        item.item(make).setEnabled(self._info is not None and not running)
        self._arrange()

    def _words(self, offers: bool, running: bool) -> tuple[str, str]:
        if self._path:
            found = self.description
            return (" · ".join([*facts(found), *texts(found)]), "muted") if found is not None else ("", "muted")
        if offers:
            return self.tr("Making one was interrupted; what was measured is kept."), "muted"
        if running or self.error.error is not None:
            return "", "muted"
        gaining = [name for name in self._types if name in RECIPES and RECIPES[name].gains]
        if gaining:
            names = ", ".join(gaining[:3]) + ("…" if len(gaining) > 3 else "")
            return self.tr("Better with one: {0}. Choose a file or make one.").format(names), "warn"
        return self.tr("Makes small types better: it says which weights matter most."), "muted"


__all__ = ["ENDING", "ImatrixCard"]
