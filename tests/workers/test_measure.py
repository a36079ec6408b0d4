"""The measuring worker as its parent sees it: a real process, real files of Pocket."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from app.child import Child, Verdict, run_job
from app.measure_messages import BenchResult, BenchUpdate, MeasureBench, MeasureQuality, QualityResult, QualityUpdate
from app.protocol import Cancelled, Event, Failed, Status
from converter.spec import QuenchError
from resources import path as resource

Files = Callable[[str], Path]


@pytest.fixture(scope="module")
def files(pocket_gguf: Files) -> dict[str, str]:
    return {kind: str(pocket_gguf(kind)) for kind in ("BF16", "Q8_0", "Q4_K_M", "Q2_K")}


def measure(command: MeasureQuality | MeasureBench) -> tuple[list[Event], Event]:
    events: list[Event] = []
    return events, run_job("measure", command, events.append)


def quality(files: dict[str, str], *kinds: str, **options: object) -> MeasureQuality:
    settings: dict[str, object] = {"texts": ("prose", "dialogue"), "chunks": 2}
    return MeasureQuality(
        reference=files["BF16"],
        candidates=tuple(files.get(kind, kind) for kind in kinds),
        **{**settings, **options},  # type: ignore[arg-type]
    )


def test_updates_arrive_and_the_last_is_the_result(files: dict[str, str], tmp_path: Path) -> None:
    some_tasks = tmp_path / "tasks.jsonl"
    lines = resource("pocket-tasks.jsonl").read_text("utf-8").splitlines()
    some_tasks.write_text("\n".join(lines[:8] + lines[-12:]), "utf-8")
    command = quality(files, "Q8_0", "Q4_K_M", "Q2_K", tasks=str(some_tasks))
    events, result = measure(command)
    assert isinstance(result, QualityResult)
    assert result.tokens == 4 * 255
    assert result.texts == ("prose", "dialogue")
    assert result.failures == ()
    updates = [event for event in events if isinstance(event, QualityUpdate)]
    for index, candidate in enumerate(result.candidates):
        mine = [update for update in updates if update.index == index]
        assert mine[-1].result == candidate
        assert mine[-1].windows == mine[-1].windows_total == 4
        assert mine[0].windows < 4, "the first figures come before all windows are scored"
    states = [event for event in events if isinstance(event, Status)]
    assert states
    assert all(0 <= state.done <= state.total and state.label for state in states)
    assert [state.done for state in states] == sorted(state.done for state in states)
    assert any(state.seconds_left is not None for state in states)

    reference, (q8, q4, q2) = result.reference, result.candidates
    assert [each.type for each in (reference, q8, q4, q2)] == ["BF16", "Q8_0", "Q4_K_M", "Q2_K"]
    assert reference.kld.max.value == 0.0
    assert 0 < q8.kld.mean.value < 0.003 < q4.kld.mean.value < 0.05 < q2.kld.mean.value < 0.5
    for layer in range(6):
        assert 0 < q8.drift[layer] < q4.drift[layer] < q2.drift[layer] < 1
    assert reference.drift == ()
    assert q8.top1.value > q4.top1.value > q2.top1.value > 0.5
    assert set(q4.slices) == {"prose", "dialogue"}
    assert q4.slices["prose"].tokens == 510
    assert q4.verdict in {"pass", "review"}
    assert reference.tasks["arithmetic"].n == 8
    assert reference.tasks["knowledge"].n == 12
    assert reference.tasks["knowledge"].correct >= 11
    assert set(q2.tasks) == set(reference.tasks)
    shift = q2.task_shift
    assert shift is not None and shift.n == 20 and len(q2.flips) == shift.lost + shift.gained
    solved = [sum(score.correct for score in each.tasks.values()) for each in (reference, q2)]
    assert solved[0] - shift.lost + shift.gained == solved[1]
    assert all(flip.reference != flip.candidate and flip.expected for flip in q2.flips)
    assert reference.tasks_asked == "chat" and reference.task_shift is None
    for each in (reference, q8, q4, q2):
        assert each.bytes == Path(each.path).stat().st_size
        assert each.tokens_per_second > 20
        assert each.memory.weights > 0.8 * each.bytes - 200_000
        assert each.memory.share >= each.memory.anonymous > 0
        assert each.ln_ratio.value == pytest.approx(
            math.log(each.perplexity.value / reference.perplexity.value), abs=1e-6
        )


@pytest.mark.slow
def test_loaded_in_turn_gives_the_same_figures(files: dict[str, str]) -> None:
    """With one MiB for all models they are loaded one after another; nothing but speed and memory may differ.

    The reference's logits come again from its states, by another order of sums: their last bits may differ.
    """
    together = measure(quality(files, "Q8_0", "Q2_K"))[1]
    events, in_turn = measure(quality(files, "Q8_0", "Q2_K", memory_mib=1))
    assert isinstance(together, QualityResult)
    assert isinstance(in_turn, QualityResult)
    for one, two in zip(together.candidates, in_turn.candidates, strict=True):
        for name in ("mean", "p95", "p99"):
            assert getattr(one.kld, name).value == pytest.approx(getattr(two.kld, name).value, rel=1e-4)
        assert one.perplexity.value == pytest.approx(two.perplexity.value, rel=1e-6)
        assert one.top1.value == pytest.approx(two.top1.value, abs=0.002)
        assert one.slices.keys() == two.slices.keys()
        for text, part in one.slices.items():
            assert part.kld.value == pytest.approx(two.slices[text].kld.value, rel=1e-4)
        places = [
            [(passage.text, passage.window, passage.position) for passage in each.passages] for each in (one, two)
        ]
        assert places[0] == places[1] != []
        assert one.drift == two.drift and len(one.drift) == 6
        assert two.memory.anonymous > 1 << 20, "an earlier model's memory must not hide this one's"
    order = [event.index for event in events if isinstance(event, QualityUpdate)][:-2]
    assert order == sorted(order)


@pytest.mark.slow
def test_a_smaller_cache_costs_quality_too(files: dict[str, str]) -> None:
    """One file with three caches: each cell in four bits costs more than in eight, and is measured apart."""
    command = quality(files, "BF16", "BF16", "BF16", kv=("", "q8_0", "q4_0"), texts=("prose",))
    result = measure(command)[1]
    assert isinstance(result, QualityResult)
    same, eight, four = result.candidates
    assert [each.label for each in result.candidates] == ["BF16", "BF16 · KV q8_0", "BF16 · KV q4_0"]
    assert same.kld.max.value == 0.0
    assert 0 < 10 * eight.kld.mean.value < four.kld.mean.value
    assert four.memory.kv < eight.memory.kv < same.memory.kv
    with pytest.raises(QuenchError) as caught:
        measure(quality(files, "Q8_0", kv=("q9_9",)))
    assert caught.value.code == "bad_options" and "q9_9" in caught.value.detail


@pytest.mark.parametrize("memory", [0, 1], ids=["together", "in turn"])
def test_a_run_ends_when_it_is_as_precise_as_was_asked(files: dict[str, str], memory: int) -> None:
    command = quality(files, "Q2_K", chunks=0, context=64, texts=("prose",), precision=0.5, memory_mib=memory)
    result = measure(command)[1]
    assert isinstance(result, QualityResult)
    kld = result.candidates[0].kld.mean
    assert 1.96 * kld.error <= 0.5 * kld.value
    assert result.tokens == 16 * 31, "the least number of windows is enough for so little"


def test_a_bad_candidate_does_not_lose_the_others(files: dict[str, str], tmp_path: Path) -> None:
    cut = tmp_path / "cut file é.gguf"
    cut.write_bytes(Path(files["Q8_0"]).read_bytes()[:1_000_000])
    events, result = measure(quality(files, str(cut), "Q4_K_M", str(tmp_path / "none.gguf")))
    assert isinstance(result, QualityResult)
    assert [each.path for each in result.candidates] == [files["Q4_K_M"]]
    assert [failure.index for failure in result.failures] == [0, 2]
    assert all(failure.code and failure.title for failure in result.failures)
    told = [event for event in events if isinstance(event, Failed)]
    assert [event.request for event in told] == [1, 3]
    assert {event.index for event in events if isinstance(event, QualityUpdate)} == {1}


def test_candidates_that_cannot_be_read_are_refused_before_the_reference_is_measured(
    files: dict[str, str], pocket: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(QuenchError) as caught:
        run_job("measure", quality(files, str(tmp_path / "none.gguf"), str(pocket)), events.append)
    assert caught.value.code == "not_found"
    assert [event.request for event in events if isinstance(event, Failed)] == [1, 2]
    assert not [event for event in events if isinstance(event, Status) and "window" in event.label]


def test_another_vocabulary_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    """The same file with two tokens exchanged: as many tokens as the reference has, but not the same ones."""
    data = Path(files["Q8_0"]).read_bytes()
    one, two = (len(word).to_bytes(8, "little") + word for word in ("Ġthe".encode(), "Ġand".encode()))
    assert data.count(one) == data.count(two) == 1
    first, second = sorted((data.index(one), data.index(two)))
    size = len(one)
    exchanged = bytearray(data)
    exchanged[first : first + size], exchanged[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    swapped = tmp_path / "swapped.gguf"
    swapped.write_bytes(exchanged)
    result = measure(quality(files, str(swapped), "Q8_0", chunks=1))[1]
    assert isinstance(result, QualityResult)
    assert [failure.code for failure in result.failures] == ["other_vocabulary"]
    assert "swapped.gguf" in result.failures[0].detail


@pytest.mark.parametrize(
    ("options", "code", "status"),
    [
        ({"texts": ("no such text",)}, "text_unreadable", 3),
        ({"texts": ()}, "no_text", 3),
        ({"context": 8}, "bad_options", 2),
        ({"pass_kld": 0.5}, "bad_options", 2),
        ({"tasks": "none.jsonl"}, "text_unreadable", 3),
        ({"reference": "none.gguf"}, "not_found", 3),
        ({"candidates": ("none.gguf",)}, "not_found", 3),
        ({"context": 4096}, "text_too_short", 3),
    ],
)
def test_bad_input_is_an_error_with_a_reason(
    files: dict[str, str], options: dict[str, object], code: str, status: int
) -> None:
    command = MeasureQuality(**{  # type: ignore[arg-type]
        "reference": files["BF16"], "candidates": (files["Q8_0"],), "texts": ("prose",), **options
    })  # fmt: skip
    with pytest.raises(QuenchError) as caught:
        measure(command)
    assert caught.value.code == code
    assert caught.value.exit_status == status


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 1])
def test_a_budget_is_kept_and_everybody_has_the_same_windows(files: dict[str, str], memory: int) -> None:
    """Loaded together, and in turn."""
    seconds = 4.0
    everything = {"chunks": 0, "texts": ("prose", "technical", "code", "mathematics", "dialogue"), "tasks": "pocket"}
    command = quality(files, *["Q8_0", "Q4_K_M"] * 3, **everything, minutes=seconds / 60, memory_mib=memory)
    events, result = measure(command)
    assert isinstance(result, QualityResult)
    last = {event.index: event.windows for event in events if isinstance(event, QualityUpdate)}
    assert len(set(last.values())) == 1
    assert 0 < last[0] <= 32
    assert result.tokens == last[0] * 255
    for first, second in ((0, 2), (1, 3)):
        assert result.candidates[first].kld == result.candidates[second].kld
    # How much of it is done depends on the machine; on none is it everything.
    assert sum(score.n for score in result.reference.tasks.values()) < 480


def started(files: dict[str, str]) -> tuple[Child, list[Event]]:
    """A worker that has sent its first figures and has much left to do."""
    child = Child("measure")
    child.send(quality(files, "Q8_0", "Q4_K_M", "Q2_K", chunks=0, tasks="pocket"))
    seen: list[Event] = []
    for event in child.events():
        seen.append(event)
        if isinstance(event, QualityUpdate):
            return child, seen
    raise AssertionError(f"it ended first: {seen[-3:]}")


def test_cancel_stops_in_the_middle(files: dict[str, str]) -> None:
    child, _ = started(files)
    with child:
        child.cancel(grace=60)
        *_, last = child.events()
        assert child.wait(120) == Verdict(cancelled=True)
        assert isinstance(last, Cancelled)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_killed_worker_is_one_error(files: dict[str, str]) -> None:
    child, _ = started(files)
    with child:
        os.kill(child.pid, signal.SIGKILL)
        list(child.events())
        end = child.wait(120)
        assert end.error is not None
        assert end.error.code == "engine_died"
        assert end.error.exit_status == 5


def test_bench(files: dict[str, str]) -> None:
    command = MeasureBench(
        (files["Q8_0"], files["Q2_K"]), prompt=64, generate=16, depths=(0, 128), threads=(1, 2), repeat=3
    )
    events, result = measure(command)
    assert isinstance(result, BenchResult)
    assert result.cpu
    points = [event for event in events if isinstance(event, BenchUpdate) and event.point]
    assert len(points) == 2 * 2 * 2 * 2
    for index, model in enumerate(result.models):
        assert [(point.depth, point.threads) for point in model.generate] == [(0, 1), (128, 1), (0, 2), (128, 2)]
        for point in (*model.prompt, *model.generate):
            speed = point.tokens_per_second
            assert 0 < speed.p10 <= speed.median <= speed.p90
        assert model.load_warm > 0
        assert model.first_token > 0
        assert model.load_cold is None or model.load_cold > 0
        assert 0 < model.memory.steady <= model.memory.peak < 1 << 30
        assert model.memory.weights < Path(model.path).stat().st_size
        assert model.roofline.bytes_per_token >= model.memory.weights
        assert model.roofline.fraction > 0
        finished = [e.model for e in events if isinstance(e, BenchUpdate) and e.index == index and e.kind == "model"]
        assert finished == [model]
    assert result.models[0].memory.weights > result.models[1].memory.weights


@pytest.mark.parametrize(
    "command",
    [
        MeasureBench(()),
        MeasureBench(("x",), prompt=0),
        MeasureBench(("x",), depths=(-1,)),
        MeasureBench(("x",), threads=(0,)),
        MeasureBench(("x",), repeat=0),
    ],
)
def test_a_senseless_bench_is_refused(command: MeasureBench) -> None:
    with pytest.raises(QuenchError) as caught:
        measure(command)
    assert caught.value.code == "bad_options"
    assert caught.value.exit_status == 2
