"""A hub of our own on loopback, for an unmodified huggingface_hub: repositories with real bytes, and faults on demand.

It answers as huggingface.co does in what its client library (2.4) asks for: search with pages, model and tree listings,
``resolve`` by HEAD and GET with commits, ETags, redirects to a storage server for large files, ranges, and errors with
their headers. It counts the bytes that it sends of each file.
"""

from tests.fakehub.faults import Fault
from tests.fakehub.repositories import FakeRepo, git_hash
from tests.fakehub.server import FakeHub, Seen

__all__ = ["FakeHub", "FakeRepo", "Fault", "Seen", "git_hash"]
