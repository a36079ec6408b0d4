"""How the model draws its words: presets, values, stop strings, and whether it tells how sure it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QInputDialog,
    QLineEdit,
    QMenu,
    QPlainTextEdit,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from app.chat_messages import ALWAYS, AUTOMATIC, LOOKUP, NEVER
from app.protocol import Sampling
from app.ui.context import Context
from app.ui.widgets import button, icon_button, label

OWN, USER = "own", "user:"
MAX_NAME = 40
MAX_STOPS = 16
MAX_STOP = 200
"""Characters of a stop string."""


class Field(NamedTuple):
    """One row of the sampling form: a field of :class:`Sampling` and its limits."""

    name: str
    low: float
    high: float
    step: float
    digits: int


FIELDS = (
    Field("temperature", 0, 5, 0.05, 2),
    Field("top_k", 0, 1000, 1, 0),
    Field("top_p", 0, 1, 0.01, 2),
    Field("min_p", 0, 1, 0.01, 2),
    Field("repeat_penalty", 0.5, 2, 0.01, 2),
    Field("max_tokens", 1, 1_000_000, 64, 0),
    Field("seed", -1, 2_147_483_647, 1, 0),
)

OF_PRESET = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
"""What a preset sets; the length, the seed and the stop strings stay as they are."""

PRESETS: tuple[tuple[str, Sampling], ...] = (
    ("exact", Sampling(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0)),
    ("careful", Sampling(temperature=0.3, top_k=40, top_p=0.9, min_p=0.05)),
    ("balanced", Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)),
    ("inventive", Sampling(temperature=1.2, top_k=0, top_p=1.0, min_p=0.05)),
)

_ANOTHER = "?"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def stops_of(text: str) -> tuple[str, ...]:
    """Stop strings, one a line; ``\\n``, ``\\t`` and ``\\\\`` stand for what cannot be typed into a line."""
    found: list[str] = []
    for line in text.split("\n"):
        made, rest = "", line
        while rest:
            letter, rest = rest[0], rest[1:]
            if letter == "\\" and rest[:1] in _ESCAPES:
                letter, rest = _ESCAPES[rest[0]], rest[1:]
            made += letter
        if made:
            found.append(made[:MAX_STOP])
    return tuple(dict.fromkeys(found))[:MAX_STOPS]


def spelled(stops: tuple[str, ...]) -> str:
    """The text that :func:`stops_of` reads these from."""
    marks = {value: "\\" + mark for mark, value in _ESCAPES.items()}
    return "\n".join("".join(marks.get(letter, letter) for letter in stop) for stop in stops)


class SamplingPanel(QWidget):
    """``changed`` when a person changed something. What is set is kept in the settings at once."""

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._defaults = Sampling()
        self._quiet = False
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(self._make_form())
        self._read_settings()
        context.settings_changed.connect(self._read_settings)

    # ---- building ----------------------------------------------------------------------------------------------

    def _make_form(self) -> QGridLayout:
        made = form()
        self.preset = QComboBox()
        self.preset.setAccessibleName(self.tr("Sampling preset"))
        self.preset.activated.connect(self._preset_chosen)
        self.preset_button = icon_button(self._context.theme, "more", self.tr("Presets of your own"))
        self.preset_button.setFixedSize(28, 28)
        self.preset_button.clicked.connect(lambda checked=False: self._show_menu())
        line = QWidget()
        beside = QHBoxLayout(line)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.setSpacing(4)
        beside.addWidget(self.preset, 1)
        beside.addWidget(self.preset_button)
        line.setToolTip(self.tr("Ready-made values; editing one makes them your own."))
        made.addWidget(line, made.rowCount(), 0, 1, 2)
        words = self._field_words()
        self.spins: dict[str, Any] = {}
        for entry in FIELDS:
            spin: Any = QDoubleSpinBox() if entry.digits else QSpinBox()
            if entry.digits:
                spin.setDecimals(entry.digits)
            spin.setRange(entry.low, entry.high)
            spin.setSingleStep(entry.step)
            name, why = words[entry.name]
            spin.setAccessibleName(name)
            if entry.name == "seed":
                spin.setSpecialValueText(self.tr("new each time"))
            spin.valueChanged.connect(self._edited)
            row(made, name, why, spin)
            self.spins[entry.name] = spin
        self.stops = QPlainTextEdit()
        self.stops.setAccessibleName(self.tr("Stop strings"))
        self.stops.setPlaceholderText(self.tr("One a line"))
        self.stops.setTabChangesFocus(True)
        self.stops.setFixedHeight(52)
        self.stops.textChanged.connect(self._edited)
        why = self.tr("The answer ends before the first of these texts. One a line; \\n stands for a new line.")
        row(made, self.tr("Stop strings"), why, self.stops)
        self.stops.setFixedHeight(52)
        self.probabilities = QComboBox()
        self.probabilities.setAccessibleName(self.tr("Token probabilities"))
        for key, text in (
            (AUTOMATIC, self.tr("automatic")),
            (ALWAYS, self.tr("always")),
            (NEVER, self.tr("never")),
        ):
            self.probabilities.addItem(text, key)
        self.probabilities.activated.connect(self._probabilities_chosen)
        why = self.tr("Keep how likely each token was, and what else was likely. Automatic: where that takes less than "
                      "2 % of the time, as in all but the smallest models.")  # fmt: skip
        row(made, self.tr("Probabilities"), why, self.probabilities)
        self.draft = QComboBox()
        self.draft.setAccessibleName(self.tr("Guess ahead"))
        self.draft.activated.connect(self._draft_chosen)
        why = self.tr("Guess some tokens ahead and check them in one go: the same answer, sooner where the processor "
                      "has time to spare. Guesses come from the text itself (good for summaries and code) or from a "
                      "smaller model of the same family. What it gained stands under the answer.")  # fmt: skip
        row(made, self.tr("Guess ahead"), why, self.draft)
        self.reset_button = button(self.tr("Reset to the model's own"), self.reset)
        made.addWidget(self.reset_button, made.rowCount(), 0, 1, 2)
        return made

    def _preset_names(self) -> dict[str, str]:
        return {
            "exact": self.tr("Exact (always the likeliest)"),
            "careful": self.tr("Careful"),
            "balanced": self.tr("Balanced"),
            "inventive": self.tr("Inventive"),
        }

    def _field_words(self) -> dict[str, tuple[str, str]]:
        return {
            "temperature": (self.tr("Temperature"), self.tr("How daring the choice of the next token is; 0 takes the "
                            "likeliest.")),
            "top_k": (self.tr("Top-k"), self.tr("Only the k likeliest tokens are considered; 0 means all.")),
            "top_p": (self.tr("Top-p"), self.tr("Only the likeliest tokens that together have this probability.")),
            "min_p": (self.tr("Min-p"), self.tr("Tokens less likely than this share of the likeliest are left out.")),
            "repeat_penalty": (self.tr("Repeat penalty"), self.tr("Above 1, tokens used before become less likely.")),
            "max_tokens": (self.tr("Max tokens"), self.tr("The longest answer.")),
            "seed": (self.tr("Seed"), self.tr("The same seed gives the same answer again; the one that was used stands "
                     "under each answer, and a click on it sets it here.")),
        }  # fmt: skip

    # ---- for the page ------------------------------------------------------------------------------------------

    def sampling(self) -> Sampling | None:
        """What was set by hand, or None where everything is the model's own."""
        values = self._values()
        if self.preset.currentData() == "":
            same = {name: getattr(self._defaults, name) for name in OF_PRESET}
            values = msgspec.structs.replace(values, **same)
            return None if values == self._defaults else values
        return values

    def set_defaults(self, defaults: Sampling) -> None:
        """The model's own values, which are shown while nothing else was chosen."""
        before, self._defaults = self._defaults, defaults
        if self.preset.currentData() == "" and before != defaults:
            # What nobody has changed goes along; a seed, a length or a stop string set by hand stays.
            values, shown = self._values(), {name: getattr(defaults, name) for name in OF_PRESET}
            for name in ("max_tokens", "seed", "stop"):
                if getattr(values, name) == getattr(before, name):
                    shown[name] = getattr(defaults, name)
            self._show(msgspec.structs.replace(values, **shown))

    def use_seed(self, seed: int) -> None:
        """Draw with this seed from now on."""
        self.spins["seed"].setValue(seed)

    def reset(self) -> None:
        """Back to the model's own values."""
        self.preset.setCurrentIndex(0)
        self._show(self._defaults)
        self._save()

    def wanted_probabilities(self) -> str:
        return str(self.probabilities.currentData())

    # ---- presets -----------------------------------------------------------------------------------------------

    def save_preset(self, name: str) -> None:
        """Keep the values under a name, in the place of an earlier preset of that name."""
        name = " ".join(name.split())[:MAX_NAME]
        if not name:
            return
        kept = Sampling(**{field: self.spins[field].value() for field in OF_PRESET})
        self._context.update_settings(
            presets={**self._context.settings.presets, name: kept}, sampling_preset=USER + name
        )
        self._fill_presets(USER + name)
        self._save()

    def rename_preset(self, name: str) -> None:
        """Give the chosen preset of one's own another name."""
        name, old = " ".join(name.split())[:MAX_NAME], self._user_preset()
        presets = dict(self._context.settings.presets)
        if not name or old is None or name == old:
            return
        renamed = {(name if key == old else key): value for key, value in presets.items() if key != name}
        self._context.update_settings(presets=renamed, sampling_preset=USER + name)
        self._fill_presets(USER + name)
        self._save()

    def delete_preset(self) -> None:
        """Forget the chosen preset of one's own; its values stay."""
        old = self._user_preset()
        if old is not None:
            before = self._context.settings.presets
            rest = {key: value for key, value in before.items() if key != old}
            self._context.update_settings(presets=rest, sampling_preset=OWN)
            self._fill_presets(OWN)
            self._save()
            undo = (self.tr("Undo"), lambda: self._restore_preset(old, before[old]))
            self._context.notify.info(self.tr("The preset “{0}” was deleted.").format(old), [undo])

    def _restore_preset(self, name: str, values: Sampling) -> None:
        self._context.update_settings(presets={**self._context.settings.presets, name: values})
        self._fill_presets(str(self.preset.currentData()))

    def _user_preset(self) -> str | None:
        key = str(self.preset.currentData())
        return key.removeprefix(USER) if key.startswith(USER) else None

    def menu(self) -> QMenu:
        """What can be done with presets of one's own."""
        made = QMenu(self)
        chosen = self._user_preset()
        save = made.addAction(self.tr("Save these values as…"))
        save.triggered.connect(lambda: self._ask(self.tr("Save preset"), chosen or "", self.save_preset))
        rename = made.addAction(self.tr("Rename…"))
        rename.triggered.connect(lambda: self._ask(self.tr("Rename preset"), chosen or "", self.rename_preset))
        delete = made.addAction(self.tr("Delete"))
        delete.triggered.connect(self.delete_preset)
        for action in (rename, delete):
            action.setEnabled(chosen is not None)
        return made

    def _show_menu(self) -> None:
        made = self.menu()
        made.aboutToHide.connect(made.deleteLater)
        made.popup(self.preset_button.mapToGlobal(self.preset_button.rect().bottomLeft()))

    def _ask(self, title: str, name: str, take: Any) -> None:
        dialog = QInputDialog(self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setWindowTitle(title)
        dialog.setLabelText(self.tr("Name"))
        dialog.setTextValue(name)
        field = dialog.findChild(QLineEdit)
        if field is not None:
            field.setMaxLength(MAX_NAME)
        dialog.textValueSelected.connect(take)
        dialog.open()

    # ---- inside ------------------------------------------------------------------------------------------------

    def _values(self) -> Sampling:
        return Sampling(
            **{entry.name: self.spins[entry.name].value() for entry in FIELDS}, stop=stops_of(self.stops.toPlainText())
        )

    def _show(self, sampling: Sampling) -> None:
        self._quiet = True
        for entry in FIELDS:
            self.spins[entry.name].setValue(getattr(sampling, entry.name))
        if stops_of(self.stops.toPlainText()) != sampling.stop:
            self.stops.setPlainText(spelled(sampling.stop))
        self._quiet = False

    def _presets(self) -> dict[str, Sampling]:
        return {**dict(PRESETS), **{USER + name: value for name, value in self._context.settings.presets.items()}}

    def _fill_presets(self, chosen: str) -> None:
        names = self._preset_names()
        self.preset.clear()
        self.preset.addItem(self.tr("The model's own"), "")
        for key in self._presets():
            self.preset.addItem(key.removeprefix(USER) if key.startswith(USER) else names[key], key)
        self.preset.addItem(self.tr("Own values"), OWN)
        self.preset.setCurrentIndex(max(0, self.preset.findData(chosen)))

    def _preset_chosen(self) -> None:
        key = str(self.preset.currentData())
        values = self._defaults if key == "" else self._presets().get(key)
        if values is not None:
            changes = {name: getattr(values, name) for name in OF_PRESET}
            self._show(msgspec.structs.replace(self._values(), **changes))
        self._save()

    def _edited(self) -> None:
        if self._quiet:
            return
        values = self._values()
        key = str(self.preset.currentData())
        shown = self._defaults if key == "" else self._presets().get(key)
        if shown is None or not _alike(values, shown):
            self.preset.setCurrentIndex(self.preset.findData(self._matching(values)))
        self._save()

    def _matching(self, values: Sampling) -> str:
        return next((key for key, preset in self._presets().items() if _alike(values, preset)), OWN)

    def _save(self) -> None:
        values, key = self._values(), str(self.preset.currentData())
        if key == "":
            fresh = {name: getattr(Sampling(), name) for name in OF_PRESET}
            values = msgspec.structs.replace(values, **fresh)
            if values.max_tokens == self._defaults.max_tokens:
                values = msgspec.structs.replace(values, max_tokens=Sampling().max_tokens)
        self._quiet = True
        self._context.update_settings(sampling=values, sampling_preset=key)
        self._quiet = False
        self.changed.emit()

    def _probabilities_chosen(self) -> None:
        self._context.update_settings(token_probabilities=self.wanted_probabilities())

    def _draft_chosen(self) -> None:
        chosen = self.draft.currentData()
        if chosen == _ANOTHER:
            file, _ = QFileDialog.getOpenFileName(self, self.tr("A smaller model"), "", self.tr("Models (*.gguf)"))
            chosen = file or self._context.settings.draft
        self._context.update_settings(draft=chosen)
        self._show_draft()

    def _show_draft(self) -> None:
        now = self._context.settings.draft
        choices = [("", self.tr("no")), (LOOKUP, self.tr("from the text"))]
        if now not in ("", LOOKUP):
            choices.append((now, Path(now).name))
        choices.append((_ANOTHER, self.tr("with a smaller model…")))
        self.draft.clear()
        for key, text in choices:
            self.draft.addItem(text, key)
        self.draft.setCurrentIndex(self.draft.findData(now))

    def _read_settings(self) -> None:
        if self._quiet:
            return
        settings = self._context.settings
        self._show_draft()
        key = settings.sampling_preset
        if key == "" and not _alike(settings.sampling, Sampling()):
            key = self._matching(settings.sampling)  # set elsewhere, or by an earlier version
        self._fill_presets(key)
        values = settings.sampling
        if self.preset.currentData() == "":
            changes = {name: getattr(self._defaults, name) for name in OF_PRESET}
            values = msgspec.structs.replace(values, **changes)
        self._show(values)
        self.probabilities.setCurrentIndex(max(0, self.probabilities.findData(settings.token_probabilities)))


def _alike(one: Sampling, other: Sampling) -> bool:
    """Equal in what a preset sets, as far as the fields show it: a model's own value may have more digits."""
    digits = {entry.name: entry.digits for entry in FIELDS}
    return all(
        abs(getattr(one, name) - getattr(other, name)) <= 0.5 * 10.0 ** -digits[name] + 1e-9 if digits[name]
        else getattr(one, name) == getattr(other, name)
        for name in OF_PRESET
    )  # fmt: skip


def form() -> QGridLayout:
    """A form of captions and fields."""
    made = QGridLayout()
    made.setHorizontalSpacing(12)
    made.setVerticalSpacing(8)
    made.setColumnStretch(1, 1)
    return made


def row(grid: QGridLayout, text: str, why: str, widget: QWidget) -> None:
    """A caption and its field; the field takes the width that is left and never asks for more."""
    caption = label(text, "muted")
    caption.setToolTip(why)
    widget.setToolTip(why)
    widget.setMinimumWidth(96)
    widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    number = grid.rowCount()
    grid.addWidget(caption, number, 0)
    grid.addWidget(widget, number, 1)
