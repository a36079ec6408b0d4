"""How well the speed of a file is foretold by what its types take: standard recipes, planned and measured.

    python -m tests.bench.pace MODEL [...] [--processor] [--threads N]

MODEL is a folder or a GGUF file in 16 or 32 bits. Types are timed in the loaded model, as a fit does; then a file of
every recipe is made and written with, as Chat does. ``--processor``: one thread by the processor's time in place of the
clock's, which a busy machine does not spoil (and which does not see the limits that other cores would meet).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import converter
from app import fit_speed
from app.engine.grafts import Grafts
from app.engine.model import Model
from app.fit_messages import STANDARDS
from app.protocol import LoadOptions
from app.quality import pace
from app.quality.encoding import Encoder
from converter import ConversionSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.processor:
        options.threads = 1
        time.perf_counter = time.process_time
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            _model(model, Path(folder), options.threads)


def _model(model: str, folder: Path, threads: int) -> None:
    reference = folder / "reference.gguf"
    converter.convert(ConversionSpec(model, str(reference), ("BF16",)))
    with converter.open_model(reference) as source:
        tensors = Encoder(source, None).tensors
        read = fit_speed.weights_read(source.info, tensors.values())
        with Model.load(str(reference), LoadOptions(context=256, threads=1), repack=False) as loaded:
            found = pace.measure(loaded, Grafts(loaded), tensors, read, threads)
    print(f"{model}, {found.threads} threads; picoseconds a weight:",
          {kind: round(1e12 * each) for kind, each in found.by_type.items()})  # fmt: skip
    for recipe in STANDARDS:
        file = folder / "file.gguf"
        made = converter.convert(ConversionSpec(model, str(file), (recipe,), overwrite=True)).outputs[0]
        planned = 1 / fit_speed.seconds(found, read, {name: made.tensors[name] for name in read})
        with Model.load(str(file), LoadOptions(context=256, threads=1)) as loaded:
            rate = pace.rate(loaded, found.threads)
        print(f"{recipe:7} planned {planned:7.1f} measured {rate:7.1f} tokens/s  {planned / rate - 1:+.1%}", flush=True)


if __name__ == "__main__":
    main()
