"""The bundled prompts and a person's own."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from app.quality import prompts, texts
from app.quality.prompts import Prompt
from converter.spec import QuenchError
from resources import path as resource


def error_of(name: str) -> QuenchError:
    with pytest.raises(QuenchError) as caught:
        prompts.load(name)
    assert caught.value.exit_status == 3 and caught.value.hint
    return caught.value


def test_the_bundled_set_is_varied_and_fits_the_quality_page() -> None:
    found = prompts.load(prompts.BUNDLED)
    assert len(found) == 60 == len({each.prompt for each in found})
    counts = Counter(each.slice for each in found)
    assert set(counts) == {*texts.DEFAULT, *texts.GROUPS} and min(counts.values()) >= 8
    for each in found:
        assert 40 <= len(each.prompt) <= 600 or (each.slice == "languages" and 20 <= len(each.prompt) <= 600)
        assert unicodedata.is_normalized("NFC", each.prompt) and each.prompt == each.prompt.strip()
    openings = Counter(" ".join(each.prompt.split()[:2]) for each in found)
    assert max(openings.values()) <= 9


def test_no_bundled_prompt_is_a_task_or_stands_in_a_text() -> None:
    written = "\n".join(resource(file).read_text("utf-8") for file in {**texts.BUNDLED, **texts.CALIBRATION}.values())
    written += resource("pocket-tasks.jsonl").read_text("utf-8")
    assert [each.prompt for each in prompts.load(prompts.BUNDLED) if json.dumps(each.prompt)[1:41] in written] == []


def test_own_prompts_keep_their_order_and_may_have_no_slice(tmp_path: Path) -> None:
    file = tmp_path / "mine é.jsonl"
    lines = [{"prompt": "Why?\nBecause.", "slice": " rhymes "}, {"prompt": "Ça va ?"}, {"prompt": "x", "note": 3}]
    file.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines) + "\r\n", "utf-8")
    assert prompts.load(str(file)) == [
        Prompt("rhymes", "Why?\nBecause."), Prompt(prompts.NO_SLICE, "Ça va ?"), Prompt(prompts.NO_SLICE, "x")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('"Why?"', "not an object"),
        ('{"question": "Why?"}', "'prompt' is missing"),
        ('{"prompt": " "}', "'prompt' is missing"),
        ('{"prompt": ["a"]}', "'prompt' is missing"),
        ('{"prompt": "a", "slice": null}', "'slice' is missing"),
        ('{"prompt": "a", "slice": "' + "b" * 65 + '"}', "65 characters"),
        ('{"prompt": "' + "b" * (prompts.MAX_PROMPT + 1) + '"}', "the limit is 100000"),
        ('{"prompt": "a \\ud83d"}', "half of a character"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, word: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "x"}\n\n' + line, "utf-8")
    error = error_of(str(file))
    assert error.code == "bad_prompt" and "line 3" in error.detail and word in error.detail


def test_a_file_that_is_no_set_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = error_of(str(tmp_path / "none.jsonl"))
    assert missing.code == "text_unreadable" and prompts.BUNDLED in missing.hint
    assert error_of(str(tmp_path)).code == "bad_text"
    file = tmp_path / "a.jsonl"
    file.write_text("\n \n", "utf-8")
    assert error_of(str(file)).code == "no_prompts"
    file.write_text('{"prompt": "x"}\n' * 4, "utf-8")
    assert len(prompts.load(str(file))) == 4
    monkeypatch.setattr(prompts, "MAX_PROMPTS", 3)
    assert error_of(str(file)).code == "too_many_prompts"
