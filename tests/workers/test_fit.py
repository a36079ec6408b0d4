"""The steps of a fit as one progress."""

from __future__ import annotations

from pathlib import Path

import msgspec

import converter
from app import fit_estimate, paths
from app.fit_messages import JUDGING, STEPS, Budget, FitChosen, FitPlanned, FitProgress, FitTypes
from app.measure_messages import Estimate, ImatrixUpdate
from app.protocol import Event, Status
from app.quality import fit_costs, fitting
from app.quality.encoding import KEPT_BYTES
from app.quality.grading import SMALL_MODEL
from app.workers.fit import Steps
from converter.spec import Progress, TensorDone


def test_steps_are_one_progress_that_never_goes_back() -> None:
    told: list[Event] = []
    steps = Steps({"reference": 10.0, "importance": 20.0, "probing": 60.0, "judging": 8.0, "writing": 2.0}, told.append)
    none = Estimate(1.0, 0.0)
    plan = FitPlanned((), 1, 1, 1.0, 1.0, 1.0, 0.0, (), kept=True, shared=False, refined=False, seconds=1.0)
    steps.begin("reference", "")
    steps.heard(TensorDone(0, "of the 16-bit file", "BF16", 1, 0.0))
    steps.heard(Progress(50, 50, 1e9, None, 7))
    steps.begin("importance", "")
    steps.heard(Status("Loading the model", 0.5, 1.0))
    steps.heard(ImatrixUpdate(40, 160, none, 0, 0, 15.0))
    steps.begin("probing", "")
    steps.heard(Status("Probing every tensor", 45, 100, 40.0))
    steps.heard(Status(JUDGING, 90, 100, 6.0))
    steps.heard(Status(JUDGING, 95, 100, 3.0))
    steps.heard(FitChosen(Budget(1, 1, "Q2_K", 1.0), plan))
    steps.begin("writing", "")
    steps.heard(TensorDone(0, "of the result", "Q2_K", 1, 0.1))
    steps.heard(Progress(50, 50, 1e9, 0.0, 7))
    progress = [event for event in told if isinstance(event, FitProgress)]
    assert list(dict.fromkeys(each.step for each in progress)) == list(STEPS)
    assert [event.name for event in told if isinstance(event, TensorDone)] == ["of the result"]
    done = [each.done for each in progress]
    assert done == sorted(done) and done[-1] == progress[-1].total
    window = next(each for each in progress if each.label == "Window 40 of 160")
    assert (window.part, window.part_left, window.seconds_left) == (0.25, 15.0, 85.0)
    assert window.done == round(window.total * 0.15)
    probing = next(each for each in progress if each.step == "probing" and each.part == 0.45)
    assert (probing.part_left, probing.seconds_left) == (32.0, 42.0), "what is said there is for judging as well"
    judging = [round(each.part, 6) for each in progress if each.step == "judging"]
    assert judging == [0.0, 0.5]


def test_an_estimate_learns_from_what_a_step_took(pocket: Path) -> None:
    with converter.open_model(pocket) as model:
        info = model.info
    windows = fit_estimate.amounts(43, (8, 6), 1, 160)
    assert windows == {"importance": 160, "probing": round(8 * (2 + 0.6 * 172)) + 36, "judging": 72}
    fit_estimate.learn(info, "importance", 160, 42.0)
    fit_estimate.learn(info, "probing", 950, 102.0)
    found = fit_estimate.seconds(info, windows)
    assert round(found["importance"], 6) == 42.0 and 101 < found["probing"] + found["judging"] < 105
    (paths.cache() / "fit-rates.json").write_bytes(b'{"importance": -1, "probing": "x"}')
    assert fit_estimate.seconds(info, windows)["probing"] > 0


def test_an_estimate_knows_how_a_fit_works() -> None:
    assert fit_estimate._KEPT == KEPT_BYTES and fit_estimate._SMALL == SMALL_MODEL
    fields = {field.name: field.default for field in msgspec.structs.fields(FitTypes)}
    assert fields["context"] == fit_estimate.CONTEXT
    assert fit_estimate.PROBED_PART == fit_costs.PROBED_PART
    assert fit_estimate.PROBES_EACH == fit_costs.PROBES_EACH and fit_estimate.PROBING_PART == fit_costs.PROBING
    assert (fit_estimate.JUDGE_WINDOWS, fit_estimate.JUDGING_PART) == (fitting.JUDGE_WINDOWS, fitting.JUDGING_PART)
