"""A conversion as its parent sees it: in a worker of its own, and tidied up after when that died.

The worker maps the files that it reads. One that loses its file dies by a signal, whoever started it; so the command
line converts in a worker too, and both say the same words (:func:`app.child.verdict`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.child import run_job
from app.protocol import Convert, Event
from converter.spec import Cancelled, ConversionResult, ConversionSpec, Planned


def run(spec: ConversionSpec, show: Callable[[Event], None]) -> ConversionResult:
    """Convert in a worker and wait for it. ``show`` gets every event but the result.

    Raises what :func:`app.child.run_job` raises, and ``Cancelled`` after Ctrl-C. Whatever it is, no half-written file
    is left.
    """
    planned: Planned | None = None

    def heard(event: Event) -> None:
        nonlocal planned
        if isinstance(event, Planned):
            planned = event
        show(event)

    try:
        end = run_job("convert", Convert(spec), heard)
    except BaseException:
        tidy(planned)
        raise
    if not isinstance(end, ConversionResult):
        tidy(planned)
        raise Cancelled
    return end


def tidy(planned: Planned | None) -> None:
    """Remove the half-written outputs of a worker that has died; ``planned`` is what it said it would make."""
    if planned is None:
        return
    from converter.writer import remove_leftover

    for output in planned.plan.outputs:
        for path in output.all_files:
            remove_leftover(Path(path))


__all__ = ["run", "tidy"]
