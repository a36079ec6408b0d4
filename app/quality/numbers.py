"""Figures as a report prints them: few digits, an interval beside each, one unit system. English, not localised."""

from __future__ import annotations

import math

from app.measure_messages import Estimate
from app.proportions import Z95, wilson

NONE = "–"
AT_LEAST = "≥ "
"""In front of a figure that is a lower bound."""


def size(count: float) -> str:
    """Bytes in binary units: ``4.1 GiB``."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            value = count / (1 << power)
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def decimals(half_width: float, most: int = 7) -> int:
    """Decimals that show two digits of ``half_width``."""
    if not half_width > 0 or not math.isfinite(half_width):
        return 4
    return min(most, max(0, 1 - math.floor(math.log10(half_width))))


def interval(estimate: Estimate, scale: float = 1.0, suffix: str = "") -> str:
    """``value ± half of the 95 % interval``, rounded to two digits of the latter."""
    value, half = estimate.value * scale, Z95 * estimate.error * scale
    if half <= 0:
        return f"{number(value)}{suffix}"
    digits = decimals(half)
    return f"{value:.{digits}f} ± {half:.{digits}f}{suffix}"


def percent(estimate: Estimate) -> str:
    """A fraction as a percentage with its interval."""
    return interval(estimate, 100.0, " %")


def number(value: float, digits: int = 3) -> str:
    """``value`` with about ``digits`` digits that count, grouped by thousands, never in scientific notation."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 8)}f}"


def rate(value: float) -> str:
    """Tokens a second."""
    return number(value) if value > 0 else NONE


def seconds(value: float | None) -> str:
    """A time for people: ``41 ms``, ``3.2 s``, ``2 min 5 s``."""
    if value is None:
        return NONE
    if value < 0.9995:
        return f"{number(1000 * value, 2 if value < 0.0995 else 3)} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def probability(value: float) -> str:
    """A p value: two digits that count, ``under 0.001`` below that."""
    return "under 0.001" if value < 0.001 else f"{value:.{2 if value >= 0.1 else 3}f}"


__all__ = [
    "AT_LEAST",
    "NONE",
    "Z95",
    "decimals",
    "interval",
    "number",
    "percent",
    "probability",
    "rate",
    "seconds",
    "size",
    "wilson",
]
