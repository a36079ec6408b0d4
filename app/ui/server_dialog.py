"""Adding a server of models to the library, or changing one: address, name, key. It is asked before it is kept."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QFormLayout, QHBoxLayout, QLineEdit, QVBoxLayout, QWidget

from app.remote import address
from app.remote.address import Server
from app.remote.messages import KeyTold, ServerState, ServerTold
from app.ui.context import Context
from app.ui.widgets import ErrorCard, ProgressLine, button, fit_height, label
from converter.spec import QuenchError

EXAMPLE = "http://127.0.0.1:8080/v1"


class ServerDialog(QDialog):
    """``server`` is the one to change, None for a new one. Accepted once it has answered and is in the library."""

    def __init__(self, context: Context, parent: QWidget | None = None, server: Server | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._context = context
        self._before = server
        self._request = 0
        self._named = server is not None
        self.setWindowTitle(self.tr("Server") if server is not None else self.tr("Add a server"))
        self.setMinimumWidth(520)
        self.url = self._field(self.tr("Address"), EXAMPLE, server.url if server is not None else "")
        self.name = self._field(self.tr("Name"), "", server.name if server is not None else "")
        self.key = self._field(self.tr("Key"), self.tr("only if the server wants one"), "")
        self.key.setEchoMode(QLineEdit.EchoMode.Password)
        if server is not None:
            self.key.setPlaceholderText(self.tr("unchanged"))
        self.url.textChanged.connect(self._url_changed)
        self.name.textEdited.connect(self._name_edited)
        self.key.textChanged.connect(self._show_warning)
        form = QFormLayout()
        form.setVerticalSpacing(8)
        form.setHorizontalSpacing(16)
        for field in (self.url, self.name, self.key):
            form.addRow(field.accessibleName(), field)
        self.warning = label("", "warn", wrap=True)
        self.progress = ProgressLine()
        self.progress.cancelled.connect(self._stop)
        self.error = ErrorCard()
        self.ok = button(self.tr("Save") if server is not None else self.tr("Add"), self.ask, "primary")
        self.ok.setDefault(True)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(button(self.tr("Cancel"), self.reject))
        row.addWidget(self.ok)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 20, 24, 16)
        layout.setSpacing(12)
        about = self.tr(
            "Any server with OpenAI's form of the API: llama-server, vLLM, Ollama, TGI or a service. What you write in "
            "a chat with one of its models goes there."
        )
        layout.addWidget(label(about, "muted", wrap=True))
        layout.addLayout(form)
        kept = self.tr("The key is kept in the system's keyring and sent to this address alone.")
        layout.addWidget(label(kept, "small", wrap=True))
        for part in (self.warning, self.progress, self.error):
            part.hide()
            layout.addWidget(part)
        layout.addStretch(1)
        layout.addLayout(row)
        self.finished.connect(self._stop)
        self._show_state()
        self.url.setFocus()

    def _field(self, name: str, example: str, text: str) -> QLineEdit:
        field = QLineEdit(text)
        field.setAccessibleName(name)
        field.setPlaceholderText(example)
        return field

    def _taken(self) -> list[str]:
        mine = self._before.name if self._before is not None else ""
        return [server.name for server in self._context.servers.known if server.name != mine]

    def _url_changed(self) -> None:
        self.error.clear()
        if not self._named:
            try:
                url = address.check_url(self.url.text())
                self.name.setText(address.suggested_name(url, self._taken()))
            except QuenchError:
                self.name.clear()
        self._show_warning()
        self._show_state()

    def _name_edited(self, text: str) -> None:
        self._named = bool(text.strip())
        self.error.clear()
        fit_height(self)

    def _show_warning(self) -> None:
        try:
            is_open = address.travels_open(address.check_url(self.url.text()))
        except QuenchError:
            is_open = False
        words = self.tr("Without https everybody on the way can read what you write.")
        if self.key.text():
            words = self.tr("Without https everybody on the way can read what you write, and the key.")
        self.warning.setText(words)
        self.warning.setVisible(is_open)
        fit_height(self)

    def _show_state(self) -> None:
        busy = self._request != 0
        self.ok.setEnabled(bool(self.url.text().strip()) and not busy)
        for field in (self.url, self.name, self.key):
            field.setEnabled(not busy)
        self.progress.setVisible(busy)
        self.progress.set_progress(None, self.tr("Asking the server"))
        fit_height(self)

    def _show_error(self, error: QuenchError) -> None:
        self.error.show_error(error)
        fit_height(self)

    # ---- asking ------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask the server for its models; its answer puts it into the library."""
        self.error.clear()
        try:
            url = address.check_url(self.url.text())
            name = address.check_name(self.name.text() or address.suggested_name(url, self._taken()), self._taken())
        except QuenchError as error:
            self._show_error(error)
            return
        if self._before is None and len(self._context.servers.known) >= address.MAX_SERVERS:
            title = self.tr("There are {0} servers in the library already.").format(address.MAX_SERVERS)
            self._show_error(QuenchError("too_many_servers", title, "", self.tr("Remove one of them first.")))
            return
        server, secret = Server(name, url), self.key.text().strip()
        self._request = self._context.servers.ask(url, secret, lambda answer: self._told(server, secret, answer))
        self._show_state()

    def _stop(self) -> None:
        if self._request:
            self._context.servers.forget(self._request)
            self._request = 0
            self._show_state()

    def _told(self, server: Server, secret: str, answer: ServerTold | QuenchError) -> None:
        self._request = 0
        if isinstance(answer, QuenchError):
            self._show_state()
            self._show_error(answer)
            return
        if secret:
            self._request = self._context.servers.keep_key(
                server.url, secret, lambda kept: self._kept(server, answer.state, kept)
            )
            return
        self._done(server, answer.state)

    def _kept(self, server: Server, state: ServerState, answer: KeyTold | QuenchError) -> None:
        self._request = 0
        if isinstance(answer, QuenchError):
            self._show_state()
            self._show_error(answer)
            return
        if not answer.kept:
            self._context.notify.info(self.tr("The key is used until Quench ends. {0}").format(answer.why))
        self._done(server, state)

    def _done(self, server: Server, state: ServerState) -> None:
        self._context.servers.put(server, state, self._before.name if self._before is not None else "")
        self.accept()
