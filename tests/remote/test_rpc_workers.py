"""A model over several machines: two of llama.cpp's own RPC workers on this one, and what it costs when one goes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from app.child import Child, run_job
from app.measure_messages import BenchUpdate, MeasureBench
from app.protocol import (
    ChatMessage,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    LoadOptions,
    Replied,
    Sampling,
    Stop,
    Tokens,
)
from app.remote.machines import READY
from app.remote.rpc import look_at
from converter.spec import QuenchError
from tests.hub.program import quench, quench_words
from tests.models import ENDLESS
from tests.remote.rpc_workers import RpcWorker, rpc_workers  # noqa: F401 - a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first run builds them

GREEDY = Sampling(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, max_tokens=48)
FRANCE = (ChatMessage("user", "What is the capital of France?"),)
Workers = Callable[[], RpcWorker]


class Engine:
    """A chat worker of ours, driven by a test."""

    def __init__(self, child: Child, model: Path, *workers: RpcWorker, layers: int = 0) -> None:
        self.child = child
        self._events = child.events()
        machines = tuple(worker.endpoint for worker in workers)
        child.send(Load(str(model), LoadOptions(context=1024, machines=machines, gpu_layers=layers)))
        self.first = self.until(Loaded, Failed)

    def until(self, *kinds: type) -> Event:
        for event in self._events:
            if isinstance(event, kinds):
                return event
        raise AssertionError(f"the worker ended: {self.child.wait(120)}")

    def answer(self, sampling: Sampling = GREEDY, messages: tuple[ChatMessage, ...] = FRANCE) -> str:
        self.child.send(Generate(1, messages, sampling))
        text = ""
        for event in self._events:
            text += event.text if isinstance(event, Tokens) else ""
            assert not isinstance(event, Failed), event
            if isinstance(event, Replied):
                return text
        raise AssertionError(self.child.wait(120))


def here(model: Path) -> str:
    """What this machine answers alone."""
    with Child("chat") as child:
        return Engine(child, model).answer()


def test_two_machines_answer_what_one_does(rpc_workers: Workers, pocket_gguf: Callable[[str], Path]) -> None:  # noqa: F811
    model = pocket_gguf("Q8_0")
    first, second = rpc_workers(), rpc_workers()
    expected = here(model)
    assert "Paris" in expected
    states = look_at([first.endpoint, second.endpoint])
    assert [(state.state, state.devices) for state in states] == [(READY, 1)] * 2
    assert all(state.version.startswith("7.0.") and state.total > 1 << 28 for state in states)
    for layers in (0, 1, 4, 999):  # by memory, the output alone, half, everything
        with Child("chat") as child:
            engine = Engine(child, model, first, second, layers=layers)
            assert isinstance(engine.first, Loaded), engine.first
            assert engine.answer() == expected
            plan, memory = engine.first.plan, engine.first.memory
            assert plan is not None and plan.fits
            of = plan.layers if layers in (0, 999) else layers
            assert plan.layers == of and 1 <= of <= 9
            assert 0 < plan.elsewhere < plan.room_elsewhere
            assert abs(memory.weights - plan.weights) < 0.1 * (plan.weights + plan.elsewhere)
    assert b"Accepted client connection" in first.log.read_bytes()
    assert "Accepted client connection" in second.log.read_text()


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_in_the_middle_of_an_answer_is_named(
    rpc_workers: Workers,  # noqa: F811
    endless_gguf: Path,
    pocket_gguf: Callable[[str], Path],
    victim: int,
) -> None:
    workers = [rpc_workers(), rpc_workers()]
    with Child("chat") as child:
        engine = Engine(child, endless_gguf, *workers, layers=4)
        child.send(Generate(1, FRANCE, ENDLESS))
        engine.until(Tokens)
        workers[victim].kill()
        lost = engine.until(Failed, Replied)
        assert isinstance(lost, Failed)
        assert (lost.code, lost.request) == ("machine_lost", 0)
        assert lost.title == f"The machine {workers[victim].endpoint} stopped answering."
        end = child.wait(60)
        assert end.error is not None and end.error.code == "machine_lost" and not end.crashed
    # Another one with this machine alone, and with the one that is left.
    assert "Paris" in here(pocket_gguf("Q8_0"))
    with Child("chat") as child:
        assert "Paris" in Engine(child, pocket_gguf("Q8_0"), workers[1 - victim]).answer()


def test_one_that_goes_while_nothing_is_asked_is_told_at_once(
    rpc_workers: Workers,  # noqa: F811
    pocket_gguf: Callable[[str], Path],
) -> None:
    first, second = rpc_workers(), rpc_workers()
    with Child("chat") as child:
        engine = Engine(child, pocket_gguf("Q8_0"), first, second)
        engine.answer()
        second.kill()
        lost = engine.until(Failed)
        assert isinstance(lost, Failed) and lost.code == "machine_lost" and second.endpoint in lost.title


def test_one_that_computes_is_busy_and_survives_being_asked(rpc_workers: Workers, endless_gguf: Path) -> None:  # noqa: F811
    worker = rpc_workers()
    with Child("chat") as child:
        engine = Engine(child, endless_gguf, worker, layers=2)
        assert isinstance(engine.first, Loaded)
        again = look_at([worker.endpoint], patience=1.0)[0]
        assert again.state == "busy"  # a second one is not served meanwhile
        child.send(Generate(1, FRANCE, ENDLESS))
        engine.until(Tokens)
        child.send(Stop(1))
        assert isinstance(engine.until(Replied, Failed), Replied)
    # Ended in order: the worker is free, and lives.
    assert look_at([worker.endpoint], patience=30.0)[0].state == READY
    assert worker.process.poll() is None


def test_one_that_cannot_be_reached_kills_nothing(rpc_workers: Workers, pocket_gguf: Callable[[str], Path]) -> None:  # noqa: F811
    good, gone = rpc_workers(), rpc_workers()
    gone.kill()
    with Child("chat") as child:
        engine = Engine(child, pocket_gguf("Q8_0"), good, gone)
        assert isinstance(engine.first, Failed)
        assert engine.first.code == "machine_unreachable"
        assert engine.first.title == f"The machine {gone.endpoint} cannot be reached."
        end = child.wait(60)
        assert end.error is not None and not end.crashed
    assert good.process.poll() is None


def test_one_that_hangs_is_stopped_like_any_engine(rpc_workers: Workers, endless_gguf: Path) -> None:  # noqa: F811
    worker = rpc_workers()
    with Child("chat") as child:
        engine = Engine(child, endless_gguf, worker, layers=2)
        child.send(Generate(1, FRANCE, ENDLESS))
        engine.until(Tokens)
        worker.process.send_signal(signal.SIGSTOP)
        child.cancel(grace=2.0)  # as the window does
        end = child.wait(60)
        assert end.cancelled or end.error is not None
        worker.process.send_signal(signal.SIGCONT)


def test_the_command_line_spreads_a_model(rpc_workers: Workers, pocket_gguf: Callable[[str], Path]) -> None:  # noqa: F811
    model = str(pocket_gguf("Q8_0"))
    first, second = rpc_workers(), rpc_workers()
    both = f"{first.endpoint},{second.endpoint}"
    status, data, _ = quench("chat", model, "-p", FRANCE[0].content, "--temperature", "0", "--rpc", both)
    assert status == 0 and "Paris" in data["text"]
    assert data["plan"]["layers"] >= 1 and data["plan"]["elsewhere"] > 0
    status, data, _ = quench("chat", model, "--dry-run", "--rpc", both, "--gpu-layers", "3")
    assert (status, data["plan"]["layers"]) == (0, 3)
    second.kill()
    status, _, err = quench_words("chat", model, "-p", "x", "--rpc", both)
    assert status == 3
    assert f"The machine {second.endpoint} cannot be reached." in err


def test_quality_over_machines_is_that_of_this_one(
    rpc_workers: Workers,  # noqa: F811
    pocket_gguf: Callable[[str], Path],
) -> None:
    """Reference and candidate one after another on the same workers, against both on this machine."""
    files = [str(pocket_gguf("BF16")), str(pocket_gguf("Q4_K_M"))]
    common = ("--text", "prose", "--chunks", "2")
    machines = ",".join(worker.endpoint for worker in (rpc_workers(), rpc_workers()))
    alone = quench("quality", *files, *common)[1]
    status, data, err = quench("quality", *files, *common, "--rpc", machines)
    assert status == 0, (data, err)
    mine, theirs = alone["candidates"][0], data["candidates"][0]
    assert theirs["kld"]["mean"]["value"] == pytest.approx(mine["kld"]["mean"]["value"], abs=1e-3)
    assert data["reference"]["perplexity"]["value"] == pytest.approx(
        alone["reference"]["perplexity"]["value"], rel=1e-3
    )
    assert theirs["type"] == "Q4_K_M" and data["tokens"] == alone["tokens"]


def test_bench_over_machines(rpc_workers: Workers, pocket_gguf: Callable[[str], Path]) -> None:  # noqa: F811
    files = [str(pocket_gguf(kind)) for kind in ("Q8_0", "Q4_K_M")]
    first, second = rpc_workers(), rpc_workers()
    machines = f"{first.endpoint},{second.endpoint}"
    options = ("--prompt", "32", "--generate", "8", "--repeat", "2")
    status, data, err = quench("bench", *files, *options, "--rpc", machines)
    assert status == 0, (data, err)
    assert [Path(model["path"]).name for model in data["models"]] == [Path(file).name for file in files]
    assert all(model["generate"][0]["tokens_per_second"]["median"] > 0 for model in data["models"])
    assert first.log.read_text().count("Accepted client connection") > 2
    second.kill()
    status, data, _ = quench("bench", *files, *options, "--rpc", machines)
    assert (status, data["error"]["code"]) == (3, "machine_unreachable")
    assert second.endpoint in data["error"]["title"]


def test_one_that_goes_in_the_middle_of_a_bench_is_named(rpc_workers: Workers, endless_gguf: Path) -> None:  # noqa: F811
    worker = rpc_workers()
    command = MeasureBench((str(endless_gguf),), 64, 64, repeat=50, machines=(worker.endpoint,))

    def kill(event: Event) -> None:
        if isinstance(event, BenchUpdate):
            worker.kill()

    with pytest.raises(QuenchError) as caught:
        run_job("measure", command, kill)
    assert caught.value.code == "machine_lost" and worker.endpoint in caught.value.title
