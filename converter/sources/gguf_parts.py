"""A model in several GGUF files (``-00001-of-00003.gguf``): found by their names, checked by their keys."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from converter.sources.files import ByteFile
from converter.sources.gguf_header import read_header
from converter.spec import QuenchError

if TYPE_CHECKING:
    from converter.sources.gguf_header import Header, KnownParts

_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The files of a model in their order. ``missing`` is a sentence if that is not all of them, else empty."""

    files: list[ByteFile]
    headers: list[Header]
    missing: str


def part_name(path: Path, number: int, count: int) -> Path:
    """The name of part ``number`` (from 0): ``x.gguf`` becomes ``x-00001-of-00003.gguf``."""
    prefix = path.name[: -len(".gguf")] if path.name.lower().endswith(".gguf") else path.name
    return path.with_name(f"{prefix}-{number + 1:05d}-of-{count:05d}.gguf")


def siblings(path: Path) -> list[Path]:
    """All parts of the model that ``path`` is a part of, by their names alone; empty if it has no such name."""
    found = _NAME.fullmatch(path.name)
    if found is None or not 0 < int(found["number"]) <= int(found["count"]):
        return []
    whole = path.with_name(f"{found['prefix']}.gguf")
    return [part_name(whole, number, int(found["count"])) for number in range(int(found["count"]))]


def read_parts(file: ByteFile, header: Header, stack: ExitStack, known: KnownParts | None = None) -> Parts:
    """All parts beside ``file``, whose header says that there are several; ``stack`` closes those that are opened.

    If one is not there, ``file`` alone comes back with a sentence. Raises ``QuenchError`` ``bad_header`` if the parts
    do not belong together.
    """
    count, number = _whole(header, "split.count"), _whole(header, "split.no")
    paths = siblings(file.path)
    alone = f"This is part {number + 1} of {count}: alone it is not the whole model."
    if len(paths) != count or paths[min(number, count - 1)].name.lower() != file.path.name.lower():
        return Parts([file], [header], f"{alone} Its name does not say where the others are.")
    gone = next((path for path in paths if path != file.path and not path.is_file()), None)
    if gone is not None:
        return Parts([file], [header], f"{alone} {gone.name} is missing.")
    files = [file if path.name == file.path.name else stack.enter_context(closing(ByteFile(path))) for path in paths]
    headers = [header if part is file else read_header(part, known) for part in files]
    _check(files, headers, count)
    return Parts(files, headers, "")


def _check(files: list[ByteFile], headers: list[Header], count: int) -> None:
    seen: set[str] = set()
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        found = (_whole(header, "split.no"), _whole(header, "split.count"))
        if found != (number, count):
            _bad(file, f"it says that it is part {found[0] + 1} of {found[1]}, its name {number + 1} of {count}")
        for tensor in header.tensors:
            if tensor.name in seen:
                _bad(file, f"{tensor.name} is in another part as well")
            seen.add(tensor.name)
    total = _whole(headers[0], "split.tensors.count")
    if total and total != len(seen):
        _bad(files[0], f"the parts hold {len(seen)} tensors, {total} were announced")


def _bad(file: ByteFile, reason: str) -> NoReturn:
    raise QuenchError(
        "bad_header",
        "The parts of this model do not belong together.",
        f"{file.path.name}: {reason}.",
        "Download them again.",
    )


def _whole(header: Header, key: str) -> int:
    value: Any = header.value(key)
    return value if isinstance(value, int) and value >= 0 else 0
