"""The convert worker as a process: events, cancel, refusals, and what a kill leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.child import Child, run_job
from app.protocol import Cancelled, Convert, Failed
from converter.spec import ConversionResult, ConversionSpec, Planned, Progress, QuenchError, TensorDone

MANY = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "BF16")


def spec(pocket: Path, out: Path, types: tuple[str, ...] = MANY) -> Convert:
    return Convert(ConversionSpec(str(pocket), str(out), types, threads=1))


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


def test_a_cancel_is_answered_and_leaves_nothing(pocket: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Child("convert") as child:
        child.send(spec(pocket, out))
        seen = []
        for event in child.events():
            seen.append(event)
            if isinstance(event, TensorDone) and len(seen) < 10:
                child.cancel()
        end = child.wait()
    assert isinstance(seen[-1], Cancelled)
    assert end.cancelled
    assert not out.exists()


def test_a_killed_worker_leaves_at_most_parts_and_a_retry_succeeds(pocket: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = spec(pocket, out)
    with Child("convert") as child:
        child.send(command)
        for event in child.events():
            if isinstance(event, TensorDone):
                child.kill()
        end = child.wait()
    assert end.error is not None
    assert (end.error.code, end.error.exit_status) == ("engine_died", 5)
    left = sorted(path.name for path in out.iterdir())
    assert left and all(name.endswith(".gguf.part") for name in left)
    result = run_job("convert", command, lambda event: None)
    assert isinstance(result, ConversionResult)
    assert sorted(path.name for path in out.iterdir()) == sorted(Path(o.path).name for o in result.outputs)


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
