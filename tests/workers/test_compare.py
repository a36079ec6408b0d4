"""The worker that compares two models, through its line: what it sends, a cancel, a side that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.child import Child
from app.protocol import CompareModels
from converter.difference import Compared, ComparisonDone


def test_everything_is_told_and_then_the_end(pocket_gguf: Callable[[str], Path]) -> None:
    with Child("compare") as child:
        child.send(CompareModels(str(pocket_gguf("BF16")), str(pocket_gguf("Q8_0"))))
        events = list(child.events())
        assert child.wait().ok
    assert isinstance(events[-1], ComparisonDone)
    told = [entry for event in events if isinstance(event, Compared) for entry in event.tensors]
    assert len(told) == events[-1].tensors == 56


def test_a_cancel_ends_it(pocket_gguf: Callable[[str], Path]) -> None:
    with Child("compare") as child:
        child.cancel()
        child.send(CompareModels(str(pocket_gguf("BF16")), str(pocket_gguf("Q8_0"))))
        assert not [event for event in child.events() if isinstance(event, ComparisonDone)]
        assert child.wait().cancelled


def test_what_cannot_be_read_is_an_error(pocket_gguf: Callable[[str], Path], tmp_path: Path) -> None:
    with Child("compare") as child:
        child.send(CompareModels(str(pocket_gguf("Q8_0")), str(tmp_path / "gone.gguf")))
        assert not [event for event in child.events() if isinstance(event, Compared)]
        error = child.wait().error
    assert error is not None and error.code == "not_found"
