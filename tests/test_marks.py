"""Reasoning and tool calls as models write them, and as nobody should."""

from __future__ import annotations

import json

import pytest

from app.marks import MAX_CALL, Call, bare_calls, calls_at, without_thought

WEATHER = '{"name": "get_weather", "arguments": {"city": "Köln"}}'
CITY = '{\n  "city": "Köln"\n}'


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"<tool_call>\n{WEATHER}\n</tool_call>", [("get_weather", CITY)]),
        (f"<|tool_call|>[{WEATHER}, {WEATHER}]<|/tool_call|>", [("get_weather", CITY)] * 2),
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>",
            [("get_weather", CITY)],
        ),
        ('<function=get_weather>{"city": "Köln"}</function>', [("get_weather", CITY)]),
        (f"[TOOL_CALLS][{WEATHER}]", [("get_weather", CITY)]),
        (f"[TOOL_CALLS] [{WEATHER}, {WEATHER}]", [("get_weather", CITY)] * 2),
        ('[TOOL_CALLS]get_weather[ARGS]{"city": "Köln"}', [("get_weather", CITY)]),
        ('[TOOL_CALLS]a{"x": 1}[TOOL_CALLS]b{"y": 2}', [("a", '{\n  "x": 1\n}'), ("b", '{\n  "y": 2\n}')]),
        ('<|python_tag|>{"name": "f", "parameters": {}}', [("f", "{}")]),
        ("<|python_tag|>print(1)", [("", "print(1)")]),
        ('<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', [("f", '{\n  "x": 1\n}')]),
        ('<tool_call>{"function": {"name": "f", "arguments": {}}}</tool_call>', [("f", "{}")]),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", "{}")]),
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
            '{"city": "Köln"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
            [("get_weather", CITY)],
        ),
        (
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{"x": 1}<｜tool▁call▁end｜>'
            "<｜tool▁call▁begin｜>b<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            [("a", '{\n  "x": 1\n}'), ("b", "{}")],
        ),
        (
            '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Köln"}',
            [("get_weather", CITY)],
        ),
        ("<tool_call>no json</tool_call>", [("", "no json")]),
        ('<tool_call>{"name": 5}</tool_call>', [("", '{"name": 5}')]),
        (f"<tool_call><tool_call>{WEATHER}</tool_call>", [("", f"<tool_call>{WEATHER}")]),
    ],
)
def test_calls_are_read_in_every_customary_form(text: str, calls: list[tuple[str, str]]) -> None:
    found = calls_at(text, 0)
    assert found is not None
    assert [tuple(call) for call in found.calls] == calls
    assert found.end == len(text)


def test_a_call_after_reasoning_in_channels_is_found() -> None:
    text = (
        "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json"
        '<|message|>{"a": 1}'
    )
    rest = without_thought(text)
    found = calls_at(rest, 0)
    assert found is not None and found.calls == (Call("f", '{\n  "a": 1\n}'),)


def test_text_after_a_call_is_text_again() -> None:
    text = f"x <tool_call>{WEATHER}</tool_call>\nand more"
    found = calls_at(text, 2)
    assert found is not None and found.closed
    assert text[found.end :] == "\nand more"
    assert calls_at(text, 0) is None


@pytest.mark.parametrize(
    "text", ["<tool_call>", '<tool_call>\n{"name": "f", "argu', "[TOOL_CALLS]get_we", "[TOOL_CALLS]["]
)
def test_a_call_that_is_still_being_written_is_open(text: str) -> None:
    found = calls_at(text, 0)
    assert found is not None
    assert not found.closed
    assert found.end == len(text)
    assert found.calls[0].name == ""


def test_a_call_whose_mark_the_engine_kept_is_the_whole_answer() -> None:
    assert bare_calls(f"\n{WEATHER}") is not None
    found = bare_calls('{"type": "function", "name": "f", "parameters": {"a": null}}')
    assert found is not None and found.calls == (Call("f", '{\n  "a": null\n}'),)
    assert bare_calls('[{"name": "f", "arguments": {"a": ') is not None
    for other in ('{"name": "Bob", "age": 3}', "{}", "a" + WEATHER, "", "[1, 2]"):
        assert bare_calls(other) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" + "[" * 200_000,
        "<tool_call>" + '{"a":' * 10_000 + "</tool_call>",
        '<tool_call>{"name": "f", "arguments": ' + "9" * 10_000 + "}</tool_call>",
        "<tool_call>" * 20_000,
        "[TOOL_CALLS]" * 20_000,
        "<｜tool▁calls▁begin｜>" + "<｜tool▁call▁begin｜>a{" * 3_000 + "<｜tool▁calls▁end｜>",
        "<|channel|>commentary to=a<|message|>" + "[" * 100_000,
        "[TOOL_CALLS]" + "a{}" * 20_000,
        "<function=x>" * 20_000,
        "<tool_call>" + "<function=x><parameter=y>" * 2_000 + "</tool_call>",
        json.dumps([{"name": "f", "arguments": {}}] * 10_000),
        '{"name": "f", "arguments": ' + "[" * 100_000,
    ],
    ids=range(12),
)
def test_hostile_calls_are_bounded(text: str) -> None:
    found = calls_at(text, 0) or bare_calls(text)
    assert found is not None
    assert 0 < found.end <= len(text)
    assert found.end <= MAX_CALL + 300 or not text.startswith("<")
    assert 1 <= len(found.calls) <= 32


@pytest.mark.parametrize(
    "text",
    [
        "<think>secret</think>\n\nyes",
        "<thinking>secret</thinking>yes",
        "<Reasoning>secret</reasoning> yes",
        "still secret</think>\n\nyes",
        "[THINK]secret[/THINK]yes",
        "<|begin_of_thought|>secret<|end_of_thought|>\nyes",
        "◁think▷secret◁/think▷yes",
        "<|channel|>analysis<|message|>secret<|end|><|start|>assistant<|channel|>final<|message|>yes",
    ],
)
def test_reasoning_is_left_out_in_every_customary_form(text: str) -> None:
    assert without_thought(text) == "yes"


def test_an_answer_without_reasoning_stays_as_it_is() -> None:
    for text in ("", "yes", "<think>never closed", "Write <think>x</think> around it."):
        assert without_thought(text) == text
