"""Error feedback where a C compiler is needed: under sanitizers, and on another processor by emulation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import kernels
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
    run,
)
from tests.kernels.test_feedback import K_TYPES, inputs, matrix

SOURCE = HERE / "replay_feedback.c"


def program(compiler: str, folder: Path, *options: str) -> str:
    name = folder / "replay_feedback"
    run(compiler, "-std=c11", "-O1", *options, "-I", ROOT / "kernels" / "include", "-o", name, SOURCE,
        f"-L{folder}", "-lquench_kernels", f"-Wl,-rpath,{folder}")  # fmt: skip
    return str(name)


def check(command: list[str]) -> None:
    """Records for the program, whose answers must be those of the reference in this process."""
    sent, wanted = b"", []
    for qtype in kernels.FEEDBACK_TYPES:
        for n_rows, n_cols in ((1, 256), (35, 512 if qtype in K_TYPES else 288)):
            given, rows = kernels.feedback(inputs(n_cols)), matrix(n_rows, n_cols)
            sent += np.array([kernels.TYPES[qtype], n_rows, n_cols, 0], np.int32).tobytes()
            sent += given.scales.tobytes() + given.importance.tobytes() + given.factor.tobytes()
            sent += given.covariance.tobytes() + rows.tobytes()
            squared, fed = np.empty(n_rows), np.empty(n_rows)
            blocks = kernels.quantize_with_feedback(
                qtype, rows, given, squared_error=squared, feedback_error=fed, backend="reference"
            )
            wanted.append((f"{qtype} {n_rows} x {n_cols}", b"".join(x.tobytes() for x in (blocks, squared, fed))))
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
def test_arm64_gives_the_same_bytes_under_emulation(arm_library: Path) -> None:
    assert ARM_COMPILER is not None and ARM_EMULATOR is not None
    check([ARM_EMULATOR, "-L", str(SYSROOT), program(ARM_COMPILER, arm_library.parent)])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_cmake
def test_sanitizers_are_silent_and_change_no_bytes(sanitized_library: Path) -> None:
    """The program's arrays end where the data end, so that a read beyond them is seen."""
    assert COMPILER is not None
    check([program(COMPILER, sanitized_library.parent, f"-fsanitize={QUICK_SANITIZERS}")])
