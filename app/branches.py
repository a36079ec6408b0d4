"""The tree of a conversation's messages: which are shown, what stands beside them, what follows them. Knows no text."""

from __future__ import annotations

from collections.abc import Iterable


class Branches:
    """``nodes`` are (id, parent or ``None``, deleted?) with every parent's id lower than its children's.

    A deleted message is passed over: what follows it stands after what came before it.
    """

    def __init__(self, nodes: Iterable[tuple[int, int | None, int]]) -> None:
        self._deleted: set[int] = set()
        self._parents: dict[int, int | None] = {}
        self._above: dict[int, int | None] = {}  # the nearest message above that is not deleted
        self._beside: dict[int | None, list[int]] = {}
        for node, parent, deleted in nodes:
            known = parent if parent in self._parents else None
            self._parents[node] = known
            above = self._above[known] if known in self._deleted else known
            self._above[node] = above
            if deleted:
                self._deleted.add(node)
            else:
                self._beside.setdefault(above, []).append(node)

    def alive(self) -> list[int]:
        """All messages, each after its parent."""
        return [node for node in self._parents if node not in self._deleted]

    def path(self, head: int | None) -> list[int]:
        """The messages from a root to ``head``, or to the nearest above it that is left."""
        path: list[int] = []
        at = head if head in self._parents else None
        while at is not None:
            if at not in self._deleted:
                path.append(at)
            at = self._above[at]
        return path[::-1]

    def parent(self, node: int) -> int | None:
        """The message before."""
        return self._above[node]

    def alternatives(self, node: int) -> tuple[int, ...]:
        """The messages at the same place, oldest first."""
        return tuple(self._beside.get(self._above[node], ()))

    def below(self, node: int) -> list[int]:
        """A message and everything after it, in all branches."""
        found = {node}
        for each, above in self._above.items():
            if above in found and each not in self._deleted:
                found.add(each)
        return sorted(found)

    def newest(self, node: int) -> int:
        """The message written last among those after ``node``; itself if nothing follows."""
        return self.below(node)[-1]
