"""Calls of tools in an answer as it comes, cut anywhere."""

from __future__ import annotations

import json

import pytest

from app.constraints import grammar_of
from app.marks import Call
from app.serving.calls import Reader, called, earlier, offered
from app.serving.forms import ChatRequest, RefusedError, held, read

NAMES = ("find_place", "now")
ARGUMENTS = '{"city": "Paris", "size": "large"}'
CALL = f'{{"name": "find_place", "arguments": {ARGUMENTS}}}'


def heard(text: str, step: int) -> tuple[str, str, list[Call]]:
    """What is given while ``text`` comes in pieces, what at its end, and the calls."""
    reader = Reader(NAMES)
    given = "".join(reader.add(text[at : at + step]) for at in range(0, len(text), step))
    rest, calls = reader.end()
    return given, rest, list(calls)


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "words", "names"),
    [
        (f"Let me look.\n<tool_call>\n{CALL}\n</tool_call>", "Let me look.", ["find_place"]),
        (f"<tool_call>{CALL}</tool_call><tool_call>{{\"name\": \"now\", \"arguments\": {{}}}}</tool_call>", "",
         ["find_place", "now"]),
        (f"[TOOL_CALLS][{CALL}]", "", ["find_place"]),
        (f"[TOOL_CALLS]find_place[ARGS]{ARGUMENTS}", "", ["find_place"]),
        (f"<|python_tag|>{CALL}", "", ["find_place"]),
        ("<function=find_place>\n<parameter=city>\nParis\n</parameter>\n</function>", "", ["find_place"]),
        (f"<|channel|>commentary to=functions.find_place <|constrain|>json<|message|>{ARGUMENTS}", "", ["find_place"]),
        (CALL, "", ["find_place"]),
        (f"<think>\nHm. <tool_call>?\n</think>\n\n<tool_call>{CALL}</tool_call>", None, ["find_place"]),
        ("a < b and [1, 2] < [3]; <b>bold</b> <tool", "a < b and [1, 2] < [3]; <b>bold</b> <tool", []),
        ('{"city": "Paris"}', '{"city": "Paris"}', []),
        ('<tool_call>{"name": "format_disk", "arguments": {}}</tool_call>', None, []),
        (f"<tool_call>{CALL[:30]}", f"<tool_call>{CALL[:30]}", []),
        (f"<think>\n<tool_call>{CALL}</tool_call> never ended", None, []),
    ],
)  # fmt: skip
def test_words_and_calls_are_told_apart(text: str, words: str | None, names: list[str], step: int) -> None:
    given, rest, calls = heard(text, step)
    assert [call.name for call in calls] == names
    if words is None:
        words = text[: text.rindex("<tool_call>")].rstrip() if names else text
    assert (given + rest).rstrip() == words
    if names:
        assert "{" not in given, "no part of a call was given as words"
        assert json.loads(called(calls)[0]["function"]["arguments"])["city"] == "Paris"


def test_words_are_not_held_back_for_long() -> None:
    reader = Reader(NAMES)
    assert reader.add("If a < b then ") == "If a < b then "
    assert reader.add("x[0]") == "x[0]"
    assert reader.add("<tool") == "" and reader.add("box>") == "<toolbox>"


def test_calls_of_earlier_turns_are_objects_for_the_template() -> None:
    request = read(
        json.dumps(
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "f", "arguments": ARGUMENTS}},
                        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "no JSON"}},
                    ]},
                ]
            }
        ).encode(),
        ChatRequest,
    )  # fmt: skip
    plain = json.loads(earlier(request.messages[0].tool_calls))
    assert [call["function"]["arguments"] for call in plain] == [json.loads(ARGUMENTS), "no JSON"]


def test_what_cannot_be_offered_is_said() -> None:
    def asked(**fields: object) -> ChatRequest:
        body = {"messages": [{"role": "user", "content": "x"}], **fields}
        request: ChatRequest = read(json.dumps(body).encode(), ChatRequest)
        return request

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string", "pattern": "(?=x)"}}}
    many = asked(tools=[tool] * 129).tools
    assert many is not None
    with pytest.raises(ValueError, match="128"):
        offered(many)
    with pytest.raises(RefusedError, match="'tools'"):
        held(asked(tools=[tool], tool_choice="required"))
    with pytest.raises(RefusedError, match="does not go"):
        held(asked(tools=[tool], response_format={"type": "json_object"}))
    with pytest.raises(RefusedError, match="does not go"):
        held(asked(tools=[tool], tool_choice="required", response_format={"type": "json_object"}))


def test_a_call_that_must_be_made_has_the_shape_of_its_tool() -> None:
    """References lead to definitions that stand in the tool's own parameters."""
    parameters = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Place"}},
        "required": ["at"],
        "$defs": {"Place": {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}},
    }
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}} for name in ("find", "find_again")
    ]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": "required"}
    constraint = held(read(json.dumps(body).encode(), ChatRequest))
    grammar = grammar_of(constraint)
    assert "find_again" in grammar and "Paris" in grammar
    tools[1]["function"]["parameters"] = {**parameters, "$defs": {"Place": {"type": "string"}}}  # type: ignore[index]
    with pytest.raises(RefusedError, match="different definitions"):
        held(read(json.dumps(body).encode(), ChatRequest))
