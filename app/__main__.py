"""The one entry point: no arguments open the window, a command runs headless, ``worker KIND`` is a child process.

Qt is imported on the window's branch alone, so that workers and commands start fast and run where there is no Qt.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

# As for workers, see app.child.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main(argv: list[str] | None = None) -> int:
    """Run Quench with ``argv`` (default: the process's own) and return the exit status."""
    multiprocessing.freeze_support()
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["worker"] and len(arguments) == 2:
        from app.workers import runtime

        runtime.main(arguments[1])  # never returns
    from app import cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
