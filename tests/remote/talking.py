"""A server worker driven by a test."""

from __future__ import annotations

from typing import Any

from app.child import Child
from app.protocol import ChatMessage, Event, Failed, Generate, Loaded, Replied, Sampling, Tokens
from app.remote.messages import Connect

USUAL = Sampling()
BEAR = (ChatMessage("system", "Be brief."), ChatMessage("user", "Tell me of bears."))


class Talk:
    """A server worker, connected or not. Ends with its ``process``, a context manager."""

    def __init__(self) -> None:
        self.process = Child("server")
        self.events = self.process.events()
        self.seen: list[Event] = []

    def send(self, command: Any) -> None:
        self.process.send(command)

    def until(self, *kinds: type) -> Any:
        """The next event of these kinds; those before it are in ``seen``."""
        self.seen = []
        for event in self.events:
            if isinstance(event, kinds):
                return event
            self.seen.append(event)
        raise AssertionError(f"the worker ended: {self.process.wait(120)}")

    def connect(self, url: str, model: str = "", **options: Any) -> Any:
        """Loaded, or Failed."""
        self.send(Connect(url, model, **options))
        return self.until(Loaded, Failed)

    def reply(self, request: int = 1, sampling: Sampling = USUAL, **options: Any) -> tuple[str, Any]:
        """The text that came, and Replied or Failed."""
        self.send(Generate(request, options.pop("messages", BEAR), sampling, **options))
        end = self.until(Replied, Failed)
        return "".join(event.text for event in self.seen if isinstance(event, Tokens)), end
