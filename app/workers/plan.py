"""What a model would take in memory: a dry load in a process of its own, so that a bad file breaks nothing else."""

from __future__ import annotations

from app.engine.dry import plan_load
from app.memory_messages import LoadPlanned, PlanLoad
from app.workers.chat import OUTPUTS
from app.workers.runtime import Connection


def serve(connection: Connection) -> None:
    """Answer one :class:`PlanLoad`; see there. ``QuenchError`` as :func:`app.engine.dry.plan_load`."""
    for command in connection.commands():
        if isinstance(command, PlanLoad):
            plan = plan_load(
                command.path,
                command.options,
                outputs=OUTPUTS,
                replaces=command.replaces,
                ratio=command.ratio,
            )
            connection.send(LoadPlanned(command.request, plan))
            return


__all__ = ["serve"]
