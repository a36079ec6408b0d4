"""Drift put back: what the engine shows of the stream, the regression beside numpy's, and what it gains on Pocket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.engine.residual import Residual
from app.protocol import LoadOptions
from app.quality.divergence import compare, score
from app.quality.encoded import Encoded
from app.quality.feedback import calibration
from app.quality.repair import PENALTY, Repair, Sums, aim, stages
from converter import open_model
from converter.sources.base import SourceModel
from converter.spec import Cancelled

CONTEXT = 128
ENDS = [f"blk.{layer}.{role}.weight" for layer in range(6) for role in ("attn_output", "ffn_down")]


class Bench(NamedTuple):
    models: list[tuple[Model, Residual]]
    source: SourceModel
    windows: dict[str, list[tuple[int, ...]]]
    held: dict[str, list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def bench(pocket_gguf: Callable[[str], Path]) -> Iterator[Bench]:
    path = str(pocket_gguf("F32"))
    with ExitStack() as stack:
        source = stack.enter_context(open_model(path))
        models = []
        for _ in range(2):
            residual = Residual()
            options = LoadOptions(context=CONTEXT, threads=1)
            models.append((stack.enter_context(Model.load(path, options, repack=False, capture=residual)), residual))
        found = calibration(models[0][0], ("calibration-prose", "calibration-technical"), CONTEXT)
        yield Bench(
            models, source,
            {name: windows[::5] for name, windows in found.windows.items()},
            {name: windows[::8] for name, windows in found.held.items()},
        )  # fmt: skip


def weights(bench: Bench, name: str) -> npt.NDArray[np.float32]:
    tensor = next(tensor for tensor in bench.source.tensors if tensor.name == name)
    return tensor.rows(0, tensor.n_rows).reshape(tensor.shape)


def test_the_stream_is_what_the_layers_add_to(bench: Bench) -> None:
    """By numpy: the last stream, normed and multiplied, is the logits; a product more is the stream before it."""
    model, residual = bench.models[0]
    window = next(iter(bench.windows.values()))[0]
    logits = np.array(model.window_logits(window, 0))
    residual.watch(ENDS)
    model.window_logits(window, 0)
    seen = residual.take()
    residual.watch(())
    assert logits.any()
    # The engine chooses rows between the last attention's product and its sum.
    assert set(seen) == set(ENDS) - {"blk.5.attn_output.weight"}
    stream = seen["blk.5.ffn_down.weight"][1]
    normed = stream / np.sqrt(np.square(stream).mean(-1, keepdims=True) + 1e-5) * weights(bench, "output_norm.weight")
    np.testing.assert_allclose(normed @ weights(bench, "token_embd.weight").T, logits, atol=0.02)
    for layer in range(5):
        inputs, behind = seen[f"blk.{layer}.ffn_down.weight"]
        before = seen[f"blk.{layer}.attn_output.weight"][1]
        np.testing.assert_allclose(
            before + inputs @ weights(bench, f"blk.{layer}.ffn_down.weight").T, behind, atol=0.02
        )


def test_what_is_aimed_at_is_the_ridge_regression() -> None:
    """numpy's least squares, over rows that stand for the penalty, finds the same matrix."""
    rng = np.random.default_rng(5)
    inputs, rows = rng.normal(size=(300, 24)).astype(np.float32), rng.normal(size=(7, 24)).astype(np.float32)
    now = rows + rng.normal(size=rows.shape).astype(np.float32) / 10
    before = rng.normal(size=(300, 7)) + inputs[:, :7]
    lack = before - inputs @ (now - rows).T  # with `now` in the model
    found = aim(rows, now.astype(np.float32), Sums((inputs.T @ inputs).astype(np.float64), inputs.T @ lack, 300))
    share = PENALTY + 24 / 300
    penalty = np.sqrt(share * np.square(inputs, dtype=np.float64).sum() / 24) * np.eye(24)
    change = np.linalg.lstsq(np.vstack([inputs, penalty]), np.vstack([before, np.zeros((24, 7))]))[0]
    np.testing.assert_allclose(found, rows + change.T, rtol=1e-3, atol=1e-4)


def test_layers_are_repaired_in_their_order() -> None:
    names = [f"blk.{layer}.{role}.weight" for layer in range(40) for role in ("ffn_down", "ffn_up", "attn_output")]
    assert stages(names[:6]) == [
        [f"blk.{layer}.{role}.weight" for role in ("attn_output", "ffn_down")] for layer in range(2)
    ]
    few = [int(layer[0].split(".")[1]) for layer in stages(names[::-1])]
    assert len(few) == 6 and few[-1] == 39 and few == sorted(few)
    assert stages(["blk.0.ffn_up.weight"]) == []
    assert stages(["blk.3.ffn_down.weight"]) == [["blk.3.ffn_down.weight"]]


@pytest.mark.slow
def test_a_repaired_model_diverges_less_at_the_same_bytes(bench: Bench) -> None:
    """On windows that the repair has not seen; the blocks are plain ones of the same type."""
    names = [tensor.name for tensor in bench.source.tensors if tensor.name.startswith(("blk.0", "blk.1"))]
    names = [name for name in names if "norm" not in name]
    plain = {}
    for name in names:
        rows = weights(bench, name)
        plain[name] = Encoded(name, rows.shape, "Q3_K", kernels.quantize("Q3_K", rows))
    made = {part.name: part for part in Repair(bench.models, bench.source, bench.windows).run(plain, names)}
    assert list(made) == [name for layer in stages(names) for name in layer]
    assert all(part.type == "Q3_K" and part.data.shape == plain[name].data.shape for name, part in made.items())
    model, _ = bench.models[0]
    grafts = Grafts(model)

    def divergence(parts: dict[str, Encoded]) -> float:
        found = []
        for window in (window for windows in bench.held.values() for window in windows):
            exact = score(np.array(model.window_logits(window, 0))[:-1], window[1:], keep=False)
            with grafts.replaced(parts):
                found.append(float(compare(exact, model.window_logits(window, 0)[:-1]).kld.mean()))
        return float(np.mean(found))

    assert divergence({**plain, **made}) < 0.9 * divergence(plain)
    for part in Repair(bench.models[:1], bench.source, bench.windows).run(plain, names):
        np.testing.assert_array_equal(part.data, made[part.name].data)


def test_it_can_be_stopped(bench: Bench) -> None:
    rows = weights(bench, ENDS[1])
    part = Encoded(ENDS[1], rows.shape, "Q4_K", kernels.quantize("Q4_K", rows))
    with pytest.raises(Cancelled):
        Repair(bench.models, bench.source, bench.windows, lambda: True).run({ENDS[1]: part}, [ENDS[1]])
