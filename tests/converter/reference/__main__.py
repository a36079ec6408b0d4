"""Compares architectures, the table row by row: ``python -m tests.converter.reference [--record] [NAME ...]``.

``--record`` keeps what was found, row by row, and writes the README's table from it (see ``table``).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.converter.reference import table
from tests.converter.reference.compare import HEADER, Reference, verdict
from tests.converter.reference.models import MODELS


def main() -> None:
    keep = "--record" in sys.argv
    names = [name for name in sys.argv[1:] if name != "--record"]
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: not among {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as scratch, Reference(Path(scratch)) as reference:
        print(HEADER)
        for name in names or MODELS:
            result = verdict(reference, name, Path(scratch))
            print(result.line(), flush=True)
            for problem in result.problems:
                print(f"    {problem}", flush=True)
            if keep:
                table.record(table.recorded() | {name: result.facts()})
    if keep:
        table.main()


if __name__ == "__main__":
    main()
