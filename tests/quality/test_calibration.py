"""The bundled calibration text: whole, varied, parsable, and nothing of it in the texts that judge the result.

Llama-3's vocabulary cuts it into about 60,700 tokens and Qwen2's into about 61,900 (chat markers counted as letters).
Pocket's, which has 2,048 entries and no script but Latin, needs more, so the floors here are in characters and words.
"""

from __future__ import annotations

import ast
import configparser
import csv
import json
import re
import tomllib
import unicodedata
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tokenizers import Tokenizer

from app.quality import texts
from resources import path as resource

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""A part in a known language, in the files ``code`` and ``data``: a Markdown fence with the language's name."""

FLOORS = {  # characters
    "prose": 36_000,
    "technical": 31_000,
    "code": 33_000,
    "mathematics": 13_500,
    "data": 17_000,
    "languages": 21_000,
    "dialogue": 20_000,
    "tools": 11_500,
}

SCRIPTS = {  # the first word of a letter's Unicode name: how many there are at least
    "CJK": 800,
    "HIRAGANA": 350,
    "KATAKANA": 50,
    "HANGUL": 400,
    "ARABIC": 800,
    "DEVANAGARI": 500,
    "CYRILLIC": 1400,
    "GREEK": 150,
    "HEBREW": 70,
    "THAI": 80,
    "BENGALI": 60,
    "TAMIL": 60,
}

STOP_WORDS = {  # frequent there, and not words of the other languages in the file
    "German": "der und nicht ist wird hatte bitte dass",
    "French": "le les est dans qui une jamais où",
    "Spanish": "el los cuando usted y está nunca",
    "Italian": "che gli della è più ho chi senza",
    "Portuguese": "não ou uma os em ninguém quem",
    "Polish": "się nie że jest gdy oraz żeby",
    "Turkish": "bir ve ise ama hiç yalnızca",
    "Dutch": "het een stond maar toe hebben",
    "Swedish": "och som inte att han sedan hade",
    "Vietnamese": "không có cho khỏi một vừa",
    "Finnish": "oli ja kaikki meillä kukaan",
}


def contents(text: texts.Text) -> str:
    """What is written in a text, without roles and JSON."""
    return text.plain or "\n\n".join(turn.content for talk in text.conversations for turn in talk)


def words(text: str) -> list[str]:
    return re.sub(r"[^\w\s]", "", text.lower()).split()


def sequences(text: str, length: int = 8) -> set[tuple[str, ...]]:
    all_words = words(text)
    return {tuple(all_words[index : index + length]) for index in range(len(all_words) - length + 1)}


@pytest.fixture(scope="module")
def calibration() -> dict[str, texts.Text]:
    return {text.name.removeprefix("calibration-"): text for text in texts.load(texts.CALIBRATION)}


def parts(calibration: dict[str, texts.Text], *languages: str) -> list[str]:
    whole = calibration["code"].plain + calibration["data"].plain
    found = [body for language, body in FENCE.findall(whole) if language in languages]
    assert found, f"no part is marked {languages}"
    return found


def test_every_file_is_there_and_long_enough(calibration: dict[str, texts.Text]) -> None:
    assert list(calibration) == list(FLOORS)
    for name, floor in FLOORS.items():
        assert len(contents(calibration[name])) >= floor, name
    everything = "\n".join(map(contents, calibration.values()))
    assert len(everything) >= 190_000
    assert len({word for word in words(everything) if word.isalpha()}) >= 8_000
    tokenizer = Tokenizer.from_file(str(resource("pocket/tokenizer.json")))
    assert len(tokenizer.encode(everything).ids) >= 100_000


def test_nothing_of_it_stands_in_the_texts_that_judge(calibration: dict[str, texts.Text]) -> None:
    judges: set[tuple[str, ...]] = set()
    for text in texts.load(texts.BUNDLED):
        judges |= sequences(contents(text))
    assert len(judges) > 5_000
    for name, text in calibration.items():
        assert not sequences(contents(text)) & judges, name
    tasks = [line for line in resource("pocket-tasks.jsonl").read_text("utf-8").splitlines() if line]
    asked = set().union(*(sequences(line) for line in tasks))
    for name, text in calibration.items():
        assert not sequences(contents(text)) & asked, name


def test_no_line_stands_twice(calibration: dict[str, texts.Text]) -> None:
    lines = Counter(
        line.strip() for name, text in calibration.items() if name != "code" for line in contents(text).splitlines()
    )
    assert [line for line, count in lines.items() if count > 1 and len(line) >= 24] == []
    # a program may say the same twice (two branches of it), and not more often
    statements = Counter(line.strip() for line in calibration["code"].plain.splitlines())
    assert [line for line, count in statements.items() if count > 2 and len(line) >= 24] == []


def test_scripts_and_languages_are_present(calibration: dict[str, texts.Text]) -> None:
    text = calibration["languages"].plain
    scripts = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    assert {script: count for script, count in SCRIPTS.items() if scripts[script] < count} == {}
    counts = Counter(re.findall(r"\w+", text.lower()))
    for language, stop_words in STOP_WORDS.items():
        assert [word for word in stop_words.split() if not counts[word]] == [], language


def test_letters_are_composed_and_whole(calibration: dict[str, texts.Text]) -> None:
    for name, text in calibration.items():
        written = contents(text)
        assert unicodedata.is_normalized("NFC", written), name
        assert "\ufffd" not in written, name
        assert "\r" not in written, name
        assert not re.search(r"\n{5}", written), name


def test_code_parses(calibration: dict[str, texts.Text]) -> None:
    for body in parts(calibration, "python"):
        ast.parse(body)
    languages = {language for language, _ in FENCE.findall(calibration["code"].plain)}
    assert len(languages) >= 15
    assert languages >= {"python", "c", "cpp", "rust", "go", "javascript", "typescript", "java", "sql", "bash", "html"}


def test_data_parse(calibration: dict[str, texts.Text]) -> None:
    for body in parts(calibration, "json"):
        json.loads(body)
    for body in parts(calibration, "jsonl"):
        assert [json.loads(line)["ts"] for line in body.splitlines()]
    for body in parts(calibration, "toml"):
        tomllib.loads(body)
    for body in parts(calibration, "xml"):
        assert len(ElementTree.fromstring(body.encode())) > 0
    for body in parts(calibration, "ini"):
        reader = configparser.ConfigParser(interpolation=None)
        reader.read_string(body)
        assert reader.sections()
    tables = [("\t", body) for body in parts(calibration, "tsv")]
    tables += [(";" if ";" in body.split("\n")[0] else ",", body) for body in parts(calibration, "csv")]
    for delimiter, body in tables:
        rows = list(csv.reader(body.splitlines(), delimiter=delimiter))
        assert len(rows) > 3
        assert {len(row) for row in rows} == {len(rows[0])}, rows[0]


def calls(content: str) -> list[object]:
    """The JSON values that begin somewhere in a message: at an outermost brace or bracket."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while match := re.compile(r"[{\[]").search(content, position):
        try:
            value, position = decoder.raw_decode(content, match.start())
        except ValueError:
            position = match.end()
            continue
        found.append(value)
    return found


def test_conversations_take_turns(calibration: dict[str, texts.Text]) -> None:
    for name in ("dialogue", "tools"):
        talks = calibration[name].conversations
        assert any(talk[0].role == "system" for talk in talks), name
        for talk in talks:
            spoken = [turn.role for turn in talk if turn.role != "system"]
            assert spoken == ["user", "assistant"] * (len(spoken) // 2)
            assert all(turn.content.strip() for turn in talk)
    assert any(talk[0].role == "user" for talk in calibration["dialogue"].conversations)


def test_tools_are_called_in_json(calibration: dict[str, texts.Text]) -> None:
    talks = calibration["tools"].conversations
    made = [
        sum(isinstance(value, dict) for turn in talk if turn.role == "assistant" for value in calls(turn.content))
        for talk in talks
    ]
    assert sum(count > 0 for count in made) >= len(talks) - 2  # others call by a plain word, or with a list
    results = [value for talk in talks for turn in talk if turn.role == "user" for value in calls(turn.content)]
    assert len(results) >= 15


def test_the_package_ships_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["scikit-build"]
    assert "resources" in settings["wheel"]["packages"]
    left_out = [*settings["wheel"]["exclude"], *settings["sdist"]["exclude"]]
    for file in (*texts.CALIBRATION.values(), *texts.BUNDLED.values(), "prompts.jsonl"):
        assert not any(fnmatch(f"resources/{file}", pattern) for pattern in left_out), file
        assert resource(file).is_file()
