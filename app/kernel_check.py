"""Which backend of the kernels this machine can trust. Knows no Qt.

The first start after an update runs the kernels' self-test, in a process of its own, and remembers what passed:
``kernels.json`` in the data folder, which holds for one version, library and processor. Whoever is about to use the
kernels calls :func:`use_trusted` first. ``QUENCH_KERNELS`` forces a backend; nothing is tested then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import kernels
from app import paths
from app.child import Child
from app.files import write_atomically
from app.protocol import NO_KERNELS, BackendStarted, BackendTested, Event, KernelCheck, KernelsChecked, RunSelftest
from converter.encode import unusable
from converter.spec import QuenchError

Results = dict[str, list[dict[str, Any]]]
"""For each backend the rows of :func:`kernels.selftest`."""

MAX_BYTES = 1 << 16
CRASHED = "the process ended"


class Record(msgspec.Struct, frozen=True):
    """What is remembered: for which installation, and the backends that failed, with the reason."""

    key: str
    failed: dict[str, str]


def record_file() -> Path:
    return paths.home() / "kernels.json"


def installation() -> str:
    """What the result of a self-test depends on: version, library, processor, backends."""
    library = hashlib.sha256(kernels.library_file().read_bytes()).hexdigest()
    try:
        version = metadata.version("quench-studio")
    except metadata.PackageNotFoundError:
        version = ""
    return f"{version} {library[:32]} {kernels.cpu()} {','.join(kernels.backends())}"


def run_selftest(backends: Sequence[str]) -> Results:
    """The self-test of these backends in a child; one that ends the child has failed, and the others are tested anew.

    Raises QuenchError if the child could not be run, or was ended from outside.
    """
    results: Results = {}
    while waiting := [name for name in backends if name not in results]:
        running = ""
        with Child("selftest") as child:
            child.send(RunSelftest(tuple(waiting)))
            for event in child.events():
                if isinstance(event, BackendStarted):
                    running = event.backend
                elif isinstance(event, BackendTested):
                    results[event.backend] = list(event.results)
            verdict = child.wait()
        if verdict.error is None:
            break
        if not verdict.crashed or running in results or not running:
            raise verdict.error
        row = {"kernel": "all", "type": "", "backend": running, "passed": False, "detail": CRASHED}
        results[running] = [row]
    return results


def failures(results: Results) -> dict[str, str]:
    """The backends that failed, each with what was wrong first: ``"quantize Q4_K (gaussian)"``."""
    wrong = {name: [row for row in rows if not row["passed"]] for name, rows in results.items()}
    return {
        name: f"{rows[0]['kernel']} {rows[0]['type']}".strip() + f" ({rows[0]['detail']}), {len(rows)} in all"
        for name, rows in wrong.items()
        if rows
    }


def check(test: Callable[[Sequence[str]], Results] = run_selftest) -> KernelCheck:
    """The backend to use: the best that passes. Tests where no record holds; a record that cannot be written is left.

    Raises QuenchError: ``no_trusted_kernels`` if none passes; what :func:`run_selftest` raises; ``no_kernels``;
    ``unknown_backend`` if ``QUENCH_KERNELS`` names none.
    """
    try:
        if os.environ.get("QUENCH_KERNELS"):
            return KernelCheck(kernels.active())
        key, names = installation(), kernels.backends()
    except (kernels.KernelError, OSError) as error:
        raise unusable(error) from error
    record = _read()
    fresh = record is None or record.key != key
    if record is None or fresh:
        record = remember(test(names))
    found = _judged(record, names, fresh)
    if not found.backend:
        raise QuenchError(
            "no_trusted_kernels",
            "The kernels compute wrong numbers on this machine.",
            "\n".join(f"{name}: {what}" for name, what in found.failed.items()),
            "Install Quench again. If it comes back, report it with these lines.",
            exit_status=5,
        )
    return found


def remembered() -> KernelCheck | None:
    """As :func:`check`, but without a test: None if there is no record that holds; no backend if none passed."""
    record = _read()
    if os.environ.get("QUENCH_KERNELS") or record is None or record.key != installation():
        return None
    return _judged(record, kernels.backends(), False)


def _judged(record: Record, names: list[str], fresh: bool) -> KernelCheck:
    trusted = next((name for name in names if name not in record.failed), "")
    better = names[: names.index(trusted)] if trusted else names
    return KernelCheck(trusted, {name: record.failed[name] for name in better}, fresh)


def remember(results: Results) -> Record:
    """Keep what a self-test of all backends found."""
    record = Record(installation(), failures(results))
    with contextlib.suppress(OSError):  # then the next start tests again
        write_atomically(record_file(), msgspec.json.format(msgspec.json.encode(record)))
    return record


def use_trusted() -> KernelCheck:
    """Let this process use the best backend that passes.

    A self-test that cannot be run forbids nothing. Raises QuenchError with one of the codes in :data:`NO_KERNELS`.
    """
    try:
        found = check()
    except QuenchError as error:
        if error.code in NO_KERNELS:
            raise
        return KernelCheck(kernels.active())
    if not os.environ.get("QUENCH_KERNELS"):
        kernels.select(found.backend if found.failed else None)
    return found


def report(send: Callable[[Event], None]) -> None:
    """:func:`use_trusted` for a worker: what was just found out to be wrong goes to its parent."""
    found = use_trusted()
    if found.fresh and found.failed:
        send(KernelsChecked(0, found))


def in_words(found: KernelCheck) -> str:
    """One line about backends that are not used; empty if there are none."""
    if not found.failed:
        return ""
    what = "; ".join(f"{name}: {reason}" for name, reason in found.failed.items())
    return f"These kernels compute wrong numbers on this machine, {found.backend} is used instead: {what}"


def _read() -> Record | None:
    try:
        with record_file().open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None


__all__ = [
    "KernelCheck",
    "check",
    "failures",
    "in_words",
    "record_file",
    "remember",
    "remembered",
    "report",
    "run_selftest",
    "use_trusted",
]
