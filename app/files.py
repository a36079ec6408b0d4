"""Writing files that people name: whole or not at all, and never in the place of what they are made from."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from converter.spec import QuenchError


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` through a synced temporary file in the same folder; ``OSError`` if it cannot.

    The file gets the permissions that any new file of this person gets (the process's umask). A device or a pipe, such
    as /dev/null, is written to and stays what it is.
    """
    if is_special(path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:60]}.{secrets.token_hex(4)}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise


def is_special(path: Path) -> bool:
    """Whether ``path`` is neither a file nor a folder but there: a device, a pipe, a socket."""
    return path.exists() and not path.is_file() and not path.is_dir()


def refuse_output(output: Path, inputs: Iterable[str] = ()) -> None:
    """Say before the work what would keep its result from being written, or cost one of its ``inputs``.

    Raises QuenchError: ``output_is_source`` and ``bad_output``.
    """
    try:
        taken = output.exists() and any(Path(each).exists() and output.samefile(each) for each in inputs)
        is_folder, above = output.is_dir(), next(each for each in output.absolute().parents if each.exists())
    except OSError as error:
        detail = f"{output}: {error.strerror or error}."
        raise QuenchError("bad_output", "The output's name cannot be used.", detail, "Choose another name.") from error
    if taken:
        title = "The output would replace what it is made from."
        raise QuenchError("output_is_source", title, f"{output}.", "Choose another name.", exit_status=2)
    if is_folder:
        raise QuenchError("bad_output", "A folder has the output's name.", f"{output}.", "Name a file in it.")
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        detail = f"{above} is no folder that can be written to."
        raise QuenchError("bad_output", "The output folder cannot be written to.", detail, "Choose another folder.")
