"""A model whose way of splitting text is not known: chosen on the Convert page, with the real workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from PySide6.QtWidgets import QAbstractButton
from pytestqt.qtbot import QtBot

from app.ui.convert import ConvertPage
from tests.ui.conftest import nameless, red_cards
from tests.ui.test_convert_page import click_recipe, press, run_to_end


@pytest.fixture
def strange(pocket: Path, tmp_path: Path) -> Path:
    """Pocket with numbers split in pairs, which no engine does."""
    folder = tmp_path / "Strange"
    shutil.copytree(pocket, folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace(r"\\p{N}|", r"\\p{N}{1,2}|"), encoding="utf-8")
    assert "{1,2}" in path.read_text(encoding="utf-8")
    return folder


@pytest.fixture
def asking(qtbot: QtBot, shown: Callable[[type[ConvertPage]], ConvertPage], strange: Path) -> ConvertPage:
    page = shown(ConvertPage)
    page.receive({"source": str(strange)})
    qtbot.waitUntil(lambda: bool(red_cards(page)))
    return page


def test_the_nearest_are_offered_and_the_chosen_one_is_used(qtbot: QtBot, asking: ConvertPage, tmp_path: Path) -> None:
    card = asking.plan_error
    assert card.error is not None and card.error.code == "unknown_pre_tokenizer"
    offered = [card.choice.itemText(i) for i in range(card.choice.count())]
    assert offered == list(card.error.choices) and 1 < len(offered) <= 3 and len(set(offered)) == len(offered)
    assert card.choice.isVisible() and not nameless(asking)
    assert asking.spec() is not None and not asking.convert_button.isEnabled()
    assert all(name in card.error.hint for name in offered)
    second = offered[1]
    card.choice.setCurrentText(second)
    press(card, "Go on with it")
    qtbot.waitUntil(lambda: bool(asking._planned))
    assert not card.isVisible() and second in asking.note.text() and asking.convert_button.isEnabled()
    asking.output.setText(str(tmp_path / "out"))
    for name in asking.recipes.model.ticked_names():
        click_recipe(asking, name)
    click_recipe(asking, "Q8_0")
    run_to_end(qtbot, asking)
    assert not red_cards(asking)
    (made,) = (tmp_path / "out").glob("*.gguf")
    fields = gguf.GGUFReader(made).fields
    assert fields["tokenizer.ggml.pre"].contents() == second
    assert json.dumps(second)[1:-1] in str(fields["quench.pre_tokenizer"].contents())


def test_another_source_is_asked_about_anew(qtbot: QtBot, asking: ConvertPage, pocket: Path, strange: Path) -> None:
    press(asking.plan_error, "Go on with it")
    qtbot.waitUntil(lambda: bool(asking._planned))
    asking.receive({"source": str(pocket)})
    qtbot.waitUntil(lambda: asking.source.info is not None and asking.source.info.path == str(pocket))
    qtbot.waitUntil(lambda: bool(asking._planned))
    spec = asking.spec()
    assert spec is not None and spec.pre_tokenizer is None and "split" not in asking.note.text()
    asking.receive({"source": str(strange)})
    qtbot.waitUntil(lambda: bool(red_cards(asking)))


def test_other_errors_offer_nothing_to_choose(qtbot: QtBot, asking: ConvertPage, strange: Path) -> None:
    (strange / "tokenizer.json").write_text("{", encoding="utf-8")
    press(asking.plan_error, "Go on with it")
    card = asking.plan_error
    qtbot.waitUntil(lambda: card.error is not None and card.error.code == "bad_vocabulary")
    assert not card.choice.isVisible()

    def texts() -> set[str]:
        return {button.text() for button in card.findChildren(QAbstractButton) if button.isVisible()}

    qtbot.waitUntil(lambda: "Retry" in texts())
    assert "Go on with it" not in texts()
