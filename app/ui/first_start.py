"""The card of the first start: a chat within seconds, or the way to a model of one's own."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

import resources
from app import paths
from app.protocol import Convert
from app.ui.context import Context
from app.ui.job_center import CANCELLED, DONE, Job
from app.ui.widgets import Card, ErrorCard, ProgressLine, button, icon_button, label
from converter.spec import ConversionSpec, ModelInfo, QuenchError

POCKET_TYPE = "Q8_0"


def pocket_file() -> Path:
    """Where the bundled model's GGUF goes."""
    return paths.models() / f"pocket-{POCKET_TYPE}.gguf"


class PocketStart(QWidget):
    """Makes the bundled model ready for a chat: converts it unless that was done, then says ``ready`` with its path."""

    ready = Signal(str)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._job: Job | None = None
        self._busy = False
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._cancel)
        self.error = ErrorCard()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.progress)
        layout.addWidget(self.error)
        self.progress.hide()
        self.hide()

    def start(self) -> None:
        """Begin; does nothing while it is at it."""
        if self._busy:
            return
        self._busy = True
        self.error.clear()
        self.show()
        target = pocket_file()
        if target.exists():
            self._context.scout.inspect(str(target), self._looked)
        else:
            self._convert(overwrite=False)

    def _looked(self, answer: ModelInfo | QuenchError) -> None:
        if isinstance(answer, QuenchError) or answer.problems:
            self._convert(overwrite=True)  # cut off or damaged since it was made
        else:
            self._done()

    def _convert(self, *, overwrite: bool) -> None:
        spec = ConversionSpec(
            source=str(resources.path("pocket")), output=str(pocket_file()), types=(POCKET_TYPE,), overwrite=overwrite
        )
        self.progress.set_progress(None, self.tr("Making Pocket ready"))
        self.progress.show()
        title = self.tr("Pocket to {0}").format(POCKET_TYPE)
        self._job = self._context.jobs.submit("convert", title, Convert(spec), "library chat")
        self._job.changed.connect(self._moved)
        self._job.finished.connect(self._ended)

    def _moved(self) -> None:
        job = self._job
        if job is not None and job.is_active:
            fraction = job.progress if job.progress > 0 else None
            self.progress.set_progress(fraction, self.tr("Making Pocket ready"), "", job.seconds_left)

    def _ended(self) -> None:
        job, self._job = self._job, None
        self.progress.hide()
        if job is None:
            return
        if job.state == DONE:
            self._done()
            return
        self._busy = False
        if job.state == CANCELLED or job.error is None:
            self.hide()
        else:
            self.error.show_error(job.error, [(self.tr("Retry"), self.start)])

    def _done(self) -> None:
        self._busy = False
        self.hide()
        path = str(pocket_file())
        self._context.library.add(path)
        self._context.update_settings(first_start=False)
        self.ready.emit(path)

    def _cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()


class FirstStartCard(Card):
    """Three ways to begin; a signal for each choice, and ``dismissed``."""

    pocket = Signal()
    find_model = Signal()
    open_file = Signal()
    open_folder = Signal()
    dismissed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__("", parent)
        self._theme = context.theme
        self.body.setContentsMargins(24, 20, 16, 20)
        self._logo = QLabel()
        self._logo.setPixmap(context.theme.pixmap("quench", "text", 48))
        words = QVBoxLayout()
        words.setSpacing(4)
        words.addWidget(label(self.tr("Local models, measured"), "title"))
        words.addWidget(
            label(
                self.tr(
                    "Pocket is a small model that comes with Quench: 5 million parameters, no download. "
                    "It answers simple questions and shows everything that the program does."
                ),
                "muted",
                wrap=True,
            )
        )
        top = QHBoxLayout()
        top.setSpacing(16)
        top.addWidget(self._logo, 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(words, 1)
        top.addWidget(
            icon_button(context.theme, "close", self.tr("Do not show this card again"), self.dismissed.emit),
            0,
            Qt.AlignmentFlag.AlignTop,
        )
        self.chat = button(self.tr("Chat with Pocket now"), self.pocket.emit, "primary")
        row = QHBoxLayout()
        row.setSpacing(8)
        row.setContentsMargins(64, 8, 0, 0)
        row.addWidget(self.chat)
        row.addWidget(button(self.tr("Find a model"), self.find_model.emit))
        row.addWidget(button(self.tr("Open a GGUF file"), self.open_file.emit))
        row.addWidget(button(self.tr("Open a folder"), self.open_folder.emit))
        row.addStretch(1)
        self.body.addLayout(top)
        self.body.addLayout(row)
