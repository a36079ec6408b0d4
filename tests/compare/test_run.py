"""Comparisons without a window: sets of prompts in any order, models made on the way, servers, texts of one's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app import cli, paths, settings
from app.compare import align, batches, recipes, run
from app.compare.results import Column
from app.remote.address import Server, model_path
from converter.spec import QuenchError
from tests.fakeserver import FakeServer
from tests.fakeserver.server import WORDS

PROMPTS = ["Say hello.", "Tell me a story about a fox.", "What is the capital of France?"]


@pytest.mark.slow
def test_a_set_of_prompts_gives_the_same_in_any_order_and_leaves_nothing(
    pocket: Path, pocket_gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Model by model with one load each, and prompt by prompt; one model made from its folder on the way."""
    models = [str(pocket_gguf("Q8_0")), recipes.with_recipe(str(pocket), "Q2_K")]
    sizes = iter((99, 1))
    monkeypatch.setattr(batches, "batch_size", lambda *given: next(sizes))
    found = [run.compare(models, PROMPTS, max_tokens=24) for _ in range(2)]
    assert Path(run.make(str(pocket), "Q2_K")).read_bytes() == pocket_gguf("Q2_K").read_bytes()
    assert [path.name for path in paths.cache().iterdir() if path.name.startswith("compare-")] == []
    for ours, others in zip(found[0].entries, found[1].entries, strict=True):
        for mine, other in zip(ours.columns, others.columns, strict=True):
            assert isinstance(mine, Column) and isinstance(other, Column)
            assert (mine.text, mine.kld, mine.tokens, mine.own) == (other.text, other.kld, other.tokens, other.own)
            assert "".join(mine.own) == mine.text and mine.bytes > 1 << 20
        reference, small = ours.columns
        assert small.common == align.common_prefix(reference.own, small.own)
        # What the teacher's hand says of greedy answers is what they do by themselves.
        parted = small.text != reference.text
        assert (small.first_divergence == small.common) if parted else small.first_divergence == -1


@pytest.mark.slow
def test_a_server_stands_beside_a_file(
    pocket_gguf: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer() as server:
        own = settings.load()
        settings.save(own.__class__(servers=(Server("Desk", server.url),)))
        served = model_path("Desk", server.names[0])
        out = tmp_path / "out.csv"
        given = ["compare", str(pocket_gguf("Q8_0")), served, "-p", "Hello", "--max-tokens", "8", "--export", str(out)]
        assert cli.main([*given, "--json"]) == 0
        local, remote = json.loads(capsys.readouterr().out)["columns"]
        assert remote["text"] == "".join(WORDS) == "".join(remote["own"]) and not remote["scored"]
        assert remote["unscored"] == "This server does not say how likely a given text is."
        assert local["scored"] and local["tokens"]
        rows = list(csv.DictReader(io.StringIO(out.read_text("utf-8"))))
        assert [row["kld"] for row in rows] == ["", ""] and rows[1]["path"] == served
        assert [row["unscored"] for row in rows] == ["", remote["unscored"]]
        for models in ([str(pocket_gguf("Q8_0")), served], [served, str(pocket_gguf("Q8_0"))]):
            first, second = run.score_text(models, "a text").entries[0].columns
            assert isinstance(first, Column) and isinstance(second, Column)
            assert first.scored == (models[0] != served) and not second.scored
            assert second.unscored == remote["unscored"]
    with pytest.raises(QuenchError, match="not known"):
        run.compare([model_path("Nobody", "m")], ["x"])


@pytest.mark.parametrize(
    "given",
    [[], ["-p", "a", "--prompts", "everyday"], ["-p", "a", "--export", "a.exe"], ["--text", "gone.txt"]],
    ids=["nothing", "two", "form", "gone"],
)
def test_what_is_asked_wrongly_is_told_before_a_model_is_loaded(
    given: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "a.gguf", "b.gguf", *given, "--json"]) == (3 if "gone.txt" in given else 2)
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] in ("usage", "text_unreadable") and list(tmp_path.iterdir()) == []
