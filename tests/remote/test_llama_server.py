"""Against llama.cpp's own server, built from the pinned engine's sources: its answers, and what it makes of ours."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.child import Child, run_job
from app.measure_messages import MeasureQuality, QualityResult, ServedCandidate
from app.protocol import (
    ChatMessage,
    Event,
    Failed,
    Generate,
    Load,
    Loaded,
    Replied,
    Sampling,
    Status,
    Stop,
    Tokens,
)
from app.remote.messages import AskServer, ServerTold
from tests.hub.program import quench
from tests.models import ENDLESS
from tests.quality import reference_tool
from tests.remote.talking import Talk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the first run builds it

KEY = "sk-Geheim-0123456789-abcdef"
GREEDY = Sampling(temperature=0.0, top_k=1, top_p=1.0, min_p=0.0, max_tokens=48)
FRANCE = (ChatMessage("user", "What is the capital of France?"),)


@dataclass
class LlamaServer:
    url: str
    process: subprocess.Popen[bytes]
    log: Path


def start(model: Path, folder: Path, *options: str) -> LlamaServer:
    """A llama-server that is ready, on a free port; ``folder`` gets its log."""
    tool = reference_tool.build("llama-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "llama-server.log"
    command = [str(tool), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "-t", "2", "-np", "1"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, *options], stdout=file, stderr=file)
    root = f"http://127.0.0.1:{port}"
    with httpx2.Client(trust_env=False, transport=httpx2.HTTPTransport(retries=10)) as client:
        while client.get(f"{root}/health").status_code != 200:
            assert process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
    return LlamaServer(f"{root}/v1", process, log)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., LlamaServer]]:
    started: list[LlamaServer] = []

    def begin(model: Path, *options: str) -> LlamaServer:
        started.append(start(model, tmp_path, *options))
        return started[-1]

    yield begin
    for server in started:
        server.process.terminate()
        server.process.wait(60)


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    with made.process:
        yield made


def ours(model: Path, messages: tuple[ChatMessage, ...], sampling: Sampling) -> str:
    """What our own engine answers."""
    with Child("chat") as chat:
        chat.send(Load(str(model)))
        chat.send(Generate(1, messages, sampling))
        text = ""
        for event in chat.events():
            text += event.text if isinstance(event, Tokens) else ""
            if isinstance(event, Replied):
                return text
        raise AssertionError(chat.wait(60))


def test_it_says_what_our_engine_says(
    talk: Talk, running: Callable[..., LlamaServer], pocket_gguf: Callable[[str], Path]
) -> None:
    """Greedy, from one file: two loops over one engine, one template rendered twice."""
    model = pocket_gguf("Q8_0")
    server = running(model, "-c", "1024", "--api-key", KEY, "--alias", "pocket")
    loaded = talk.connect(server.url, "pocket", secret=KEY)
    assert isinstance(loaded, Loaded), loaded
    assert loaded.description.startswith("llama.cpp at ")
    assert loaded.context == 1024
    text, end = talk.reply(sampling=GREEDY, messages=FRANCE)
    assert isinstance(end, Replied), end
    expected = ours(model, FRANCE, GREEDY)
    assert text == expected
    assert end.stop == "end" and end.tokens > 4 and end.prompt_tokens > 4
    assert end.tokens_per_second > 0
    again, end = talk.reply(2, sampling=GREEDY, messages=FRANCE)
    assert again == expected
    assert end.prompt_reused > 0
    # Cut short, and gone on with.
    cut, end = talk.reply(3, sampling=Sampling(0.0, 1, 1.0, 0.0, max_tokens=4), messages=FRANCE)
    assert (end.stop, end.tokens) == ("max_tokens", 4)
    rest, end = talk.reply(4, GREEDY, messages=(*FRANCE, ChatMessage("assistant", cut)), continue_last=True)
    assert isinstance(end, Replied), end
    assert cut + rest == expected


def test_its_refusals_are_told_in_words(
    talk: Talk, running: Callable[..., LlamaServer], pocket_gguf: Callable[[str], Path]
) -> None:
    server = running(pocket_gguf("Q8_0"), "-c", "512", "--api-key", KEY)
    for secret, code in (("a-wrong-key", "bad_key"), ("", "key_needed")):
        talk.send(AskServer(1, server.url, secret))
        asked = talk.until(ServerTold, Failed)
        assert asked.code == code
        assert "a-wrong-key" not in str(asked)
    talk.connect(server.url, secret=KEY)
    _, end = talk.reply(3, messages=(ChatMessage("user", "bear and lamp " * 4000),))
    assert end.code == "context_full"
    assert talk.reply(4, sampling=GREEDY, messages=FRANCE)[1].stop == "end"


def test_stop_and_its_death_in_the_middle(talk: Talk, running: Callable[..., LlamaServer], endless_gguf: Path) -> None:
    server = running(endless_gguf, "-c", "8192")
    talk.connect(server.url)
    talk.send(Generate(1, FRANCE, ENDLESS))
    talk.until(Tokens)
    talk.send(Stop(1))
    end = talk.until(Replied, Failed)
    assert (end.stop, end.request) == ("cancelled", 1)
    talk.send(Generate(2, FRANCE, ENDLESS))
    talk.until(Tokens)
    server.process.kill()
    assert talk.until(Replied, Failed).code == "connection_lost"
    talk.send(Generate(3, FRANCE, ENDLESS))
    assert talk.until(Replied, Failed).code == "server_unreachable"


def test_its_divergence_is_that_of_the_same_file_here(
    running: Callable[..., LlamaServer], pocket_gguf: Callable[[str], Path]
) -> None:
    """All odds: the figures of the lab's own engine; a part of them: lower bounds, the lower the smaller it is."""
    reference, file = pocket_gguf("BF16"), pocket_gguf("Q4_K_M")
    server = running(file, "-c", "1024", "--alias", "pocket", "--api-key", KEY)

    def measure(*options: str, files: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        status, data, err = quench(
            "quality", str(reference), *files, "--url", server.url, "--model", "pocket", "--text", "prose,code",
            "--chunks", "2", "--context", "512", *options, QUENCH_API_KEY=KEY,
        )  # fmt: skip
        assert status == 0, (data, err)
        assert KEY not in json.dumps(data) + err
        return list(data["candidates"])

    here, whole = measure(files=(str(file),))
    assert whole["told"]["whole"] and whole["told"]["asked"] == 2048 and whole["told"]["requests"] == 4 * 255
    assert whole["type"] == here["type"] == "Q4_K_M"
    # A row alone is computed a little otherwise than one of a batch: 1e-4 over these tokens, by chance up or down.
    assert whole["kld"]["mean"]["value"] == pytest.approx(here["kld"]["mean"]["value"], abs=2e-4)
    assert whole["perplexity"]["value"] == pytest.approx(here["perplexity"]["value"], rel=1e-2)
    assert whole["top1"]["value"] == pytest.approx(here["top1"]["value"], abs=0.01)
    before = 0.0
    for top in (5, 100, 1500):
        part = measure("--server-top", str(top))[0]
        assert before < part["kld"]["mean"]["value"] < whole["kld"]["mean"]["value"]
        assert not part["told"]["whole"] and 0 < part["told"]["missing"] < 1
        assert part["top1"]["value"] == pytest.approx(whole["top1"]["value"], abs=0.01)
        assert part["top5"] is None
        before = part["kld"]["mean"]["value"]


def test_a_server_that_is_killed_costs_its_row_alone(
    running: Callable[..., LlamaServer], pocket_gguf: Callable[[str], Path]
) -> None:
    server = running(pocket_gguf("Q4_K_M"), "-c", "1024", "--alias", "pocket")
    files = [str(pocket_gguf(kind)) for kind in ("BF16", "Q8_0")]
    place = ServedCandidate("server:x/pocket", server.url, "pocket")
    command = MeasureQuality(files[0], (files[1], place.path), ("prose",), chunks=2, served=(place,))

    def kill(event: Event) -> None:
        if isinstance(event, Status) and event.label.startswith("pocket: token"):
            server.process.kill()

    result = run_job("measure", command, kill)
    assert isinstance(result, QualityResult)
    assert [each.path for each in result.candidates] == [files[1]]
    assert result.candidates[0].slices["prose"].tokens == 2 * 255
    assert [failure.code for failure in result.failures] in (["server_unreachable"], ["connection_lost"])
