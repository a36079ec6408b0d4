"""A file as read-only memory, with the requests to the system that keep that safe, small and quick.

A page of a map that its file does not have any more (cut by another program, a disk that went away) ends the process
with SIGBUS when it is touched. So nothing is touched unasked: :meth:`FileMap.fault_in` brings a range in and answers
where an access would have killed. Pages that were used are given back by :meth:`FileMap.release`, so that a model
never fills the process's resident size; its bytes stay in the page cache, and a view of them stays valid.

The map lives as long as any view of it: dropping a :class:`FileMap` while views exist is safe, and the last one of them
unmaps.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from collections.abc import Callable

import numpy as np

_POPULATE_READ = 22
"""``MADV_POPULATE_READ`` of Linux 5.14, which the mmap module does not name: fault in, with an error for a signal."""

_AROUND = 2 << 20
"""Bytes before and behind a page that may have come into memory with it: what one entry of the page tables spans."""

_Advise = Callable[[int, int, int], int]


def _find_advise() -> _Advise | None:
    """The system's ``madvise`` as ``(address, length, advice) -> errno``, None where there is none.

    ``mmap.madvise`` would hold the interpreter's lock for as long as the disk takes.
    """
    if sys.platform == "win32":
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def advise(address: int, length: int, advice: int) -> int:
        return 0 if function(address, length, advice) == 0 else ctypes.get_errno()

    return advise


_advise = _find_advise()


class FileMap:
    """The first ``size`` bytes of an open file. ``bytes`` is all of them, uint8, read-only.

    The descriptor may be closed afterwards. Raises ``OSError`` or ``ValueError`` where the file cannot be mapped: an
    empty one, one that is shorter by now, a file system without maps, no room in the address space.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        memory = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        self.bytes = np.frombuffer(memory, np.uint8)
        self._address = self.bytes.ctypes.data
        self._faults_in = sys.platform == "linux"
        # A page that was read once is the first to go when the system needs memory, before pages of other programs.
        self._ask(0, size, "MADV_SEQUENTIAL")
        # Fetches in pieces of megabytes that are mapped by one entry each: with pages of 4 KiB the page tables alone
        # cost as much as copying the bytes would.
        self._ask(0, size, "MADV_HUGEPAGE")

    def fault_in(self, offset: int, count: int) -> bool:
        """Brings a range into memory; False if the file does not give all of it.

        True is no promise where the system cannot tell (other than Linux 5.14 and later), nor for a file that is cut
        a moment later.
        """
        if not self._faults_in or _advise is None:
            return True
        error = _advise(*self._pages(offset, count), _POPULATE_READ)
        if error == errno.EINVAL:  # an older kernel
            self._faults_in = False
            return True
        return error == 0

    def release(self, offset: int, count: int) -> None:
        """Gives a range's pages back, and what came along around them. What is still used there is fetched again."""
        start, stop = max(0, offset - _AROUND), min(len(self.bytes), offset + count + _AROUND)
        self._ask(start, stop - start, "MADV_DONTNEED")

    def _ask(self, offset: int, count: int, advice: str) -> None:
        """A hint: whether the system heeds it changes no byte."""
        number = getattr(mmap, advice, None)
        if _advise is not None and number is not None and count > 0:
            _advise(*self._pages(offset, count), number)

    def _pages(self, offset: int, count: int) -> tuple[int, int]:
        """Address and length of the range, grown to the beginning of its first page."""
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        return int(self._address + start), int(offset + count - start)  # numbers of numpy are none of C's
