"""JSON schemas as text: what is refused, and by what name. What comes out of them is tested with the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.chat_messages import Constraint
from app.constraints import check
from app.constraints.integers import between
from converter.spec import QuenchError


def tower(word: str, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {word: [schema]} if word in ("anyOf", "allOf") else {word: schema}
    return schema


def doubled(word: str) -> dict[str, Any]:
    steps = {f"a{i}": {word: [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(50)}
    return {"$defs": {**steps, "a50": {"type": "null"}}, "$ref": "#/$defs/a0"}


def text(**words: Any) -> dict[str, Any]:
    return {"type": "string", **words}


BAD: list[tuple[Any, str]] = [
    ("{", "no JSON. Line 1, column 2"),
    ("", "no JSON"),
    ("[" * 100_000, "nested too deep"),
    ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deep"),
    ('{"const": NaN}', "NaN is no number"),
    ('{"const": 1e999}', "too large"),
    ('{"const": ' + "9" * 5000 + "}", "no JSON"),
    (" " * 300_000, "at most 262144"),
    ([1], "a schema is an object, not a list"),
    (False, "allows no value"),
    ({"type": "text"}, "which is no type"),
    ({"type": []}, "names no type"),
    ({"type": [["string"]]}, "which is no type"),
    ({"not": {}}, "At the top: “not” cannot be said"),
    ({"type": "object", "properties": {"a": {"if": {}}}}, "At #/properties/a: “if” cannot be said"),
    ({"type": "object", "patternProperties": {}}, "“patternProperties”"),
    ({"type": "array", "uniqueItems": True}, "“uniqueItems”"),
    ({"type": "object", "minProperties": 1}, "“minProperties”"),
    ({"type": "number", "minimum": 1}, "“minimum” of a number that need not be whole"),
    ({"type": "integer", "multipleOf": 3}, "“multipleOf”"),
    ({"type": "integer", "minimum": 0.5, "maximum": 0.7}, "no whole number between"),
    ({"type": "integer", "minimum": 10**30}, "at most 15 digits"),
    ({"type": "string", "minimum": 3}, "asks something of another type"),
    ({"minimum": 3, "maxLength": 2}, "not clear what is meant"),
    ({"$ref": "https://example.org/schema.json"}, "nothing is fetched"),
    ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
    ({"$ref": 5}, "leads out of the schema"),
    ({"$ref": "#/$defs/nobody"}, "where nothing is"),
    ({"$ref": "#"}, "in a circle"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "in a circle"),
    ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, "nested more than 64 deep"),
    (tower("items", 200), "nested more than 64 deep"),
    (tower("allOf", 200), "nested more than 64 deep"),
    (doubled("anyOf"), "nested more than 64 deep"),
    (doubled("allOf"), "more than 4000 parts"),
    ({"anyOf": [tower("anyOf", 8)] * 1000}, "more than 4000 parts"),
    ({"enum": []}, "must be a list of values"),
    ({"enum": list(range(20_000))}, "at most 3000"),
    ({"type": "string", "enum": [1, 2]}, "of the type that is asked for"),
    ({"type": "object", "required": "a"}, "must be a list of names"),
    ({"type": "object", "properties": []}, "must be an object"),
    ({"type": "array", "minItems": 5, "maxItems": 3}, "is less than"),
    ({"type": "array", "maxItems": -1}, "0 or more"),
    ({"type": "array", "maxItems": True}, "0 or more"),
    (text(maxLength=99_999), "counts up to 2000"),
    (text(pattern="a", maxLength=3), "only one"),
    (text(pattern="("), "never closed (character 2)"),
    (text(pattern="["), "never closed"),
    (text(pattern="a)"), "was not opened"),
    (text(pattern="(?=a)"), "looking around"),
    (text(pattern="(?<name>a)"), "looking around and named groups"),
    (text(pattern="(a)\\1"), "“\\1” cannot be said"),
    (text(pattern="\\bword"), "“\\b” cannot be said"),
    (text(pattern="(a*)*"), "can be empty"),
    (text(pattern="(a|b?){3}"), "can be empty"),
    (text(pattern="a**"), "repetition is repeated"),
    (text(pattern="*a"), "nothing stands before"),
    (text(pattern="a$b"), "inside the pattern"),
    (text(pattern="^a|b"), "several alternatives"),
    (text(pattern="[\\x00-\\x1f]".replace("\\x1f", "\\x07")), "no character of a JSON string"),
    (text(pattern="a{5,2}"), "the lower number first"),
    (text(pattern="a{9999}"), "from 0 to 2000"),
    (text(pattern="a" * 3000), "at most 2000"),
    (text(pattern="((ab{0,99}){0,99}c){0,99}d"), "rules together"),
    (text(pattern="(" * 50 + "a" + ")" * 50), "nested more than 32"),
]


@pytest.mark.parametrize(("schema", "says"), BAD, ids=range(len(BAD)))
@pytest.mark.timeout(60)
def test_what_cannot_be_promised_is_refused_by_name(schema: Any, says: str) -> None:
    source = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(QuenchError) as caught:
        check(Constraint("schema", source))
    assert caught.value.code == "bad_schema"
    assert says in caught.value.detail


@pytest.mark.parametrize(("low", "high"), [(3, 120), (-17, 5), (0, 0), (99, 1000), (-1234, -56), (7, 7), (123, 129)])
def test_whole_numbers_are_exactly_those_between_the_limits(low: int, high: int) -> None:
    import re

    # These grammars have nothing but literals, digits and counts: as regular expressions they say the same.
    pattern = re.compile(between(low, high).replace('"', "").replace(" | ", "|").replace(" ", ""))
    found = [number for number in range(low - 300, high + 300) if pattern.fullmatch(str(number))]
    assert found == list(range(low, high + 1))
    assert not any(pattern.fullmatch(wrong) for wrong in ("", "-0", "00", f"0{high}", f"{high} "))
