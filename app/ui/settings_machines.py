"""The Settings card "Other machines": RPC workers that may compute a part of a model, and how each one is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtGui import QPaintEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QWidget

from app.remote import machines
from app.remote.machines import Machine
from app.remote.messages import MachineTold
from app.ui import format as fmt
from app.ui.theme import set_role
from app.ui.widgets import Card, ElidedLabel, button, label
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

_NAME_WIDTH = 200


class MachinesCard(Card):
    """Nobody is asked before the card is seen, and nobody but those who were entered here."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__("", parent)
        self.set_title(self.tr("Other machines"))
        self._context = context
        self._asked = False
        self._told: dict[str, Machine | None] = {}
        self._requests: dict[str, int] = {}
        self._rows: dict[str, tuple[ElidedLabel, QLabel, QPushButton]] = {}
        about = self.tr(
            "A model that is too large for this machine can be computed on several: start llama.cpp's RPC worker on "
            "the others (ggml-rpc-server) and enter them here. Which models are spread is chosen in Chat, under "
            "Loading."
        )
        warning = self.tr(
            "In trusted networks only: the workers ask for no password, nothing on the way is encrypted, and whoever "
            "reaches their port can use them and read what you write."
        )
        self.body.addWidget(label(about, "muted", wrap=True))
        self.warning = label(warning, "warn", wrap=True)
        self.body.addWidget(self.warning)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(16)
        self._grid.setVerticalSpacing(8)
        self._grid.setColumnMinimumWidth(0, _NAME_WIDTH)
        self._grid.setColumnStretch(1, 1)
        self.body.addLayout(self._grid)
        self.address = QLineEdit()
        self.address.setAccessibleName(self.tr("Address of a machine"))
        self.address.setPlaceholderText(f"10.0.0.5:{machines.DEFAULT_PORT}")
        self.address.setFixedWidth(_NAME_WIDTH)
        self.address.returnPressed.connect(self.add)
        self.address.textChanged.connect(self._typed)
        self.adding = button(self.tr("Add machine"), self.add)
        self.again = button(self.tr("Ask again"), self.ask)
        row = QHBoxLayout()
        row.setSpacing(8)
        for part in (self.address, self.adding, self.again):
            row.addWidget(part)
        row.addStretch(1)
        self.body.addLayout(row)
        self.problem = label("", "bad", wrap=True)
        self.problem.hide()
        self.body.addWidget(self.problem)
        context.settings_changed.connect(self.fill)
        context.engines.changed.connect(self._show_health)
        self.fill()
        self._typed()

    # ---- the list ----------------------------------------------------------------------------------------------

    def add(self) -> None:
        """Take what was typed into the list, and ask it."""
        if not self.address.text().strip():
            return
        known = self._context.settings.machines
        try:
            endpoint = machines.check_endpoint(self.address.text())
            if endpoint not in known and len(known) >= machines.MAX_MACHINES:
                title = self.tr("There are {0} machines already.").format(machines.MAX_MACHINES)
                raise QuenchError("too_many_machines", title, "", self.tr("Remove one of them first."))
        except QuenchError as error:
            self.problem.setText(f"{error.title} {error.hint}")
            self.problem.show()
            return
        self.address.clear()
        self._context.update_settings(machines=tuple(dict.fromkeys((*known, endpoint))))
        self._ask(endpoint)

    def remove(self, endpoint: str) -> None:
        """Take a machine off the list."""
        rest = tuple(other for other in self._context.settings.machines if other != endpoint)
        self._told.pop(endpoint, None)
        self._forget(endpoint)
        self._context.update_settings(machines=rest)
        self.address.setFocus()

    def fill(self) -> None:
        """A row for each machine of the settings."""
        known = self._context.settings.machines
        for endpoint in [endpoint for endpoint in self._rows if endpoint not in known]:
            for part in self._rows.pop(endpoint):
                self._grid.removeWidget(part)
                part.hide()
                part.deleteLater()
        for endpoint in known:
            if endpoint not in self._rows:
                self._make_row(endpoint)
        self.again.setVisible(bool(known))
        self._show_health()

    def _make_row(self, endpoint: str) -> None:
        name = ElidedLabel(endpoint)
        name.setFixedWidth(_NAME_WIDTH)
        name.setFont(self._context.theme.mono(13))
        state = label("", "small", wrap=True)
        drop = button(self.tr("Remove"), lambda: self.remove(endpoint))
        drop.setAccessibleName(self.tr("Remove {0}").format(endpoint))
        row = self._grid.rowCount()
        for column, part in enumerate((name, state, drop)):
            self._grid.addWidget(part, row, column)
        self._rows[endpoint] = (name, state, drop)

    def _typed(self) -> None:
        self.adding.setEnabled(bool(self.address.text().strip()))
        self.problem.hide()

    # ---- how they are ------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._asked:
            self._asked = True
            QTimer.singleShot(0, self, self.ask)

    def ask(self) -> None:
        """Ask every machine how it is."""
        for endpoint in self._context.settings.machines:
            self._ask(endpoint)

    def state_of(self, endpoint: str) -> str:
        """What is shown of a machine."""
        return self._rows[endpoint][1].text()

    def _ask(self, endpoint: str) -> None:
        """One that computes for us serves nobody else: it is not asked."""
        if endpoint in self._working() or endpoint in self._requests:
            return
        self._told[endpoint] = None
        ask = self._context.servers.ask_machine
        self._requests[endpoint] = ask(endpoint, lambda answer: self._heard(endpoint, answer))
        self._show_health()

    def _forget(self, endpoint: str) -> None:
        self._context.servers.forget(self._requests.pop(endpoint, 0))

    def _heard(self, endpoint: str, answer: MachineTold | QuenchError) -> None:
        self._requests.pop(endpoint, None)
        if isinstance(answer, QuenchError):
            self._told[endpoint] = Machine(endpoint, machines.UNREACHABLE, answer.title)
        else:
            self._told[endpoint] = answer.machine
        self._show_health()

    def _working(self) -> dict[str, str]:
        """Machines that an engine of this window holds, and the name of its model."""
        return {
            endpoint: engine.path.replace("\\", "/").rsplit("/", 1)[-1]
            for engine in self._context.engines.engines
            if engine.pid()
            for endpoint in engine.options.machines
        }

    def _show_health(self) -> None:
        working = self._working()
        for endpoint, (_, state, _) in self._rows.items():
            if endpoint in working:
                text, role = self.tr("Computes for {0}").format(working[endpoint]), "good"
                self._told.pop(endpoint, None)
            elif endpoint in self._requests:
                text, role = self.tr("Asking…"), "small"
            else:
                text, role = self._words(self._told.get(endpoint))
            state.setText(text)
            set_role(state, role)

    def _words(self, machine: Machine | None) -> tuple[str, str]:
        if machine is None:
            return self.tr("Not asked yet."), "small"
        if machine.state == machines.READY:
            words = self.tr("Ready · {0} of memory · RPC {1}")
            if machine.devices > 1:
                words = self.tr("Ready · {0} of memory on {2} devices · RPC {1}")
            return words.format(fmt.size(machine.total), machine.version, machine.devices), "good"
        words = {
            machines.BUSY: self.tr("Busy with another program, or no RPC worker. {0}"),
            machines.OTHER_PROGRAM: self.tr("No RPC worker. {0}"),
            machines.OTHER_VERSION: self.tr("An RPC worker of another release. {0}"),
        }.get(machine.state, self.tr("Cannot be reached. {0}"))
        return words.format(machine.detail), "warn" if machine.state == machines.BUSY else "bad"


__all__ = ["MachinesCard"]
