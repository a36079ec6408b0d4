"""How long the steps of a fit take and what they need in memory, before they begin. Knows no Qt and no engine.

Time goes with parameters times tokens. What a machine does of that in a second is learned from the fits that ended on
it, and guessed before the first.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from app import hardware, paths
from app.files import write_atomically
from app.fit_messages import IMPORTANCE, JUDGED, PROBING
from converter.spec import ModelInfo

CONTEXT = 256
"""Tokens of a window on which tensors are probed (:class:`app.fit_messages.FitTypes`)."""

MATRIX_CONTEXT = 512

PROBES_EACH, PROBED_PART, JUDGE_WINDOWS = 4, 0.6, 6
PROBING_PART, JUDGING_PART = 0.6, 0.1
"""As :mod:`app.quality.fitting` has them, which loads the engine."""

_FEEDBACK = 1500
"""Windows that error feedback is worth: it reads 160, and multiplies what goes in with itself; the repair reads them
about seven times more."""

_GUESS = {IMPORTANCE: 8.0e9, PROBING: 12.0e9}
"""Parameters times tokens a second on one core: somewhat less than Pocket reached on a first-generation EPYC."""

_STARTUP = 2.0
"""Seconds before the first window: a process, a model."""

_KEPT = 512 << 20
"""The most that is kept of tensors in other types while they are probed."""

_SMALL = 64 << 20
"""A model of fewer bytes is loaded once a core."""

_FILE = "fit-rates.json"
_MOST_BYTES = 4096


def amounts(
    tensors: int, texts: tuple[int, int], windows: int, chunks: int, *, feedback: bool = False
) -> dict[str, int]:
    """Windows of each step that computes; ``tensors`` are those that get a type, ``texts`` are probed and judged on."""
    probed, judged = texts
    return {
        IMPORTANCE: chunks,
        PROBING: round(windows * probed * (2 + PROBED_PART * PROBES_EACH * tensors))
        + JUDGE_WINDOWS * judged
        + feedback * _FEEDBACK,
        JUDGED: JUDGE_WINDOWS * judged * (2 + 2 * feedback),
    }


def windows_of(files: Iterable[str], vocabulary: int) -> int:
    """About how many windows an importance matrix finds in texts of one's own."""
    # A rule of thumb: tokens of 2,000 words have two bytes, tokens of 128,000 words three and a half.
    bytes_a_token = math.log2(max(vocabulary, 2048)) / 5
    found = 0
    for file in files:
        with contextlib.suppress(OSError):
            found += Path(file).stat().st_size
    return max(1, int(found / bytes_a_token / MATRIX_CONTEXT))


def seconds(info: ModelInfo, windows: Mapping[str, int], threads: int = 0) -> dict[str, float]:
    """Seconds of the steps in ``windows``."""
    known = _known()
    cores = threads or hardware.physical_cores()
    found = {}
    for step, count in windows.items():
        what = IMPORTANCE if step == IMPORTANCE else PROBING
        rate = known.get(what, _GUESS[what] * cores)
        found[step] = _STARTUP + count * _tokens(step) * info.parameters / rate if count else 0.0
    return found


def learn(info: ModelInfo, step: str, windows: int, took: float) -> None:
    """Remember what a step took; a disk that refuses costs nothing but the next estimate."""
    if took <= _STARTUP or windows < 1:
        return
    rates = _known() | {step: windows * _tokens(step) * info.parameters / (took - _STARTUP)}
    with contextlib.suppress(OSError):
        write_atomically(paths.cache() / _FILE, msgspec.json.encode(rates))


def memory(info: ModelInfo, reference: int, threads: int = 0) -> int:
    """Bytes that probing takes: ``reference`` bytes of weights as often as they are loaded, and what is kept."""
    times = (threads or hardware.physical_cores()) if reference < _SMALL else 1
    return times * (reference + hardware.compute_estimate(info)) + min(_KEPT, reference)


def _tokens(step: str) -> int:
    return MATRIX_CONTEXT if step == IMPORTANCE else CONTEXT


def _known() -> dict[str, float]:
    """The rates of earlier fits; empty if there are none that can be read."""
    try:
        data = (paths.cache() / _FILE).read_bytes()[:_MOST_BYTES]
        rates = msgspec.json.decode(data, type=dict[str, float])
    except (OSError, msgspec.DecodeError):
        return {}
    return {step: rate for step, rate in rates.items() if step in _GUESS and math.isfinite(rate) and rate > 0}


__all__ = ["CONTEXT", "MATRIX_CONTEXT", "amounts", "learn", "memory", "seconds", "windows_of"]
