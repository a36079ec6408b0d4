"""Regular expressions of JSON schemas as grammar: the part of ECMA-262 that a grammar can say, inside a JSON string.

What cannot be said (looking around, references back, word boundaries) is named and refused. Nothing is ever matched
here, so no pattern can take long.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from app.constraints.grammar import MAX_REPEAT

MAX_PATTERN = 2_000
"""Characters of a pattern."""
_MAX_NESTING = 32
_LAST = 0x10FFFF

Ranges = list[tuple[int, int]]

_DIGIT: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Ranges = [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x2028, 0x2029), (0xFEFF, 0xFEFF)]
_BREAKS: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B}
_JSON = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t"}
"""Characters that a JSON string spells with a backslash."""


class PatternError(ValueError):
    """What in a pattern cannot be said."""


class Part(NamedTuple):
    """A piece of grammar, and whether it can stand for nothing."""

    text: str
    empty: bool


def complement(ranges: Ranges) -> Ranges:
    """All other characters. Ranges are inclusive code points."""
    found: Ranges = []
    at = 1
    for low, high in sorted(ranges):
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    if at <= _LAST:
        found.append((at, _LAST))
    return found


def characters(ranges: Ranges) -> str:
    """Grammar for one character of a set as a JSON string spells it. Empty if there is no such character."""
    plain = complement([*complement(ranges), (1, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)])
    ways = [f"[{''.join(_range(low, high) for low, high in plain)}]"] if plain else []
    ways += [quoted(spelled) for code, spelled in _JSON.items() if any(low <= code <= high for low, high in ranges)]
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})" if ways else ""


def quoted(text: str) -> str:
    """Text as a literal of the grammar."""
    return '"' + "".join(_letter(ord(letter), '"') for letter in text) + '"'


def _range(low: int, high: int) -> str:
    first = _letter(low, "[]-^")
    return first if low == high else f"{first}-{_letter(high, '[]-^')}"


def _letter(code: int, special: str) -> str:
    letter = chr(code)
    if letter == "\\":
        return "\\\\"
    if letter == "^" or not 0x20 <= code < 0x7F:
        return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
    return f"\\{letter}" if letter in special else letter


def in_string(pattern: str, anything: str) -> str:
    """Grammar for the inside of a JSON string that a pattern matches; ``anything`` is the rule for any character.

    Without ``^`` and ``$`` a pattern may match anywhere, as in JSON Schema. Raises :class:`PatternError`.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"it has {len(pattern)} characters; at most {MAX_PATTERN} are read")
    reader = _Reader(pattern)
    before, after = pattern.startswith("^"), _ends(pattern)
    found = reader.whole()
    if (before or after) and found.alternatives > 1:
        raise PatternError("“^” or “$” belongs to one of several alternatives; put these in parentheses")
    start = "" if before else f"{anything}* "
    end = "" if after else f" {anything}*"
    return f"{start}({found.part.text}){end}"


def _ends(pattern: str) -> bool:
    """Is the last ``$`` an anchor, not an escaped one?"""
    bare = pattern[:-1]
    return pattern.endswith("$") and (len(bare) - len(bare.rstrip("\\"))) % 2 == 0


class _Whole(NamedTuple):
    part: Part
    alternatives: int


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 1 if pattern.startswith("^") else 0
        self._end = len(pattern) - 1 if _ends(pattern) else len(pattern)
        self._end = max(self._end, self._at)
        self._depth = 0

    def whole(self) -> _Whole:
        found = self._alternatives()
        if self._at < self._end:
            self._fail("a parenthesis is closed that was not opened")
        return found

    def _fail(self, why: str) -> NoReturn:
        raise PatternError(f"{why} (character {self._at + 1})")

    def _peek(self) -> str:
        return self._text[self._at] if self._at < self._end else ""

    def _alternatives(self) -> _Whole:
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        text = " | ".join(part.text or '""' for part in parts)
        return _Whole(Part(text, any(part.empty for part in parts)), len(parts))

    def _sequence(self) -> Part:
        parts: list[Part] = []
        while self._peek() and self._peek() not in "|)":
            parts.append(self._repeated(self._atom()))
        return Part(" ".join(part.text for part in parts), all(part.empty for part in parts))

    def _atom(self) -> Part:
        letter = self._peek()
        if letter == "(":
            return self._group()
        if letter == "[":
            return self._set(self._bracket())
        self._at += 1
        if letter == ".":
            return self._set(complement(_BREAKS))
        if letter in "^$":
            self._fail(f"“{letter}” stands inside the pattern")
        if letter in "*+?":
            self._fail(f"nothing stands before “{letter}”")
        if letter == "\\":
            return self._set(self._escape(inside=False))
        return self._set([(ord(letter), ord(letter))])

    def _group(self) -> Part:
        self._at += 1
        if self._peek() == "?":
            mark = self._text[self._at : self._at + 2]
            if mark != "?:":
                self._fail("looking around and named groups cannot be said in a grammar")
            self._at += 2
        self._depth += 1
        if self._depth > _MAX_NESTING:
            self._fail(f"parentheses are nested more than {_MAX_NESTING} deep")
        inner = self._alternatives().part
        if self._peek() != ")":
            self._fail("a parenthesis is never closed")
        self._at += 1
        self._depth -= 1
        return Part(f"({inner.text})", inner.empty)

    def _set(self, ranges: Ranges) -> Part:
        text = characters(ranges)
        if not text:
            self._fail("no character of a JSON string can stand here")
        return Part(text, False)

    def _bracket(self) -> Ranges:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        found: Ranges = []
        while self._peek() != "]":
            if not self._peek():
                self._fail("a bracket is never closed")
            low = self._member()
            single = len(low) == 1 and low[0][0] == low[0][1]
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "") and single:
                self._at += 1
                high = self._member()
                if len(high) != 1 or high[0][1] < low[0][0]:
                    self._fail("a range ends before it begins")
                low = [(low[0][0], high[0][1])]
            found += low
        self._at += 1
        return complement(found) if negated else found

    def _member(self) -> Ranges:
        letter = self._peek()
        if not letter:
            self._fail("a bracket is never closed")
        self._at += 1
        return self._escape(inside=True) if letter == "\\" else [(ord(letter), ord(letter))]

    def _escape(self, *, inside: bool) -> Ranges:
        letter = self._peek()
        if not letter:
            self._fail("it ends with a backslash")
        self._at += 1
        if letter.lower() in _CLASSES:
            ranges = _CLASSES[letter.lower()]
            return ranges if letter.islower() else complement(ranges)
        if letter in _CONTROLS:
            return [(_CONTROLS[letter], _CONTROLS[letter])]
        if letter in "xu":
            size = 2 if letter == "x" else 4
            digits = self._text[self._at : min(self._at + size, self._end)]
            if len(digits) < size or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                self._fail(f"after “\\{letter}” there must be {size} hexadecimal digits")
            self._at += size
            return [(int(digits, 16), int(digits, 16))]
        if letter == "b" and inside:
            return [(8, 8)]
        if letter.isalnum():
            self._fail(f"“\\{letter}” cannot be said in a grammar")
        return [(ord(letter), ord(letter))]

    def _repeated(self, part: Part) -> Part:
        letter = self._peek()
        if not letter or letter not in "*+?{":
            return part
        self._at += 1
        mark, low, many = letter, {"*": 0, "?": 0}.get(letter, 1), letter != "?"
        if letter == "{":
            end = self._text.find("}", self._at, self._end)
            inside = self._text[self._at : end] if end >= 0 else ""
            first, comma, last = inside.partition(",")
            if not first.isdecimal() or (last and not last.isdecimal()) or len(inside) > 12:
                self._fail("in braces stand numbers, as in {2,5}")
            low, many = int(first), True
            high = int(last) if last else low
            if max(low, high) > MAX_REPEAT or high < low:
                self._fail(f"repetitions are counted from 0 to {MAX_REPEAT}, the lower number first")
            mark = f"{{{low},{high if last else ''}}}" if comma else f"{{{low}}}"
            self._at = end + 1
        if self._peek() == "?":
            self._at += 1  # taking few or many: the same texts match
        if self._peek() and self._peek() in "*+?{":
            self._fail("a repetition is repeated")
        if part.empty and many:
            self._fail("something is repeated that can be empty")
        return Part(part.text + mark, part.empty or low == 0)


__all__ = ["PatternError", "characters", "complement", "in_string", "quoted"]
