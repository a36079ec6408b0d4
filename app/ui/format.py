"""Numbers for people, by the user's locale: binary sizes named as such, durations in words, estimates with their error.

Colours, fonts and units live elsewhere; every function here is pure apart from reading ``QLocale()``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

from PySide6.QtCore import QCoreApplication, QLocale

DASH = "–"
"""Stands for a figure that is not known."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class HasError(Protocol):
    """What :func:`estimate` needs: a value and its standard error."""

    @property
    def value(self) -> float: ...

    @property
    def error(self) -> float: ...


def _tr(text: str) -> str:
    return QCoreApplication.translate("format", text)


def number(value: float | None, digits: int = 0) -> str:
    """``1,234.5``; a dash for None, NaN and infinities."""
    if value is None or not math.isfinite(value):
        return DASH
    return QLocale().toString(float(value), "f", digits)


def size(count: float | None) -> str:
    """Bytes in binary units: ``1.2 GiB``, ``640 KiB``, ``17 B``; a dash for None."""
    if count is None or not math.isfinite(count):
        return DASH
    value, step = float(count), 0
    while abs(value) >= 1000 and step < len(_UNITS) - 1:  # 1000: never four figures before the unit
        value /= 1024
        step += 1
    digits = 0 if step == 0 or abs(value) >= 100 else 2 if abs(value) < 1 else 1
    return f"{number(value, digits)} {_UNITS[step]}"


def rate(bytes_per_second: float | None) -> str:
    """``1.2 GiB/s``."""
    text = size(bytes_per_second)
    return text if text == DASH else f"{text}/s"


def tokens_per_second(value: float | None) -> str:
    """``41.3 tokens/s``."""
    if value is None or not math.isfinite(value):
        return DASH
    return _tr("{0} tokens/s").format(number(value, 0 if value >= 100 else 1))


def parameters(count: int | None) -> str:
    """Parameter counts as model names have them: ``5.2 M``, ``8.0 B``."""
    if not count:
        return DASH
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= limit:
            value = count / limit
            return f"{number(value, 0 if value >= 100 else 1)} {unit}"
    return number(count)


def seconds(value: float | None) -> str:
    """A duration: ``340 ms``, ``3.4 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value is None or not math.isfinite(value):
        return DASH
    if value < 0.9995:
        return _tr("{0} ms").format(number(max(value, 0.0) * 1000))
    if value < 59.95:
        return _tr("{0} s").format(number(value, 1 if value < 10 else 0))
    whole = round(value)
    if whole < 3600:
        rest = whole % 60
        minutes = _tr("{0} min").format(whole // 60)
        return minutes if rest == 0 else _tr("{0} {1} s").format(minutes, rest)
    hours = _tr("{0} h").format(number(whole // 3600))
    rest = whole % 3600 // 60
    return hours if rest == 0 else _tr("{0} {1} min").format(hours, rest)


def path(place: str | Path) -> str:
    """A path for people: the home folder is ``~``. :func:`typed_path` is the other way round."""
    where, home = Path(place), Path.home()
    if where == home:
        return "~"
    return (
        str(Path("~") / where.relative_to(home)) if home in where.parents and home != Path(home.anchor) else str(where)
    )


def typed_path(text: str) -> str:
    """A path that a person typed or :func:`path` wrote, ``~`` replaced; an empty text stays empty."""
    wanted = text.strip()
    if not wanted.startswith("~"):
        return wanted
    try:
        return str(Path(wanted).expanduser())
    except RuntimeError:  # the home of somebody who is not there
        return wanted


def percent(fraction: float | None, digits: int = 1) -> str:
    """``0.953`` -> ``95.3 %``."""
    if fraction is None or not math.isfinite(fraction):
        return DASH
    return f"{number(fraction * 100, digits)}\N{NO-BREAK SPACE}%"


def estimate(value: HasError | None, figures: int = 2) -> str:
    """``0.0312 ± 0.0009``: as many digits as the error justifies; ``0`` error gives four significant figures."""
    if value is None or not math.isfinite(value.value):
        return DASH
    error = abs(value.error) if math.isfinite(value.error) else 0.0
    if error == 0.0:
        return significant(value.value)
    digits = min(max(figures - 1 - math.floor(math.log10(error)), 0), 6)
    return f"{number(value.value, digits)} ± {number(error, digits)}"


def significant(value: float | None, figures: int = 4) -> str:
    """A number with ``figures`` significant figures, never in exponent form: ``0.03124``, ``12.35``."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0.0:
        return "0"
    return number(value, min(max(figures - 1 - math.floor(math.log10(abs(value))), 0), 8))
