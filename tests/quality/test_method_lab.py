"""Methods compared on one model, by the real worker on Pocket or on its first and last layer."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest

import converter
from app import measurements, paths
from app.child import run_job
from app.cli import main
from app.measure_messages import MeasureMethods, MeasureQuality, MethodsResult, MethodUpdate, QualityResult
from app.protocol import Event, Status
from app.quality.method_check import check
from app.quality.method_weights import Unfit, Weights
from app.quality.methods.table import METHODS
from app.store import Store
from converter import ConversionSpec
from converter.identity import content_id
from converter.spec import QuenchError

Make = Callable[[str], Path]
SHORT = {"texts": ("prose",), "context": 64, "chunks": 2}


def measured(command: MeasureMethods) -> tuple[MethodsResult, list[Event]]:
    events: list[Event] = []
    result = run_job("measure", command, events.append)
    assert isinstance(result, MethodsResult)
    return result, events


@pytest.fixture(scope="module")
def short(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Pocket's first and last layer in a type."""
    folder = tmp_path_factory.mktemp("short")

    def make(kind: str) -> Path:
        target = folder / f"{kind}.gguf"
        if not target.exists():
            converter.convert(ConversionSpec(str(pocket), str(target), (kind,), prune_layers=(1, 2, 3, 4)))
        return target

    return make


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A calibration text of some windows."""
    target = tmp_path_factory.mktemp("notes") / "notes.txt"
    target.write_text(Path("tests/data/heldout-technical.txt").read_text("utf-8")[:4000], "utf-8")
    return str(target)


def test_methods_are_set_beside_files_that_are_really_made(short: Make, notes: str) -> None:
    """A K-quant's row is what ``quench quality`` says of the converted file; a file given has the same row again."""
    reference, made = str(short("F32")), str(short("Q3_K_M"))
    keys = ("int8", "int4", "nf4", "gptq", "smoothquant", "q3_k_m")
    result, events = measured(MeasureMethods(reference, methods=keys, files=(made,), calibration=(notes,), **SHORT))
    rows = {row.key: row for row in result.rows}
    assert [row.key for row in result.rows] == [*keys, made] and not result.left_out
    assert result.floor is None, "the reference is in 32 bits itself"
    assert [event.row for event in events if isinstance(event, MethodUpdate)] == list(result.rows)
    states = [event for event in events if isinstance(event, Status)]
    assert states and all(0 <= state.done <= state.total for state in states)
    assert rows["int8"].kld.value < rows["int4"].kld.value / 20
    assert rows["int8"].top1.value >= rows["int4"].top1.value
    assert rows["smoothquant"].kld.value < rows["int4"].kld.value
    assert [key for key in keys if not rows[key].simulated] == ["q3_k_m"]
    assert [key for key in keys if rows[key].calibrated] == ["gptq", "smoothquant"]
    assert rows["smoothquant"].inputs and not rows["int8"].inputs
    assert rows["nf4"].bits == pytest.approx(4.5) and "bitsandbytes" in rows["nf4"].engines
    assert rows["q3_k_m"].kld == rows[made].kld and rows["q3_k_m"].bytes == rows[made].bytes
    tensors = gguf.GGUFReader(made).tensors
    assert rows[made].bytes == sum(tensor.n_bytes for tensor in tensors)
    assert rows["q3_k_m"].bpw == pytest.approx(8 * rows[made].bytes / sum(int(t.n_elements) for t in tensors))
    # What int8 leaves alone are the embedding in 16 bits and the vectors in 32.
    held = {tensor.name: int(tensor.n_elements) for tensor in tensors}
    rounded = sum(count for name, count in held.items() if name.startswith("blk.") and "norm" not in name)
    vectors = sum(count for name, count in held.items() if "norm" in name)
    expected = rounded * rows["int8"].bits + 16 * held["token_embd.weight"] + 32 * vectors
    assert 8 * rows["int8"].bytes == pytest.approx(expected, rel=1e-4)
    quality = run_job("measure", MeasureQuality(reference, (made,), **SHORT), lambda event: None)
    assert isinstance(quality, QualityResult)
    assert result.tokens == quality.tokens
    assert rows["q3_k_m"].kld.value == pytest.approx(quality.candidates[0].kld.mean.value, rel=0.03)
    assert rows["q3_k_m"].slices["prose"].value == pytest.approx(rows["q3_k_m"].kld.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ("int4", "magic")}, "no method called magic"),
        ({"texts": ("prose", "calibration-prose")}, "calibration-prose is for calibration"),
        ({"context": 4}, "Windows of 4 tokens"),
    ],
)
def test_a_command_that_makes_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(QuenchError, match=words) as caught:
        check(MeasureMethods("/model.gguf", **{**SHORT, **options}))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.exit_status) == ("bad_options", 2)


def test_the_command_refuses_before_it_reads_a_model_and_keeps_what_it_measured(
    short: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert main(["methods", nowhere, "--methods", "Q4_K_M, nope", "--json"]) == 2
    assert "no method called nope" in json.loads(capsys.readouterr().out)["error"]["detail"]
    path = str(short("F32"))
    arguments = ["methods", path, "--methods", "INT8", "--text", "prose", "--context", "64", "--chunks", "2", "--json"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)["methods"][0]["kld"]["value"]
    with contextlib.closing(Store(paths.database())) as store:
        kept = measurements.methods_of(store, path)
    assert kept is not None and [(row.key, row.kld.value) for row in kept.rows] == [("int8", told)]
    assert kept.content == content_id(path)


@pytest.mark.slow
def test_a_quantized_reference_or_another_model_is_refused(short: Make, pocket_gguf: Make) -> None:
    for command, code in (
        (MeasureMethods(str(short("Q3_K_M")), methods=("int8",), **SHORT), "quantized_source"),
        (
            MeasureMethods(str(short("F32")), methods=("int8",), files=(str(pocket_gguf("Q2_K")),), **SHORT),
            "other_model",
        ),
    ):
        events: list[Event] = []
        with pytest.raises(QuenchError) as caught:
            run_job("measure", command, events.append)
        assert caught.value.code == code
        assert not any(isinstance(event, MethodUpdate) for event in events), "refused before anything is measured"


@pytest.mark.slow
def test_when_the_time_is_up_the_rest_is_left_out_and_said(short: Make) -> None:
    keys = ("int8", "gptq", "q2_k")
    result, events = measured(MeasureMethods(str(short("BF16")), methods=keys, minutes=1e-6, **SHORT))
    assert not result.rows and tuple(left.key for left in result.left_out) == keys
    assert all("time" in left.reason for left in result.left_out)
    labels = {event.label for event in events if isinstance(event, Status)}
    assert "Measuring the inputs" in labels and "Rounding with the calibration text" not in labels, "not even begun"
    assert result.floor is not None and 0 <= result.floor.value < 1e-3


@pytest.mark.slow
def test_weights_that_are_made_when_the_time_is_up_are_given_up(short: Make) -> None:
    """GPTQ and AWQ go on from matrix to matrix: here time is up after three. Another method ends as soon."""
    gptq, int8 = METHODS["gptq"], METHODS["int8"]
    calls = iter([False, False, False, True])
    with converter.open_model(short("F32")) as source, ExitStack() as stack:
        names = [tensor.name for tensor in source.tensors if len(tensor.shape) == 2]
        weights = stack.enter_context(Weights(source, names, 1, lambda: False))
        columns = {tensor.name: tensor.n_cols for tensor in source.tensors}
        given = (([name], np.eye(columns[name], dtype=np.float32)) for name in weights.targets)
        weights.feed([gptq], given, lambda: next(calls))
        with pytest.raises(Unfit, match="The time was up"):
            weights.make(int8, stack, lambda: True)
        assert len(list(given)) == len(weights.targets) - 4, "no further covariance was asked for"


@pytest.mark.slow
def test_all_methods_on_pocket(pocket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line; what must hold of any model of this kind: more bits or more knowledge, less divergence."""
    assert main(["methods", str(pocket), "--context", "128", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["reference"] == str(pocket) and data["left_out"] == [] and len(data["texts"]) == 6
    assert set(data["methods"][0]) >= {"key", "name", "engines", "simulated", "bits", "bpw", "kld", "top1", "slices"}
    rows = {row["key"]: row for row in data["methods"]}
    assert list(rows) == list(METHODS)
    kld = {key: row["kld"]["value"] for key, row in rows.items()}
    for lower in (
        ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"),
        ("q5_k_m-i", "q4_k_m-i", "q3_k_m-i", "q2_k-i"),
        ("int8", "int8-row", "int4", "int4-row"),
        ("q2_k-i", "q2_k"),
        ("gptq", "int4"),
        ("awq", "int4"),
        ("hqq", "int4"),
        ("smoothquant", "fp8"),
    ):
        assert all(kld[one] < kld[other] for one, other in itertools.pairwise(lower)), lower
    assert all(row["slices"].keys() == set(data["texts"]) for row in rows.values())
