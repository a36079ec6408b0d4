"""From the bytes of tokens to text that may be shown: whole characters only, and nothing after a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns token bytes into text as they come.

    Bytes of an unfinished UTF-8 character are held back until it is complete; text that could be the beginning of a
    stop string is held back until it is known not to be one. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """The text that may be shown now. ``stopped`` is True once a stop string was met; it is not shown."""
        text = self._decoder.decode(piece)
        return self._filter(text) if self._stop else text

    def finish(self) -> str:
        """What was still held back when the reply ended for another reason; empty after a stop string."""
        text = self._decoder.decode(b"", final=True)
        shown = self._filter(text) if self._stop else text
        rest, self._held = self._held, ""
        return shown + rest

    def _filter(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        places = [place for place in (self._held.find(stop) for stop in self._stop) if place >= 0]
        if places:
            shown, self._held, self.stopped = self._held[: min(places)], "", True
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0


def choice_texts(pieces: Sequence[bytes], shown: int) -> list[str]:
    """What each token adds to a text of which the first ``shown`` characters are seen; what lies beyond is left out.

    A character that is spread over tokens belongs to the one that completes it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts: list[str] = []
    length = 0
    for piece in pieces:
        if length >= shown:
            break
        text = decoder.decode(piece)[: shown - length]
        length += len(text)
        texts.append(text)
    return texts


__all__ = ["TextStream", "choice_texts"]
