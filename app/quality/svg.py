"""Charts of a report as inline SVG text. Pure; colours are the page's CSS variables and classes.

A chart is a string made from numbers and names; every name is escaped here. Hover text is the ``<title>`` of a mark.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
MOST_LABELS = 20
CHARACTER = 7.2
"""Mean width of a label's character at 12 px, for placing labels."""

TYPE_COLORS: dict[str, str] = {
    "Q2_K": "#F4E61E",
    "Q3_K": "#86D549",
    "Q4_K": "#35B779",
    "Q4_0": "#35B779",
    "Q5_K": "#1F968B",
    "Q5_0": "#1F968B",
    "Q6_K": "#2D708E",
    "Q8_0": "#414487",
}
GREY = "#8A8F98"


def type_color(type_name: str) -> str:
    """The one colour of a quantization type; ``Q4_K_M`` has ``Q4_K``'s, full precision is grey."""
    for name, color in TYPE_COLORS.items():
        if type_name.upper().startswith(name):
            return color
    return GREY


@dataclass(frozen=True)
class Point:
    """A model in the size-against-divergence chart. ``half`` is half of the 95 % interval."""

    label: str
    type: str
    bytes: int
    kld: float
    half: float


@dataclass(frozen=True)
class Series:
    """Named values; ``low`` and ``high`` are the ends of intervals where there are any."""

    label: str
    type: str
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def _tag(name: str, content: str = "", **attributes: object) -> str:
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{_number(value)}"' for key, value in attributes.items())
    return f"<{name}{words}>{content}</{name}>"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escape(str(value), quote=True)


def _text(x: float, y: float, words: str, css: str = "tick", anchor: str = "start") -> str:
    return _tag("text", escape(words), x=x, y=y, class_=css, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)


def _svg(height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values from ``low`` to ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _plain(value: float) -> str:
    return f"{value:.10f}".rstrip("0").rstrip(".") if value < 1 else f"{value:,.10g}"


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both size and divergence, smallest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (each.bytes, each.kld)):
        if not best or point.kld < best[-1].kld:
            best.append(point)
    return best


def pareto(points: Sequence[Point], reference: tuple[str, int] | None = None) -> str:
    """Size against mean KL divergence (log scale): error bars, the Pareto front, a label beside each dot."""
    if not points:
        return ""
    height, left, right, top, bottom = 400, 78, 28, 20, 54
    unit, unit_name = (1 << 30, "GiB") if max(point.bytes for point in points) >= 1 << 30 else (1 << 20, "MiB")
    sizes = [point.bytes / unit for point in points] + ([reference[1] / unit] if reference else [])
    x_low, x_high = 0.0, max(sizes) * 1.08
    floor = max(1e-6, min((point.kld for point in points if point.kld > 0), default=1e-3))
    y_low = math.log10(floor) - 0.35
    y_high = math.log10(max(*(point.kld + point.half for point in points), floor * 4)) + 0.25

    def x_of(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (WIDTH - left - right)

    def y_of(value: float) -> float:
        logarithm = math.log10(max(value, 10.0**y_low))
        return top + (y_high - logarithm) / (y_high - y_low) * (height - top - bottom)

    parts = []
    for value in ticks(x_low, x_high, 6):
        parts.append(_line(x_of(value), top, x_of(value), height - bottom, "grid"))
        parts.append(_text(x_of(value), height - bottom + 18, _plain(round(value, 6)), anchor="middle"))
    for value in _log_ticks(y_low, y_high):
        parts.append(_line(left, y_of(value), WIDTH - right, y_of(value), "grid"))
        parts.append(_text(left - 8, y_of(value) + 4, _plain(value), anchor="end"))
    parts.append(_text((left + WIDTH - right) / 2, height - 12, f"file size, {unit_name}", "axis", "middle"))
    middle = (top + height - bottom) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(16 {middle:.0f}) rotate(-90)">'
        "mean KL divergence, nats (log)</text>"
    )
    if reference:
        at = x_of(reference[1] / unit)
        parts.append(_line(at, top, at, height - bottom, "reference"))
        parts.append(_text(at - 6, top + 12, reference[0], "label muted", "end"))
    best = front(points)
    path = " ".join(f"{x_of(point.bytes / unit):.1f},{y_of(point.kld):.1f}" for point in best)
    if len(best) > 1:
        parts.append(_tag("polyline", points=path, class_="front"))
    boxes = [(x_of(point.bytes / unit) - 8, y_of(point.kld) - 8, 16.0, 16.0) for point in points]
    for point in points:
        x, y = x_of(point.bytes / unit), y_of(point.kld)
        if point.half > 0:
            low, high = y_of(point.kld - point.half), y_of(point.kld + point.half)
            parts += [_line(x, low, x, high, "whisker")]
            parts += [_line(x - 4, end, x + 4, end, "whisker") for end in (low, high)]
        hover = f"{point.label}: {point.bytes / unit:.2f} {unit_name}, {point.kld:.5f} ± {point.half:.5f} nats"
        dot = _tag("title", escape(hover))
        parts.append(_tag("circle", dot, cx=x, cy=y, r=6.5, fill=type_color(point.type), class_="dot"))
    for point in points:
        x, y = x_of(point.bytes / unit), y_of(point.kld)
        parts.append(_place_label(point.label, x, y, boxes, (left, WIDTH - right)))
    return _svg(height, "Size of each file against its mean KL divergence", parts)


def _log_ticks(low: float, high: float) -> list[float]:
    factors = (1.0,) if high - low > 2.5 else (1.0, 2.0, 5.0)
    found = [f * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    return [value for value in found if low <= math.log10(value) <= high]


def _place_label(
    label: str, x: float, y: float, boxes: list[tuple[float, float, float, float]], limits: tuple[float, float]
) -> str:
    """The label at the first of eight places around the dot that is free; ``boxes`` grows by the one taken."""
    wide = len(label) * CHARACTER
    places = [(11, 4), (-11 - wide, 4), (-wide / 2, -13), (-wide / 2, 23), (9, -9), (9, 18), (-9 - wide, -9)]
    chosen = places[0]
    for dx, dy in places:
        box = (x + dx, y + dy - 11, wide, 14.0)
        if box[0] >= limits[0] and box[0] + wide <= limits[1] and not any(_overlap(box, other) for other in boxes):
            chosen = (dx, dy)
            break
    boxes.append((x + chosen[0], y + chosen[1] - 11, wide, 14.0))
    return _text(x + chosen[0], y + chosen[1], label, "label")


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )


def grouped_bars(groups: Sequence[str], series: Sequence[Series], label: str) -> str:
    """Shares (0..1) by group, a bar for each series with its interval; the vertical axis runs 0 to 100 %."""
    if not groups or not series:
        return ""
    height, left, right, top, bottom = 280, 52, 12, 14, 36
    plot = height - top - bottom
    room = (WIDTH - left - right) / len(groups)
    bar = min(30.0, room * 0.82 / len(series))
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + plot * (1 - share)
        parts += [
            _line(left, y, WIDTH - right, y, "grid"),
            _text(left - 8, y + 4, f"{100 * share:.0f} %", anchor="end"),
        ]
    for g, group in enumerate(groups):
        start = left + room * g + (room - bar * len(series)) / 2
        parts.append(_text(left + room * (g + 0.5), height - 14, group, "label", "middle"))
        for s, line in enumerate(series):
            value, x = line.values[g], start + bar * s
            hover = _tag("title", escape(f"{line.label}, {group}: {100 * value:.1f} %"))
            parts.append(
                _tag(
                    "rect",
                    hover,
                    x=x + 1,
                    y=top + plot * (1 - value),
                    width=bar - 2,
                    height=max(0.5, plot * value),
                    fill=type_color(line.type),
                    class_="bar",
                )
            )
            if line.low and line.high:
                low, high = top + plot * (1 - line.low[g]), top + plot * (1 - line.high[g])
                parts += [_line(x + bar / 2, low, x + bar / 2, high, css) for css in ("halo", "whisker")]
    return _svg(height, label, parts)


def shares(groups: Sequence[str], series: Sequence[Series], label: str) -> str:
    """Shares (0..1) by group as dots on their intervals, one row a series: for more groups than bars have room for."""
    if not groups or not series:
        return ""
    row, gap, left, right, top, bottom = 11, 12, 130, 28, 8, 30
    block = row * len(series) + gap
    height = top + block * len(groups) + bottom
    wide = WIDTH - left - right
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + wide * share
        parts += [
            _line(x, top, x, height - bottom, "grid"),
            _text(x, height - bottom + 18, f"{100 * share:.0f} %", anchor="middle"),
        ]
    for g, group in enumerate(groups):
        start = top + block * g
        if g:
            parts.append(_line(0, start, WIDTH - right, start, "grid"))
        parts.append(_text(left - 12, start + block / 2 + 4, group, "label", "end"))
        for s, line in enumerate(series):
            y = start + gap / 2 + row * (s + 0.5)
            if line.low and line.high:
                parts.append(_line(left + wide * line.low[g], y, left + wide * line.high[g], y, "whisker"))
            hover = _tag("title", escape(f"{line.label}, {group}: {100 * line.values[g]:.1f} %"))
            x = left + wide * line.values[g]
            parts.append(_tag("circle", hover, cx=x, cy=y, r=4.5, fill=type_color(line.type), class_="dot"))
    return _svg(height, label, parts)


def horizontal_bars(series: Sequence[Series], label: str, unit: str) -> str:
    """One bar for each series' only value, its name at the left and its value at the end."""
    if not series:
        return ""
    row, left, right, top = 30, 150, 128, 6
    most = max(max(line.high[0] if line.high else 0.0, line.values[0]) for line in series) or 1.0
    parts = []
    for index, line in enumerate(series):
        y = top + row * index
        value = line.values[0]

        def x_of(amount: float) -> float:
            return left + amount / most * (WIDTH - left - right)

        parts.append(_text(left - 10, y + 19, line.label, "label", "end"))
        bar = _tag("title", escape(f"{line.label}: {value:,.1f} {unit}"))
        parts.append(
            _tag(
                "rect",
                bar,
                x=left,
                y=y + 5,
                width=max(0.5, x_of(value) - left),
                height=row - 10,
                fill=type_color(line.type),
                class_="bar",
            )
        )
        end = value
        if line.low and line.high:
            ends = x_of(line.low[0]), x_of(line.high[0])
            parts += [_line(ends[0], y + row / 2, ends[1], y + row / 2, css) for css in ("halo", "whisker")]
            end = max(value, line.high[0])
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        parts.append(_text(x_of(end) + 8, y + 19, f"{shown} {unit}", "label"))
    return _svg(top + row * len(series) + 4, label, parts)


def ridges(series: Sequence[Series], edges: Sequence[float], label: str) -> str:
    """A histogram for each series, one below the other on a common axis of log10 values ``edges``."""
    used = [i for i in range(len(edges) - 1) if any(line.values[i] for line in series)]
    if not series or not used:
        return ""
    first, last = used[0], used[-1] + 1
    row, left, right, top, bottom = 58, 118, 24, 8, 50
    height = top + row * len(series) + bottom
    wide = (WIDTH - left - right) / (last - first)
    floor = top + row * len(series)
    parts = []
    for index in range(first, last + 1):
        if abs(edges[index] - round(edges[index])) < 1e-9:
            x = left + wide * (index - first)
            parts.append(_line(x, top, x, floor, "grid"))
            parts.append(_text(x, floor + 18, _plain(10.0 ** edges[index]), anchor="middle"))
    for place, line in enumerate(series):
        base = top + row * (place + 1)
        most = max(line.values[first:last]) or 1
        total = sum(line.values) or 1
        parts.append(_line(left, base, WIDTH - right, base, "axis-line"))
        parts.append(_text(left - 12, base - 8, line.label, "label", "end"))
        for index in range(first, last):
            count = line.values[index]
            if not count:
                continue
            tall = (row - 10) * count / most
            hover = _tag(
                "title",
                escape(
                    f"{line.label}: {100 * count / total:.1f} % of the tokens between "
                    f"{_plain(10.0 ** edges[index])[:9]} and {_plain(10.0 ** edges[index + 1])[:9]} nats"
                ),
            )
            parts.append(
                _tag(
                    "rect",
                    hover,
                    x=left + wide * (index - first) + 0.5,
                    y=base - tall,
                    width=wide - 1,
                    height=tall,
                    fill=type_color(line.type),
                    class_="bar",
                )
            )
    parts.append(_text((left + WIDTH - right) / 2, height - 12, "KL divergence of a token, nats", "axis", "middle"))
    return _svg(height, label, parts)


def lines(series: Sequence[Series], labels: Sequence[str], label: str, axis: str, *, unit: str = " nats") -> str:
    """Positive values on a log scale over equal steps, one line for each series, its name at the right end.

    Of many labels every second, third ... is written.
    """
    positive = [value for line in series for value in line.values if value > 0]
    if not positive:
        return ""
    height, left, right, top, bottom = 300, 70, 96, 14, 50
    low, high = math.log10(min(positive)) - 0.15, math.log10(max(positive)) + 0.15
    steps = max(1, len(labels) - 1)

    def x_of(index: int) -> float:
        return left + index / steps * (WIDTH - left - right)

    def y_of(value: float) -> float:
        logarithm = math.log10(max(value, 10.0**low))
        return top + (high - logarithm) / (high - low) * (height - top - bottom)

    parts = []
    for value in _log_ticks(low, high):
        parts.append(_line(left, y_of(value), WIDTH - right, y_of(value), "grid"))
        parts.append(_text(left - 8, y_of(value) + 4, _plain(value), anchor="end"))
    every = math.ceil(len(labels) / MOST_LABELS)
    for index, words in enumerate(labels):
        if index % every == 0:
            parts.append(_text(x_of(index), height - bottom + 20, words, anchor="middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 10, axis, "axis", "middle"))
    ends = _spread([y_of(line.values[-1]) for line in series], 15.0)
    for line, end in zip(series, ends, strict=True):
        path = " ".join(f"{x_of(i):.1f},{y_of(value):.1f}" for i, value in enumerate(line.values))
        parts.append(_tag("polyline", points=path, class_="under"))
        parts.append(_tag("polyline", points=path, class_="line", stroke=type_color(line.type)))
        for index, value in enumerate(line.values):
            hover = _tag("title", escape(f"{line.label}, {labels[index]}: {value:.5f}{unit}"))
            parts.append(
                _tag(
                    "circle",
                    hover,
                    cx=x_of(index),
                    cy=y_of(value),
                    r=3.5,
                    fill=type_color(line.type),
                    class_="dot",
                )
            )
        parts.append(_text(WIDTH - right + 12, end + 4, line.label, "label"))
    return _svg(height, label, parts)


def _spread(ys: Sequence[float], gap: float) -> list[float]:
    """The heights ``ys`` moved apart so that labels at them do not overlap; order kept."""
    order = sorted(range(len(ys)), key=lambda index: ys[index])
    placed = list(ys)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + gap)
    return placed
