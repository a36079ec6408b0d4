"""Fixtures of the converter's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sdist import unpack


@pytest.fixture(scope="session")
def llama_cpp_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's sources in the pinned engine's archive; ``QUENCH_LLAMA_SDIST`` names one that is unpacked already."""
    given = os.environ.get("QUENCH_LLAMA_SDIST")
    folder = Path(given) if given else unpack(tmp_path_factory.mktemp("sdist"), "/vendor/llama.cpp/")
    return folder / "vendor" / "llama.cpp"
