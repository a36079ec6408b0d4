"""The worker that looks into models: tokens against two other tokenizers, templates good and hostile, long values."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import gguf
import pytest
from tokenizers import Tokenizer

from app.child import Child
from app.inspect_messages import (
    PAGE,
    PROMPT_LIMIT,
    TEXT_LIMIT,
    ReadValue,
    RenderTemplate,
    SplitText,
    TemplateRendered,
    TextSplit,
    Turn,
    ValueRead,
)
from app.protocol import Failed
from tests.converter.gguf_files import GgufFile, string_key, text, u32, u64

Answer = TypeVar("Answer")
TURNS = (Turn("system", "Be brief."), Turn("user", "Hello <|im_end|> you"), Turn("assistant", "Hi!"), Turn("user", "x"))
TEXTS = ("Hello world", " ", "", "Grüße, 你好 🎉\n\n\ttabs", "<|im_start|>user", "a\0b", "ﷺ" * 50, "x" * 3000)


class Asked:
    """Questions to one worker, one after another."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._events = child.events()
        self._numbers = itertools.count(1)

    def ask(self, kind: Callable[..., Any], *arguments: Any) -> Any:
        number = next(self._numbers)
        self.child.send(kind(number, *arguments))
        answer: Any = next(self._events)
        assert answer.request == number
        return answer


@pytest.fixture(scope="module")
def worker(shared_home: Path) -> Iterator[Asked]:
    """One for all: that it goes on after whatever it is asked is part of every test."""
    with Child("inspect") as child:
        yield Asked(child)


# ---- tokens ----


def test_tokens_are_those_of_the_tokenizers_library(
    worker: Asked, pocket: Path, pocket_gguf: Callable[[str], Path]
) -> None:
    """The engine's split of the file, ours of the folder, and the library itself on tokenizer.json."""
    library = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    for sample in TEXTS:
        expected = library.encode(sample, add_special_tokens=False)
        for path in (pocket, pocket_gguf("Q8_0")):
            answer = worker.ask(SplitText, str(path), sample, True, False)
            assert isinstance(answer, TextSplit)
            assert [piece.id for piece in answer.tokens] == expected.ids, (path, sample)
            assert b"".join(piece.data for piece in answer.tokens).decode() == sample
            assert [piece.spelling for piece in answer.tokens] == expected.tokens
            assert answer.vocabulary == library.get_vocab_size()


def test_special_tokens_can_be_plain_text(worker: Asked, pocket: Path, pocket_gguf: Callable[[str], Path]) -> None:
    for path in (pocket, pocket_gguf("Q8_0")):
        special = worker.ask(SplitText, str(path), "<|im_start|>", True, False)
        plain = worker.ask(SplitText, str(path), "<|im_start|>", False, False)
        assert [piece.special for piece in special.tokens] == [True]
        assert len(plain.tokens) > 1 and not any(piece.special for piece in plain.tokens)


def test_a_long_text_is_cut_at_the_limit(worker: Asked, pocket_gguf: Callable[[str], Path]) -> None:
    answer = worker.ask(SplitText, str(pocket_gguf("Q8_0")), "ab " * TEXT_LIMIT, True, False)
    assert sum(len(piece.data) for piece in answer.tokens) == TEXT_LIMIT


def test_files_without_a_vocabulary_fail_alone(
    worker: Asked, pocket: Path, pocket_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "none.gguf").write_bytes(GgufFile().build())
    (tmp_path / "cut.gguf").write_bytes(pocket_gguf("Q8_0").read_bytes()[:5000])
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(pocket / "config.json", bare)
    broken = tmp_path / "broken"
    shutil.copytree(pocket, broken)
    (broken / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}')
    for bad in (tmp_path / "none.gguf", tmp_path / "cut.gguf", bare, broken, tmp_path / "gone.gguf"):
        answer = worker.ask(SplitText, str(bad), "Hello")
        assert isinstance(answer, Failed), bad
        assert answer.title and "Traceback" not in answer.detail
    assert isinstance(worker.ask(SplitText, str(pocket_gguf("Q8_0")), "Hello"), TextSplit)


# ---- chat template ----


def template_of(path: Path) -> str:
    return str(gguf.GGUFReader(path).fields["tokenizer.chat_template"].contents())


def test_a_prompt_shows_its_special_tokens(worker: Asked, pocket: Path, pocket_gguf: Callable[[str], Path]) -> None:
    source = template_of(pocket_gguf("Q8_0"))
    answers = [worker.ask(RenderTemplate, str(path), source, TURNS, True) for path in (pocket, pocket_gguf("Q8_0"))]
    assert all(isinstance(answer, TemplateRendered) for answer in answers)
    file = answers[1]
    prompt = "".join(part.text for part in file.parts)
    assert len(prompt) == file.characters
    library = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    assert file.tokens == len(library.encode(prompt, add_special_tokens=False).ids)
    special = [part.text for part in file.parts if part.special]
    assert special.count("<|im_start|>") == 5
    assert special.count("<|im_end|>") == 5  # four turns, and the one that a person wrote
    assert answers[0].parts == file.parts
    without = worker.ask(RenderTemplate, str(pocket), source, TURNS, False)
    assert without.characters < file.characters


HOSTILE = {
    "endless": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "template_limit"),
    "doubling": (
        "{% set ns = namespace(x='a') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "template_limit",
    ),
    "large": ("{{ 'x' * 99999999999 }}", "template_limit"),
    "syntax": ("{% for %}", "bad_template"),
    "escape": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "bad_template"),
    "refusing": ("{{ raise_exception('No system turn.') }}", "template_refused"),
    "missing": ("{{ messages[99].content.nothing }}", "bad_template"),
    "huge": ("{#" + "x" * (1 << 20) + "#}", "bad_template"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_template_is_an_error_and_the_worker_goes_on(worker: Asked, pocket: Path, name: str) -> None:
    source, code = HOSTILE[name]
    answer = worker.ask(RenderTemplate, str(pocket), source, TURNS)
    assert isinstance(answer, Failed) and answer.code == code
    assert isinstance(worker.ask(RenderTemplate, str(pocket), "{{ messages[0].content }}", TURNS), TemplateRendered)


def test_a_long_prompt_is_cut_and_says_its_length(worker: Asked, pocket: Path) -> None:
    answer = worker.ask(RenderTemplate, str(pocket), "{{ 'word ' * 200000 }}", TURNS)
    assert (answer.characters, answer.tokens) == (1_000_000, -1)
    assert sum(len(part.text) for part in answer.parts) == PROMPT_LIMIT
    assert answer.note


def test_a_template_is_rendered_where_there_is_no_vocabulary(worker: Asked, tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(GgufFile().build())
    answer = worker.ask(RenderTemplate, str(tmp_path / "none.gguf"), "<|a|>{{ messages[0].content }}</s>", TURNS)
    assert [(part.text, part.special) for part in answer.parts] == [
        ("<|a|>", True), ("Be brief.", False), ("</s>", True),
    ]  # fmt: skip
    assert answer.tokens == -1 and "Tokens are not counted" in answer.note


# ---- long values ----


def test_pages_of_a_list_are_its_items(worker: Asked, pocket_gguf: Callable[[str], Path]) -> None:
    path = pocket_gguf("Q8_0")
    whole = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    got: list[str] = []
    while True:
        answer = worker.ask(ReadValue, str(path), "tokenizer.ggml.tokens", len(got))
        assert isinstance(answer, ValueRead)
        assert (answer.type, answer.total, answer.start) == ("ARRAY STRING", len(whole), len(got))
        assert len(answer.items) <= PAGE
        if not answer.items:
            break
        got += answer.items
    assert got == whole
    kinds = gguf.GGUFReader(path).fields["tokenizer.ggml.token_type"].contents()
    answer = worker.ask(ReadValue, str(path), "tokenizer.ggml.token_type", 2000)
    assert list(answer.items) == [str(kind) for kind in kinds[2000:]]


def test_hostile_values_stay_bounded(worker: Asked, tmp_path: Path) -> None:
    long = "ä" * 300_000
    items = [b"\xff\xfe", b"x" * 100_000, b""]
    key = text("list") + u32(9) + u32(8) + u64(len(items)) + b"".join(text(item) for item in items)
    path = tmp_path / "odd.gguf"
    path.write_bytes(
        GgufFile(keys=[string_key("general.architecture", "llama"), string_key("long", long), key]).build()
    )
    page = worker.ask(ReadValue, str(path), "long", 250_000)
    assert (page.total, page.items) == (300_000, ("ä" * 50_000,))
    answer = worker.ask(ReadValue, str(path), "list", 0)
    assert answer.items[0] == "\ufffd\ufffd" and len(answer.items[1]) < 1000 and answer.items[2] == ""
    assert worker.ask(ReadValue, str(path), "list", 10**18).items == ()
    assert isinstance(worker.ask(ReadValue, str(path), "no", 0), Failed)
    assert isinstance(worker.ask(ReadValue, str(tmp_path / "gone"), "no", 0), Failed)
    assert json.dumps(answer.items)
