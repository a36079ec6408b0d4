"""The question before a link from a model's words opens a browser."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QCoreApplication, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QMessageBox, QWidget


def confirm(url: QUrl, parent: QWidget) -> None:
    """Ask before a link from a model's answer opens a browser; the whole address is shown."""

    def tr(text: str) -> str:
        return QCoreApplication.translate("Transcript", text)

    box = QMessageBox(parent)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle(tr("Open a link?"))
    box.setText(tr("The text links to {0}. Open it in the browser?").format(url.host()))
    box.setInformativeText(url.toString()[:500])
    yes = box.addButton(tr("Open"), QMessageBox.ButtonRole.AcceptRole)
    copy = box.addButton(tr("Copy address"), QMessageBox.ButtonRole.ActionRole)
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))

    def answered(button: Any) -> None:
        if button is yes:
            QDesktopServices.openUrl(url)
        elif button is copy:
            QGuiApplication.clipboard().setText(url.toString())

    box.buttonClicked.connect(answered)
    box.open()
