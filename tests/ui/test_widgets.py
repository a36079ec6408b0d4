"""The small parts: what they show, what they say to a screen reader, what they do not take for markup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtCore import QLocale, QMimeData, QPoint, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QGuiApplication
from PySide6.QtWidgets import QLabel, QPushButton, QWidget
from pytestqt.qtbot import QtBot

import resources
from app.measure_messages import Estimate
from app.protocol import Failed
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.widgets import EmptyState, ErrorCard, LiveLabel, ModelPicker, ProgressLine, StatTile, TypeBadge, drop_paths
from converter.spec import QuenchError


@pytest.fixture(autouse=True)
def english() -> object:
    before = QLocale()
    QLocale.setDefault(QLocale(QLocale.Language.English))
    yield
    QLocale.setDefault(before)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (17, "17 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1536, "1.5 KiB"),
        (655360, "640 KiB"),
        (1288490189, "1.2 GiB"),
        (5 << 40, "5.0 TiB"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_sizes_are_binary_and_named_so(count: float | None, text: str) -> None:
    assert fmt.size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.34, "340 ms"), (3.42, "3.4 s"), (59.97, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (None, "–")],
)
def test_durations_in_words(value: float | None, text: str) -> None:
    assert fmt.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.03124, 0.00091, "0.03124 ± 0.00091"),
        (12.3456, 0.12, "12.35 ± 0.12"),
        (123.4, 45.0, "123 ± 45"),
        (0.5, 0.0, "0.5000"),
        (float("inf"), 1.0, "–"),
    ],
)
def test_an_estimate_shows_the_digits_its_error_allows(value: float, error: float, text: str) -> None:
    assert fmt.estimate(Estimate(value, error)) == text


def test_parameters_are_written_as_in_model_names() -> None:
    assert [fmt.parameters(count) for count in (5_246_208, 8_030_261_248, 0)] == ["5.2 M", "8.0 B", "–"]


def test_numbers_follow_the_locale() -> None:
    QLocale.setDefault(QLocale(QLocale.Language.German))
    assert fmt.number(1234.5, 1) == "1.234,5"
    assert fmt.size(1536) == "1,5 KiB"


def test_an_error_card_says_what_why_and_what_to_do(qtbot: QtBot) -> None:
    card = ErrorCard()
    qtbot.addWidget(card)
    assert card.isHidden()
    pressed: list[str] = []
    card.show_error(
        QuenchError("no_space", "The disk is full.", "needs 5 GiB", "Free some."),
        [("Retry", lambda: pressed.append("r"))],
    )
    words = [label.text() for label in card.findChildren(QLabel) if not label.isHidden()]
    assert words == ["The disk is full.", "Free some.", "needs 5 GiB"]
    retry, copy = card.findChildren(QPushButton)
    qtbot.mouseClick(retry, Qt.MouseButton.LeftButton)
    qtbot.mouseClick(copy, Qt.MouseButton.LeftButton)
    assert pressed == ["r"]
    assert QGuiApplication.clipboard().text() == "[no_space] The disk is full.\nneeds 5 GiB\nFree some."
    card.clear()
    assert card.isHidden()


def test_an_error_card_takes_a_message_and_no_markup(qtbot: QtBot) -> None:
    card = ErrorCard()
    qtbot.addWidget(card)
    card.show_error(Failed("x", "<b>title</b>", "<img src=/etc/passwd>", "", 0))
    assert all(label.textFormat() == Qt.TextFormat.PlainText for label in card.findChildren(QLabel))
    assert card.accessibleName() == "<b>title</b>"


def test_an_error_card_shows_only_the_actions_of_the_last_error(qtbot: QtBot) -> None:
    card = ErrorCard()
    qtbot.addWidget(card)
    for text in ("First", "Second"):
        card.show_error(QuenchError("x", "t"), [(text, lambda: None)])
    qtbot.waitUntil(lambda: [b.text() for b in card.findChildren(QPushButton)] == ["Second", "Copy details"])


def test_an_error_card_keeps_its_buttons_together_and_cuts_no_long_name(qtbot: QtBot) -> None:
    page = QWidget()
    qtbot.addWidget(page)
    card = ErrorCard(page)
    name = "model.layers.2.mlp.up_proj.weight"
    card.show_error(QuenchError("x", "Title", f"{name} is cut."), [("Retry", lambda: None)])
    detail = next(label for label in card.findChildren(QLabel) if name in label.text().replace("\u200b", ""))
    card.setGeometry(0, 0, 700, 200)
    with qtbot.waitExposed(page):
        page.show()
    retry, copy = card.findChildren(QPushButton)
    assert retry.width() == retry.sizeHint().width() and copy.x() < 300
    assert detail.text() == f"{name} is cut." and detail.textInteractionFlags()
    card.setGeometry(0, 0, 200, 200)
    assert detail.text().replace("\u200b", "") == f"{name} is cut." != detail.text()
    assert not detail.textInteractionFlags(), "what cannot be seen cannot be copied"


def test_a_tile_speaks(qtbot: QtBot) -> None:
    tile = StatTile("Speed")
    qtbot.addWidget(tile)
    tile.set_value("41.3", "tokens/s")
    assert tile.value() == "41.3"
    assert any(label.accessibleName() == "Speed: 41.3 tokens/s" for label in tile.findChildren(QLabel))


def test_a_badge_explains_its_type(qtbot: QtBot, context: Context) -> None:
    badge = TypeBadge("Q4_K_M", context.theme)
    qtbot.addWidget(badge)
    assert badge.accessibleName() == "Q4_K_M"
    assert badge.toolTip().startswith("Q4_K_M: ")
    width = badge.sizeHint().width()
    badge.set_type("Q8_0")
    assert badge.sizeHint().width() < width


def test_a_progress_line_shows_rate_and_time_left(qtbot: QtBot) -> None:
    line = ProgressLine()
    qtbot.addWidget(line)
    line.set_progress(0.25, "Layer 3", "1.2 GiB/s", 83)
    texts = [label.text() for label in line.findChildren(QLabel)]
    assert texts == ["Layer 3", "1.2 GiB/s", "1 min 23 s left"]
    with qtbot.waitSignal(line.cancelled):
        qtbot.mouseClick(line.button, Qt.MouseButton.LeftButton)


def test_an_empty_state_offers_its_actions(qtbot: QtBot, context: Context) -> None:
    pressed: list[int] = []
    empty = EmptyState("library", "Nothing", "Add one.", [("Add", lambda: pressed.append(1))], theme=context.theme)
    qtbot.addWidget(empty)
    qtbot.mouseClick(empty.buttons[0], Qt.MouseButton.LeftButton)
    assert pressed == [1]


def test_the_picker_offers_usable_models_of_its_kind(
    qtbot: QtBot,
    context: Context,
    library: Callable[..., None],
    pocket_gguf: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(8))
    file = pocket_gguf("Q4_K_M")
    picker = ModelPicker(context, {"gguf"})
    qtbot.addWidget(picker)
    assert picker.path() is None
    library(resources.path("pocket"), file, broken)
    picker.show()  # until then nobody sees what it offers
    qtbot.waitUntil(lambda: picker.count() == 2)
    assert [picker.itemData(0), picker.itemText(0)] == [str(file), "Pocket · Q4_K_M"]
    with qtbot.waitSignal(picker.changed):
        picker.set_path(str(file))
    assert picker.path() == str(file)
    assert picker.info().layers == 6
    context.library.forget(str(file))
    qtbot.waitUntil(lambda: context.library.entry(str(file)) is None)
    assert picker.itemText(0) == "Pocket · Q4_K_M"
    assert picker.path() == str(file)  # a choice does not vanish because the list changed


def test_only_local_files_are_dropped(tmp_path: Path) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path)), QUrl("https://example.org/model.gguf")])
    event = QDragEnterEvent(
        QPoint(), Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    )
    assert [Path(path) for path in drop_paths(event)] == [tmp_path]


def test_a_live_label_stays_as_wide_as_its_text_when_the_look_changes(qtbot: QtBot, context: Context) -> None:
    live = LiveLabel(context.theme.mono(12), "number")
    qtbot.addWidget(live)
    live.setText("84.0 tokens/s")
    width = live.width()
    for look in ("dark", "light", "dark"):
        context.theme.set_mode(look)
    assert live.width() == width
