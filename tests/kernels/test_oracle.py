"""The bytes are llama.cpp's: every type, kind of data, importance and shape of the case table."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import (
    BAD_WEIGHTS,
    IMPORTANCE,
    KINDS,
    Case,
    Floats,
    alignments,
    bf16_bits,
    cases,
    from_bf16,
)

ROOT = Path(__file__).resolve().parents[2]
TYPES = list(kernels.TYPES)
READABLE = list(kernels.READABLE)


def assert_same_bytes(case: Case, seed: int = 0) -> int:
    """Quantize the case with every backend, compare with the oracle, and return the number of weights."""
    rows, importance = case.data(seed)
    wanted = oracle.quantize(case.qtype, rows, importance)
    for backend in kernels.backends():
        found = kernels.quantize(case.qtype, rows, importance, finite="allow", backend=backend)
        if not np.array_equal(found, wanted):
            size = kernels.block_size(case.qtype).bytes
            differing = np.flatnonzero((found != wanted).reshape(-1, size).any(axis=1))
            raise AssertionError(f"{backend} {case}: {len(differing)} blocks differ, the first is {differing[0]}")
    return rows.size


@pytest.mark.parametrize("qtype", READABLE)
def test_block_sizes_are_the_engines(qtype: str) -> None:
    name, weights, size = oracle.traits(qtype)
    assert name.upper() == qtype
    assert kernels.block_size(qtype) == (weights, size)
    assert kernels.row_bytes(qtype, 7 * weights) == 7 * size


@pytest.mark.parametrize("qtype", TYPES)
def test_bytes_equal_the_oracle(qtype: str) -> None:
    checked = [assert_same_bytes(case) for case in cases(qtype, 2_000)]
    assert len(checked) == 7 * len(KINDS) * len(IMPORTANCE)


@pytest.mark.parametrize("qtype", TYPES)
def test_tiles_may_begin_anywhere_in_a_row(qtype: str) -> None:
    """Short and odd rows, of which the library encodes several together: bytes, and sums of errors that cross tiles."""
    for importance in ("none", "zeros"):
        for case in alignments(qtype, importance):
            assert_same_bytes(case)
            rows, weight = case.data()
            sums = {name: (np.full(len(rows), np.nan), np.full(len(rows), np.nan)) for name in kernels.backends()}
            for name, (plain, weighted) in sums.items():
                kernels.quantize(
                    qtype, rows, weight, squared_error=plain, weighted_error=weighted, finite="allow", backend=name
                )
            wanted = sums["reference"]
            assert not np.isnan(wanted).any()
            for name, found in sums.items():
                assert np.array_equal(found, wanted), f"{name} {case}"


SOURCES: dict[str, Callable[[Floats], tuple[npt.NDArray[Any], Literal["float32", "float16", "bf16"]]]] = {
    "float32": lambda rows: (rows, "float32"),
    "float16": lambda rows: (rows.astype(np.float16), "float16"),
    "bf16": lambda rows: (bf16_bits(rows), "bf16"),
}


@pytest.mark.parametrize("bad", BAD_WEIGHTS)
@pytest.mark.parametrize("qtype", TYPES)
def test_what_is_no_number_is_reported_by_every_backend(qtype: str, bad: str) -> None:
    """At the beginning, in the middle and at the end of the matrix, and in a short row, from every kind of source."""
    for n_rows, blocks in ((1, 1), (5, 7), (41, 9)):
        for importance in ("none", "zeros"):
            rows, weight = Case(qtype, "gaussian", importance, n_rows, blocks).data()
            for place in {0, rows.size // 2 + 3, rows.size - 1}:
                where = divmod(min(place, rows.size - 1), rows.shape[1])
                spoiled = rows.copy()
                spoiled[where] = BAD_WEIGHTS[bad]
                for make in SOURCES.values():
                    matrix, source = make(spoiled)
                    for backend in kernels.backends():
                        with pytest.raises(kernels.KernelError) as caught:
                            kernels.quantize(qtype, matrix, weight, source=source, backend=backend)
                        error = caught.value
                        assert (error.code, error.row, error.column) == ("not_finite", *where), backend


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("qtype", TYPES)
def test_bytes_equal_the_oracle_over_ten_million_weights(qtype: str) -> None:
    seed, total = 1, 0
    while total < 10_000_000:
        total += sum(assert_same_bytes(case, seed) for case in cases(qtype, 100_000))
        seed += 1
    assert total >= 10_000_000


def trained_tensors(folder: Path) -> Iterator[npt.NDArray[np.uint16]]:
    """The matrices of the bundled model as bfloat16 bits: header length, JSON header, data, as safetensors has it."""
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__" and len(entry["shape"]) == 2:
            assert entry["dtype"] == "BF16"
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            yield np.frombuffer(content[start:stop], np.uint16).reshape(entry["shape"])


@pytest.mark.parametrize("qtype", TYPES)
def test_trained_weights_give_the_oracles_bytes(qtype: str, pocket: Path) -> None:
    count = 0
    for bits in trained_tensors(pocket):
        rows = bits[:64]
        weight: Floats = np.random.default_rng(count).random(rows.shape[1:], np.float32)
        choices: tuple[Floats | None, ...] = (None, weight)
        for importance in choices:
            found = kernels.quantize(qtype, rows, importance, source="bf16")
            assert np.array_equal(found, oracle.quantize(qtype, from_bf16(rows), importance))
        count += 1
    assert count > 10


@pytest.mark.parametrize("importance", ["none", "heavy"])
@pytest.mark.parametrize("qtype", TYPES)
def test_half_rows_give_the_bytes_of_their_floats(qtype: str, importance: str) -> None:
    rows, weight = Case(qtype, "gaussian", importance, 3, max(5, 5120 // kernels.block_size(qtype).weights)).data()
    half = rows.astype(np.float16)
    assert np.array_equal(
        kernels.quantize(qtype, half, weight), oracle.quantize(qtype, half.astype(np.float32), weight)
    )
    brain = bf16_bits(rows)
    assert np.array_equal(
        kernels.quantize(qtype, brain, weight, source="bf16"), oracle.quantize(qtype, from_bf16(brain), weight)
    )


@pytest.mark.parametrize("kind", ["gaussian", "mixed_blocks", "huge", "denormal"])
@pytest.mark.parametrize("qtype", TYPES)
def test_decoded_floats_equal_the_oracle(qtype: str, kind: str) -> None:
    rows, _ = Case(qtype, kind, "none", 5, max(3, 768 // kernels.block_size(qtype).weights)).data()
    blocks = oracle.quantize(qtype, rows)
    for backend in kernels.backends():
        found = kernels.dequantize(qtype, blocks, rows.shape[1], backend=backend)
        assert np.array_equal(found, oracle.dequantize(qtype, blocks, rows.shape[1]), equal_nan=True)


@pytest.mark.parametrize("qtype", READABLE)
def test_arbitrary_bytes_decode_as_the_oracle_decodes_them(qtype: str) -> None:
    n_cols = 64 * kernels.block_size(qtype).weights
    blocks = np.random.default_rng(5).integers(0, 256, (40, kernels.row_bytes(qtype, n_cols)), np.uint8)
    wanted = oracle.dequantize(qtype, blocks, n_cols)
    for backend in kernels.backends():
        found = kernels.dequantize(qtype, blocks, n_cols, backend=backend)
        assert np.array_equal(found, wanted, equal_nan=True)
        assert np.array_equal(np.signbit(found[found == 0]), np.signbit(wanted[found == 0]))


def test_the_table_of_lattices_is_what_its_tool_writes() -> None:
    tool = runpy.run_path(str(ROOT / "kernels" / "tools" / "make_lattices.py"))
    assert tool["TARGET"].read_text(encoding="ascii") == tool["header"]()


def test_every_half_float_decodes_and_encodes_exactly() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(64, 1024)
    quiet = np.where((bits & 0x7FFF) > 0x7C00, (bits & 0x8000) | 0x7E00, bits)
    wide = bits.astype(np.uint32)
    for backend in kernels.backends():
        values = kernels.dequantize("F16", bits.view(np.uint8), 1024, backend=backend)
        number = (bits & 0x7FFF) <= 0x7C00
        assert np.array_equal(values[number], bits.view(np.float16).astype(np.float32)[number])
        kept = (wide & 0x8000) << 16 | 0x7FC00000 | (wide & 0x3FF) << 13
        assert np.array_equal(values.view(np.uint32)[~number], kept[~number])
        back = kernels.quantize("F16", values, finite="allow", backend=backend)
        assert np.array_equal(back.view(np.uint16), quiet)


def test_every_brain_float_decodes_and_encodes_exactly() -> None:
    bits = np.arange(65536, dtype=np.uint16).reshape(64, 1024)
    quiet = np.where((bits & 0x7FFF) > 0x7F80, bits | 0x40, bits)
    for backend in kernels.backends():
        values = kernels.dequantize("BF16", bits.view(np.uint8), 1024, backend=backend)
        assert np.array_equal(values.view(np.uint32), bits.astype(np.uint32) << 16)
        back = kernels.quantize("BF16", values, finite="allow", backend=backend)
        assert np.array_equal(back.view(np.uint16), quiet)


@pytest.mark.parametrize("qtype", ["F16", "BF16"])
def test_rounding_of_floats_over_the_whole_range(qtype: str) -> None:
    """Random bit patterns, and the neighbourhood of every tie between two half floats."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    near = np.concatenate([middles, np.nextafter(middles, np.float32(9e9)), np.nextafter(middles, np.float32(0))])
    patterns = np.random.default_rng(6).integers(0, 1 << 32, 200_000, np.uint32).view(np.float32)
    values = np.concatenate([near, -near, patterns])[None, :]
    wanted = oracle.quantize(qtype, values)
    finite = np.where(np.isfinite(values), values, 0)
    wanted_finite = oracle.quantize(qtype, finite)
    for backend in kernels.backends():
        assert np.array_equal(kernels.quantize(qtype, values, finite="allow", backend=backend), wanted)
        assert np.array_equal(kernels.quantize(qtype, finite, finite="allow", backend=backend), wanted_finite)


@pytest.mark.parametrize("importance", ["none", "uniform"])
@pytest.mark.parametrize("qtype", TYPES)
def test_signs_of_zeros_are_the_oracles(qtype: str, importance: str) -> None:
    """Blocks of zeros of both signs alone, and among positive or negative weights only: which zero counts?"""
    rows, weight = Case(qtype, "gaussian", importance, 96, max(1, 256 // kernels.block_size(qtype).weights)).data()
    rng = np.random.default_rng(9)
    zeros = rng.choice(np.array([0.0, -0.0], np.float32), rows.shape)
    zeros[::5] = -0.0
    rows = np.where(rng.random(rows.shape) < 0.3, np.abs(rows) * rng.choice([-1, 1], (96, 1)), zeros)
    rows[48:] = zeros[48:]
    rows = rows.astype(np.float32)
    wanted = oracle.quantize(qtype, rows, weight)
    for backend in kernels.backends():
        assert np.array_equal(kernels.quantize(qtype, rows, weight, backend=backend), wanted)


@pytest.mark.parametrize("qtype", TYPES)
def test_ties_and_their_neighbours_round_as_the_oracles(qtype: str) -> None:
    """Every block has exact inverses (its extremes are the codes' own), and weights at, below and above the middles."""
    middles = np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)
    every = np.concatenate([middles, np.nextafter(middles, np.float32(-999)), np.nextafter(middles, np.float32(999))])
    for top in (127.0, 15.0, 16.0, 31.0, 8.0):
        values = every[np.abs(every) < top]
        rows = np.resize(values, (-(-values.size // 30), 32)).astype(np.float32)
        rows[:, 0], rows[:, 1] = -top, np.minimum(top, 15) if top == 16 else top - (top == 8)
        rows = np.resize(rows, (len(rows) * 2, max(32, kernels.block_size(qtype).weights)))
        wanted = oracle.quantize(qtype, rows)
        for backend in kernels.backends():
            assert np.array_equal(kernels.quantize(qtype, rows, backend=backend), wanted)


@pytest.mark.parametrize("importance", ["none", "uniform"])
@pytest.mark.parametrize("qtype", TYPES)
def test_tiles_with_other_than_numbers_are_the_references(qtype: str, importance: str) -> None:
    rows, weight = Case(qtype, "gaussian", importance, 9, max(3, 512 // kernels.block_size(qtype).weights)).data()
    rng = np.random.default_rng(8)
    places = rng.integers(0, rows.size, 12)
    rows.ravel()[places] = rng.choice(np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32), 12)
    wanted = kernels.quantize(qtype, rows, weight, finite="allow", backend="reference")
    for backend in kernels.backends():
        assert np.array_equal(kernels.quantize(qtype, rows, weight, finite="allow", backend=backend), wanted)
