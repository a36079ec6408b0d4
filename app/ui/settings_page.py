"""The Settings page. Every change is saved at once; there is nothing to apply."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import msgspec
from PySide6.QtCore import Qt, QTimer, QUrl, qVersion
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QListWidget,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from app import hardware, library, paths
from app.protocol import KernelCheck, Sampling
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.glossary import GLOSSARY
from app.ui.settings_fields import add_row, decimal, form, whole
from app.ui.settings_hub import HubCard
from app.ui.settings_machines import MachinesCard
from app.ui.theme import set_role
from app.ui.widgets import Card, ElidedLabel, button, label

PARTS = (
    ("PySide6-Essentials", "LGPL-3.0"),
    ("pyqtgraph", "MIT"),
    ("llama-cpp-python", "MIT"),
    ("gguf", "MIT"),
    ("numpy", "BSD-3-Clause"),
    ("tokenizers", "Apache-2.0"),
    ("huggingface-hub", "Apache-2.0"),
    ("psutil", "BSD-3-Clause"),
    ("msgspec", "BSD-3-Clause"),
    ("jinja2", "BSD-3-Clause"),
    ("pygments", "BSD-2-Clause"),
    ("pyyaml", "MIT"),
    ("httpx2", "BSD-3-Clause"),
    ("uvicorn", "BSD-3-Clause"),
)
"""What Quench stands on, with licences."""


def version_of(name: str) -> str:
    """The installed version of a distribution, a dash if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return fmt.DASH


def kernels_in_words(checked: KernelCheck | None = None) -> str:
    """The backend of the bundled C library that is used and what else could run here, or why there is none."""
    try:
        import kernels

        active = checked.backend if checked is not None else kernels.active()
        return f"{active} ({', '.join(kernels.backends())})"
    except (ImportError, OSError, ValueError) as error:
        return str(error)


class SettingsPage(QWidget):
    """Requests: ``{"section": "hub"}`` shows that card."""

    key = "settings"
    title = "Settings"

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._filling = False
        self._fillers: list[Callable[[], None]] = []
        column = QVBoxLayout()
        column.setContentsMargins(24, 20, 24, 24)
        column.setSpacing(16)
        column.addWidget(label(self.tr("Settings"), "title"))
        self.hub = HubCard(context)
        self.machines = MachinesCard(context)
        cards = (
            self._look(),
            self._chat(),
            self._loading(),
            self._folders(),
            self.hub,
            self.machines,
            self._verdicts(),
            self._about(),
        )
        for card in cards:
            column.addWidget(card)
        column.addStretch(1)
        inside = QWidget()
        set_role(inside, "page")
        inside.setLayout(column)
        inside.setMaximumWidth(880)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setWidget(inside)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._scroll)
        context.settings_changed.connect(self._fill)
        self._fill()

    def receive(self, request: dict[str, Any]) -> None:
        """``{"section": "hub"}``."""
        if request.get("section") == "hub":
            QTimer.singleShot(0, self, self._show_hub)  # the page is laid out only when it is in front

    def _show_hub(self) -> None:
        bar = self._scroll.verticalScrollBar()
        bar.setValue(self.hub.mapTo(self._scroll.widget(), self.hub.rect().topLeft()).y() - 16)
        self.hub.token.setFocus()

    def scroll_to_end(self) -> None:
        """Show the last card."""
        bar = self._scroll.verticalScrollBar()
        bar.setValue(bar.maximum())

    def help_text(self) -> str:
        return self.tr(
            "Changes hold at once and are kept in one file in the data folder. *Context*, *KV cache* and *threads* "
            "are used when a model is loaded next. The sampling values are the start for new chats; a model that "
            "brings its own uses those. The thresholds decide between Pass, Review and Fail on the Quality page.\n\n"
            "The hub's token is kept in the system's keyring and shown to nobody. What the environment sets (HF_TOKEN, "
            "HF_ENDPOINT, HTTPS_PROXY, HF_HUB_OFFLINE, HF_HOME) wins over what is set here, as for all programs of "
            "Hugging Face."
        )

    # ---- cards -------------------------------------------------------------------------------------------------

    def _look(self) -> Card:
        card, grid = self._card(self.tr("Look"))
        modes = [("system", self.tr("As the system")), ("light", self.tr("Light")), ("dark", self.tr("Dark"))]
        self.theme = self._choice("theme", modes)
        add_row(grid, self.tr("Theme"), self.theme)
        self.reduce_motion = self._check("reduce_motion", self.tr("Reduce motion"))
        add_row(grid, "", self.reduce_motion, self.tr("Drawers open at once."))
        return card

    def _chat(self) -> Card:
        card, grid = self._card(self.tr("Chat"))
        keys = [(True, self.tr("Enter sends")), (False, self.tr("Ctrl+Enter sends"))]
        self.enter_sends = self._choice("enter_sends", keys)
        add_row(grid, self.tr("Keyboard"), self.enter_sends, self.tr("The other one makes a new line."))
        table: tuple[tuple[str, str, QWidget, str], ...] = (
            ("temperature", self.tr("Temperature"), decimal(0, 5, 0.05), GLOSSARY["Temperature"]),
            ("top_k", self.tr("Top-k"), whole(0, 1000), self.tr("Only the k likeliest tokens can be drawn; 0: all.")),
            ("top_p", self.tr("Top-p"), decimal(0, 1, 0.01), self.tr("Only the likeliest tokens up to this sum.")),
            ("min_p", self.tr("Min-p"), decimal(0, 1, 0.01), self.tr("Only tokens at least this share of the best.")),
            ("repeat_penalty", self.tr("Repeat penalty"), decimal(0.5, 2, 0.01), self.tr("1.00 does nothing.")),
            ("max_tokens", self.tr("Longest reply"), whole(1, 1 << 20, 128), self.tr("In tokens.")),
        )
        for name, text, field, tip in table:
            self._number(field, lambda name=name: getattr(self._context.settings.sampling, name),
                         lambda value, name=name: self._sampling(name, value))  # fmt: skip
            add_row(grid, text, field, tip)
        reset = button(self.tr("Reset sampling"), lambda: self._context.update_settings(sampling=Sampling()))
        reset.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        add_row(grid, "", reset)
        return card

    def _loading(self) -> Card:
        card, grid = self._card(self.tr("Loading models"))
        self.context_size = whole(0, 1 << 20, 1024)
        self.context_size.setSpecialValueText(self.tr("Automatic"))
        self._setting(self.context_size, "context")
        add_row(grid, self.tr("Context"), self.context_size, self.tr("Tokens. Automatic: up to 8,192."))
        kinds = [
            ("f16", self.tr("16 bits")),
            ("bf16", self.tr("16 bits (BF16)")),
            ("q8_0", self.tr("8 bits")),
            ("q5_1", self.tr("5 bits")),
            ("q4_0", self.tr("4 bits")),
        ]
        self.kv_type = self._choice("kv_type", kinds)
        add_row(grid, self.tr("KV cache"), self.kv_type, self.tr("Fewer bits leave room for a longer context."))
        self.threads = whole(0, 512)
        self.threads.setSpecialValueText(self.tr("Automatic"))
        self._setting(self.threads, "threads")
        cores = self.tr("Automatic: {0}, the physical cores.").format(hardware.physical_cores())
        add_row(grid, self.tr("Threads"), self.threads, cores)
        self.prompt_cache = whole(0, 1 << 20, 1024)
        self.prompt_cache.setSpecialValueText(self.tr("None"))
        self.prompt_cache.setSuffix(" MiB")
        self._setting(self.prompt_cache, "prompt_cache_mib")
        tip = self.tr("Disk for what models held of conversations: one that is opened again goes on at once. The "
                      "oldest make room.")  # fmt: skip
        add_row(grid, self.tr("Kept conversations"), self.prompt_cache, tip)
        return card

    def _folders(self) -> Card:
        card = Card(self.tr("Where models are looked for"))
        self.folders = QListWidget()
        self.folders.setAccessibleName(self.tr("Model folders"))
        self.folders.setFixedHeight(96)
        self._no_folders = label(self.tr("No folders added yet."), "muted")
        self.folders.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        drop = button(self.tr("Remove"), self._drop_folder)
        drop.setEnabled(False)
        self.folders.currentRowChanged.connect(lambda row: drop.setEnabled(row >= 0))
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addWidget(button(self.tr("Add folder…"), self._add_folder))
        buttons.addWidget(drop)
        buttons.addStretch(1)
        fixed = self.tr("Always: {0}").format(", ".join(map(fmt.path, library.default_folders())))
        card.body.addWidget(self._no_folders)
        card.body.addWidget(self.folders)
        card.body.addLayout(buttons)
        always = ElidedLabel(fixed)
        set_role(always, "small")
        card.body.addWidget(always)
        self._fillers.append(self._fill_folders)
        return card

    def _verdicts(self) -> Card:
        card, grid = self._card(self.tr("Verdicts of a quality measurement"))
        table = (
            ("pass_kld", self.tr("Pass up to a KLD of"), decimal(0.001, 5, 0.005, 3), GLOSSARY["KLD"]),
            (
                "fail_kld",
                self.tr("Fail from a KLD of"),
                decimal(0.001, 10, 0.01, 3),
                self.tr("Between: Review."),
            ),
            (
                "pass_top1",
                self.tr("Same first choice for a Pass"),
                decimal(0, 1, 0.01),
                GLOSSARY["Top-1 agreement"],
            ),
        )
        for name, text, field, tip in table:
            self._setting(field, name)
            add_row(grid, text, field, tip)
        return card

    def _about(self) -> Card:
        card, grid = self._card(self.tr("About"))
        facts = (
            (self.tr("Quench"), f"{version_of('quench-studio')} · Apache-2.0"),
            (self.tr("Data folder"), fmt.path(paths.home())),
            (self.tr("New models go to"), fmt.path(paths.models())),
            (self.tr("Processor"), hardware.cpu_name()),
            (self.tr("Memory"), fmt.size(hardware.memory_total())),
            (self.tr("Kernels"), kernels_in_words(self._context.kernels)),
            (self.tr("Python, Qt"), f"{platform.python_version()}, {qVersion()}"),
        )
        self.facts = {}
        for name, value in facts:
            shown = ElidedLabel(value)
            self.facts[name] = shown
            row = grid.rowCount()
            grid.addWidget(label(name, "muted"), row, 0)
            grid.addWidget(shown, row, 1, 1, 2)
        self._show_kernels()
        self._context.kernels_checked.connect(self._show_kernels)
        parts = [f"{name} {version_of(name)} ({licence})" for name, licence in PARTS]
        row = grid.rowCount()
        grid.addWidget(label(self.tr("Made with"), "muted"), row, 0, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(label(", ".join(parts), wrap=True), row, 1, 1, 2)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        where = QUrl.fromLocalFile(str(paths.home()))
        buttons.addWidget(button(self.tr("Open the data folder"), lambda: QDesktopServices.openUrl(where)))
        buttons.addWidget(button(self.tr("Copy these facts"), self._copy_facts))
        buttons.addStretch(1)
        card.body.addSpacing(8)
        card.body.addLayout(buttons)
        return card

    # ---- fields ------------------------------------------------------------------------------------------------

    def _card(self, title: str) -> tuple[Card, QGridLayout]:
        card = Card(title)
        return card, form(card)

    def _choice(self, name: str, options: list[tuple[Any, str]]) -> QComboBox:
        field = QComboBox()
        for value, text in options:
            field.addItem(text, value)
        field.activated.connect(lambda index: self._context.update_settings(**{name: field.itemData(index)}))
        self._fillers.append(lambda: field.setCurrentIndex(field.findData(getattr(self._context.settings, name))))
        return field

    def _check(self, name: str, text: str) -> QCheckBox:
        field = QCheckBox(text)
        field.setAccessibleName(text)
        field.clicked.connect(lambda on=False: self._context.update_settings(**{name: on}))
        self._fillers.append(lambda: field.setChecked(bool(getattr(self._context.settings, name))))
        return field

    def _setting(self, field: Any, name: str) -> None:
        self._number(field, lambda: getattr(self._context.settings, name),
                     lambda value: self._context.update_settings(**{name: value}))  # fmt: skip

    def _number(self, field: Any, read: Callable[[], Any], write: Callable[[Any], object]) -> None:
        """Saved when typing is over or an arrow is pressed, not at each digit."""
        field.setKeyboardTracking(False)
        field.valueChanged.connect(lambda value: self._filling or write(round(value, 6)))
        self._fillers.append(lambda: field.setValue(read()))

    def _sampling(self, name: str, value: Any) -> None:
        self._context.update_settings(
            sampling=msgspec.structs.replace(self._context.settings.sampling, **{name: value})
        )

    def _fill(self) -> None:
        self._filling = True
        for filler in self._fillers:
            filler()
        self._filling = False

    # ---- folders, facts ----------------------------------------------------------------------------------------

    def _fill_folders(self) -> None:
        self.folders.setVisible(bool(self._context.settings.folders))
        self._no_folders.setVisible(not self._context.settings.folders)
        have = [self.folders.item(row).text() for row in range(self.folders.count())]
        if have != list(self._context.settings.folders):
            self.folders.clear()
            self.folders.addItems(list(self._context.settings.folders))

    def _add_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, self.tr("Add a folder with models"))
        if path and path not in self._context.settings.folders:
            self._context.update_settings(folders=(*self._context.settings.folders, path))
            self._context.library.rescan()

    def _drop_folder(self) -> None:
        row = self.folders.currentRow()
        folders = list(self._context.settings.folders)
        if 0 <= row < len(folders):
            del folders[row]
            self._context.update_settings(folders=tuple(folders))
            self._context.library.rescan()

    def _show_kernels(self) -> None:
        """What is used, and what is not because it failed its self-test."""
        checked = self._context.kernels
        text = kernels_in_words(checked)
        if checked is not None and checked.failed:
            text = self.tr("{0}; wrong on this machine: {1}").format(text, ", ".join(checked.failed))
        self.facts[self.tr("Kernels")].setText(text)

    def _copy_facts(self) -> None:
        text = "\n".join(f"{name}: {shown.text()}" for name, shown in self.facts.items())
        QGuiApplication.clipboard().setText(text)
        self._context.notify.info(self.tr("Copied."))
