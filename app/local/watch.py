"""Looking at all places, and looking again when something has changed.

Changes are found by asking, not by being told. What the system tells of (inotify and its like) has a limit on folders
that a model collection in one folder a model exceeds, says nothing about network disks, and says everything about a
file that is being written. Here one look is the date of every folder, the size of every file that is not whole yet, and
a few of the others in turn: some milliseconds for thousands of folders. The time between two looks grows with what a
look costs, so that watching never takes more than a twentieth of one core, and a download is told of once a look, not
once a write.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.local.entry import PARTIAL, Listed
from app.local.listing import Lister
from app.local.places import Place
from app.local.walk import Candidate, Walk, changed_at

INTERVAL = 2.0
"""Seconds between two looks, if they cost little."""
SHARE = 20
"""A look is followed by this many times what it took."""
IN_TURN = 200
"""Whole files that one look asks about: a change in place, which no folder's date tells, is found in the end."""
FRESH_NS = 60 * 10**9
"""A file that was changed so short a time before it was read may still be growing."""


@dataclass
class Change:
    """What became of the list: new and changed entries, and paths that are no more."""

    found: list[Listed] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.found or self.gone)


class Watch:
    """The list of one set of places. :meth:`first` fills it, :meth:`look` says what changed since."""

    def __init__(self, where: tuple[Place, ...], lister: Lister) -> None:
        self._where = where
        self._lister = lister
        self._walk = Walk()
        self._candidates: dict[str, Candidate] = {}
        self._listed: dict[str, Listed] = {}
        self._unsettled: set[str] = set()
        self._turn: list[str] = []
        self._next = 0.0

    def first(self) -> Iterator[Listed]:
        """Everything, as it is found."""
        for candidate in self._walk.candidates(self._where):
            listed = self._lister.describe(candidate)
            self._take(candidate, listed)
            yield listed
        self._note_roots()
        self._lister.keep_only(set(self._listed))
        self._next = time.monotonic() + INTERVAL

    @property
    def wait(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, self._next - time.monotonic())

    def look(self) -> Change:
        """What has changed since the last look."""
        begin = time.monotonic()
        change = self._all() if self._moved() else self._some()
        took = time.monotonic() - begin
        self._next = time.monotonic() + max(INTERVAL, SHARE * took)
        return change

    def _moved(self) -> bool:
        """Whether a folder (or a file that stands for one) has another date than at the last full look."""
        return any(changed_at(path) != date for path, date in self._walk.folders.items())

    def _all(self) -> Change:
        """Walk through everything again; headers are read of what is new only."""
        before, self._listed = self._listed, {}
        self._candidates, self._unsettled, self._walk = {}, set(), Walk()
        change = Change()
        for candidate in self._walk.candidates(self._where):
            listed = self._lister.describe(candidate)
            self._take(candidate, listed)
            if before.get(listed.path) != listed:
                change.found.append(listed)
        self._note_roots()
        self._lister.keep_only(set(self._listed))
        change.gone = [path for path in before if path not in self._listed]
        return change

    def _some(self) -> Change:
        """Ask about files that may still grow, and about some of the others."""
        if not self._turn:
            self._turn = list(self._candidates)
        paths = {*self._unsettled, *self._turn[-IN_TURN:]}
        del self._turn[-IN_TURN:]
        change = Change()
        for path in paths:
            candidate = self._candidates.get(path)
            if candidate is None:
                continue
            listed = self._lister.describe(candidate)
            if self._listed[path] != listed:
                change.found.append(listed)
            self._take(candidate, listed)
        return change

    def _take(self, candidate: Candidate, listed: Listed) -> None:
        self._candidates[listed.path] = candidate
        self._listed[listed.path] = listed
        growing = listed.state == PARTIAL or any(
            time.time_ns() - (changed_at(file.path) or 0) < FRESH_NS for file in listed.files[:8]
        )
        if growing:
            self._unsettled.add(listed.path)
        else:
            self._unsettled.discard(listed.path)

    def _note_roots(self) -> None:
        """Places that are not there yet, manifests, and single models are looked at too."""
        for path in (*(place.root for place in self._where), *self._walk.extra_files):
            self._walk.folders.setdefault(path, changed_at(path))
