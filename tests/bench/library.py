"""Thousands of GGUF files appear in the window's library: how long it takes, and whether the window stays alive.

Usage: python -m tests.bench.library [--files 10000] [--families 100] [--folder FOLDER]

Prints one JSON object. The files have the header of Pocket's Q4_K_M and its norms, holes for the other weights, and
are told apart by their last bytes; they lie in folders of a hundred. ``seconds`` is from asking to the last model in
the list (the worker's start included), ``cpu_seconds`` those of the processor in the worker, which other programs on
the machine disturb less. ``longest_block`` is the longest time in which the window's event loop did nothing else,
``longest_work`` the processor time of the longest such stretch. ``again`` is the second start, when headers are known.
The check of the kernels, which runs once after an update, is done before.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def make_files(folder: Path, count: int, families: int) -> None:
    """``count`` files in ``folder``, called like ``families`` different models."""
    import converter
    import resources
    from converter.sources.files import ByteFile
    from converter.sources.gguf_header import read_header

    source = folder.parent / "pocket-Q4_K_M.gguf"
    converter.convert(
        converter.ConversionSpec(str(resources.path("pocket")), str(source), ("Q4_K_M",), overwrite=True),
        lambda event: None,
        lambda: False,
    )
    data, header = source.read_bytes(), read_header(ByteFile(source))
    norms = [(tensor.offset, tensor.n_bytes) for tensor in header.tensors if tensor.type == "F32"]
    for number in range(count):
        target = folder / f"{number // 100:04d}" / f"Model{number % families:03d}-{number:05d}-Q4_K_M.gguf"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.truncate(len(data))
            file.write(data[: header.length])
            for offset, size in norms:
                file.seek(offset)
                file.write(data[offset : offset + size])
            file.seek(len(data) - 8)
            file.write(number.to_bytes(8, "little"))


def measure(folder: Path) -> dict[str, Any]:
    """One start of the window with ``folder`` among its places."""
    import psutil
    from PySide6.QtCore import QCoreApplication, QTimer

    from app.ui import application
    from app.ui.context import Context

    qt = application.create_application(["quench"])
    context = Context()
    context.update_settings(folders=(str(folder),), first_start=False)
    window = application.create_window(context)
    window.show()
    qt.processEvents()
    beats: list[tuple[float, float]] = []
    heart = QTimer()
    heart.timeout.connect(lambda: beats.append((time.perf_counter(), time.thread_time())))
    heart.start(1)
    begin = time.perf_counter()
    context.library.rescan()
    page = window.show_page("library")
    wanted = sum(len(files) for _, _, files in os.walk(folder))
    while context.library.scanning or len(page.table.shown()) < wanted:
        qt.processEvents()
        time.sleep(0.0005)
        if time.perf_counter() - begin > 600:
            raise SystemExit("the models do not appear")
    seconds = time.perf_counter() - begin
    worker = psutil.Process(context.scout.pid()).cpu_times()
    heart.stop()
    beats.append((time.perf_counter(), time.thread_time()))  # what the last stretch did counts too
    gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(beats)]
    window.confirm_quit = lambda count: True
    window.close()
    context.close()
    window.deleteLater()
    QCoreApplication.sendPostedEvents(None, 52)
    return {
        "models": wanted,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(worker.user + worker.system, 2),
        "longest_block": round(max(gap for gap, _ in gaps), 3),
        "longest_work": round(max(work for _, work in gaps), 3),
        "blocks_over_50_ms": sum(gap > 0.05 for gap, _ in gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--families", type=int, default=100)
    parser.add_argument("--folder", default="", help="keep and use the files here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["QUENCH_HOME"] = str(Path(temporary) / "home")
        os.environ["HF_HOME"] = str(Path(temporary) / "hf")
        os.environ["OLLAMA_MODELS"] = str(Path(temporary) / "ollama")
        os.environ["HOME"] = temporary
        folder = Path(options.folder or temporary) / "models"
        if not folder.exists():
            folder.mkdir(parents=True)
            make_files(folder, options.files, options.families)
        from app import kernel_check

        kernel_check.check()  # once after an update, in processes of its own
        result = {"first": measure(folder), "again": measure(folder)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
