"""Checks that need a C compiler: sanitizers over the case table, the thread's float mode, the installed file."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import KINDS, OVERFLOWING, Case, cases

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
CMAKE = shutil.which("cmake")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
needs_cmake = pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="no cmake or no C compiler on this machine")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the sanitizer's runtime is preloaded, as on Linux")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result


def build(folder: Path, *options: str) -> None:
    assert CMAKE is not None
    run(CMAKE, "-S", ROOT / "kernels", "-B", folder, *options)
    run(CMAKE, "--build", folder, "--config", "Release")


@pytest.mark.slow
@needs_cmake
def test_the_library_is_installed_where_the_module_looks(tmp_path: Path) -> None:
    build(tmp_path / "build")
    assert CMAKE is not None
    run(CMAKE, "--install", tmp_path / "build", "--prefix", tmp_path / "wheel")
    files = [path.relative_to(tmp_path / "wheel") for path in (tmp_path / "wheel").rglob("*") if path.is_file()]
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    assert files == [Path("kernels") / f"libquench_kernels{suffix}"]
    program = "import kernels; print(all(result['passed'] for result in kernels.selftest()))"
    library = tmp_path / "wheel" / files[0]
    assert run(sys.executable, "-c", program, QUENCH_KERNELS_LIBRARY=str(library)).stdout.strip() == "True"


SANITIZED_RUN = """
import ctypes
import numpy as np
import kernels
from tests.kernels.cases import cases, bf16_bits

ctypes.CDLL(None).__asan_init  # the runtime is here
generator = np.random.default_rng(0)
count = 0
for qtype in kernels.TYPES:
    for case in cases(qtype, 2_000):
        rows, importance = case.data()
        for backend in kernels.backends():
            errors = np.zeros(len(rows))
            blocks = kernels.quantize(
                qtype, rows, importance, finite="allow", backend=backend, squared_error=errors
            )
            kernels.dequantize(qtype, blocks, case.n_cols, backend=backend)
        count += 1
        if case.importance == "heavy":
            kernels.quantize(qtype, rows.astype(np.float16), importance, finite="allow")
            kernels.quantize(qtype, bf16_bits(rows), importance, source="bf16", finite="allow")
            odd = np.frombuffer(b"x" + rows.tobytes(), np.float32, rows.size, 1).reshape(rows.shape)
            kernels.quantize(qtype, odd, importance, finite="allow")
            bits = generator.integers(0, 1 << 32, rows.shape, np.uint32).view(np.float32)
            kernels.quantize(qtype, bits, importance, finite="allow")
            noise = generator.integers(0, 256, blocks.shape, np.uint8)
            kernels.dequantize(qtype, noise, case.n_cols)
print("cases", count)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_cmake
@needs_linux
def test_address_and_undefined_behaviour_sanitizers_are_silent(tmp_path: Path) -> None:
    build(tmp_path, "-DQUENCH_SANITIZE=address,undefined,float-cast-overflow")
    library = tmp_path / "libquench_kernels.so"
    assert COMPILER is not None
    runtimes = [run(COMPILER, f"-print-file-name={name}").stdout.strip() for name in ("libasan.so", "libubsan.so")]
    result = run(
        sys.executable,
        "-W",
        "ignore:overflow:RuntimeWarning",
        "-c",
        SANITIZED_RUN,
        QUENCH_KERNELS_LIBRARY=str(library),
        LD_PRELOAD=" ".join(runtimes),
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="print_stacktrace=1",
    )
    assert result.stdout.startswith("cases ")
    assert "runtime error" not in result.stderr


def representable(case: Case) -> bool:
    """False if a scale overflows: then blocks hold NaN, whose sign differs between processors."""
    rows, importance = case.data()
    try:
        kernels.quantize(case.qtype, rows, importance)
    except kernels.KernelError as error:
        assert error.code == "overflow" and case.kind in OVERFLOWING
        return False
    return True


def replayed(program: list[str], cases_of: list[Case]) -> None:
    """Run the cases through a program of replay.c; its blocks and decoded floats must be the oracle's."""
    records, wanted = [], []
    for case in cases_of:
        rows, importance = case.data()
        header = np.array([kernels.TYPES[case.qtype], importance is not None], np.int32).tobytes()
        header += np.array(rows.shape, np.int64).tobytes()
        records.append(header + rows.tobytes() + (b"" if importance is None else importance.tobytes()))
        blocks = oracle.quantize(case.qtype, rows, importance)
        wanted.append((case, blocks, oracle.dequantize(case.qtype, blocks, rows.shape[1])))
    result = subprocess.run(program, check=False, input=b"".join(records), capture_output=True, timeout=1500)
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    place = 0
    for case, blocks, values in wanted:
        found = np.frombuffer(result.stdout, np.uint8, blocks.size, place)
        decoded = np.frombuffer(result.stdout, np.uint8, values.nbytes, place + blocks.size).view(np.float32)
        place += blocks.size + values.nbytes
        assert np.array_equal(found, blocks.ravel()), case
        assert np.array_equal(decoded, values.ravel(), equal_nan=True), case
    assert place == len(result.stdout)


ARM_COMPILER, ARM_EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_cmake
@pytest.mark.skipif(
    ARM_COMPILER is None or ARM_EMULATOR is None, reason="no aarch64-linux-gnu-gcc or no qemu-aarch64 on this machine"
)
def test_arm64_writes_the_same_bytes_under_emulation(tmp_path: Path) -> None:
    """Contraction and the signedness of char differ there by default, and so do conversions out of range."""
    build(
        tmp_path, f"-DCMAKE_C_COMPILER={ARM_COMPILER}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"
    )
    program = tmp_path / "replay"
    source = ROOT / "tests" / "kernels" / "replay.c"
    assert ARM_COMPILER is not None and ARM_EMULATOR is not None
    run(ARM_COMPILER, "-std=c11", "-O1", "-I", ROOT / "kernels" / "include", "-o", program, source,
        f"-L{tmp_path}", "-lquench_kernels", f"-Wl,-rpath,{tmp_path}")  # fmt: skip
    sysroot = "/usr/aarch64-linux-gnu"
    for qtype in kernels.TYPES:
        replayed(
            [ARM_EMULATOR, "-L", sysroot, str(program)], [case for case in cases(qtype, 2_000) if representable(case)]
        )


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
