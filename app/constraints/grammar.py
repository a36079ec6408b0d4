"""Grammars in GBNF, read and judged before the library sees them. Pure Python: no engine is needed.

The library kills its process over some grammars and never comes back from others: a repetition whose end lies before
its beginning, a rule that begins with itself by way of an empty one, nesting without bounds. So the text is parsed here
by the same rules and expanded in the same way (llama.cpp's ``src/llama-grammar.cpp``), and whatever is not certain to
end is refused with its place and the reason.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from converter.spec import QuenchError

MAX_TEXT = 256 << 10
"""Characters of a grammar that a person gives."""
MAX_EXPANDED_TEXT = 2 << 20
"""Characters of one that a JSON schema becomes."""
MAX_NESTING = 64
MAX_REPEAT = 2000
"""The library's own limit; above it, it would silently take any number."""
MAX_ELEMENTS = 200_000
MAX_RULES = 40_000
MAX_WAYS = 4_000
"""Ways in which a rule may begin: each is followed by itself at every token."""
MAX_DEPTH = 4_000
"""Rules that begin with one another; the library recurses through them."""
_MAX_WALK = 500_000  # steps of the library's own search for left recursion, which remembers nothing

ROOT = "root"

_TERMINAL = -1
_SPACES = " \t"
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_DIGITS = frozenset("0123456789")
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {"x": 2, "u": 4, "U": 8}
_SIMPLE = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}

_ALL_ESCAPES = r"these are: \n \r \t \\ \[ \] \- \xHH \uHHHH \UHHHHHHHH, and \ before a quotation mark"

Sequence = list[int]
Rule = list[Sequence]


class Grammar(NamedTuple):
    """What a grammar is: its rules with those that repetitions make, its elements, and the named tokens in it."""

    rules: int
    elements: int
    tokens: tuple[str, ...]


class GrammarError(ValueError):
    """What is wrong, with the place in the text where there is one."""


class EndlessError(GrammarError):
    """A rule that begins with itself."""


def read(text: str, *, limit: int = MAX_TEXT) -> Grammar:
    """Check a grammar. Raises :class:`GrammarError`."""
    if len(text) > limit:
        raise GrammarError(f"It has {len(text)} characters; at most {limit} are read.")
    if "\0" in text:
        raise GrammarError("There is a NUL character in it.")
    parser = _Parser(text)
    parser.parse()
    _judge(parser)
    return Grammar(len(parser.rules), parser.elements, tuple(parser.tokens))


def check(text: str) -> Grammar:
    """:func:`read` for a person's grammar: raises ``QuenchError`` ``bad_grammar``."""
    try:
        return read(text)
    except GrammarError as error:
        raise bad_grammar(str(error)) from error


def bad_grammar(detail: str) -> QuenchError:
    """The error for a grammar that cannot be used."""
    return QuenchError(
        "bad_grammar",
        "The grammar cannot be used.",
        detail,
        'A grammar is rules like: root ::= "yes" | "no"',
    )


# ---- reading ------------------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent over the text. ``rules`` are by number; a sequence has rule numbers and ``_TERMINAL``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._defined: dict[int, int] = {}
        self.symbols: dict[str, int] = {}
        self.used: dict[int, int] = {}
        self.rules: dict[int, Rule] = {}
        self.names: list[str] = []
        self.elements = 0
        self.tokens: list[str] = []

    def parse(self) -> None:
        self._space(True)
        while self._at < len(self._text):
            self._rule()
        if not self.rules:
            raise GrammarError("There is no rule in it.")
        for symbol, place in self.used.items():
            if symbol not in self.rules:
                self._at = place
                self._fail(f"“{self.names[symbol]}” is used, but there is no rule of that name.")
        if self.symbols.get(ROOT) not in self.rules:
            raise GrammarError(f"There is no rule named “{ROOT}”, with which every grammar begins.")

    def _fail(self, why: str) -> NoReturn:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - (self._text.rfind("\n", 0, self._at) + 1) + 1
        raise GrammarError(f"Line {line}, column {column}: {why}")

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._text[at] if at < len(self._text) else ""

    def _space(self, newlines: bool) -> None:
        while self._at < len(self._text):
            letter = self._text[self._at]
            if letter == "#":
                while self._at < len(self._text) and self._text[self._at] not in "\r\n":
                    self._at += 1
            elif letter in _SPACES or (newlines and letter in "\r\n"):
                self._at += 1
            else:
                return

    def _name(self) -> str:
        start = self._at
        while self._peek() in _NAME and self._at < len(self._text):
            self._at += 1
        if self._at == start:
            if self._peek() == "|":
                self._fail("A rule goes on in the next line only after “|” or inside parentheses.")
            self._fail(f"Here the name of a rule should stand, not {self._shown()}.")
        if self._peek() == "_":
            self._fail("Names are made of letters, digits and “-”; “_” cannot be in them.")
        return self._text[start : self._at]

    def _shown(self) -> str:
        return f"“{self._peek()}”" if self._at < len(self._text) else "the end"

    def _symbol(self, name: str) -> int:
        if name not in self.symbols:
            self.symbols[name] = len(self.symbols)
            self.names.append(name)
            if len(self.symbols) > MAX_RULES:
                raise GrammarError(f"With its repetitions it has more than {MAX_RULES} rules.")
        return self.symbols[name]

    def _made(self, base: str) -> int:
        """A rule that stands for a part of the rule ``base``; no written name has ``_`` in it."""
        return self._symbol(f"{base}_{len(self.symbols)}")

    def _rule(self) -> None:
        start = self._at
        name = self._name()
        self._space(False)
        if self._text[self._at : self._at + 3] != "::=":
            self._fail(f"After the name “{name}” there should be “::=”, not {self._shown()}.")
        self._at += 3
        symbol = self._symbol(name)
        if symbol in self._defined:
            self._at = start
            self._fail(f"There are two rules named “{name}”.")
        self._defined[symbol] = start
        self._space(True)
        self._alternates(name, symbol, False)
        if self._at < len(self._text) and self._peek() not in "\r\n":
            self._fail(f"This cannot stand in a rule: {self._shown()}.")
        self._space(True)

    def _alternates(self, name: str, symbol: int, nested: bool) -> None:
        rule = [self._sequence(name, nested)]
        while self._peek() == "|":
            self._at += 1
            self._space(True)
            rule.append(self._sequence(name, nested))
        self._count(len(rule))
        self.rules[symbol] = rule

    def _count(self, elements: int) -> None:
        self.elements += elements
        if self.elements > MAX_ELEMENTS:
            raise GrammarError(f"With its repetitions it has more than {MAX_ELEMENTS} elements.")

    def _sequence(self, name: str, nested: bool) -> Sequence:
        made: Sequence = []
        last, weight = 0, 1  # where the latest item begins, and how many rules a repetition would copy
        while self._at < len(self._text):
            letter = self._peek()
            if letter in "*+?{":
                if last == len(made):
                    self._fail(f"Nothing stands before “{letter}” that could be repeated.")
                weight = self._repeat(name, made, last, weight, nested)
                continue
            start, weight_here = len(made), 1
            if letter == '"':
                made += self._literal()
            elif letter == "[":
                self._characters()
                made.append(_TERMINAL)
            elif letter in "<!":
                self._token()
                made.append(_TERMINAL)
            elif letter == ".":
                self._at += 1
                self._count(1)
                made.append(_TERMINAL)
            elif letter == "(":
                before = len(self.symbols)
                made.append(self._group(name))
                weight_here = max(1, len(self.symbols) - before)
            elif letter in _NAME:
                place = self._at
                symbol = self._symbol(self._name())
                self.used.setdefault(symbol, place)
                self._count(1)
                made.append(symbol)
            else:
                break
            last, weight = start, weight_here
            self._space(nested)
        return made

    def _group(self, name: str) -> int:
        opened = self._at
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"Parentheses are nested more than {MAX_NESTING} deep.")
        self._at += 1
        self._space(True)
        symbol = self._made(name)
        self._alternates(name, symbol, True)
        if self._peek() != ")":
            if self._at >= len(self._text):
                self._at = opened
                self._fail("This parenthesis is never closed.")
            self._fail(f"This cannot stand in parentheses: {self._shown()}.")
        self._at += 1
        self._depth -= 1
        self._count(1)
        return symbol

    def _literal(self) -> Sequence:
        opened = self._at
        self._at += 1
        count = 0
        while self._peek() != '"':
            if self._at >= len(self._text) or self._peek() in "\r\n":
                self._at = opened
                self._fail("This text in quotes is never closed.")
            self._character()
            count += 1
        self._at += 1
        self._count(count)
        return [_TERMINAL] * count

    def _characters(self) -> None:
        opened = self._at
        self._at += 1
        if self._peek() == "^":
            self._at += 1
        count = 0
        while self._peek() != "]":
            if self._at >= len(self._text):
                self._at = opened
                self._fail("This “[” is never closed.")
            low = self._character()
            if self._peek() == "-" and self._peek(1) != "]":
                self._at += 1
                if self._at >= len(self._text):
                    self._at = opened
                    self._fail("This “[” is never closed.")
                if self._character() < low:
                    self._fail("This range of characters ends before it begins.")
                count += 1
            count += 1
        if not count:
            self._fail("There is no character in these brackets; write “]” in them as “\\]”.")
        self._at += 1
        self._count(count)

    def _character(self) -> int:
        letter = self._peek()
        if letter != "\\":
            self._at += 1
            return ord(letter)
        kind = self._peek(1)
        if kind in _SIMPLE and kind:
            self._at += 2
            return ord(_SIMPLE[kind])
        if kind not in _ESCAPES or not kind:
            self._fail(f"“\\{kind}” is no escape; {_ALL_ESCAPES}.")
        size = _ESCAPES[kind]
        digits = self._text[self._at + 2 : self._at + 2 + size]
        if len(digits) != size or not set(digits) <= _HEX:
            self._fail(f"After “\\{kind}” there must be {size} hexadecimal digits.")
        value = int(digits, 16)
        if value > 0x10FFFF or 0xD800 <= value <= 0xDFFF or value == 0:
            self._fail(f"“\\{kind}{digits}” is no character.")
        self._at += 2 + size
        return value

    def _token(self) -> None:
        """``<[number]>`` or ``<name>``, with ``!`` before it for any other token."""
        opened = self._at
        if self._peek() == "!":
            self._at += 1
        end = self._text.find(">", self._at)
        inside = self._text[self._at + 1 : end] if end > 0 else ""
        if self._peek() != "<" or end < 0 or not inside or len(inside) > 200 or "\n" in inside:
            self._at = opened
            self._fail("A token is written as <[number]> or <name>.")
        if inside.startswith("["):
            number = inside[1:-1]
            if not inside.endswith("]") or not number or not set(number) <= _DIGITS or len(number) > 9:
                self._fail("A token's number is written as <[number]>.")
        self.tokens.append(f"<{inside}>")
        self._at = end + 1
        self._count(1)

    def _number(self) -> int:
        start = self._at
        while self._peek() in _DIGITS and self._at < len(self._text):
            self._at += 1
        if self._at == start:
            self._fail("In braces stand numbers: {2}, {2,} or {2,5}.")
        return int(self._text[start : self._at]) if self._at - start < 10 else MAX_REPEAT + 1

    def _bounds(self, nested: bool) -> tuple[int, int | None]:
        letter = self._peek()
        opened = self._at
        self._at += 1
        self._space(nested)
        if letter != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[letter]
        low = self._number()
        high: int | None = low
        self._space(nested)
        if self._peek() == ",":
            self._at += 1
            self._space(nested)
            high = self._number() if self._peek() in _DIGITS and self._peek() else None
            self._space(nested)
        if self._peek() != "}":
            self._fail("In braces stand numbers: {2}, {2,} or {2,5}.")
        self._at += 1
        self._space(nested)
        if low > MAX_REPEAT or (high is not None and high > MAX_REPEAT):
            self._at = opened
            self._fail(f"At most {MAX_REPEAT} repetitions can be counted.")
        if high is not None and high < low:
            self._at = opened
            self._fail(f"“{{{low},{high}}}” ends before it begins.")
        return low, high

    def _repeat(self, name: str, made: Sequence, last: int, weight: int, nested: bool) -> int:
        """Expand as the library does: m copies, then a chain of rules that may each be left out."""
        place = self._at
        low, high = self._bounds(nested)
        total = high if high else (low or 1)
        if weight * total > MAX_REPEAT:
            self._at = place
            self._fail(f"These repetitions make more than {MAX_REPEAT} rules together.")
        item = made[last:]
        if low == 0:
            del made[last:]
        else:
            self._count(len(item) * (low - 1))
            made += item * (low - 1)
        before = -1
        for step in range(1 if high is None else high - low):
            symbol = self._made(name)
            self._count(len(item) + 2)
            after = [symbol] if high is None else ([before] if step else [])
            self.rules[symbol] = [[*item, *after], []]
            before = symbol
        if before >= 0:
            made.append(before)
        return weight * total


# ---- judging ------------------------------------------------------------------------------------------------------


def _judge(parser: _Parser) -> None:
    """Refuse what the library would not come back from: left recursion, too many ways to begin."""
    empty = _may_be_empty(parser.rules)
    firsts = {symbol: [_firsts(sequence, empty) for sequence in rule] for symbol, rule in parser.rules.items()}
    ways: dict[int, int] = {}
    walk: dict[int, int] = {}
    depth: dict[int, int] = {}
    for symbol in _children_first(parser, firsts):
        found = 0
        steps, deep = 1, 0
        for refs in firsts[symbol]:
            goes_on = not refs or refs[-1] in empty
            found += sum(ways[ref] for ref in refs) + goes_on
            steps += sum(walk[ref] for ref in refs)
            deep = max([deep, *(depth[ref] for ref in refs)])
        ways[symbol], walk[symbol], depth[symbol] = max(found, 1), steps, deep + 1
        name = parser.names[symbol].split("_")[0]
        if found > MAX_WAYS:
            raise GrammarError(f"The rule “{name}” can begin in more than {MAX_WAYS} ways, which takes too long.")
        if steps > _MAX_WALK or deep > MAX_DEPTH:
            raise GrammarError(f"Too many rules begin with one another, from “{name}” on.")


def _may_be_empty(rules: dict[int, Rule]) -> set[int]:
    """Rules that can stand for nothing at all."""
    empty: set[int] = set()
    waiting: dict[int, list[tuple[int, int]]] = {}
    left: dict[tuple[int, int], int] = {}
    ready: list[int] = []
    for symbol, rule in rules.items():
        for index, sequence in enumerate(rule):
            if _TERMINAL in sequence:
                continue
            refs = set(sequence)
            left[symbol, index] = len(refs)
            for ref in refs:
                waiting.setdefault(ref, []).append((symbol, index))
            if not refs:
                ready.append(symbol)
    while ready:
        symbol = ready.pop()
        if symbol in empty:
            continue
        empty.add(symbol)
        for key in waiting.get(symbol, ()):
            left[key] -= 1
            if not left[key]:
                ready.append(key[0])
    return empty


def _firsts(sequence: Sequence, empty: set[int]) -> list[int]:
    """The rules with which a sequence can begin, one for each place."""
    found: list[int] = []
    for element in sequence:
        if element == _TERMINAL:
            break
        found.append(element)
        if element not in empty:
            break
    return found


def _children_first(parser: _Parser, firsts: dict[int, list[list[int]]]) -> list[int]:
    """All rules, each after those that it can begin with; :class:`GrammarError` for a circle."""
    order: list[int] = []
    state: dict[int, int] = {}
    for start in parser.rules:
        stack = [(start, False)]
        while stack:
            symbol, left = stack.pop()
            if left:
                state[symbol] = 2
                order.append(symbol)
                continue
            if state.get(symbol) == 2:
                continue
            if state.get(symbol) == 1:
                name = parser.names[symbol]
                if "_" in name:
                    base = name.split("_")[0]
                    raise EndlessError(f"In the rule “{base}” something is repeated that can be empty, without end.")
                raise EndlessError(f"The rule “{name}” begins with itself (left recursion), without end.")
            state[symbol] = 1
            stack.append((symbol, True))
            stack.extend((ref, False) for refs in firsts[symbol] for ref in dict.fromkeys(refs) if state.get(ref) != 2)
    return order


__all__ = [
    "MAX_EXPANDED_TEXT",
    "MAX_REPEAT",
    "MAX_TEXT",
    "EndlessError",
    "Grammar",
    "GrammarError",
    "bad_grammar",
    "check",
    "read",
]
