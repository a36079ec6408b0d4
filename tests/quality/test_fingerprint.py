"""Saved answers of a reference: the figures against them are those against the model, and nothing else is taken."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import converter
from app import paths
from app.engine.model import Model
from app.measure_messages import MeasureQuality, QualityResult
from app.protocol import LoadOptions
from app.quality.codings import CODINGS
from app.quality.divergence import score
from app.quality.fingerprint import Fingerprint, base_file_bytes
from app.quality.lab import QualityRun
from app.quality.odds import Layout, Odds, compare, sample
from app.quality.recording import Recorder, room_for_odds
from app.quality.texts import Window
from converter.spec import QuenchError
from resources import path as resource
from tests.converter.reference.record import RECORDED, write_recorded
from tests.quality import wide

Make = Callable[[str], Path]
TEXTS = {"texts": ("prose", "dialogue"), "chunks": 1, "context": 256, "threads": 1}


def measure(reference: Path, *candidates: Path, **options: Any) -> QualityResult:
    command = MeasureQuality(str(reference), tuple(map(str, candidates)), **{**TEXTS, **options})
    return QualityRun(command, lambda event: None, lambda: False).run()


def save(reference: Path, target: Path, **options: Any) -> Path:
    measure(reference, fingerprint=str(target), **options)
    return target


def against(saved: Path, *candidates: Path, **options: Any) -> QualityResult:
    return measure(saved, *candidates, **{"texts": (), "chunks": 0, "context": 0, **options})


@pytest.fixture(scope="module")
def saved(pocket_gguf: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket's answers on two windows, without the output matrix."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUENCH_HOME", str(tmp_path_factory.mktemp("home")))
        target = tmp_path_factory.mktemp("saved") / "pocket é.qref"
        return save(pocket_gguf("BF16"), target, fingerprint_matrix="never")


@pytest.mark.parametrize("kind", ["Q4_K_M", pytest.param("BF16", marks=pytest.mark.slow)])
def test_figures_against_saved_answers_are_those_against_the_model(
    kind: str, pocket_gguf: Make, tmp_path: Path
) -> None:
    """And the divergence is that of the two models' logits in float64, by numpy."""
    reference, candidate = pocket_gguf(kind), pocket_gguf("Q2_K")
    both = measure(reference, candidate, fingerprint=str(tmp_path / "answers.qref"))
    assert both.fingerprint is not None and both.fingerprint.written and both.fingerprint.error < 1e-9
    alone = against(tmp_path / "answers.qref", candidate)
    assert alone.fingerprint is not None and alone.fingerprint.exact and not alone.fingerprint.written
    assert alone.fingerprint.name == reference.name
    assert (alone.tokens, alone.texts, alone.context) == (both.tokens, both.texts, both.context)
    (one,), (two,) = both.candidates, alone.candidates
    assert two.kld.mean.value == pytest.approx(one.kld.mean.value, rel=1e-6)
    assert two.kld.max.value == pytest.approx(one.kld.max.value, rel=1e-5)
    assert two.reverse_kld is not None and one.reverse_kld is not None
    assert two.reverse_kld.value == pytest.approx(one.reverse_kld.value, rel=1e-6)
    assert (two.top1, two.top5, two.verdict) == (one.top1, one.top5, one.verdict)
    assert alone.reference.perplexity.value == pytest.approx(both.reference.perplexity.value, rel=1e-7)
    assert (alone.reference.type, alone.reference.content) == (both.reference.type, both.reference.content)

    sums, count = 0.0, 0
    with Fingerprint(str(tmp_path / "answers.qref")) as file:
        windows = [file.window(place) for place in range(len(file))]
    options = LoadOptions(context=256, threads=1)
    with Model.load(str(reference), options) as first, Model.load(str(candidate), options) as second:
        for window in windows:
            p, q = (log_odds(model.window_logits(window.tokens, 128)[:-1]) for model in (first, second))
            sums += float((np.exp(p) * (p - q)).sum())
            count += len(p)
    assert two.kld.mean.value == pytest.approx(sums / count, rel=1e-6)


def log_odds(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def test_the_matrix_is_found_by_what_it_is_and_not_by_its_name(saved: Path, pocket_gguf: Make, tmp_path: Path) -> None:
    candidate = pocket_gguf("Q2_K")
    both = measure(pocket_gguf("BF16"), candidate).candidates[0].kld.mean.value
    lonely = tmp_path / "lonely" / "answers.qref"
    lonely.parent.mkdir()
    lonely.write_bytes(saved.read_bytes())
    sampled = against(lonely, candidate)
    assert sampled.fingerprint is not None and not sampled.fingerprint.exact
    # Of 254 tokens a tail of some per cent is sampled: the mean is right to a small part of its own error.
    found = sampled.candidates[0].kld.mean
    assert found.value == pytest.approx(both, rel=0.03) and abs(found.value - both) < found.error / 4

    other = lonely.with_name("another name.gguf")
    other.write_bytes(pocket_gguf("BF16").read_bytes())
    exact = against(lonely, candidate)
    assert exact.fingerprint is not None and exact.fingerprint.exact and exact.fingerprint.matrix == str(other)
    assert exact.candidates[0].kld.mean.value == pytest.approx(both, rel=1e-6)
    data = bytearray(other.read_bytes())
    data[-1] ^= 1  # a norm: the matrix is elsewhere and still the same
    other.write_bytes(data)
    assert against(lonely, candidate).fingerprint == exact.fingerprint


def test_sampled_odds_are_fair() -> None:
    """Over many draws the mean is the divergence of the whole vocabulary, whose tail has a third of the odds."""
    random = np.random.default_rng(5)
    reference = (2.0 * random.standard_normal((4, 3000))).astype(np.float32)
    candidate = (reference + 0.3 * random.standard_normal(reference.shape)).astype(np.float32)
    right = np.asarray([1, 2, 3, 4])
    p, q = log_odds(reference), log_odds(candidate)
    truth = (np.exp(p) * (p - q)).sum(axis=1), (np.exp(q) * (q - p)).sum(axis=1)
    layout = Layout(128, 64)
    rows = score(reference, right)
    drawn = [compare(Odds(layout, sample(rows, layout, seed), right), candidate) for seed in range(200)]
    for values, wanted in (
        (np.stack([d.kld for d in drawn]), truth[0]),
        (np.stack([d.reverse for d in drawn]), truth[1]),
    ):
        error = values.std(axis=0) / len(drawn) ** 0.5
        assert (np.abs(values.mean(axis=0) - wanted) < 4 * error + 1e-4 * wanted).all()
        assert (values.std(axis=0) < 0.2 * wanted).all()
    one = drawn[0]
    assert (one.agree == (p.argmax(1) == q.argmax(1))).all()
    assert one.nll == pytest.approx(-q[np.arange(4), right], abs=1e-6)
    assert one.reference_nll == pytest.approx(-p[np.arange(4), right], abs=1e-6)
    assert compare(Odds(layout, sample(rows, layout, 0), right), reference).kld == pytest.approx(0, abs=1e-9)


STEPS = {"gemma-2": ["scale", "tanh", "scale"], "cohere": ["scale"], "granite": ["scale"], "phi": ["bias"]}


@pytest.mark.parametrize("name", STEPS)
def test_what_is_done_to_the_logits_is_kept(name: str, tmp_path: Path) -> None:
    """Soft-capping, scales and a bias stand in the file, and give the engine's own logits."""
    facts = json.loads(RECORDED.read_text(encoding="utf-8"))[name]
    folder, path, target = tmp_path / "model", tmp_path / "model.gguf", tmp_path / "answers.qref"
    write_recorded(folder, facts["vocabulary"], facts["config"], facts["shapes"])
    converter.convert(converter.ConversionSpec(str(folder), str(path), ("Q8_0",)))
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    save(path, target, texts=(str(text),), context=64, chunks=2)
    with Fingerprint(str(target)) as file:
        assert [step.kind for step in file.facts.steps] == STEPS[name]
        assert file.facts.check.kld < 1e-7
    same = against(target, path).candidates[0]
    assert same.kld.max.value < 1e-6 and same.top1.value > 0.99


def test_a_graph_that_ends_otherwise_is_refused(pocket_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's logits decide: with another matrix than the graph's they are not met, and it is said in words."""
    path = pocket_gguf("BF16")
    recorder = Recorder(str(path), 2)
    other = np.random.default_rng(1).integers(0, 100, 2048 * 512, np.uint8)
    monkeypatch.setattr("app.quality.matrices.read", lambda path, shape: other)
    options = LoadOptions(context=256, threads=1)
    with (
        Model.load(str(path), options, capture=recorder.capture) as model,
        pytest.raises(QuenchError) as caught,
    ):
        recorder.settle(model, Window("x", tuple(range(100, 164))))
    assert caught.value.code == "unknown_head" and "nats apart" in caught.value.detail


# ---- bad files -----------------------------------------------------------------------------------------------------


def signed(data: bytes) -> bytes:
    """``data`` with the checksum that belongs to it, as one who means harm would write it."""
    return data[:-32] + hashlib.blake2b(data[:-32], digest_size=32).digest()


def refusal(path: Path, data: bytes) -> QuenchError:
    path.write_bytes(data)
    with pytest.raises(QuenchError) as caught:
        Fingerprint(str(path))
    return caught.value


def test_a_damaged_or_foreign_file_is_refused(saved: Path, tmp_path: Path) -> None:
    data, file = saved.read_bytes(), tmp_path / "bad.qref"
    random = np.random.default_rng(3)
    for place in [4, 8, len(data) - 1, len(data) - 40, *random.integers(4, len(data), 20).tolist()]:
        changed = bytearray(data)
        changed[place] ^= 1 << int(random.integers(8))
        assert refusal(file, bytes(changed)).code == "damaged_fingerprint", place
    for length in [4, 15, 16, 63, 64, 1000, len(data) - 32, len(data) - 1]:
        assert refusal(file, data[:length]).code == "damaged_fingerprint", length
    assert refusal(file, data + b"x").code == "damaged_fingerprint"
    for foreign in (b"", b"QRE", b"GGUF" + data[4:]):
        assert refusal(file, foreign).code == "not_fingerprint"
    assert refusal(file, signed(data[:4] + struct.pack("<I", 2) + data[8:])).code == "newer_fingerprint"
    with pytest.raises(QuenchError) as caught:
        Fingerprint(str(tmp_path / "none.qref"))
    assert caught.value.code == "not_found"


LIES: dict[str, dict[str, Any]] = {
    "context": {"context": 1 << 16},
    "odd context": {"context": -4},
    "windows": {"windows": [[0, 0]] * 99},
    "text": {"windows": [[0, 0], [7, 0]]},
    "vocabulary": {"size": 1 << 30},
    "width": {"shape": {"name": "token_embd.weight", "type": 30, "width": 1 << 16, "vocabulary": 2048}},
    "type": {"shape": {"name": "token_embd.weight", "type": 250, "width": 256, "vocabulary": 2048}},
    "name": {"shape": {"name": "../../x", "type": 30, "width": 256, "vocabulary": 2048}},
    "coding": {"coding": "Q9"},
    "step": {"steps": [{"kind": "scale", "factor": float("nan")}]},
    "bias": {"steps": [{"kind": "bias", "factor": 1.0}]},
    "matrix": {"matrix": {"start": 0, "length": 1 << 40}},
    "odds": {"top": 900, "tail": 900},
    "no odds": {"top": 0, "tail": 0},
    "kind": {"texts": "all"},
}


@pytest.mark.parametrize("lie", LIES)
def test_numbers_that_cannot_be_are_refused_in_spite_of_the_checksum(lie: str, saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    start, length = struct.unpack("<QQ", data[-48:-32])
    facts = msgspec.msgpack.decode(data[start : start + length]) | LIES[lie]
    packed = msgspec.msgpack.encode(facts)
    changed = data[:start] + packed + struct.pack("<QQ", start, len(packed)) + bytes(32)
    assert refusal(tmp_path / "lie.qref", signed(changed)).code == "damaged_fingerprint"


def test_tokens_and_odds_out_of_range_are_refused_when_they_are_read(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    lie = tmp_path / "lie.qref"
    lie.write_bytes(signed(data[:16] + struct.pack("<i", 5000) + data[20:]))
    with Fingerprint(str(lie)) as file, pytest.raises(QuenchError) as caught:
        file.window(0)
    assert caught.value.code == "damaged_fingerprint"
    with Fingerprint(str(saved)) as file:
        at = 16 + 4 * file.facts.context + file.facts.state_bytes
        file.odds(0)
    lie.write_bytes(signed(data[:at] + struct.pack("<f", float("nan")) + data[at + 4 :]))
    with Fingerprint(str(lie)) as file, pytest.raises(QuenchError) as caught:
        file.odds(0)
    assert caught.value.code == "damaged_fingerprint"


def test_another_text_window_or_vocabulary_is_refused(saved: Path, pocket_gguf: Make, tmp_path: Path) -> None:
    candidate = pocket_gguf("Q2_K")
    for options, code in (
        ({"texts": ("code",), "chunks": 1}, "other_text"),
        ({"context": 512}, "other_context"),
        ({"fingerprint": str(tmp_path / "again.qref")}, "bad_options"),
    ):
        with pytest.raises(QuenchError) as caught:
            against(saved, candidate, **options)
        assert caught.value.code == code
    assert not list(tmp_path.iterdir())
    part = against(saved, candidate, texts=("prose",), chunks=1)
    assert part.texts == ("prose",) and part.tokens == 127
    facts = json.loads(RECORDED.read_text(encoding="utf-8"))["llama"]
    write_recorded(tmp_path / "model", facts["vocabulary"], facts["config"], facts["shapes"])
    foreign = tmp_path / "foreign.gguf"
    converter.convert(converter.ConversionSpec(str(tmp_path / "model"), str(foreign), ("F16",)))
    with pytest.raises(QuenchError) as caught:
        against(saved, foreign)
    assert caught.value.code == "other_vocabulary"


# ---- sizes and ways --------------------------------------------------------------------------------------------------


def test_in_turn_a_run_keeps_states_and_not_logits(pocket_gguf: Make, tmp_path: Path) -> None:
    """The same figures up to the order in which float32 is added, and a fingerprint on the way."""
    candidates = [pocket_gguf("Q2_K")]
    together = measure(pocket_gguf("BF16"), *candidates)
    in_turn = measure(pocket_gguf("BF16"), *candidates, memory_mib=1, fingerprint=str(tmp_path / "f.qref"))
    for one, two in zip(together.candidates, in_turn.candidates, strict=True):
        assert two.kld.mean.value == pytest.approx(one.kld.mean.value, rel=1e-6)
        assert two.perplexity == one.perplexity, "of the candidate's own logits"
        assert (two.top1, {name: part.top1 for name, part in two.slices.items()}) == (
            one.top1,
            {name: part.top1 for name, part in one.slices.items()},
        )
    later = against(tmp_path / "f.qref", *candidates, memory_mib=1)
    assert later.candidates[0].kld == in_turn.candidates[0].kld
    assert not list(paths.cache().glob("quench-*"))


def test_an_unwritable_place_or_a_stop_leaves_nothing(pocket_gguf: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(QuenchError) as caught:
        save(pocket_gguf("BF16"), tmp_path / "file" / "f.qref")
    assert caught.value.code == "bad_output" and caught.value.exit_status == 3
    folder = tmp_path / "out"
    command = MeasureQuality(str(pocket_gguf("BF16")), (), fingerprint=str(folder / "f.qref"), **TEXTS)  # type: ignore[arg-type]
    run = QualityRun(command, lambda event: None, lambda: run.reference.divergence.windows >= 1)
    with pytest.raises(converter.spec.Cancelled):
        run.run()
    assert not list(folder.iterdir())


def test_what_the_reference_tool_takes() -> None:
    """16 bits a token and 8 bytes in front of each position: 37 GB for the usual text at 128,256 tokens."""
    assert base_file_bytes(128_256, 1) == 256_520
    assert base_file_bytes(2047, 2) == 2 * 2 * (2048 + 4)


@pytest.mark.parametrize(
    ("width", "coding", "least"), [(2048, "F16", 30), (4096, "F16", 30), (5120, "F16", 22), (8192, "Q8_K", 30)]
)
def test_what_a_position_takes_at_128256_tokens(width: int, coding: str, least: float) -> None:
    """Of the reference tool's base file; what stands once in a file comes on top, some ten bytes a position."""
    states = CODINGS[coding].row_bytes(width)
    layout = room_for_odds(128_256, 512, states)
    assert base_file_bytes(128_256, 1) / (states + 4 * 512 / 255 + layout.dtype.itemsize + 20) > least


@pytest.mark.slow
def test_at_128256_tokens_a_file_is_a_thirtieth_and_stands_alone(tmp_path: Path) -> None:
    reference, candidate = tmp_path / "reference.gguf", tmp_path / "candidate.gguf"
    wide.write(reference, 64)
    wide.write(candidate, 64, noise=0.05)
    both = measure(reference, candidate, fingerprint=str(tmp_path / "f.qref"), context=512, chunks=2)
    assert both.fingerprint is not None and both.fingerprint.base_bytes == both.tokens * 256_520
    size = (tmp_path / "f.qref").stat().st_size
    assert size == both.fingerprint.bytes < both.fingerprint.base_bytes / 30
    exact = against(tmp_path / "f.qref", candidate)
    assert exact.fingerprint is not None and exact.fingerprint.exact
    mean = both.candidates[0].kld.mean.value
    assert exact.candidates[0].kld.mean.value == pytest.approx(mean, rel=1e-6)
    reference.unlink()
    alone = against(tmp_path / "f.qref", candidate)
    assert alone.fingerprint is not None and not alone.fingerprint.exact
    assert alone.candidates[0].kld.mean.value == pytest.approx(mean, rel=4e-3)


def test_answers_to_tasks_are_saved_too(pocket_gguf: Make, tmp_path: Path) -> None:
    reference, candidate = pocket_gguf("BF16"), pocket_gguf("Q2_K")
    lines = resource("pocket-tasks.jsonl").read_text("utf-8").splitlines()
    asked, saved = tmp_path / "tasks.jsonl", tmp_path / "answers.qref"
    asked.write_text("\n".join(lines[:3] + lines[-3:]), "utf-8")
    both = measure(reference, candidate, tasks=str(asked), fingerprint=str(saved))
    alone = against(saved, candidate, tasks=str(asked))
    assert alone.reference.tasks == both.reference.tasks and sum(each.n for each in alone.reference.tasks.values()) == 6
    one, two = both.candidates[0], alone.candidates[0]
    assert (two.tasks, two.task_shift, two.flips) == (one.tasks, one.task_shift, one.flips)
    assert not against(saved, candidate).candidates[0].tasks
