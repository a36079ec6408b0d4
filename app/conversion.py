"""A conversion as its parent sees it: in a worker of its own, and tidied up after when that died.

The worker maps the files that it reads. One that loses its file dies by a signal, whoever started it; so the command
line converts in a worker too, and both say the same words (:func:`app.child.verdict`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from app.child import run_job
from app.protocol import Command, Convert, Event, Paused
from converter.spec import Cancelled, ConversionResult, ConversionSpec, Planned, QuenchError


def run(
    spec: ConversionSpec,
    show: Callable[[Event], None],
    job: Callable[[str, Command, Callable[[Event], None]], Event] = run_job,
) -> ConversionResult:
    """Convert in a worker and wait for it. ``show`` gets every event but the result, ``job`` runs the worker.

    Raises what :func:`app.child.run_job` raises, and ``Cancelled`` after Ctrl-C, when nothing half-written is left; a
    conversion that was paused keeps what it has finished.
    After an error and after the worker's death, what can be resumed stays, and the error's hint says so.
    """
    planned: Planned | None = None

    def heard(event: Event) -> None:
        nonlocal planned
        if isinstance(event, Planned):
            planned = event
        show(event)

    try:
        end = job("convert", Convert(spec), heard)
    except QuenchError as error:
        kept = tidy(outputs_of(planned))
        if error.code == "engine_died" and kept is not None:
            error.hint = f"{error.hint} What is finished was kept: resuming goes on at {int(100 * kept)} %.".strip()
        raise
    except BaseException:
        discard(outputs_of(planned))
        raise
    if isinstance(end, Paused):
        raise Cancelled
    if not isinstance(end, ConversionResult):
        discard(outputs_of(planned))
        raise Cancelled
    return end


def outputs_of(planned: Planned | None) -> tuple[str, ...]:
    """The files that a conversion said it would make."""
    return tuple(path for output in planned.plan.outputs for path in output.all_files) if planned is not None else ()


def tidy(outputs: Sequence[str]) -> float | None:
    """Remove the half-written files of a conversion into ``outputs`` that ended badly, unless it can be resumed.

    Returns how much is done then, 0 to 1; None if nothing is kept.
    """
    kept = kept_fraction(outputs)
    if kept is None:
        discard(outputs)
    return kept


def kept_fraction(outputs: Sequence[str]) -> float | None:
    """How much of the conversion into ``outputs`` an interrupted run has left done, 0 to 1; None if nothing."""
    if not outputs:
        return None
    from converter.journal import kept_fraction

    return kept_fraction(outputs)


def discard(outputs: Sequence[str]) -> None:
    """Remove what an interrupted conversion into ``outputs`` has left; what somebody writes to now stays."""
    if not outputs:
        return
    from converter.writer import remove_leftover

    for output in outputs:
        remove_leftover(Path(output))


__all__ = ["discard", "kept_fraction", "outputs_of", "run", "tidy"]
