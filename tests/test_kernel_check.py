"""The kernels are tested at the first start after an update, and what fails on this machine is not used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import kernels
from app import kernel_check
from app.child import Child
from app.protocol import Convert, KernelsChecked
from converter.spec import ConversionResult, ConversionSpec, QuenchError

pytestmark = pytest.mark.fresh_home

ROOT = Path(__file__).resolve().parent.parent
TYPE = "Q4_K_M"


def untested(backends: Sequence[str]) -> kernel_check.Results:
    raise AssertionError("there was a record")


def found(**wrong: str) -> Any:
    """A self-test that finds these backends wrong."""

    def test(backends: Sequence[str]) -> kernel_check.Results:
        row = {"kernel": "quantize", "type": "Q4_K"}
        return {
            name: [{**row, "backend": name, "passed": name not in wrong, "detail": wrong.get(name, "")}]
            for name in backends
        }

    return test


@pytest.fixture(autouse=True)
def unforced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUENCH_KERNELS", raising=False)


# ---- the record ----


def test_the_kernels_are_tested_once(quench_home: Path) -> None:
    assert kernel_check.remembered() is None
    first = kernel_check.check()
    assert (first.backend, first.failed, first.fresh) == (kernels.backends()[0], {}, True)
    assert kernel_check.record_file().parent == quench_home
    again = kernel_check.check(untested)
    assert (again.backend, again.fresh) == (first.backend, False)
    assert kernel_check.remembered() == again
    assert kernel_check.in_words(again) == ""


def test_they_are_tested_again_after_an_update_and_when_the_record_is_damaged() -> None:
    kernel_check.check()
    file = kernel_check.record_file()
    for content in (b"", b"{}", b"[]", b"\xff", json.dumps({"key": "older", "failed": {"avx2": "x"}}).encode()):
        file.write_bytes(content)
        assert kernel_check.remembered() is None
        assert kernel_check.check(found()).fresh
        assert not kernel_check.check(untested).fresh


def test_the_best_that_passes_is_used_and_remembered() -> None:
    best, *rest = kernels.backends()
    if not rest:
        pytest.skip("this machine has the reference alone")
    checked = kernel_check.check(found(**{best: "gaussian"}))
    assert checked.backend == rest[0]
    assert checked.failed == {best: "quantize Q4_K (gaussian), 1 in all"}
    assert rest[0] in kernel_check.in_words(checked) and "gaussian" in kernel_check.in_words(checked)
    try:
        assert kernel_check.use_trusted().failed == checked.failed
        assert kernels.active() == rest[0]
        kernel_check.check(found(reference="gaussian"))
        kernel_check.record_file().unlink()
        assert kernel_check.check(found(reference="gaussian")).failed == {}, "it would not be used anyway"
        kernel_check.use_trusted()
        assert kernels.active() == best
    finally:
        kernels.select(None)


def test_no_backend_that_passes_is_an_error() -> None:
    everything = dict.fromkeys(kernels.backends(), "gaussian")
    for test in (found(**everything), untested):
        with pytest.raises(QuenchError) as caught:
            kernel_check.check(test)
        assert (caught.value.code, caught.value.exit_status) == ("no_trusted_kernels", 5)
    remembered = kernel_check.remembered()
    assert remembered is not None
    assert (remembered.backend, set(remembered.failed)) == ("", set(everything))


def test_the_environment_forces_a_backend_untested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUENCH_KERNELS", "reference")
    assert kernel_check.check(untested).backend == "reference"
    assert not kernel_check.record_file().exists()
    monkeypatch.setenv("QUENCH_KERNELS", "cray")
    with pytest.raises(QuenchError) as caught:
        kernel_check.use_trusted()
    assert (caught.value.code, caught.value.exit_status) == ("unknown_backend", 2)
    assert "cray" in caught.value.detail and "reference" in caught.value.detail


def test_a_self_test_that_cannot_be_run_forbids_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.child.worker_command", lambda kind: [sys.executable, "-c", "pass"])
    assert kernel_check.use_trusted().backend == kernels.backends()[0]
    assert not kernel_check.record_file().exists()


def test_a_record_that_cannot_be_written_is_left(quench_home: Path) -> None:
    kernel_check.record_file().mkdir(parents=True)
    for _ in range(2):
        assert kernel_check.check(found()).fresh


# ---- a library that is really broken ----


def quench(*arguments: str | Path, **environment: str) -> tuple[int, Any, str]:
    command = [sys.executable, "-m", "app", *map(str, arguments), "--json"]
    result = subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **environment}, capture_output=True,
                            text=True, timeout=240)  # fmt: skip
    return result.returncode, json.loads(result.stdout), result.stderr


def tensors(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.slow
def test_conversions_leave_wrong_and_crashing_backends_alone(
    broken_kernels: Path, pocket: Path, pocket_gguf: Any, tmp_path: Path
) -> None:
    library = {"QUENCH_KERNELS_LIBRARY": str(broken_kernels)}
    best = kernels.backends()[0]
    fallback = next(name for name in kernels.backends()[1:] if name not in ("avx2", "neon"))
    wanted = tensors(pocket_gguf(TYPE))
    for turn in range(2):
        out = tmp_path / f"{turn}.gguf"
        status, data, said = quench("convert", pocket, "-o", out, "--type", TYPE, **library)
        assert (status, data["kernels"]) == (0, fallback), said
        assert tensors(out) == wanted
        told = [line for line in said.splitlines() if "wrong numbers" in line]
        assert len(told) == (turn == 0), said
        assert all(best in line and fallback in line for line in told)
    status, data, _ = quench("kernels", "list", **library)
    assert (status, data["active"]) == (0, fallback)
    assert best in data["failed"] and data["failed"][best].startswith("quantize ")
    if len(data["failed"]) > 1:
        assert kernel_check.CRASHED in data["failed"][kernels.backends()[1]]
    status, data, _ = quench("kernels", "selftest", **library)
    assert status == 1
    assert {row["backend"] for row in data["results"] if not row["passed"]} == set(data["failed"])
    # The library is broken indeed: forced, its best backend writes other bytes, which only the look at the file finds.
    out = tmp_path / "forced.gguf"
    forced = ("convert", pocket, "-o", out, "--type", TYPE)
    status, data, said = quench(*forced, QUENCH_KERNELS=best, **library)
    assert (status, data["error"]["code"]) == (3, "output_differs")
    assert "resuming" not in data["error"]["hint"] and not list(tmp_path.glob("forced*"))
    status, data, said = quench(*forced, "--no-check", QUENCH_KERNELS=best, **library)
    assert (status, data["kernels"]) == (0, best)
    assert tensors(out) != wanted
    assert "wrong numbers" not in said


def test_a_worker_tells_its_parent_once(
    broken_kernels: Path, pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUENCH_KERNELS_LIBRARY", str(broken_kernels))
    for turn in range(2):
        with Child("convert") as child:
            child.send(Convert(ConversionSpec(str(pocket), str(tmp_path / f"{turn}.gguf"), ("Q8_0",))))
            events = list(child.events())
            assert child.wait().ok
        assert isinstance(events[-1], ConversionResult)
        checks = [event.check for event in events if isinstance(event, KernelsChecked)]
        assert [set(check.failed) for check in checks] == ([{*kernels.backends()} - {"reference"}] if turn == 0 else [])


def test_every_backend_passes_here() -> None:
    results = kernel_check.run_selftest(kernels.backends())
    assert list(results) == kernels.backends()
    assert kernel_check.failures(results) == {}
    assert sum(len(rows) for rows in results.values()) == len(kernels.selftest())
    assert np.all([row["passed"] for rows in results.values() for row in rows])
