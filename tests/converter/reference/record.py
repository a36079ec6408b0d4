"""Records what the reference makes of small folders, for the quick tests (``tests/golden/architecture_facts.json``).

    python -m tests.converter.reference.record [NAME ...]

A recorded architecture is its config.json, the names and shapes of its weights, and the keys and tensors that
llama.cpp's converter makes of a folder with them: scattered numbers as weights (``folders.scattered``) and a handful of
tokens, so that the folder can be made again anywhere.
"""

from __future__ import annotations

import json
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.converter.folders import join, safetensors, scattered, write_json
from tests.converter.reference.compare import Reference, small_vocabulary
from tests.converter.reference.models import MODELS

RECORDED = Path(__file__).parents[2] / "golden" / "architecture_facts.json"
# Scattered numbers cannot stand for packed ones, and what the reference refuses has no facts.
RECORDABLE = [name for name, model in MODELS.items() if model.disguise != "mxfp4" and not model.refused]
_SHORT = 16
"""Characters of a sum that are kept."""


def write_recorded(folder: Path, vocabulary: str, config: dict[str, Any], shapes: dict[str, list[int]]) -> None:
    """The folder that was recorded. Weights are bfloat16."""
    small_vocabulary(vocabulary, folder)
    write_json(folder / "config.json", config)
    weights = {name: scattered(tuple(shape), seed) for seed, (name, shape) in enumerate(sorted(shapes.items()))}
    (folder / "model.safetensors").write_bytes(join(*safetensors(weights)))


def short_sum(data: bytes) -> str:
    return sha256(data).hexdigest()[:_SHORT]


def main() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch, Reference(Path(scratch)) as reference:
        for name in sys.argv[1:] or RECORDABLE:
            recorded[name] = _record(reference, name, Path(scratch))
            print(name, flush=True)
    kept = {name: recorded[name] for name in MODELS if name in recorded}
    lines = (f"{json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}" for name, found in kept.items())
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _record(reference: Reference, name: str, scratch: Path) -> dict[str, Any]:
    vocabulary = scratch / f"{name}-small"
    size = small_vocabulary(MODELS[name].vocabulary, vocabulary)
    built = scratch / f"{name}-built"
    reference.ask("build", name=name, folder=str(built), vocabulary=str(vocabulary), size=size)
    config = json.loads((built / "config.json").read_text(encoding="utf-8"))
    shapes = _shapes(built)
    folder = scratch / name
    write_recorded(folder, MODELS[name].vocabulary, config, shapes)
    facts = reference.ask(
        "facts", folder=str(folder), output=str(scratch / f"{name}.gguf"), more=list(MODELS[name].arguments)
    )
    keys = {key: value for key, value in facts["keys"].items() if not key.startswith("tokenizer.")}
    tensors = [[n, shape, v if isinstance(v, list) else v[:_SHORT]] for n, shape, v in facts["tensors"]]
    return {"vocabulary": MODELS[name].vocabulary, "config": config, "shapes": shapes, "keys": keys, "tensors": tensors}


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Names and shapes of a folder's safetensors."""
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        shapes |= {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    return shapes


if __name__ == "__main__":
    main()
