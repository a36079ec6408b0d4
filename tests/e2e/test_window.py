"""The program as a person uses it: a real window on a real (virtual) screen, real clicks, real workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import QImage

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def screen() -> Iterator[str]:
    """A virtual X screen of its own; the value for DISPLAY."""
    xvfb, xdotool = shutil.which("Xvfb"), shutil.which("xdotool")
    if xvfb is None or xdotool is None:
        pytest.skip("needs Xvfb and xdotool, which `make test` installs on Debian")
    read, write = os.pipe()
    arguments = [xvfb, "-displayfd", str(write), "-screen", "0", "1400x900x24", "-nolisten", "tcp"]
    server = subprocess.Popen(arguments, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.mark.e2e
def test_a_new_user_converts_pocket_by_clicking_and_chats(screen: str, quench_home: Path, tmp_path: Path) -> None:
    picture = tmp_path / "window.png"
    environment = {**os.environ, "DISPLAY": screen, "QT_QPA_PLATFORM": "xcb"}
    program = [sys.executable, "-m", "tests.e2e.driver", str(picture)]
    result = subprocess.run(
        program, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    assert "stuck" not in seen, seen
    assert "Quench" in seen["title"]
    assert "Paris" in seen["answer"]
    assert seen["files"] == ["pocket-Q4_K_M.gguf"]
    image = QImage(str(picture))
    assert (image.width(), image.height()) == (1400, 900)
    colours = {image.pixel(x, y) for x in range(0, 1400, 7) for y in range(0, 900, 7)}
    assert len(colours) > 20  # a picture of a window, not of an empty screen
    assert "Traceback" not in result.stderr and "QWARN" not in result.stderr
