"""Which layers look back over a window only, where some do and others see everything."""

from __future__ import annotations

from converter.architectures.base import Parameters, bad_config


def windows(found: Parameters, every: int | None) -> list[bool]:
    """For each layer whether it has a window: as ``layer_types`` lists it, or all but every so many, which is what
    ``sliding_window_pattern`` says or else ``every``; without that, letters that repeat (``LLLG``) may say it too."""
    listed, layers = found.values.get("layer_types"), found.sizes.layers
    if isinstance(listed, list):
        if len(listed) != layers:
            raise bad_config(f"layer_types lists {len(listed)} layers of {layers}")
        return [kind == "sliding_attention" for kind in listed]
    pattern = found.values.get("sliding_window_pattern") or every
    if every is None and isinstance(pattern, str) and set(pattern) <= {"L", "G"}:
        return [pattern[i % len(pattern)] == "L" for i in range(layers)]
    if type(pattern) is not int or pattern < 1:
        raise bad_config(f"sliding_window_pattern is {str(pattern)[:40]!r}")
    return [(i + 1) % pattern != 0 for i in range(layers)]


def with_window(found: Parameters, every: int | None) -> list[bool] | None:
    """The same for a model that may have no window at all: None then."""
    return None if found.values.get("sliding_window") is None else windows(found, every)


def unless_assumed(found: Parameters, every: int) -> list[bool] | None:
    """The same, or None where it is what the engine assumes: all but every so many."""
    listed = windows(found, every)
    return None if listed == [(i + 1) % every != 0 for i in range(len(listed))] else listed
