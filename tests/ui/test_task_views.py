"""What the Quality page shows of graded tasks: the table by slice, what flipped, and the choice of tasks."""

from __future__ import annotations

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QFileDialog
from pytestqt.qtbot import QtBot

from app.measure_messages import CandidateQuality, TaskFlip, TaskScore, TaskShift
from app.ui.context import Context
from app.ui.task_choice import TaskChoice
from app.ui.task_flips import TaskFlips
from app.ui.task_table import TaskTable
from tests.quality.test_report import candidate
from tests.ui.conftest import nameless

EVIL = "<b>bold</b> \u202eright to left"


def flip(number: int, *, gained: bool = False, prompt: str = "") -> TaskFlip:
    return TaskFlip("arithmetic", gained, prompt or f"What is {number} + 1?", str(number + 1), "good one", "bad one")


def models() -> tuple[CandidateQuality, list[CandidateQuality]]:
    scores = {"arithmetic": TaskScore(50, 45), "needle 1/4": TaskScore(8, 8)}
    reference = candidate("BF16", 900, 0.0, tasks=scores)
    worse = {"arithmetic": TaskScore(50, 30), "needle 1/4": TaskScore(8, 8)}
    small = candidate(
        "Q2_K",
        100,
        0.1,
        tasks=worse,
        task_shift=TaskShift(58, 16, 1, 0.0003),
        task_shifts={"arithmetic": TaskShift(50, 16, 1, 0.0003), "needle 1/4": TaskShift(8, 0, 0, 1.0)},
        flips=(*(flip(i) for i in range(5)), flip(9, gained=True, prompt=f"Asked {EVIL}")),
    )
    large = candidate("Q8_0", 500, 0.01, tasks=scores, task_shift=TaskShift(58, 1, 0, 1.0), flips=(flip(70),))
    return reference, [large, small]


NAMED = {each.key: each.type for each in models()[1]}


@pytest.fixture
def table(qtbot: QtBot, context: Context) -> TaskTable:
    made = TaskTable(context.theme)
    qtbot.addWidget(made)
    made.resize(500, 300)
    made.show()
    return made


@pytest.fixture
def flips(qtbot: QtBot, context: Context) -> TaskFlips:
    made = TaskFlips(context.theme)
    qtbot.addWidget(made)
    made.resize(560, 300)
    made.show()
    return made


def test_a_slice_is_told_with_interval_and_p(table: TaskTable) -> None:
    assert table.is_empty()
    reference, candidates = models()
    table.set_results(reference, candidates, NAMED)
    rows = table.rows
    assert [rows.index(row, 0).data() for row in range(3)] == ["all tasks", "arithmetic", "needle 1/4"]
    heads = [rows.headerData(column, Qt.Orientation.Horizontal) for column in range(4)]
    assert heads == ["Slice", "BF16", "Q8_0", "Q2_K"]
    words = rows.index(1, 3).data(Qt.ItemDataRole.AccessibleTextRole)
    # Wilson's interval of 30 of 50 at 95 %: 46.2 to 72.4 %.
    for part in ("arithmetic, Q2_K", "30 of 50", "46", "72", "16 lost, 1 gained", "p 0.0003"):
        assert part in words, part
    assert rows.index(0, 3).data().startswith("66")  # 38 of 58
    assert "lost" not in rows.index(1, 1).data(Qt.ItemDataRole.AccessibleTextRole)
    assert nameless(table) == []


def test_a_clear_loss_is_marked_in_its_colour(table: TaskTable, context: Context) -> None:
    reference, candidates = models()
    table.set_results(reference, candidates, NAMED)
    bad = context.theme.color("bad")

    def marked(row: int, column: int) -> bool:
        area = table.view.visualRect(table.rows.index(row, column))
        image = table.view.viewport().grab(area).toImage()
        return any(image.pixelColor(x, y) == bad for x in range(image.width()) for y in range(image.height() // 2))

    assert marked(1, 3) and not marked(2, 3) and not marked(1, 2)


def test_flips_are_read_by_keyboard(qtbot: QtBot, flips: TaskFlips) -> None:
    assert flips.is_empty()
    _, candidates = models()
    flips.set_results(candidates, NAMED)
    assert flips.count.text() == "17 lost, 1 gained · 7 of them are kept"
    assert "What is 70 + 1?" in flips.detail.toPlainText() and "✕ Q8_0 answered" in flips.detail.toPlainText()
    flips.list.setFocus()
    QTest.keyClick(flips.list, Qt.Key.Key_Down)
    text = flips.detail.toPlainText()
    assert "What is 0 + 1?" in text and "✓ The reference answered\ngood one" in text and "Expected\n1" in text
    words = flips.list.currentIndex().data(Qt.ItemDataRole.AccessibleTextRole)
    assert words.startswith("lost by Q2_K, arithmetic: What is 0 + 1?") and "good one" in words and "bad one" in words
    assert flips.detail.accessibleDescription() == words
    assert nameless(flips) == []


def test_flips_of_one_model_alone(flips: TaskFlips) -> None:
    _, candidates = models()
    flips.set_results(candidates, NAMED)
    flips.choice.setCurrentIndex(flips.choice.findData("Q8_0"))
    assert flips.rows.rowCount() == 1 and flips.count.text() == "1 lost, 0 gained"
    # The same results again leave the choice and the place alone; others are shown at once.
    flips.set_results(candidates, NAMED)
    assert flips.rows.rowCount() == 1
    flips.set_results([msgspec.structs.replace(each, flips=()) for each in candidates], NAMED)
    assert flips.is_empty()


def test_what_models_wrote_is_shown_as_it_is(flips: TaskFlips) -> None:
    _, candidates = models()
    flips.set_results(candidates, NAMED)
    flips.list.setCurrentIndex(flips.rows.index(flips.rows.rowCount() - 1, 0))
    text = flips.detail.toPlainText()
    assert "<b>bold</b>" in text and "\u202e" not in text
    assert "✓ Q2_K answered" in text and "✕ The reference answered" in text


def test_a_suggestion_gives_way_to_a_choice(qtbot: QtBot) -> None:
    made = TaskChoice()
    qtbot.addWidget(made)
    made.show()
    assert made.chosen() == "pocket" and not made.run_code.isVisible()
    made.suggest("quench")
    assert made.chosen() == "quench"
    made.choose(None)
    made.suggest("pocket")
    assert made.chosen() is None
    assert nameless(made) == []


def test_programs_are_run_only_from_a_file_and_when_switched_on(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TaskChoice()
    qtbot.addWidget(made)
    made.show()
    last = made.box.count() - 1
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    made.box.setCurrentIndex(last)
    made.box.activated.emit(last)
    assert made.chosen() == "pocket"  # nothing was picked: what was chosen stays
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("/tasks/HumanEval.jsonl", ""))
    made.box.activated.emit(last)
    assert made.chosen() == "/tasks/HumanEval.jsonl"
    assert made.run_code.isVisible() and made.warning.isVisible() and not made.may_run_code()
    made.run_code.setChecked(True)
    assert made.may_run_code()
    made.choose("quench")
    assert not made.may_run_code() and not made.warning.isVisible()
