"""Our conversions against the reference's: keys, tensors, bytes, and what the engine computes from them."""

from __future__ import annotations

import filecmp
import fnmatch
import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp as llama
import numpy as np

from app.engine.model import Model as Engine
from app.protocol import LoadOptions
from converter import ConversionSpec, QuenchError, convert, open_model
from converter.architectures import find_family
from converter.sources import SourceModel
from tests.converter.folders import bpe_tokenizer, tokenizer_size, write_json
from tests.converter.golden_folders import SENTENCEPIECE, SENTENCEPIECE_SIZE
from tests.converter.golden_vocabularies import CASES
from tests.converter.reference import environment
from tests.converter.reference.models import MODELS, Model
from tests.converter.vocab_folders import QWEN_SPECIALS, Vocabulary, write_tiktoken, write_vocabulary

ROOT = Path(__file__).parents[3]
TYPES = ("f32", "f16", "bf16", "auto")
CLOSE = ("blk.*.ssm_a",)
"""Tensors that are computed by functions whose last bit depends on the library."""
UNORDERED = ("tokenizer.chat_templates",)
"""Lists that gguf-py makes of a set, in another order each time."""
LARGEST = 0.005
"""How far any logit may be from transformers' in float32, as a part of their spread (the largest less the smallest)."""


_GOLDEN = {
    "tiny-bert": "bert",
    "tiny-roberta": "roberta",
    "tiny-xlm-roberta": "xlm-roberta-model",
    "tiny-t5": "t5",
}
_GLM_TOKENS = ("[gMASK]", "<|user|>", "<|observation|>")
SPLITS = {**dict.fromkeys(("tiny", "tiny-glm", "tiny-roberta"), "gpt-2"), "tiny-bert": "default"}
"""Pre-tokenizers of vocabularies that the reference has not met."""


def small_vocabulary(name: str, folder: Path) -> int:
    """Tokenizer files of a few hundred tokens of the same kind as the vocabulary called ``name``; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("llama-spm", "phi-3", "baichuan", "tiny-sentencepiece"):
        shutil.copy(SENTENCEPIECE, folder / "tokenizer.model")
        config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
        write_json(folder / "tokenizer_config.json", config)
        return SENTENCEPIECE_SIZE
    if name == "tiny-tiktoken":
        return write_tiktoken(folder / "qwen.tiktoken", bpe_tokenizer()["model"]["vocab"]) + QWEN_SPECIALS
    if name in _GOLDEN:
        return CASES[_GOLDEN[name]].write(folder)
    more = _GLM_TOKENS if name == "tiny-glm" else ()
    tokenizer = bpe_tokenizer(None, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>", *more))
    write_json(folder / "tokenizer.json", tokenizer)
    config = {"eos_token": "<|im_end|>", "tokenizer_class": "GPT2Tokenizer"}
    write_json(folder / "tokenizer_config.json", config)
    return tokenizer_size(tokenizer)


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
        folder = self.scratch / "vocabularies" / name
        if name not in self._vocabularies and name.startswith("tiny"):
            self._vocabularies[name] = folder, small_vocabulary(name, folder)
        elif name not in self._vocabularies:
            found = Vocabulary(self.sources / "models" / f"ggml-vocab-{name}.gguf")
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
    """What a comparison found.

    ``problems`` is empty if all is as it should be. ``family`` is the title of ours. ``distance`` is the largest
    distance of logits for each type, and ``own`` transformers' when it computes in a 16-bit type itself.
    """

    name: str
    family: str = ""
    problems: list[str] = field(default_factory=list)
    distance: dict[str, float] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """A row of the table: architecture, class, equal or not, distances of the logits, why not."""
        distances = [f"{self.distance[kind]:.2%}" if kind in self.distance else "-" for kind in TYPES]
        equal = "no" if self.problems else "yes"
        model = MODELS[self.name]
        refused = f"the reference refuses it: {model.refused}" if model.refused else ""
        why = "; ".join(self.problems) or model.engine or model.sensitive or refused
        return f"| {self.name} | {MODELS[self.name].cls} | {equal} | {' | '.join(distances)} | {why[:300]} |"

    def facts(self) -> dict[str, Any]:
        """What is recorded of it. Two digits of a distance: more depend on the processor."""
        rounded = [{kind: float(f"{far:.1e}") for kind, far in each.items()} for each in (self.distance, self.own)]
        return {"family": self.family, "problems": self.problems, "distance": rounded[0], "own": rounded[1]}


HEADER = f"| architecture | class | equal | {' | '.join(TYPES)} | why not |\n|---|---|---|{'---|' * len(TYPES)}---|"


def verdict(reference: Reference, name: str, scratch: Path) -> Verdict:
    """Builds a model, converts it both ways and compares. The folder is left for a look; outputs are not."""
    model, result = MODELS[name], Verdict(name)
    vocabulary, size = reference.vocabulary(model.vocabulary)
    folder = scratch / name
    try:
        built = reference.ask("build", name=name, folder=str(folder), vocabulary=str(vocabulary), size=size)
    except RefusedError as error:
        result.problems.append(f"transformers does not build it: {error.args[0]}")
        return result
    result.own = built["own"]
    result.family = find_family(json.loads((folder / "config.json").read_text(encoding="utf-8"))).title
    files: dict[str, Path] = {}
    for kind in TYPES:
        theirs, ours = scratch / f"{name}-{kind}-theirs.gguf", scratch / f"{name}-{kind}.gguf"
        try:
            _convert_both(reference, model, kind, folder, (ours, theirs))
            if not model.refused:
                result.problems += [f"{kind}: {problem}" for problem in differences(ours, theirs, model.allowed)]
            same = next((k for k, path in files.items() if filecmp.cmp(path, ours, shallow=False)), "")
            files[kind] = ours
            if same in result.distance:
                result.distance[kind] = result.distance[same]
            else:
                _compute(result, kind, ours, theirs, built)
        except RefusedError as error:
            result.problems.append(f"{kind}: the reference does not convert it: {error.args[0]}")
        except QuenchError as error:
            result.problems.append(f"{kind}: {error}")
    if model.dtype != "float32" and {"f32", "auto"} <= files.keys():
        result.problems += [f"auto: {problem}" for problem in _other_numbers(files["auto"], files["f32"])]
    for path in scratch.glob(f"{name}-*.gguf"):
        path.unlink()
    result.problems += _too_far(result)
    return result


def _compute(result: Verdict, kind: str, ours: Path, theirs: Path, built: dict[str, Any]) -> None:
    """What the engine makes of our file, against transformers, and against the reference's file where it is equal."""
    model, expected = MODELS[result.name], np.load(built["logits"])
    found = computed(ours, built["tokens"], expected, model.vectors)
    result.distance[kind] = distance(found, expected)
    if model.refused or model.allowed:
        return
    again = computed(theirs, built["tokens"], expected, model.vectors)
    # Where tensors may differ in their last bit, so may what is computed.
    if not np.array_equal(found, again) and not (_has_close(ours) and distance(found, again) < 1e-5):
        result.problems.append(f"{kind}: the engine computes other logits from the reference's file")


def _convert_both(reference: Reference, model: Model, kind: str, folder: Path, outputs: tuple[Path, Path]) -> None:
    """Raises ``RefusedError`` where the reference should have converted, ``QuenchError`` where we should have."""
    ours, theirs = outputs
    pre = SPLITS.get(model.vocabulary, "")
    try:
        reference.ask("convert", folder=str(folder), output=str(theirs), type=kind, pre=pre, more=list(model.arguments))
        if model.refused:
            raise RefusedError("it converts it, although it is said not to", "")
    except RefusedError as error:
        if not model.refused or model.refused not in error.args[0]:
            raise
    convert(ConversionSpec(str(folder), str(ours), (kind if kind == "auto" else kind.upper(),)))


def _other_numbers(path: Path, wide: Path) -> list[str]:
    """Tensors of a file in the source's own 16-bit type that are not, number for number, those of the float32 file.

    There are none: what the logits of the two differ by is the engine's arithmetic, which rounds what goes into a
    16-bit matrix to 16 bits as well.
    """
    with open_model(path) as narrow, open_model(wide) as full:
        return [
            f"{own.name} is not what is stored"
            for own, other in zip(narrow.tensors, full.tensors, strict=True)
            if own.type != "MXFP4" and not np.array_equal(own.rows(0, own.n_rows), other.rows(0, other.n_rows))
        ]


def largest(model: Model, kind: str, own: dict[str, float]) -> float:
    """How far the logits of a file may be. Those of a sensitive model are held to what transformers itself is off by
    when it computes in that type."""
    if kind == "f32" or not model.sensitive:
        return LARGEST
    half = model.dtype == "float16" if kind == "auto" else kind == "f16"
    return max(LARGEST, own.get("f16" if half else "bf16", 0.0))


def _too_far(result: Verdict) -> list[str]:
    model = MODELS[result.name]
    apart = [
        f"{kind}: logits off by {far:.2%}"
        for kind, far in result.distance.items()
        if not far <= largest(model, kind, result.own)
    ]
    if not model.engine:
        return apart
    return [] if apart else ["the engine agrees with transformers, although it is said not to"]


def differences(ours: Path, theirs: Path, allowed: dict[str, str]) -> list[str]:
    """How two files differ: keys and values, tensors' order, shapes, types and bytes."""
    # By our own reader, which has gguf-py as its oracle elsewhere: gguf-py takes a minute for a vocabulary.
    with open_model(ours) as mine, open_model(theirs) as other:
        keys, wanted = _keys(mine), _keys(other)
        found = [
            f"{key} is {_shown(keys.get(key))}, not {_shown(wanted.get(key))}"
            for key in sorted(keys.keys() | wanted.keys())
            if keys.get(key) != wanted.get(key) and not matches(key, allowed)
        ]
        names, expected = ([t.name for t in m.tensors if not matches(t.name, allowed)] for m in (mine, other))
        if sorted(names) != sorted(expected):
            odd = sorted(set(names) ^ set(expected))
            found.append(f"{len(odd)} tensors differ in name: {', '.join(odd[:4])}")
        elif names != expected and "order" not in allowed:
            found.append("the tensors stand in another order")
        tensors = {t.name: t for t in mine.tensors}
        for tensor in other.tensors:
            own = tensors.get(tensor.name)
            if own is None or matches(tensor.name, allowed):
                continue
            if (own.type, own.shape) != (tensor.type, tensor.shape):
                found.append(f"{tensor.name} is {own.type} {own.shape}, not {tensor.type} {tensor.shape}")
            elif matches(tensor.name, CLOSE):
                if not np.allclose(own.rows(0, own.n_rows), tensor.rows(0, tensor.n_rows), rtol=1e-6, atol=0):
                    found.append(f"{tensor.name}'s numbers differ")
            elif not np.array_equal(own.raw(0, own.n_rows), tensor.raw(0, tensor.n_rows)):
                found.append(f"{tensor.name}'s bytes differ")
    return found


def _has_close(path: Path) -> bool:
    with open_model(path) as model:
        return any(matches(tensor.name, CLOSE) for tensor in model.tensors)


def computed(path: Path, tokens: list[int], expected: np.ndarray, vectors: bool = False) -> np.ndarray:
    """The engine's logits (or vectors) of tokens, shaped as the expected ones where it can be."""
    if vectors or len(expected) < len(tokens):
        return _encoded(path, tokens, expected.shape[-1], 0 if vectors else len(expected))
    return _logits(path, tokens)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The farthest logit (or element of a vector) from the expected one, as a part of the spread of all of them."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / (expected.max() - expected.min()))


def _logits(path: Path, tokens: list[int]) -> np.ndarray:
    with open_model(path) as model:
        places = [tensor.shape[0] for tensor in model.tensors if tensor.name == "position_embd.weight"]
    options = LoadOptions(context=min([256, *places]), threads=1, kv_type="f32", flash_attention="off")
    with Engine.load(str(path), options) as engine:
        return np.array(engine.window_logits(tokens, 0))


def _encoded(path: Path, tokens: list[int], width: int, decoded: int) -> np.ndarray:
    """What an encoder makes of tokens, a vector each; or its decoder's logits of so many of them.

    The program has no face for this; so it is the engine's own.
    """
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    assert model, f"{path} does not load"
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k = params.type_v = llama.GGML_TYPE_F32
    if not decoded:
        params.embeddings, params.pooling_type = True, llama.LLAMA_POOLING_TYPE_NONE
    context = llama.llama_init_from_model(model, params)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    try:
        _fill(batch, tokens)
        assert llama.llama_encode(context, batch) == 0
        pick = llama.llama_get_embeddings_ith
        if decoded:
            _fill(batch, tokens[:decoded])
            assert llama.llama_decode(context, batch) == 0
            pick = llama.llama_get_logits_ith
        return np.array([pick(context, at)[:width] for at in range(decoded or len(tokens))], np.float32)
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        llama.llama_model_free(model)


def _fill(batch: llama.llama_batch, tokens: list[int]) -> None:
    batch.n_tokens = len(tokens)
    for at, token in enumerate(tokens):
        batch.token[at], batch.pos[at], batch.logits[at] = token, at, 1
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a key or tensor is among those of ``Model.allowed``."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _keys(model: SourceModel) -> dict[str, Any]:
    """Types and values of all keys, the two of the file itself among them."""
    file_type = model.info.metadata.get("general.file_type")
    keys: dict[str, Any] = {"general.file_type": ("UINT32", "", file_type)}
    for entry in model.metadata:
        value = entry.value.tolist() if isinstance(entry.value, np.ndarray) else entry.value
        if entry.key in UNORDERED:
            value = sorted(value)
        keys[entry.key] = entry.type, entry.item_type or "", value
    return keys


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = f"{value[0]} {value[2]!r}"
    return text if len(text) <= 80 else f"{text[:80]}..."
