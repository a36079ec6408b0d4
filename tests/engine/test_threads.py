"""How many threads a model gets, and how long they wait: chosen by trial, remembered, explained to the runtime."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app import paths
from app.engine import threads, waiting
from app.engine.model import Model
from app.engine.threads import Memory, candidates, choose, key_of
from app.protocol import LoadOptions


@pytest.fixture
def q8(pocket_gguf: Callable[[str], Path]) -> str:
    return str(pocket_gguf("Q8_0"))


class Machine:
    """Times as a machine would take them: ``seconds`` for a token by number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds = seconds
        self.tried: list[tuple[int, int]] = []

    def measure(self, count: int, tokens: int) -> float:
        self.tried.append((count, tokens))
        return self.seconds[count] * tokens


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 0.0002, 4: 0.0008, 7: 0.0015, 8: 0.002}, 1),  # so small that meeting costs more than it helps
        ({1: 0.080, 4: 0.024, 7: 0.015, 8: 0.014}, 8),
        ({1: 0.080, 4: 0.024, 7: 0.0142, 8: 0.014}, 7),  # no faster worth a core
        ({1: 0.080, 4: 0.020, 7: 0.020, 8: 0.025}, 4),  # the memory cannot follow
    ],
)
def test_the_fewest_threads_that_are_about_as_fast_are_taken(seconds: dict[int, float], best: int) -> None:
    assert candidates(8) == (1, 4, 7, 8)
    assert choose(Machine(seconds).measure, 8).threads == best


def test_a_slow_model_gets_all_cores_without_a_long_trial() -> None:
    machine = Machine({1: 9.0, 4: 3.0, 7: 1.0, 8: 0.9})
    assert choose(machine.measure, 8).threads == 8
    assert sum(tokens for _, tokens in machine.tried) <= 3
    assert candidates(1) == (1,)
    assert candidates(2) == (1, 2)


def test_a_choice_is_remembered_for_this_file_and_machine(tmp_path: Path, q8: str) -> None:
    memory = Memory(tmp_path / "threads.json")
    first = Machine({1: 0.001, 2: 0.002})
    assert threads.settle(q8, 2, first.measure, "f16", memory=memory) == 1
    memory.keep(key_of(q8, 2, "f16"), 1)  # also where the machine was too busy to be trusted
    again = Machine({1: 0.002, 2: 0.001})
    assert threads.settle(q8, 2, again.measure, "f16", memory=Memory(tmp_path / "threads.json")) == 1
    assert again.tried == []
    assert threads.settle(q8, 2, again.measure, "q8_0", memory=memory) == 2
    assert again.tried  # other circumstances, another trial
    copy = tmp_path / "other.gguf"
    copy.write_bytes(Path(q8).read_bytes())
    assert len({key_of(q8, 2), key_of(str(copy), 2), key_of(q8, 4)}) == 3
    assert key_of(str(tmp_path / "gone.gguf")) == ""


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"a": "x"}', b'{"a": 0, "b": 100000}', b"\xff\xfe"])
def test_a_damaged_memory_counts_as_empty_and_heals(damage: bytes, tmp_path: Path) -> None:
    file = tmp_path / "threads.json"
    file.write_bytes(damage)
    memory = Memory(file)
    assert memory.find("a") is None and memory.find("b") is None
    memory.keep("a", 3)
    assert memory.find("a") == 3


def test_the_memory_has_an_end(tmp_path: Path) -> None:
    file = tmp_path / "threads.json"
    file.write_text(json.dumps({f"k{number}": 1 for number in range(threads.REMEMBERED)}))
    memory = Memory(file)
    memory.keep("new", 2)
    assert memory.find("new") == 2
    assert memory.find("k0") is None and memory.find("k1") == 1


def test_a_loaded_model_uses_what_is_remembered(q8: str) -> None:
    with Model.load(q8, LoadOptions(context=256)) as model:
        cores = model.prompt_threads
        assert model.threads in candidates(cores)
        wanted = 1 if model.threads > 1 else cores
        key = key_of(q8, cores, "f16", 0, "auto")
    Memory().keep(key, wanted)
    assert (paths.cache() / "threads.json").exists()
    with Model.load(q8, LoadOptions(context=256)) as model:
        assert (model.threads, model.prompt_threads) == (wanted, cores)
    with Model.load(q8, LoadOptions(context=256, threads=1)) as model:
        assert model.threads == 1  # what a person says goes first


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "300"}),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "300"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "7"}),
    ],
)
def test_waiting_is_bounded_unless_the_environment_says_otherwise(
    before: dict[str, str], after: dict[str, str]
) -> None:
    environment = dict(before)
    waiting.settle(environment, "x86_64")
    assert environment == after
    environment = dict(before)
    waiting.settle(environment, "riscv64")  # not measured there: sleep at once, or what was said
    assert environment.get("GOMP_SPINCOUNT") == before.get("GOMP_SPINCOUNT")


@pytest.mark.skipif(ctypes.util.find_library("gomp") is None, reason="the engine's threads are another runtime's here")
def test_the_runtime_hears_of_it_before_it_starts() -> None:
    program = "import app.engine.native, os; print('waiting', os.environ['GOMP_SPINCOUNT'])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment["OMP_DISPLAY_ENV"] = "verbose"  # libgomp prints what it goes by
    environment["GOMP_SPINCOUNT"] = "321"
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=240
    )
    assert "waiting 321" in run.stdout
    assert "GOMP_SPINCOUNT = '321'" in run.stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in run.stderr
