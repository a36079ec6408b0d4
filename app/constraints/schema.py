"""JSON Schema to grammar. What is promised is kept: an answer that ends has the shape, or the schema is refused.

A schema is foreign text: it is bounded in size, depth and number of parts, references lead only into itself, and what
a grammar cannot say is refused by its name and place instead of being passed over. Two things are narrower than the
standard allows, so that an answer stays one that fits: an object has the named properties, in the schema's order, and
no others unless ``additionalProperties`` says so; without a ``type`` the other words decide what is meant.
``date``, ``time``, ``date-time`` and ``uuid`` are kept as formats; other formats are notes, as in the standard.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from app.constraints import grammar
from app.constraints.integers import between
from app.constraints.pattern import PatternError, characters, complement, in_string, quoted
from converter.spec import QuenchError

MAX_SCHEMA = 256 << 10
"""Characters of a schema."""
MAX_NESTING = 64
MAX_PARTS = 4_000
"""Schemas inside the schema, counted at every use."""
MAX_VALUES = 3_000
"""Values of an enumeration."""
MAX_REPEAT = grammar.MAX_REPEAT

_NOTES = frozenset(
    {
        *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "title", "description", "default"),
        *("example", "examples", "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
    }
)
"""Words that ask nothing of a value."""
_OF_TYPE = {
    "object": frozenset(["properties", "required", "additionalProperties", "minProperties", "maxProperties"]),
    "array": frozenset(["items", "prefixItems", "additionalItems", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    "boolean": frozenset(),
    "null": frozenset(),
}
_SHAPES = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "uniqueItems"})
_KNOWN = _NOTES | _SHAPES.union(*_OF_TYPE.values())

_PRIMITIVES = {
    "ws": '| " " | "\\n" " "{0,16}',
    "char": f'{characters(complement([]))[1:-1]} | "\\\\/" | "\\\\u" ([0-9a-cA-CefEF] hex{{3}} | [dD] [0-7] hex{{2}})',
    "hex": "[0-9a-fA-F]",
    "string": '"\\"" char* "\\""',
    "digits": "[0-9]{1,16}",
    "integer": '"-"? natural',
    "natural": '"0" | [1-9] [0-9]{0,15}',
    "fraction": '("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "number": "integer fraction",
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (string ":" ws value ("," ws string ":" ws value)* ws)? "}"',
    "array": '"[" ws (value ("," ws value)* ws)? "]"',
}
_USES = {
    "string": ("char",),
    "char": ("hex",),
    "integer": ("natural",),
    "number": ("integer", "fraction"),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "object": ("ws", "string", "value"),
    "array": ("ws", "value"),
}
_FORMATS = {
    "date": "date",
    "time": "time",
    "date-time": 'date "T" time',
    "uuid": 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
_CALENDAR = {
    # No day of a month that does not have it: 29 February is left out, as a grammar does not know the year's kind.
    "date": '[1-9] [0-9]{3} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
    ' ("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
}


class _SchemaError(ValueError):
    """What is wrong, at which place."""


def to_grammar(text: str) -> str:
    """The grammar of the JSON values that a schema allows.

    Raises ``QuenchError`` ``bad_schema``: no JSON, a word that a grammar cannot say (the detail names it and where it
    stands), a reference that leads nowhere or in a circle, or too large.
    """
    try:
        made = _Converter(_parse(text)).grammar()
        grammar.read(made, limit=grammar.MAX_EXPANDED_TEXT)
    except grammar.EndlessError as error:
        raise _bad("Its references lead in a circle without a value on the way.") from error
    except (_SchemaError, grammar.GrammarError) as error:
        raise _bad(str(error)) from error
    return made


def _bad(detail: str) -> QuenchError:
    return QuenchError(
        "bad_schema",
        "The JSON schema cannot be used.",
        detail,
        'A schema is JSON like {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}',
    )


def _parse(text: str) -> Any:
    if len(text) > MAX_SCHEMA:
        raise _SchemaError(f"It has {len(text)} characters; at most {MAX_SCHEMA} are read.")
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _SchemaError(f"It is no JSON. Line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except RecursionError as error:
        raise _SchemaError("It is nested too deep.") from error
    except _SchemaError:
        raise
    except ValueError as error:  # a whole number of thousands of digits
        raise _SchemaError(f"It is no JSON: {error}.") from error


def _no_number(word: str) -> NoReturn:
    raise _SchemaError(f"It is no JSON: {word} is no number.")


class _Converter:
    """One schema on its way. ``rules`` are the grammar's, by name."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self.rules: dict[str, str] = {}
        self._by_place: dict[str, str] = {}
        self._parts = 0
        self._depth = 0

    def grammar(self) -> str:
        body = self._text(self._root, "#")
        return "\n".join(f"{name} ::= {text}" for name, text in {"root": body, **self.rules}.items()) + "\n"

    # ---- rules

    def _use(self, name: str) -> str:
        """A ready-made rule, with those that it needs."""
        if name not in self.rules:
            self.rules[name] = {**_PRIMITIVES, **_CALENDAR}[name]
            for other in _USES.get(name, ()):
                self._use(other)
        return name

    def _rule(self, text: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules[name] = text
        return name

    def _fail(self, place: str, why: str) -> NoReturn:
        raise _SchemaError(f"At {'the top' if place == '#' else place}: {why}.")

    # ---- schemas

    def _named(self, schema: Any, place: str) -> str:
        """The rule of a schema; text that is one word already needs none."""
        text = self._text(schema, place)
        return text if text in self.rules else self._rule(text)

    def _text(self, schema: Any, place: str) -> str:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _SchemaError(f"It has more than {MAX_PARTS} parts.")
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(_short(place), f"it is nested more than {MAX_NESTING} deep")
        try:
            if schema is True:
                return self._use("value")
            if schema is False:
                self._fail(place, "“false” allows no value at all")
            if not isinstance(schema, dict):
                self._fail(place, f"a schema is an object, not {_kind(schema)}")
            return self._of(schema, place)
        finally:
            self._depth -= 1

    def _of(self, schema: dict[str, Any], place: str) -> str:
        for word in schema:
            if word not in _KNOWN:
                self._fail(place, f"“{_short(word)}” cannot be said in a grammar")
        if schema.get("uniqueItems"):
            self._fail(place, "“uniqueItems” cannot be said in a grammar")
        alone = schema.keys() <= _NOTES | {"$ref"}
        if "$ref" in schema and alone:
            return self._reference(schema["$ref"], place)
        if "$ref" in schema or "allOf" in schema:
            return self._text(self._merged(schema, place), place)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._any(schema, word, place)
        if "const" in schema:
            self._alone(schema, "const", place)
            return self._values([schema["const"]], schema, place)
        if "enum" in schema:
            return self._enum(schema, place)
        kinds = self._types(schema, place)
        return " | ".join(dict.fromkeys(self._typed(kind, schema, place) for kind in kinds))

    def _alone(self, schema: dict[str, Any], word: str, place: str, *beside: str) -> None:
        others = [each for each in schema if each != word and each not in _NOTES and each not in ("type", *beside)]
        if others:
            self._fail(place, f"“{others[0]}” beside “{word}” cannot be said in a grammar")

    def _types(self, schema: dict[str, Any], place: str) -> list[str]:
        given = schema.get("type")
        if given is None:
            found = [kind for kind, words in _OF_TYPE.items() if words & schema.keys()]
            kinds = ["number"] if found == ["integer", "number"] else found
            if len(kinds) > 1:
                self._fail(place, "without “type” it is not clear what is meant")
            return kinds or ["value"]
        kinds = given if isinstance(given, list) else [given]
        for kind in kinds:
            if not isinstance(kind, str) or kind not in _OF_TYPE:
                self._fail(place, f"“type” is {_short(json.dumps(kind))}, which is no type")
        if not kinds:
            self._fail(place, "“type” names no type")
        words = frozenset().union(*(_OF_TYPE[kind] for kind in kinds))
        for word in schema:
            if word not in words and word not in _NOTES and word not in ("type", "uniqueItems"):
                self._fail(place, f"“{word}” asks something of another type than {' or '.join(kinds)}")
        return list(dict.fromkeys(kinds))

    def _typed(self, kind: str, schema: dict[str, Any], place: str) -> str:
        make: dict[str, Callable[[dict[str, Any], str], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
        }
        return make[kind](schema, place) if kind in make else self._use(kind)

    def _reference(self, target: Any, place: str) -> str:
        target = self._inside(target, place)
        if target in self._by_place:
            return self._by_place[target]
        found = self._at(target, place)
        name = self._by_place[target] = self._rule("")
        self.rules[name] = self._text(found, target)
        return name

    def _inside(self, target: Any, place: str) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            self._fail(place, f"“$ref” leads out of the schema to {_short(json.dumps(target))}; nothing is fetched")
        return target

    def _at(self, target: str, place: str) -> Any:
        """What a pointer such as ``#/$defs/name`` leads to."""
        found = self._root
        if target not in ("#", "#/") and not target.startswith("#/"):
            self._fail(place, f"“$ref” names {_short(target)}; only places like #/$defs/name are found")
        for step in target[2:].split("/") if len(target) > 2 else []:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                self._fail(place, f"“$ref” leads to {_short(target)}, where nothing is")
        return found

    def _any(self, schema: dict[str, Any], word: str, place: str) -> str:
        """Alternatives. Of ``oneOf`` exactly one is meant to fit; a grammar allows whichever comes."""
        given = schema[word]
        if not isinstance(given, list) or not given:
            self._fail(place, f"“{word}” must be a list of schemas")
        common = {key: value for key, value in schema.items() if key != word and key not in _NOTES}
        parts: list[str] = []
        for index, each in enumerate(given):
            here = f"{place}/{word}/{index}"
            joined = self._join([common, each], here) if common else each
            parts.append(self._named(joined, here))
        return " | ".join(dict.fromkeys(parts))

    def _merged(self, schema: dict[str, Any], place: str) -> dict[str, Any]:
        given = schema.get("allOf", [])
        if not isinstance(given, list):
            self._fail(place, "“allOf” must be a list of schemas")
        referred = [{"$ref": schema["$ref"]}] if "$ref" in schema else []
        rest = {key: value for key, value in schema.items() if key not in _NOTES | {"allOf", "$ref"}}
        return self._join([*referred, *given, rest], place)

    def _join(self, schemas: Iterable[Any], place: str) -> dict[str, Any]:
        """One schema that asks what all of these ask: properties are put together, other words must not differ."""
        made: dict[str, Any] = {}
        for each in schemas:
            for key, value in self._opened(each, place).items():
                if key in _NOTES:
                    continue
                if key == "properties" and isinstance(value, dict) and isinstance(made.get(key, {}), dict):
                    both = made.get(key, {}).keys() & value.keys()
                    if any(made[key][name] != value[name] for name in both):
                        self._fail(place, f"the property “{_short(min(both))}” is described twice")
                    made[key] = {**made.get(key, {}), **value}
                elif key == "required" and isinstance(value, list) and isinstance(made.get(key, []), list):
                    made[key] = [*made.get(key, []), *value]
                elif key in made and made[key] != value:
                    self._fail(place, f"“{key}” is said twice, differently")
                else:
                    made[key] = value
        return made

    def _opened(self, schema: Any, place: str) -> dict[str, Any]:
        """A part of ``allOf`` with references followed and further ``allOf`` joined."""
        for _ in range(MAX_NESTING):
            if not isinstance(schema, dict):
                self._fail(place, f"a schema is an object, not {_kind(schema)}")
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise _SchemaError(f"It has more than {MAX_PARTS} parts.")
            if schema.keys() <= _NOTES | {"$ref"} and "$ref" in schema:
                schema = self._at(self._inside(schema["$ref"], place), place)
            elif "allOf" in schema or "$ref" in schema:
                self._depth += 1
                if self._depth > MAX_NESTING:
                    self._fail(_short(place), f"it is nested more than {MAX_NESTING} deep")
                schema = self._merged(schema, place)
                self._depth -= 1
            else:
                return schema
        self._fail(place, "its references lead in a circle")

    def _enum(self, schema: dict[str, Any], place: str) -> str:
        self._alone(schema, "enum", place)
        values = schema["enum"]
        if not isinstance(values, list) or not values:
            self._fail(place, "“enum” must be a list of values")
        if len(values) > MAX_VALUES:
            self._fail(place, f"“enum” has {len(values)} values; at most {MAX_VALUES} are read")
        return self._values(values, schema, place)

    def _values(self, values: list[Any], schema: dict[str, Any], place: str) -> str:
        kinds = self._types({"type": schema["type"]}, place) if "type" in schema else []
        fitting = [value for value in values if not kinds or any(_is(value, kind) for kind in kinds)]
        if not fitting:
            self._fail(place, "no value is of the type that is asked for")
        return " | ".join(dict.fromkeys(quoted(_spelled(value)) for value in fitting))

    # ---- objects and arrays

    def _object(self, schema: dict[str, Any], place: str) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict):
            self._fail(place, "“properties” must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self._fail(place, "“required” must be a list of names")
        for word in ("minProperties", "maxProperties"):
            if word in schema:
                self._fail(place, f"“{word}” cannot be said in a grammar")
        more = schema.get("additionalProperties", not properties and not required)
        if more is False and not properties and not required:
            return '"{" ws "}"' if self._use("ws") else ""
        pairs = {
            name: self._pair(quoted(_spelled(name)), self._named(value, f"{place}/properties/{_short(name)}"))
            for name, value in properties.items()
        }
        for name in required:
            if name not in pairs:
                value = self._named(True if more in (True, False) else more, f"{place}/additionalProperties")
                pairs[name] = self._pair(quoted(_spelled(name)), value)
        others = self._others(list(pairs), more, place) if more is not False else ""
        return f'"{{" ws {self._members(pairs, set(required), others)} "}}"'

    def _pair(self, key: str, value: str) -> str:
        self._use("ws")
        return self._rule(f'{key} ":" ws {value}')

    def _others(self, names: list[str], more: Any, place: str) -> str:
        """A pair whose name is none of ``names``."""
        value = self._use("value") if more is True else self._named(more, f"{place}/additionalProperties")
        if not names:
            return self._pair(self._use("string"), value)
        plain = complement([(1, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)])
        return self._pair(f'"\\"" {self._none_of(names, plain)} "\\""', value)

    def _none_of(self, names: list[str], plain: list[tuple[int, int]]) -> str:
        """A text without escapes that is none of these: a branch for each letter in which they part."""
        tree: dict[str, Any] = {}
        for name in names:
            at = tree
            for letter in name:
                at = at.setdefault(letter, {})
                self._parts += 1
                if self._parts > 4 * MAX_PARTS:
                    raise _SchemaError("The names of its properties are too long together.")
            at[""] = {}
        anything = self._rule(f"{characters(plain)}*")

        def ways(node: dict[str, Any]) -> str:
            parts = [f"{quoted(letter)} {ways(below)}" for letter, below in node.items() if letter]
            taken = [(ord(letter), ord(letter)) for letter in node if letter]
            parts.append(f"{characters(complement([*complement(plain), *taken]))} {anything}")
            if "" not in node:
                parts.append('""')
            return self._rule(" | ".join(parts))

        if max(map(len, names)) > MAX_NESTING * 4:
            raise _SchemaError("The names of its properties are too long beside “additionalProperties”.")
        return ways(tree)

    def _members(self, pairs: dict[str, str], required: set[str], others: str) -> str:
        """The pairs in order: those that may be left out before the first required one end with their comma, those
        after it begin with one. Where none is required, whichever comes first stands without."""
        names = list(pairs)
        first = next((index for index, name in enumerate(names) if name in required), None)
        more = f'("," ws {others})*' if others else ""
        if first is not None:
            before = [f'({pairs[name]} "," ws)?' for name in names[:first]]
            after = [
                f'"," ws {pairs[name]}' if name in required else f'("," ws {pairs[name]})?'
                for name in names[first + 1 :]
            ]
            return " ".join(part for part in (*before, pairs[names[first]], *after, more, "ws") if part)
        rest = self._rule(more) if more else ""
        ways: list[str] = [f"{others} {rest}"] if others else []
        for name in reversed(names):
            ways.append(f"{pairs[name]} {rest}".rstrip())
            rest = self._rule(f'("," ws {pairs[name]})? {rest}'.rstrip())
        return f"(({' | '.join(reversed(ways))}) ws)?"

    def _array(self, schema: dict[str, Any], place: str) -> str:
        low, high = self._bounds(schema, "minItems", "maxItems", place)
        first = schema.get("prefixItems")
        rest = schema.get("items", True)
        if isinstance(rest, list):  # the older way to write prefixItems
            first, rest = rest, schema.get("additionalItems", True)
        elif "additionalItems" in schema:
            self._fail(place, "“additionalItems” has a meaning only beside a list of “items”")
        self._use("ws")
        if first is None:
            if high == 0:
                return '"[" ws "]"'
            if rest is False:
                self._fail(place, "“items” allows no value at all")
            item = self._named(rest, f"{place}/items")
            return self._listed(item, low, high)
        if not isinstance(first, list) or not first:
            self._fail(place, "“prefixItems” must be a list of schemas")
        parts = [self._named(each, f"{place}/prefixItems/{index}") for index, each in enumerate(first)]
        if (low > len(parts) and rest is False) or (high is not None and high < len(parts)):
            self._fail(place, "the number of items does not go with “prefixItems”")
        fixed = ' "," ws '.join(parts)
        if rest is False or high == len(parts):
            return f'"[" ws {fixed} ws "]"'
        item = self._named(rest, f"{place}/items")
        count = f"{{{max(0, low - len(parts))},{'' if high is None else high - len(parts)}}}"
        return f'"[" ws {fixed} ("," ws {item}){count} ws "]"'

    def _listed(self, item: str, low: int, high: int | None) -> str:
        count = f"{{{max(0, low - 1)},{'' if high is None else high - 1}}}"
        body = f'{item} ("," ws {item}){count} ws'
        return f'"[" ws {body} "]"' if low else f'"[" ws ({body})? "]"'

    def _bounds(self, schema: dict[str, Any], least: str, most: str, place: str) -> tuple[int, int | None]:
        low, high = schema.get(least, 0), schema.get(most)
        for word, value in ((least, low), (most, low if high is None else high)):
            if not _is(value, "integer") or value < 0:
                self._fail(place, f"“{word}” must be a whole number, 0 or more")
            if value > MAX_REPEAT:
                self._fail(place, f"“{word}” is {value}; a grammar counts up to {MAX_REPEAT}")
        if high is not None and high < low:
            self._fail(place, f"“{most}” is less than “{least}”")
        return int(low), None if high is None else int(high)

    # ---- text and numbers

    def _string(self, schema: dict[str, Any], place: str) -> str:
        low, high = self._bounds(schema, "minLength", "maxLength", place)
        pattern, form = schema.get("pattern"), schema.get("format")
        if not isinstance(form, str) or form not in _FORMATS:
            form = None  # by the standard a format is a note, unless a program says that it is more
        if (pattern is not None and form is not None) or ((low or high is not None) and (pattern or form)):
            self._fail(place, "of “pattern”, “format” and a length only one can be said in a grammar")
        if pattern is not None:
            if not isinstance(pattern, str):
                self._fail(place, "“pattern” must be a text")
            try:
                inside = in_string(pattern, self._use("char"))
            except PatternError as error:
                self._fail(place, f"“pattern” cannot be used: {error}")
            self._use("hex")
            return f'"\\"" {inside} "\\""'
        if form is not None:
            for name in ("hex",) if form == "uuid" else ("date", "time"):
                self._use(name)
            return f'"\\"" {_FORMATS[form]} "\\""'
        if not low and high is None:
            return self._use("string")
        self._use("char")
        self._use("hex")
        return f'"\\"" char{{{low},{"" if high is None else high}}} "\\""'

    def _integer(self, schema: dict[str, Any], place: str) -> str:
        low, high = self._limits(schema, place)
        if low is None and high is None:
            return self._use("integer")
        if low is not None and high is not None and low > high:
            self._fail(place, "there is no whole number between its limits")
        return between(low, high)

    def _number(self, schema: dict[str, Any], place: str) -> str:
        words = [word for word in _OF_TYPE["number"] if word in schema]
        if not words:
            return self._use("number")
        if words == ["minimum"] and schema["minimum"] == 0 and not isinstance(schema["minimum"], bool):
            return f"{self._use('natural')} {self._use('fraction')}"
        self._fail(place, f"“{min(words)}” of a number that need not be whole cannot be said in a grammar")

    def _limits(self, schema: dict[str, Any], place: str) -> tuple[int | None, int | None]:
        low: int | None = None
        high: int | None = None
        for word in sorted(_OF_TYPE["integer"] & schema.keys()):
            value = schema[word]
            if not _is(value, "number") or abs(value) >= 10**15:
                self._fail(place, f"“{word}” must be a number of at most 15 digits")
            if "inimum" in word:
                bound = -int(-value // 1) if word == "minimum" else int(value // 1) + 1
                low = bound if low is None else max(low, bound)
            else:
                bound = int(value // 1) if word == "maximum" else -int(-value // 1) - 1
                high = bound if high is None else min(high, bound)
        return low, high


def _spelled(value: Any) -> str:
    """A value as JSON; no half character can be in it."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    except ValueError as error:
        raise _SchemaError("A number in it is too large.") from error
    return text


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, (int, float)):
        return kind == "number" or (kind == "integer" and value == int(value))
    return {str: "string", list: "array", dict: "object", type(None): "null"}[type(value)] == kind


def _kind(value: Any) -> str:
    return {str: "a text", list: "a list", type(None): "null"}.get(type(value), "a number or a truth value")


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"


__all__ = ["MAX_SCHEMA", "to_grammar"]
