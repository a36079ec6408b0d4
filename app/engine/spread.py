"""A model over several machines: which of its layers other machines compute, and what happens when one goes away.

The library ends the whole process when an RPC worker cannot be reached or breaks off, from a thread of its own and
without a name. So every machine is asked before the library sees it, and the library's last words are heard: the
machines are looked at once more, and the process leaves with an error that says which one it was.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from app.engine.bindings import ggml, lib, loader
from app.protocol import LoadOptions
from app.remote import machines
from app.remote.machines import Machine
from converter.spec import QuenchError

HANDING_OVER = 12.0
"""Seconds to wait for a machine's answer before a load: another engine of ours may just be letting it go."""

_AFTERWARDS = 1.0
"""Seconds before the process goes: a worker that writes an answer for somebody who has left ends itself, so those that
are left may finish theirs."""

_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_GPU = 1  # enum ggml_backend_dev_type
_guard: Guard | None = None


class Share(NamedTuple):
    """What is computed elsewhere: the last ``layers`` of a model, the output matrix counted as one. ``bytes`` of
    weights and cache, ``room`` for them."""

    layers: int
    first: int
    of: int
    room: int

    def is_elsewhere(self, tensor: str) -> bool:
        """Whether a tensor of this name is computed with on another machine. Input tables never are."""
        kind, _, rest = tensor.partition(".")
        if kind in ("output", "output_norm"):
            return True
        number = rest.partition(".")[0]
        return kind == "blk" and number.isdigit() and int(number) >= self.first

    @property
    def cache_here(self) -> float:
        """The part of the cache that stays."""
        return min(self.first, self.of) / self.of if self.of else 1.0


def consult(options: LoadOptions) -> list[Machine]:
    """The machines of ``options``, each asked and ready; none where the model is this machine's alone.

    Raises:
        QuenchError: ``no_rpc`` where the engine was built without it; ``machine_unreachable``, ``machine_busy``,
            ``machine_other_program``, ``machine_other_version``; ``bad_machine`` for what is no address.
    """
    if not options.machines:
        return []
    endpoints = machines.check_endpoints(",".join(options.machines))
    if not lib.llama_supports_rpc():
        raise QuenchError(
            "no_rpc",
            "This engine cannot compute on other machines.",
            "It was built without llama.cpp's RPC backend.",
            "Build it again (make clean-env setup; CMAKE_ARGS of your own need -DGGML_RPC=ON), or load the model on "
            "this machine alone.",
        )
    from app.remote import rpc  # with asyncio; few models are spread

    found = rpc.look_at(endpoints, patience=HANDING_OVER)
    error = machines.problem(found)
    if error is not None:
        raise error
    return found


def share(found: Sequence[Machine], options: LoadOptions, layers: int, here: int) -> Share:
    """How a model of ``layers`` is divided: as ``options`` say, else by memory, of which there are ``here`` bytes on
    this machine."""
    there = sum(machine.free for machine in found)
    away = options.gpu_layers or round((layers + 1) * there / max(1, here + there))
    away = min(max(away, 1), layers + 1)
    return Share(away, layers + 1 - away, layers, there)


def attach(params: Any, found: Sequence[Machine]) -> Any:
    """Connect the library to machines that are ready, and let a model's ``params`` use them. Returns what must live
    until the model is loaded."""
    register = _function("ggml_backend_reg_by_name", ctypes.c_void_p, ctypes.c_char_p)
    procedure = _function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    count = _function("ggml_backend_reg_dev_count", ctypes.c_size_t, ctypes.c_void_p)
    device = _function("ggml_backend_reg_dev_get", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    address = procedure(register(b"RPC"), b"ggml_backend_rpc_add_server")
    add = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(address)
    devices: list[int] = []
    for machine in found:
        added = add(machine.endpoint.encode())
        devices += [device(added, number) for number in range(count(added))]
    devices += _own_devices()
    array = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
    params.devices = ctypes.cast(array, ctypes.c_void_p)
    return array


def watch() -> None:
    """A context was made: let the guard, if there is one, watch its machines. Not earlier: a machine answers one
    connection at a time, and until then the library connects anew for each question to one that holds no weights. It
    would wait for ever behind the connection that is watched."""
    if _guard is not None:
        _guard.watch()


def _own_devices() -> list[int]:
    """Graphics processors of this machine, which the library leaves out of a list that is given to it."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    return [one for number in range(count()) if kind(one := get(number)) == _GPU]


class Guard:
    """Hears the library's last words about a machine, and sees one vanish while nothing is computed.

    ``on_lost`` gets the error, in any thread, once; it must end the process. One guard a process, made before the
    first model is loaded. The connection that it watches waits behind the engine's own and is never spoken on; without
    ``watching`` there is none, and several models can be loaded one after another.
    """

    def __init__(
        self, endpoints: Sequence[str], on_lost: Callable[[QuenchError], object], *, watching: bool = True
    ) -> None:
        global _guard  # noqa: PLW0603 - the library's callback is one a process
        self._endpoints = tuple(endpoints)
        self._on_lost = on_lost
        self._once = threading.Lock()
        self._watching = not watching
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._aborting)
        _function("ggml_set_abort_callback", ctypes.c_void_p, type(self._callback))(self._callback)
        _guard = self

    def watch(self) -> None:
        """See :func:`watch`."""
        if self._watching:
            return
        self._watching = True
        selector = selectors.DefaultSelector()
        for endpoint in self._endpoints:
            connection = _standing(endpoint)
            if connection is not None:
                selector.register(connection, selectors.EVENT_READ)
        threading.Thread(target=self._watch, args=(selector,), name="machines", daemon=True).start()

    def _aborting(self, message: bytes | None) -> None:
        # Called from C, in the thread that is about to abort: nothing may be raised here.
        text = (message or b"").decode("utf-8", "replace")
        try:
            os.write(2, f"{text}\n".encode())
            if "ggml-rpc" in text:
                self._lost(text.rpartition(": ")[2])
        except OSError:
            return  # the log is gone; the abort says enough

    def _lost(self, reason: str) -> None:
        from app.remote import rpc

        self._once.acquire()  # never given back: the process ends
        time.sleep(_AFTERWARDS)
        self._on_lost(machines.lost(rpc.which_are_there(self._endpoints), reason))

    def _watch(self, selector: selectors.BaseSelector) -> None:
        with selector:
            while selector.get_map():
                for key, _ in selector.select():
                    if _ended(key.fileobj):
                        self._lost("The connection ended.")
                        return


def _standing(endpoint: str) -> socket.socket | None:
    """A connection whose other end the system looks after; None where there is no room for one."""
    from app.remote.rpc import CONNECT_SECONDS

    host, _, port = endpoint.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), CONNECT_SECONDS)
    except OSError as error:
        print(f"{endpoint} is not watched: {error}", file=sys.stderr)
        return None
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return connection


def _ended(connection: Any) -> bool:
    try:
        return not connection.recv(64)
    except OSError:
        return True


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the libraries under llama.cpp's own. Looked up through that one where the system can: a wheel has
    each library under several names, and one that is opened by another name is loaded a second time, with its own
    state."""
    for library in (lib._lib, ggml.libggml):
        if hasattr(library, name):
            found = getattr(library, name)
            break
    else:
        found = getattr(loader.load_shared_library("ggml-base", ggml.libggml_base_path), name)
    found.restype, found.argtypes = result, list(arguments)
    return found


__all__ = ["Guard", "Share", "attach", "consult", "share", "watch"]
