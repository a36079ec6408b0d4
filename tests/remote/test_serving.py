"""``quench serve`` from outside: the unmodified OpenAI client, and everything that a stranger may send."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from app.child import Child
from app.protocol import ChatMessage, Complete, Generate, Load, Replied, Sampling, Tokens
from tests.hub.program import ROOT, quench, quench_words
from tests.remote.talking import Talk

TOKEN = "a-token-of-thirty-two-characters"
FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 48, "extra_body": {"top_k": 1, "min_p": 0.0}, "top_p": 1.0}


@dataclass
class Running:
    """``quench serve`` that listens."""

    process: subprocess.Popen[str]
    url: str
    said: list[str]
    reader: threading.Thread

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.root.removeprefix("http://").partition(":")
        return host, int(port)

    def end(self) -> dict[str, Any]:
        """Ctrl-C; what it then reports."""
        self.process.send_signal(signal.SIGINT)
        out = self.close()
        assert self.process.returncode == 0, (out, self.said)
        report: dict[str, Any] = json.loads(out)
        return report

    def close(self) -> str:
        """Wait for its end; what it printed, the first time."""
        assert self.process.stdout is not None and self.process.stderr is not None
        if self.process.stdout.closed:
            return ""
        with self.process.stdout, self.process.stderr:
            out = self.process.stdout.read()
            self.process.wait(120)
            self.reader.join(120)
        return out


def begin(model: Path, *options: str, **environment: str) -> Running:
    command = [sys.executable, "-m", "app", "serve", str(model), "--port", "0", "--json", *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("Serving "):
            # What it says afterwards is read too, or it would stand still.
            reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
            reader.start()
            return Running(process, line.split(" at ")[1].split(";")[0], said, reader)
    raise AssertionError(f"it ended: {said}")


@pytest.fixture(scope="module")
def served(pocket_gguf: Callable[[str], Path]) -> Iterator[Running]:
    running = begin(pocket_gguf("Q8_0"), "--context", "1024")
    yield running
    running.process.kill()
    running.close()


@pytest.fixture
def client(served: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def raw(served: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.root, trust_env=False, timeout=60) as made:
        yield made


def ours(model: Path, question: Generate | Complete) -> tuple[str, Replied]:
    """What the chat worker itself answers."""
    with Child("chat") as chat:
        chat.send(Load(str(model)))
        chat.send(question)
        text = ""
        for event in chat.events():
            text += event.text if isinstance(event, Tokens) else ""
            if isinstance(event, Replied):
                return text, event
        raise AssertionError(chat.wait(60))


SAME = Sampling(0.0, 1, 1.0, 0.0, max_tokens=48)


def test_a_chat_as_the_client_sees_it(client: openai.OpenAI, pocket_gguf: Callable[[str], Path]) -> None:
    text, end = ours(pocket_gguf("Q8_0"), Generate(1, (ChatMessage("user", FRANCE[0]["content"]),), SAME))
    answer = client.chat.completions.create(model="whatever", messages=FRANCE, **GREEDY)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "Pocket-Q8_0"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (end.prompt_tokens, end.tokens)
    stream = client.chat.completions.create(
        model="x", messages=FRANCE, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    parts = list(stream)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == text
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "stop"
    assert parts[-1].usage is not None and parts[-1].usage.completion_tokens == end.tokens
    assert len({part.id for part in parts}) == 1
    cut = client.chat.completions.create(model="x", messages=FRANCE, **{**GREEDY, "max_tokens": 3})
    assert (cut.choices[0].finish_reason, cut.usage and cut.usage.completion_tokens) == ("length", 3)
    stopped = client.chat.completions.create(model="x", messages=FRANCE, stop=["France"], **GREEDY)
    assert stopped.choices[0].message.content == text.partition("France")[0]


def test_a_plain_completion(client: openai.OpenAI, pocket_gguf: Callable[[str], Path]) -> None:
    text, end = ours(pocket_gguf("Q8_0"), Complete(1, "Once upon a time", SAME))
    answer = client.completions.create(model="x", prompt="Once upon a time", **GREEDY)
    assert answer.choices[0].text == text
    assert answer.usage is not None and answer.usage.prompt_tokens == end.prompt_tokens
    parts = list(client.completions.create(model="x", prompt=["Once upon a time"], stream=True, **GREEDY))
    assert "".join(part.choices[0].text for part in parts) == text


def test_models_and_what_is_not_there(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["Pocket-Q8_0"]
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="x", input="words")
    assert "embeddings model" in caught.value.message


PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}


def held(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def test_an_answer_is_held_to_its_form(client: openai.OpenAI) -> None:
    asked: Any = {"model": "x", "messages": FRANCE, **GREEDY, "max_tokens": 200}
    answer = client.chat.completions.create(response_format=held(PLACE), **asked).choices[0]
    assert answer.finish_reason == "stop" and answer.message.content is not None
    found = json.loads(answer.message.content)
    assert set(found) == {"city", "size"} and found["size"] in ("small", "large")
    parts = client.chat.completions.create(response_format=held(PLACE), stream=True, **asked)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == answer.message.content
    free = client.chat.completions.create(response_format={"type": "json_object"}, **asked).choices[0].message.content
    assert free is not None and free.startswith("{")


def test_how_sure_it_was(client: openai.OpenAI, served: Running) -> None:
    asked: Any = {"model": "x", "messages": FRANCE, **GREEDY}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    told = client.chat.completions.create(logprobs=True, top_logprobs=3, **asked).choices[0]
    assert told.message.content == plain and told.logprobs is not None and told.logprobs.content is not None
    entries = told.logprobs.content
    assert "".join(entry.token for entry in entries) == plain
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and bytes(entry.bytes or ()).decode() == entry.token
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob), "greedy: the likeliest was taken"
    none = client.chat.completions.create(logprobs=True, **asked).choices[0].logprobs
    assert none is not None and none.content is not None and none.content[0].top_logprobs == []

    parts = list(client.chat.completions.create(logprobs=True, top_logprobs=3, stream=True, **asked))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == plain
    streamed = [entry for part in parts if part.choices[0].logprobs for entry in part.choices[0].logprobs.content or ()]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]

    text = client.completions.create(model="x", prompt="Once upon a time", logprobs=2, **GREEDY).choices[0]
    assert text.logprobs is not None and text.logprobs.tokens is not None and text.logprobs.top_logprobs is not None
    assert "".join(text.logprobs.tokens) == text.text
    assert text.logprobs.text_offset is not None and text.logprobs.token_logprobs is not None
    for token, offset, top, log in zip(
        text.logprobs.tokens, text.logprobs.text_offset, text.logprobs.top_logprobs, text.logprobs.token_logprobs,
        strict=True,
    ):  # fmt: skip
        assert text.text[offset : offset + len(token)] == token
        assert len(top) == 2 and max(top.values()) == pytest.approx(log)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="x", prompt="Once", logprobs=9, **GREEDY)


TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "find_place", "description": "Finds a place.", "parameters": PLACE},
    },
    {"type": "function", "function": {"name": "now"}},
]

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function.name }} {{ call.function.arguments.city }}"
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def with_tools(pocket_gguf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """Pocket with a template that knows tools."""
    model = tmp_path_factory.mktemp("tools") / "Pocket-tools.gguf"
    template = f"tokenizer.chat_template=str:{TEMPLATE}"
    status, data, _ = quench(
        "convert", str(pocket_gguf("Q8_0")), "-o", str(model), "--type", "copy", "--override-kv", template
    )
    assert status == 0, data
    running = begin(model, "--context", "1024")
    with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0) as made:
        yield made
    running.process.kill()
    running.close()


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find_place"}}])
def test_a_tool_is_called_where_it_must_be(with_tools: openai.OpenAI, choice: Any) -> None:
    asked: Any = {
        "model": "x", "messages": FRANCE, **GREEDY, "max_tokens": 200, "tools": TOOLS, "tool_choice": choice,
    }  # fmt: skip
    answer = with_tools.chat.completions.create(**asked).choices[0]
    assert answer.finish_reason == "tool_calls" and not answer.message.content
    [call] = answer.message.tool_calls or []
    assert call.type == "function" and call.function.name in ("find_place", "now") and call.id
    arguments = json.loads(call.function.arguments)
    if choice != "required":
        assert call.function.name == "find_place" and set(arguments) == {"city", "size"}
    parts = list(with_tools.chat.completions.create(stream=True, **asked))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == ""
    [delta] = [each for part in parts for each in part.choices[0].delta.tool_calls or ()]
    assert (delta.index, delta.function and delta.function.name) == (0, call.function.name)
    assert delta.function is not None and delta.function.arguments == call.function.arguments
    assert [part.choices[0].finish_reason for part in parts][-1] == "tool_calls"
    # What came of it goes back, and the answer is words again.
    back: Any = [
        *FRANCE,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "Paris"},
    ]
    after = with_tools.chat.completions.create(**{**asked, "messages": back, "tool_choice": "auto"}).choices[0]
    assert after.finish_reason in ("stop", "length") and after.message.content
    none = with_tools.chat.completions.create(**{**asked, "tool_choice": "none"}).choices[0]
    assert none.message.tool_calls is None and none.message.content


@pytest.mark.slow
def test_tools_stand_in_the_prompt(with_tools: openai.OpenAI) -> None:
    asked: Any = {"model": "x", "messages": FRANCE, **GREEDY, "max_tokens": 2}
    plain = with_tools.chat.completions.create(**asked).usage
    offered = with_tools.chat.completions.create(tools=TOOLS, **asked).usage
    assert plain is not None and offered is not None and offered.prompt_tokens > plain.prompt_tokens + 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 2}, "'n'"),
        ({"logprobs": True, "top_logprobs": 6}, "At most 5"),
        ({"top_logprobs": 2}, "'top_logprobs'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "template knows no tools"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, "'tools'"),
        ({"tools": [{"type": "code", "function": {"name": "f"}}]}, "'tools'"),
        ({"tool_choice": "required"}, "'tool_choice'"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "'tool_choice'"),
        ({"response_format": {"type": "yaml"}}, "'response_format'"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "'response_format'"),
        ({"response_format": held({"type": "string", "pattern": "(?=x)"})}, "'response_format'"),
        ({"response_format": held({"type": "array", "contains": {"const": 1}})}, "contains"),
        ({"temperature": -1}, "'temperature'"),
        ({"temperature": 11}, "'temperature'"),
        ({"top_p": 2}, "'top_p'"),
        ({"max_tokens": 0}, "'max_tokens'"),
        ({"stop": [""]}, "'stop'"),
        ({"messages": []}, "'messages'"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "wizard"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "Only text"),
        ({"messages": [{"role": "user", "content": "bear and lamp " * 4000}]}, "context"),
        ({"messages": "x"}, "cannot be used"),
    ],
)
def test_what_cannot_be_done_is_refused_in_the_clients_own_terms(
    client: openai.OpenAI, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "x", "messages": FRANCE, "max_tokens": 4, **change})
    assert words in caught.value.message
    assert "type" in (caught.value.body or {})


def test_hanging_up_frees_the_model(endless_gguf: Path) -> None:
    """Answers that take minutes and that nobody waits for do not keep the next one waiting."""
    running = begin(endless_gguf, "--context", "8192")
    endless = {"messages": FRANCE, "temperature": 1.0, "top_k": 40, "top_p": 1.0, "min_p": 0.0, "seed": 3}
    try:
        with httpx2.Client(base_url=running.url, trust_env=False, timeout=100) as raw:
            for _ in range(3):
                with raw.stream("POST", "/chat/completions", json={**endless, "stream": True}) as response:
                    next(response.iter_text())
            with pytest.raises(httpx2.ReadTimeout):
                raw.post("/chat/completions", json=endless, timeout=0.2)
            answer = raw.post("/chat/completions", json={**endless, "max_tokens": 2}).json()
            assert answer["usage"]["completion_tokens"] == 2
        assert running.end()["answered"] == 1
    finally:
        running.process.kill()
        running.close()


def test_two_at_once_are_answered_in_turn(client: openai.OpenAI) -> None:
    found: list[str] = []

    def one() -> None:
        answer = client.chat.completions.create(model="x", messages=FRANCE, **GREEDY)
        found.append(answer.choices[0].message.content or "")

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 4 and len(set(found)) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"host": ""}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"host": "localhost:1"}, 400),
    ],
)
def test_pages_of_browsers_are_kept_out(raw: httpx2.Client, headers: dict[str, str], status: int) -> None:
    sent = {"content-type": "application/json", **headers}
    answer = raw.post("/v1/chat/completions", content=b"{}", headers=sent)
    assert answer.status_code == status, answer.text
    assert "error" in answer.json()
    assert not [name for name in answer.headers if name.startswith("access-control")]
    # The question that a browser asks before it sends JSON across origins has no yes.
    asked = raw.request("OPTIONS", "/v1/chat/completions", headers={"origin": "https://evil.example"})
    assert asked.status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e400}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "seed": "x"}', 400),
        (b"x" * ((8 << 20) + 1), 413),
    ],
)
def test_bodies_are_bounded_and_checked(raw: httpx2.Client, body: bytes, status: int) -> None:
    answer = raw.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_body_without_a_length_is_bounded_too(raw: httpx2.Client) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(9):
            yield b"x" * (1 << 20)

    answer = raw.post("/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "words",
    [b"\0\0\0\0", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", b"GET " + b"/" * 200_000, b"\r\n" * 99],
)
def test_what_is_no_http_does_no_harm(served: Running, raw: httpx2.Client, words: bytes) -> None:
    with socket.create_connection(served.place, 60) as line:
        try:
            line.sendall(words)
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
        except OSError:
            pass  # it hung up on us, in one of several ways
    assert raw.get("/health").json() == {"status": "ok"}
    assert raw.get("/nowhere").status_code == 404
    assert raw.get("/v1/completions").status_code == 405


def test_our_own_client_gets_on_with_it(served: Running) -> None:
    """The two halves of this program as strangers to each other."""
    talk = Talk()
    with talk.process:
        loaded = talk.connect(served.url)
        assert loaded.path == "Pocket-Q8_0"
        text, end = talk.reply(sampling=SAME, messages=(ChatMessage("user", FRANCE[0]["content"]),))
        assert "Paris" in text and end.stop == "end" and end.prompt_tokens > 0


def test_a_token_and_the_end(pocket_gguf: Callable[[str], Path]) -> None:
    running = begin(pocket_gguf("Q8_0"), "--context", "512", QUENCH_SERVE_TOKEN=TOKEN)
    try:
        with openai.OpenAI(base_url=running.url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
            with pytest.raises(openai.AuthenticationError):
                client.chat.completions.create(model="x", messages=FRANCE)
        with openai.OpenAI(base_url=running.url, api_key=TOKEN, max_retries=0) as client:
            assert client.chat.completions.create(model="x", messages=FRANCE, **GREEDY).choices[0].message.content
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert TOKEN not in " ".join(word for child in children for word in child.cmdline())
        assert not [child for child in children if TOKEN in child.environ().values()]
        report = running.end()
        assert report["answered"] == 1 and report["refused"] == 2
        assert TOKEN not in json.dumps(report) + "".join(running.said)
    finally:
        running.process.kill()
        running.close()


@pytest.mark.slow
def test_a_dead_engine_ends_it_in_words(pocket_gguf: Callable[[str], Path]) -> None:
    running = begin(pocket_gguf("Q8_0"), "--context", "512")
    try:
        for child in psutil.Process(running.process.pid).children():
            if child.cmdline()[-1] == "chat":
                child.kill()
        out = running.close()
        assert running.process.returncode == 5
        assert json.loads(out)["error"]["code"] == "engine_died"
    finally:
        running.process.kill()
        running.close()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--host", "0.0.0.0"], 2, "only use the model with a token"),
        (["--host", "0.0.0.0", "--token", "short"], 2, "too weak"),
        (["--port", "70000"], 2, "65535"),
    ],
)
def test_what_is_not_served(pocket_gguf: Callable[[str], Path], options: list[str], status: int, words: str) -> None:
    got, _, err = quench_words("serve", str(pocket_gguf("Q8_0")), *options)
    assert got == status
    assert words in err


@pytest.mark.slow
def test_a_port_that_is_taken(served: Running, pocket_gguf: Callable[[str], Path]) -> None:
    status, _, err = quench_words("serve", str(pocket_gguf("Q8_0")), "--port", str(served.place[1]))
    assert status == 3
    assert "choose another" in err
