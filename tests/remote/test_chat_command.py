"""``quench chat --url``: the program itself against a server."""

from __future__ import annotations

import json

import pytest

from tests.fakeserver import FakeServer
from tests.fakeserver.server import WORDS
from tests.hub.program import quench, quench_words

KEY = "sk-Geheim-0123456789-abcdef"


def test_a_reply_of_a_server() -> None:
    with FakeServer(key=KEY) as server:
        status, data, _ = quench(
            "chat", "--url", server.root, "--model", "second", "-p", "Bears?", "--system", "Be brief.", "--seed", "3",
            QUENCH_API_KEY=KEY,
        )  # fmt: skip
        assert status == 0, data
        assert (data["text"], data["stop"], data["tokens"]) == ("".join(WORDS), "end", 6)
        body = server.bodies()[0]
        assert (body["model"], body["seed"]) == ("second", 3)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_what_goes_wrong_is_said_without_the_key() -> None:
    with FakeServer(key="another") as server:
        status, data, err = quench("chat", "--url", server.url, "-p", "Bears?", QUENCH_API_KEY=KEY)
        assert status == 3
        assert data["error"]["code"] == "bad_key"
        assert KEY not in json.dumps(data) + err


@pytest.mark.parametrize(
    "arguments", [[], ["model.gguf", "--url", "http://127.0.0.1:9"], ["model.gguf", "--model", "x"]]
)
def test_either_a_file_or_a_server(arguments: list[str]) -> None:
    status, _, err = quench_words("chat", *arguments, "-p", "Bears?")
    assert status == 2
    assert "Name a model file, or a server." in err
