"""Compares architectures, the table row by row: ``python -m tests.converter.reference [NAME ...]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.converter.reference.compare import HEADER, Reference, verdict
from tests.converter.reference.models import MODELS


def main() -> None:
    unknown = [name for name in sys.argv[1:] if name not in MODELS]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: not among {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as scratch, Reference(Path(scratch)) as reference:
        print(HEADER)
        for name in sys.argv[1:] or MODELS:
            result = verdict(reference, name, Path(scratch))
            print(result.line(), flush=True)
            for problem in result.problems:
                print(f"    {problem}", flush=True)


if __name__ == "__main__":
    main()
