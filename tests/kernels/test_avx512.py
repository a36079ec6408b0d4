"""The AVX-512 backend on any processor: its sources with the instructions emulated, against the case table.

What this shows: the kernels' algorithm, lane by lane, and that none of them reads what an instruction leaves undefined.
What it cannot show: what a compiler makes of the real instructions, and speed.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.native import (
    COMPILER,
    HERE,
    QUICKLY_BUILT,
    build,
    build_replay,
    calls,
    dot_calls,
    needs_cmake,
    needs_linux,
    replay,
    run,
)
from tests.kernels.test_rows_native import check, program

BACKENDS = ["avx512", "reference"]

pytestmark = [
    pytest.mark.timeout(3600),
    needs_cmake,
    pytest.mark.skipif(not Path("/usr/include/simde/x86/avx512.h").is_file(), reason="no libsimde-dev on this machine"),
]


EMULATED = "-DQUENCH_AVX512_SHIM=ON"


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with the emulated backend and the reference alone."""
    return build(tmp_path_factory.mktemp("avx512"), EMULATED, *QUICKLY_BUILT)


@pytest.fixture(scope="module")
def emulated_replay(emulated: Path) -> Path:
    assert COMPILER is not None
    return build_replay(COMPILER, emulated)


@pytest.mark.slow
def test_emulated_avx512_writes_the_same_bytes_over_the_whole_table(emulated_replay: Path) -> None:
    assert replay([emulated_replay], calls(quick=False), BACKENDS) > 10_000


@pytest.mark.slow
def test_dot_products_without_vnni_give_the_same_floats(emulated_replay: Path) -> None:
    """The other tests' processor has VNNI."""
    assert replay(["env", "QUENCH_SHIM_NO_VNNI=1", emulated_replay], dot_calls(), BACKENDS) > 100


@pytest.mark.slow
def test_rows_of_logits_give_the_same_bits(emulated: Path) -> None:
    assert COMPILER is not None
    check([program(COMPILER, emulated.parent)])


@pytest.mark.slow
@pytest.mark.parametrize("module", ["oracle", "refined", "dot", "rows"])
def test_the_kernels_own_tests_pass_with_the_emulated_backend(emulated: Path, module: str) -> None:
    """Refusals and where they are, trained weights, vectors of every kind, wide vocabularies."""
    run(sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider",
        HERE / f"test_{module}.py", QUENCH_KERNELS="", QUENCH_KERNELS_LIBRARY=str(emulated))  # fmt: skip


@pytest.mark.slow
@needs_linux
def test_no_kernel_touches_memory_beyond_its_buffers(tmp_path: Path) -> None:
    """By addresses alone: the emulation itself leaves more undefined than the instructions do."""
    assert COMPILER is not None
    library = build(tmp_path, EMULATED, "-DQUENCH_SANITIZE=address", *QUICKLY_BUILT)
    assert replay([build_replay(COMPILER, library, "-fsanitize=address")], calls(quick=True), BACKENDS) > 1000


# ---- the emulation itself ----

Array = npt.NDArray[Any]


def words(rng: np.random.Generator, dtype: str) -> Array:
    """Any bits, and both ends of the range beside each other."""
    found = rng.integers(-(1 << 15), 1 << 15, (2, 4096)).astype(np.int16)
    found[:, :64] = np.repeat([[-(1 << 15), -1, 0, (1 << 15) - 1]], 16)
    found[1, :64] = np.tile([-(1 << 15), -1, 0, (1 << 15) - 1], 16)
    return found.view(dtype)


def floats(rng: np.random.Generator) -> Array:
    """Any bits; numbers around the ties of 16-bit floats and of integers; zeros, infinities, NaNs."""
    any_bits = rng.integers(0, 1 << 32, 8192, np.uint32).view(np.float32)
    halves = np.arange(1 << 15, dtype=np.uint16).view(np.float16)[:0x7C00].astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    near = np.concatenate([ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))])
    whole = np.concatenate([np.arange(-64, 64) / 4, 2.0 ** np.arange(20, 33), -(2.0 ** np.arange(20, 33)) + 0.5])
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.99, 65520, 65536, 2.0**31, -(2.0**31)])
    found = np.concatenate([any_bits, near, -near, whole.astype(np.float32), special.astype(np.float32)])
    return np.resize(found, -(-found.size // 16) * 16)


def integers(x: Array) -> Array:
    """As instructions convert: what is no int32 becomes the lowest one."""
    fits = (x >= -(2.0**31)) & (x < 2.0**31)
    return np.where(fits, np.where(fits, x, 0).astype(np.int64), -(1 << 31)).astype(np.int32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_emulated_instructions_round_and_saturate_as_the_real_ones(tmp_path: Path) -> None:
    assert COMPILER is not None
    library = tmp_path / "operations.so"
    run(COMPILER, "-std=c11", "-O1", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC",
        "-I", HERE / "avx512_shim", "-o", library, HERE / "avx512_shim" / "operations.c", "-lm")  # fmt: skip
    operations = ctypes.CDLL(str(library))
    rng = np.random.default_rng(5)
    x = floats(rng)
    y = np.where(rng.random(x.size) < 0.2, x, rng.permutation(x)).astype(np.float32)
    # A product less itself as it is rounded: what was lost, or nothing if product and sum are not fused.
    small, wide = rng.standard_normal((2, 4096), np.float32), rng.integers(-(1 << 30), 1 << 30, (2, 4096))
    product, wide_product = small[0] * small[1], (wide[0] * wide[1]).astype(float)
    lost, wide_lost = np.prod(small.astype(float), axis=0) - product, wide[0] * wide[1] - wide_product.astype(np.int64)
    halves = np.arange(1 << 16, dtype=np.uint16)
    a, b = words(rng, "i2")
    bytes_a, bytes_b = a.view(np.int8), b.view(np.int8)
    numbers = wide.astype(float)

    def pairs(left: Array, right: Array) -> Array:
        products = left.astype(np.int64) * right
        return products[::2] + products[1::2]

    cases: dict[str, tuple[tuple[Array, ...], Array]] = {
        "rounded": ((x,), np.rint(x)),
        "least": ((x, y), np.where(x < y, x, y)),
        "most": ((x, y), np.where(x > y, x, y)),
        "root": ((x,), np.sqrt(x)),
        "quotient": ((x, y), x / y),
        "fused": ((small[0], small[1], -product), lost.astype(np.float32)),
        "fused_wide": ((numbers[0], numbers[1], -wide_product), wide_lost.astype(float)),
        "narrowed": ((numbers[0],), numbers[0].astype(np.float32)),
        "nearest": ((x,), integers(np.rint(x.astype(float)))),
        "truncated": ((x,), integers(np.trunc(x.astype(float)))),
        "from_integers": ((x.view(np.int32),), x.view(np.int32).astype(np.float32)),
        "to_half": ((x,), x.astype(np.float16)),
        "from_half": ((halves,), halves.view(np.float16).astype(np.float32)),
        "from_eight_halves": ((halves,), halves.view(np.float16).astype(np.float32)),
        "word_pairs": ((a, b), pairs(a, b).astype(np.int32)),
        "byte_pairs": ((bytes_a, bytes_b), np.clip(pairs(bytes_a.view(np.uint8), bytes_b), -32768, 32767).astype("i2")),
        "scaled_words": ((a, b), (((a.astype(np.int64) * b >> 14) + 1) >> 1).astype(np.int16)),
    }
    for name, (given, wanted) in cases.items():
        found = np.empty_like(wanted)
        places = [own.ctypes.data for own in (*given, *given[:1] * (3 - len(given)))]
        vectors = wanted.nbytes // {"from_eight_halves": 32, "narrowed": 32, "to_half": 32}.get(name, 64)
        getattr(operations, name)(*map(ctypes.c_void_p, places), ctypes.c_void_p(found.ctypes.data), vectors)
        if wanted.dtype.kind == "f":
            same = (found.view(f"u{wanted.itemsize}") == wanted.view(f"u{wanted.itemsize}")) | np.isnan(wanted)
            assert np.array_equal(np.isnan(found), np.isnan(wanted)), name
        else:
            same = found == wanted
        assert same.all(), f"{name}: {np.flatnonzero(~same)[:5]} of {same.size}"
        assert wanted.size >= 2048 and np.unique(wanted).size > 100, name
