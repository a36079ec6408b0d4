"""The scout worker through its line: headers, plans, scans, bad questions, and one that kills it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.child import Child
from app.local.places import Place
from app.protocol import Cancelled, Event, Failed, Found, Inspect, Inspected, MakePlan, PlanMade, Scan, ScanDone
from converter.spec import ConversionSpec


@pytest.fixture
def scout() -> Iterator[Child]:
    with Child("scout") as child:
        yield child


def ask(scout: Child, *commands: object, answers: int | None = None) -> list[Event]:
    """Send commands and wait for as many answers (``Found`` counts for nothing)."""
    for command in commands:
        scout.send(command)
    got: list[Event] = []
    wanted = answers or len(commands)
    for event in scout.events():
        got.append(event)
        if sum(not isinstance(answer, Found) for answer in got) == wanted:
            break
    return got


def test_a_header_comes_whole(scout: Child, pocket: Path) -> None:
    (answer,) = ask(scout, Inspect(3, str(pocket)))
    assert isinstance(answer, Inspected)
    assert answer.request == 3
    assert answer.info.kind == "hf"
    assert len(answer.info.tensors) == 56
    assert sum(tensor.bytes for tensor in answer.info.tensors) == 2 * 5_246_208
    assert answer.info.chat_template


def test_a_plan_says_the_size_that_the_conversion_has(scout: Child, pocket: Path, tmp_path: Path) -> None:
    import converter

    spec = ConversionSpec(source=str(pocket), output=str(tmp_path / "p.gguf"), types=("Q4_K_M",))
    (answer,) = ask(scout, MakePlan(1, spec))
    assert isinstance(answer, PlanMade)
    assert list(tmp_path.iterdir()) == []
    converter.convert(spec, lambda event: None, lambda: False)
    assert (tmp_path / "p.gguf").stat().st_size == answer.plan.outputs[0].bytes


def test_bad_questions_fail_alone(scout: Child, pocket: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 20)
    (tmp_path / "empty").mkdir()
    spec = ConversionSpec(source=str(tmp_path / "empty"), output=str(tmp_path / "o.gguf"), types=("Q8_0",))
    answers = ask(
        scout,
        Inspect(1, str(tmp_path / "bad.gguf")),
        Inspect(2, str(tmp_path / "gone")),
        Inspect(3, str(tmp_path / "empty")),
        MakePlan(4, spec),
        Inspect(5, str(pocket)),
    )
    for number, answer in enumerate(answers[:4], 1):
        assert isinstance(answer, Failed)
        assert answer.request == number
        assert answer.code
        assert answer.title
        assert answer.hint
    assert isinstance(answers[4], Inspected)


def test_a_scan_finds_good_and_broken_ones(
    scout: Child, pocket: Path, pocket_gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    file = tmp_path / "deep" / "er" / "good one.gguf"
    file.symlink_to(pocket_gguf("Q8_0"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    where = (str(tmp_path), str(pocket), str(tmp_path / "missing"))
    answers = ask(scout, Scan(9, tuple(Place("folder", root) for root in where)))
    assert answers[-1] == ScanDone(9, 3)
    found = {each.path: each.info for answer in answers if isinstance(answer, Found) for each in answer.models}
    assert set(found) == {str(file), str(broken), str(pocket)}
    assert found[str(file)].problems == ()
    assert found[str(file)].tensors == ()
    assert found[str(broken)].problems


def test_it_leaves_when_it_is_left(pocket: Path) -> None:
    with Child("scout") as scout:
        ask(scout, Inspect(1, str(pocket)))
        scout.cancel()
        assert list(scout.events()) == [Cancelled()]
        end = scout.wait(120)
    assert end.error is None
    assert end.cancelled


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_killing_it_is_an_engine_that_died(scout: Child, pocket: Path) -> None:
    ask(scout, Inspect(1, str(pocket)))
    os.kill(scout.pid, signal.SIGKILL)
    end = scout.wait(120)
    assert end.error is not None
    assert end.error.code == "engine_died"
