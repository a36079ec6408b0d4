"""Serve: the loaded model for other programs, on this machine or, with a token, in the network. Off until asked for."""

from __future__ import annotations

import secrets

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QCheckBox, QDialog, QFormLayout, QHBoxLayout, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from app.library import file_title
from app.serving import guard
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.serve_desk import EVERYWHERE, OFF, ON, STARTING
from app.ui.widgets import ErrorCard, button, fit_height, icon_button, label, title_of
from converter.spec import QuenchError

HERE = "127.0.0.1"


class ServeDialog(QDialog):
    """A switch with what belongs to it: port, for whom, token, and how much was answered."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._context = context
        self._desk = context.serving
        self.setWindowTitle(self.tr("Serve"))
        self.setMinimumWidth(520)
        theme = context.theme
        self.model = label("", "heading", wrap=True)
        self.port = QSpinBox()
        self.port.setRange(1024, 65535)
        self.port.setValue(context.settings.serve_port)
        self.port.lineEdit().setTextMargins(6, 0, 0, 0)  # as the window gives them to its pages
        self.port.setAccessibleName(self.tr("Port"))
        self.port.lineEdit().setAccessibleName(self.tr("Port"))
        self.network = QCheckBox(self.tr("Also for other machines in the network"))
        self.network.toggled.connect(self._network_toggled)
        self.token = QLineEdit()
        self.token.setAccessibleName(self.tr("Token"))
        self.token.setPlaceholderText(self.tr("not needed on this machine"))
        self.token.setFont(theme.mono(12))
        self.address = QLineEdit()
        self.address.setAccessibleName(self.tr("Address"))
        self.address.setReadOnly(True)
        self.address.setPlaceholderText(self.tr("not served"))
        self.address.setFont(theme.mono(12))
        form = QFormLayout()
        form.setVerticalSpacing(8)
        form.setHorizontalSpacing(16)
        form.addRow(self.tr("Port"), self.port)
        form.addRow("", self.network)
        copy_token = icon_button(theme, "copy", self.tr("Copy the token"), lambda: _copy(self.token))
        copy_token.setEnabled(False)
        self.token.textChanged.connect(lambda text: copy_token.setEnabled(bool(text)))
        form.addRow(self.tr("Token"), _beside(self.token, copy_token))
        copy_address = icon_button(theme, "copy", self.tr("Copy the address"), lambda: _copy(self.address))
        copy_address.setEnabled(False)
        self.address.textChanged.connect(lambda text: copy_address.setEnabled(bool(text)))
        form.addRow(self.tr("Address"), _beside(self.address, copy_address))
        self.counts = label("", "small", wrap=True)
        self.error = ErrorCard()
        self.error.hide()
        self.switch = button("", self._switch, "primary")
        self.switch.setDefault(True)
        row = QHBoxLayout()
        row.addWidget(self.counts, 1)
        row.addWidget(button(self.tr("Close"), self.reject))
        row.addWidget(self.switch)
        about = self.tr(
            "Other programs can ask the loaded model through OpenAI's form of the API: chat, completions, models, also "
            "streaming. Pages in your browser cannot. Questions are answered one after another, between yours."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(12)
        layout.addWidget(self.model)
        layout.addWidget(label(about, "muted", wrap=True))
        layout.addLayout(form)
        layout.addWidget(self.error)
        layout.addStretch(1)
        layout.addLayout(row)
        self._desk.changed.connect(self._show)
        context.engines.changed.connect(self._show)
        self._show()

    def _network_toggled(self, on: bool) -> None:
        if on and not self.token.text():
            self.token.setText(secrets.token_urlsafe(24))

    def _switch(self) -> None:
        if self._desk.state != OFF:
            self._desk.stop()
            return
        engine = self._desk.offer()
        host, token = EVERYWHERE if self.network.isChecked() else HERE, self.token.text().strip()
        try:
            guard.check(host, token)
        except QuenchError as error:
            self.error.show_error(error)
            fit_height(self)
            return
        if engine is not None:
            self._context.update_settings(serve_port=self.port.value())
            self._desk.start(engine, host, self.port.value(), token)

    def _show(self) -> None:
        desk = self._desk
        engine = self._context.engines.find(desk.path) if desk.state != OFF else desk.offer()
        info = self._context.library.entry(engine.path) if engine is not None else None
        none = self.tr("No model is loaded. Chat with one first.")
        self.model.setText(
            title_of(info) if info is not None else file_title(engine.path) if engine is not None else none
        )
        for field in (self.port, self.network, self.token):
            field.setEnabled(desk.state == OFF)
        self.address.setText(desk.address)
        self.switch.setText(self.tr("Serve") if desk.state == OFF else self.tr("Stop serving"))
        self.switch.setEnabled(engine is not None or desk.state != OFF)
        words = {
            OFF: "",
            STARTING: self.tr("Starting"),
            ON: self.tr("{0} answered, {1} refused").format(
                fmt.number(desk.counts.answered), fmt.number(desk.counts.refused)
            ),
        }
        self.counts.setText(words[desk.state])
        if desk.error is None:
            self.error.clear()
        elif desk.error is not self.error.error:
            self.error.show_error(desk.error)
        fit_height(self)


def _beside(field: QWidget, tool: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setSpacing(8)
    row.addWidget(field, 1)
    row.addWidget(tool)
    return row


def _copy(field: QLineEdit) -> None:
    QGuiApplication.clipboard().setText(field.text())
