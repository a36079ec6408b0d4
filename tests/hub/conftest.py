"""A fake hub for each test, and an environment that leads everything to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app import settings
from app.hub import access
from app.hub.client import Hub, connect
from tests.fakehub import FakeHub


@pytest.fixture
def hub_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No keyring, no token, no proxy, a cache of its own: returns the folder of HF_HOME."""
    home = tmp_path / "hf"
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    # Set, so that they are what they were when a test has changed them.
    for name in ("TELEMETRY", "PROGRESS_BARS", "XET", "SYMLINKS_WARNING"):
        monkeypatch.setenv(f"HF_HUB_DISABLE_{name}", "1")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    return home


@pytest.fixture
def fakehub(hub_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub that HF_ENDPOINT leads to."""
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def hub(fakehub: FakeHub) -> Iterator[Hub]:
    """This process's way to the fake hub."""
    found = connect(access.access(settings.load()))
    yield found
    found.close()
