"""Importance matrices: llama-imatrix's own bytes, numbers that numpy confirms, and runs that are cut short."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from app import cli
from app.imatrix_files import checkpoint_path, describe, merge
from app.measure_messages import ImatrixResult, ImatrixUpdate, MeasureImatrix
from app.protocol import Event
from app.quality.imatrix import ImatrixRun
from converter import open_model
from converter.imatrix import read
from converter.imatrix_sums import Collected, Stored, encode, read_sums, statistics
from converter.spec import Cancelled, QuenchError
from resources import path as resource
from tests.quality import reference_tool

Pocket = Callable[[str], Path]

EXPERTS, USED = 6, 2


def gather(
    model: Path, output: Path, emit: Callable[[Event], None] = lambda event: None, **options: object
) -> ImatrixResult:
    text = str(options.pop("text", resource("texts/prose.txt")))
    command = MeasureImatrix(model=str(model), texts=(text,), output=str(output), threads=2, **options)  # type: ignore[arg-type]
    return ImatrixRun(command, emit, lambda: False).run()


def with_experts(source: Path, target: Path) -> Path:
    """Pocket with random experts behind a router and an output matrix of its own: a small Mixtral."""
    rng = np.random.default_rng(9)
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, item)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    for tensor in reader.tensors:
        if ".ffn_" in tensor.name and "norm" not in tensor.name:
            rows, columns = (int(size) for size in reversed(tensor.shape))
            stack = (rng.standard_normal((EXPERTS, rows, columns)) * 0.05).astype(np.float16)
            writer.add_tensor(tensor.name.replace(".weight", "_exps.weight"), stack)
            if "gate" in tensor.name:
                router = (rng.standard_normal((EXPERTS, columns)) * 0.5).astype(np.float32)
                writer.add_tensor(tensor.name.replace("gate", "gate_inp"), router)
        else:
            writer.add_tensor(tensor.name, np.asarray(tensor.data))
            if tensor.name == "token_embd.weight":
                writer.add_tensor("output.weight", np.asarray(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("model", ["dense", "experts"])
@pytest.mark.parametrize("form", ["gguf", "dat"])
@pytest.mark.parametrize("output_matrix", [False, True])
def test_the_file_is_the_tools_to_the_last_byte(
    pocket_gguf: Pocket, tmp_path: Path, model: str, form: str, output_matrix: bool
) -> None:
    tool = reference_tool.build("llama-imatrix")
    source = pocket_gguf("F16") if model == "dense" else with_experts(pocket_gguf("F16"), tmp_path / "experts.gguf")
    text = Path(shutil.copy(resource("texts/technical.txt"), tmp_path / "text.txt"))
    # The tool stores the name of the text as it was given: a bare name, as ours.
    command = [str(tool), "-m", str(source), "-f", text.name, "-o", "theirs", "--output-format", form]
    command += ["-c", "512", "-b", "512", "-t", "2", *(["--process-output"] if output_matrix else [])]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=600, check=True)
    result = gather(source, tmp_path / "ours", format=form, text=text, process_output=output_matrix)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    # Pocket's embedding is its output matrix too, and is not counted; the other has routers and its own.
    assert result.entries == (42 if model == "dense" else 48 + output_matrix)
    assert result.experts.total == (3 * 6 * EXPERTS if model == "experts" else 0)


def test_the_sums_of_the_first_layer_are_numpys(pocket_gguf: Pocket, tmp_path: Path) -> None:
    """What goes into the first attention is the normalised embedding, which needs no engine to compute."""
    result = gather(pocket_gguf("F32"), tmp_path / "m.gguf", chunks=2)
    sums, keys = read_sums(tmp_path / "m.gguf")
    assert (result.chunks, result.tokens, keys["imatrix.chunk_count"]) == (2, 1024, 2)
    with open_model(pocket_gguf("F32")) as model:
        weights = {tensor.name: tensor for tensor in model.tensors}
        embedding = weights["token_embd.weight"].rows(0, weights["token_embd.weight"].n_rows).astype(np.float64)
        norm = weights["blk.0.attn_norm.weight"].rows(0, 1)[0].astype(np.float64)
    tokens = tokens_of(pocket_gguf("F32"))[:1024]
    rows = embedding[tokens]
    rows *= norm / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
    for name in ("attn_q", "attn_k", "attn_v"):
        entry = sums[f"blk.0.{name}.weight"]
        assert entry.counts.tolist() == [1024]
        np.testing.assert_allclose(entry.squares, (rows**2).sum(axis=0), rtol=1e-4)


def tokens_of(model: Path) -> list[int]:
    from app.engine.model import Model
    from app.protocol import LoadOptions

    with Model.load(str(model), LoadOptions(context=256)) as loaded:
        return loaded.tokenize(resource("texts/prose.txt").read_text("utf-8"), special=False, add_special=True)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(pocket_gguf: Pocket, tmp_path: Path) -> None:
    model = pocket_gguf("F16")
    whole = gather(model, tmp_path / "whole.gguf", chunks=5)
    text = str(resource("texts/prose.txt"))
    command = MeasureImatrix(str(model), (text,), str(tmp_path / "cut.gguf"), chunks=5, threads=2)
    run = ImatrixRun(command, lambda event: None, lambda: run.done >= 2)
    with pytest.raises(Cancelled):
        run.run()
    assert run.checkpoint.exists() and not (tmp_path / "cut.gguf").exists()
    seen: list[int] = []

    def count(event: Event) -> None:
        if isinstance(event, ImatrixUpdate):
            seen.append(event.chunks)

    result = gather(model, tmp_path / "cut.gguf", count, chunks=5, resume=True)
    assert seen[0] > 2
    assert (tmp_path / "cut.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert result.perplexity == whole.perplexity
    assert not run.checkpoint.exists()


def test_another_text_cannot_go_on_from_the_checkpoint(pocket_gguf: Pocket, tmp_path: Path) -> None:
    model = pocket_gguf("F16")
    command = MeasureImatrix(
        str(model), (str(resource("texts/prose.txt")),), str(tmp_path / "m.gguf"), chunks=3, threads=2
    )
    run = ImatrixRun(command, lambda event: None, lambda: run.done >= 1)
    with pytest.raises(Cancelled):
        run.run()
    before = run.checkpoint.read_bytes()
    with pytest.raises(QuenchError) as caught:
        gather(model, tmp_path / "m.gguf", text=resource("texts/code.txt"), chunks=3, resume=True)
    assert caught.value.code == "bad_imatrix"
    assert run.checkpoint.read_bytes() == before
    run.checkpoint.write_bytes(before[: len(before) // 2])
    with pytest.raises(QuenchError) as caught:
        gather(model, tmp_path / "m.gguf", chunks=3, resume=True)
    assert caught.value.code == "bad_imatrix"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"context": 8}, "bad_options"),
        ({"context": 520}, "bad_options"),
        ({"format": "csv"}, "bad_options"),
        ({"output": "/nowhere/m.gguf"}, "no_folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_model_is_loaded(
    tmp_path: Path, options: dict[str, object], code: str
) -> None:
    values = {"model": "no model", "texts": ("prose",), "output": str(tmp_path / "m.gguf"), **options}
    with pytest.raises(QuenchError) as caught:
        ImatrixRun(MeasureImatrix(**values), lambda event: None, lambda: False)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_a_text_of_one_window_is_too_short(pocket_gguf: Pocket, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("A few words. " * 40)
    with pytest.raises(QuenchError) as caught:
        gather(pocket_gguf("F16"), tmp_path / "m.gguf", text=text)
    assert caught.value.code == "text_too_short"
    assert not (tmp_path / "m.gguf").exists()


def test_both_formats_read_back_as_the_same_weights(tmp_path: Path) -> None:
    """An expert that no token reached stands for equal weights in both, and the older one has one count for all."""
    rng = np.random.default_rng(4)
    squares = rng.random((3, 32), np.float32)
    squares[1] = 0
    sums = {
        "blk.0.ffn_up_exps.weight": Stored(squares, np.array([700, 0, 324])),
        "blk.0.attn_q.weight": Stored(rng.random((1, 64), np.float32), np.array([1024])),
    }
    for form in ("gguf", "dat"):
        (tmp_path / form).write_bytes(encode(Collected(sums, ("a.txt",), 512), form))
    new, old = read(tmp_path / "gguf"), read(tmp_path / "dat")
    assert (new.chunks, new.dataset) == (old.chunks, old.dataset) == (2, "a.txt")
    for name, values in new.entries.items():
        np.testing.assert_allclose(old.entries[name], values, rtol=1e-6)
    assert (new.entries["blk.0.ffn_up_exps.weight"].reshape(3, 32)[1] == 1).all()


def test_statistics_say_what_the_sums_are() -> None:
    even = Stored(np.full((1, 16), 8, np.float32), np.array([4]))
    one = np.zeros((1, 16), np.float32)
    one[0, 3] = 40
    found = statistics({"blk.0.attn_q.weight": even, "blk.1.attn_q.weight": Stored(one, np.array([4]))})
    assert [item.name for item in found] == ["blk.0.attn_q.weight", "blk.1.attn_q.weight"]
    assert (found[0].total, found[0].entropy, found[0].evenness, found[0].active) == (32.0, 4.0, 1.0, 1.0)
    assert found[0].cosine is None
    assert (found[1].entropy, found[1].active, found[1].above) == (0.0, 1 / 16, 1 / 16)
    assert found[1].cosine == pytest.approx(0.25)


def test_a_time_limit_makes_a_file_of_the_windows_that_were_done(pocket_gguf: Pocket, tmp_path: Path) -> None:
    result = gather(pocket_gguf("F16"), tmp_path / "m.gguf", minutes=1e-6)
    assert (result.chunks, result.tokens) == (1, 512)
    assert describe(tmp_path / "m.gguf").chunks == 1
    assert not checkpoint_path(tmp_path / "m.gguf").exists()


def test_a_checkpoint_says_how_far_it_is_and_what_was_asked(pocket_gguf: Pocket, tmp_path: Path) -> None:
    text = str(resource("texts/prose.txt"))
    command = MeasureImatrix(str(pocket_gguf("F16")), (text,), str(tmp_path / "m.gguf"), chunks=5, threads=2)
    run = ImatrixRun(command, lambda event: None, lambda: run.done >= 2)
    with pytest.raises(Cancelled):
        run.run()
    found = describe(run.checkpoint).checkpoint
    assert found is not None and (found.done, found.total, found.command) == (2, 5, command)


def test_merged_files_have_the_sums_of_both(pocket_gguf: Pocket, tmp_path: Path) -> None:
    model, paths = pocket_gguf("F16"), [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    gather(model, paths[0], chunks=2)
    gather(model, paths[1], chunks=3, text=resource("texts/code.txt"))
    found = merge(paths, tmp_path / "both.gguf", "gguf", 512)
    assert (found.chunks, found.datasets) == (5, ("prose.txt", "code.txt"))
    one, two, both = (read_sums(path)[0] for path in (*paths, tmp_path / "both.gguf"))
    for name, entry in both.items():
        np.testing.assert_array_equal(entry.squares, one[name].squares + two[name].squares)
        assert entry.counts.tolist() == (one[name].counts + two[name].counts).tolist()


def test_files_of_different_models_are_not_merged(tmp_path: Path) -> None:
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path, columns in zip(paths, (32, 64), strict=True):
        sums = {"blk.0.attn_q.weight": Stored(np.ones((1, columns), np.float32), np.array([512]))}
        path.write_bytes(encode(Collected(sums, ("a.txt",), 512), "gguf"))
    with pytest.raises(QuenchError) as caught:
        merge(paths, tmp_path / "c.gguf", "gguf", 512)
    assert caught.value.code == "bad_imatrix" and "attn_q" in caught.value.detail
    assert not (tmp_path / "c.gguf").exists()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("order", [("new", "old"), ("old", "new"), ("new", "new"), ("experts", "experts")])
@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_a_merged_file_is_the_tools_to_the_last_byte(
    pocket_gguf: Pocket, tmp_path: Path, order: tuple[str, str], form: str
) -> None:
    tool = reference_tool.build("llama-imatrix")
    model = pocket_gguf("F16")
    gather(model, tmp_path / "new", chunks=2)
    gather(model, tmp_path / "old", chunks=3, format="dat", text=resource("texts/code.txt"))
    if "experts" in order:
        gather(with_experts(model, tmp_path / "experts.gguf"), tmp_path / "experts", chunks=2)
    command = [str(tool), "-m", "none", "--in-file", ",".join(order), "-o", "theirs", "--output-format", form]
    subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=600, check=True)
    merge([tmp_path / name for name in order], tmp_path / "ours", form, 512)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_command_line_shows_a_file_without_running_anything(
    pocket_gguf: Pocket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gather(pocket_gguf("F16"), tmp_path / "m.gguf", chunks=2)
    assert cli.main(["imatrix", "--show", str(tmp_path / "m.gguf"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["entries"], data["chunks"], len(data["statistics"])) == (42, 2, 42)
    assert cli.main(["imatrix", "--show", str(tmp_path / "m.gguf")]) == 0
    printed = capsys.readouterr().out
    assert "blk.0.ffn_down " in printed and "42 matrices, 2 windows" in printed and "e+" not in printed


@pytest.mark.parametrize(
    "arguments", [[], ["m.gguf"], ["--show", "a", "--merge", "a,b"], ["m.gguf", "--show", "a", "-o", "x"]]
)
def test_half_a_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["imatrix", *arguments]) == 2
    assert "quench imatrix --show F" in capsys.readouterr().err
