"""The choice of a file that a fit takes measured costs from and keeps them in (``quench fit --sensitivity``)."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog, QWidget

from app.ui import format as fmt

NONE, FILE, OPEN, NEW = "none", "file", "open", "new"
SUFFIX = ".costs.json"


class CostsFile(QComboBox):
    """None, a file, or the ways to one; ``changed`` when it is another."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        words = self.tr(
            "A file that measured costs of tensors are taken from and kept in: other sizes of the same model, on the "
            "same texts and with the same matrix, then measure only what is new"
        )
        self.setAccessibleName(words)
        self.setToolTip(words)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(4)
        self._path = ""
        self._fill()
        self.activated.connect(self._on_activated)

    def path(self) -> str:
        """The file, empty for none."""
        return self._path

    def set_path(self, path: str) -> None:
        """Take and keep costs there; empty: nowhere."""
        if path != self._path:
            self._path = path
            self._fill()
            self.changed.emit()

    def _fill(self) -> None:
        self.clear()
        self.addItem(self.tr("Not kept"), NONE)
        if self._path:
            self.addItem(Path(self._path).name, FILE)
            self.setItemData(1, fmt.path(self._path), Qt.ItemDataRole.ToolTipRole)
        self.addItem(self.tr("Open…"), OPEN)
        self.addItem(self.tr("Keep in a new file…"), NEW)
        self.setCurrentIndex(1 if self._path else 0)

    def _on_activated(self, index: int) -> None:
        kind = self.itemData(index)
        self.setCurrentIndex(1 if self._path else 0)
        wanted = self.tr("Measured costs (*.json);;All files (*)")
        path = self._path
        if kind == NONE:
            path = ""
        elif kind == OPEN:
            path = QFileDialog.getOpenFileName(self, self.tr("Measured costs"), "", wanted)[0] or path
        elif kind == NEW:
            path = (
                QFileDialog.getSaveFileName(self, self.tr("Keep measured costs"), f"model{SUFFIX}", wanted)[0] or path
            )
        self.set_path(path)


__all__ = ["FILE", "NEW", "NONE", "OPEN", "CostsFile"]
