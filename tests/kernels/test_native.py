"""Checks that need a compiler: memory checkers over the case table, another processor, the installed file."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import KINDS, Case
from tests.kernels.fuzz import build_targets, fuzz, fuzzing_compiler
from tests.kernels.native import (
    ARM_COMPILER,
    ARM_EMULATOR,
    CMAKE,
    COMPILER,
    HERE,
    RUNNABLE,
    SANITIZERS,
    SYSROOT,
    build,
    build_replay,
    calls,
    dot_calls,
    needs_arm,
    needs_cmake,
    needs_compiler,
    needs_linux,
    replay,
    run,
)

VALGRIND = shutil.which("valgrind")


# ---- address and undefined behaviour sanitizers ----


def sanitized_run(library: Path, *options: str) -> None:
    """The table through Python and through the exact buffers of replay.c; neither checker may say a word."""
    assert COMPILER is not None
    runtimes = [run(COMPILER, f"-print-file-name={name}").stdout.strip() for name in ("libasan.so", "libubsan.so")]
    if not all(Path(runtime).is_absolute() for runtime in runtimes):
        pytest.skip(f"{COMPILER} brings no sanitizer runtime that can be preloaded")
    quiet = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
    result = run(
        sys.executable,
        "-W",
        "ignore:overflow:RuntimeWarning",
        HERE / "sanitized.py",
        *options,
        PYTHONPATH=str(HERE.parents[1]),
        QUENCH_KERNELS_LIBRARY=str(library),
        LD_PRELOAD=" ".join(runtimes),
        **quiet,
    )
    assert result.stdout.startswith(f"{', '.join(kernels.backends())}: ")
    assert "runtime error" not in result.stderr
    program = build_replay(COMPILER, library, "-fsanitize=address,undefined")
    assert replay([program], calls(quick="--quick" in options), kernels.backends()) > 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
@needs_linux
def test_sanitizers_are_silent(sanitized_library: Path) -> None:
    sanitized_run(sanitized_library, "--quick")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@needs_cmake
@needs_linux
def test_sanitizers_are_silent_over_the_whole_table(tmp_path: Path) -> None:
    sanitized_run(build(tmp_path, f"-DQUENCH_SANITIZE={SANITIZERS}", RUNNABLE))


# ---- the oldest processor ----

# Of x86: all names since AVX begin with v; the others came with SSSE3, SSE4, POPCNT, BMI and MOVBE.
NEWER = re.compile(
    r"\s(v\w+|p(shufb|sign[bwd]|abs[bwd]|h(add|sub)s?[wd]|maddubsw|mulhrsw|alignr|test|blend\w+|mov[sz]x\w+|mulld|muldq)"
    r"|p(max|min)(sb|sd|uw|ud)|p(extr|insr)[bdq]|packusdw|pcmp(eqq|gtq)|round[ps][sd]|blendv?p[sd]|dpp[sd]|extractps"
    r"|insertps|crc32\w*|popcnt|[lt]zcnt|andn|bextr|bls\w+|bzhi|mulx|p(dep|ext)|rorx|s(ar|hl|hr)x|movbe)\s"
)
OBJDUMP = shutil.which("objdump")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
@pytest.mark.skipif(OBJDUMP is None, reason="no objdump on this machine")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86-64 are looked for")
def test_only_backends_have_instructions_that_not_every_processor_has(sanitized_library: Path) -> None:
    """Whatever runs before a backend is chosen, and the reference, must run on the first x86-64."""
    assert OBJDUMP is not None

    def newer(target: str) -> set[str]:
        objects = sorted((sanitized_library.parent / "CMakeFiles" / f"{target}.dir").rglob("*.o"))
        assert objects
        listing = run(OBJDUMP, "-d", "--no-show-raw-insn", *objects).stdout
        return {match[1] for match in NEWER.finditer(listing)}

    assert newer("quench_kernels") == set()
    assert any(name.startswith("vfmadd") for name in newer("quench_avx2"))


# ---- another processor ----


@pytest.fixture
def arm_replay(arm_library: Path) -> list[str | Path]:
    """The command that runs replay.c with the arm64 library here."""
    assert ARM_COMPILER is not None and ARM_EMULATOR is not None
    return [ARM_EMULATOR, "-L", SYSROOT, build_replay(ARM_COMPILER, arm_library)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
@needs_arm
def test_arm64_writes_the_same_bytes_under_emulation(arm_replay: list[str | Path]) -> None:
    """Contraction and the signedness of char differ there by default, and so do conversions out of range."""
    assert replay(arm_replay, calls(quick=True), ["neon", "reference"]) > 1000


@pytest.mark.slow
@pytest.mark.timeout(7200)
@needs_cmake
@needs_arm
def test_arm64_writes_the_same_bytes_over_the_whole_table(arm_replay: list[str | Path]) -> None:
    assert replay(arm_replay, calls(quick=False), ["neon", "reference"]) > 10_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
@needs_arm
def test_arm64_without_dot_product_instructions_gives_the_same_floats(arm_replay: list[str | Path]) -> None:
    """A Cortex-A53 has none: a kernel that used one would end there."""
    older = [arm_replay[0], "-cpu", "cortex-a53", *arm_replay[1:]]
    assert replay(older, dot_calls(), ["neon", "reference"]) > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
def test_dot_products_without_newer_instructions_give_the_same_floats(tmp_path: Path) -> None:
    """The kernels of AVX-512 without VNNI, on any processor that has AVX-512."""
    assert COMPILER is not None
    program = build_replay(COMPILER, build(tmp_path, "-DQUENCH_PLAIN_DOTS=ON"))
    assert replay([program], dot_calls(), kernels.backends()) > 100


# ---- valgrind ----


@pytest.mark.slow
@pytest.mark.timeout(7200)
@needs_cmake
@pytest.mark.skipif(VALGRIND is None, reason="no valgrind on this machine")
def test_valgrind_finds_no_uninitialized_and_no_foreign_memory(tmp_path: Path) -> None:
    """Its processor has no AVX-512: those kernels are left to the sanitizers, here or in test_avx512.py."""
    assert VALGRIND is not None and COMPILER is not None
    program = build_replay(COMPILER, build(tmp_path, "-DCMAKE_C_FLAGS=-g", RUNNABLE))
    command = [VALGRIND, "--quiet", "--error-exitcode=9", "--leak-check=full", program]
    known = [name for name in kernels.backends() if name != "avx512"]
    assert replay(command, calls(quick=True), known) > 1000


# ---- arbitrary bytes ----


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
@pytest.mark.skipif(fuzzing_compiler() is None, reason="no clang with libFuzzer on this machine")
def test_a_few_seconds_of_arbitrary_bytes_find_nothing(tmp_path: Path) -> None:
    """Longer with `make fuzz`; the same seed for everybody, so that a finding is found again."""
    for name, program in build_targets(tmp_path).items():
        found = fuzz(program, tmp_path / f"corpus-{name}", 5, "-seed=1")
        assert found["executions"] > 100
        assert found["coverage"] > 100


# ---- the installed file, the thread's float mode ----


@pytest.mark.slow
@needs_cmake
def test_the_library_is_installed_where_the_module_looks(tmp_path: Path) -> None:
    build(tmp_path / "build")
    assert CMAKE is not None
    run(CMAKE, "--install", tmp_path / "build", "--prefix", tmp_path / "wheel")
    files = sorted(path.relative_to(tmp_path / "wheel") for path in (tmp_path / "wheel").rglob("*") if path.is_file())
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    libraries = ["kernels", "threads"] if sys.platform == "linux" else ["kernels"]
    assert files == [Path("kernels") / f"libquench_{name}{suffix}" for name in libraries]
    program = "import kernels; print(all(result['passed'] for result in kernels.selftest()))"
    library = tmp_path / "wheel" / files[0]
    assert run(sys.executable, "-c", program, QUENCH_KERNELS_LIBRARY=str(library)).stdout.strip() == "True"


FLOAT_MODE = """
#if defined(__x86_64__)
unsigned long get_mode(void) { return __builtin_ia32_stmxcsr(); }
void set_mode(unsigned long mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }
unsigned long careless(void) { return 0x1f80 | 0x8040 | 0x6000; } /* flush denormals, round toward zero */
#elif defined(__aarch64__)
unsigned long get_mode(void) { unsigned long mode; __asm__ volatile("mrs %0, fpcr" : "=r"(mode)); return mode; }
void set_mode(unsigned long mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
unsigned long careless(void) { return (1ul << 24) | (3ul << 22); }
#else
#error "no such processor in this test"
#endif
"""


@needs_compiler
def test_a_careless_floating_point_mode_changes_no_bytes_and_is_given_back(tmp_path: Path) -> None:
    """Other libraries switch a thread to flushing denormals (fast-math start-up code) or to another rounding."""
    source, library = tmp_path / "mode.c", tmp_path / "mode.so"
    source.write_text(FLOAT_MODE)
    assert COMPILER is not None
    run(COMPILER, "-O1", "-shared", "-fPIC", "-o", library, source)
    mode = ctypes.CDLL(str(library))
    mode.get_mode.restype = mode.careless.restype = ctypes.c_ulong
    mode.set_mode.argtypes = [ctypes.c_ulong]

    samples = []
    for qtype in kernels.TYPES:
        blocks = max(1, 256 // kernels.block_size(qtype).weights)
        for kind in ("denormal", "small", "gaussian"):
            assert kind in KINDS
            rows, importance = Case(qtype, kind, "uniform", 2, blocks).data()
            wanted = [oracle.quantize(qtype, rows), oracle.quantize(qtype, rows, importance)]
            decoded = oracle.dequantize(qtype, wanted[0], rows.shape[1])
            samples.append((qtype, rows, importance, wanted, decoded))
    before = mode.get_mode()
    try:
        mode.set_mode(mode.careless())
        found = [
            (kernels.quantize(qtype, rows), kernels.quantize(qtype, rows, weight), mode.get_mode())
            for qtype, rows, weight, _, _ in samples
        ]
        values = [
            kernels.dequantize(qtype, wanted[0], rows.shape[1]).view(np.uint32) for qtype, rows, _, wanted, _ in samples
        ]
        careless = mode.careless()
    finally:
        mode.set_mode(before)
    for (_, _, _, wanted, decoded), (plain, weighted, after), value in zip(samples, found, values, strict=True):
        assert after & careless == careless
        assert np.array_equal(plain, wanted[0])
        assert np.array_equal(weighted, wanted[1])
        assert np.array_equal(value, decoded.view(np.uint32))
