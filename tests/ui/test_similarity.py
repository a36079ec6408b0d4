"""Embeddings models in the window: not offered for chat, and a table of how alike texts are."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from app.engine.embedding import Embedder
from app.similarity import cosines
from app.ui.context import Context
from app.ui.library import LibraryPage
from app.ui.similarity import SimilarityDialog
from app.ui.window import MainWindow
from tests.engine.test_embedding import TEXTS, build
from tests.ui.conftest import red_cards
from tests.ui.test_window import unnamed


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build(tmp_path_factory.mktemp("bert"), "bert"))


@pytest.fixture
def dialog(
    *, qtbot: QtBot, context: Context, window: MainWindow, bert: str, library: Callable[..., None],
    pocket_gguf: Callable[[str], Path],
) -> SimilarityDialog:  # fmt: skip
    library(bert, pocket_gguf("Q8_0"))
    page = window.page("library")
    assert isinstance(page, LibraryPage)
    qtbot.waitUntil(lambda: page.select(bert))
    allowed = {name for name, action in page.actions_by_name.items() if action.isEnabled()}
    assert "similarity" in allowed
    assert allowed.isdisjoint({"chat", "compare", "measure", "bench"})
    made = page.similarity()
    assert made is not None
    assert unnamed(made) == []
    return made


def compared(qtbot: QtBot, dialog: SimilarityDialog, texts: tuple[str, ...]) -> None:
    dialog.field.setPlainText("\n".join(texts))
    qtbot.mouseClick(dialog.compare_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(dialog.compare_button.isEnabled)


def test_a_table_to_sort_copy_and_save(
    qtbot: QtBot, context: Context, dialog: SimilarityDialog, bert: str, tmp_path: Path
) -> None:
    assert [info.path for info in context.library.usable({"gguf"}) if info.path == bert] == []
    assert bert in {info.path for info in context.library.usable({"gguf", "hf"})}
    compared(qtbot, dialog, TEXTS)
    with Embedder.load(bert) as model:
        expected = cosines(model.embed(TEXTS).vectors)
    assert np.allclose(dialog.table.table, expected, atol=1e-6)
    assert dialog.table.data(dialog.table.index(0, 5)) == "1.000"
    dialog.view.horizontalHeader().setSortIndicator(1, Qt.SortOrder.AscendingOrder)
    order = dialog.table.rows()
    assert {order[0], order[1]} == {0, 4}
    assert list(expected[order, 0]) == sorted(expected[:, 0], reverse=True)
    dialog.copy()
    rows = list(csv.reader(QGuiApplication.clipboard().text().splitlines(), delimiter="\t"))
    assert rows[0] == ["", *TEXTS] and [row[0] for row in rows[1:]] == [TEXTS[row] for row in order]
    dialog.save(str(tmp_path / "table.csv"))
    saved = list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))
    assert np.allclose(np.array([row[1:] for row in saved[1:]], float), expected[order], atol=1e-6)
    dialog.save(str(tmp_path / "table.csv" / "table.csv"))
    assert red_cards(dialog)[0].error.code == "not_saved"


def test_what_goes_wrong_is_a_card_and_the_next_try_works(
    qtbot: QtBot, dialog: SimilarityDialog, tmp_path: Path
) -> None:
    for texts, code in (((" ",), "no_texts"), (("x",) * 501, "too_many_texts")):
        dialog.field.setPlainText("\n".join(texts))
        dialog.compare()
        assert red_cards(dialog)[0].error.code == code
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    dialog.open_texts(str(tmp_path / "binary"))
    assert red_cards(dialog)[0].error.code == "bad_texts"
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    dialog.open_texts(str(tmp_path / "texts"))
    assert red_cards(dialog) == [] and dialog.field.toPlainText() == "\n".join(TEXTS)
    compared(qtbot, dialog, TEXTS[:2])
    pid = dialog._process.pid()
    os.kill(pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: bool(red_cards(dialog)))
    assert red_cards(dialog)[0].error.code == "engine_died"
    compared(qtbot, dialog, TEXTS[:3])
    assert red_cards(dialog) == [] and dialog.table.texts == TEXTS[:3]
