"""The server worker as window and command line see it: a real process, a real HTTP server with every kind of fault."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from app.chat_messages import Constraint
from app.protocol import (
    Cancelled,
    ChatMessage,
    Count,
    Failed,
    Generate,
    Loaded,
    Replied,
    Sampling,
    Score,
    Stop,
    Tokens,
)
from app.remote.messages import AskServer, KeepKey, KeyTold, ServerTold
from tests.fakeserver import FakeServer
from tests.fakeserver.server import CACHED, PROMPT_TOKENS, WORDS
from tests.remote.talking import BEAR, Talk

KEY = "sk-Geheim-0123456789-abcdef"
TEXT = "".join(WORDS)


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    with made.process:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Talk]:
    """One worker for the tests whose server does not end it."""
    made = Talk()
    with made.process:
        yield made


def test_it_answers_like_a_model_of_this_machine(shared: Talk) -> None:
    with FakeServer(key=KEY) as server:
        loaded = shared.connect(server.url, secret=KEY)
        assert (loaded.path, loaded.context) == ("pocket", 4096)
        assert loaded.description.startswith("llama.cpp at 127.0.0.1:")
        text, end = shared.reply(sampling=Sampling(seed=7, stop=("END",), max_tokens=100))
        assert text == TEXT
        assert (end.stop, end.tokens, end.prompt_tokens, end.prompt_reused) == ("end", 6, PROMPT_TOKENS, CACHED)
        assert end.context_used == PROMPT_TOKENS + 6
        body = server.bodies()[0]
        assert body["messages"] == [{"role": m.role, "content": m.content} for m in BEAR]
        wanted = {"model": "pocket", "stream": True, "temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05}
        wanted |= {"repeat_penalty": 1.0, "seed": 7, "stop": ["END"], "max_tokens": 100}
        assert {name: body[name] for name in wanted} == wanted
        assert {heard.authorization for heard in server.heard} == {f"Bearer {KEY}"}
        # The next one on the same connection, cut at its limit; then one that goes on with it.
        text, end = shared.reply(2, Sampling(max_tokens=2))
        assert (text, end.stop, end.tokens) == ("Bears like", "max_tokens", 2)
        text, end = shared.reply(3, messages=(*BEAR, ChatMessage("assistant", "Well")), continue_last=True)
        assert text == TEXT
        assert server.bodies()[-1]["messages"][-1] == {"role": "assistant", "content": "Well"}


def test_a_program_that_is_not_known_is_sent_only_what_the_standard_has(shared: Talk) -> None:
    with FakeServer(owner="somebody") as server:
        shared.connect(server.url, "second")
        shared.reply()
        body = server.bodies()[0]
        assert body["model"] == "second"
        assert set(body) == {"model", "messages", "stream", "stream_options", "max_tokens", "temperature", "top_p"}
        _, end = shared.reply(2, messages=(*BEAR, ChatMessage("assistant", "Well")), continue_last=True)
        assert end.code == "cannot_continue"
        shared.send(Count(3, BEAR, "words"))
        assert shared.until(Failed).code == "cannot_count"
        shared.send(Score(4, BEAR, "words", write="/nowhere"))
        assert shared.until(Failed).code == "no_probabilities"


def test_an_answer_is_held_to_a_schema_and_to_a_grammar_where_one_is_taken(shared: Talk) -> None:
    schema = Constraint("schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}')
    grammar = Constraint("grammar", 'root ::= "yes" | "no"')
    with FakeServer() as server:
        shared.connect(server.url)
        shared.reply(1, constraint=schema)
        assert server.bodies()[0]["response_format"]["json_schema"]["schema"]["type"] == "object"
        shared.reply(2, constraint=grammar)
        assert "yes" in server.bodies()[1]["grammar"] and "response_format" not in server.bodies()[1]
        assert shared.reply(3, constraint=Constraint("schema", "{"))[1].code == "bad_schema"
        assert len(server.bodies()) == 2
    with FakeServer(owner="somebody") as server:
        shared.connect(server.url)
        assert shared.reply(4, constraint=grammar)[1].code == "cannot_constrain"
        assert server.bodies() == []


def test_reasoning_stands_between_its_tags(shared: Talk) -> None:
    with FakeServer(fault="think") as server:
        shared.connect(server.url)
        assert shared.reply()[0] == f"<think>\nThey glow.\n</think>\n\n{TEXT}"


def test_a_server_that_does_not_stream_answers_whole(shared: Talk) -> None:
    with FakeServer(fault="plain") as server:
        shared.connect(server.url)
        text, end = shared.reply()
        assert (text, end.tokens, end.stop) == (TEXT, 6, "end")


@pytest.mark.parametrize("fault", ["stall", "deaf", "comments"])
def test_stop_takes_hold_whatever_is_waited_for(shared: Talk, fault: str) -> None:
    """Within 100 ms of the processor's time: the worker does nothing else but leave."""
    with FakeServer(fault=fault) as server:
        shared.connect(server.url)
        shared.send(Generate(1, BEAR, Sampling()))
        if fault != "comments":
            assert server.half_way.wait(60)
        if fault == "stall":
            shared.until(Tokens)
        times = psutil.Process(shared.process.pid).cpu_times()
        shared.send(Stop(1))
        end = shared.until(Replied, Failed)
        used = psutil.Process(shared.process.pid).cpu_times()
        assert end.stop == "cancelled"
        assert used.user + used.system - times.user - times.system < 0.1 or fault == "comments"
        if fault == "stall":
            assert server.left.wait(60), "the server was not told"
        server.fault = ""
        assert shared.reply(2)[0] == TEXT


def test_stop_reaches_a_reply_that_has_not_begun(shared: Talk) -> None:
    with FakeServer(fault="stall") as server:
        shared.connect(server.url)
        for request in (1, 2, 3):
            shared.send(Generate(request, BEAR, Sampling()))
        assert server.half_way.wait(60)
        shared.send(Stop(3))
        end = shared.until(Replied)
        assert (end.request, end.stop, end.tokens) == (3, "cancelled", 0)
        shared.send(Stop(2))
        shared.send(Stop(1))
        assert {shared.until(Replied).request, shared.until(Replied).request} == {1, 2}
        assert len(server.bodies()) == 1


@pytest.mark.parametrize(
    ("fault", "code", "kept"),
    [
        ("cut", "connection_lost", "Bears like"),
        ("unfinished", "connection_lost", TEXT),
        ("error", "server_trouble", "Bears like"),
        ("huge", "bad_answer", "Bears like"),
        ("json", "bad_answer", ""),
        ("html", "bad_answer", ""),
        ("compressed", "bad_answer", ""),
        ("endless", "endless_answer", "Bears like lamp"),
        ("stall", "timeout", "Bears like"),
    ],
)
def test_a_bad_answer_is_an_error_in_words_and_the_next_one_works(
    shared: Talk, fault: str, code: str, kept: str
) -> None:
    with FakeServer(fault=fault) as server:
        assert isinstance(shared.connect(server.url, silence=1.0 if fault == "stall" else 600.0), Loaded)
        text, end = shared.reply(sampling=Sampling(max_tokens=8))
        assert isinstance(end, Failed), end
        assert end.code == code
        assert end.title and end.hint and server.root.removeprefix("http://") in end.detail
        assert text.startswith(kept)
        assert len(text) < 8192
        server.fault = ""
        assert shared.reply(2)[0] == TEXT


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (302, "redirected"),
        (307, "redirected"),
        (400, "refused"),
        (401, "bad_key"),
        (403, "bad_key"),
        (404, "not_found"),
        (413, "context_full"),
        (429, "rate_limited"),
        (500, "server_trouble"),
        (503, "server_busy"),
    ],
)
def test_every_status_has_its_words_and_none_has_the_key(shared: Talk, status: int, code: str) -> None:
    with FakeServer() as elsewhere, FakeServer() as server:
        shared.connect(server.url, secret=KEY)
        server.status, server.headers = status, {"location": elsewhere.url + "/chat/completions"}
        _, end = shared.reply()
        assert end.code == code
        assert f"HTTP {status}" in end.detail
        assert KEY not in f"{end}{shared.process.log_tail()}"
        assert elsewhere.heard == []  # a redirect is never followed, least of all with the key
        shared.send(AskServer(5, server.url, KEY))
        asked = shared.until(ServerTold, Failed)
        assert asked.code == code and KEY not in str(asked)


def test_a_context_that_is_full_is_told_apart(shared: Talk) -> None:
    with FakeServer() as server:
        shared.connect(server.url)
        server.status, server.message = 400, "the request exceeds the available context size"
        assert shared.reply()[1].code == "context_full"


@pytest.mark.parametrize(
    "listing", [[], {"data": 5}, {"data": [{"name": "x"}]}, "words", {"data": [{"id": 7}]}, {"object": "list"}]
)
def test_a_list_of_models_that_is_none(shared: Talk, listing: Any) -> None:
    with FakeServer(models=listing) as server:
        shared.send(AskServer(1, server.url))
        assert shared.until(ServerTold, Failed).code == "bad_answer"


def test_names_of_models_are_bounded(shared: Talk) -> None:
    odd = ["", "x" * 5000, "line\nbreak", " space ", "good:4b"]
    with FakeServer(models={"data": [{"id": name} for name in odd] + [{"id": f"m{i}"} for i in range(5000)]}) as server:
        shared.send(AskServer(1, server.url))
        state = shared.until(ServerTold, Failed).state
        assert [model.id for model in state.models][:2] == ["good:4b", "m0"]
        assert len(state.models) < 1001


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1:9/v1", "server_unreachable"),
        ("http://no-such-host.invalid/v1", "server_unreachable"),
        ("http://user:password@127.0.0.1/v1", "bad_server"),
        ("ftp://127.0.0.1/", "bad_server"),
        ("http://127.0.0.1:99999/", "bad_server"),
    ],
)
def test_an_address_that_leads_nowhere(shared: Talk, url: str, code: str) -> None:
    shared.send(AskServer(1, url))
    end = shared.until(ServerTold, Failed)
    assert end.code == code
    assert "password" not in end.detail


def test_a_model_that_the_server_does_not_have_ends_the_worker(talk: Talk) -> None:
    with FakeServer() as server:
        end = talk.connect(server.url, "third")
        assert (end.request, end.code) == (0, "model_not_served")
        assert "pocket, second" in end.detail
        assert talk.process.wait(60).error is not None


def test_certificates_are_verified(tmp_path: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FakeServer(key=KEY, tls=context) as server:
        end = talk.connect(server.url, secret=KEY)
        assert end.code == "tls"
        assert server.heard == []
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        trusting = Talk()
        with trusting.process:
            assert isinstance(trusting.connect(server.url, secret=KEY), Loaded)
            assert trusting.reply()[0] == TEXT


def test_no_proxy_comes_between_this_machine_and_itself(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    direct = Talk()
    with FakeServer() as server, direct.process:
        assert isinstance(direct.connect(server.url), Loaded)


def test_a_key_lies_in_the_keyring_under_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "keyring"))
    talk = Talk()
    with FakeServer(key=KEY) as server, FakeServer() as other, talk.process:
        talk.send(AskServer(1, server.url))
        assert talk.until(ServerTold, Failed).code == "key_needed"
        talk.send(KeepKey(2, server.url, KEY))
        assert talk.until(KeyTold) == KeyTold(2, True)
        talk.send(AskServer(3, server.url))
        assert talk.until(ServerTold, Failed).state.key == "keyring"
        assert isinstance(talk.connect(server.url), Loaded)
        talk.send(AskServer(4, other.url))
        talk.until(ServerTold)
        assert {heard.authorization for heard in other.heard} == {None}  # another server, another key
        talk.send(KeepKey(5, server.url, ""))
        talk.until(KeyTold)
        talk.send(AskServer(6, server.url))
        assert talk.until(ServerTold, Failed).code == "key_needed"
        talk.send(KeepKey(7, server.url, "two words"))
        end = talk.until(KeyTold, Failed)
        assert end.code == "bad_key" and "two words" not in str(end)


def test_without_a_keyring_it_says_so_and_writes_the_key_nowhere(
    quench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    talk = Talk()
    with FakeServer(key=KEY) as server, talk.process:
        talk.send(KeepKey(1, server.url, KEY))
        told = talk.until(KeyTold)
        assert not told.kept and "keyring" in told.why
        talk.send(AskServer(2, server.url, KEY))
        assert talk.until(ServerTold).state.key == "given"
        process = psutil.Process(talk.process.pid)
        assert KEY not in " ".join(process.cmdline()) + json.dumps(process.environ())
    files = [path for path in quench_home.parent.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_worker_whose_parent_leaves_while_it_connects_goes_at_once() -> None:
    talk = Talk()
    with FakeServer() as server, talk.process:
        talk.connect(server.url)
        server.fault = "deaf"
        talk.send(Generate(1, BEAR, Sampling()))
        assert server.half_way.wait(60)
        start = time.monotonic()
        talk.process.cancel(grace=30.0)
        talk.until(Cancelled)
        verdict = talk.process.wait(60)
        assert verdict.cancelled, verdict
        assert time.monotonic() - start < 30
    assert os.environ.get("QUENCH_API_KEY") is None
