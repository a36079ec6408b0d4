"""What can go wrong at the fake hub, on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch


@dataclass
class Fault:
    """The next ``times`` requests that match go wrong.

    ``where`` is ``api`` (listings), ``resolve`` (the hub's address of a file) or ``body`` (where its bytes come
    from); ``path`` a pattern on the file's path or, for ``api``, on the request's. With kind ``status`` the answer is
    that error with ``headers``. Else the body is spoiled after ``after`` bytes:

    * ``cut``: the connection is closed   * ``reset``: it is reset
    * ``stall``: nothing comes until the hub is released
    * ``trickle``: one byte at a time     * ``end``: it ends there, and Content-Length says so
    * ``corrupt``: that byte is another   * ``longer``: bytes follow behind the end, and Content-Length says so
    * ``whole``: ranges are not understood                        * ``other_range``: another one is sent
    * ``json``: for ``api``, ``data`` instead of the answer
    """

    where: str
    path: str = "*"
    kind: str = "status"
    times: int = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    data: bytes = b""
    method: str = "*"
    used: int = 0

    def matches(self, where: str, path: str, method: str) -> bool:
        return (
            self.where == where
            and self.used < self.times
            and self.method in ("*", method)
            and (fnmatch(path, self.path) or fnmatch(path.rpartition("/")[2], self.path))
        )
