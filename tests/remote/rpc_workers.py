"""llama.cpp's own RPC workers, built from the pinned engine's sources, on ports of this machine."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.remote.machines import READY
from app.remote.rpc import look_at
from tests.quality import reference_tool


@dataclass
class RpcWorker:
    endpoint: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


def start(folder: Path) -> RpcWorker:
    """A worker that is ready, with one thread, on a free port."""
    tool = reference_tool.build("ggml-rpc-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"rpc-{port}.log"
    with log.open("wb") as file:
        command = [str(tool), "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    endpoint = f"127.0.0.1:{port}"
    while look_at([endpoint])[0].state != READY:
        assert process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
    return RpcWorker(endpoint, process, log)


@pytest.fixture
def rpc_workers(tmp_path: Path) -> Iterator[Callable[[], RpcWorker]]:
    """``rpc_workers()`` starts one more; they end with the test."""
    started: list[RpcWorker] = []

    def begin() -> RpcWorker:
        started.append(start(tmp_path))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
