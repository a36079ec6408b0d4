"""The Settings card "Hugging Face": the token, the way to the hub, and how downloads behave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QCheckBox, QHBoxLayout, QLabel, QLineEdit, QWidget

from app.hub import access
from app.hub.messages import TokenState, TokenTold
from app.ui import format as fmt
from app.ui.settings_fields import add_row, decimal, form, whole
from app.ui.theme import set_role
from app.ui.widgets import Card, ElidedLabel, button, label
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

WIDE = 320
MIB = 1 << 20
VARIABLES = {
    "endpoint": "HF_ENDPOINT",
    "proxy": "HTTPS_PROXY",
    "offline": "HF_HUB_OFFLINE",
    "cache": "HF_HOME, HF_HUB_CACHE",
}
"""What in the environment decides a value."""


class HubCard(Card):
    """Where the token comes from is asked when the card is first seen: a keyring can be slow, and want a password."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__("", parent)
        self.set_title(self.tr("Hugging Face"))
        self._context = context
        self._asked = False
        self._filling = False
        self._make_token()
        self._make_way()
        self._make_downloads()
        context.settings_changed.connect(self.fill)
        self.fill()

    # ---- token -------------------------------------------------------------------------------------------------

    def _make_token(self) -> None:
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText("hf_…")
        self.token.setAccessibleName(self.tr("Token"))
        self.token.setFixedWidth(WIDE)
        self.token.textChanged.connect(self._show_buttons)
        self.token.returnPressed.connect(self.save_token)
        self.save = button(self.tr("Save"), self.save_token)
        self.save.setAccessibleName(self.tr("Save the token"))
        self.remove = button(self.tr("Remove"), self.remove_token)
        self.remove.setAccessibleName(self.tr("Remove the token"))
        self.state = label("", "small", wrap=True)
        self.state.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._told: TokenState | None = None
        row = QHBoxLayout()
        row.setSpacing(8)
        name = label(self.tr("Token"))
        name.setMinimumWidth(168 + 8)
        name.setBuddy(self.token)
        for part in (name, self.token, self.save, self.remove):
            row.addWidget(part)
        row.addStretch(1)
        self.body.addLayout(row)
        under = QHBoxLayout()
        under.addSpacing(168 + 16)
        under.addWidget(self.state, 1)
        self.body.addLayout(under)
        self._show_buttons()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._asked:
            self._asked = True
            QTimer.singleShot(0, self, self.ask)

    def ask(self) -> None:
        """Ask where the token comes from."""
        self.state.setText(self.tr("Looking for a token…"))
        self._context.hub.token_state(self._show_token)

    def save_token(self) -> None:
        """Keep what was typed; the field is empty afterwards."""
        secret = self.token.text().strip()
        if secret:
            self.token.clear()
            self._tell(self.tr("Saving…"))
            self._context.hub.keep_token(secret, self._show_token)

    def remove_token(self) -> None:
        """Forget the token that was kept here."""
        self._tell(self.tr("Removing…"))
        self._context.hub.keep_token("", self._show_token)

    def _show_token(self, answer: TokenTold | QuenchError) -> None:
        if isinstance(answer, QuenchError):
            self._tell(f"{answer.title} {answer.detail} {answer.hint}".strip(), "bad")
        else:
            self._told = answer.state
            self._tell(self._words(answer.state), "good" if answer.state.source else "small")
        self._show_buttons()

    def _words(self, state: TokenState) -> str:
        lasting = self.tr("It is used until Quench ends and written nowhere. {0}").format(state.why)
        words = {
            "keyring": self.tr("A token is kept in the system's keyring."),
            "environment": self.tr("The token of HF_TOKEN in the environment is used."),
            "file": self.tr("The token of hf auth login is used, from the file that it wrote."),
            "": self.tr("No token. Gated and private models need one: make it at {0}.").format(self._tokens_page()),
        }[state.source]
        if state.source == "environment" and self._context.hub.token_of_session:
            return self.tr("A token is set.") + " " + lasting
        if not state.source and not state.keeps:
            return f"{words} {state.why} " + self.tr("A token set here is forgotten when Quench ends.")
        return words

    def _tokens_page(self) -> str:
        try:
            return f"{access.access(self._context.settings).endpoint}/settings/tokens"
        except QuenchError:
            return f"{access.ENDPOINT}/settings/tokens"

    def _tell(self, text: str, role: str = "small") -> None:
        self.state.setText(text)
        set_role(self.state, role)

    def _show_buttons(self) -> None:
        self.save.setEnabled(bool(self.token.text().strip()))
        mine = self._told is not None and self._told.source == "keyring"
        self.remove.setEnabled(mine or self._context.hub.token_of_session)

    # ---- the way to the hub ------------------------------------------------------------------------------------

    def _make_way(self) -> None:
        grid = form(self)
        self.endpoint, self._endpoint_note = self._address(access.ENDPOINT, "hub_endpoint", access.check_endpoint)
        add_row(grid, self.tr("Endpoint or mirror"), self.endpoint, wide=WIDE)
        grid.addWidget(self._endpoint_note, grid.rowCount(), 1, 1, 2)
        example = "http://proxy.example:8080"
        self.proxy, self._proxy_note = self._address(example, "hub_proxy", access.check_proxy_setting)
        add_row(grid, self.tr("Proxy"), self.proxy, wide=WIDE)
        grid.addWidget(self._proxy_note, grid.rowCount(), 1, 1, 2)
        self.offline = QCheckBox(self.tr("Offline mode"))
        self.offline.setAccessibleName(self.tr("Offline mode"))
        self.offline.clicked.connect(lambda on=False: self._context.update_settings(hub_offline=on))
        add_row(grid, "", self.offline, self.tr("The hub is never asked; everything local works."))
        self._offline_note = label("", "small", wrap=True)
        grid.addWidget(self._offline_note, grid.rowCount(), 1, 1, 2)
        self._grid = grid

    def _address(self, example: str, name: str, check: Callable[[str], str]) -> tuple[QLineEdit, QLabel]:
        field, note = QLineEdit(), label("", "small", wrap=True)
        field.setPlaceholderText(example)
        field.editingFinished.connect(lambda: self._set_address(field, note, name, check))
        return field, note

    def _set_address(self, field: QLineEdit, note: QLabel, name: str, check: Callable[[str], str]) -> None:
        """Save an address when typing is over; one that is none is told and not saved."""
        text = field.text().strip()
        try:
            good = check(text) if text else ""
        except QuenchError as error:
            _note(note, f"{error.title} {error.hint}", "bad")
            return
        _note(note, "")
        if name == "hub_endpoint" and good == access.ENDPOINT:
            good = ""
        field.setModified(False)
        self._context.update_settings(**{name: good})
        self.fill()

    # ---- downloads ---------------------------------------------------------------------------------------------

    def _make_downloads(self) -> None:
        self.at_once = whole(1, 16)
        self.at_once.setKeyboardTracking(False)
        self.at_once.valueChanged.connect(lambda value: self._set("downloads_at_once", value))
        add_row(self._grid, self.tr("Downloads at once"), self.at_once, self.tr("Files of one model at a time."))
        self.limit = decimal(0, 10_000, 1, 1)
        self.limit.setKeyboardTracking(False)
        self.limit.setSpecialValueText(self.tr("No limit"))
        self.limit.setSuffix(self.tr(" MiB/s"))
        self.limit.valueChanged.connect(lambda value: self._set("download_limit", round(value * MIB)))
        add_row(self._grid, self.tr("Bandwidth"), self.limit, self.tr("At most, for all downloads together."))
        self.cache = ElidedLabel()
        set_role(self.cache, "small")
        row = self._grid.rowCount()
        self._grid.addWidget(label(self.tr("Downloads lie in"), "muted"), row, 0)
        self._grid.addWidget(self.cache, row, 1, 1, 2)

    def _set(self, name: str, value: int) -> None:
        if not self._filling:
            self._context.update_settings(**{name: value})

    def fill(self) -> None:
        """Show what is saved, and what the environment decides instead."""
        settings = self._context.settings
        self._filling = True
        try:
            now = access.access(settings)
            decided = set(now.from_environment)
        except QuenchError as error:
            now, decided = None, set()
            _note(self._endpoint_note, f"{error.title} {error.detail} {error.hint}", "bad")
        fields = (
            ("endpoint", self.endpoint, self._endpoint_note, settings.hub_endpoint),
            ("proxy", self.proxy, self._proxy_note, settings.hub_proxy),
        )
        for name, field, note, saved in fields:
            by_environment = now is not None and name in decided
            field.setEnabled(not by_environment)
            if by_environment:
                field.setText(access.without_secrets(getattr(now, name)))
                _note(note, self._decided(name))
            elif not field.isModified():  # what is being typed stays
                field.setText(saved)
                if now is not None:
                    _note(note, "")
        self.offline.setEnabled("offline" not in decided)
        self.offline.setChecked(now.offline if now is not None else settings.hub_offline)
        _note(self._offline_note, self._decided("offline") if "offline" in decided else "")
        self.at_once.setValue(settings.downloads_at_once)
        self.limit.setValue(settings.download_limit / MIB)
        if now is not None:
            by = f" ({VARIABLES['cache']})" if "cache" in decided else ""
            self.cache.setText(fmt.path(now.cache) + by)
        self._filling = False

    def _decided(self, name: str) -> str:
        return self.tr("Set by {0} in the environment, which wins.").format(VARIABLES[name])


def _note(note: QLabel, text: str, role: str = "small") -> None:
    note.setText(text)
    note.setVisible(bool(text))
    note.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
    set_role(note, role)
