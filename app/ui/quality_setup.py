"""The left column of the Quality page: what is compared with what, on which texts, for how long."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QSpinBox,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from app import library, paths
from app.fingerprint_files import SUFFIX
from app.measure_messages import MeasureQuality
from app.quality.report import TWINS
from app.quality.texts import DEFAULT, LANGUAGES
from app.remote.address import is_remote
from app.ui import format as fmt
from app.ui.convert_source import is_quantized
from app.ui.glossary import explain
from app.ui.model_checks import ModelChecks
from app.ui.task_choice import POCKET, QUENCH, TaskChoice
from app.ui.widgets import ModelPicker, button, label

if TYPE_CHECKING:
    from app.ui.context import Context

SCROLL_TO_TOP = QTreeWidget.ScrollHint.PositionAtTop
PATH_ROLE = Qt.ItemDataRole.UserRole
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
KEPT_REPORTS = 20


def forget_old_reports(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest reports (HTML and their twins); ones that cannot be deleted stay."""

    def written(report: Path) -> float:
        try:
            return report.stat().st_mtime
        except OSError:
            return 0.0

    reports = sorted(folder.glob("quality-*.html"), key=written, reverse=True)
    for report in reports[keep:]:
        for file in (report, *(report.with_suffix(twin) for twin in TWINS)):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


class QualitySetup(QWidget):
    """``changed`` when anything changed; :meth:`command` is the measurement, or None while something is missing."""

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self.reference = ModelPicker(context, {"hf", "gguf"})
        self.reference.setAccessibleName(self.tr("Reference model"))
        self.note = label("", "muted", wrap=True)
        self.bf16_button = button(self.tr("Convert to BF16 first"), self._convert_first)
        self.saved_button = button(self.tr("Open saved…"), self._ask_saved, "quiet")
        self.saved_button.setAccessibleName(self.tr("Open saved answers"))
        self.saved_button.setToolTip(self.tr("Measure against answers that a model gave once: it is not needed"))
        self.save = QCheckBox(self.tr("Save answers"))
        self.save.setAccessibleName(self.tr("Save the reference's answers"))
        self.save.setToolTip(self.tr("Into a small file that can be the reference later, without the model"))
        self.save.clicked.connect(self._ask_save)
        self._save_path = ""
        self.candidates = ModelChecks(context, self.tr("Candidates"), served=True)
        self.texts = QTreeWidget()
        self.texts.setAccessibleName(self.tr("Texts"))
        self.texts.setHeaderHidden(True)
        self.texts.setUniformRowHeights(True)
        self.texts.setIndentation(18)
        self.texts.setMinimumHeight(124)
        self.texts.itemExpanded.connect(lambda item: self.texts.scrollToItem(item, SCROLL_TO_TOP))
        for name in DEFAULT:
            self._add_text(name, name.capitalize())
        self._add_languages()
        self.text_button = button(self.tr("Add text files…"), self._ask_texts, "quiet")
        self.tasks = TaskChoice()
        self.chunks = self._spin(self.tr("Windows of each text"), 9999, self.tr("all"), 8)
        self.minutes = self._spin(self.tr("Time limit in minutes"), 600, self.tr("no limit"), 0)
        self.precision = self._spin(
            self.tr("Stop when every divergence is known so precisely"), 50, self.tr("no limit"), 0
        )
        self.precision.setPrefix("± ")
        self.precision.setSuffix(" %")
        self.cache = QComboBox()
        self.cache.setAccessibleName(self.tr("Types of the KV cache to measure"))
        self.cache.setToolTip(explain("KV cache"))
        for words, kinds in (
            (self.tr("16 bit"), ("",)),
            (self.tr("16 and 8 bit"), ("", "q8_0")),
            (self.tr("16, 8 and 4 bit"), ("", "q8_0", "q4_0")),
        ):
            self.cache.addItem(words, kinds)
        self.window_tokens = QComboBox()
        self.window_tokens.setAccessibleName(self.tr("Tokens of a window"))
        self.window_tokens.setToolTip(
            self.tr("The second half of each window counts. Longer ones show the quality far into a context.")
        )
        for tokens in CONTEXTS:
            self.window_tokens.addItem(fmt.number(tokens), tokens)
        self._lay_out()
        self.reference.changed.connect(self._on_reference)
        context.library.changed.connect(self._on_library)
        for signal in (
            self.candidates.changed,
            self.texts.itemChanged,
            self.tasks.changed,
            self.chunks.valueChanged,
            self.window_tokens.currentIndexChanged,
            self.cache.currentIndexChanged,
        ):
            signal.connect(lambda *_: self.changed.emit())
        self._on_library()

    def command(self) -> MeasureQuality | None:
        """What is chosen, with a place for its report, for which the oldest reports make room."""
        chosen = self.chosen()
        if chosen is None:
            return None
        folder = paths.cache() / "reports"
        folder.mkdir(exist_ok=True)
        forget_old_reports(folder, KEPT_REPORTS - 1)
        return msgspec.structs.replace(chosen, report=str(folder / f"quality-{uuid.uuid4().hex[:12]}.html"))

    def chosen(self) -> MeasureQuality | None:
        """The measurement, without a report; None while something is missing."""
        reference, candidates, texts = self.reference.path(), self.candidates.checked(), self.chosen_texts()
        if self.missing() or reference is None:
            return None
        saved = self._is_saved()
        settings = self._context.settings
        caches = self.cache.currentData()
        rows = [(path, kind) for path in candidates for kind in (("",) if is_remote(path) else caches)]
        return MeasureQuality(
            reference=reference,
            candidates=tuple(path for path, _ in rows),
            kv=tuple(kind for _, kind in rows),
            served=tuple(self._context.servers.candidate(path) for path in candidates if is_remote(path)),
            context=0 if saved else int(self.window_tokens.currentData()),
            texts=() if saved else tuple(texts),
            chunks=self.chunks.value(),
            minutes=float(self.minutes.value()),
            precision=self.precision.value() / 100,
            tasks=self.tasks.chosen(),
            run_code=self.tasks.may_run_code(),
            threads=settings.threads,
            pass_kld=settings.pass_kld,
            fail_kld=settings.fail_kld,
            pass_top1=settings.pass_top1,
            fingerprint=self._save_path if self._saves() else None,
        )

    def missing(self) -> str:
        """What is still to be chosen, in words; empty when the measurement can start."""
        if not self.reference.path():
            return self.tr("Choose a reference.")
        if self._is_folder():
            return self.tr("The reference must be a GGUF file.")
        if not self.candidates.checked() and not self._saves():
            return self.tr("Tick at least one candidate.")
        if self._saves() and not self.chosen_texts():
            return self.tr("Tick a text to save answers on.")
        if not self._is_saved() and not self.chosen_texts():
            return self.tr("Tick at least one text.")
        return ""

    def chosen_texts(self) -> list[str]:
        """Names of bundled slices and paths of own files that are ticked."""
        ticked = [item for item in self._text_items() if item.checkState(0) == Qt.CheckState.Checked]
        return [str(item.data(0, PATH_ROLE)) for item in ticked]

    def set_texts(self, names: list[str]) -> None:
        """Tick exactly these."""
        for item in self._text_items():
            on = str(item.data(0, PATH_ROLE)) in names
            item.setCheckState(0, Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)

    # ---- inside

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setHorizontalSpacing(12)
        form.setVerticalSpacing(6)
        form.addRow(label(self.tr("Windows a text"), "muted"), self.chunks)
        form.addRow(label(self.tr("Tokens a window"), "muted"), self.window_tokens)
        form.addRow(label(self.tr("KV cache"), "muted"), self.cache)
        form.addRow(label(self.tr("Minutes"), "muted"), self.minutes)
        form.addRow(label(self.tr("Until sure to"), "muted"), self.precision)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 12, 0)
        layout.setSpacing(6)
        layout.addWidget(label(self.tr("Reference"), "heading"))
        layout.addWidget(self.reference)
        answers = QHBoxLayout()
        answers.addWidget(self.save)
        answers.addStretch(1)
        answers.addWidget(self.saved_button)
        layout.addLayout(answers)
        layout.addWidget(self.note)
        layout.addWidget(self.bf16_button, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(label(self.tr("Candidates"), "heading"))
        layout.addWidget(self.candidates, 6)
        layout.addWidget(label(self.tr("Texts"), "heading"))
        layout.addWidget(self.texts, 7)
        layout.addWidget(self.text_button, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(label(self.tr("Tasks"), "heading"))
        layout.addWidget(self.tasks)
        layout.addLayout(form)

    def _spin(self, name: str, largest: int, zero: str, value: int) -> QSpinBox:
        box = QSpinBox()
        box.setRange(0, largest)
        box.setSpecialValueText(zero)
        box.setValue(value)
        box.setAccessibleName(name)
        box.lineEdit().setAccessibleName(name)
        box.setToolTip(name)
        return box

    def _add_text(self, path: str, title: str) -> None:
        self.texts.addTopLevelItem(self._text_item(path, title, Qt.CheckState.Checked))

    def _text_item(self, path: str, title: str, state: Qt.CheckState) -> QTreeWidgetItem:
        item = QTreeWidgetItem([title])
        item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemNeverHasChildren)
        item.setCheckState(0, state)
        item.setData(0, PATH_ROLE, path)
        item.setToolTip(0, path)
        return item

    def _add_languages(self) -> None:
        """One row with its own tick, folded: most models are judged in one language or two."""
        group = QTreeWidgetItem([self.tr("Languages")])
        group.setFlags(group.flags() | Qt.ItemFlag.ItemIsUserCheckable | Qt.ItemFlag.ItemIsAutoTristate)
        names = [name.capitalize() for name in LANGUAGES]
        group.setToolTip(0, ", ".join(names))
        for name, title in zip(LANGUAGES, names, strict=True):
            group.addChild(self._text_item(name, title, Qt.CheckState.Unchecked))
        self.texts.addTopLevelItem(group)

    def _text_items(self) -> list[QTreeWidgetItem]:
        """The rows that are texts, in the order shown."""
        found: list[QTreeWidgetItem] = []
        for row in range(self.texts.topLevelItemCount()):
            item = self.texts.topLevelItem(row)
            children = [item.child(i) for i in range(item.childCount())] if item is not None else []
            found += [each for each in (children or [item]) if each is not None]
        return found

    def _ask_texts(self) -> None:
        chosen, _ = QFileDialog.getOpenFileNames(self, self.tr("Add texts"), "", self.tr("Texts (*.txt *.md *.jsonl)"))
        for path in chosen:
            self._add_text(path, Path(path).name)
        self.changed.emit()

    def _is_saved(self) -> bool:
        """Whether the reference is a file of saved answers."""
        return (self.reference.path() or "").lower().endswith(SUFFIX)

    def _saves(self) -> bool:
        return self.save.isChecked() and bool(self._save_path) and not self._is_saved()

    def _ask_saved(self) -> None:
        kinds = self.tr("Saved answers (*%1)").replace("%1", SUFFIX)
        chosen, _ = QFileDialog.getOpenFileName(self, self.tr("Open saved answers"), str(paths.models()), kinds)
        if chosen:
            self.reference.set_path(chosen)

    def _ask_save(self, wanted: bool) -> None:
        """Ask for a place once it is ticked; without one nothing is saved."""
        self._save_path = ""
        if wanted:
            stem = Path(self.reference.path() or "reference").stem
            kinds = self.tr("Saved answers (*%1)").replace("%1", SUFFIX)
            place = str(paths.models() / f"{stem}{SUFFIX}")
            chosen, _ = QFileDialog.getSaveFileName(self, self.tr("Save the reference's answers"), place, kinds)
            if chosen:
                self._save_path = chosen if chosen.lower().endswith(SUFFIX) else chosen + SUFFIX
        self.save.setChecked(bool(self._save_path))
        self._on_reference()

    def _is_folder(self) -> bool:
        path, info = self.reference.path(), self.reference.info()
        if not path or self._is_saved():
            return False
        return info.kind == "hf" if info is not None else not path.lower().endswith(".gguf")

    def _on_library(self) -> None:
        """Without a choice the largest full-precision GGUF is the obvious reference."""
        if self.reference.path() is None:
            for info in self._context.library.usable({"gguf"}):
                if not is_quantized(info):
                    self.reference.set_path(info.path)
                    break
        self._on_reference()

    def _on_reference(self) -> None:
        path, info = self.reference.path(), self.reference.info()
        self.candidates.hide_path(path or "")
        self.tasks.suggest(POCKET if info is None or info.name.startswith("Pocket") else QUENCH)
        self.bf16_button.setVisible(self._is_folder())
        saved = self._is_saved()
        self.save.setVisible(not saved)
        for part in (self.texts, self.text_button, self.window_tokens):
            part.setEnabled(not saved)
        words = ""
        if saved:
            words = self.tr("Answers that a model gave once. The texts and windows are those of the file.")
        elif self._saves():
            words = self.tr("Its answers are saved to %1.").replace("%1", self._save_path)
        elif self._is_folder():
            words = self.tr("A model folder must become a full-precision GGUF before it can be measured against.")
        elif info is not None and is_quantized(info):
            kind = library.type_label(info)
            words = self.tr("%1 is quantized itself: differences count from it, not from the original.")
            words = words.replace("%1", kind)
        self.note.setText(words)
        self.note.setVisible(bool(words))
        self.changed.emit()

    def _convert_first(self) -> None:
        self._context.navigate.emit("convert", {"source": self.reference.path(), "types": ["BF16"]})
