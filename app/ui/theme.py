"""How Quench looks: colour tokens, type scale, icons and the one stylesheet of the whole program.

Widgets never name a colour. They carry a ``role`` property (see :func:`set_role`) that the stylesheet knows, or they
paint with :attr:`Theme.tokens` and repaint on :attr:`Theme.changed`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Any

import shiboken6
from PySide6.QtCore import QByteArray, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication, QStyleFactory, QWidget

import resources
from app.ui import stylesheet

MODES = ("system", "light", "dark")
SIZES = (12, 13, 15, 20, 28)
"""The type scale in logical pixels; 13 is the body."""

ICON_SIZE = 20
SHADE_ALPHA = 0.42
"""Full opacity of a divergence shade: the strongest at which text on top keeps 4.5 : 1 in both themes."""


@dataclass(frozen=True)
class Tokens:
    """The colours of one theme as ``#RRGGBB``; every text colour has 4.5 : 1 or more on all three surfaces."""

    background: str
    surface: str
    raised: str
    border: str
    text: str
    muted: str
    accent: str
    on_accent: str
    accent_soft: str
    good: str
    warn: str
    bad: str

    def as_dict(self) -> dict[str, str]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


LIGHT = Tokens(
    background="#FAFAF9",
    surface="#FFFFFF",
    raised="#F2F2F0",
    border="#DEDEDA",
    text="#1C1C1A",
    muted="#5C5C57",
    accent="#0F6E66",
    on_accent="#FFFFFF",
    accent_soft="#D9EFEC",
    good="#146C37",
    warn="#8F4A05",
    bad="#B3261E",
)
DARK = Tokens(
    background="#151718",
    surface="#1D2022",
    raised="#272B2E",
    border="#3A4044",
    text="#ECEDEA",
    muted="#A6ACB0",
    accent="#3CCFBE",
    on_accent="#04201C",
    accent_soft="#123F3A",
    good="#58D68D",
    warn="#F2B84B",
    bad="#FF8A80",
)

TYPE_COLORS = {
    "Q2_K": "#F4E61E",
    "Q3_K": "#86D549",
    "Q4_K": "#35B779",
    "Q5_K": "#1F968B",
    "Q6_K": "#2D708E",
    "Q8_0": "#414487",
    "F16": "#8A8F98",
}
"""One colour for each width, the same on every page and in both themes; a label always stands beside it."""

_BY_BITS = {"1": "Q2_K", "2": "Q2_K", "3": "Q3_K", "4": "Q4_K", "5": "Q5_K", "6": "Q6_K", "8": "Q8_0"}


def type_key(type_name: str) -> str:
    """The row of :data:`TYPE_COLORS` for a GGML type or a recipe: ``Q4_K_M`` -> ``Q4_K``, ``BF16`` -> ``F16``."""
    found = re.match(r"(?:[A-Z]+-)?I?T?Q(\d)", type_name.upper())
    return _BY_BITS.get(found.group(1), "F16") if found else "F16"


def contrast(first: QColor, second: QColor) -> float:
    """WCAG 2 contrast ratio of two opaque colours, 1 to 21."""

    def luminance(color: QColor) -> float:
        parts = (color.redF(), color.greenF(), color.blueF())
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def readable_on(color: QColor) -> QColor:
    """Near-black or white, whichever reads better on ``color``."""
    dark, light = QColor("#101211"), QColor("#FFFFFF")
    return dark if contrast(color, dark) >= contrast(color, light) else light


def set_role(widget: QWidget, role: str) -> None:
    """Give ``widget`` a look of the stylesheet (``title``, ``muted``, ``primary``, ``card`` ...); applies at once."""
    if widget.property("role") == role:
        return
    widget.setProperty("role", role)
    style = widget.style()
    style.unpolish(widget)
    style.polish(widget)


class Theme(QObject):
    """The look that is on now. ``changed`` comes after the application wears the new one."""

    changed = Signal()

    def __init__(self, mode: str = "system", parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._mode = "system"
        self._followers: list[tuple[Any, str, str]] = []
        self._icons: dict[tuple[str, str, str], QIcon] = {}
        self._svg: dict[str, str] = {}
        self.tokens = LIGHT
        self.faded = ""
        """Text and icons of things that cannot be used now: weaker than ``muted``, still 4.5 : 1 everywhere."""
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.setStyle(QStyleFactory.create("Fusion"))
            app.setFont(self.font(13))
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._system_changed)
        self._apply(mode)

    @property
    def mode(self) -> str:
        return self._mode

    @property
    def is_dark(self) -> bool:
        return self.tokens is DARK

    def set_mode(self, mode: str) -> None:
        """``system``, ``light`` or ``dark``; anything else is a ``ValueError``."""
        if mode not in MODES:
            raise ValueError(mode)
        if mode != self._mode:
            self._apply(mode)

    def color(self, role: str) -> QColor:
        """A token by name as a colour."""
        return QColor(getattr(self.tokens, role))

    def type_color(self, type_name: str) -> QColor:
        """The colour of a GGML type or recipe name."""
        return QColor(TYPE_COLORS[type_key(type_name)])

    def shade(self, kld_nats: float) -> QColor:
        """Background for a token that is ``kld_nats`` away: clear at 0, ``warn`` at 0.5, ``bad`` from 2 on."""
        position = math.sqrt(min(max(kld_nats, 0.0), 2.0) / 2.0)
        warn, bad = self.color("warn"), self.color("bad")
        if position <= 0.5:
            warn.setAlphaF(SHADE_ALPHA * position / 0.5)
            return warn
        part = (position - 0.5) / 0.5
        mixed = QColor.fromRgbF(
            warn.redF() + (bad.redF() - warn.redF()) * part,
            warn.greenF() + (bad.greenF() - warn.greenF()) * part,
            warn.blueF() + (bad.blueF() - warn.blueF()) * part,
        )
        mixed.setAlphaF(SHADE_ALPHA)
        return mixed

    def font(self, size: int = 13, bold: bool = False) -> QFont:
        """The system's font at a step of the scale."""
        font = QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)
        font.setPixelSize(size)
        font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
        return font

    def mono(self, size: int = 13) -> QFont:
        """The system's fixed font: figures that change keep their place."""
        font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
        font.setPixelSize(size)
        return font

    def icon(self, name: str, role: str = "text") -> QIcon:
        """An icon of the set in a token's colour as it is now; :meth:`set_icon` follows the theme."""
        key = (name, role, getattr(self.tokens, role))
        if key not in self._icons:
            icon = QIcon()
            for mode, tint in ((QIcon.Mode.Normal, key[2]), (QIcon.Mode.Disabled, self.faded)):
                for ratio in (1, 2):
                    icon.addPixmap(self._pixmap(name, tint, ICON_SIZE, ratio), mode)
            self._icons[key] = icon
        return self._icons[key]

    def pixmap(self, name: str, role: str = "text", size: int = ICON_SIZE) -> QPixmap:
        """An icon at ``size`` logical pixels, sharp at this screen's scale."""
        app = QGuiApplication.instance()
        ratio = app.devicePixelRatio() if isinstance(app, QGuiApplication) else 1.0
        return self._pixmap(name, getattr(self.tokens, role), size, max(1, math.ceil(ratio)))

    def set_icon(self, target: Any, name: str, role: str = "text") -> None:
        """Give a button or an action an icon that changes with the theme. Calling again replaces it."""
        self._followers = [f for f in self._followers if f[0] is not target and shiboken6.isValid(f[0])]
        self._followers.append((target, name, role))
        target.setIcon(self.icon(name, role))
        if hasattr(target, "setIconSize"):
            target.setIconSize(QSize(ICON_SIZE, ICON_SIZE))

    def _system_changed(self) -> None:
        if self._mode == "system":
            self._apply("system")

    def _apply(self, mode: str) -> None:
        self._mode = mode
        system_dark = QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark
        self.tokens = DARK if mode == "dark" or (mode == "system" and system_dark) else LIGHT
        self.faded = stylesheet.faded(self.tokens.as_dict())
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.setPalette(self._palette())
            app.setStyleSheet(stylesheet.build(self.tokens.as_dict(), self.is_dark, self.mono().family()))
        self._followers = [f for f in self._followers if shiboken6.isValid(f[0])]
        for target, name, role in self._followers:
            target.setIcon(self.icon(name, role))
        self.changed.emit()

    def _palette(self) -> QPalette:
        role, group = QPalette.ColorRole, QPalette.ColorGroup
        colors = {
            role.Window: "background",
            role.WindowText: "text",
            role.Base: "surface",
            role.AlternateBase: "raised",
            role.Text: "text",
            role.Button: "surface",
            role.ButtonText: "text",
            role.BrightText: "bad",
            role.ToolTipBase: "raised",
            role.ToolTipText: "text",
            role.PlaceholderText: "muted",
            role.Highlight: "accent",
            role.HighlightedText: "on_accent",
            role.Link: "accent",
            role.LinkVisited: "accent",
            role.Accent: "accent",
            role.Mid: "border",
            role.Dark: "border",
            role.Light: "surface",
            role.Midlight: "raised",
            role.Shadow: "border",
        }
        palette = QPalette()
        for key, token in colors.items():
            palette.setColor(key, self.color(token))
        for key in (role.WindowText, role.Text, role.ButtonText):
            palette.setColor(group.Disabled, key, QColor(self.faded))
        return palette

    def _pixmap(self, name: str, tint: str, size: int, ratio: int) -> QPixmap:
        if name not in self._svg:
            self._svg[name] = resources.path(f"icons/{name}.svg").read_text(encoding="utf-8")
        renderer = QSvgRenderer(QByteArray(self._svg[name].replace("currentColor", tint).encode()))
        pixmap = QPixmap(size * ratio, size * ratio)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        renderer.render(painter, QRectF(0, 0, size * ratio, size * ratio))
        painter.end()
        pixmap.setDevicePixelRatio(ratio)
        return pixmap
