"""Whether methods can be compared as it is asked: known before anything is loaded or made. Knows no engine."""

from __future__ import annotations

from app.measure_messages import MeasureMethods
from app.quality import texts
from app.quality.limits import MAX_CONTEXT, MIN_CONTEXT
from app.quality.methods.table import METHODS
from converter.spec import QuenchError


def check(command: MeasureMethods) -> None:
    """Refuse a command that makes no sense; QuenchError with exit status 2."""
    problem, hint = "", ""
    unknown = [key for key in command.methods if key not in METHODS]
    seen = sorted({*command.texts} & {*(command.calibration or texts.CALIBRATION)})
    if not MIN_CONTEXT <= command.context <= MAX_CONTEXT or command.chunks < 0 or command.minutes < 0:
        problem = (
            f"Windows of {command.context} tokens ({MIN_CONTEXT} to {MAX_CONTEXT}), {command.chunks} of each text, "
            f"{command.minutes:g} minutes."
        )
    elif unknown:
        problem, hint = f"There is no method called {unknown[0]}.", f"Known methods: {', '.join(METHODS)}."
    elif seen:
        problem, hint = f"{seen[0]} is for calibration: what has seen it would be judged on it.", "Take another text."
    if problem:
        raise QuenchError("bad_options", "This cannot be measured.", problem, hint, exit_status=2)


__all__ = ["check"]
