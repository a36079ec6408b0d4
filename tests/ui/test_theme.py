"""Colours that can be read, one colour a type, icons that follow the theme."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QToolButton
from pytestqt.qtbot import QtBot

import resources
from app.ui import stylesheet
from app.ui.context import Context
from app.ui.theme import DARK, LIGHT, TYPE_COLORS, Theme, contrast, readable_on, type_key

THEMES = {"light": LIGHT, "dark": DARK}


def over(front: QColor, back: QColor) -> QColor:
    """``front`` with its alpha laid over an opaque ``back``."""
    a = front.alphaF()
    mixed = [f * a + b * (1 - a) for f, b in zip(front.getRgbF()[:3], back.getRgbF()[:3], strict=True)]
    return QColor.fromRgbF(*mixed)


def test_contrast_is_that_of_wcag() -> None:
    # The two ends are given in the definition; the middle is the well-known #767676, the lightest AA grey on white.
    assert contrast(QColor("#000000"), QColor("#FFFFFF")) == pytest.approx(21.0)
    assert contrast(QColor("#767676"), QColor("#FFFFFF")) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(
    ("mode", "ink", "surface"),
    list(product(THEMES, ("text", "muted", "accent", "good", "warn", "bad"), ("background", "surface", "raised"))),
)
def test_every_text_colour_is_readable_on_every_surface(mode: str, ink: str, surface: str) -> None:
    tokens = THEMES[mode].as_dict()
    assert contrast(QColor(tokens[ink]), QColor(tokens[surface])) >= 4.5


@pytest.mark.parametrize("mode", THEMES)
def test_buttons_and_selections_are_readable(mode: str) -> None:
    tokens = THEMES[mode].as_dict()
    assert contrast(QColor(tokens["on_accent"]), QColor(tokens["accent"])) >= 4.5
    assert contrast(QColor(tokens["text"]), QColor(tokens["accent_soft"])) >= 4.5
    hover = re.search(
        r'QPushButton\[role="primary"\]:hover \{ background: (#\w+)', stylesheet.build(tokens, False, "m")
    )
    assert hover is not None
    assert contrast(QColor(tokens["on_accent"]), QColor(hover.group(1))) >= 4.5


@pytest.mark.parametrize("mode", THEMES)
def test_what_cannot_be_used_now_is_weaker_and_still_readable(mode: str) -> None:
    tokens = THEMES[mode].as_dict()
    faded = QColor(stylesheet.faded(tokens))
    for surface in ("background", "surface", "raised"):
        back = QColor(tokens[surface])
        assert 4.5 <= contrast(faded, back) < contrast(QColor(tokens["text"]), back)


@pytest.mark.parametrize("mode", THEMES)
def test_the_edge_of_a_field_can_be_seen(mode: str) -> None:
    tokens = THEMES[mode].as_dict()
    edge = re.search(r"border: 1px solid (#\w+); border-radius: 6px;\s+selection", stylesheet.build(tokens, False, "m"))
    assert edge is not None
    assert contrast(QColor(edge.group(1)), QColor(tokens["surface"])) >= 3.0
    assert contrast(QColor(tokens["accent"]), QColor(tokens["surface"])) >= 3.0  # the focus ring


@pytest.mark.parametrize(("mode", "kld"), list(product(THEMES, (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 50.0))))
def test_text_on_a_divergence_shade_is_readable(qtbot: QtBot, mode: str, kld: float) -> None:
    theme = Theme(mode)
    shade = over(theme.shade(kld), theme.color("surface"))
    assert contrast(theme.color("text"), shade) >= 4.5


def test_shades_grow_with_the_divergence(qtbot: QtBot) -> None:
    theme = Theme("light")
    alphas = [theme.shade(kld).alphaF() for kld in (0.0, 0.01, 0.1, 0.5)]
    assert alphas[0] == 0.0
    assert alphas == sorted(alphas)
    assert theme.shade(0.5).rgb() & 0xFFFFFF == theme.color("warn").rgb() & 0xFFFFFF
    assert theme.shade(2.0) == theme.shade(9.0)
    assert theme.shade(2.0).rgb() & 0xFFFFFF == theme.color("bad").rgb() & 0xFFFFFF


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Q4_K_M", "Q4_K"),
        ("Q4_K", "Q4_K"),
        ("Q2_K_S", "Q2_K"),
        ("Q3_K_L", "Q3_K"),
        ("IQ3_XXS", "Q3_K"),
        ("Q5_0", "Q5_K"),
        ("Q8_0", "Q8_0"),
        ("BF16", "F16"),
        ("F32", "F16"),
        ("UD-Q4_K_XL", "Q4_K"),
        ("something else", "F16"),
    ],
)
def test_a_type_has_the_colour_of_its_bits(name: str, key: str) -> None:
    assert type_key(name) == key


@pytest.mark.parametrize("color", TYPE_COLORS.values())
def test_the_label_on_a_badge_is_readable(color: str) -> None:
    assert contrast(readable_on(QColor(color)), QColor(color)) >= 4.5


def test_switching_reaches_palette_stylesheet_and_icons(qtbot: QtBot) -> None:
    theme = Theme("light")
    button = QToolButton()
    qtbot.addWidget(button)
    theme.set_icon(button, "add")
    before = button.icon().cacheKey()
    with qtbot.waitSignal(theme.changed):
        theme.set_mode("dark")
    app = QApplication.instance()
    assert theme.is_dark
    assert app.palette().color(QPalette.ColorRole.Window) == QColor(DARK.background)
    assert DARK.accent in app.styleSheet()
    assert "icons/dark" in app.styleSheet()
    assert button.icon().cacheKey() != before


def test_an_unknown_mode_is_refused(qtbot: QtBot) -> None:
    with pytest.raises(ValueError, match="sepia"):
        Theme().set_mode("sepia")


def test_the_setting_changes_the_theme_and_is_kept(context: Context) -> None:
    context.update_settings(theme="dark")
    assert context.theme.is_dark
    from app import settings

    assert settings.load().theme == "dark"


def test_every_icon_renders_in_the_tokens_colour(qtbot: QtBot) -> None:
    theme = Theme("light")
    for file in sorted(resources.path("icons").glob("*.svg")):
        image = theme.pixmap(file.stem, "bad", 80).toImage()  # large: thin strokes have no full pixel at 20
        pixels = (image.pixelColor(x, y) for x in range(80) for y in range(80))
        inked = {pixel.rgb() for pixel in pixels if pixel.alpha() == 255}
        assert inked, file.name
        if file.stem != "quench":
            assert inked == {QColor(LIGHT.bad).rgb()}, file.name


@pytest.mark.parametrize("mode", THEMES)
def test_every_image_in_the_stylesheet_exists_in_a_token_colour(mode: str) -> None:
    tokens = THEMES[mode]
    text = stylesheet.build(tokens.as_dict(), mode == "dark", "m")
    files = {Path(found) for found in re.findall(r'url\("([^"]+)"\)', text)}
    assert len(files) == 4
    for file in files:
        colors = set(re.findall(r'stroke="(#\w+)"', file.read_text()))
        assert colors <= {tokens.muted, tokens.on_accent}
