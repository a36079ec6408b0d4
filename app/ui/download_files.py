"""The files of a download in its row of the jobs drawer: a line each for those that move, one for all the rest."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from app.downloads import Transfer, TransferredFile
from app.ui import format as fmt
from app.ui.theme import set_role
from app.ui.widgets import ElidedLabel, label, tip

SHOWN = 5
_RANK = {"retrying": 0, "fetching": 1, "checking": 1, "waiting": 2, "verified": 3, "cached": 4}


class _Line(QWidget):
    """One file."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name = ElidedLabel()
        set_role(self._name, "small")
        self._state = label("", "small")
        font = self._state.font()
        font.setPixelSize(12)
        self._state.setFont(font)
        self._bar = QProgressBar()
        self._bar.setRange(0, 1000)
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(3)
        top = QHBoxLayout()
        top.setSpacing(8)
        top.addWidget(self._name, 1)
        top.addWidget(self._state)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 2, 0, 2)
        layout.setSpacing(2)
        layout.addLayout(top)
        layout.addWidget(self._bar)

    def show_file(self, file: TransferredFile, *, running: bool) -> None:
        name = file.path.rpartition("/")[2]
        if self._name.text() != name:
            self._name.setText(name)
            self._bar.setAccessibleName(self.tr("Progress of {0}").format(file.path))
        self._name.setToolTip(tip(f"{file.path}\n{file.note}".strip()))
        state = file.state if running or file.state in ("verified", "cached") else "waiting"
        self._state.setText(self._words(file, state))
        set_role(self._state, {"verified": "good", "retrying": "warn"}.get(state, "small"))
        self._bar.setVisible(0 < file.done < file.bytes or file.state in ("fetching", "checking"))
        self._bar.setValue(round(1000 * file.done / max(1, file.bytes)))

    def _words(self, file: TransferredFile, state: str) -> str:
        share = fmt.percent(file.done / max(1, file.bytes), 0)
        words = {
            "waiting": self.tr("waiting") if not file.done else self.tr("waiting at {0}").format(share),
            "fetching": self.tr("{0} of {1}").format(share, fmt.size(file.bytes)),
            "checking": self.tr("checking"),
            "retrying": self.tr("trying again"),
            "verified": self.tr("verified"),
            "cached": self.tr("was here"),
        }
        return words.get(state, state)


class DownloadFiles(QWidget):
    """Those with trouble first, then those that move, wait and are done."""

    def __init__(self, transfer: Transfer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._transfer = transfer
        self._total = label("", "small")
        self._note = label("", "warn", wrap=True)
        self._rest: QLabel = label("", "small")
        self._lines = [_Line() for _ in range(min(SHOWN, len(transfer.files)))]
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._total)
        layout.addWidget(self._note)
        for line in self._lines:
            layout.addWidget(line)
        layout.addWidget(self._rest)
        self._total.setAlignment(Qt.AlignmentFlag.AlignLeft)
        self.refresh()

    def refresh(self, *, running: bool = True) -> None:
        """Show how the files stand now; what has come to rest has no trouble of the moment."""
        transfer = self._transfer
        ranked = sorted(transfer.files, key=lambda file: (_RANK.get(file.state, 2), -file.bytes))
        for line, file in zip(self._lines, ranked, strict=False):
            line.show_file(file, running=running)
        total = self.tr("{0} of {1} · {2} of {3} files")
        done = sum(file.done for file in transfer.files)
        count = len(transfer.files)
        figures = (fmt.size(done), fmt.size(transfer.total), fmt.number(transfer.finished), fmt.number(count))
        self._total.setText(total.format(*figures))
        rest = count - len(self._lines)
        self._rest.setText(self.tr("and {0} more").format(fmt.number(rest)))
        self._rest.setVisible(rest > 0)
        note = next((file.note for file in ranked if file.note and file.state in ("retrying", "waiting")), "")
        self._note.setText(note)
        self._note.setVisible(running and bool(note))
