"""Error feedback on Pocket: it diverges less than plain rounding on text that it has not seen, and the guard guards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import pytest

import kernels
from app.engine.covariance import Covariances, sum_bytes
from app.engine.grafts import Grafts, Part
from app.engine.model import Model
from app.protocol import LoadOptions
from app.quality import texts
from app.quality.divergence import Rows, compare, first_scored, score
from app.quality.encoded import Encoded
from app.quality.feedback import Calibration, FeedbackEncoder, Options, calibration, guard, known
from converter import open_model
from converter.sources.base import SourceModel
from converter.spec import Cancelled

CONTEXT = 128


class Bench(NamedTuple):
    model: Model
    covariances: Covariances
    grafts: Grafts
    source: SourceModel
    calibration: Calibration


@pytest.fixture(scope="module")
def bench(pocket_gguf: Callable[[str], Path]) -> Iterator[Bench]:
    path, covariances = str(pocket_gguf("BF16")), Covariances()
    options = LoadOptions(context=CONTEXT, threads=1)
    with open_model(path) as source, Model.load(path, options, repack=False, capture=covariances) as model:
        found = calibration(model, ("calibration-prose", "calibration-technical"), CONTEXT)
        few = {name: windows[::10] for name, windows in found.windows.items()}
        yield Bench(model, covariances, Grafts(model), source, Calibration(few, found.held))


def encoder(bench: Bench, **options: object) -> FeedbackEncoder:
    return FeedbackEncoder(
        bench.model, bench.covariances, bench.source, bench.calibration.windows,
        Options(threads=1, **options),  # type: ignore[arg-type]
    )  # fmt: skip


def brief(bench: Bench) -> Bench:
    """Two windows of each text: enough where only equal bytes are asked for."""
    few = {name: windows[:2] for name, windows in bench.calibration.windows.items()}
    return bench._replace(calibration=Calibration(few, bench.calibration.held))


def layer(number: int, kind: str) -> dict[str, tuple[str]]:
    roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return {f"blk.{number}.{role}.weight": (kind,) for role in roles}


def test_it_diverges_less_on_other_text_and_the_blocks_are_plain(bench: Bench) -> None:
    types = layer(1, "Q2_K") | layer(4, "Q3_K")
    pairs = list(encoder(bench).encode(types))
    assert {fed.name: (fed.type,) for fed, _ in pairs} == types
    for fed, plain in pairs:
        assert fed.data.shape == plain.data.shape and not np.array_equal(fed.data, plain.data)
        kind = gguf.GGMLQuantizationType[fed.type]
        assert gguf.dequantize(fed.data, kind).shape == fed.shape
    windows = [window.tokens for window in texts.windows(texts.load(["prose"])[0], bench.model, CONTEXT)[:4]]
    first = first_scored(CONTEXT)
    rows: list[Rows] = [score(bench.model.window_logits(w, first)[:-1].copy(), w[first + 1 :]) for w in windows]
    found = []
    for parts in zip(*pairs, strict=True):
        with bench.grafts.replaced({part.name: part for part in parts}):
            klds = [
                compare(row, bench.model.window_logits(w, first)[:-1]).kld.mean()
                for row, w in zip(rows, windows, strict=True)
            ]
        found.append(np.mean(klds))
    assert found[0] < 0.9 * found[1]


def test_plain_is_what_the_diagonal_as_importance_makes(bench: Bench) -> None:
    name = "blk.0.attn_output.weight"
    ((_, plain),) = encoder(bench).encode({name: ("Q4_K",)})
    sums = np.zeros((256, 256))
    bench.covariances.watch([name])
    for windows in bench.calibration.windows.values():
        for window in windows:
            bench.model.window_logits(window, 0)
            bench.covariances.check()
        sums += bench.covariances.sums[name].sums / len(windows)
        bench.covariances.watch([name])
    tensor = next(tensor for tensor in bench.source.tensors if tensor.name == name)
    again = kernels.quantize("Q4_K", tensor.rows(0, 256), np.diagonal(sums).astype(np.float32))
    different = (again != plain.data).reshape(256, -1).any(axis=1)
    assert different.mean() < 0.2, "the factor of all importance aside, only roundings differ"


def test_memory_sets_the_passes_and_changes_nothing(bench: Bench) -> None:
    types = layer(0, "Q4_K") | layer(1, "Q4_K")
    roomy, tight = (encoder(brief(bench), memory=memory) for memory in (1 << 30, sum_bytes(768)))
    assert roomy.passes(types) == 1
    assert tight.passes(types) == 4
    one, other = ({fed.name: fed.data.tobytes() for fed, _ in each.encode(types)} for each in (roomy, tight))
    assert one == other and set(one) == set(types)


def test_several_types_of_a_tensor_come_from_one_pass(bench: Bench) -> None:
    name = "blk.2.attn_v.weight"
    together = {fed.type: fed.data for fed, _ in encoder(brief(bench)).encode({name: ("Q3_K", "IQ4_NL", "Q5_K")})}
    assert list(together) == ["Q3_K", "Q5_K"]
    for kind, data in together.items():
        ((alone, _),) = encoder(brief(bench)).encode({name: (kind,)})
        np.testing.assert_array_equal(alone.data, data)


def test_an_embedding_that_is_the_output_matrix_gets_feedback_too(bench: Bench) -> None:
    ((fed, plain),) = encoder(bench).encode({"token_embd.weight": ("Q4_K",)})
    tensor = next(tensor for tensor in bench.source.tensors if tensor.name == fed.name)
    away, before = (
        gguf.dequantize(part.data, gguf.GGMLQuantizationType.Q4_K) - tensor.rows(0, tensor.n_rows)
        for part in (fed, plain)
    )
    bench.covariances.watch([fed.name])
    bench.model.window_logits(bench.calibration.held["calibration-prose"][0], 0)
    sums = bench.covariances.sums[fed.name].sums
    assert np.sum(away @ sums * away) < 0.8 * np.sum(before @ sums * before)
    assert np.square(away).sum() < 1.3 * np.square(before).sum(), "rows are looked up as they are"


def test_what_cannot_be_done_is_left_out_with_a_reason(bench: Bench) -> None:
    types = {
        "output_norm.weight": ("Q8_0",), "blk.0.attn_q.weight": ("IQ4_NL",), "blk.0.attn_v.weight": ("Q8_0",)
    }  # fmt: skip
    rounds = encoder(bench)
    assert [fed.name for fed, _ in rounds.encode(types)] == ["blk.0.attn_v.weight"]
    assert set(rounds.left_out) == {"output_norm.weight", "blk.0.attn_q.weight"}
    assert "IQ4_NL" in rounds.left_out["blk.0.attn_q.weight"]
    assert list(encoder(bench).encode({"output_norm.weight": ("Q4_K",)})) == []


def test_it_can_be_stopped(bench: Bench) -> None:
    rounds = encoder(bench)
    seen: list[str] = []
    rounds.ticked = seen.append
    rounds.stopped = lambda: len(seen) == 2
    with pytest.raises(Cancelled):
        list(rounds.encode(layer(0, "Q4_K")))
    assert len(seen) == 2


def test_windows_are_held_back_from_every_text(bench: Bench) -> None:
    names = ("calibration-prose", "calibration-dialogue")
    found = calibration(bench.model, names, 64)
    for name in names:
        whole = [window.tokens for window in texts.windows(texts.load([name])[0], bench.model, 64)]
        assert sorted(found.windows[name] + found.held[name]) == sorted(whole)
        assert len(found.held[name]) == pytest.approx(len(whole) / 6, abs=1)


def test_a_text_that_the_model_does_not_know_is_left_out(bench: Bench) -> None:
    """Pocket has read English alone."""
    names = [f"calibration-{name}" for name in ("prose", "mathematics", "languages", "technical")]
    given = calibration(bench.model, names, CONTEXT)
    bench.covariances.watch(())
    found, strange = known(bench.model, given)
    assert list(strange) == ["calibration-languages"] and strange["calibration-languages"] > 500
    assert list(found.windows) == list(found.held) == [name for name in names if name not in strange]
    assert found.windows["calibration-prose"] == given.windows["calibration-prose"]


# ---- the guard ----


def part(name: str, value: int) -> Encoded:
    return Encoded(name, (1, 32), "Q8_0", np.full((1, 34), value, np.uint8))


def guarded(effects: Mapping[str, tuple[float, float]]) -> tuple[frozenset[str], tuple[str, ...], dict[str, float]]:
    """The guard over tensors whose feedback changes the divergence of two texts by these factors."""

    def divergence(parts: Mapping[str, Part]) -> dict[str, float]:
        factors = np.array([1.0, 1.0])
        for name, (prose, chat) in effects.items():
            if parts[name].raw(0, 1)[0, 0]:
                factors *= (prose, chat)
        return {"prose": 0.02 * float(factors[0]), "chat": 0.001 * float(factors[1])}

    found = guard({name: part(name, 0) for name in effects}, {name: part(name, 1) for name in effects}, divergence)
    assert max(found.fed[name] / found.plain[name] for name in found.plain) <= 1.0
    return found.kept, found.dropped, dict(found.fed)


def test_the_guard_keeps_what_helps_everywhere() -> None:
    kept, dropped, fed = guarded({"blk.0.attn_q.weight": (0.8, 0.9), "blk.1.ffn_up.weight": (0.9, 0.9)})
    assert len(kept) == 2 and dropped == () and fed["prose"] == pytest.approx(0.02 * 0.72)


def test_the_guard_takes_feedback_from_the_role_that_harms_a_text() -> None:
    effects = {
        "blk.0.ffn_down.weight": (0.5, 1.3),
        "blk.1.ffn_down.weight": (0.9, 1.2),
        "blk.0.attn_q.weight": (0.9, 0.8),
        "blk.1.attn_q.weight": (0.9, 0.9),
    }
    kept, dropped, fed = guarded(effects)
    assert kept == {"blk.0.attn_q.weight", "blk.1.attn_q.weight"} and dropped == ("ffn_down",)
    assert fed["chat"] == pytest.approx(0.001 * 0.72)


def test_the_guard_gives_all_up_where_nothing_helps() -> None:
    kept, dropped, fed = guarded({f"blk.0.{role}.weight": (0.5, 1.1) for role in ("attn_q", "attn_k", "ffn_up")})
    assert kept == frozenset() and len(dropped) == 3 and fed == {"prose": 0.02, "chat": 0.001}
