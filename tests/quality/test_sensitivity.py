"""What each tensor costs, by the real worker on Pocket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import converter
from app.child import run_job
from app.measure_messages import MeasureQuality, MeasureSensitivity, QualityResult, SensitivityResult, SensitivityUpdate
from app.protocol import Event, Status
from converter import ConversionSpec
from converter.spec import QuenchError

Make = Callable[[str], Path]
SHORT = {"texts": ("prose",), "context": 64, "chunks": 2}


def measured(command: MeasureSensitivity) -> tuple[SensitivityResult, list[Event]]:
    events: list[Event] = []
    result = run_job("measure", command, events.append)
    assert isinstance(result, SensitivityResult)
    return result, events


def test_every_tensor_has_its_cost_the_dearest_first(pocket: Path, tmp_path: Path) -> None:
    """On the first and the last layer of Pocket alone."""
    reference, candidate = str(tmp_path / "BF16.gguf"), str(tmp_path / "Q3_K_M.gguf")
    for target in (reference, candidate):
        spec = ConversionSpec(str(pocket), target, (Path(target).stem,), prune_layers=(1, 2, 3, 4))
        converter.convert(spec)
    result, events = measured(MeasureSensitivity(reference, candidate, **SHORT))
    files = [{tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (reference, candidate)]
    own, other = files
    quantized = {name for name in own if own[name].tensor_type != other[name].tensor_type}
    assert {cost.name for cost in result.costs} == quantized and len(quantized) == 15
    values = [cost.kld.value for cost in result.costs]
    assert values == sorted(values, reverse=True) and min(values) > 0
    assert 0.6 < sum(values) / result.whole.value < 1.6, "small errors add up"
    for cost in result.costs:
        tensor, before = other[cost.name], own[cost.name]
        assert (cost.bytes, cost.reference_bytes) == (tensor.n_bytes, before.n_bytes)
        assert cost.type == tensor.tensor_type.name and cost.reference_type == "BF16"
        x = gguf.dequantize(before.data, before.tensor_type).astype(np.float64)
        y = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert cost.error == pytest.approx(np.sqrt(np.square(x - y).sum() / np.square(x).sum()), rel=1e-3)
        assert cost.windows == result.windows == 2 and cost.kld.error > 0
    assert {event.cost.name for event in events if isinstance(event, SensitivityUpdate)} == quantized
    states = [event for event in events if isinstance(event, Status)]
    assert states and all(0 < state.done <= state.total for state in states)


def test_a_cost_is_the_divergence_of_a_file_with_this_tensor(pocket: Path, pocket_gguf: Make, tmp_path: Path) -> None:
    """Against a real file that differs in one tensor, measured as any other; the engine repacks that one's weights."""
    changed = tmp_path / "changed.gguf"
    rules = (("blk.0.ffn_down", "Q2_K"),)
    converter.convert(ConversionSpec(str(pocket), str(changed), ("Q8_0",), tensor_types=rules))
    reference = str(pocket_gguf("Q8_0"))
    result, _ = measured(MeasureSensitivity(reference, str(changed), **SHORT))
    assert [cost.name for cost in result.costs] == ["blk.0.ffn_down.weight"]
    assert result.costs[0].kld == result.whole
    quality = run_job("measure", MeasureQuality(reference, (str(changed),), **SHORT), lambda event: None)
    assert isinstance(quality, QualityResult)
    assert quality.tokens == 2 * 31
    assert result.whole.value == pytest.approx(quality.candidates[0].kld.mean.value, rel=0.03)


@pytest.mark.slow
def test_when_the_time_is_up_all_have_their_first_windows(pocket_gguf: Make) -> None:
    command = MeasureSensitivity(
        str(pocket_gguf("BF16")), str(pocket_gguf("Q2_K")), ("prose",), context=32, chunks=40, minutes=1e-4
    )
    result, _ = measured(command)
    assert result.windows == 40
    assert {cost.windows for cost in result.costs} == {2}


@pytest.mark.parametrize("case", ["same", "other", "options"])
def test_what_cannot_be_measured_is_said(pocket_gguf: Make, tmp_path: Path, case: str) -> None:
    reference = str(pocket_gguf("BF16"))
    candidate, code, options = {
        "same": (reference, "nothing_differs", SHORT),
        "other": (_other_model(tmp_path), "other_model", SHORT),
        "options": (str(pocket_gguf("Q2_K")), "bad_options", {**SHORT, "context": 4}),
    }[case]
    with pytest.raises(QuenchError) as caught:
        measured(MeasureSensitivity(reference, candidate, **options))
    assert caught.value.code == code and caught.value.title


def _other_model(folder: Path) -> str:
    from tests.models import write_model

    write_model(folder / "other", 1)
    converter.convert(ConversionSpec(str(folder / "other"), str(folder / "other.gguf"), ("Q8_0",)))
    return str(folder / "other.gguf")
