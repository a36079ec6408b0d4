"""How long the engine's threads look for work before they go to sleep. To be settled before the library is loaded.

The threads of one computation meet some hundreds of times a token. One that sleeps at once must be woken each time,
which takes microseconds; one that goes on looking holds a core that other programs want, and with them the very thread
that it waits for. No fixed time suits a quiet and a busy machine (``python -m tests.bench.waiting``). On Linux a small
library of ours runs the threads of the engine's graphs: they look for long while that ends well, and hardly at all
while it does not (``kernels/src/threads/openmp.c``). Elsewhere, and where the environment says how OpenMP's threads
are to wait or where they are to run, the usual runtime does; it then looks for about as long as waking takes, which is
never much worse than the better of the two.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import kernels

ROUNDS = {"x86_64": 300, "amd64": 300}
"""Looks by processor: about 8 microseconds on a Zen 1. Elsewhere nothing was measured, and threads sleep at once."""

HEEDED = frozenset(
    {
        "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "OMP_DYNAMIC",
        "OMP_THREAD_LIMIT", "OMP_STACKSIZE", "GOMP_STACKSIZE",
    }
)  # fmt: skip
"""What a person may have said about these threads, and our library would not hear."""

SERVED = frozenset({"GOMP_parallel", "GOMP_barrier", "GOMP_single_start", "omp_get_thread_num", "omp_get_num_threads"})
"""The functions of OpenMP that our library has. An engine whose graphs call others needs a whole runtime."""

_PREFIXES = (b"GOMP_", b"omp_")

_used = "the runtime's"


def prepare() -> None:
    """Choose who runs the engine's threads in this process, once: our library, else :func:`settle`."""
    global _used  # noqa: PLW0603 - a process loads its libraries once
    reason = _unsuitable(os.environ)
    if not reason and _load(kernels.threads_file()):
        _used = "ours"
        return
    settle()
    _used = f"the runtime's{reason and f', for {reason}'}"


def used() -> str:
    """Who runs the engine's threads, for a log: ``ours`` or ``the runtime's``, and why."""
    return _used


def settle(environment: MutableMapping[str, str] = os.environ, machine: str = "") -> None:
    """Say it to the OpenMP runtimes that this process loads later. What the environment says already is left alone.

    GNU's libgomp follows ``GOMP_SPINCOUNT``, all others ``OMP_WAIT_POLICY``.
    """
    if environment.get("OMP_WAIT_POLICY", "passive").lower() != "passive":
        return
    environment["OMP_WAIT_POLICY"] = "passive"
    rounds = ROUNDS.get((machine or platform.machine()).lower())
    if rounds is not None:
        environment.setdefault("GOMP_SPINCOUNT", str(rounds))


def _unsuitable(environment: Mapping[str, str]) -> str:
    """Why our library is not to be used, or nothing."""
    if sys.platform != "linux":
        return "there is none of ours on this system"
    if said := sorted(HEEDED & environment.keys()):
        return f"{said[0]} is set"
    if "llama_cpp.llama_cpp" in sys.modules:
        return "the engine was loaded before"
    if kernels.threads_file() is None:
        return "libquench_threads.so is not there"
    graphs = _graphs_libraries(environment)
    if not graphs:
        return "the engine's libggml-cpu was not found"
    if others := sorted(_functions(graphs) - SERVED):
        return f"the engine needs {others[0]}"
    return ""


def _graphs_libraries(environment: Mapping[str, str]) -> list[Path]:
    """The files that compute the engine's graphs, one for each kind of processor in some builds."""
    folder = environment.get("LLAMA_CPP_LIB_PATH")
    if not folder:
        engine = importlib.util.find_spec("llama_cpp")
        if engine is None or not engine.submodule_search_locations:
            return []
        folder = str(Path(engine.submodule_search_locations[0]) / "lib")
    return list(Path(folder).glob("libggml-cpu*.so"))


def _functions(libraries: list[Path]) -> set[str]:
    """Names of OpenMP functions among the strings of these files; versions, as GOMP_4.0, are none."""
    found: set[str] = set()
    for library in libraries:
        content = library.read_bytes()
        for prefix in _PREFIXES:
            rests = content.split(b"\0" + prefix)[1:]
            found.update((prefix + rest.split(b"\0", 1)[0]).decode("latin-1") for rest in rests)
    return {name for name in found if name.isidentifier()}


def _load(library: Path | None) -> bool:
    """Whether the functions that libraries loaded later will find are this library's."""
    if library is None:
        return False
    try:
        ours = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        everybody = ctypes.CDLL(None)
        return all(_address(ours, name) == _address(everybody, name) for name in SERVED)
    except (OSError, AttributeError):
        return False


def _address(library: ctypes.CDLL, name: str) -> int | None:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
