"""Importance matrices as files: what one says, where a run keeps its checkpoint, several put together.

Knows neither the engine nor Qt: the window's reading worker and the command line use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from app.files import refuse_output, write_atomically
from app.measure_messages import Experts, ImatrixCheckpoint, ImatrixDescription, ImatrixStatistics, MeasureImatrix
from converter.imatrix_sums import Collected, Statistics, coverage, dataset_names, encode, merged, read_sums, statistics
from converter.sources.base import MetaEntry
from converter.spec import QuenchError

_KEY, _NLL, _DONE = "quench.imatrix.key", "quench.imatrix.nll", "quench.imatrix.done"
_TOTAL, _COMMAND = "quench.imatrix.total", "quench.imatrix.command"


def checkpoint_path(output: Path) -> Path:
    """Where a run that makes ``output`` puts its sums by."""
    return output.with_name(output.name + ".checkpoint")


def checkpoint_entries(
    command: MeasureImatrix, key: str, done: int, total: int, nll: Sequence[float]
) -> tuple[MetaEntry, ...]:
    """What a checkpoint holds beside the sums. ``key`` is what a run that goes on must agree with."""
    return (
        MetaEntry(_KEY, key, "STRING"),
        MetaEntry(_DONE, done, "UINT32"),
        MetaEntry(_TOTAL, total, "UINT32"),
        MetaEntry(_COMMAND, msgspec.json.encode(command).decode(), "STRING"),
        MetaEntry(_NLL, list(nll), "ARRAY", "FLOAT64"),
    )


def resumable(keys: Mapping[str, Any], key: str, total: int) -> tuple[int, list[float]] | None:
    """Windows done and what their tokens cost, or None if the checkpoint is of another run."""
    done, nll = keys.get(_DONE), keys.get(_NLL)
    if keys.get(_KEY) != key or not isinstance(done, int) or not isinstance(nll, list) or done > total:
        return None
    return done, [float(value) for value in nll]


def describe(path: Path) -> ImatrixDescription:
    """What an importance matrix (GGUF or ``.dat``) or a checkpoint says. ``QuenchError`` ``bad_imatrix``."""
    sums, keys = read_sums(path)
    if not sums:
        raise QuenchError("bad_imatrix", "This is no importance matrix.", f"{path.name} has no sums.", "")
    return ImatrixDescription(
        path=str(path),
        entries=len(sums),
        chunks=int(keys.get("imatrix.chunk_count") or 0),
        chunk_size=int(keys.get("imatrix.chunk_size") or 0),
        datasets=dataset_names([str(name) for name in keys.get("imatrix.datasets", [])]),
        experts=Experts(*coverage(sums)),
        statistics=as_messages(statistics(sums)),
        checkpoint=_checkpoint(keys),
    )


def _checkpoint(keys: Mapping[str, Any]) -> ImatrixCheckpoint | None:
    done, total = keys.get(_DONE), keys.get(_TOTAL)
    if not isinstance(done, int) or not isinstance(total, int):
        return None
    try:
        command = msgspec.json.decode(str(keys.get(_COMMAND)), type=MeasureImatrix)
    except msgspec.MsgspecError:
        return None
    return ImatrixCheckpoint(done, total, command)


def as_messages(figures: Iterable[Statistics]) -> tuple[ImatrixStatistics, ...]:
    """The figures as they travel between processes."""
    return tuple(ImatrixStatistics(**dataclasses.asdict(item)) for item in figures)


def merge(inputs: Sequence[Path], output: Path, form: str, chunk_size: int) -> ImatrixDescription:
    """Add the sums of ``inputs`` (of one model) up in their order, as llama-imatrix does with several ``--in-file``.

    ``chunk_size`` in tokens says what a call of the older format stands for. ``QuenchError`` ``bad_imatrix`` when they
    do not fit together, ``no_folder`` and ``write_failed`` for the output.
    """
    if not output.parent.is_dir():
        raise QuenchError("no_folder", "The output folder does not exist.", str(output.parent), "Create it first.")
    refuse_output(output)  # one of the inputs is fine: they are read first, and what is added up stays
    sums, datasets = merged(inputs, chunk_size)
    try:
        write_atomically(output, encode(Collected(sums, dataset_names(datasets), chunk_size), form))
    except OSError as error:
        detail = f"{output}: {error.strerror or error}."
        title, hint = "The importance matrix could not be written.", "Free some space or choose another folder."
        raise QuenchError("write_failed", title, detail, hint, exit_status=4) from error
    return describe(output)


__all__ = ["as_messages", "checkpoint_entries", "checkpoint_path", "describe", "merge", "resumable"]
