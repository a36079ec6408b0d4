"""What a command shows on stderr while it works, and how numbers are written for people in a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

LINE_EVERY = 3.0  # seconds between lines where there is no terminal
BAR_EVERY = 0.1
BAR_WIDTH = 24

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """``1536`` -> ``1.50 KiB``."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{int(value)} {_UNITS[unit]}" if unit == 0 else f"{value:.2f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """``75.2`` -> ``1 min 15 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """A live bar on a terminal, one line every few seconds elsewhere; always on stderr, so stdout stays data."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._last = 0.0
        self._width = 0

    def update(self, label: str, done: float, total: float, seconds_left: float | None = None) -> None:
        """Show ``done`` of ``total`` (any unit); too frequent calls are ignored."""
        now = time.monotonic()
        if now - self._last < (BAR_EVERY if self._live else LINE_EVERY):
            return
        self._last = now
        fraction = min(1.0, done / total) if total > 0 else 0.0
        left = f", {duration(seconds_left)} left" if seconds_left is not None and seconds_left >= 1 else ""
        if self._live:
            filled = round(fraction * BAR_WIDTH)
            text = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {fraction:4.0%}  {label}{left}"
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(f"{fraction:4.0%}  {label}{left}\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """A line of its own that stays."""
        self.clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Remove the live bar, if one is shown."""
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns padded to their widest cell; the first is left-aligned, the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: tuple[str, ...]) -> str:
        first = cells[0].ljust(widths[0])
        return "  ".join(
            [first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        ).rstrip()

    return "\n".join([line(header), *(line(row) for row in rows)])
