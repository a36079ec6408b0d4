"""Dot products: the engine's own kernels, float64, and one result from all backends."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import KINDS, Case, bf16_bits, from_bf16

SUPER_BLOCKS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
SMALL_BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL")
FLOATS = ("F32", "F16", "BF16")
TYPES = (*SUPER_BLOCKS, *SMALL_BLOCKS, *FLOATS)
BLOCKS = (1, 2, 3, 7, 8, 9, 16, 19, 40)
"""Blocks of a row: kernels take eight at a time."""

Floats = npt.NDArray[np.float32]


def data(qtype: str, blocks: int, n_rows: int = 5) -> tuple[npt.NDArray[np.uint8], Floats]:
    generator = np.random.default_rng([blocks, kernels.TYPES[qtype]])
    n_cols = blocks * kernels.block_size(qtype).weights
    rows = generator.standard_normal((n_rows, n_cols), np.float32) * np.float32(0.02)
    return kernels.quantize(qtype, rows), generator.standard_normal(n_cols, np.float32)


def planes(qtype: str, x: Floats, backend: str | None = None) -> tuple[npt.NDArray[np.int8], Floats, Floats, list[int]]:
    """Codes, scales of blocks, offsets of blocks (none for Q8_K), and the sums of 16 and 32 codes behind each other."""
    found = kernels.activations(qtype, x, backend=backend)
    width = kernels.block_size(qtype).weights
    count = x.size // width
    padded = -(-count // 8) * 8
    codes = found[: padded * width].view(np.int8)
    per_block = (16, 8) if width == 256 else (1,)
    sums = found[padded * width : padded * width + 2 * padded * sum(per_block)].view(np.int16)
    floats = found[padded * width + 2 * padded * sum(per_block) :].view(np.float32).reshape(-1, padded)
    assert not codes[x.size :].any() and not floats[:, count:].any()
    used, start = [], 0
    for part in per_block:
        used += sums[start : start + count * part].tolist()
        start += padded * part
    offsets = floats[1, :count] if width == 32 else np.zeros(0, np.float32)
    return codes[: x.size], floats[0, :count], offsets, used


def vectors(n_cols: int) -> dict[str, Floats]:
    """Every kind of data of the case table as a vector, and extremes of vectors."""
    found = {}
    for kind, make in KINDS.items():
        rows = make(np.random.default_rng([7, len(kind)]), (1, n_cols))
        found[kind] = np.ascontiguousarray(rows[0], np.float32)
    found["nothing"] = np.zeros(n_cols, np.float32)
    found["negative outlier"] = np.full(n_cols, 1e-3, np.float32)
    found["negative outlier"][n_cols // 3] = -1e4
    found["two peaks"] = np.zeros(n_cols, np.float32)
    found["two peaks"][[3, 5]] = -2, 2
    found["smallest"] = np.full(n_cols, 1e-45, np.float32)
    return {kind: x for kind, x in found.items() if np.isfinite(x).all()}


@pytest.mark.parametrize("qtype", ("Q4_K", "Q8_0", "Q4_1"))
def test_activations_are_the_engines(qtype: str) -> None:
    for kind, x in vectors(256 * 11).items():
        name, wanted = oracle.activations(qtype, x)
        for backend in kernels.backends():
            codes, scales, offsets, sums = planes(qtype, x, backend)
            if name == "q8_K":
                assert np.array_equal(codes.reshape(-1, 256), wanted[:, 4:260].view(np.int8)), (kind, backend)
                assert np.array_equal(scales.view(np.uint32), wanted[:, :4].view(np.uint32)[:, 0]), (kind, backend)
                sixteens = codes.reshape(-1, 16).sum(axis=1, dtype=int)
                assert sums == [*sixteens, *sixteens.reshape(-1, 2).sum(axis=1)], (kind, backend)
                zero = scales == 0  # the engine leaves the sums of such blocks as they were
                assert np.array_equal(sixteens.reshape(-1, 16)[~zero], wanted[~zero, 260:].view(np.int16))
            else:
                head = 4 if name == "q8_1" else 2
                assert np.array_equal(codes.reshape(-1, 32), wanted[:, head:].view(np.int8)), (kind, backend)
                assert np.array_equal(scales, wanted[:, :2].view(np.float16)[:, 0].astype(np.float32)), (kind, backend)
                assert sums == codes.reshape(-1, 32).sum(axis=1, dtype=int).tolist()
                if name == "q8_1":
                    wanted_offsets = wanted[:, 2:4].view(np.float16)[:, 0].astype(np.float32)
                    assert np.array_equal(offsets, wanted_offsets, equal_nan=True), (kind, backend)


def magnitudes(qtype: str, blocks: npt.NDArray[np.uint8], x: Floats) -> npt.NDArray[np.float64]:
    """Sums of |weight| * |x|: what rounding errors are measured by."""
    sizes: npt.NDArray[np.float64] = np.abs(kernels.dequantize(qtype, blocks, x.size).astype(np.float64)) @ np.abs(x)
    return sizes


@pytest.mark.parametrize("qtype", (*SUPER_BLOCKS, *SMALL_BLOCKS))
def test_products_are_the_engines(qtype: str) -> None:
    for count in BLOCKS:
        blocks, x = data(qtype, count)
        wanted = oracle.dot(qtype, blocks, x)
        for backend in kernels.backends():
            apart = np.abs(kernels.dot(qtype, blocks, x, backend=backend) - wanted.astype(np.float64))
            assert (apart <= 1e-6 * magnitudes(qtype, blocks, x)).all(), (count, backend)


@pytest.mark.parametrize("qtype", (*SUPER_BLOCKS, *SMALL_BLOCKS))
def test_products_are_those_of_the_decoded_numbers(qtype: str) -> None:
    """In float64. Q8_1 keeps its sum in 16 bits, as the engine does: a rougher bound for its two types."""
    bound = 1e-3 if qtype in ("Q4_1", "Q5_1") else 1e-6
    for count in BLOCKS:
        blocks, x = data(qtype, count)
        codes, scales, _, _ = planes(qtype, x)
        decoded = (codes.reshape(count, -1) * scales.astype(np.float64)[:, None]).ravel()
        wanted = kernels.dequantize(qtype, blocks, x.size).astype(np.float64) @ decoded
        apart = np.abs(kernels.dot(qtype, blocks, x) - wanted)
        assert (apart <= bound * magnitudes(qtype, blocks, x)).all(), count


@pytest.mark.parametrize("qtype", FLOATS)
def test_rows_of_floats_are_multiplied_as_floats(qtype: str) -> None:
    generator = np.random.default_rng(3)
    for n_cols in (1, 15, 31, 32, 33, 100, 4096, 8192, 8200, 20_001):
        rows, x = generator.standard_normal((3, n_cols), np.float32), generator.standard_normal(n_cols, np.float32)
        if qtype == "F16":
            rows = rows.astype(np.float16).astype(np.float32)
        if qtype == "BF16":
            rows = from_bf16(bf16_bits(rows))
        found = kernels.dot(qtype, kernels.quantize(qtype, rows), x)
        wanted = rows.astype(np.float64) @ x.astype(np.float64)
        assert (np.abs(found - wanted) <= 2e-6 * (np.abs(rows).astype(np.float64) @ np.abs(x))).all(), n_cols


def same(a: Floats, b: Floats) -> bool:
    """Equal to the last bit; a NaN's sign and payload are the processor's own."""
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and np.array_equal(a[~nan].view(np.uint32), b[~nan].view(np.uint32))


@pytest.mark.parametrize("qtype", TYPES)
def test_all_backends_agree_to_the_last_bit(qtype: str) -> None:
    generator = np.random.default_rng(kernels.TYPES[qtype])
    for count in BLOCKS:
        blocks, x = data(qtype, count)
        noise = generator.integers(0, 256, (17, blocks.shape[1]), np.uint8)
        for rows in (blocks, noise):
            wanted = kernels.dot(qtype, rows, x, backend="reference")
            for backend in kernels.backends():
                assert same(kernels.dot(qtype, rows, x, backend=backend), wanted), (count, backend)
    blocks, _ = data(qtype, 3 * 256 // kernels.block_size(qtype).weights)
    for kind, x in vectors(3 * 256).items():
        wanted = kernels.dot(qtype, blocks, x, backend="reference")
        for backend in kernels.backends():
            assert same(kernels.dot(qtype, blocks, x, backend=backend), wanted), (kind, backend)


@pytest.mark.parametrize("qtype", TYPES)
def test_extreme_levels_and_codes_overflow_nothing(qtype: str) -> None:
    """All bits set, and none, around a scale of one half: the largest integers that a block can hold."""
    weights, size = kernels.block_size(qtype)
    count = 2 * 256 // weights
    x = np.where(np.arange(512) % 3 == 0, -127, 127).astype(np.float32)  # codes of these are exact
    for fill in (0x00, 0x7F, 0x80, 0xFF, 0x8F, 0x78):
        blocks = np.full((1, count * size), fill, np.uint8)
        for half in halves(qtype):
            blocks.reshape(count, size)[:, half] = 0
            blocks.reshape(count, size)[:, half + 1] = 0x38
        wanted = kernels.dequantize(qtype, blocks, 512).astype(np.float64) @ x
        bound = 1e-3 if qtype in ("Q4_1", "Q5_1") else 1e-5
        for backend in kernels.backends():
            apart = np.abs(kernels.dot(qtype, blocks, x, backend=backend) - wanted)
            assert apart <= bound * magnitudes(qtype, blocks, x) + 1e-4, (fill, backend)


def halves(qtype: str) -> tuple[int, ...]:
    """Where a block's 16-bit floats are."""
    return {
        "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
        "Q4_1": (0, 2), "Q5_1": (0, 2), "F32": (2,), "BF16": (0,),
    }.get(qtype, (0,))  # fmt: skip


@pytest.mark.parametrize("qtype", ("Q4_K", "Q6_K", "Q8_0", "F16"))
def test_nothing_times_anything_is_nothing(qtype: str) -> None:
    blocks, x = data(qtype, 40)
    assert not kernels.dot(qtype, blocks, np.zeros_like(x)).any()
    assert not kernels.dot(qtype, kernels.quantize(qtype, np.zeros((3, x.size), np.float32)), x).any()


@pytest.mark.parametrize("qtype", ("Q2_K", "Q5_K", "IQ4_NL", "BF16"))
def test_rows_may_be_split_and_lie_anywhere(qtype: str) -> None:
    blocks, x = data(qtype, 9, 11)
    wanted = kernels.dot(qtype, blocks, x)
    parts = [kernels.dot(qtype, blocks[first : first + 3], x) for first in range(0, 11, 3)]
    assert np.array_equal(np.concatenate(parts), wanted)
    for shift in (1, 2, 3):
        moved = np.frombuffer(b"x" * shift + blocks.tobytes(), np.uint8, blocks.size, shift).reshape(blocks.shape)
        assert np.array_equal(kernels.dot(qtype, moved, x), wanted)
        odd = np.frombuffer(b"x" * shift + x.tobytes(), np.float32, x.size, shift)
        assert np.array_equal(kernels.dot(qtype, blocks, odd), wanted)
    assert np.array_equal(kernels.dot(qtype, blocks, kernels.activations(qtype, x)), wanted)
    out = np.empty(11, np.float32)
    assert kernels.dot(qtype, blocks, x, out=out) is out
    assert np.array_equal(out, wanted)
    assert kernels.dot(qtype, blocks[:0], x).shape == (0,)
    assert np.array_equal(kernels.dot(qtype, blocks, np.repeat(x, 2)[::2]), wanted)


def test_a_kind_of_data_that_training_leaves_behind() -> None:
    case = Case("Q4_K", "laplace", "none", 7, 19)
    rows, _ = case.data()
    blocks, x = kernels.quantize("Q4_K", rows), rows[3]
    apart = np.abs(kernels.dot("Q4_K", blocks, x) - oracle.dot("Q4_K", blocks, x).astype(np.float64))
    assert (apart <= 1e-6 * magnitudes("Q4_K", blocks, x)).all()


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, np.nan), (511, np.inf), (256, -np.inf), (300, np.uint32(0x7F800001).view(np.float32))],
)
@pytest.mark.parametrize("qtype", ("Q4_K", "Q8_0", "F32"))
def test_x_that_is_not_finite_is_refused(qtype: str, column: int, value: float) -> None:
    blocks, x = data(qtype, 512 // kernels.block_size(qtype).weights)
    x[column] = value
    for backend in kernels.backends():
        with pytest.raises(kernels.KernelError) as caught:
            kernels.dot(qtype, blocks, x, backend=backend)
        assert (caught.value.code, caught.value.column) == ("not_finite", column)


def test_what_does_not_fit_is_refused() -> None:
    blocks, x = data("Q4_K", 2)
    prepared = kernels.activations("Q4_K", x)
    shifted = np.zeros(prepared.size + 128, np.uint8)
    shifted = shifted[-shifted.ctypes.data % 64 + 4 :][: prepared.size]
    strided = np.zeros((5, 2 * blocks.shape[1]), np.uint8)[:, ::2]
    calls = [
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, x.astype(np.float64))),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, x.reshape(1, -1))),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, x.tolist())),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks[0], x)),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks.view(np.int8), x)),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks[:, :-1].copy(), x)),
        ("bad_array", lambda: kernels.dot("Q4_K", strided, x)),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, x, out=np.empty(4, np.float32))),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, x, out=np.empty(5))),
        ("bad_shape", lambda: kernels.dot("Q4_K", blocks, x[:-1].copy())),
        ("bad_shape", lambda: kernels.dot("Q4_K", blocks, x[:0])),
        ("unknown_type", lambda: kernels.dot("Q4_X", blocks, x)),
        ("unknown_backend", lambda: kernels.dot("Q4_K", blocks, x, backend="abacus")),
        ("no_dot", lambda: kernels.dot("IQ2_XXS", np.zeros((1, 132), np.uint8), x)),
        ("no_dot", lambda: kernels.dot("IQ2_XXS", np.zeros((1, 132), np.uint8), prepared)),
        ("bad_array", lambda: kernels.dot("Q6_K", blocks, prepared)),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, prepared[:-1])),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, prepared[None])),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks, shifted)),
        ("bad_array", lambda: kernels.dot("Q4_K", blocks[:, :0].copy(), prepared)),
    ]
    for code, call in calls:
        with pytest.raises(kernels.KernelError) as caught:
            call()
        assert caught.value.code == code


def test_the_library_checks_sizes_again() -> None:
    """Called past the Python checks; 1 bad backend, 2 bad type, 3 bad shape, 4 bad buffer."""
    library = kernels._library.library()
    blocks, x = data("Q4_K", 2)
    vector, out = kernels.activations("Q4_K", x), np.empty(5, np.float32)
    good = [0, 12, blocks.ctypes.data, blocks.nbytes, 5, 512, vector.ctypes.data, vector.nbytes, out.ctypes.data, 20]
    assert library.quench_dot(*good) == 0
    wrong = [
        (0, 99, 1), (0, -1, 1), (1, 99, 2), (1, 16, 2), (2, None, 4), (3, blocks.nbytes - 1, 4), (4, -1, 3), (4, 4, 4),
        (4, 1 << 62, 3), (5, 511, 3), (5, 0, 3), (6, None, 4), (6, vector.ctypes.data + 4, 4),
        (7, vector.nbytes - 4, 4), (8, None, 4), (9, 16, 4),
    ]  # fmt: skip
    for place, value, status in wrong:
        arguments = [*good[:place], value, *good[place + 1 :]]
        assert library.quench_dot(*arguments) == status, (place, value)
    prepare = [0, 12, x.ctypes.data, 512, vector.ctypes.data, vector.nbytes, None]
    assert library.quench_activations(*prepare) == 0
    wrong = [
        (0, 99, 1),
        (1, 16, 2),
        (2, None, 4),
        (3, 100, 3),
        (4, None, 4),
        (4, vector.ctypes.data + 32, 4),
        (5, 1, 4),
    ]
    for place, value, status in wrong:
        arguments = [*prepare[:place], value, *prepare[place + 1 :]]
        assert library.quench_activations(*arguments) == status, (place, value)
    assert library.quench_activations_size(12, 512, None) == 4
    assert library.quench_activations_size(16, 512, None) == 2
