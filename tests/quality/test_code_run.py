"""Programs that mean no harm pass; ones that do get nowhere, and leave nothing behind."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from app.quality import code_run
from converter.spec import Cancelled

pytestmark = pytest.mark.skipif(os.name != "posix", reason="programs are not run where there are no rlimits")


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Temporary folders of the runs go into one of ours, which must be empty afterwards; no child lives on."""
    folder = tmp_path / "temporary"
    folder.mkdir(mode=0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    assert [child for child in psutil.Process().children(recursive=True) if "code_guard" in str(child.cmdline())] == []


def test_a_good_program_passes_and_says_what_is_locked() -> None:
    program = (
        "import collections, dataclasses, itertools, math, random, re, string, typing\n"
        "assert math.gcd(12, 18) == 6\nopen('own.txt', 'w').write('x')\nassert open('own.txt').read() == 'x'\n"
    )
    found = code_run.run(program)
    assert found == code_run.Outcome(True, "", found.locks)
    assert {"interpreter", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE"} <= set(found.locks)


HOSTILE = {
    "assertion": ("assert 1 == 2", "AssertionError"),
    "syntax": ("def f(:", "SyntaxError"),
    "exit": ("raise SystemExit(0)", "SystemExit"),
    "hard exit": ("import os; os._exit(0)", "left before"),
    "forged answer": (
        'import os\nfor fd in range(3, 4096):\n    try: os.write(fd, b\'{"passed": true, "secret": ""}\\n\')\n'
        "    except OSError: pass\nos._exit(0)",
        "left before",
    ),
    "flooded answer": (
        "import os\nwhile True:\n  for fd in range(3, 4096):\n    try: os.write(fd, b'x' * 65536)\n"
        "    except OSError: pass",
        "left before",
    ),
    "fork": ("import os\nwhile True: os.fork()", "os.fork"),
    "process": ("import subprocess\nsubprocess.run(['true'])", "_posixsubprocess"),
    "shell": ("import os; os.system('true')", "os.system"),
    "exec": ("import os; os.execv('/bin/true', ['true'])", "os.exec"),
    "kill": ("import os; os.kill(os.getppid(), 9)", "os.kill"),
    "network": ("import socket; socket.socket()", "socket"),
    "native code": ("import ctypes", "ctypes"),
    "memory": ("x = bytearray(3 << 30)" if sys.platform == "linux" else "raise MemoryError", "MemoryError"),
    "large file": ("f = open('f', 'wb')\nwhile True: f.write(b'x' * 65536)", "OSError"),
    "many files": ("f = [open(str(i), 'w') for i in range(1000)]", "OSError"),
    "read outside": ("open('/etc/passwd').read()", "may not be opened"),
    "list outside": ("import os; os.listdir('/')", "outside"),
    "write outside": ("import os; open(os.path.join('..', 'escaped'), 'w')", "may not be opened"),
    "link outside": ("import os; os.symlink('/etc', 'e')", "os.symlink"),
    "delete outside": ("import os; os.remove('../../keep')", "outside"),
    "raised limits": ("import resource as r; r.setrlimit(r.RLIMIT_CPU, (99, 99))", "setrlimit"),
    "deep recursion": ("def f(): f()\nf()", "RecursionError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("mine", "utf-8")
    program, reason = HOSTILE[name]
    found = code_run.run(program)
    assert not found.passed
    assert reason in found.reason
    assert (tmp_path / "keep").read_text("utf-8") == "mine"
    assert not (tmp_path / "temporary" / "escaped").exists()


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time\ntime.sleep(1000)", "while True: print('x' * 10_000)"],
    ids=["loop", "sleep", "output"],
)
def test_an_endless_program_is_killed(program: str) -> None:
    assert code_run.run(program, seconds=0.5) == code_run.Outcome(False, "It ran out of time.")


def test_it_stops_when_asked() -> None:
    asked = []

    def stopped() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    with pytest.raises(Cancelled):
        code_run.run("while True: pass", stopped, seconds=60)


def test_a_program_that_is_too_long_is_not_run() -> None:
    assert "too long" in code_run.run("#" * (code_run.MAX_PROGRAM + 1)).reason
