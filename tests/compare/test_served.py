"""A served model's divergence on an answer: a real worker and a real HTTP server, with odds that the test makes up."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from app.compare import scoring
from app.protocol import Failed, Score, Scored, Stop
from app.quality.probe import PROBE
from tests.fakeserver import FakeServer
from tests.fakeserver.server import OPENING, rendered
from tests.remote.talking import BEAR, Talk

VOCABULARY = 600
ANSWER = "Bears like lamps, and honey too."
Logs = npt.NDArray[np.float64]


def split(text: str) -> list[int]:
    """A tokenizer of this test: three characters a token."""
    return [2 + zlib.crc32(text[at : at + 3].encode()) % (VOCABULARY - 2) for at in range(0, len(text), 3)]


def odds(seed: int, prompt: list[int]) -> list[float]:
    """Log-probabilities of a model of that number after ``prompt``; two of them are near one another."""
    shared = np.random.default_rng(len(prompt) * 7919 + prompt[-1]).standard_normal(VOCABULARY)
    own = np.random.default_rng([seed, len(prompt)]).standard_normal(VOCABULARY)
    logits = 4.0 * shared + 0.5 * own
    return [float(each) for each in logits - math.log(np.exp(logits).sum())]


PROMPT = [OPENING, *split(rendered([{"role": each.role, "content": each.content} for each in BEAR]))]
TOKENS = split(ANSWER)


def rows(seed: int, prompt: list[int] = PROMPT) -> Logs:
    """What that model finds of every token of the answer."""
    return np.array([odds(seed, [*prompt, *TOKENS[:at]]) for at in range(len(TOKENS))])


def divergences(reference: int, candidate: int, prompt: list[int] = PROMPT) -> Logs:
    p, q = rows(reference, prompt), rows(candidate, prompt)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


def server(seed: int, *, known: bool = True, **options: Any) -> FakeServer:
    """A server with that model; ``known``: it says how large the vocabulary is."""
    meta = {"n_vocab": VOCABULARY} if known else {}
    owner = {"vllm": "vllm", "echo": "somebody"}.get(options.get("form", ""), "llamacpp")
    models = {"data": [{"id": "pocket", "owned_by": owner, "meta": meta}]}
    usual = {"split": split, "most": 20 if owner == "vllm" else VOCABULARY}
    return FakeServer(scores=lambda prompt: odds(seed, prompt), models=models, **{**usual, **options})


def local(path: Path, prompt: list[int] = PROMPT) -> str:
    """The file of a reference of this machine: model 0."""
    blocks = iter([(0, rows(0, prompt).astype(np.float32))])
    scoring.write_reference(
        str(path), TOKENS, blocks, VOCABULARY, lambda token: f"<{token}>", prompt=prompt, probe=split(PROBE)
    )
    return str(path)


@pytest.fixture(scope="module")
def talk() -> Iterator[Talk]:
    made = Talk()
    with made.process:
        yield made


def ask(talk: Talk, fake: FakeServer, **files: str | None) -> Any:
    """Scored or Failed, of a worker that is connected to ``fake``."""
    talk.connect(fake.url)
    talk.send(Score(7, files.pop("messages", BEAR), ANSWER, **files))  # type: ignore[arg-type]
    return talk.until(Scored, Failed)


def test_a_served_model_that_tells_all_odds_has_the_divergence_of_the_definition(talk: Talk, tmp_path: Path) -> None:
    with server(1) as fake:
        found = ask(talk, fake, against=local(tmp_path / "r"))
    expected = divergences(0, 1)
    assert [token.kld for token in found.tokens] == pytest.approx(expected, abs=2e-6)
    assert found.mean_kld == pytest.approx(expected.mean(), abs=2e-6) and not found.bounds
    firsts = rows(0).argmax(axis=1), rows(1).argmax(axis=1)
    assert [token.agree for token in found.tokens] == (firsts[0] == firsts[1]).tolist()
    assert found.top1 == (firsts[0] == firsts[1]).mean() < 1
    assert found.first_divergence == np.flatnonzero(firsts[0] != firsts[1])[0]
    for token, mine, theirs, right, row in zip(found.tokens, firsts[1], firsts[0], TOKENS, rows(1), strict=True):
        assert (token.top[0].text, token.reference_top[0].text) == (f"<{mine}>", f"<{theirs}>")
        assert token.text == f"<{right}>" and token.probability == pytest.approx(math.exp(row[right]))
    asked = [body["prompt"] for body in fake.bodies() if "n_probs" in body][1:]  # the first is a trial
    assert asked == [[*PROMPT, *TOKENS[:at]] for at in range(len(TOKENS))]


@pytest.mark.parametrize(("form", "known"), [("llama", True), ("vllm", True), ("vllm", False)])
def test_a_reference_on_a_server_serves_files_and_servers(
    talk: Talk, tmp_path: Path, form: str, *, known: bool
) -> None:
    """It says itself how it cuts the conversation. vLLM tells twenty tokens of a position: a lower bound."""
    path = str(tmp_path / "r")
    with server(0, form=form, known=known) as fake:
        own = ask(talk, fake, write=path)
    assert own.mean_kld == 0 and own.first_divergence == -1
    assert [token.text for token in own.tokens] == [f"<{token}>" for token in TOKENS]
    blocks = iter([(0, rows(1).astype(np.float32))])
    expected, firsts = divergences(0, 1), rows(0).argmax(axis=1)
    here, bounds = scoring.compare(path, TOKENS, blocks, VOCABULARY, lambda token: f"<{token}>")
    with server(1, form=form, known=known) as fake:
        there = ask(talk, fake, against=path)
    assert bounds == there.bounds == (form == "vllm")
    for tokens in (here, there.tokens):
        if not bounds:
            assert [token.kld for token in tokens] == pytest.approx(expected, abs=2e-6)
        assert all(0 <= token.kld <= kld + 1e-6 for token, kld in zip(tokens, expected, strict=True))
        assert sum(token.kld for token in tokens) > 0.4 * expected.sum()
        assert [token.reference_top[0].text for token in tokens] == [f"<{first}>" for first in firsts]
        assert [token.agree for token in tokens] == (firsts == rows(1).argmax(axis=1)).tolist()


def test_a_text_of_ones_own_stands_by_itself(talk: Talk, tmp_path: Path) -> None:
    with server(1) as fake:
        found = ask(talk, fake, against=local(tmp_path / "r", [OPENING]), messages=())
    assert [token.kld for token in found.tokens] == pytest.approx(divergences(0, 1, [OPENING]), abs=2e-6)
    with server(0) as fake:
        own = ask(talk, fake, messages=())
    right = [row[token] for row, token in zip(rows(0, [OPENING]), TOKENS, strict=True)]
    assert [math.log(token.probability) for token in own.tokens] == pytest.approx(right)
    # A vocabulary without a token that begins texts: the one that ends them.
    with server(0, ends="end") as fake:
        own = ask(talk, fake, messages=())
    right = [row[token] for row, token in zip(rows(0, split("end")), TOKENS, strict=True)]
    assert [math.log(token.probability) for token in own.tokens] == pytest.approx(right)
    with server(0, ends="") as fake:
        assert ask(talk, fake, messages=()).code == "empty_prompt"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"split": lambda text: [each + 1 for each in split(text)]}, "different_tokens", "other tokens"),
        ({"split": None}, "no_probabilities", "cuts text"),
        ({"form": "echo", "known": False}, "no_probabilities", "each word alone"),
        ({"models": {"data": [{"id": "p", "meta": {"n_vocab": 9}}]}}, "different_tokens", "9 tokens"),
        ({"honest": 3, "lie": "positive"}, "bad_probabilities", ""),
        ({"honest": 3, "lie": "twice"}, "bad_probabilities", "more than once"),
        ({"honest": 3, "lie": "dead"}, "server_unreachable|connection_lost", ""),
    ],
    ids=["tokens", "silent", "echo", "size", "positive", "twice", "dead"],
)
def test_what_cannot_be_scored_is_said_in_words(
    talk: Talk, tmp_path: Path, options: dict[str, Any], code: str, words: str
) -> None:
    models = options.pop("models", None)
    with server(1, **options) as fake:
        fake.models = models or fake.models
        failed = ask(talk, fake, against=local(tmp_path / "r"))
        assert failed.code in code.split("|") and words in failed.detail, failed
        if code == "no_probabilities":
            own = ask(talk, fake, write=str(tmp_path / "own"))
            assert own.code == code and not (tmp_path / "own").exists()
    with server(1) as fake:  # the worker lives on
        assert isinstance(ask(talk, fake, against=local(tmp_path / "r")), Scored)


def test_a_stop_ends_it_and_leaves_no_file(talk: Talk, tmp_path: Path) -> None:
    with server(1, honest=4, lie="stall") as fake:
        talk.connect(fake.url)
        talk.send(Score(8, BEAR, ANSWER, write=str(tmp_path / "own")))
        assert fake.half_way.wait(30)
        talk.send(Stop(8))
        failed = talk.until(Scored, Failed)
        assert (failed.code, failed.request) == ("cancelled", 8)
    assert list(tmp_path.iterdir()) == []
