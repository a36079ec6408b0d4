"""Types for a size: the real worker on two layers of Pocket, and on all of it where that is said to be slow."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gguf
import msgspec
import numpy as np
import pytest

import converter
from app import cli, fit_speed, paths, recipe_files
from app.child import run_job
from app.fit_messages import TYPES, FitDomain, FitPlanned, FittedTensor, FitTypes
from app.fitting import _standard_bytes
from app.measure_messages import Estimate, ImatrixResult, MeasureImatrix, MeasureQuality, QualityResult
from app.protocol import Event, Status
from app.quality import fit_costs, known_costs, spreads
from converter import ConversionSpec, recipes
from converter.spec import QuenchError
from resources import path as resource
from tests.converter.reference.record import RECORDED, write_recorded

Make = Callable[[str], Path]
TEXTS = ("calibration-prose", "calibration-code")


@pytest.fixture(scope="module")
def small(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of Pocket."""
    target = tmp_path_factory.mktemp("fit") / "small.gguf"
    converter.convert(ConversionSpec(str(pocket), str(target), ("BF16",), prune_layers=(2, 3, 4, 5)))
    return target


@pytest.fixture(scope="module")
def importance(small: Path) -> Path:
    target = small.with_name("importance.gguf")
    command = MeasureImatrix(str(small), ("calibration-prose",), str(target), chunks=2)
    assert isinstance(run_job("measure", command, lambda event: None), ImatrixResult)
    return target


def command(small: Path, importance: Path, **changes: object) -> FitTypes:
    settings: dict[str, object] = {
        "reference": str(small),
        "budget": 1_250_000,
        "standard": "Q4_K_M",
        "texts": TEXTS,
        "judges": ("prose", "code"),
        "imatrix": str(importance),
        "context": 32,
        "windows": 2,
    }
    return FitTypes(**{**settings, **changes})  # type: ignore[arg-type]


def fitted(asked: FitTypes) -> tuple[FitPlanned, list[Event]]:
    events: list[Event] = []
    found = run_job("measure", asked, events.append)
    assert isinstance(found, FitPlanned)
    return found, events


def test_every_tensor_gets_a_type_within_the_budget(small: Path, importance: Path) -> None:
    floors = ((r"attn_v", "Q6_K"),)
    found, events = fitted(command(small, importance, floors=floors))
    quantizable = {tensor.name for tensor in gguf.GGUFReader(small).tensors if len(tensor.shape) > 1}
    assert {tensor.name for tensor in found.tensors} == quantizable
    assert found.bytes == sum(tensor.bytes for tensor in found.tensors)
    assert [domain.name for domain in found.domains] == ["prose", "code"]
    assert found.gap == 0.0 and all(tensor.reason for tensor in found.tensors)
    assert len(found.costs) == found.probes and all(
        cost.windows == 4 and cost.error is not None for cost in found.costs
    )
    if found.kept:
        assert found.bytes <= 1_250_000 and found.ratio < 1
        assert all(tensor.type in TYPES[4:] for tensor in found.tensors if "attn_v" in tensor.name)
        assert sum(tensor.cost for tensor in found.tensors) == pytest.approx(1.0)
        costs = {(cost.tensors, cost.type): cost for cost in found.costs}
        assert sum(costs[(each.name,), each.type].value for each in found.tensors) == pytest.approx(found.predicted)
        assert all(
            re.match(r"costs \S+% \+- \S+% of the standard recipe's diver", each.reason) for each in found.tensors
        )
    states = [event for event in events if isinstance(event, Status)]
    assert states and all(0 <= state.done <= state.total for state in states)


@pytest.mark.slow
@pytest.mark.parametrize("feedback", [False, True])
def test_what_is_judged_is_the_divergence_of_the_file(
    small: Path, importance: Path, tmp_path: Path, feedback: bool
) -> None:
    """The fitted types written to a file and measured as any other, on the same windows; the engine repacks there."""
    text = tmp_path / "own.txt"
    text.write_text((resource("texts/code.txt")).read_text("utf-8")[:3000], "utf-8")
    blocks = str(tmp_path / "blocks.gguf") if feedback else ""
    asked = command(small, importance, judges=(str(text),), context=256, feedback=feedback, blocks=blocks)
    found, _ = fitted(asked)
    target = tmp_path / "fitted.gguf"
    rules = recipe_files.rules(found.tensors)
    spec = ConversionSpec(str(small), str(target), ("Q4_K_M",), imatrix=str(importance), tensor_types=rules,
                          blocks=blocks or None)  # fmt: skip
    (output,) = converter.convert(spec).outputs
    assert {tensor.name: tensor.type for tensor in found.tensors}.items() <= output.tensors.items()
    quality = run_job(
        "measure", MeasureQuality(str(small), (str(target),), (str(text),), context=256), lambda event: None
    )
    assert isinstance(quality, QualityResult)
    assert any(tensor.fed for tensor in found.tensors) == feedback
    judged = found.domains[0].fitted if found.kept else found.domains[0].standard
    assert quality.candidates[0].kld.mean.value == pytest.approx(judged, rel=0.03)


@pytest.mark.slow
def test_below_the_smallest_recipe_the_budget_still_holds(small: Path, importance: Path) -> None:
    """The standard types would be larger than what was asked for, so they cannot be kept."""
    with converter.open_model(small) as source:
        standard = _standard_bytes(source, "Q2_K")
    found, _ = fitted(command(small, importance, budget=standard - 60_000, standard="Q2_K", windows=1))
    assert found.kept and found.bytes <= standard - 60_000 < found.standard_bytes == standard


@pytest.mark.slow
def test_error_feedback_is_in_the_file_that_was_judged(small: Path, importance: Path, tmp_path: Path) -> None:
    """The tensors go into a conversion as they are, which measures their errors against the source."""
    blocks, output = tmp_path / "blocks.gguf", tmp_path / "fed.gguf"
    asked = command(small, importance, budget=1_000_000, standard="Q2_K", feedback=True, blocks=str(blocks))
    found, _ = fitted(asked)
    fed = {tensor.name: tensor.type for tensor in found.tensors if tensor.fed}
    assert found.kept and len(fed) >= 10 and found.ratio < found.types_ratio < 1
    spec = ConversionSpec(
        str(small), str(output), ("Q2_K",), imatrix=str(importance), tensor_types=recipe_files.rules(found.tensors),
        blocks=str(blocks),
    )  # fmt: skip
    made = converter.convert(spec).outputs[0]
    assert made.checked is not None and made.checked.rows > 0
    ours, given = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (output, blocks))
    assert set(given) == set(fed)
    for name, tensor in given.items():
        assert ours[name].tensor_type.name == fed[name]
        np.testing.assert_array_equal(ours[name].data, tensor.data)
    name = "blk.1.ffn_down.weight"
    with converter.open_model(small) as source:
        exact = next(tensor for tensor in source.tensors if tensor.name == name).rows(0, 256)
    error = np.sqrt(np.square(gguf.dequantize(ours[name].data, ours[name].tensor_type) - exact).mean())
    assert made.error[name] == pytest.approx(error, rel=1e-5)


@pytest.mark.slow
def test_the_same_fit_gives_the_same_bytes(small: Path, importance: Path, tmp_path: Path) -> None:
    """Probes, error feedback and the repair take their sums in one order, whichever engine was free first."""
    blocks = [tmp_path / f"{number}.gguf" for number in range(2)]
    plans = [
        fitted(command(small, importance, budget=1_000_000, standard="Q2_K", feedback=True, blocks=str(path)))[0]
        for path in blocks
    ]
    assert plans[0].kept and plans[0].repaired > 0
    assert msgspec.structs.replace(plans[0], seconds=0.0) == msgspec.structs.replace(plans[1], seconds=0.0)
    assert blocks[0].read_bytes() == blocks[1].read_bytes()


def test_blocks_of_another_plan_are_refused(small: Path, tmp_path: Path) -> None:
    blocks = tmp_path / "blocks.gguf"
    writer = gguf.GGUFWriter(blocks, "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((256, 144), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(QuenchError) as caught:
        converter.convert(ConversionSpec(str(small), str(tmp_path / "x.gguf"), ("Q8_0",), blocks=str(blocks)))
    assert caught.value.code == "bad_blocks" and "blk.0.attn_q.weight" in caught.value.detail
    assert [each.name for each in tmp_path.iterdir()] == ["blocks.gguf"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"budget": 1000}, "too_small"),
        ({"floors": (("attn", "Q9_K"),)}, "bad_options"),
        ({"floors": (("(", "Q4_K"),)}, "bad_options"),
        ({"context": 8}, "bad_options"),
        ({"texts": ("nowhere.txt",)}, "text_unreadable"),
    ],
)
def test_what_cannot_be_fitted_is_said(small: Path, importance: Path, changes: dict[str, object], code: str) -> None:
    with pytest.raises(QuenchError) as caught:
        fitted(command(small, importance, **changes))
    assert caught.value.code == code and caught.value.title


def test_a_quantized_reference_is_refused(pocket_gguf: Make, importance: Path) -> None:
    with pytest.raises(QuenchError) as caught:
        fitted(command(pocket_gguf("Q8_0"), importance))
    assert caught.value.code == "quantized_source"


# ---- recipes -------------------------------------------------------------------------------------------------------


def plan() -> FitPlanned:
    tensors = (
        FittedTensor("blk.0.attn_q.weight", "Q5_K", 10, 0.7, "70.0% of the damage"),
        FittedTensor("token_embd.weight", "Q6_K", 20, 0.3, "30.0% of the damage"),
    )
    return FitPlanned(
        tensors, 30, 40, 0.5, 0.6, 0.6, 0.0, (FitDomain("prose", 0.1, 0.2, 0.1),),
        kept=True, shared=False, refined=False, seconds=1.0,
    )  # fmt: skip


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    matrix = tmp_path / "m.imatrix.gguf"
    matrix.write_bytes(b"matrix")
    path = recipe_files.write(tmp_path / "m.gguf", "Q4_K_M", plan(), matrix)
    found = recipe_files.read(path)
    assert (found.base, found.imatrix) == ("Q4_K_M", str(matrix))
    assert found.rules == (r"^blk\.0\.attn_q\.weight$=Q5_K", r"^token_embd\.weight$=Q6_K")
    assert all(re.search(rule.rpartition("=")[0], t.name) for rule, t in zip(found.rules, plan().tensors, strict=True))
    assert "70.0% of the damage" in path.read_text("utf-8")
    assert found.matrix == matrix.name and found.digest == recipe_files.digest_of(matrix) and not found.refined
    assert not found.feedback
    tensors = tuple(msgspec.structs.replace(tensor, fed=True) for tensor in plan().tensors)
    other = msgspec.structs.replace(plan(), tensors=tensors, refined=True)
    found = recipe_files.read(recipe_files.write(tmp_path / "m.gguf", "Q4_K_M", other, matrix))
    assert found.refined and found.feedback
    matrix.unlink()
    assert recipe_files.read(path).imatrix == "", "a sibling takes a matrix of its own"
    matrix.write_bytes(b"another")
    with pytest.raises(QuenchError) as caught:
        recipe_files.read(path)
    assert caught.value.code == "bad_recipe" and str(matrix) in caught.value.detail


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"a=Q4_K\n", b"# Quench recipe\n# base=Q4_K_M\n", b"# Quench recipe\na=Q4_K\n"],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.recipe"
    path.write_bytes(content)
    with pytest.raises(QuenchError) as caught:
        recipe_files.read(path)
    assert caught.value.code == "bad_recipe"


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fit_beats_the_standard_recipe_at_its_size(
    pocket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the model folder to the file, and the same file again from its recipe."""
    target, again = tmp_path / "fit.gguf", tmp_path / "again.gguf"
    assert cli.main(["fit", str(pocket), "-o", str(target), "--like", "Q2_K", "--windows", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == "fitted" and found["ratio"] < 0.8 and found["gap"] == 0.0
    assert set(found["why"]) == set(found["types"]) and found["standard"] == "Q2_K"
    usual = tmp_path / "usual.gguf"
    matrix = str(tmp_path / "fit.imatrix.gguf")
    converter.convert(ConversionSpec(str(pocket), str(usual), ("Q2_K",), imatrix=matrix))
    assert target.stat().st_size <= usual.stat().st_size
    assert cli.main(["convert", str(pocket), "-o", str(again), "--recipe", str(tmp_path / "fit.recipe")]) == 0
    assert again.read_bytes() == target.read_bytes()


def test_a_size_smaller_than_possible_is_exit_four(small: Path, importance: Path, tmp_path: Path) -> None:
    target = tmp_path / "no.gguf"
    arguments = ["fit", str(small), "-o", str(target), "--size", "300K", "--imatrix", str(importance)]
    assert cli.main(arguments) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_time_the_types_are_by_rule_of_thumb_and_nothing_is_claimed(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, usual, again = (tmp_path / f"{name}.gguf" for name in ("fit", "usual", "again"))
    arguments = ["fit", str(small), "-o", str(target), "--like", "Q4_K_M", "--unmeasured"]
    assert cli.main([*arguments, "--feedback", "--json"]) == 2 and not target.exists()
    assert "Error feedback" in json.loads(capsys.readouterr().out)["error"]["detail"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["measured"] and found["ratio"] is found["predicted_kld"] is found["gap"] is None
    assert found["domains"] == found["costs"] == [] and all(
        why.startswith("not measured") for why in found["why"].values()
    )
    converter.convert(ConversionSpec(str(small), str(usual), ("Q4_K_M",)))
    assert target.stat().st_size <= usual.stat().st_size
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}
    assert found["types"].items() <= types.items()
    assert cli.main(["convert", str(small), "-o", str(again), "--recipe", found["recipe"]]) == 0
    assert again.read_bytes() == target.read_bytes()
    assert "not measured" in Path(found["recipe"]).read_text("utf-8") and "divergence" not in capsys.readouterr().out


def test_without_time_a_plan_claims_nothing(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", str(small), "-o", str(tmp_path / "x.gguf"), "--like", "Q4_K_M", "--unmeasured", "--dry-run"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["measured"] and found["ratio"] is None and found["kept"] == "fitted"
    assert all(why.startswith("not measured") for why in found["why"].values())


def test_standards_are_recipes() -> None:
    from app.fitting import STANDARDS

    assert [recipes.recipe(name).name for name in STANDARDS] == list(STANDARDS)


# ---- costs that are known ----


@pytest.mark.slow
def test_costs_are_kept_for_other_sizes_and_for_a_run_that_goes_on(
    small: Path, importance: Path, tmp_path: Path
) -> None:
    costs = tmp_path / "costs.json"
    asked = command(small, importance, windows=1, costs=str(costs), named=True)
    first, _ = fitted(asked)
    assert first.probes > 0 == first.probes_known and costs.exists()
    again, _ = fitted(asked)
    assert again.probes == again.probes_known == first.probes
    assert [(t.name, t.type) for t in again.tensors] == [(t.name, t.type) for t in first.tensors]
    other, _ = fitted(msgspec.structs.replace(asked, budget=1_000_000, standard="Q3_K_M"))
    assert 0 < other.probes_known <= other.probes

    half = msgspec.json.decode(costs.read_bytes())
    half["costs"] = dict(list(half["costs"].items())[::2])
    costs.write_bytes(msgspec.json.encode(half))
    resumed, _ = fitted(asked)
    assert 0 < resumed.probes_known < resumed.probes
    assert [(t.name, t.type) for t in resumed.tensors] == [(t.name, t.type) for t in first.tensors]

    with pytest.raises(QuenchError) as caught:
        fitted(msgspec.structs.replace(asked, windows=2))
    assert caught.value.code == "bad_sensitivity" and "windows of text" in caught.value.detail


ORIGIN = known_costs.Origin("model", "windows", "matrix", feedback=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "damaged"),
        (lambda data: data[:-3], "damaged"),
        (lambda data: b"[" * 100_000, "damaged"),
        (lambda data: data.replace(b'"model":"model"', b'"model":"other"'), "another model"),
        (lambda data: data.replace(b'"importance":"matrix"', b'"importance":"x"'), "another importance matrix"),
        (lambda data: data.replace(b'"feedback":false', b'"feedback":true'), "another kind of rounding"),
        (lambda data: data.replace(b'"quench_sensitivity":2', b'"quench_sensitivity":9'), "version 9"),
        (lambda data: data.replace(b"0.25", b"-1"), "cannot be"),
        (lambda data: data.replace(b"[0.25,0.75]", b"[]"), "cannot be"),
        (lambda data: data.replace(b"0.25", b'"x"'), "damaged"),
    ],
)
def test_costs_of_something_else_are_refused(tmp_path: Path, change: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "costs.json"
    kept = known_costs.KnownCosts(str(path), ORIGIN, strict=True)
    kept.put(("a", "b"), "Q4_K", {"prose": [0.25, 0.75]})
    kept.save()
    again = known_costs.KnownCosts(str(path), ORIGIN, strict=True)
    assert again.get(("a", "b"), "Q4_K", ["prose"]) == {"prose": (0.25, 0.75)}
    assert known_costs.KnownCosts(str(path), ORIGIN, strict=True).get(("a",), "Q4_K", ["prose"]) is None
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(QuenchError) as caught:
        known_costs.KnownCosts(str(path), ORIGIN, strict=True)
    assert caught.value.code == "bad_sensitivity" and words in caught.value.detail
    assert known_costs.KnownCosts(str(path), ORIGIN, strict=False).found == 0, "a work folder's own is made anew"


def test_a_file_tells_the_errors_and_one_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    kept = known_costs.KnownCosts(str(path), ORIGIN, strict=True)
    kept.put(("a",), "Q4_K", {"prose": [1.0, 2.0, 6.0], "code": [4.0]})
    kept.save()
    text = json.loads(path.read_text("utf-8"))["costs"]["Q4_K a"]
    assert text["prose"]["value"] == 3.0 and text["prose"]["error"] == pytest.approx(
        statistics.stdev((1, 2, 6)) / 3**0.5
    )
    assert text["code"] == {"value": 4.0, "error": None, "windows": [4.0]}
    origin = json.dumps(msgspec.to_builtins(ORIGIN))
    path.write_text(
        f'{{"quench_sensitivity": 1, "origin": {origin}, "costs": {{"Q4_K a": {{"prose": 0.5}}}}}}', "utf-8"
    )
    old = known_costs.KnownCosts(str(path), ORIGIN, strict=True)
    assert old.get(("a",), "Q4_K", ["prose"]) == {"prose": (0.5,)}
    old.put(("b",), "Q4_K", {"prose": [1.0]})
    old.save()
    assert known_costs.KnownCosts(str(path), ORIGIN, strict=True).found == 2


# ---- how sure costs are ----


@pytest.mark.slow
def test_windows_are_left_out_where_they_would_decide_nothing(small: Path, importance: Path, tmp_path: Path) -> None:
    """Half at first, all where a choice is close; what is left out is taken up from the file when it is asked for."""
    asked = command(small, importance, windows=3, costs=str(tmp_path / "costs.json"), named=True)
    found, _ = fitted(asked)
    counts = [cost.windows for cost in found.costs]
    assert set(counts) == {3, 6} and sum(counts) < 0.85 * 6 * len(counts)
    again, _ = fitted(asked)
    assert again.costs == found.costs and again.probes_known == again.probes
    assert [tensor.type for tensor in again.tensors] == [tensor.type for tensor in found.tensors]


def test_the_error_of_a_cost_is_that_of_windows_drawn_again() -> None:
    """Against a simulation: many draws of windows whose divergences vary together with the standard recipe's."""
    rng = np.random.default_rng(3)

    def draw() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        one, standard = {}, {}
        for name, level, part in (("prose", 0.05, 0.02), ("code", 0.01, 0.06)):
            hard = rng.lognormal(0.0, 0.5, 6)
            standard[name] = (level * hard).tolist()
            one[name] = (level * part * hard * rng.lognormal(0.0, 0.2, 6)).tolist()
        return one, standard

    found = [spreads.relative(*draw()) for _ in range(2000)]
    true = np.std([each.value for each in found])
    assert np.mean([each.value for each in found]) == pytest.approx(0.04 * np.exp(0.02), rel=0.02)
    assert np.sqrt(np.mean([each.error**2 for each in found])) == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0.0123, 0.002, "add 1.2% +- 0.20%"),
        (-0.0007, 0.0009, "save 0.070% +- 0.090%, less than the error,"),
        (0.4, np.nan, "add about 40%"),
    ],
)
def test_a_difference_that_is_less_than_its_error_is_called_so(value: float, error: float, words: str) -> None:
    assert fit_costs.change_words(Estimate(value, error)) == words


def test_an_error_without_repeated_windows_is_that_of_the_kinds_of_text_or_none() -> None:
    standard = {"prose": [0.1, 0.3], "code": [0.01], "chat": [0.02]}
    one = {"prose": [0.02, 0.02], "code": [0.002], "chat": [0.001]}
    found = spreads.relative(one, standard)
    assert found.value == pytest.approx((0.1 + 0.2 + 0.05) / 3)
    assert found.error == pytest.approx(statistics.stdev((0.1, 0.2, 0.05)) / 3**0.5)
    assert np.isnan(spreads.relative({"code": [0.002]}, standard).error)
    half = {"prose": [0.02, np.nan], "code": [0.002], "chat": [np.nan]}
    assert spreads.relative(half, standard).value == pytest.approx((0.2 + 0.2) / 2), "the same windows of both"
    assert spreads.missing(half) == {("prose", 1), ("chat", 0)} and spreads.windows(half) == 2
    assert spreads.joined(half, one) == one
    assert spreads.missing(spreads.only(one, {("prose", 0)})) == {("prose", 1)}
    same = spreads.less(one, one)
    assert spreads.relative(same, standard) == Estimate(0.0, 0.0), "a difference knows that windows are the same"


# ---- other architectures ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral", "phi-3", "deepseek-v2", "gpt-2"])
def test_other_architectures_are_fitted_whole(name: str, tmp_path: Path) -> None:
    """Experts, fused projections, latent attention, biases: types, error feedback, speed, and the file of it all."""
    facts = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    folder, reference, blocks = tmp_path / name, tmp_path / "reference.gguf", str(tmp_path / "blocks.gguf")
    folder.mkdir()
    write_recorded(folder, facts["vocabulary"], facts["config"], facts["shapes"])
    converter.convert(ConversionSpec(str(folder), str(reference), ("F32",)))
    text = tmp_path / "own.txt"
    text.write_text((resource("texts/code.txt")).read_text("utf-8")[:1500], "utf-8")
    with converter.open_model(reference) as source:
        budget = _standard_bytes(source, "Q4_K_M")
        stacks = {tensor.name for tensor in source.tensors if tensor.name.endswith("_exps.weight")}
    found, _ = fitted(
        FitTypes(str(reference), budget, "Q4_K_M", (str(text),), (str(text),), context=32, windows=1, feedback=True,
                 blocks=blocks, speed=0.01)
    )  # fmt: skip
    types = {tensor.name: tensor.type for tensor in found.tensors}
    assert stacks <= set(types), "all experts of a layer have one type"
    assert found.bytes <= budget and found.speed > 0
    fed = any(tensor.fed for tensor in found.tensors)
    spec = ConversionSpec(str(folder), str(tmp_path / "x.gguf"), (found.standard,), blocks=blocks if fed else None,
                          tensor_types=recipe_files.rules(found.tensors))  # fmt: skip
    assert types.items() <= converter.convert(spec).outputs[0].tensors.items()


# ---- speed ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_goal_of_speed_decides_where_there_is_room(small: Path, importance: Path, tmp_path: Path) -> None:
    """What is measured first is remembered; asked for the pace of small types, the large ones are not taken."""
    with pytest.raises(QuenchError) as caught:
        fitted(command(small, importance, speed=1e9))
    assert caught.value.code == "too_slow" and "1e+09 tokens/s" in caught.value.detail
    nearest = float(re.findall(r"write (\S+) tokens/s", caught.value.detail)[0])
    with converter.open_model(small) as source:
        info, names = source.info, [tensor.name for tensor in source.tensors if len(tensor.shape) > 1]
        pace, known = fit_speed.pace_of(info)
        read = fit_speed.weights_read(info, [tensor for tensor in source.tensors if tensor.name in names])
    assert known and set(pace.by_type) == set(TYPES)
    fastest = min(pace.by_type.values()) * sum(read.values())
    assert nearest > 1 and 1 / fastest == pytest.approx(nearest, rel=3.0), "measured again, on a busy machine"
    arguments = ["fit", str(small), "-o", str(tmp_path / "x.gguf"), "--speed", "1e9", "--imatrix", str(importance)]
    assert cli.main(arguments) == 4, "now it is refused before anything begins"
    # The pace is measured once more, maybe while other programs hold the cores: a goal that is met even then.
    found, _ = fitted(command(small, importance, budget=10_000_000, standard="Q8_0", windows=1, speed=nearest / 30))
    assert found.decided in {"size", "speed", "both"} and found.speed > 0 and found.speed_threads >= 1
    assert found.speed_predicted >= nearest / 30 * 0.999


def test_a_token_reads_a_part_of_some_tensors(tmp_path: Path) -> None:
    class Tensor(NamedTuple):
        name: str
        shape: tuple[int, ...]

    tensors = [Tensor("token_embd.weight", (1000, 64)), Tensor("output.weight", (1000, 64)),
               Tensor("blk.0.ffn_up_exps.weight", (8, 32, 64)), Tensor("blk.0.attn_q.weight", (64, 64))]  # fmt: skip
    with converter.open_model(resource("pocket")) as source:
        info = source.info
    mixture = msgspec.structs.replace(
        info, architecture="qwen3moe", experts=8, tied_embeddings=False, metadata={"qwen3moe.expert_used_count": 2}
    )
    read = fit_speed.weights_read(mixture, tensors)
    assert list(read.values()) == [64, 64_000, 8 * 32 * 64 / 4, 64 * 64]
    assert fit_speed.weights_read(info, tensors)["token_embd.weight"] == 64_000, "tied: it is the output as well"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"x": {"by_type": {"Q4_K": 1e-9}, "threads": 1}}', b"{" * 70_000])
def test_a_damaged_memory_of_paces_counts_as_none(content: bytes) -> None:
    with converter.open_model(resource("pocket")) as source:
        info = source.info
    (paths.cache() / "fit-paces.json").write_bytes(content)
    pace, known = fit_speed.pace_of(info)
    assert not known and set(pace.by_type) == set(TYPES) and pace.by_type["Q8_0"] > pace.by_type["Q2_K"] > 0
    fit_speed.learn(info, pace)
    assert fit_speed.pace_of(info) == (pace, True)
