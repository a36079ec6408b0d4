"""A served model as a candidate: the lab with a server that says just what a test wants, well or badly."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import jobs
from app.engine.model import Model
from app.measure_messages import MeasureQuality, QualityResult, ServedCandidate
from app.protocol import LoadOptions
from app.quality import texts as texts_module
from app.quality.divergence import compare, first_scored, score
from app.quality.figures import told
from app.quality.lab import QualityRun
from converter.spec import Cancelled
from tests.fakeserver import FakeServer

CONTEXT, CHUNKS, VOCABULARY = 32, 2, 2048
Files = Callable[[str], Path]


@pytest.fixture(scope="module")
def engine(pocket_gguf: Files) -> Iterator[Model]:
    """The reference's own engine, for what it makes of the text."""
    with Model.load(str(pocket_gguf("Q8_0")), LoadOptions(context=CONTEXT), outputs=CONTEXT) as model:
        yield model


@pytest.fixture(scope="module")
def split(engine: Model) -> Callable[[str], list[int]]:
    lock = threading.Lock()

    def cut(text: str) -> list[int]:
        with lock:
            return engine.tokenize(text, special=True, add_special=False)

    return cut


def scores(prompt: list[int]) -> list[float]:
    """Odds of a model that has read little: each prompt has its own, far from even."""
    logits = 2.0 * np.random.default_rng(len(prompt) * 7919 + prompt[-1]).standard_normal(VOCABULARY)
    return [float(each) for each in logits - math.log(np.exp(logits).sum())]


def command(
    pocket_gguf: Files, *servers: FakeServer, files: tuple[str, ...] = (), silence: float = 60.0, **options: Any
) -> MeasureQuality:
    places = tuple(
        ServedCandidate(f"server:{number}/pocket", server.url, "pocket", silence=silence)
        for number, server in enumerate(servers)
    )
    settings: dict[str, Any] = {"texts": ("prose",), "context": CONTEXT, "chunks": CHUNKS}
    return MeasureQuality(
        reference=str(pocket_gguf("Q8_0")),
        candidates=(*files, *(place.path for place in places)),
        served=places,
        **{**settings, **options},
    )


def run(wanted: MeasureQuality) -> QualityResult:
    return QualityRun(wanted, lambda event: None, lambda: False).run()


@pytest.fixture(scope="module")
def expected(engine: Model) -> dict[str, float]:
    """Mean divergence and perplexity of ``scores`` on the same windows, by the engine and the kernels."""
    windows = texts_module.windows(texts_module.load(("prose",))[0], engine, CONTEXT, CHUNKS)
    values = []
    for window in windows:
        first = first_scored(CONTEXT)
        rows = score(engine.window_logits(window.tokens, first)[:-1], window.tokens[first + 1 :])
        logits = np.asarray([scores(list(window.tokens[: at + 1])) for at in range(first, CONTEXT - 1)], np.float32)
        values.append(compare(rows, logits))
    kld, nll = (np.concatenate([getattr(each, name) for each in values]) for name in ("kld", "nll"))
    return {"kld": float(kld.mean()), "perplexity": math.exp(float(nll.mean()))}


def test_a_server_that_tells_all_is_as_good_as_a_file(
    pocket_gguf: Files, split: Callable[[str], list[int]], expected: dict[str, float]
) -> None:
    with FakeServer(scores=scores, split=split) as server:
        result = run(command(pocket_gguf, server, files=(str(pocket_gguf("Q4_K_M")),)))
        file, served = result.candidates
        assert file.told is None and served.told is not None and served.told.whole
        assert served.kld.mean.value == pytest.approx(expected["kld"], rel=1e-5)
        assert served.perplexity.value == pytest.approx(expected["perplexity"], rel=1e-5)
        assert served.top5 is not None and served.reverse_kld is not None and served.passages
        assert (served.told.software, served.told.asked, served.told.missing) == ("llama.cpp", VOCABULARY, 0.0)
        assert served.told.requests == CHUNKS * (CONTEXT - 1 - first_scored(CONTEXT))
        asked = [body for body in server.bodies() if "n_probs" in body and len(body["prompt"]) > 3]
        assert all(body["cache_prompt"] and body["n_predict"] == 1 for body in asked)
        grown = [len(body["prompt"]) for body in asked]
        assert grown[:3] == [17, 18, 19], "each asks for one token more than the one before"


def test_part_of_the_odds_gives_a_lower_bound(
    pocket_gguf: Files, split: Callable[[str], list[int]], expected: dict[str, float]
) -> None:
    with (
        FakeServer(scores=scores, split=split) as llama,
        FakeServer(scores=scores, split=split, form="vllm", owner="vllm") as vllm,
        FakeServer(scores=scores, split=split, form="echo", owner="somebody") as echo,
    ):
        found = run(command(pocket_gguf, llama, vllm, echo, served_top=20)).candidates
    for form, each in zip(("llama", "vllm", "echo"), found, strict=True):
        assert each.told is not None and each.at_least and each.verdict != "pass"
        assert 0 < each.kld.mean.value < expected["kld"]
        assert 0.1 < each.told.missing < 1
        assert (each.top5, each.reverse_kld) == (None, None)
        assert each.told.asked == (0 if form == "echo" else 20)
        assert (each.top1 is None) == (form == "echo")
        if form == "llama":
            assert each.told.hidden > 0 and each.rms_dp is None
            assert each.perplexity.value < expected["perplexity"]
        else:
            assert each.told.hidden == 0 and each.rms_dp is not None
            assert each.perplexity.value == pytest.approx(expected["perplexity"], rel=1e-5)
        assert "lower bound" in told(each)


LIES = (
    ("llama", "few", "bad_probabilities"),
    ("llama", "other", "bad_probabilities"),
    ("llama", "twice", "bad_probabilities"),
    ("llama", "much", "bad_probabilities"),
    ("llama", "null", "bad_probabilities"),
    ("llama", "positive", "bad_probabilities"),
    ("llama", "shifted", "bad_probabilities"),
    ("llama", "cut", "connection_lost"),
    ("llama", "dead", ""),
    ("llama", "stall", "timeout"),
    ("vllm", "other", "bad_probabilities"),
    ("vllm", "shifted", "bad_probabilities"),
    ("echo", "null", "bad_probabilities"),
    ("echo", "other", "bad_probabilities"),
)


def test_one_that_dies_hangs_or_lies_in_the_middle_costs_its_row_alone(
    pocket_gguf: Files, split: Callable[[str], list[int]]
) -> None:
    """All of them beside one that is well, whose window goes on."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeServer(scores=scores, split=split))]
        for form, lie, _ in LIES:
            owner = {"llama": "llamacpp", "vllm": "vllm"}.get(form, "somebody")
            honest = {"llama": 5, "vllm": 2, "echo": 2}[form]
            bad = FakeServer(scores=scores, split=split, form=form, owner=owner, honest=honest, lie=lie)
            servers.append(stack.enter_context(bad))
        result = run(command(pocket_gguf, *servers, served_top=8, silence=3.0))
        assert [each.path for each in result.candidates] == ["server:0/pocket"]
        assert result.tokens == CHUNKS * 15
        found = {failure.index - 1: failure for failure in result.failures}
        told_codes = {(form, lie): found[number].code for number, (form, lie, _) in enumerate(LIES)}
        # Whether a server goes while a question is on its way to it, or before, is chance; it is gone either way.
        assert told_codes.pop(("llama", "dead")) in {"server_unreachable", "connection_lost"}, found
        assert told_codes == {(form, lie): code for form, lie, code in LIES if code}, found


def test_a_stop_does_not_wait_for_a_server_that_says_nothing(
    pocket_gguf: Files, split: Callable[[str], list[int]]
) -> None:
    with FakeServer(scores=scores, split=split, honest=4, lie="stall") as server:
        wanted = command(pocket_gguf, server, silence=3000.0)
        with pytest.raises(Cancelled):
            QualityRun(wanted, lambda event: None, server.half_way.is_set).run()


def test_what_cannot_stand_in_is_refused_in_words(pocket_gguf: Files, split: Callable[[str], list[int]]) -> None:
    sized = {"object": "list", "data": [{"id": "pocket", "owned_by": "llamacpp", "meta": {"n_vocab": 32000}}]}

    def near(text: str) -> list[int]:
        found = split(text)
        return found if len(text) < 200 else [*found[:9], *found[8:]]

    refused: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
        ({"owner": "library"}, "no_probabilities", ("n_probs", "prompt_logprobs", "echo", "404")),
        ({"scores": scores, "split": lambda text: [1, 2, 3]}, "other_vocabulary", ("other tokens",)),
        ({"scores": scores, "split": near}, "other_vocabulary", ("prose",)),
        ({"scores": scores}, "other_vocabulary", ("does not say how it cuts",)),
        ({"scores": scores, "split": split, "models": sized}, "other_vocabulary", ("32000",)),
        ({"names": ("second",)}, "model_not_served", ("second",)),
        ({"key": "sk-Geheim-0123456789"}, "key_needed", ("401",)),
        ({"scores": scores, "split": split, "form": "vllm", "owner": "vllm", "lie": "few", "honest": 0},
         "no_probabilities", ("prompt_logprobs",)),
    ]  # fmt: skip
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeServer(scores=scores, split=split))]
        servers += [stack.enter_context(FakeServer(**options)) for options, _, _ in refused]
        result = run(command(pocket_gguf, *servers, chunks=1))
    assert len(result.candidates) == 1
    failures = sorted(result.failures, key=lambda failure: failure.index)
    for failure, (_, code, words) in zip(failures, refused, strict=True):
        assert failure.code == code, failure
        assert all(word in failure.detail for word in words), failure


def test_answers_that_were_saved_are_enough_of_a_reference(
    pocket_gguf: Files, split: Callable[[str], list[int]], expected: dict[str, float], tmp_path: Path
) -> None:
    saved = tmp_path / "pocket.qref"
    with FakeServer(scores=scores, split=split) as server:
        wanted = command(pocket_gguf, server, served_top=64)
        made = run(
            MeasureQuality(
                reference=wanted.reference, candidates=(), texts=("prose",), context=CONTEXT, chunks=CHUNKS,
                fingerprint=str(saved),
            )
        )  # fmt: skip
        assert made.fingerprint is not None
        (found,) = run(
            MeasureQuality(
                reference=str(saved), candidates=wanted.candidates, served=wanted.served, served_top=64, texts=(),
                context=0,
            )
        ).candidates  # fmt: skip
        assert 0 < found.kld.mean.value < expected["kld"]
        assert found.perplexity.value <= expected["perplexity"] * 1.001


def test_no_key_is_written_down() -> None:
    place = ServedCandidate("server:x/y", "http://127.0.0.1:9/v1", "y", "sk-Geheim-0123456789")
    wanted = MeasureQuality("r.gguf", ("server:x/y",), ("prose",), served=(place,))
    assert "Geheim" not in repr(wanted)
    record = jobs.Record("0123456789ab", "measure", "Quality", wanted)
    jobs.remember(record)
    written = next(jobs.paths.jobs().glob("*/*.json")).read_text("utf-8")
    assert "127.0.0.1" in written and "Geheim" not in written
    jobs.forget(record.id)
