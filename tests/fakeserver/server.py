"""What a server of models says, well or badly."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

WORDS = ("Bears", " like", " lamps", " and", " honey", ".")
PROMPT_TOKENS, CACHED, OPENING = 11, 4, 1


@dataclass(frozen=True)
class Heard:
    """A request that came."""

    method: str
    path: str
    authorization: str | None
    body: dict[str, Any] | None


@dataclass
class FakeServer:
    """A context manager. ``url`` is the base of its API. With ``key`` it wants that one.

    ``fault`` is what goes wrong with an answer, after two words where it has a middle:

    * ``cut``: the connection closes        * ``stall``: nothing more until the server is released
    * ``deaf``: not even a status comes     * ``error``: an error as an event
    * ``html``, ``json``: other things than events of the API           * ``compressed``: gzip unasked
    * ``endless``: words without end        * ``huge``: one event without end   * ``comments``: comments without end
    * ``plain``: a whole answer, no stream  * ``think``: reasoning first        * ``unfinished``: the end is not said

    ``status`` other than 200 is answered to everything, with ``headers``, and an error that repeats the request's key.
    ``models`` in place of its list can be any JSON.

    ``scores`` are the log-probabilities that it has of every next token, given those before it; without them it knows
    no text of others. It tells them in the ``form`` of ``llama``, ``vllm`` (``most`` of a position) or ``echo``, and
    ``split`` cuts texts, before which :data:`OPENING` may stand (not if a token that ``ends`` texts is named), and
    conversations as :func:`rendered` writes them. After ``honest`` good answers of that kind comes what ``lie`` says:
    ``few``, ``other`` ids, ``twice`` one id, ``much``, ``null``, ``positive``, ``cut`` (the connection closes),
    ``stall``, ``shifted`` (positions are missing), ``dead``.
    """

    key: str = ""
    owner: str = "llamacpp"
    fault: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    models: Any = None
    names: tuple[str, ...] = ("pocket", "second")
    message: str = "no"
    scores: Callable[[list[int]], list[float]] | None = None
    form: str = "llama"
    split: Callable[[str], list[int]] | None = None
    most: int = 1 << 30
    ends: str | None = None
    honest: int = 1 << 30
    lie: str = ""
    tls: ssl.SSLContext | None = None
    heard: list[Heard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.released = threading.Event()
        self.half_way = threading.Event()
        self.left = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        scheme = "http" if self.tls is None else "https"
        self.root = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.root}/v1"
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def stop(self) -> None:
        """Take no new connection."""
        self._server.socket.close()

    def bodies(self) -> list[dict[str, Any]]:
        """What was asked of its models."""
        return [heard.body for heard in self.heard if heard.body is not None]

    def listing(self) -> Any:
        if self.models is not None:
            return self.models
        entry = {"object": "model", "owned_by": self.owner, "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}
        return {"object": "list", "data": [{"id": name, **entry} for name in self.names]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        if self._let_in(None) and self.path == "/v1/models":
            self._json(200, self.fake.listing())
        elif self.path == "/props" and self.fake.ends is not None:
            self._json(200, {"bos_token": "", "eos_token": self.fake.ends, "model_path": "/m/x.gguf"})
        elif self.fake.status == 200 and self._known():
            self._json(404, {"error": {"message": "no such page"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        if not self._let_in(body):
            return
        try:
            if self.fake.split is not None and self._cut(body):
                return
            addresses = {"llama": "/completion", "vllm": "/v1/completions", "echo": "/v1/completions"}
            if self.fake.scores is not None and self.path == addresses[self.fake.form]:
                self._score(body)
                return
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return
        if self.path != "/v1/chat/completions":
            self._json(404, {"error": {"message": "no such page"}})
            return
        try:
            self._answer(body)
        except (BrokenPipeError, ConnectionResetError):
            self.fake.left.set()
            self.close_connection = True

    def _known(self) -> bool:
        return not self.fake.key or self.headers.get("authorization") == f"Bearer {self.fake.key}"

    def _let_in(self, body: dict[str, Any] | None) -> bool:
        given = self.headers.get("authorization")
        self.fake.heard.append(Heard(self.command, self.path, given, body))
        if self.fake.status != 200:
            self._json(self.fake.status, {"error": {"message": f"{self.fake.message} {given}"}}, self.fake.headers)
            return False
        if not self._known():
            self._json(401, {"error": {"message": f"Invalid key {given}"}})
            return False
        return True

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _cut(self, body: dict[str, Any]) -> bool:
        """Answer a question how a text or a conversation is cut; False if it is none that the ``form`` knows."""
        fake, conversation = self.fake, rendered(body.get("messages", []))
        assert fake.split is not None
        if self.path == "/apply-template" and fake.form == "llama":
            self._json(200, {"prompt": conversation})
        elif self.path == "/tokenize" and "content" in body:
            start = [OPENING] if body["add_special"] and fake.ends is None else []
            self._json(200, {"tokens": start + fake.split(body["content"])})
        elif self.path == "/tokenize" and fake.form == "vllm":
            self._json(200, {"tokens": [OPENING, *fake.split(conversation)]})
        else:
            return False
        return True

    def _score(self, body: dict[str, Any]) -> None:
        fake = self.fake
        assert fake.scores is not None
        if {"llama": "n_probs", "vllm": "prompt_logprobs", "echo": "echo"}[fake.form] not in body:
            self._json(400, {"error": {"message": "of this nothing is known"}})
            return
        fake.honest -= 1
        lie = fake.lie if fake.honest < 0 else ""
        if lie in ("cut", "dead"):
            if lie == "dead":
                fake.stop()
            self.connection.close()
            raise ConnectionResetError
        if lie == "stall":
            fake.half_way.set()
            fake.released.wait()
            return
        prompt = body["prompt"]
        if body.get("prompt_logprobs", 0) > fake.most:
            self._json(400, {"error": {"message": f"more than {fake.most} are not told"}})
            return
        if fake.form == "llama":
            told = _ranked(fake.scores(prompt), body["n_probs"], lie)
            top = [{"id": token, "token": f"<{token}>", "logprob": log} for token, log in told]
            answer: Any = {
                "completion_probabilities": [{"id": 1, "token": "?", "logprob": -1.0, "top_logprobs": top}],
                "tokens_evaluated": len(prompt) - (lie == "shifted"),
            }
            self._json(200, answer)
            return
        rows = [fake.scores(prompt[:at]) for at in range(1, len(prompt))]
        if fake.form == "vllm":
            positions: list[Any] = [None]
            for row, right in zip(rows, prompt[1:], strict=True):
                told = _ranked(row, body["prompt_logprobs"], lie)
                told += [(right, row[right])] if right not in dict(told) and lie != "other" else []
                entries = {str(token): {"logprob": log, "decoded_token": f"<{token}>"} for token, log in told}
                positions.append(entries)
            self._json(200, {"choices": [{"text": "?", "prompt_logprobs": positions[lie == "shifted" :]}]})
            return
        logs = [None, *(row[right] for row, right in zip(rows, prompt[1:], strict=True)), -1.0]
        logs = [value if value is None or not lie else _spoilt(value, lie) for value in logs][lie == "shifted" :]
        names = [f"<{token}>" if lie == "other" else "" for token in prompt] + [""]
        self._json(200, {"choices": [{"text": "?", "logprobs": {"token_logprobs": logs, "tokens": names}}]})

    def _answer(self, body: dict[str, Any]) -> None:
        fault = self.fake.fault
        if fault == "deaf":
            self.fake.half_way.set()
            self.fake.released.wait()
            return
        if fault == "plain":
            choice = {"message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}
            self._json(200, {"choices": [choice], "usage": _usage(len(WORDS))})
            return
        self.send_response(200)
        kind = "text/html" if fault == "html" else "text/event-stream; charset=utf-8"
        self.send_header("content-type", kind)
        if fault == "compressed":
            self.send_header("content-encoding", "gzip")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for data in self._stream(body):
            self._chunk(data)
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _stream(self, body: dict[str, Any]) -> Iterator[bytes]:
        fault = self.fake.fault
        if fault == "html":
            yield b"<html><body>Log in to the network</body></html>"
            return
        if fault == "json":
            yield b'data: {"choices": [{"delta": "words"}]}\n\n'
            return
        if fault == "comments":
            while True:
                yield b": still here\n\n" * 1000
        if fault == "think":
            yield _event(delta={"reasoning_content": "They"})
            yield _event(delta={"reasoning_content": " glow."})
        yield _event(delta={"role": "assistant", "content": None})
        words = WORDS[: body.get("max_tokens", len(WORDS))]
        for index, word in enumerate(words):
            yield _event(delta={"content": word})
            if index != 1:
                continue
            self.fake.half_way.set()
            if fault == "cut":
                self.connection.close()
                raise ConnectionResetError
            if fault == "stall":
                self._wait_for_the_end()
            if fault == "error":
                yield b'data: {"error": {"message": "out of memory"}}\n\n'
                return
            if fault == "huge":
                yield b"data: "
                while True:
                    yield b"x" * 65536
            if fault == "endless":
                while True:
                    yield _event(delta={"content": " lamp" * 100})
        if fault == "unfinished":
            return
        yield _event(delta={}, finish_reason="length" if len(words) < len(WORDS) else "stop")
        yield _event(usage=_usage(len(words)))
        yield b"data: [DONE]\n\n"

    def _wait_for_the_end(self) -> None:
        """Until the client has hung up, or the test is over."""
        self.connection.settimeout(0.05)
        while not self.fake.released.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
        self.fake.left.set()
        raise ConnectionResetError


def _usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "prompt_tokens_details": {"cached_tokens": CACHED},
    }


def rendered(messages: list[dict[str, str]]) -> str:
    """A conversation in the template of its model."""
    return "".join(f"[{each['role']}]{each['content']}" for each in messages) + "[assistant]"


def _ranked(row: list[float], count: int, lie: str) -> list[tuple[int, Any]]:
    """The ``count`` likeliest tokens of ``row``."""
    told: list[tuple[int, Any]] = sorted(enumerate(row), key=lambda each: -each[1])[:count]
    if lie == "few":
        return told[: count // 2]
    if lie == "other":
        return [(token + len(row), log) for token, log in told]
    if lie == "twice":
        return [told[0], *told[:-1]]
    return [(token, _spoilt(log, lie)) for token, log in told]


def _spoilt(log: float, lie: str) -> Any:
    return {"null": None, "much": -0.1, "positive": 3.0}.get(lie, log)


def _event(usage: dict[str, Any] | None = None, **choice: Any) -> bytes:
    choices = [{"index": 0, "finish_reason": None, **choice}] if choice else []
    return (
        b"data: "
        + json.dumps({"object": "chat.completion.chunk", "choices": choices, "usage": usage}).encode()
        + b"\n\n"
    )
