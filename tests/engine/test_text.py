"""Bytes to text: whole characters, and stop strings across any border."""

from __future__ import annotations

import random

import pytest

from app.engine.text import TextStream

TEXT = "Grüße aus Köln: 你好, naïve café — 😀!"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_characters_are_never_torn(size):
    data = TEXT.encode()
    stream = TextStream()
    shown = [stream.push(data[at : at + size]) for at in range(0, len(data), size)]
    assert all("�" not in part for part in shown)
    assert "".join(shown) + stream.finish() == TEXT


def test_bytes_that_are_no_text_are_replaced_at_the_end():
    stream = TextStream()
    assert stream.push(b"a\xf0\x9f") == "a"
    assert stream.finish() == "�"


def first_completed(text: str, stops: list[str]) -> str | None:
    """What is shown before the stop string that is complete first, or None. The slow and plain way."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


def test_stop_strings_cut_exactly_and_nothing_is_lost_or_leaked():
    generator = random.Random(7)
    stopped = 0
    for _ in range(3000):
        text = "".join(generator.choices("ab\nü", k=generator.randint(0, 12)))
        stops = ["".join(generator.choices("ab\nü", k=generator.randint(1, 4))) for _ in range(generator.randint(1, 3))]
        stream = TextStream(stops)
        shown = "".join(stream.push(bytes([byte])) for byte in text.encode()) + stream.finish()
        expected = first_completed(text, stops)
        stopped += expected is not None
        assert shown == (text if expected is None else expected), (text, stops)
        assert stream.stopped == (expected is not None)
    assert 500 < stopped < 2900


def test_text_that_can_be_no_stop_string_is_shown_at_once():
    stream = TextStream(["<end>"])
    assert stream.push(b"hello <e") == "hello "
    assert stream.push(b"lse") == "<else"


def test_an_empty_stop_string_stops_nothing():
    stream = TextStream(["", ""])
    assert stream.push(b"abc") == "abc"
    assert not stream.stopped
