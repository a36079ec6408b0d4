"""Texts to windows, with Pocket's own tokenizer as read by the tokenizers package as the oracle."""

from __future__ import annotations

import csv
import json
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer as HfTokenizer

from app.cli import build_parser
from app.protocol import ChatMessage
from app.quality import texts
from converter.spec import QuenchError
from resources import path as resource


@dataclass
class Letters:
    """A vocabulary of characters; only what ``texts`` asks of a model, so that windows can be counted by hand."""

    bos: int = 1
    adds_bos: bool = False
    asked: list[tuple[bool, bool]] = field(default_factory=list)

    def tokenize(self, text: str, *, special: bool, add_special: bool) -> list[int]:
        self.asked.append((special, add_special))
        return ([self.bos] if self.adds_bos and add_special else []) + [ord(letter) for letter in text]

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True) -> str:
        return "".join(f"<{each.role}>{each.content}" for each in messages) + ("<?>" if add_generation_prompt else "")


def error_of(name: str) -> QuenchError:
    with pytest.raises(QuenchError) as caught:
        texts.load([name])
    assert caught.value.exit_status == 3
    assert caught.value.hint
    return caught.value


def test_windows_are_consecutive_and_a_rest_is_left_out() -> None:
    text = texts.Text("a", plain="abcdefghijklmnopqrstuvw")
    cut = texts.windows(text, Letters(), context=5)
    assert ["".join(map(chr, window.tokens)) for window in cut] == ["abcde", "fghij", "klmno", "pqrst"]
    assert {window.text for window in cut} == {"a"}


def test_chunks_are_the_first_windows() -> None:
    text = texts.Text("a", plain="x" * 100)
    assert len(texts.windows(text, Letters(), context=10, chunks=3)) == 3
    assert len(texts.windows(text, Letters(), context=10, chunks=30)) == 10


def test_first_token_becomes_bos_only_if_the_model_wants_one() -> None:
    text = texts.Text("a", plain="abcdefghi")
    cut = texts.windows(text, Letters(adds_bos=True), context=5)
    # BOS comes before the text too (the tool tokenizes so), and then stands in for the first token of each window.
    assert [window.tokens for window in cut] == [(1, 97, 98, 99, 100), (1, 102, 103, 104, 105)]


def test_plain_text_is_not_parsed_for_special_tokens_and_chats_are() -> None:
    model = Letters()
    texts.tokenize(texts.Text("a", plain="<|im_end|>"), model)
    talk = (ChatMessage("user", "hi"), ChatMessage("assistant", "ho"))
    tokens = texts.tokenize(texts.Text("b", conversations=(talk, talk)), model)
    assert model.asked == [(False, True), (True, True)]
    assert "".join(map(chr, tokens)) == "<user>hi<assistant>ho" * 2


def test_too_short_says_how_much_is_needed() -> None:
    with pytest.raises(QuenchError) as caught:
        texts.windows(texts.Text("note", plain="x" * 1023), Letters(), context=512)
    assert caught.value.code == "text_too_short"
    assert "1023" in caught.value.detail
    assert "1024" in caught.value.detail
    assert len(texts.windows(texts.Text("note", plain="x" * 1024), Letters(), context=512)) == 2


def test_texts_come_in_turns() -> None:
    groups = [[texts.Window(name, (i,)) for i in range(n)] for name, n in (("a", 3), ("b", 1), ("c", 2))]
    assert [(w.text, w.tokens[0]) for w in texts.interleave(groups)] == [
        ("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2),
    ]  # fmt: skip


def test_a_part_of_a_run_is_a_sample_of_whole_texts() -> None:
    """All windows once, the texts in turns, the same order every time, and not the text's beginning first."""
    groups = [texts.windows(texts.Text(name, plain=name * 3200), Letters(), context=32) for name in ("a", "b")]
    order = texts.fair_order(groups)
    assert order == texts.fair_order(groups)
    assert [window.text for window in order] == ["a", "b"] * 100
    places = [window.place for window in order if window.text == "a"]
    assert sorted(places) == list(range(100))
    assert 25 < sum(places[:50]) / 50 < 75


@pytest.mark.parametrize("name", texts.BUNDLED)
def test_bundled_slices_are_long_enough_for_pocket(name: str, pocket: Path) -> None:
    """At least four windows of 512 tokens, counted by another tokenizer than the engine's."""
    text = texts.load([name])[0]
    plain = text.plain or "".join(
        f"<|im_start|>{each.role}\n{each.content}<|im_end|>\n" for talk in text.conversations for each in talk
    )
    tokens = len(HfTokenizer.from_file(str(pocket / "tokenizer.json")).encode(plain).ids)
    assert tokens >= 4 * 512
    assert not text.plain or "<|im_start|>" not in text.plain


def test_bundled_slices_are_not_repetition() -> None:
    for text in texts.load(texts.BUNDLED):
        lines = [line.strip() for line in text.plain.splitlines() if len(line.strip()) > 40]
        lines += [each.content for talk in text.conversations for each in talk if len(each.content) > 60]
        assert len(set(lines)) == len(lines), text.name


def contents(text: texts.Text) -> str:
    """What is written in a text, without roles and JSON."""
    return text.plain or "\n".join(turn.content for talk in text.conversations for turn in talk)


def spans(text: str, length: int = 60) -> set[str]:
    """Every run of ``length`` characters, white space counted as one space."""
    line = " ".join(text.split())
    return {line[start : start + length] for start in range(len(line) - length + 1)}


@pytest.mark.parametrize("name", texts.BUNDLED)
def test_bundled_slices_are_composed_and_clean(name: str) -> None:
    file = resource(texts.BUNDLED[name])
    written = contents(texts.load([name])[0])
    assert unicodedata.is_normalized("NFC", written)
    assert not re.search("[\ufffd\r\ufeff\xa0]|\n{5}| +\n", written)
    assert file.stat().st_size >= 7_000 if name not in texts.LANGUAGES else file.stat().st_size >= 5_000


def test_nothing_that_calibrates_stands_in_a_text_that_judges() -> None:
    calibration = spans("\n".join(map(contents, texts.load(texts.CALIBRATION))))
    for text in texts.load(texts.BUNDLED):
        judged = spans(contents(text))
        assert len(judged) > 1_500, text.name
        assert not judged & calibration, text.name


# Letters of a script, and words that only this one of the languages has.
MARKS = {
    "german": ("LATIN", "der und nicht ist wird dass", "äöüß„"),
    "french": ("LATIN", "les est dans qui une elle", "éèêàç«"),
    "spanish": ("LATIN", "el los cuando usted y hay", "ñáó¿¡"),
    "italian": ("LATIN", "che gli della è ho anche", "àèìòù"),
    "portuguese": ("LATIN", "não um os uma ele ao", "ãõçê"),
    "russian": ("CYRILLIC", "и не на что это как", "ёэы—"),
    "chinese": ("CJK", "", "，。“？"),
    "japanese": ("HIRAGANA", "", "、。「テ"),
}


@pytest.mark.parametrize("name", texts.LANGUAGES)
def test_a_language_is_what_it_is_called(name: str) -> None:
    text = texts.load([name])[0].plain
    script, words, letters = MARKS[name]
    scripts = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    assert scripts.most_common(1)[0][0] == script
    spoken = set(re.findall(r"\w+", text.lower()))
    assert not set(words.split()) - spoken
    assert not [letter for letter in letters if letter not in text.lower() and letter not in text]


FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_data_hold_together() -> None:
    """JSON, TOML, YAML and CSV parse, sums add up, fees follow the tariffs, and every id that is named is there."""
    text = texts.load(["data"])[0].plain
    blocks: dict[str, list[str]] = {}
    for language, body in FENCE.findall(text):
        blocks.setdefault(language, []).append(body)
    assert set(blocks) == {"json", "jsonl", "csv", "text", "yaml", "toml", "log", "html", "diff"}
    network, ticket, payment, _ = map(json.loads, blocks["json"])
    events = [json.loads(line) for line in blocks["jsonl"][0].splitlines()]
    service = yaml.safe_load(blocks["yaml"][0])
    van = tomllib.loads(blocks["toml"][0])["van"]
    rides = list(csv.DictReader(blocks["csv"][0].splitlines()))

    places = {station["id"] for station in network["stations"]}
    for key in ("docks", "bikes", "free"):
        assert sum(station[key] for station in network["stations"]) == network["totals"][key]
    assert {ride[end] for ride in rides for end in ("from", "to")} == places
    assert {stop["station"] for stop in van["stop"]} | {ticket["station"]} <= places
    assert sum(stop.get("load", 0) - stop.get("unload", 0) for stop in van["stop"]) == 0

    students = {line.split("|")[1].strip() for line in text.splitlines() if "| student |" in line}
    tariffs = service["tariffs"]
    for ride in rides:
        kind = "student" if ride["member"] in students else "member" if ride["member"] else "guest"
        fee = tariffs[kind]["minute"] * int(ride["minutes"]) + (tariffs["guest"]["unlock"] if kind == "guest" else 0)
        assert float(ride["fee"]) == pytest.approx(fee)
    total = sum(float(ride["fee"]) for ride in rides)
    assert f"{sum(int(ride['minutes']) for ride in rides)} minutes" in text and f"{total:.2f} euros" in text
    last = events[-1]
    assert [last["station"], last["fee"]] == next([r["to"], float(r["fee"])] for r in rides if r["ride_id"] == "9005")

    amounts = [float(cell) for cell in re.findall(r"<td>(\d+\.\d\d)</td></tr>", blocks["html"][0])]
    net, tax, due = amounts[-3:]
    assert sum(amounts[:-3]) == pytest.approx(net) and net + tax == pytest.approx(due) == payment["total"]
    assert sum(part["amount"] for part in payment["instalments"]) == pytest.approx(due)
    months = list(csv.DictReader(blocks["csv"][1].splitlines(), delimiter=";"))
    for column in ("income", "costs", "result"):
        assert sum(int(month[column]) for month in months[:-1]) == int(months[-1][column])


def test_a_group_stands_for_its_slices() -> None:
    assert texts.BUNDLED.keys() == {*texts.DEFAULT, *texts.LANGUAGES}
    assert len(texts.LANGUAGES) == 8 and not set(texts.DEFAULT) & set(texts.LANGUAGES)
    assert texts.expand(["russian", "languages", "prose", "russian", "my.txt", "my.txt"]) == (
        "russian", *(name for name in texts.LANGUAGES if name != "russian"), "prose", "my.txt", "my.txt"
    )  # fmt: skip
    assert [text.name for text in texts.load(["prose", "languages"])] == ["prose", *texts.LANGUAGES]
    assert all(map(texts.is_bundled, [*texts.BUNDLED, *texts.CALIBRATION, "languages"]))
    assert not texts.is_bundled("language")


def test_the_command_line_and_the_hint_name_every_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["quality", "--help"])
    named = set(re.findall(r"\w+", capsys.readouterr().out))
    hint = error_of(str(tmp_path / "none")).hint
    for name in (*texts.BUNDLED, *texts.GROUPS):
        assert name in named and name in hint


def test_questions_are_there() -> None:
    data = texts.questions()
    assert len(data["demo"]) == 3
    assert len(data["suggestions"]) >= 4
    assert all(isinstance(line, str) and line for group in data.values() for line in group)


@pytest.mark.parametrize(
    "line",
    [
        {"messages": [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "ho"}]},
        {"conversations": [{"from": "human", "value": "hé"}, {"from": "gpt", "value": "ho"}]},
        [{"role": "user", "content": "hé"}, {"role": "assistant", "content": "ho"}],
    ],
)
def test_common_forms_of_conversations(tmp_path: Path, line: object) -> None:
    file = tmp_path / "my chats é.jsonl"
    file.write_text(json.dumps(line, ensure_ascii=False) + "\n\n", "utf-8")
    text = texts.load([str(file)])[0]
    assert text.name == "my chats é"
    assert text.conversations == ((ChatMessage("user", "hé"), ChatMessage("assistant", "ho")),)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "not JSON"),
        ("3", "list of messages"),
        ('{"messages": []}', "list of messages"),
        ('{"messages": ["hi"]}', "not an object"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "'robot'"),
        ('{"messages": [{"role": "user"}]}', "no text"),
        ("[" * 100_000 + "]" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "x"}]}\n' + line, "utf-8")
    error = error_of(str(file))
    assert error.code == "bad_conversation"
    assert "line 2" in error.detail
    assert word in error.detail


def test_files_that_cannot_be_read_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of(str(tmp_path / "none.txt")).code == "text_unreadable"
    assert error_of(str(tmp_path)).code == "bad_text"
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"ok\ncaf\xe9\n")
    error = error_of(str(latin))
    assert error.code == "text_not_utf8"
    assert "line 2" in error.detail
    assert "0xe9" in error.detail
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n", "utf-8")
    assert error_of(str(empty)).code == "empty_text"
    empty.rename(tmp_path / "empty.jsonl")
    assert error_of(str(tmp_path / "empty.jsonl")).code == "empty_text"
    monkeypatch.setattr(texts, "MAX_BYTES", 4)
    assert error_of(str(latin)).code == "text_too_large"


def test_a_byte_order_mark_is_no_token(tmp_path: Path) -> None:
    file = tmp_path / "bom.md"
    file.write_bytes(b"\xef\xbb\xbfhello")
    assert texts.load([str(file)])[0].plain == "hello"


def test_names_are_made_unique_and_nothing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prose.txt"
    file.write_text("other prose", "utf-8")
    assert [text.name for text in texts.load(["prose", str(file), str(file)])] == ["prose", "prose (2)", "prose (3)"]
    with pytest.raises(QuenchError) as caught:
        texts.load([])
    assert caught.value.code == "no_text"
