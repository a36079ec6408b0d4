"""The transcript: what a stream shows in the end, what it costs, and what a hostile answer cannot do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication, QTextCursor, QTextTable
from PySide6.QtWidgets import QApplication, QMainWindow, QMessageBox
from pytestqt.qtbot import QtBot

from app.ui import markdown
from app.ui.theme import Theme
from app.ui.transcript import Transcript
from app.ui.transcript_blocks import Entry
from app.ui.widgets import Card

# Also where only documents are read: a font asked for before there is an application has no size ever after.
pytestmark = pytest.mark.usefixtures("qapp")

ANSWER = """<think>
First think about *scales*.
</think>

# How a K-quant works

A **K-quant** packs 256 weights, see $\\Delta = \\frac{d}{2^{b}-1}$ and \\(x_i \\cdot q\\).

1. Choose a scale:
   ```python
   def quantize(x: float) -> int:
       return round(x)  # nearest
   ```
2. Store it:
   - the scale
   - the codes

| type | bits |
|------|-----:|
| Q8_0 | 8.50 |
| Q2_K | **3.16** |

> Smaller is not always worse.

See [the page](https://example.org/q) and <b>raw</b> HTML.

---

- [x] done

The end.
"""


@pytest.fixture
def theme(qapp: QApplication) -> Iterator[Theme]:
    made = Theme("light")
    yield made
    made.deleteLater()


@pytest.fixture
def transcript(qtbot: QtBot, theme: Theme) -> Transcript:
    made = Transcript(theme)
    qtbot.addWidget(made)
    made.resize(760, 600)
    made.show()
    return made


def stream(transcript: Transcript, text: str, step: int, key: int = 1) -> None:
    transcript.add(key, "assistant", "", name="Model", streaming=True)
    for start in range(0, len(text), step):
        transcript.feed(key, text[start : start + step])
        transcript.flush()
    transcript.finish(key, "12 tokens")


def tables(transcript: Transcript) -> list[QTextTable]:
    return [frame for frame in transcript.document().rootFrame().childFrames() if isinstance(frame, QTextTable)]


def color_of(transcript: Transcript, word: str) -> str:
    """The colour of the first occurrence of ``word``."""
    cursor = transcript.document().find(word, 0)
    assert not cursor.isNull(), word
    return str(cursor.charFormat().foreground().color().name())


def links(transcript: Transcript) -> list[str]:
    found = []
    block = transcript.document().begin()
    while block.isValid():
        iterator = block.begin()
        while not iterator.atEnd():
            form = iterator.fragment().charFormat()
            if form.isAnchor():
                found.append(form.anchorHref())
            iterator += 1
        block = block.next()
    return found


@pytest.mark.parametrize("step", [1, 3, 17, 1000])
def test_a_stream_ends_as_the_same_text_drawn_at_once(qtbot: QtBot, theme: Theme, step: int) -> None:
    at_once, streamed = Transcript(theme), Transcript(theme)
    for made in (at_once, streamed):
        qtbot.addWidget(made)
        made.resize(760, 600)
    at_once.add(1, "assistant", ANSWER, name="Model", note="12 tokens")
    stream(streamed, ANSWER, step)
    assert streamed.document().toHtml() == at_once.document().toHtml()


def test_markdown_becomes_headings_tables_code_and_readable_formulas(transcript: Transcript) -> None:
    stream(transcript, ANSWER, 9)
    shown = transcript.toPlainText()
    assert "# How" not in shown and "How a K-quant works" in shown
    assert "**" not in shown and "```" not in shown
    assert "$\\Delta = \\frac{d}{2^{b}-1}$" in shown and "\\(x_i \\cdot q\\)" in shown
    assert "<b>raw</b>" in shown
    assert "1.\tChoose a scale:" in shown and "2.\tStore it:" in shown and "•\tthe codes" in shown
    [table] = tables(transcript)
    assert (table.rows(), table.columns()) == (3, 2)
    assert table.cellAt(2, 1).firstCursorPosition().block().text() == "3.16"
    alignment = table.cellAt(1, 1).firstCursorPosition().blockFormat().alignment()
    assert alignment & Qt.AlignmentFlag.AlignRight
    assert "https://example.org/q" in links(transcript)
    assert shown.rstrip().endswith("12 tokens")


def test_code_is_coloured_and_follows_the_theme(transcript: Transcript, theme: Theme) -> None:
    stream(transcript, ANSWER, 9)
    keyword, plain = color_of(transcript, "return"), color_of(transcript, "The end")
    assert keyword != plain
    assert color_of(transcript, "nearest") != keyword
    theme.set_mode("dark")
    assert color_of(transcript, "The end") == theme.tokens.text.lower() != plain
    assert color_of(transcript, "return") != keyword


def test_copy_link_gives_the_code_as_it_was_written(transcript: Transcript) -> None:
    stream(transcript, ANSWER, 9)
    [copy] = [link for link in links(transcript) if link.startswith("quench:copy")]
    transcript.anchorClicked.emit(copy)
    assert QGuiApplication.clipboard().text() == "def quantize(x: float) -> int:\n    return round(x)  # nearest"


def test_thinking_is_folded_until_it_is_asked_for(transcript: Transcript) -> None:
    stream(transcript, ANSWER, 9)
    assert "First think" not in transcript.toPlainText()
    assert "Thought, 4 words" in transcript.toPlainText()
    fold = next(link for link in links(transcript) if link.startswith("quench:fold"))
    transcript.anchorClicked.emit(fold)
    assert "First think about scales." in transcript.toPlainText()
    transcript.anchorClicked.emit(fold)
    assert "First think" not in transcript.toPlainText()


def test_thinking_that_the_prompt_opened_is_folded_too(transcript: Transcript) -> None:
    stream(transcript, "I wonder what they mean.\n</think>\n\nParis.", 4)
    assert "I wonder" not in transcript.toPlainText()
    assert "Paris." in transcript.toPlainText()


def test_half_written_emphasis_does_not_show_its_marks(transcript: Transcript) -> None:
    transcript.add(1, "assistant", "", streaming=True)
    transcript.feed(1, "It is **very imp")
    transcript.flush()
    assert "It is very imp" in transcript.toPlainText()


def test_a_question_is_shown_as_it_was_typed(transcript: Transcript) -> None:
    transcript.add(1, "user", "# not a heading\n**stars** stay\n<b>x</b>")
    assert "# not a heading" in transcript.toPlainText()
    assert "**stars** stay" in transcript.toPlainText()


def test_a_long_attached_file_is_folded(transcript: Transcript) -> None:
    lines = "\n".join(f"line {n}" for n in range(60))
    transcript.add(1, "user", f"```txt notes.txt\n{lines}\n```\nSummarise this.")
    shown = transcript.toPlainText()
    assert "notes.txt" in shown and "line 30" not in shown and "Summarise this." in shown
    transcript.anchorClicked.emit(next(link for link in links(transcript) if "fold" in link))
    assert "line 30" in transcript.toPlainText()


def test_sticks_to_the_bottom_only_if_the_reader_was_there(transcript: Transcript) -> None:
    stream(transcript, "word " * 4000, 500)
    bar = transcript.verticalScrollBar()
    assert bar.maximum() > 0 and bar.value() == bar.maximum()
    transcript.add(2, "assistant", "", streaming=True)
    bar.setValue(40)
    transcript.feed(2, "more\n\n" * 40)
    transcript.flush()
    assert bar.value() == 40
    bar.setValue(bar.maximum())
    transcript.feed(2, "and more\n\n" * 40)
    transcript.flush()
    assert bar.value() == bar.maximum()


def test_pictures_and_other_addresses_are_never_loaded(
    transcript: Transcript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    original = Transcript.loadResource

    def watched(self: Transcript, kind: int, name: object) -> object:
        asked.append(str(name))
        return original(self, kind, name)  # type: ignore[arg-type]

    monkeypatch.setattr(Transcript, "loadResource", watched)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"not for you")
    stream(
        transcript,
        f"![one](file://{secret}) ![two]({secret}) <img src='file://{secret}'> "
        "[run](javascript:alert(1)) [file](file:///etc/passwd) [fold](quench:fold/1/0) [ok](https://example.org)",
        11,
    )
    transcript.grab()
    assert asked == []
    assert "\ufffc" not in transcript.toPlainText()
    assert links(transcript) == ["https://example.org"]
    assert transcript.loadResource(2, f"file://{secret}") is None


def test_a_link_asks_before_it_opens(qtbot: QtBot, transcript: Transcript) -> None:
    stream(transcript, "[ok](https://example.org/path)", 5)
    transcript.anchorClicked.emit("https://example.org/path")
    box = transcript.findChild(QMessageBox)
    assert box is not None and "example.org" in box.text() and box.informativeText() == "https://example.org/path"
    box.reject()


HOSTILE = {
    "quotes": "> " * 10_000 + "deep",
    "tight quotes": ">" * 10_000 + "deep",
    "lists": "- " * 5_000 + "x",
    "brackets": "[" * 20_000,
    "stars": "*" * 20_000 + "a",
    "backticks": "`" * 9_999 + "x",
    "one line": "x" * 200_000,
    "html": "<script>alert(1)</script><table><tr><td>" * 200,
    "table": "|" * 10_000 + "\n" + "|-" * 5_000,
    "controls": "a\u202eb\ufdd0\ufdd1\ufffc\x00\u2029c" * 50,
    "dollars": "$a " * 10_000,
    "blank lines": "\n" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_harmless(transcript: Transcript, name: str) -> None:
    text = HOSTILE[name]
    begun = time.perf_counter()
    stream(transcript, text, max(1, len(text) // 20))
    QApplication.processEvents()
    assert time.perf_counter() - begun < 5
    for forbidden in ("\u202e", "\ufdd0", "\x00"):
        assert forbidden not in transcript.toPlainText()
    transcript.add(2, "user", "still here")
    assert "still here" in transcript.toPlainText()


def test_runaway_lines_are_broken_but_complete(transcript: Transcript) -> None:
    stream(transcript, "y" * 30_000, 700)
    assert transcript.toPlainText().count("y") == 30_000
    block, longest = transcript.document().begin(), 0
    while block.isValid():
        longest = max(longest, block.length())
        block = block.next()
    assert longest <= markdown.MAX_LINE + 1


def test_two_thousand_tokens_stream_cheaply(transcript: Transcript) -> None:
    text = (ANSWER.split("</think>")[1] + "\n\n") * 14
    text = text[:8_000]  # about 2,000 tokens
    markdown.highlight("x = 1", "python")  # the page warms the highlighter up before
    transcript.add(1, "assistant", "", streaming=True)
    written: list[int] = []
    transcript.document().contentsChange.connect(lambda at, gone, added: written.append(added))
    for start in range(0, len(text), 28):  # seven tokens an update: 200 tokens/s, 30 updates a second
        transcript.feed(1, text[start : start + 28])
        transcript.flush()
    # Only the block that is still open is written again; all of it every time would be 143 times its length.
    assert sum(written) < 3 * len(text)
    assert transcript.document().characterCount() > len(text) / 2


@pytest.mark.parametrize(("width", "height"), [(700, 500), (420, 260)])
def test_what_is_painted_piece_by_piece_is_what_is_painted_at_once(
    qtbot: QtBot, theme: Theme, width: int, height: int
) -> None:
    """Only the lines that a stream changes are painted: nothing old may stay in the window."""
    view = Transcript(theme)
    qtbot.addWidget(view)
    view.resize(width, height)
    view.show()
    view.add(1, "user", "Tell me about it.")
    view.add(2, "assistant", "", streaming=True)
    long = ANSWER + "word " * 120 + "\n\n```\n" + "code\n" * 12 + "```\n\n| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 6
    for start in range(0, len(long), 29):
        view.feed(2, long[start : start + 29])
        view.flush()
        QApplication.processEvents()
        page = view.viewport().geometry()
        there = view.screen().grabWindow(view.winId()).toImage().copy(page)
        assert there == view.grab(page).toImage().convertToFormat(there.format()), long[: start + 29]
    assert view.verticalScrollBar().value() == view.verticalScrollBar().maximum() > 0


def test_feeding_is_throttled(qtbot: QtBot, transcript: Transcript) -> None:
    transcript.add(1, "assistant", "", streaming=True)
    changes: list[int] = []
    transcript.document().contentsChange.connect(lambda at, gone, added: changes.append(added))
    for number in range(200):
        transcript.feed(1, f"{number} ")
        assert number or "0" in transcript.toPlainText()  # the first words are there at once
    qtbot.waitUntil(lambda: "199" in transcript.toPlainText())
    assert len(changes) < 20


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("look", ["light", "dark"])
def test_the_ground_is_that_of_what_it_stands_on(qtbot: QtBot, theme: Theme, look: str, card: bool) -> None:
    theme.set_mode(look)
    holder = Card("Answer") if card else QMainWindow()
    qtbot.addWidget(holder)
    transcript = Transcript(theme, holder)
    if isinstance(holder, Card):
        holder.body.addWidget(transcript)
    else:
        holder.setCentralWidget(transcript)
    holder.resize(500, 400)
    with qtbot.waitExposed(holder):
        holder.show()
    transcript.add(1, "assistant", "One line.", name="Model")
    picture = transcript.viewport().grab().toImage()
    ground = theme.tokens.surface if card else theme.tokens.background
    assert picture.pixelColor(picture.width() - 4, picture.height() - 4).name() == ground.lower()


@pytest.mark.parametrize(
    "text",
    [
        "The fox said (quietly): no", "Well, e.g. this - or that...", "été 漢字 — “so”…", "Ends with a space ", "I.",
        "See www.example.org now", "Two  spaces", "snake_case and 2 * 3", "a\\.b", "1. item", "Mail me@example.org",
    ],
)  # fmt: skip
def test_prose_is_read_as_qt_reads_it(text: str) -> None:
    # A second paragraph with a mark makes Qt's reader read it all.
    for open_end in (False, True):
        assert markdown.parse(text, open_end=open_end) == markdown.parse(f"{text}\n\n**x**", open_end=open_end)[:-1]


def test_messages_can_be_chosen_and_acted_on_by_keyboard(qtbot: QtBot, transcript: Transcript) -> None:
    transcript.add(1, "user", "first question")
    transcript.add(2, "assistant", "an answer", note="2 tokens")
    transcript.setFocus()
    qtbot.keyClick(transcript, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    with qtbot.waitSignal(transcript.action) as asked:
        qtbot.keyClick(transcript, Qt.Key.Key_R)
    assert asked.args == ["regenerate", 2]
    qtbot.keyClick(transcript, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert QGuiApplication.clipboard().text() == "an answer"
    qtbot.keyClick(transcript, Qt.Key.Key_Up, Qt.KeyboardModifier.AltModifier)
    with qtbot.waitSignal(transcript.action) as asked:
        qtbot.keyClick(transcript, Qt.Key.Key_E)
    assert asked.args == ["edit", 1]
    transcript.set_busy(True)
    assert transcript.actions_for(2) == ["copy"]


def test_messages_can_be_removed(transcript: Transcript) -> None:
    for key in range(1, 6):
        transcript.add(key, "user" if key % 2 else "assistant", f"message {key}\n\n| a |\n|---|\n| {key} |")
    transcript.remove(2)
    assert "message 2" not in transcript.toPlainText() and "message 3" in transcript.toPlainText()
    transcript.remove_from(4)
    assert transcript.keys() == [1, 3]
    assert "message 4" not in transcript.toPlainText() and "message 5" not in transcript.toPlainText()
    transcript.add(9, "assistant", "again")
    assert transcript.toPlainText().rstrip().endswith("again")


def test_copying_takes_no_colours_along(transcript: Transcript) -> None:
    stream(transcript, ANSWER, 50)
    cursor = transcript.textCursor()
    cursor.select(QTextCursor.SelectionType.Document)
    transcript.setTextCursor(cursor)
    transcript.copy()
    data = QGuiApplication.clipboard().mimeData()
    assert data.hasText() and not data.hasHtml()


CALLS = {
    "hermes": 'Let me see.\n\n<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>\nDone.',
    "mistral": 'Let me see.[TOOL_CALLS]look[ARGS]{"at": "sky"}',
    "llama": '{"name": "look", "parameters": {"at": "sky"}}',
    "qwen": "<tool_call>\n<function=look>\n<parameter=at>\nsky\n</parameter>\n</function>\n</tool_call>",
}


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("form", CALLS)
def test_tool_calls_become_cards_however_they_come(transcript: Transcript, form: str, step: int) -> None:
    stream(transcript, CALLS[form], step)
    shown = transcript.toPlainText()
    assert "Tool call: look" in shown
    assert '"at": "sky"' in shown
    assert "tool_call>" not in shown and "TOOL_CALLS" not in shown
    assert "not run" in shown
    assert sum(link.startswith("quench:tool/") for link in links(transcript)) == 1
    assert ("Let me see." in shown) == CALLS[form].startswith("Let")
    assert ("Done." in shown) == CALLS[form].endswith("Done.")
    once = transcript.toPlainText()
    transcript.set_messages([Entry(1, "assistant", CALLS[form], "Model", "12 tokens")])
    assert transcript.toPlainText() == once


def test_a_card_asks_for_an_answer_in_the_tools_place_and_copies_the_call(qtbot: QtBot, transcript: Transcript) -> None:
    stream(transcript, CALLS["hermes"], 50)
    assert "tool" in transcript.actions_for(1)
    [tool] = [link for link in links(transcript) if link.startswith("quench:tool/")]
    [copy] = [link for link in links(transcript) if link.startswith("quench:callcopy/")]
    with qtbot.waitSignal(transcript.tool_wanted) as wanted:
        transcript.anchorClicked.emit(tool)
    assert wanted.args == [1, "look"]
    transcript.anchorClicked.emit(copy)
    assert QGuiApplication.clipboard().text() == '{\n  "at": "sky"\n}'
    transcript.add(2, "assistant", "No call.")
    assert "tool" not in transcript.actions_for(2)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("[THINK]", "[/THINK]"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("◁think▷", "◁/think▷"),
        ("<seed:think>", "</seed:think>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_other_marks_of_reasoning_are_folded_too(transcript: Transcript, opening: str, closing: str) -> None:
    stream(transcript, f"{opening}I wonder about it.{closing}\n\nParis.", 3)
    assert transcript.toPlainText().replace("\n", " ").split("Model ")[1].startswith("▸ Thought, 4 words Paris.")


@pytest.mark.parametrize("step", [1, 9, 1000])
def test_an_answer_held_to_a_schema_is_shown_as_it_is(transcript: Transcript, step: int) -> None:
    text = '{"name": "f", "arguments": "*a* </think> `b`",\n  "c": ["<tool_call>"]}'
    transcript.append(Entry(1, "assistant", "", "Model", json=True), streaming=True)
    for start in range(0, len(text), step):
        transcript.feed(1, text[start : start + step])
        transcript.flush()
    transcript.finish(1, "12 tokens")
    assert all(line in transcript.toPlainText() for line in text.split("\n"))
    assert "Thought" not in transcript.toPlainText() and "Tool call" not in transcript.toPlainText()
    once = transcript.toPlainText()
    transcript.set_messages([Entry(1, "assistant", text, "Model", "12 tokens", json=True)])
    assert transcript.toPlainText() == once
    assert transcript.text_of(1) == text


HOSTILE_CALLS = {
    "never closed": "<tool_call>" + '{"name": "f", "arguments": {"a": "' + "x" * 100_000,
    "nested": "<tool_call>" * 5_000,
    "deep": "<tool_call>" + "[" * 60_000 + "</tool_call>",
    "many": '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n' * 300,
    "marks": "[TOOL_CALLS]" * 5_000,
    "thoughts": "<think>" * 5_000 + "</think>" * 5_000,
    "links": '<tool_call>{"name": "f", "arguments": "quench:delete/1/0 [a](quench:tool/1/0.0)"}</tool_call>',
    "lines": "<tool_call>" + "a\n" * 40_000 + "</tool_call>",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE_CALLS)
def test_hostile_tool_calls_are_shown_within_bounds(transcript: Transcript, name: str) -> None:
    text = HOSTILE_CALLS[name]
    stream(transcript, text, max(len(text) // 20, 1))
    transcript.grab()
    assert transcript.text_of(1) == text
    assert len(transcript.toPlainText()) < len(text) + 40_000
    transcript.clear_messages()
