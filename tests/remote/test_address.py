"""Addresses and names of servers: what people type, and what must not get through."""

from __future__ import annotations

import pytest

from app.remote import address
from converter.spec import QuenchError


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        (" http://localhost:8080/ ", "http://localhost:8080/v1"),
        ("https://models.example/openai/v1/", "https://models.example/openai/v1"),
        ("http://[::1]:11434", "http://[::1]:11434/v1"),
    ],
)
def test_an_address_is_completed(typed: str, url: str) -> None:
    assert address.check_url(typed) == url


@pytest.mark.parametrize(
    "typed",
    ["", "  ", "http://", "file:///etc/passwd", "http://a b/", "http://a:b@c/v1", "http://x:99999", "http://x/?q=1",
     "http://x/#f", "http://x\n/", "http://" + "x" * 600, "http://ü.example/", "http://[::1", "http://x:0"],
)  # fmt: skip
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(QuenchError) as caught:
        address.check_url(typed)
    assert caught.value.code == "bad_server"
    assert "a:b" not in caught.value.detail


def test_a_served_model_has_a_path_of_its_own() -> None:
    path = address.model_path("My desk", "org/qwen3:4b")
    assert address.is_remote(path) and not address.is_remote("/models/server:x.gguf")
    assert address.split_path(path) == ("My desk", "org/qwen3:4b")


def test_names_are_plain_and_unique() -> None:
    assert address.check_name("  My   desk ") == "My desk"
    for bad in ("", "a/b", "x" * 41, "a\\b", "bell\x07"):
        with pytest.raises(QuenchError):
            address.check_name(bad)
    with pytest.raises(QuenchError) as caught:
        address.check_name("my DESK", ["My desk"])
    assert "already" in caught.value.title
    assert address.suggested_name("http://127.0.0.1:8080/v1", ["127.0.0.1:8080"]) == "127.0.0.1:8080 2"


@pytest.mark.parametrize(
    ("url", "here", "seen"),
    [
        ("http://127.0.0.1:1/v1", True, False),
        ("http://localhost:1/v1", True, False),
        ("http://[::1]:1/v1", True, False),
        ("http://192.168.1.5:8080/v1", False, True),
        ("https://192.168.1.5:8080/v1", False, False),
        ("http://localhost.example/v1", False, True),
        ("http://127.0.0.1.example/v1", False, True),
    ],
)
def test_what_travels_openly(url: str, here: bool, seen: bool) -> None:
    assert (address.is_loopback(url), address.travels_open(url)) == (here, seen)
