"""The Metal shaders, compiled as C++ and run over the grid by the processor, against the case table.

What this shows: the shaders' algorithm, their order of operations, and that no subnormal number can change a byte. What
it cannot show: that Metal's compiler accepts them, and how a GPU rounds; for that the backend asks the device itself
(``kernels/src/metal/probe.c``).
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.cases import KINDS, cases
from tests.kernels.native import QUICKLY_BUILT

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "tests" / "kernels" / "metal_shim"
SHADERS = ROOT / "kernels" / "src" / "metal"
CLANG = shutil.which("clang") or next((str(path) for path in Path("/usr/lib").glob("llvm-*/bin/clang")), None)

needs_compiler = pytest.mark.skipif(
    shutil.which("cmake") is None or not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="no cmake or no C++ compiler on this machine",
)
needs_known_mode = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the shim's fibers and flushing are written for Linux on x86-64 and arm64",
)


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("metal"))


def build_shim(folder: Path) -> Path:
    for command in (
        ["cmake", "-S", str(ROOT / "kernels"), "-B", str(folder), "-DQUENCH_METAL_SHIM=ON", *QUICKLY_BUILT],
        ["cmake", "--build", str(folder), "--config", "Release", "--parallel", "2"],
    ):
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=3500)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
        assert "warning" not in result.stdout, result.stdout
    return folder / "libquench_kernels.so"


def run_shim(library: Path, *arguments: str, **switches: str) -> Any:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.metal_run", *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, "QUENCH_KERNELS": "", "QUENCH_KERNELS_LIBRARY": str(library), **switches},
        capture_output=True,
        text=True,
        timeout=3500,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


def assert_all_equal(found: dict[str, Any], checked: int) -> None:
    assert len(found) >= 12
    for qtype, result in found.items():
        assert result["failures"] == [], (qtype, result["failures"][:3])
        assert result["checked"] == checked


@pytest.mark.slow
@needs_compiler
@needs_known_mode
def test_shaders_give_the_oracles_bytes(shim_library: Path) -> None:
    """With subnormals read and written as zeros, as the GPU does, and threads in another order than their numbers'."""
    found = run_shim(shim_library, "table", "1300", QUENCH_SHIM_FLUSH="1", QUENCH_SHIM_REVERSE="1")
    assert_all_equal(found, len(list(cases("Q4_K", 1300))))
    for qtype, result in found.items():
        seen, left = result["ordinary"]
        assert seen > 0 and left <= seen / 100, f"{qtype}: {left} of {seen} ordinary blocks were left to the processor"


@needs_compiler
@needs_known_mode
def test_float16_and_bfloat16_rows_that_lie_apart(shim_library: Path) -> None:
    found = run_shim(shim_library, "halves", "0", QUENCH_SHIM_FLUSH="1", QUENCH_SHIM_REVERSE="1")
    assert_all_equal(found, 2 * len(KINDS) * 3)


@pytest.mark.slow
@needs_compiler
@needs_known_mode
def test_flushing_changes_no_byte_wherever_subnormals_begin(shim_library: Path) -> None:
    found = run_shim(shim_library, "edges", "0", QUENCH_SHIM_FLUSH="1")
    assert_all_equal(found, 34 * 6 + 8 * 11)
    for qtype, result in found.items():
        seen, left = result["seen"]
        assert left > 0, qtype
        assert seen - left > seen / 10, f"{qtype}: the shaders left nearly everything"


@needs_compiler
@needs_known_mode
def test_a_call_of_more_blocks_than_the_device_gets_at_once(shim_library: Path) -> None:
    found = run_shim(shim_library, "slabs", "0", "Q4_0", QUENCH_SHIM_FLUSH="1")["Q4_0"]
    assert (found["failures"], found["checked"]) == ([], 2)
    # The second part begins with the tile that the first part cut: 124 blocks twice. The last row's mean square is not
    # safe with that one weight, so all of its blocks are left.
    assert found["seen"] == [2 * (101 * 649 + 124), 649 + 124]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_compiler
@needs_known_mode
@pytest.mark.parametrize("flush", ["0", "1"])
def test_shaders_give_the_oracles_bytes_over_the_large_table(shim_library: Path, flush: str) -> None:
    found = run_shim(shim_library, "table", "50000", QUENCH_SHIM_FLUSH=flush, QUENCH_SHIM_REVERSE=flush)
    assert_all_equal(found, len(list(cases("Q4_K", 1300))))


@needs_compiler
@needs_known_mode
def test_a_device_is_asked_before_it_is_trusted(shim_library: Path) -> None:
    trusted = run_shim(shim_library, "state")
    assert trusted == {"backends": ["metal", "reference"], "note": None, "active": "metal"}
    absent = run_shim(shim_library, "state", QUENCH_SHIM_ABSENT="1", QUENCH_KERNELS="metal")
    assert absent == {"backends": ["reference"], "note": "No Metal device: using reference.", "active": "reference"}
    fused = run_shim(shim_library, "state", QUENCH_SHIM_FUSE="1")
    assert fused["note"] == "The Metal device shim does not give this library's bytes: using reference."


@needs_compiler
@needs_known_mode
def test_a_device_that_is_not_trusted_computes_nothing(shim_library: Path) -> None:
    found = run_shim(shim_library, "table", "1300", "Q4_K", QUENCH_SHIM_FUSE="1")
    assert found["Q4_K"]["failures"] == []
    assert found["Q4_K"]["ordinary"] == [0, 0]


@pytest.mark.skipif(CLANG is None, reason="no clang on this machine to read Objective-C")
def test_the_host_file_is_objective_c() -> None:
    """Syntax and types alone, against declarations of what it uses of Metal."""
    assert CLANG is not None
    result = subprocess.run(
        [CLANG, "-fsyntax-only", "-x", "objective-c", "-std=c11", "-fobjc-arc", "-fblocks",
         "-fobjc-runtime=macosx-13", "-fconstant-string-class=NSConstantString", "-Wall", "-Wextra", "-Wconversion",
         "-Wno-sign-conversion", "-Werror", "-I", str(SHIM / "apple"), "-I", str(SHADERS),
         str(SHADERS / "device.m")],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_shaders_keep_to_metals_own_rules() -> None:
    """What a C++ compiler lets pass and Metal's does not: pointers without an
    address space, double, operators where only the precise functions round correctly."""
    declarator = re.compile(r"^(?P<before>.*?[\w>]) (?P<sign>[*&]+)(?=\w)")
    for path in sorted(SHADERS.glob("*.metal")):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        for part in re.split(r"[,;(){}\n]", code):
            found = declarator.match(part.strip())
            if found and not found["before"].endswith(("return", "=", "+")):
                spaces = re.findall(r"\b(?:thread|device|constant|threadgroup)\b", found["before"])
                assert spaces, f"{path.name}: no address space in {part.strip()!r}"
        assert not re.search(r"\b(?:double|goto|new|delete|virtual|dynamic_cast|std::)\b", code), path.name
        assert not re.search(r"\b\d+\.\d+(?:e[-+]?\d+)?(?![\de.f])", code), f"{path.name}: a literal without f"
        assert not re.search(r"(?<![\w.:])(?:sqrt|divide)\(", code.replace("precise::", "precise::_")), path.name


def test_every_shader_travels_in_the_library(tmp_path: Path) -> None:
    listed = re.findall(r"^  ([\w.]+)$", (SHADERS / "shaders.cmake").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in [*SHADERS.glob("*.metal"), SHADERS / "job.h"])
    included = re.findall(r'#include "([\w.]+\.metal)"', (SHIM / "kernels.cpp").read_text())
    assert included == listed[1:]
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on this machine")
    embedded = tmp_path / "shaders.c"
    sources = ";".join(str(SHADERS / name) for name in listed)
    subprocess.run(
        ["cmake", f"-DSOURCES={sources}", f"-DOUTPUT={embedded}", "-P", str(SHADERS / "embed.cmake")], check=True
    )
    text = bytes(int(byte, 16) for byte in re.findall(r"0x(..),", embedded.read_text())).decode("ascii")
    assert text == "".join((SHADERS / name).read_text() for name in listed)
