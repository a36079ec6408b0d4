"""An OpenAI-compatible server on a free port of this machine, shaped like llama-server's, with faults on demand."""

from tests.fakeserver.server import FakeServer, Heard

__all__ = ["FakeServer", "Heard"]
