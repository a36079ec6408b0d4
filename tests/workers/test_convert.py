"""The convert worker as a process: events, cancel, refusals, and what a kill leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import psutil
import pytest

from app import conversion
from app.child import Child, run_job
from app.protocol import Cancelled, Convert, Failed, Pause, Paused
from converter.spec import ConversionResult, ConversionSpec, Planned, Progress, QuenchError, TensorDone
from tests.workers.small import small_worker

MANY = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16")


def spec(source: Path, out: Path, types: tuple[str, ...] = MANY) -> Convert:
    return Convert(ConversionSpec(str(source), str(out), types, threads=1))


def test_a_conversion_ends_with_its_result(pocket: Path, tmp_path: Path) -> None:
    events = []
    result = run_job("convert", spec(pocket, tmp_path / "out.gguf", ("Q4_K_M",)), events.append)
    assert isinstance(result, ConversionResult)
    assert isinstance(events[0], Planned)
    assert {type(event) for event in events[1:]} == {Progress, TensorDone}
    assert sum(isinstance(event, TensorDone) for event in events) == len(events[0].plan.outputs[0].tensors)
    output = result.outputs[0]
    assert Path(output.path).stat().st_size == output.bytes
    assert 0 < result.peak_rss < 300 << 20


def test_a_cancel_is_answered_and_leaves_nothing(
    long_model: Path, slow_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with Child("convert") as child:
        child.send(spec(long_model, out))
        seen = []
        for event in child.events():
            seen.append(event)
            if [type(event) for event in seen].count(TensorDone) == 1 and isinstance(event, TensorDone):
                child.cancel(grace=60)
        end = child.wait()
    assert isinstance(seen[-1], Cancelled)
    assert end.cancelled
    assert not out.exists()


@pytest.mark.parametrize("how", ["pause", "gone"])
def test_a_pause_and_a_parent_that_goes_keep_what_is_finished(
    long_model: Path, slow_kernels: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Gone: the line to the worker is closed without a word, as when the window is killed."""
    out = tmp_path / "out"
    command = spec(long_model, out, ("Q4_K_M", "Q8_0"))
    with Child("convert") as child:
        child.send(command)
        seen = []
        for event in child.events():
            seen.append(event)
            if sum(isinstance(event, TensorDone) for event in seen) == 9 and isinstance(event, TensorDone):
                child.send(Pause()) if how == "pause" else child.hang_up()
        end = child.wait(120)
    assert isinstance(seen[-1], Paused) and end.paused
    slow_kernels.undo()
    assert sorted(path.suffix for path in out.iterdir()) == [".jrnl", ".part", ".part"]
    events = []
    again = Convert(msgspec.structs.replace(command.spec, resume=True))
    assert isinstance(run_job("convert", again, events.append), ConversionResult)
    assert next(event for event in events if isinstance(event, Planned)).kept > 0
    assert sorted(path.suffix for path in out.iterdir()) == [".gguf", ".gguf"]


def test_a_pause_while_the_engine_tries_the_file_is_one(long_model: Path, tmp_path: Path) -> None:
    command = spec(long_model, tmp_path / "o.gguf", ("Q4_K_M",))
    with Child("convert") as child:
        child.send(command)
        seen = []
        for event in child.events():
            seen.append(event)
            if isinstance(event, Progress) and event.label.startswith("Trying"):
                child.send(Pause())
        end = child.wait(30)
    assert isinstance(seen[-1], Paused) and end.paused
    made = (tmp_path / "o.gguf").read_bytes()
    end = run_job("convert", Convert(msgspec.structs.replace(command.spec, resume=True)), seen.append)
    assert isinstance(end, ConversionResult)
    assert end.outputs[0].checked is not None and end.outputs[0].checked.token is not None
    assert (tmp_path / "o.gguf").read_bytes() == made
    assert [path.name for path in tmp_path.iterdir()] == ["o.gguf"]


def test_a_killed_worker_leaves_at_most_parts_and_a_retry_succeeds(
    long_model: Path, slow_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = spec(long_model, out)
    with Child("convert") as child:
        child.send(command)
        for event in child.events():
            if isinstance(event, TensorDone):
                child.kill()
        end = child.wait()
    assert end.error is not None
    assert (end.error.code, end.error.exit_status) == ("engine_died", 5)
    left = sorted(path.name for path in out.iterdir())
    assert left and all(name.endswith((".gguf.part", ".jrnl")) for name in left)
    slow_kernels.undo()
    result = run_job("convert", command, lambda event: None)
    assert isinstance(result, ConversionResult)
    assert sorted(path.name for path in out.iterdir()) == sorted(Path(o.path).name for o in result.outputs)


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_worker_that_loses_a_mapped_file_says_so(tmp_path: Path, pocket: Path) -> None:
    """A real one: the weights are cut while a view of them is used, which no check before it can see."""
    weights = tmp_path / "model.safetensors"
    for file in pocket.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    arguments = small_worker(
        tmp_path,
        f"""
        from converter import open_model
        with open_model({str(tmp_path)!r}) as model:
            view = model.tensors[0].raw(0, model.tensors[0].n_rows)
            assert view.any()
            os.truncate({str(weights)!r}, 4096)
            connection.send(Status("the file is cut", 0, 1))
            view.any(axis=0).sum()
        """,
    )
    with Child("small", arguments) as child:
        (event,) = child.events()
        end = child.wait(120)
    assert event.label == "the file is cut"
    error = end.error
    assert error is not None and (error.code, error.exit_status) == ("engine_died", 5)
    assert error.title == "A file was cut short, or its disk went away, while it was read."
    assert "SIGBUS" in error.detail and "were not there any more" in error.detail
    assert "disk connected" in error.hint


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_conversion_that_dies_is_tidied_up_after(
    long_model: Path, slow_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed by the signal of a lost file in the middle of its work, and by a kill: the parent removes the parts.

    Unless the worker had the time to note something in its journal, which a slow machine gives it: then all stays.
    """
    for number in (signal.SIGBUS, signal.SIGKILL):
        out = tmp_path / number.name
        seen: list[list[str]] = []

        def strike(event: object, number: int = number, out: Path = out, seen: list[list[str]] = seen) -> None:
            if isinstance(event, TensorDone) and not seen:
                seen.append([path.name for path in out.iterdir()])
                (worker,) = psutil.Process().children()
                worker.send_signal(number)

        with pytest.raises(QuenchError) as caught:
            conversion.run(spec(long_model, out).spec, strike)
        assert caught.value.exit_status == 5
        assert ("cut short" in caught.value.title) == (number == signal.SIGBUS)
        assert len(seen[0]) >= len(MANY) and all(name.endswith((".gguf.part", ".jrnl")) for name in seen[0])
        left = {path.suffix for path in out.iterdir()}
        assert left == ({".part", ".jrnl"} if "resuming goes on" in caught.value.hint else set())


@pytest.mark.slow
def test_tidying_spares_what_another_conversion_is_writing(long_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Child("convert") as child:
        child.send(spec(long_model, out))
        events = child.events()
        planned = next(event for event in events if isinstance(event, Planned))
        next(event for event in events if isinstance(event, TensorDone))
        conversion.tidy(conversion.outputs_of(planned))
        assert len(list(out.glob("*.part"))) == len(MANY)
        assert isinstance(list(events)[-1], ConversionResult)
        assert child.wait(120).ok


def test_a_refusal_travels_with_its_code(pocket: Path, tmp_path: Path) -> None:
    with Child("convert") as child:
        child.send(spec(pocket, tmp_path / "out.gguf", ("Q9_K",)))
        events = list(child.events())
        end = child.wait()
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, events[-1].exit_status) == ("unknown_type", 2)
    assert end.error is not None and end.error.hint
    with pytest.raises(QuenchError, match="not there"):
        run_job("convert", spec(tmp_path / "nothing", tmp_path / "out.gguf"), lambda event: None)
    assert not (tmp_path / "out.gguf").exists()
