"""What the Python face accepts, refuses and reports."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import KernelError
from tests.kernels import oracle
from tests.kernels.cases import Case, bf16_bits

ROOT = Path(__file__).resolve().parents[2]
TYPES = list(kernels.TYPES)
QUANTIZED = [name for name in TYPES if kernels.block_size(name).weights > 1]


def gaussian(n_rows: int = 4, n_cols: int = 512, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((n_rows, n_cols), np.float32)


def refused(call: Callable[[], object]) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call()
    assert str(caught.value) == caught.value.message
    assert isinstance(caught.value, ValueError)
    return caught.value


# ---- weights that cannot be represented ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("qtype", TYPES)
def test_a_weight_that_is_no_number_is_reported_with_its_place(qtype: str, bad: float) -> None:
    rows = gaussian(5, 8192)
    rows[3, 5000] = bad
    rows[4, 1] = bad
    out = np.full((5, kernels.row_bytes(qtype, 8192)), 0xAB, np.uint8)
    error = refused(lambda: kernels.quantize(qtype, rows, out=out))
    assert (error.code, error.row, error.column) == ("not_finite", 3, 5000)
    assert "row 3, column 5000" in error.message
    block = kernels.block_size(qtype)
    written = out[3].reshape(-1, block.bytes)
    assert (written[5000 // block.weights] == 0xAB).all(), "the block of the bad weight was not written"
    assert (out[4] == 0xAB).all()


@pytest.mark.parametrize(("dtype", "source"), [(np.float16, None), (np.uint16, "bf16")])
def test_sixteen_bit_rows_are_checked_too(dtype: Any, source: Any) -> None:
    rows = np.zeros((2, 256), dtype)
    rows[1, 77] = np.float16(np.inf) if source is None else 0x7FC0
    error = refused(lambda: kernels.quantize("Q4_K", rows, source=source))
    assert (error.code, error.row, error.column) == ("not_finite", 1, 77)


@pytest.mark.parametrize("qtype", QUANTIZED)
def test_weights_beyond_the_scale_are_reported_with_their_block(qtype: str) -> None:
    rows = gaussian(3, 8192)
    rows[1, 4500] = 3e8
    block = kernels.block_size(qtype)
    out = np.full((3, kernels.row_bytes(qtype, 8192)), 0xAB, np.uint8)
    error = refused(lambda: kernels.quantize(qtype, rows, out=out))
    assert (error.code, error.row) == ("overflow", 1)
    assert error.column == 4500 // block.weights * block.weights
    refused_block = out[1].reshape(-1, block.bytes)[4500 // block.weights]
    assert not refused_block.any(), "an infinite scale was left in the output"


def test_halves_that_overflow_are_reported() -> None:
    rows = gaussian(2, 64)
    rows[1, 9] = 65520.0
    error = refused(lambda: kernels.quantize("F16", rows))
    assert (error.code, error.row, error.column) == ("overflow", 1, 9)
    rows[1, 9] = 65519.0
    assert kernels.quantize("F16", rows).view(np.float16)[1, 9] == 65504


@pytest.mark.parametrize("qtype", QUANTIZED)
def test_allowed_nonsense_ends(qtype: str) -> None:
    rows = gaussian(2, 512)
    rows[0, :3] = [np.nan, np.inf, -np.inf]
    rows[1, :] = np.nan
    blocks = kernels.quantize(qtype, rows, np.ones(512, np.float32), finite="allow")
    assert blocks.shape == (2, kernels.row_bytes(qtype, 512))


def test_importance_is_checked() -> None:
    rows = gaussian()
    for bad in (np.nan, np.inf, -1.0):
        weight = np.ones(512, np.float32)
        weight[300] = bad
        error = refused(lambda weight=weight: kernels.quantize("Q4_K", rows, weight))  # type: ignore[misc]
        assert (error.code, error.column) == ("bad_importance", 300)
    for wrong in (np.ones(511, np.float32), np.ones(512, np.float64), np.ones((1, 512), np.float32), [1.0] * 512):
        error = refused(lambda wrong=wrong: kernels.quantize("Q4_K", rows, wrong))  # type: ignore[misc]
        assert error.code == "bad_importance"


# ---- shapes and arrays ----


@pytest.mark.parametrize("qtype", QUANTIZED)
def test_rows_must_be_whole_blocks(qtype: str) -> None:
    weights = kernels.block_size(qtype).weights
    for n_cols in (0, 1, weights - 1, weights + 16, 3 * weights // 2):
        assert refused(lambda n_cols=n_cols: kernels.row_bytes(qtype, n_cols)).code == "bad_shape"  # type: ignore[misc]
        rows = np.zeros((2, n_cols), np.float32)
        assert refused(lambda rows=rows: kernels.quantize(qtype, rows)).code == "bad_shape"  # type: ignore[misc]
    assert refused(lambda: kernels.row_bytes(qtype, -weights)).code == "bad_shape"


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros(256, np.float32),
        np.zeros((1, 1, 256), np.float32),
        np.zeros((1, 256), np.float64),
        np.zeros((1, 256), np.int16),
        np.zeros((1, 256), np.uint16),
        np.zeros((1, 256), ">f4"),
        np.zeros((256, 2), np.float32).T,
        np.zeros((1, 512), np.float32)[:, ::2],
        [[0.0] * 256],
    ],
    ids=lambda rows: f"{getattr(rows, 'dtype', 'list')}{getattr(rows, 'shape', '')}{getattr(rows, 'strides', '')}",
)
def test_wrong_rows_are_refused(rows: Any) -> None:
    assert refused(lambda: kernels.quantize("Q4_K", rows)).code == "bad_array"


@pytest.mark.parametrize("source", ["float16", "bf16", "float64"])
def test_a_source_that_does_not_fit_the_array_is_refused(source: Any) -> None:
    assert refused(lambda: kernels.quantize("Q4_K", gaussian(), source=source)).code == "bad_array"


def test_wrong_outputs_are_refused() -> None:
    rows, width = gaussian(4, 512), kernels.row_bytes("Q4_K", 512)
    read_only = np.zeros((4, width), np.uint8)
    read_only.flags.writeable = False
    wrong: list[Any] = [
        np.zeros((4, width - 1), np.uint8),
        np.zeros((3, width), np.uint8),
        np.zeros(4 * width, np.uint8),
        np.zeros((4, width), np.int8),
        np.zeros((4, 2 * width), np.uint8)[:, ::2],
        np.zeros((4, width + 8), np.uint8)[:, :width],
        read_only,
        bytearray(4 * width),
    ]
    for out in wrong:
        assert refused(lambda out=out: kernels.quantize("Q4_K", rows, out=out)).code == "bad_array"  # type: ignore[misc]
    blocks = kernels.quantize("Q4_K", rows)
    for values in (np.zeros((4, 511), np.float32), np.zeros((4, 512)), np.zeros((4, 1024), np.float32)[:, :512]):
        call = lambda values=values: kernels.dequantize("Q4_K", blocks, 512, out=values)  # noqa: E731
        assert refused(call).code == "bad_array"


def test_wrong_blocks_are_refused() -> None:
    blocks = kernels.quantize("Q4_K", gaussian(4, 512))
    for wrong in (blocks[:, :-1], blocks.view(np.int8), blocks.ravel(), np.hstack([blocks, blocks]), blocks[:, ::-1]):
        assert refused(lambda wrong=wrong: kernels.dequantize("Q4_K", wrong, 512)).code == "bad_array"  # type: ignore[misc]
    assert refused(lambda: kernels.dequantize("Q4_K", blocks, 500)).code == "bad_shape"
    assert refused(lambda: kernels.dequantize("Q4_K", blocks, 1 << 62)).code == "bad_array"


def test_error_sums_need_their_own_array() -> None:
    rows = gaussian(4, 512)
    for wrong in (np.zeros(3), np.zeros(4, np.float32), np.zeros(8)[::2], [0.0] * 4):
        call = lambda wrong=wrong: kernels.quantize("Q4_K", rows, squared_error=wrong)  # noqa: E731
        assert refused(call).code == "bad_array"


def test_other_refusals() -> None:
    rows = gaussian()
    assert refused(lambda: kernels.quantize("Q4_K_M", rows)).code == "unknown_type"
    for only_read in kernels.READABLE.keys() - kernels.TYPES.keys():
        assert refused(lambda name=only_read: kernels.quantize(name, rows)).code == "read_only"  # type: ignore[misc]
    assert "Q4_K" in refused(lambda: kernels.dequantize("q4_k", rows, 512)).message
    assert refused(lambda: kernels.quantize("Q4_K", rows, backend="cray")).code == "unknown_backend"
    assert refused(lambda: kernels.quantize("Q4_K", rows, finite="maybe")).code == "bad_array"  # type: ignore[arg-type]


# ---- layout of the input does not change the output ----


@pytest.mark.parametrize("qtype", ["F16", "Q8_0", "Q4_0", "Q3_K", "Q4_K"])
def test_rows_apart_backwards_repeated_and_unaligned(qtype: str) -> None:
    rows = gaussian(6, 512)
    wanted = oracle.quantize(qtype, rows)
    wide = np.zeros((12, 700), np.float32)
    wide[::2, 100:612] = rows
    assert np.array_equal(kernels.quantize(qtype, wide[::2, 100:612]), wanted)
    assert np.array_equal(kernels.quantize(qtype, rows[::-1]), wanted[::-1])
    repeated = np.broadcast_to(rows[2], (5, 512))
    assert np.array_equal(kernels.quantize(qtype, repeated), np.broadcast_to(wanted[2], (5, wanted.shape[1])))
    for offset in (1, 2, 3):
        memory = np.zeros(rows.nbytes + 8, np.uint8)
        memory[offset : offset + rows.nbytes] = rows.view(np.uint8).ravel()
        unaligned = np.frombuffer(memory, np.float32, rows.size, offset).reshape(rows.shape)
        assert not unaligned.flags.aligned
        assert np.array_equal(kernels.quantize(qtype, unaligned), wanted)


def test_read_only_rows_and_importance_are_enough() -> None:
    rows, weight = gaussian(4, 512), np.ones(1024, np.float32)[::2]
    rows.flags.writeable = weight.flags.writeable = False
    assert np.array_equal(
        kernels.quantize("Q5_K", rows, weight), oracle.quantize("Q5_K", rows, np.ones(512, np.float32))
    )


def test_no_rows_give_no_blocks() -> None:
    empty = kernels.quantize("Q6_K", np.zeros((0, 512), np.float32))
    assert empty.shape == (0, kernels.row_bytes("Q6_K", 512))
    assert kernels.dequantize("Q6_K", empty, 512).shape == (0, 512)


def test_outputs_are_reused_and_returned() -> None:
    rows = gaussian(4, 512)
    out = np.full((4, kernels.row_bytes("Q4_K", 512)), 0xAB, np.uint8)
    assert kernels.quantize("Q4_K", rows, out=out) is out
    assert np.array_equal(out, oracle.quantize("Q4_K", rows))
    values = np.full((4, 512), np.nan, np.float32)
    assert kernels.dequantize("Q4_K", out, 512, out=values) is values
    assert np.array_equal(values, oracle.dequantize("Q4_K", out, 512))


# ---- error of the result ----


@pytest.mark.parametrize("importance", ["none", "heavy"])
@pytest.mark.parametrize("qtype", TYPES)
def test_squared_error_is_that_of_the_decoded_rows(qtype: str, importance: str) -> None:
    per_block = kernels.block_size(qtype).weights
    rows, weight = Case(qtype, "student", importance, 7, 4608 // per_block).data()
    errors = np.full(7, np.nan)
    blocks = kernels.quantize(qtype, rows, weight, squared_error=errors)
    assert np.array_equal(blocks, oracle.quantize(qtype, rows, weight)), "asking for the error changes nothing"
    decoded = oracle.dequantize(qtype, blocks, rows.shape[1])
    wanted = ((rows.astype(np.float64) - decoded) ** 2).sum(axis=1)
    np.testing.assert_allclose(errors, wanted, rtol=1e-12, atol=0)
    assert (errors > 0).all() or qtype == "F32"


def test_squared_error_counts_from_the_source_as_given() -> None:
    brain = bf16_bits(gaussian(2, 512))
    errors = np.ones(2)
    kernels.quantize("BF16", brain, source="bf16", squared_error=errors)
    assert not errors.any()


# ---- backends ----


def test_the_reference_is_always_there_and_last() -> None:
    assert kernels.backends()[-1] == "reference"
    assert len(set(kernels.backends())) == len(kernels.backends())
    assert kernels.active() in kernels.backends()
    assert kernels.cpu()


def test_selecting_backends() -> None:
    default = kernels.active()
    try:
        for name in kernels.backends():
            assert kernels.select(name) == name == kernels.active()
        error = refused(lambda: kernels.select("cray"))
        assert error.code == "unknown_backend"
        assert "reference" in error.message
        assert kernels.active() == kernels.backends()[-1], "a refused choice changes nothing"
    finally:
        assert kernels.select(None) == default


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_environment_forces_a_backend() -> None:
    result = python("import kernels; print(kernels.active())", QUENCH_KERNELS="reference")
    assert (result.returncode, result.stdout.strip()) == (0, "reference")


def test_a_wrong_name_in_the_environment_is_an_error_value() -> None:
    program = """
import kernels, numpy
for call in (kernels.active, lambda: kernels.quantize("Q4_K", numpy.zeros((1, 256), numpy.float32))):
    try:
        call()
    except kernels.KernelError as error:
        print(error.code, "reference" in error.message, "cray" in error.message)
print(kernels.select("reference"), kernels.backends()[-1])
"""
    result = python(program, QUENCH_KERNELS="cray")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:3] == ["unknown_backend True True"] * 2 + ["reference reference"]


def test_a_missing_or_foreign_library_is_a_clear_error(tmp_path: Path) -> None:
    program = """
import kernels
try:
    kernels.backends()
except kernels.KernelError as error:
    print(error.code, error.message)
"""
    missing = tmp_path / "nowhere.so"
    result = python(program, QUENCH_KERNELS_LIBRARY=str(missing))
    assert result.stdout.startswith("no_library"), result.stderr
    assert str(missing) in result.stdout
    text = tmp_path / "text.so"
    text.write_text("not a library")
    assert python(program, QUENCH_KERNELS_LIBRARY=str(text)).stdout.startswith("bad_library")
    assert python(program, QUENCH_KERNELS_LIBRARY=str(oracle.path())).stdout.startswith("bad_library")


def test_importing_loads_numpy_alone() -> None:
    program = "import sys, kernels; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(python(program).stdout.split())
    assert {"kernels", "numpy"} <= loaded
    assert not loaded & {"gguf", "msgspec", "llama_cpp", "PySide6", "tokenizers", "app", "converter"}


# ---- threads, golden table, bench ----


@pytest.mark.parametrize("qtype", ["Q4_K", "Q3_K", "Q8_0", "F16"])
def test_threads_write_the_bytes_of_one_call(qtype: str) -> None:
    rows = gaussian(64, 1024)
    weight = np.random.default_rng(1).random(1024, np.float32)
    wanted = oracle.quantize(qtype, rows, weight)
    out = np.zeros_like(wanted)
    start = threading.Barrier(4)

    def work(part: int) -> None:
        start.wait()
        for _ in range(3):
            kernels.quantize(qtype, rows[part::4][::-1], weight)
            kernels.quantize(qtype, rows[16 * part : 16 * part + 16], weight, out=out[16 * part : 16 * part + 16])

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(out, wanted)


def test_selftest_passes_on_every_backend_and_type() -> None:
    results = kernels.selftest()
    assert [result for result in results if not result["passed"]] == []
    for backend in kernels.backends():
        asked = {(result["kernel"], result["type"]) for result in results if result["backend"] == backend}
        for kernel in ("quantize", "quantize with importance", "quantize 16-bit rows", "refuse", "dot"):
            assert {qtype for name, qtype in asked if name == kernel} == set(TYPES)
        assert {qtype for name, qtype in asked if name == "dequantize"} == set(kernels.READABLE)
    assert refused(lambda: kernels.selftest("cray")).code == "unknown_backend"


def test_the_golden_tables_are_the_oracles() -> None:
    import zlib

    from kernels import _selftest

    rows, importance = _selftest.generated()
    assert list(_selftest.GOLDEN) == TYPES
    for qtype, golden in _selftest.GOLDEN.items():
        blocks = oracle.quantize(qtype, rows)
        weighted = oracle.quantize(qtype, rows, importance)
        decoded = oracle.dequantize(qtype, blocks, _selftest.N_COLS)
        assert golden == tuple(zlib.crc32(part.tobytes()) for part in (blocks, weighted, decoded))
    assert list(_selftest.GOLDEN_NOISE) == list(kernels.READABLE)
    for qtype, sum_of_noise in _selftest.GOLDEN_NOISE.items():
        width = kernels.row_bytes(qtype, 9 * 256)
        values = oracle.dequantize(qtype, _selftest.noise(5 * width).reshape(5, width), 9 * 256).copy()
        values[np.isnan(values)] = np.nan
        assert sum_of_noise == zlib.crc32(values.tobytes())


def test_bench_times_every_kernel() -> None:
    trained = np.random.default_rng(3).standard_normal((16, 4096), np.float32)
    heard: list[tuple[str, int, int]] = []
    results = kernels.bench(
        ["Q4_K", "F16"], oracle=str(oracle.path()), repeats=1, samples={"trained": trained},
        on_step=lambda *step: heard.append(step),
    )  # fmt: skip
    plain, weighted = "quantize", "quantize with importance"
    refined = ["quantize refined", "quantize refined with importance"]
    found = [(result["type"], result["data"], result["kernel"]) for result in results[:: len(kernels.backends())]]
    assert found == [
        *(("Q4_K", "gaussian", kernel) for kernel in (plain, weighted, *refined, "dequantize", "dot")),
        *(("Q4_K", "trained", kernel) for kernel in (plain, weighted)),
        *(("F16", "gaussian", kernel) for kernel in (plain, weighted, "dequantize", "dot")),
        *(("F16", "trained", kernel) for kernel in (plain, weighted)),
    ]
    for result in results:
        assert result["weights"] % 4096 == 0
        assert result["million_weights_per_second"] > 0
        assert result["gigabytes_per_second"] > 0
        assert result["oracle_ratio"] is None if result["kernel"] == "dot" else result["oracle_ratio"] > 0
    assert heard == [(f"{kernel} {qtype}", step, len(found)) for step, (qtype, _, kernel) in enumerate(found)]
    assert refused(lambda: kernels.bench(["Q4_K"], oracle="nowhere.so")).code == "no_oracle"
    assert refused(lambda: kernels.bench(["Q9_K"])).code == "unknown_type"
