"""Native builds of the kernels for tests, and recorded calls whose answers Python checks (see replay.c)."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import kernels
from tests.kernels import oracle
from tests.kernels.cases import BAD_WEIGHTS, Case, alignments, bf16_bits, cases, from_bf16, quick_cases

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "kernels"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
CMAKE = shutil.which("cmake")
GENERATOR = ("-G", "Ninja") if shutil.which("ninja") else ()
QUICKLY_BUILT = ("-DQUENCH_COMPACT=ON", "-DQUENCH_OPTIMIZE=-O1")
"""For the tests that are not slow: the same sources and the same bytes from a fraction of the code."""
SANITIZERS = "address,undefined,float-cast-overflow"
# Without null pointers and object sizes, which the address sanitizer sees as well: they are half of the build.
QUICK_SANITIZERS = "address,bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow,bool,enum"
QUICK_SANITIZERS += ",alignment,unreachable,return,nonnull-attribute"
RUNNABLE = "-DQUENCH_X86=" + ";".join(name for name in kernels.backends() if name != "reference")
"""Leaves out the backends that nobody could run here: a third of a build."""
SYSROOT = Path("/usr/aarch64-linux-gnu")
ARM_COMPILER, ARM_EMULATOR = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")
needs_cmake = pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="no cmake or no C compiler on this machine")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the sanitizer's runtime is preloaded, as on Linux")
needs_arm = pytest.mark.skipif(
    ARM_COMPILER is None or ARM_EMULATOR is None or not SYSROOT.is_dir(),
    reason="no aarch64-linux-gnu-gcc, no arm64 C library or no qemu-aarch64 on this machine",
)

Source = Literal["float32", "float16", "bf16"]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the checkout; the test fails with the end of its output if the program does."""
    result = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=3600,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result


def build(folder: Path, *options: str, source: Path = ROOT / "kernels") -> Path:
    """The library's build in ``folder`` with these options of CMake; returns the library's file."""
    assert CMAKE is not None
    run(CMAKE, "-S", source, "-B", folder, *GENERATOR, *options)
    run(CMAKE, "--build", folder, "--config", "Release", "--parallel", str(os.cpu_count() or 1))
    return next(path for path in folder.rglob("libquench_kernels.*") if path.suffix in {".so", ".dylib", ".dll"})


def build_replay(compiler: str, library: Path, *options: str) -> Path:
    """replay.c as a program that finds ``library`` where it is."""
    program = library.with_name("replay")
    run(compiler, "-std=c11", "-g", "-O1", *options, "-I", ROOT / "kernels" / "include", "-o", program,
        HERE / "replay.c", library, f"-Wl,-rpath,{library.parent}")  # fmt: skip
    return program


def build_broken(folder: Path) -> Path:
    """A library in which the best backend here is wrong and the next one, if it has lanes too, crashes.

    The sources are a changed copy: nothing that breaks a kernel is in the program's own.
    """
    lanes = [name for name in kernels.backends() if (ROOT / "kernels" / "src" / "lanes" / f"vec_{name}.h").exists()]
    if not lanes or CMAKE is None or COMPILER is None:
        pytest.skip("this machine has no cmake, no C compiler, or no other backend than the reference")
    shutil.copytree(ROOT / "kernels", folder / "kernels", ignore=shutil.ignore_patterns("_build", "*.so", "*.py"))
    for name, body in zip(lanes, ("return a;", "__builtin_trap(); return a;"), strict=False):
        header = folder / "kernels" / "src" / "lanes" / f"vec_{name}.h"
        text, count = re.subn(r"(vf vf_abs\(vf a\) \{).*\}", rf"\1 {body} }}", header.read_text())
        assert count == 1, header
        header.write_text(text)
    return build(folder / "build", *QUICKLY_BUILT, RUNNABLE, source=folder / "kernels")


# ---- calls that are recorded ----

_RECORD, _ANSWER = struct.Struct("=iiiIii4q"), struct.Struct("=iiqq")
_ROW_TYPES = {"float32": 0, "float16": 1, "bf16": 30}
_STATUS = {"not_finite": 7, "overflow": 8}
REFINED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


class Call(NamedTuple):
    """One call and all that it may answer. ``expected`` are arrays behind an answer with status 0."""

    what: str
    record: bytes
    status: int
    place: tuple[int, int]
    expected: tuple[npt.NDArray[Any], ...]


def quantize_call(
    case: Case, source: Source = "float32", *, shift: int = 0, bad: str | None = None, refined: bool = False
) -> Call:
    """The case as a call. ``shift`` moves rows off alignment, and rows apart by as much; ``bad`` spoils a weight.

    Refined blocks have no other oracle than the reference here; test_refined.py says what they have to fulfil.
    """
    rows, importance = case.data()
    if bad is not None:
        rows[len(rows) // 2, rows.shape[1] * 2 // 3] = BAD_WEIGHTS[bad]
    matrix: npt.NDArray[Any] = rows
    if source == "float16":
        with np.errstate(over="ignore"):
            matrix = rows.astype(np.float16)
        rows = matrix.astype(np.float32)
    elif source == "bf16":
        matrix = bf16_bits(rows)
        rows = from_bf16(matrix)
    stride = matrix.itemsize * matrix.shape[1] + shift
    data = bytearray(stride * (len(rows) - 1) + stride - shift)
    for number, row in enumerate(matrix):
        data[number * stride : number * stride + row.nbytes] = row.tobytes()
    record = _RECORD.pack(
        0, kernels.TYPES[case.qtype], _ROW_TYPES[source], 2 * refined, importance is not None, shift, stride,
        *rows.shape, len(data),
    )  # fmt: skip
    record += (b"" if importance is None else importance.tobytes()) + data
    what = f"{case} {source} shift={shift} bad={bad} refined={refined}"
    plain, weighted = np.zeros(len(rows)), np.zeros(len(rows))
    try:
        blocks = kernels.quantize(
            case.qtype, rows, importance, refined=refined, squared_error=plain, weighted_error=weighted,
            backend="reference",
        )  # fmt: skip
    except kernels.KernelError as error:
        assert error.row is not None and error.column is not None
        return Call(what, record, _STATUS[error.code], (error.row, error.column), ())
    wanted = blocks if refined else oracle.quantize(case.qtype, rows, importance)
    return Call(what, record, 0, (-1, -1), (wanted, plain, weighted))


def dequantize_call(qtype: str, n_rows: int, blocks: int, shift: int = 0) -> Call:
    """Arbitrary bytes as blocks of the type."""
    n_cols = blocks * kernels.block_size(qtype).weights
    width = kernels.row_bytes(qtype, n_cols)
    noise = np.random.default_rng([n_rows, blocks]).integers(0, 256, (n_rows, width), np.uint8)
    record = _RECORD.pack(1, kernels.READABLE[qtype], 0, 0, 0, shift, 0, n_rows, n_cols, noise.nbytes)
    return Call(f"decode {qtype} {n_rows} x {blocks}", record + noise.tobytes(), 0, (-1, -1),
                (oracle.dequantize(qtype, noise, n_cols),))  # fmt: skip


def dot_call(qtype: str, n_rows: int, blocks: int, shift: int = 0, *, bad: bool = False) -> Call:
    """Arbitrary bytes as blocks of the type, and a vector; ``bad`` spoils a value of it."""
    generator = np.random.default_rng([n_rows, blocks, 2])
    n_cols = blocks * kernels.block_size(qtype).weights
    x = generator.standard_normal(n_cols, np.float32)
    if bad:
        x[n_cols // 2] = np.nan
    noise = generator.integers(0, 256, (n_rows, kernels.row_bytes(qtype, n_cols)), np.uint8)
    data = x.tobytes() + noise.tobytes()
    record = _RECORD.pack(2, kernels.TYPES[qtype], 0, 0, 0, shift, 0, n_rows, n_cols, len(data)) + data
    what = f"dot {qtype} {n_rows} x {blocks} shift={shift} bad={bad}"
    if bad:
        return Call(what, record, _STATUS["not_finite"], (0, n_cols // 2), ())
    return Call(what, record, 0, (-1, -1), (kernels.dot(qtype, noise, x, backend="reference"),))


def dot_calls() -> Iterator[Call]:
    """Every type, rows of less and more than the eight blocks that kernels take at a time."""
    for qtype in kernels.TYPES:
        for n_rows, blocks, shift in ((1, 1, 0), (3, 5, 1), (2, 8, 0), (3, 9, 2), (2, 33, 3)):
            yield dot_call(qtype, n_rows, blocks, shift)
        yield dot_call(qtype, 2, 3, bad=True)


def calls(*, quick: bool) -> Iterator[Call]:
    """The case table as calls: kinds, importances, sources, rows off alignment, refusals, arbitrary bytes."""
    for qtype in kernels.TYPES:
        for case in quick_cases(qtype) if quick else cases(qtype, 2_000):
            yield quantize_call(case)
            if case.qtype in REFINED:
                yield quantize_call(case, refined=True)
        several = Case(qtype, "mixed_blocks", "zeros", 5, 9)
        for shift in (0, 2):
            for half in ("float16", "bf16"):
                yield quantize_call(several, half, shift=shift)
        for shift in (1, 4):
            yield quantize_call(several, shift=shift)
        for importance in ("none", "heavy"):
            yield quantize_call(Case(qtype, "gaussian", importance, 3, 11), refined=True)
        for source in _ROW_TYPES:
            yield quantize_call(several, source, bad="nan")  # type: ignore[arg-type]
        yield quantize_call(several._replace(importance="none"), bad="infinite")
        if not quick:
            for importance in ("none", "zeros"):
                yield from map(quantize_call, alignments(qtype, importance))
    for qtype in kernels.READABLE:
        for n_rows, blocks, shift in ((1, 1, 0), (3, 5, 1), (2, 33, 0), *(((40, 64, 3),) if not quick else ())):
            yield dequantize_call(qtype, n_rows, blocks, shift)
    yield from dot_calls()


def replay(program: list[str | Path], recorded: Iterable[Call], backends: list[str]) -> int:
    """Run the calls through a program of replay.c, which must have these backends; returns how many answers it gave.

    Every backend's answer must be that of the engine, or refuse the same weight as the local reference.
    """
    recorded = list(recorded)
    result = subprocess.run(
        [str(part) for part in program],
        check=False,
        input=b"".join(call.record for call in recorded),
        capture_output=True,
        timeout=3600,
    )
    assert result.returncode == 0, result.stderr.decode(errors="replace")[-6000:]
    output = memoryview(result.stdout)
    count = int.from_bytes(output[:4], "little")
    names = [bytes(output[4 + 16 * i : 20 + 16 * i]).rstrip(b"\0").decode() for i in range(count)]
    assert names == backends
    place = 4 + 16 * count
    for call in recorded:
        for name in names:
            status, _, row, column = _ANSWER.unpack_from(output, place)
            place += _ANSWER.size
            assert (status, row, column) == (call.status, *call.place), f"{name}: {call.what}"
            for wanted in call.expected:
                found: Any = np.frombuffer(output, wanted.dtype, wanted.size, place)
                place += wanted.nbytes
                same = np.array_equal(found, wanted.ravel(), equal_nan=wanted.dtype.kind == "f")
                assert same, f"{name}: {call.what}"
    assert place == len(output)
    return len(recorded) * count
