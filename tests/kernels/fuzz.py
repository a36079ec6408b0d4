"""Builds the fuzz targets with clang's libFuzzer and both sanitizers, and runs them.

Usage: python -m tests.kernels.fuzz [SECONDS]      each target for that long (default 60), from its own corpus
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.kernels.native import CMAKE, HERE, QUICKLY_BUILT, ROOT, RUNNABLE, build, run

TARGETS = ("dequantize", "quantize")
LIMIT = 4096
"""Bytes of the longest input: several rows of every type."""

# Null, alignment and object sizes are left to the other sanitizer run: they would cost most of the build.
_CHECKS = (
    "address,bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow,bool,enum,unreachable"
)
_EMPTY = "#include <stdint.h>\n#include <stddef.h>\nint LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);\n"
_EMPTY += "int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { return d && n > 99; }\n"


def _links(compiler: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text(_EMPTY)
        command = [compiler, f"-fsanitize=fuzzer,{_CHECKS}", "-o", str(source.with_suffix("")), str(source)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@functools.cache
def fuzzing_compiler() -> str | None:
    """A clang of this machine that links libFuzzer, the newest first; None if there is none."""
    names = ["clang", *(f"clang-{version}" for version in range(25, 11, -1))]
    return next((path for path in map(shutil.which, names) if path and _links(path)), None)


def build_targets(folder: Path) -> dict[str, Path]:
    """The targets as programs in ``folder``, the library (with coverage counters) beside them."""
    compiler = fuzzing_compiler()
    assert compiler is not None and CMAKE is not None
    sanitize = f"-DQUENCH_SANITIZE=fuzzer-no-link,{_CHECKS}"
    library = build(folder, f"-DCMAKE_C_COMPILER={compiler}", sanitize, RUNNABLE, *QUICKLY_BUILT)
    programs = {name: folder / f"fuzz_{name}" for name in TARGETS}
    for name, program in programs.items():
        run(compiler, "-std=c11", "-O1", "-g1", "-Wall", "-Wextra", f"-fsanitize=fuzzer,{_CHECKS}",
            "-I", ROOT / "kernels" / "include", "-o", program, HERE / f"fuzz_{name}.c",
            library, f"-Wl,-rpath,{folder}")  # fmt: skip
    return programs


def fuzz(program: Path, corpus: Path, seconds: int, *options: str) -> dict[str, int]:
    """Run one target; returns executions, coverage (edges), features and corpus size. Fails with the finding's report.

    The input of a finding stays in ``corpus``'s folder as ``crash-...``.
    """
    corpus.mkdir(parents=True, exist_ok=True)
    command = [str(program), f"-max_total_time={seconds}", f"-max_len={LIMIT}", "-print_final_stats=1", "-timeout=300",
               f"-artifact_prefix={corpus.parent}/", *options, str(corpus)]  # fmt: skip
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, errors="replace")
    assert result.returncode == 0, result.stderr[-6000:]
    executions = re.search(r"stat::number_of_executed_units:\s+(\d+)", result.stderr)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", result.stderr)
    assert executions and coverage, result.stderr[-2000:]
    return {
        "executions": int(executions[1]),
        **dict(zip(("coverage", "features", "corpus"), map(int, coverage[-1]), strict=True)),
    }


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    if fuzzing_compiler() is None:
        raise SystemExit("libFuzzer is needed (Debian: clang-14 and libclang-rt-14-dev)")
    folder = ROOT / "build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in build_targets(folder).items():
        print(f"{name}: {fuzz(program, folder / f'corpus-{name}', seconds)} in {seconds} s", flush=True)


if __name__ == "__main__":
    main()
