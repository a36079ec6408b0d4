"""The Quality page: is a smaller model still good? A table and charts that fill while the measurement runs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from PySide6.QtWidgets import QFileDialog, QWidget

from app import journals, library, measurements
from app.fingerprint_files import SUFFIX
from app.measure_messages import CandidateQuality, FingerprintUse, MeasureQuality, QualityResult, QualityUpdate
from app.protocol import Failed
from app.quality import report
from app.ui import format as fmt
from app.ui.measured_page import MeasuredPage, Words
from app.ui.quality_charts import QualityCharts
from app.ui.quality_setup import QualitySetup
from app.ui.quality_table import QualityTable, Row
from app.ui.widgets import button, title_of
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.job_center import Job


class QualityPage(MeasuredPage):
    """See the module. ``receive({"reference": path, "candidates": [paths]})`` fills the choice in."""

    key = "quality"
    title = "Quality"
    command_type = MeasureQuality
    result_type = QualityResult
    least_table = 110
    charts_share = 230

    setup: QualitySetup
    table: QualityTable
    charts: QualityCharts

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._reference: CandidateQuality | None = None
        self._report = ""
        self.kept: float | None = None
        """How much of what is chosen an interrupted run has kept (0 to 1), None if nothing."""
        self._methods_wanted = False
        self.methods_button = button(self.tr("Methods"), self.show_methods, "quiet")
        self.methods_button.setToolTip(self.tr("GPTQ, AWQ, NF4 and others beside the K-quants, on one model"))
        self.report_button = button(self.tr("Save report…"), self._ask_report)
        self.afresh_button = button(self.tr("Start over"), self.run_afresh, "quiet")
        self.afresh_button.setToolTip(self.tr("Measure all of it anew: what an interrupted run has kept is not used"))
        words = Words(
            heading=self.tr("Quality"),
            question=self.tr("Is the smaller model still good?"),
            setup=self.tr("Show or hide the choice of models and texts"),
            empty=self.tr(
                "Choose a reference and tick candidates. A first answer is there within a minute for small models."
            ),
        )
        theme = context.theme
        setup, table, charts = QualitySetup(context), QualityTable(theme), QualityCharts(context)
        self.compose(words, setup, table, charts, before=(self.methods_button,), after=(self.report_button,))
        self.restore()

    # ---- faces

    def help_text(self) -> str:
        return self.tr(
            "Choose a full-precision reference and the files to judge. Both read the same texts; at every token the "
            "difference of their predictions is measured (KL divergence, in nats: 0 is the same). Pass means hardly "
            "noticeable, Review means look at its answers, Fail means clearly different. The limits are in Settings."
        )

    def measured(self) -> list[CandidateQuality]:
        """Figures of all candidates that have any."""
        return [row.figures for row in self.table.rows.rows if row.figures is not None and not row.reference]

    def save_report(self, path: str) -> None:
        """Copy the report of the last measurement to ``path`` (HTML), its JSON and CSV twins beside it."""
        source, target = Path(self._report), Path(path)
        try:
            shutil.copyfile(source, target)
            for twin in report.TWINS:
                if source.with_suffix(twin).is_file():  # a report of an earlier version has fewer
                    shutil.copyfile(source.with_suffix(twin), report.twin_place(target, twin))
        except OSError as problem:
            title = self.tr("The report could not be saved.")
            hint = self.tr("Choose another place.")
            self.context.notify.error(QuenchError("report_not_saved", title, str(problem), hint))
            return
        self.context.notify.good(self.tr("Report saved: %1").replace("%1", str(target)))

    def show_methods(self) -> None:
        """Bring the comparison of methods into view, also where nothing was measured yet."""
        self._methods_wanted = True
        self.setup_button.setChecked(False)
        self.charts.tabs.setCurrentWidget(self.charts.methods)
        self.refresh()
        self.charts.methods.setFocus()

    def run_afresh(self) -> None:
        """Measure what is chosen, whatever an interrupted run of the same has kept."""
        command = self.setup.command()
        if command is not None:
            self.submit(msgspec.structs.replace(command, fresh=True))

    def beside_run(self) -> Sequence[QWidget]:
        return (self.afresh_button,)

    def run_words(self) -> str:
        return self.tr("Run") if self.kept is None else self.tr("Resume")

    def stopped_words(self) -> str:
        return self.tr("Stopped. What is finished is kept: the same measurement goes on from there.")

    def refresh(self) -> None:
        chosen = self.setup.chosen() if self.job is None or not self.job.is_active else None
        self.kept = journals.kept_fraction(chosen) if chosen is not None else None
        self.charts.set_running(self.job is not None and self.job.is_active)
        self.afresh_button.setVisible(self.kept is not None)
        super().refresh()
        self.table.setVisible(bool(self.table.rows.rows))
        if self.kept is not None:
            self.missing.setText(self.tr("Interrupted at %1").replace("%1", fmt.percent(self.kept, 0)))
        self.report_button.setEnabled(bool(self._report) and Path(self._report).is_file())

    # ---- what is measured

    def choose(self, request: dict[str, Any]) -> None:
        if request.get("reference"):
            self.setup.reference.set_path(str(request["reference"]))
        if request.get("candidates"):
            self.setup.candidates.set_checked([str(path) for path in request["candidates"]])

    def command(self) -> MeasureQuality | None:
        try:
            return self.setup.command()
        except OSError as problem:
            title = self.tr("There is no place for the report.")
            hint = self.tr("Check the disk.")
            raise QuenchError("no_report_folder", title, str(problem), hint, exit_status=4) from problem

    def job_title(self, command: MeasureQuality) -> str:
        names = ", ".join(self.type_of(path) for path in command.candidates)
        if not names:
            return self.tr("Answers of %1").replace("%1", self.type_of(command.reference))
        return self.tr("Quality of %1").replace("%1", names)

    # ---- what is shown

    def has_rows(self) -> bool:
        return bool(self.table.rows.rows) or self._methods_wanted

    def has_figures(self) -> bool:
        return bool(self.measured())

    def clear(self) -> None:
        self.table.set_rows([])

    def begin(self, job: Job) -> None:
        command: MeasureQuality = job.command
        self._reference, self._report = None, ""
        caches = (*command.kv, *("" for _ in command.candidates))
        rows = [self._row(command.reference, reference=True)]
        rows += [self._row(path, kv=kv) for path, kv in zip(command.candidates, caches, strict=False)]
        self.table.set_rows(rows)
        self.charts.set_results(None, [])

    def take(self, event: object) -> None:
        if isinstance(event, QualityUpdate):
            self._update_row(event.result, event.windows, event.windows_total)
            self.charts.set_results(self._reference, self.measured())
        elif isinstance(event, Failed) and event.request > 0 and self.job is not None:
            row = self.table.rows.rows[event.request]
            self.table.rows.set_problem(row.key, " ".join(filter(None, (event.title, event.detail))))

    def _update_row(self, figures: CandidateQuality, windows: int, total: int) -> None:
        for position, row in enumerate(self.table.rows.rows):
            if row.key == figures.key and not row.reference:
                self.table.rows.update_row(position, figures, windows, total)

    def finish(self, result: QualityResult) -> None:
        self._report = self.job.command.report or ""
        measurements.keep_quality(self.context.store, result, self._report)
        self._show(result.reference, list(result.candidates), result.tokens, result.seconds)
        self._tell_saved(result.fingerprint)
        for note in result.notes:
            self.context.notify.info(note)

    def _tell_saved(self, use: FingerprintUse | None) -> None:
        """What was saved of the reference; where its saved answers were used, how well they stand for it."""
        if use is not None and use.written:
            text = self.tr("Answers saved: %1 (%2)").replace("%1", use.path).replace("%2", fmt.size(use.bytes))
            self.context.notify.good(text)
        elif use is not None:
            words = self.tr("The saved answers are as exact as the model itself.")
            if not use.exact:
                self.subtitle.setText(self.tr("%1 · sampled").replace("%1", self.subtitle.text()))
                words = self.tr(
                    "No file at hand has the reference's output matrix: its odds are sampled, and mean divergences "
                    "right to some tenths of a per cent."
                )
            self.subtitle.setToolTip(words)

    def load_last(self) -> bool:
        run, figures = self.newest(CandidateQuality, ("report", "reference", "seconds"))
        reference = next((each for each in figures if each.path == run.get("reference")), None)
        if reference is None:
            return False
        self._report = str(run.get("report") or "")
        candidates = [each for each in figures if each is not reference]
        self._show(reference, candidates, int(run.get("tokens", 0)), float(run.get("seconds", 0.0)))
        return True

    def _show(
        self, reference: CandidateQuality, candidates: list[CandidateQuality], tokens: int, seconds: float
    ) -> None:
        self._reference = reference
        rows = [Row(c.path, c.type, c.bytes, c is reference, c, kv=c.kv) for c in (reference, *candidates)]
        rows += [row for row in self.table.rows.rows if row.problem]
        self.table.set_rows(rows)
        self.charts.set_results(reference, candidates)
        text = self.tr("%1 tokens scored against %2 in %3")
        if reference.path.lower().endswith(SUFFIX):
            text = self.tr("%1 tokens scored against the saved answers of %2 in %3")
        for mark, value in (
            ("%1", fmt.number(tokens, 0)),
            ("%2", self._name_of(reference)),
            ("%3", fmt.seconds(seconds)),
        ):
            text = text.replace(mark, value)
        self.subtitle.setText(text)
        self.subtitle.setToolTip("")
        self.fit_table()

    def _row(self, path: str, *, reference: bool = False, kv: str = "") -> Row:
        info = self.context.library.entry(path)
        return Row(path, self.type_of(path), info.bytes if info is not None else 0, reference, kv=kv)

    def _name_of(self, figures: CandidateQuality) -> str:
        """A model as the rest of the window calls it."""
        info = self.context.library.entry(figures.path)
        return title_of(info) if info is not None else library.file_title(figures.path)

    def _ask_report(self) -> None:
        chosen, _ = QFileDialog.getSaveFileName(self, self.tr("Save report"), "quality.html", "HTML (*.html)")
        if chosen:
            self.save_report(chosen)
