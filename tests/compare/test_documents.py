"""What a comparison looks like outside: hostile words stay words, and the figures are the same everywhere."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from app.compare import documents, page
from app.compare.results import Column, Comparison, Entry, names_of, short_names
from app.memory_messages import Memory
from app.protocol import Alternative, ScoredToken
from app.quality import prompts
from app.quality.prompts import Prompt
from converter.spec import QuenchError

EVIL = '</blockquote><script>alert(1)</script><img src=x onerror=alert(1)>\n```\n# x\n=HYPERLINK("http://e")\x00\u202e'


def token(text: str, kld: float, top: str, reference: str, agree: bool) -> ScoredToken:
    return ScoredToken(text, 0.4, kld, agree, (Alternative(top, 0.5),), (Alternative(reference, 0.61),))


@pytest.fixture
def hostile() -> Comparison:
    tokens = (token("The", 0.0, "The", "The", True), token(EVIL, 0.8, " dog", " cat", False))
    memory = Memory(3 << 30, 0, 0)
    reference = Column("/m/<big>.gguf", EVIL, -1, 0, 1, 20.0, 0.25, memory, tokens, ("The", EVIL), 2, bytes=4 << 30)
    small = Column("/m/small.gguf", "=1+1", 1, 0.4, 0.5, 40.0, 0.1, memory, tokens, ("=1+1",), 0, verdict="Pass")
    failed = Column("/m/gone.gguf", "", -1, 0, 0, 0, 0, Memory(0, 0, 0), scored=False, error="It <died>.")
    return Comparison(
        ("/m/<big>.gguf", "/m/small.gguf", "/m/gone.gguf"),
        (Entry(EVIL, "code", (reference, small, failed)), Entry("Why?", "other", (reference, None, None))),
    )


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.titles += [value for name, value in attrs if name == "title" and value]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_stands_by_itself_and_runs_nothing(hostile: Comparison) -> None:
    html = page.render(hostile)
    seen = _Page(html)
    assert not {"script", "img", "link", "iframe", "object"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes
    assert "\x00" not in html and "\u202e" not in html
    assert "<script>alert(1)</script>" in seen.words and "It <died>." in seen.words
    assert any(
        "0.80 nats, reference said ‘cat’ with 61%, this model ‘dog’ with 50%; here they part." in each
        for each in seen.titles
    )
    assert "mark" in seen.tags and html == page.render(hostile)


def test_markdown_keeps_answers_in_their_fences(hostile: Comparison) -> None:
    lines = documents.markdown(hostile).split("\n")
    assert lines.count("````text") == 3  # twice the reference's answer, once the prompt
    inside, fence = False, ""
    outside = []
    for line in lines:
        if not inside and line.startswith("```") and line.endswith("text"):
            inside, fence = True, line.removesuffix("text")
        elif inside and line == fence:
            inside = False
        elif not inside:
            outside.append(line)
    assert not inside
    assert not [line for line in outside if "<" in line.replace("\\<", "") or ("script" in line and "\\<" not in line)]
    assert "| Mean KLD | – | 0.400 nats | – |" in outside and "| Lab | – | Pass | – |" in outside


def test_a_spreadsheet_computes_nothing_of_it(hostile: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(documents.table(hostile))))
    assert len(rows) == 4 and tuple(rows[0]) == documents.HEAD
    assert rows[1]["text"] == "'=1+1" and rows[1]["kld"] == "0.4" and rows[0]["kld"] == "" == rows[2]["kld"]
    assert rows[0]["prompt"] == EVIL and rows[2]["error"] == "It <died>." and rows[0]["bytes"] == str(4 << 30)


def test_json_holds_everything(hostile: Comparison, tmp_path: Path) -> None:
    documents.save(hostile, tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text("utf-8"))
    survival = data.pop("survival")
    assert msgspec.convert(data, Comparison) == hostile
    assert survival[0]["steps"] == [{"tokens": 0, "share": 0.0, "low": 0.0, "high": 1.0}] and survival[1]["steps"] == []


def test_an_unknown_ending_and_a_folder_that_is_not_there_write_nothing(hostile: Comparison, tmp_path: Path) -> None:
    with pytest.raises(QuenchError, match="form"):
        documents.save(hostile, tmp_path / "a.exe")
    (tmp_path / "file").write_text("")
    with pytest.raises(QuenchError) as caught:
        documents.save(hostile, tmp_path / "file" / "a.md")
    assert caught.value.code == "unwritable" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_half_of_a_character_is_written_as_a_question_mark(hostile: Comparison, tmp_path: Path) -> None:
    entry = Entry("\ud83d?", "other", ())
    for ending in (".md", ".html"):
        documents.save(Comparison(("a",), (entry,)), tmp_path / f"a{ending}")
        assert "??" in (tmp_path / f"a{ending}").read_text("utf-8")


def test_names_tell_models_apart() -> None:
    assert names_of(("/a/m.gguf", "/b/m.gguf", "server:desk/qwen3:4b")) == ["m (1)", "m (2)", "qwen3:4b · desk"]


def test_short_names_are_what_tells_models_apart() -> None:
    assert short_names(["Pocket-Q8_0", "Pocket-Q2_K"]) == ["Q8_0", "Q2_K"]
    assert short_names(["a b-x", "a c-x"]) == ["b-x", "c-x"] and short_names(["m", "m-2"]) == ["m", "m-2"]
    assert names_of(["/m/pocket=Q2_K", "/m/pocket=Q8_0"]) == ["pocket · Q2_K", "pocket · Q8_0"]


def test_sets_of_prompts_go_out_as_they_come_in(tmp_path: Path) -> None:
    wanted = [Prompt("code", 'a\n"b"\u2028c'), Prompt("other", "ü")]
    prompts.save(wanted, tmp_path / "own.jsonl")
    assert prompts.load(str(tmp_path / "own.jsonl")) == wanted
    prompts.save(prompts.load(prompts.BUNDLED), tmp_path / "all.jsonl")
    assert prompts.load(str(tmp_path / "all.jsonl")) == prompts.load(prompts.BUNDLED)
    with pytest.raises(QuenchError) as caught:
        prompts.save(wanted, tmp_path / "own.jsonl" / "no.jsonl")
    assert caught.value.code == "unwritable"
