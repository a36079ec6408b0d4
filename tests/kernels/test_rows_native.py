"""Rows of logits where a C compiler is needed: other processors under emulation, sanitizers, refusals of the C side."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from kernels import _library
from tests.kernels.native import (
    ARM_COMPILER,
    ARM_EMULATOR,
    COMPILER,
    HERE,
    QUICK_SANITIZERS,
    ROOT,
    SYSROOT,
    needs_arm,
    needs_cmake,
    needs_compiler,
    run,
)
from tests.kernels.test_rows import KINDS, SMALL

SOURCE = HERE / "replay_rows.c"
DIVERGENCE = np.dtype("f8, f8, (2,)f8, (2,)f8, (2,)i4, i4, i4")


def program(compiler: str, folder: Path, *options: str) -> str:
    name = folder / "replay_rows"
    run(compiler, "-std=c11", "-O1", *options, "-I", ROOT / "kernels" / "include", "-o", name, SOURCE,
        f"-L{folder}", "-lquench_kernels", f"-Wl,-rpath,{folder}")  # fmt: skip
    return str(name)


def records() -> tuple[bytes, list[tuple[str, bytes]]]:
    """Cases for the program, and the bytes that it must write, by the reference backend of this process."""
    sent, wanted = b"", []
    for kind in KINDS:
        for size in [*SMALL, 9000]:
            reference, candidate = kind(size, size + 2)
            targets = np.array([0, size // 2, size - 1], np.int32)
            sent += np.array(reference.shape, np.int32).tobytes() + targets.tobytes()
            sent += reference.tobytes() + candidate.tobytes()
            scores = kernels.score_rows(reference, targets, top_k=7, backend="reference")
            found = kernels.compare_rows(reference, candidate, targets, top_k=7, backend="reference")
            divergences = np.zeros(3, DIVERGENCE)
            shared = np.rint(found.overlap * min(7, size))
            columns: list[Any] = [found.kl, found.reverse_kl, (found.reference_log_sum, found.log_sum)]
            columns += [(found.reference_nll, found.nll), (found.reference_top, found.top), shared]
            for name, column in zip(divergences.dtype.names or (), columns, strict=False):
                divergences[name] = np.stack(column, axis=1) if isinstance(column, tuple) else column
            words = np.stack([scores.log_sum, scores.nll], axis=1).tobytes() + scores.top.tobytes()
            words += divergences.tobytes() + kernels.log_softmax(candidate, backend="reference").tobytes()
            wanted.append((f"{kind.__name__} {size}", words))
    return sent, wanted


def check(command: list[str]) -> None:
    sent, wanted = records()
    result = subprocess.run(command, check=False, input=sent, capture_output=True, timeout=3600)
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    assert not result.stderr
    place = 0
    for case, words in wanted:
        assert result.stdout[place : place + len(words)] == words, case
        place += len(words)
    assert place == len(result.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
@needs_arm
def test_arm64_gives_the_same_bits_under_emulation(arm_library: Path) -> None:
    assert ARM_COMPILER is not None and ARM_EMULATOR is not None
    check([ARM_EMULATOR, "-L", str(SYSROOT), program(ARM_COMPILER, arm_library.parent)])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
def test_sanitizers_are_silent_and_change_no_bits(sanitized_library: Path) -> None:
    """The program's arrays end where the data end, so that a read beyond them is seen."""
    assert COMPILER is not None
    check([program(COMPILER, sanitized_library.parent, f"-fsanitize={QUICK_SANITIZERS}")])


@needs_compiler
def test_a_fused_product_is_rounded_once(tmp_path: Path) -> None:
    """What the vector backends have an instruction for, the reference computes: the C library is the judge."""
    assert COMPILER is not None
    name = tmp_path / "fused"
    run(COMPILER, "-std=c11", "-O2", "-ffp-contract=off", "-I", ROOT / "kernels" / "src", "-o", name, HERE / "fused.c",
        "-lm")  # fmt: skip
    assert run(name).stdout == "2000000 ordinary, 6000000 at ties, 6000000 subnormal\n"


def test_the_c_side_checks_again() -> None:
    """Callers of the C interface get a status where the Python face refuses by itself."""
    library = _library.library()
    logits = np.zeros((2, 10), np.float32)
    right = np.array([1, 9], np.int32)
    out = np.full(2 * 64, 7, np.uint8)
    top = np.zeros((2, 3), np.int32)
    x, end = logits.ctypes.data, ctypes.byref(_library.Report())

    def score(
        *, rows: int = 2, columns: int = 10, k: int = 3, pointer: int | None = x, stride: int = 40, size: int = 32,
        top_size: int = 24, probabilities: int = 0, targets: int = right.ctypes.data, backend: int = 0,
    ) -> int:  # fmt: skip
        place = x if probabilities else None
        status: int = library.quench_score_rows(
            backend, pointer, stride, rows, columns, targets, k, out.ctypes.data, size, top.ctypes.data, top_size,
            place, probabilities, end,
        )  # fmt: skip
        return status

    def compare(*, size: int = 128, k: int = 5, candidate: int | None = x, columns: int = 10) -> int:
        status: int = library.quench_compare_rows(
            0, x, 40, candidate, 40, 2, columns, right.ctypes.data, k, out.ctypes.data, size, end
        )
        return status

    assert score(backend=99) == score(backend=-1) == _library.BAD_BACKEND
    for shape in ({"rows": -1}, {"columns": 0}, {"columns": -3}, {"columns": 1 << 31}, {"k": 0}, {"k": 11}, {"k": 129},
                  {"rows": 1 << 60}):  # fmt: skip
        assert score(**shape) == _library.BAD_SHAPE, shape
    for buffer in ({"pointer": None}, {"pointer": x + 1}, {"stride": 42}, {"size": 31}, {"size": 33}, {"top_size": 20},
                   {"probabilities": 79}):  # fmt: skip
        assert score(**buffer) == _library.BAD_BUFFER, buffer
    assert compare(size=127) == compare(candidate=None) == _library.BAD_BUFFER
    assert compare(k=11) == _library.BAD_SHAPE
    assert score(columns=9, stride=40) == compare(columns=9) == _library.BAD_TARGET
    assert (out == 7).all()
    assert score() == compare() == _library.OK
