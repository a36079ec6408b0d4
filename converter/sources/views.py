"""Views of a stored tensor: another order of its rows, a part of it, its transpose. Data, without a byte read.

A pattern names the axes before and after, as in einsum: ``"(h p j) ... -> (h j p) ..."`` takes every head of ``p j``
rows apart and puts neighbours where halves were. Axes in brackets are one dimension of the stored (or of the new)
tensor, the last one running fastest; ``...`` stands for all dimensions that follow and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

Size = int | str
Dims = tuple[tuple[int, int], ...]
"""``(length, step in elements)`` of axes, the last one running fastest."""

_GROUP = re.compile(r"\(([^()]*)\)|([a-z]+|\.\.\.)")


@dataclass(frozen=True)
class View:
    """``axes`` gives the lengths of axes (all but one of a bracket); ``at`` picks one index of an axis, which so
    vanishes; ``keep`` keeps a range ``(start, stop)`` of an axis. ``rows`` is such a range of the first stored
    dimension and is taken before the pattern, which then knows of no others.

    Lengths may be names or expressions of sizes until :meth:`bound` replaces them.
    """

    pattern: str
    axes: Mapping[str, Size] = field(default_factory=dict)
    at: Mapping[str, Size] = field(default_factory=dict)
    keep: Mapping[str, tuple[Size, Size]] = field(default_factory=dict)
    rows: tuple[Size, Size] | None = None

    def bound(self, size: Callable[[Size], int]) -> View:
        """The same view with numbers for names."""
        return View(
            self.pattern,
            {name: size(value) for name, value in self.axes.items()},
            {name: size(value) for name, value in self.at.items()},
            {name: (size(start), size(stop)) for name, (start, stop) in self.keep.items()},
            None if self.rows is None else (size(self.rows[0]), size(self.rows[1])),
        )

    @property
    def rows_only(self) -> bool:
        """Whether only the first dimension changes: then the same view fits tensors of other widths."""
        before, after = (side.strip() for side in self.pattern.split("->"))
        return all(side.endswith("...") and len(_groups(side)) == 2 for side in (before, after))


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the elements of a tensor lie: element ``(i, j, ...)`` at ``offset`` plus its axes' steps.

    ``shape`` is the tensor's; ``rows`` and ``columns`` are the axes of its leading dimensions and of its last one,
    axes that run on into each other joined.
    """

    shape: tuple[int, ...]
    rows: Dims
    columns: Dims
    offset: int

    @property
    def contiguous(self) -> bool:
        """Whether all of it lies in one piece, in its own order."""
        width, count = self.shape[-1] if self.shape else 1, prod(self.shape[:-1])
        return self.columns in (((width, 1),), ()) and self.rows in (((count, width),), ())


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps in elements of a tensor whose rows follow each other."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def placed(view: View | None, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Placed:
    """Lays a bound view over a stored tensor. ``ValueError`` where its lengths do not fit the stored shape."""
    steps = strides if strides is not None else contiguous_strides(shape)
    if view is None:
        return _collected(tuple([(n, step)] for n, step in zip(shape, steps, strict=True)), 0)
    skipped = 0
    if view.rows is not None:
        first, last = int(view.rows[0]), int(view.rows[1])
        if not 0 <= first < last <= shape[0]:
            raise ValueError(f"there are no rows {first} to {last}")
        skipped = first * steps[0]
        shape = (last - first, *shape[1:])
    before, _, after = view.pattern.partition("->")
    named: dict[str, list[tuple[int, int]]] = {}
    groups = _groups(before)
    if ["..."] not in groups and len(groups) != len(shape):
        raise ValueError(f"{len(shape)} dimensions for the pattern {view.pattern!r}")
    for position, names in enumerate(groups):
        if names == ["..."]:
            named["..."] = list(zip(shape[position:], steps[position:], strict=True))
            break
        if position >= len(shape):
            raise ValueError(f"{len(shape)} dimensions for the pattern {view.pattern!r}")
        for name, axis in _split(names, shape[position], steps[position], view.axes):
            named[name] = [axis]
    offset = skipped
    for name, value in view.at.items():
        length, step = named.pop(name)[0]
        if not 0 <= value < length:  # type: ignore[operator]
            raise ValueError(f"{name} has no index {value}")
        offset += int(value) * step
    for name, (start, stop) in view.keep.items():
        length, step = named[name][0]
        if not 0 <= int(start) < int(stop) <= length:
            raise ValueError(f"{name} has no range {start} to {stop}")
        named[name] = [(int(stop) - int(start), step)]
        offset += int(start) * step
    dims: list[list[tuple[int, int]]] = []
    for names in _groups(after):
        if names == ["..."]:
            dims.extend([axis] for axis in named["..."])
        else:
            dims.append([named[name][0] for name in names])
    return _collected(tuple(dims), offset)


def boxes(dims: Dims, start: int, stop: int) -> Iterator[tuple[int, int, Dims]]:
    """Cuts a range of positions into few boxes of whole axes: (first position, its offset, the box's axes)."""
    if start >= stop:
        return
    if not dims:
        yield 0, 0, ()
        return
    (_, step), rest = dims[0], dims[1:]
    inner = prod(n for n, _ in rest)
    first, head = divmod(start, inner)
    last, tail = divmod(stop, inner)
    if first == last:
        yield from _inside(rest, first, step, head, tail)
        return
    if head:
        yield from _inside(rest, first, step, head, inner)
        first += 1
    if first < last:
        yield first * inner, first * step, ((last - first, step), *rest)
    if tail:
        yield from _inside(rest, last, step, 0, tail)


def _inside(rest: Dims, index: int, step: int, start: int, stop: int) -> Iterator[tuple[int, int, Dims]]:
    inner = prod(n for n, _ in rest)
    for position, offset, box in boxes(rest, start, stop):
        yield index * inner + position, index * step + offset, box


def _groups(side: str) -> list[list[str]]:
    return [(inner or outer).split() for inner, outer in _GROUP.findall(side)]


def _split(names: list[str], length: int, step: int, axes: Mapping[str, Size]) -> Iterator[tuple[str, tuple[int, int]]]:
    """The axes of one stored dimension. One of them may be left to what the others make of it."""
    known = prod(int(axes[name]) for name in names if name in axes)
    open_axes = [name for name in names if name not in axes]
    if len(open_axes) > 1 or known <= 0 or length % known or (not open_axes and known != length):
        raise ValueError(f"{length} cannot be taken apart into {' '.join(names)}")
    lengths = [int(axes.get(name, length // known)) for name in names]
    for at, name in enumerate(names):
        yield name, (lengths[at], step * prod(lengths[at + 1 :]))


def _collected(dims: tuple[list[tuple[int, int]], ...], offset: int) -> Placed:
    shape = tuple(prod(n for n, _ in axes) for axes in dims)
    leading = [axis for axes in dims[:-1] for axis in axes]
    return Placed(shape, _joined(leading), _joined(dims[-1] if dims else []), offset)


def _joined(axes: list[tuple[int, int]]) -> Dims:
    """Without axes of length 1, and with those joined that run on into each other."""
    result: list[tuple[int, int]] = []
    for length, step in axes:
        if length == 1:
            continue
        if result and result[-1][1] == length * step:
            result[-1] = (result[-1][0] * length, step)
        else:
            result.append((length, step))
    return tuple(result)
