"""The program itself, as a script runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def quench(*arguments: str, **environment: str) -> tuple[int, Any, str]:
    """(exit status, the JSON object on stdout, stderr)."""
    result = subprocess.run(
        [sys.executable, "-m", "app", *arguments, "--json"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    return result.returncode, json.loads(result.stdout), result.stderr


def quench_words(*arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) without JSON."""
    result = subprocess.run(
        [sys.executable, "-m", "app", *arguments], check=False, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    return result.returncode, result.stdout, result.stderr
