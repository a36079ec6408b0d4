"""Metadata of a model: every key with its type and value, long ones page by page, and an edited copy of a GGUF file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QVBoxLayout,
    QWidget,
)

from app.inspect_messages import MetadataEntry, MetadataRead, ReadMetadata
from app.protocol import Convert
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.filtered_table import Cells, FilteredTable, Table
from app.ui.inspect_reader import Reader
from app.ui.inspect_value import EditDialog, PagesDialog, type_for_edit
from app.ui.job_center import Job
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, ErrorCard, ProgressLine, button
from converter.spec import ConversionSpec, ModelInfo, QuenchError

FIXED = frozenset({"general.architecture", "general.alignment"})
"""Keys that belong to the file itself, as those that begin with ``split.`` do."""


def value_for_edit(entry: MetadataEntry) -> str:
    """The whole of a value as ``--override-kv`` reads it."""
    if isinstance(entry.value, list):
        if "FLOAT" in entry.type:
            return "[" + ", ".join(map(str, entry.value)) + "]"
        return json.dumps(entry.value, ensure_ascii=False)
    if isinstance(entry.value, bool):
        return "true" if entry.value else "false"
    return str(entry.value)


@dataclass(frozen=True)
class Change:
    """What becomes of a key: another value of a type, or nothing at all (``removed``)."""

    type: str = ""
    value: str = ""
    removed: bool = False

    def override(self, key: str) -> str:
        return f"{key}={self.type}:{self.value}"


class MetadataTab(QWidget):
    """Keys and values. ``copied`` carries the path of an edited copy when it is made."""

    copied = Signal(str)

    def __init__(self, context: Context, reader: Reader, info: ModelInfo, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context, self._reader, self._info = context, reader, info
        self.entries: list[MetadataEntry] = []
        self.changes: dict[str, Change] = {}
        self._keys: list[str] = []
        self.job: Job | None = None
        headers = [self.tr("Key"), self.tr("Type"), self.tr("Value"), self.tr("Edit")]
        self.table = FilteredTable(Table(headers, [], set(), self), self.tr("Metadata"), context.theme.mono(12))
        self.table.layout().setContentsMargins(0, 0, 0, 0)
        self.table.set_widths(2)
        self.table.view.doubleClicked.connect(lambda _: self.open_value())
        self.table.view.selectionModel().currentChanged.connect(lambda *_: self._enable())
        self.open_button = button(self.tr("Show all"), self.open_value)
        self.edit_button = button(self.tr("Edit…"), self.edit)
        self.add_button = button(self.tr("Add…"), self.add)
        self.remove_button = button(self.tr("Remove"), self.remove)
        self.undo_button = button(self.tr("Undo all"), self.undo)
        self.save_button = button(self.tr("Save a copy…"), self.save, "primary")
        self.words = ElidedLabel("", Qt.TextElideMode.ElideRight)
        set_role(self.words, "small")
        self.progress = ProgressLine()
        self.progress.hide()
        self.progress.cancelled.connect(lambda: self.job.cancel() if self.job is not None else None)
        self.error = ErrorCard()
        row = QHBoxLayout()
        row.setSpacing(8)
        for made in (self.open_button, self.edit_button, self.add_button, self.remove_button, self.undo_button):
            row.addWidget(made)
        row.addWidget(self.words, 1)
        row.addWidget(self.save_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 12, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.error)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.progress)
        layout.addLayout(row)
        self._is_file = info.kind == "gguf"
        for made in (self.open_button, self.edit_button, self.add_button, self.remove_button, self.save_button):
            made.setVisible(self._is_file)
        if self._is_file:
            self._ask()
        else:
            plain = {key: str(value) for key, value in info.metadata.items()}
            self.entries = [MetadataEntry(key, "", 1, value, True) for key, value in plain.items()]
            self.words.setText(
                self.tr(
                    "What the folder says of itself. A GGUF file made of it gets its metadata when it is converted."
                )
            )
            self._fill()
        self._enable()

    # ---- the table

    def _ask(self) -> None:
        self.error.clear()
        self.words.setText(self.tr("Reading…"))
        self._reader.ask("metadata", lambda number: ReadMetadata(number, self._info.path), self._answered)

    def _answered(self, answer: MetadataRead | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self.words.setText("")
            self.error.show_error(answer, [(self.tr("Retry"), self._ask)])
            return
        self.entries = list(answer.entries)
        self.words.setText("")
        if answer.left_out:
            text = self.tr("The header is absurdly long: {0} keys are not listed.").format(fmt.number(answer.left_out))
            self.words.setText(text)
        self._fill()

    def _fill(self) -> None:
        known = [entry.key for entry in self.entries]
        self._keys = [*known, *(key for key in self.changes if key not in set(known))]
        by_key = {entry.key: entry for entry in self.entries}
        cells: Cells = []
        for key in self._keys:
            entry, change = by_key.get(key), self.changes.get(key)
            kind = change.type if change and change.type else type_for_edit(entry.type) if entry and entry.type else ""
            value = change.value if change and not change.removed else self._shown(entry) if entry else ""
            state = "" if change is None else self._state(change, entry is not None)
            line = value.replace("\n", "↵ ")
            cells.append([(key, key), (kind, kind), (line, line), (state, state)])
        current = self.current_key()
        self.table.model.replace(cells)
        self.table.view.setColumnHidden(1, not self._is_file)
        self.table.view.setColumnHidden(3, not self.changes)
        if current in self._keys:
            index = self.table.proxy.mapFromSource(self.table.model.index(self._keys.index(current), 0))
            self.table.view.setCurrentIndex(index)
        self._enable()

    def _shown(self, entry: MetadataEntry) -> str:
        if entry.whole:
            return value_for_edit(entry)
        if isinstance(entry.value, list):
            few = json.dumps(entry.value[:4], ensure_ascii=False)[1:-1]
            kind = entry.type.removeprefix("ARRAY ").lower()
            words = self.tr("{0} strings") if kind == "string" else self.tr("{0} × ") + kind
            return f"{words.format(fmt.number(entry.items))}: {few}, …"
        return f"{self.tr('{0} characters').format(fmt.number(entry.items))}: {entry.value[:200]}…"

    def _state(self, change: Change, known: bool) -> str:
        if change.removed:
            return self.tr("removed")
        return self.tr("changed") if known else self.tr("new")

    def current_key(self) -> str:
        """The key of the current row; empty if there is none."""
        row = self.table.chosen()
        return self._keys[row] if 0 <= row < len(self._keys) else ""

    def entry(self, key: str) -> MetadataEntry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    def _enable(self) -> None:
        key = self.current_key()
        entry, change = self.entry(key), self.changes.get(key)
        own = key in FIXED or key.startswith("split.")
        busy = self.job is not None and self.job.is_active
        editable = bool(key) and not own and (entry is None or entry.whole or entry.type == "STRING") and not busy
        self.open_button.setEnabled(entry is not None and not entry.whole)
        self.edit_button.setEnabled(editable)
        self.add_button.setEnabled(not busy)
        self.remove_button.setEnabled(bool(key) and not own and not busy and not (change and change.removed))
        self.undo_button.setVisible(bool(self.changes) and not busy)
        self.save_button.setEnabled(bool(self.changes) and not busy)

    # ---- edits

    def open_value(self) -> None:
        """All of a long value, page by page."""
        entry = self.entry(self.current_key())
        if entry is not None and not entry.whole:
            PagesDialog(self._context, self._reader, self._info.path, entry, self).show()

    def edit(self) -> EditDialog | None:
        """Another value for the current key."""
        key = self.current_key()
        entry, change = self.entry(key), self.changes.get(key)
        if not self.edit_button.isEnabled():
            return None
        dialog = EditDialog(self._context, key, self)
        if change is not None and not change.removed:
            dialog.set_value(change.type, change.value)
        elif entry is not None and entry.whole:
            dialog.set_value(type_for_edit(entry.type), value_for_edit(entry))
        elif entry is not None:
            dialog.wait_for(self._reader, self._info.path, entry)
        dialog.changed.connect(self.set_change)
        dialog.show()
        return dialog

    def add(self) -> EditDialog:
        """A key that the file does not have."""
        dialog = EditDialog(self._context, "", self)
        dialog.changed.connect(self.set_change)
        dialog.show()
        return dialog

    def remove(self) -> None:
        key = self.current_key()
        if self.entry(key) is None:
            self.changes.pop(key, None)
        else:
            self.changes[key] = Change(removed=True)
        self._fill()

    def undo(self) -> None:
        self.changes.clear()
        self._fill()

    def set_change(self, key: str, kind: str, value: str) -> None:
        """``key`` is to have ``value``; one that is what the file has is no change."""
        entry = self.entry(key)
        if entry is not None and entry.whole and (type_for_edit(entry.type), value_for_edit(entry)) == (kind, value):
            self.changes.pop(key, None)
        else:
            self.changes[key] = Change(kind, value)
        self._fill()

    # ---- the copy

    def spec(self, target: str) -> ConversionSpec:
        """The copy as a conversion: every tensor as it is, other metadata."""
        return ConversionSpec(
            source=self._info.path,
            output=target,
            types=("copy",),
            override_kv=tuple(change.override(key) for key, change in self.changes.items() if not change.removed),
            remove_kv=tuple(key for key, change in self.changes.items() if change.removed),
            overwrite=True,  # the dialog has asked
        )

    def save(self) -> None:
        """Ask where to, and make the copy as a job."""
        target = self.ask_target()
        if target:
            self.make_copy(target)

    def ask_target(self) -> str:
        source = Path(self._info.path)
        proposed = str(source.with_name(f"{source.stem}-edited.gguf"))
        chosen, _ = QFileDialog.getSaveFileName(self, self.tr("Save a copy"), proposed, self.tr("GGUF models (*.gguf)"))
        return chosen if not chosen or chosen.lower().endswith(".gguf") else chosen + ".gguf"

    def make_copy(self, target: str) -> None:
        self.error.clear()
        title = self.tr("Edited copy: {0}").format(Path(target).name)
        self.job = self._context.jobs.submit("convert", title, Convert(self.spec(target)), "library")
        self.job.changed.connect(self._update)
        self.job.finished.connect(self._finished)
        self._update()

    def _update(self) -> None:
        job = self.job
        if job is None:
            return
        self.progress.setVisible(job.is_active)
        self.progress.set_progress(job.progress, job.label or job.title, fmt.rate(job.rate), job.seconds_left)
        self._enable()

    def _finished(self) -> None:
        job, self.job = self.job, None
        self.progress.hide()
        if job is not None and job.error is not None:
            error, again = job.error, job.command.spec.output
            self.error.show_error(error, [(self.tr("Retry"), lambda: self.make_copy(again))])
        elif job is not None and job.state == "done":
            target = job.command.spec.output
            self.changes.clear()
            self._fill()
            self.words.setText(self.tr("Saved: {0}").format(fmt.path(target)))
            self.copied.emit(target)
        self._enable()
