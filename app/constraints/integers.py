"""Whole numbers between two limits as grammar: digit by digit, as one would write the list out."""

from __future__ import annotations

DIGITS = 16
"""Digits of a number without a limit."""


def between(low: int | None, high: int | None) -> str:
    """Alternatives for every whole number from ``low`` to ``high`` in decimal, without leading zeros.

    ``None`` is no limit, which still means :data:`DIGITS` digits at most. ``low`` must not exceed ``high``.
    """
    most = 10**DIGITS - 1
    low, high = -most if low is None else low, most if high is None else high
    ways: list[str] = []
    if low < 0:
        ways += [f'"-" {way}' for way in _positive(max(1, -high), -low)]
    if low <= 0 <= high:
        ways.append('"0"')
    if high > 0:
        ways += _positive(max(1, low), high)
    return " | ".join(ways)


def _positive(low: int, high: int) -> list[str]:
    ways: list[str] = []
    for size in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (size - 1)), min(high, 10**size - 1)
        ways += _same_length(str(first), str(last))
    return ways


def _same_length(low: str, high: str) -> list[str]:
    """Numbers of one length: what both limits begin with, then the part below, between and above."""
    if low == high:
        return [f'"{low}"']
    same = 0
    while low[same] == high[same]:
        same += 1
    head, low, high = low[:same], low[same:], high[same:]
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    below = set(low[1:]) <= {"0"}
    above = set(high[1:]) <= {"9"}
    ways: list[str] = []
    if not below:
        ways += [f'"{low[0]}" {way}' for way in _same_length(low[1:], "9" * rest)]
    middle = (first if below else first + 1, last if above else last - 1)
    if middle[0] <= middle[1]:
        digits = f"[{middle[0]}-{middle[1]}]" if middle[0] < middle[1] else f'"{middle[0]}"'
        ways.append(digits + (f" [0-9]{{{rest}}}" if rest else ""))
    if not above:
        ways += [f'"{high[0]}" {way}' for way in _same_length("0" * rest, high[1:])]
    return [f'"{head}" {way}' for way in ways] if head else ways


__all__ = ["DIGITS", "between"]
