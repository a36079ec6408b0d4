"""Our conversions against the reference's: keys, tensors, bytes, and what the engine computes from them."""

from __future__ import annotations

import fnmatch
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from app.engine.model import Model as Engine
from app.protocol import LoadOptions
from converter import ConversionSpec, QuenchError, convert, open_model
from converter.sources import SourceModel
from tests.converter.reference import environment
from tests.converter.reference.models import MODELS
from tests.converter.vocab_folders import Vocabulary, write_vocabulary

ROOT = Path(__file__).parents[3]
TYPES = ("f32", "f16", "bf16", "auto")
LARGEST = {"f32": 0.005, "f16": 0.02, "bf16": 0.02, "auto": 0.02}
"""How far any logit may be from transformers' in float32, as a part of their spread (the largest less the smallest).

The engine rounds what goes into a 16-bit matrix to 16 bits too: in bfloat16, half a percent by itself. That those files
are right is said by their bytes.
"""


class Reference:
    """The reference's process. ``ask`` sends it a request of ``worker``; ``close`` ends it."""

    def __init__(self, scratch: Path) -> None:
        self.sources = environment.sources()
        command = [str(environment.python()), "-m", "tests.converter.reference.worker", str(self.sources)]
        self.scratch = scratch
        self.log = (scratch / "reference.log").open("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT
        )
        self._vocabularies: dict[str, tuple[Path, int]] = {}

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.log.seek(0)
            raise RuntimeError(f"the reference ended: {self.log.read()[-2000:]}")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise RefusedError(found["error"], found["trace"])
        return found

    def vocabulary(self, name: str) -> tuple[Path, int]:
        """A folder of tokenizer files, and the number of tokens."""
        if name not in self._vocabularies:
            found = Vocabulary(self.sources / "models" / f"ggml-vocab-{name}.gguf")
            folder = self.scratch / "vocabularies" / name
            write_vocabulary(found, name, folder)
            self._vocabularies[name] = folder, found.size
        return self._vocabularies[name]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RefusedError(Exception):
    """What went wrong on the other side; ``args`` are its text and its traceback."""


@dataclass
class Verdict:
    """What a comparison found. ``problems`` is empty if all is equal; ``distance`` is the logits' largest."""

    name: str
    problems: list[str] = field(default_factory=list)
    distance: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """A row of the table: architecture, class, equal or not, distance of the logits, why not."""
        distance = f"{self.distance['f32']:.5%}" if "f32" in self.distance else "-"
        why = "; ".join(self.problems)
        return f"| {self.name} | {MODELS[self.name].cls} | {'no' if why else 'yes'} | {distance} | {why[:300]} |"


HEADER = "| architecture | class | equal | logits off by | why not |\n|---|---|---|---|---|"


def verdict(reference: Reference, name: str, scratch: Path) -> Verdict:
    """Builds a model, converts it both ways and compares. The folder is left for a look; outputs are not."""
    result = Verdict(name)
    vocabulary, size = reference.vocabulary(MODELS[name].vocabulary)
    folder = scratch / name
    try:
        built = reference.ask("build", name=name, folder=str(folder), vocabulary=str(vocabulary), size=size)
    except RefusedError as error:
        result.problems.append(f"transformers does not build it: {error.args[0]}")
        return result
    logits = np.load(built["logits"])
    for kind in TYPES:
        theirs, ours = scratch / f"{name}-{kind}-theirs.gguf", scratch / f"{name}-{kind}.gguf"
        try:
            reference.ask("convert", folder=str(folder), output=str(theirs), type=kind)
        except RefusedError as error:
            result.problems.append(f"{kind}: the reference does not convert it: {error.args[0]}")
            continue
        recipe = kind if kind == "auto" else kind.upper()
        try:
            convert(ConversionSpec(str(folder), str(ours), (recipe,)))
            result.problems += [f"{kind}: {problem}" for problem in differences(ours, theirs, MODELS[name].allowed)]
            result.distance[kind] = distance(ours, built["tokens"], logits)
        except QuenchError as error:
            result.problems.append(f"{kind}: {error}")
        theirs.unlink()
        ours.unlink(missing_ok=True)
    result.problems += [
        f"{kind}: logits off by {far:.2%}" for kind, far in result.distance.items() if not far <= LARGEST[kind]
    ]
    return result


def differences(ours: Path, theirs: Path, allowed: dict[str, str]) -> list[str]:
    """How two files differ: keys and values, tensors' order, shapes, types and bytes."""
    # By our own reader, which has gguf-py as its oracle elsewhere: gguf-py takes a minute for a vocabulary.
    with open_model(ours) as mine, open_model(theirs) as other:
        keys, wanted = _keys(mine), _keys(other)
        found = [
            f"{key} is {_shown(keys.get(key))}, not {_shown(wanted.get(key))}"
            for key in sorted(keys.keys() | wanted.keys())
            if keys.get(key) != wanted.get(key) and not any(fnmatch.fnmatch(key, pattern) for pattern in allowed)
        ]
        names, expected = [t.name for t in mine.tensors], [t.name for t in other.tensors]
        if sorted(names) != sorted(expected):
            odd = sorted(set(names) ^ set(expected))
            found.append(f"{len(odd)} tensors differ in name: {', '.join(odd[:4])}")
        elif names != expected:
            found.append("the tensors stand in another order")
        tensors = {t.name: t for t in mine.tensors}
        for tensor in other.tensors:
            own = tensors.get(tensor.name)
            if own is None:
                continue
            if (own.type, own.shape) != (tensor.type, tensor.shape):
                found.append(f"{tensor.name} is {own.type} {own.shape}, not {tensor.type} {tensor.shape}")
            elif not np.array_equal(own.raw(0, own.n_rows), tensor.raw(0, tensor.n_rows)):
                found.append(f"{tensor.name}'s bytes differ")
    return found


def distance(path: Path, tokens: list[int], expected: np.ndarray) -> float:
    """The engine's farthest logit from the expected one, as a part of the spread of all of them."""
    options = LoadOptions(context=256, threads=1, kv_type="f32", flash_attention="off")
    with Engine.load(str(path), options) as engine:
        found = np.array(engine.window_logits(tokens, 0))
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / (expected.max() - expected.min()))


def _keys(model: SourceModel) -> dict[str, Any]:
    """Types and values of all keys, the two of the file itself among them."""
    file_type = model.info.metadata.get("general.file_type")
    keys: dict[str, Any] = {"general.file_type": ("UINT32", "", file_type)}
    for entry in model.metadata:
        value = entry.value.tolist() if isinstance(entry.value, np.ndarray) else entry.value
        keys[entry.key] = entry.type, entry.item_type or "", value
    return keys


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = f"{value[0]} {value[2]!r}"
    return text if len(text) <= 80 else f"{text[:80]}..."
