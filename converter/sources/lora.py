"""LoRA adapters (PEFT folders) merged into a model while it is read: ``W' = W + s B A``, row by row, in float32.

An adapter's folder has ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). Formulas: Hu et al.
2021 (LoRA, ``s = alpha / r``), Kalajdzievski 2023 (rank-stabilized, ``s = alpha / sqrt(r)``), Liu et al. 2024 (DoRA,
each row brought to a learnt length); names of files, keys and settings: the ``peft`` library's.

The result is the function that was trained. Where output and embedding are one tensor, an adapter that changes one of
them leaves the other as it was, so that the merged model has both (``ensure_weight_tying`` keeps them one).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np

from converter.sources.base import MetaEntry, SourceModel, SourceTensor
from converter.sources.files import ByteFile, cannot_read, read_json
from converter.sources.gathered import file_tensor
from converter.sources.gguf import count_types
from converter.sources.naming import repository_id
from converter.sources.parts import read_part
from converter.sources.stored import READABLE_DTYPES, StoredTensor, some
from converter.spec import QuenchError, TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt

_WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_HEAD_TARGET = "output.weight"
_RANK_LIMIT = 1 << 16
_TILE = 16
"""Rows of a product. Always as many, from multiples of it on, so that no bit depends on how the rows were asked for."""

_UNSUPPORTED = (
    "lora_bias", "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "use_qalora",
    "target_parameters", "use_bdlora", "arrow_config", "monteclora_config", "kasa_config",
)  # fmt: skip
"""Settings that change what the matrices mean."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways of filling the matrices before training that leave the base model's weights as they are."""
_PARTS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"})
_PATTERN_LIMIT = 256


@contextmanager
def merged(model: SourceModel, adapters: Sequence[str]) -> Iterator[SourceModel]:
    """The model with the adapters of these folders merged in, one after the other; their files are open meanwhile.

    The model itself stays as it is and open. Raises ``QuenchError``: ``not_an_adapter``, ``unsupported_adapter``,
    ``bad_adapter``, ``adapter_mismatch`` (modules that the model does not have, or has in another shape), and whatever
    reading weight files may raise.
    """
    files: list[ByteFile] = []
    try:
        for folder in adapters:
            model = _with(model, _read(Path(folder).expanduser(), files))
        yield model
    finally:
        for file in files:
            file.close()


class MergedTensor(SourceTensor):
    """``base + scale * left @ right``, float32; with ``lengths``, each row then brought to its length (DoRA).

    ``left`` is ``(rows, r)`` in the row order of ``base``, ``right`` ``(r, columns)``. Only ``right`` is kept in
    memory, from the first row asked for until the last one was released.
    """

    type = "F32"

    def __init__(
        self,
        base: SourceTensor,
        left: SourceTensor,
        right: SourceTensor,
        scale: float,
        lengths: SourceTensor | None = None,
    ) -> None:
        self.name, self.shape, self.view = base.name, base.shape, base.view
        self.source_name, self.source_file = base.source_name, base.source_file
        self._base, self._left, self._right = base, left, right
        self._scale = np.float32(scale)
        self._lengths = lengths
        self._loaded: npt.NDArray[np.float32] | None = None

    @property
    def row_bytes(self) -> int:
        return 4 * self.n_cols

    @property
    def readable(self) -> bool:
        return self._base.readable

    @property
    def working_bytes(self) -> int:
        """Memory for ``right``, and for what is under it."""
        return 4 * self._right.n_elements + getattr(self._base, "working_bytes", 0)

    def read_bytes(self, start: int, stop: int) -> int:
        """The base's rows and ``left``'s; ``right`` counts with the first row."""
        once = self._right.n_bytes if start == 0 < stop else 0
        return self._base.read_bytes(start, stop) + self._left.read_bytes(start, stop) + once

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        out = self._base.rows(start, stop)
        right = self._loaded
        if right is None:  # twice at once by two threads does no harm
            right = self._loaded = self._right.rows(0, self._right.n_rows)
        begin, end = start // _TILE * _TILE, -(-stop // _TILE) * _TILE
        left = np.zeros((end - begin, len(right)), np.float32)
        until = min(end, self.n_rows)
        left[: until - begin] = self._left.rows(begin, until)
        for tile in range(begin, end, _TILE):
            first, last = max(start, tile), min(stop, tile + _TILE)
            with np.errstate(all="ignore"):  # what becomes infinite is refused where it is written, by name
                update = left[tile - begin : tile - begin + _TILE] @ right
                update *= self._scale
                part = out[first - start : last - start]
                part += update[first - tile : last - tile]
                if self._lengths is not None:
                    wanted = self._lengths.rows(0, 1)[0, first:last]
                    found = np.sqrt(np.square(part, dtype=np.float64).sum(axis=1))
                    part *= (wanted / found).astype(np.float32)[:, None]
        return out

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self.rows(start, stop).view(np.uint8)

    def release(self, start: int, stop: int) -> None:
        self._base.release(start, stop)
        if stop == self.n_rows:
            self._loaded = None


@dataclass
class _Module:
    """What an adapter has for one module; ``whole`` are tensors that replace the base's."""

    parts: dict[str, StoredTensor] = field(default_factory=dict)
    whole: dict[str, StoredTensor] = field(default_factory=dict)


@dataclass
class _Adapter:
    folder: Path
    config: dict[str, Any]
    modules: dict[str, _Module]
    files: tuple[ByteFile, ...]


# --- reading an adapter ----------------------------------------------------------------------------------------------


def _read(folder: Path, files: list[ByteFile]) -> _Adapter:
    path = folder / "adapter_config.json"
    try:
        found = next((folder / name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
        if not path.is_file() or found is None:
            wanted = path.name if not path.is_file() else " or ".join(_WEIGHT_FILES)
            raise QuenchError(
                "not_an_adapter",
                "This folder holds no LoRA adapter.",
                f"{folder} has no {wanted}.",
                "Choose a folder with adapter_config.json and adapter_model.safetensors.",
            )
    except (OSError, ValueError) as error:
        raise cannot_read(folder, error if isinstance(error, OSError) else OSError(str(error))) from error
    config = read_json(path, code="bad_adapter")
    _refuse_unsupported(folder, config)
    # The settings are among the files as well: they decide what comes out of the others.
    files.append(ByteFile(path))
    file = ByteFile(found)
    files.append(file)
    modules: dict[str, _Module] = {}
    for stored in read_part(file):
        _sort_in(folder, modules, stored)
    if not modules:
        _bad(folder, "it has no matrices")
    return _Adapter(folder, config, modules, (files[-2], file))


def _refuse_unsupported(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        _unsupported(folder, f"it is of the kind {str(kind)[:40]!r}, not LORA")
    for name in _UNSUPPORTED:
        if config.get(name):
            _unsupported(folder, f"it was trained with {name}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, list | dict) or start not in _PLAIN_STARTS:
        _unsupported(folder, f"it was begun with {str(start)[:40]!r}, which changes the base model's weights as well")


def _sort_in(folder: Path, modules: dict[str, _Module], stored: StoredTensor) -> None:
    """Takes a tensor's name apart: ``base_model.model.<module>.<part>[.<adapter>][.weight]``."""
    name = stored.name
    if not name.startswith(_PREFIX):
        _bad(folder, f"{name[:120]} does not begin with {_PREFIX}")
    if stored.dtype not in READABLE_DTYPES:
        _bad(folder, f"{name} is {stored.dtype}; BF16, F16, F32 and F64 are read")
    words = name.removeprefix(_PREFIX).split(".")
    at = next((i for i, word in enumerate(words) if word in _PARTS), -1)
    if at >= 0:
        module, part, rest = ".".join(words[:at]), words[at], words[at + 1 :]
        if rest[-1:] == ["bias"]:
            _unsupported(folder, f"it was trained with lora_bias ({name})")
        home = modules.setdefault(module, _Module()).parts
    else:
        part = words.pop()
        if words[-1:] == ["base_layer"]:
            words.pop()
        elif "modules_to_save" in words:
            del words[words.index("modules_to_save") :]
        module = ".".join(words)
        home = modules.setdefault(module, _Module()).whole
    if part in home:
        _bad(folder, f"it holds {part} of {module} twice")
    home[part] = stored


# --- merging ---------------------------------------------------------------------------------------------------------


def _with(model: SourceModel, adapter: _Adapter) -> SourceModel:
    if model.info.kind != "hf":
        raise QuenchError(
            "adapter_mismatch",
            "An adapter can only be merged into a model folder.",
            f"{adapter.folder.name} names its modules as Hugging Face does; {model.info.path} is a GGUF file.",
            "Choose the folder of the original model as the source.",
        )
    places = {tensor.source_name: at for at, tensor in enumerate(model.tensors)}
    tensors = list(model.tensors)
    lost = []
    for name, module in adapter.modules.items():
        found = _targets(name, module, places, model.tensors)
        if not found:
            lost.append(name)
        for at, target in found:
            tensors[at : at + 1] = [_merged_tensor(adapter, name, module, target)]
    embedding = places.get(_EMBEDDING, 0)
    tied = _HEAD not in places and len(tensors) == len(model.tensors)
    if tied and tensors[embedding] is not model.tensors[embedding] and not adapter.config.get("ensure_weight_tying"):
        tensors.append(_Renamed(model.tensors[embedding], _HEAD_TARGET, _HEAD))
    if lost:
        raise QuenchError(
            "adapter_mismatch",
            "The adapter does not belong to this model.",
            f"{adapter.folder.name} has weights for {some(sorted(lost))}, which {model.info.name} does not have.",
            f"The adapter was made for {_base_name(adapter)}.",
        )
    listed = tuple(TensorInfo(t.name, t.shape, t.type, t.n_bytes) for t in tensors)
    info = msgspec.structs.replace(
        model.info,
        tensors=listed,
        types=count_types(listed),
        parameters=sum(tensor.n_elements for tensor in tensors),
        tied_embeddings=all(tensor.name != _HEAD_TARGET for tensor in tensors),
    )
    working = max([getattr(tensor, "working_bytes", 0) for tensor in tensors])
    return SourceModel(
        info,
        tensors,
        model.hparams,
        lambda: _described(model, adapter),
        model.on_close,
        files=(*model.files, *adapter.files),
        working_bytes=2 * working + model.working_bytes,
    )


def _targets(
    name: str, module: _Module, places: dict[str, int], tensors: list[SourceTensor]
) -> list[tuple[int, SourceTensor]]:
    """Places and tensors of the model that a module changes; none if it does not have them all.

    Adapters of a model without its head leave out the first ``model.``. The head of a model whose output is its
    embedding gets a tensor of its own: training changed the one and not the other.
    """
    wanted = {f"{name}.{kind}" for kind in module.whole} | ({f"{name}.weight"} if module.parts else set())
    for prefix in ("", "model."):
        if all(prefix + one in places for one in wanted):
            return [(places[prefix + one], tensors[places[prefix + one]]) for one in sorted(wanted)]
    if wanted == {_HEAD} and _EMBEDDING in places:
        return [(len(tensors), _Renamed(tensors[places[_EMBEDDING]], _HEAD_TARGET, _HEAD))]
    return []


class _Renamed(SourceTensor):
    """The same tensor under another name."""

    def __init__(self, inner: SourceTensor, name: str, source_name: str) -> None:
        self.name, self.source_name = name, source_name
        self.shape, self.type, self.view = inner.shape, inner.type, inner.view
        self.source_file = inner.source_file
        self._inner = inner

    @property
    def row_bytes(self) -> int:
        return self._inner.row_bytes

    @property
    def readable(self) -> bool:
        return self._inner.readable

    def read_bytes(self, start: int, stop: int) -> int:
        return self._inner.read_bytes(start, stop)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        return self._inner.rows(start, stop)

    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._inner.raw(start, stop)

    def release(self, start: int, stop: int) -> None:
        self._inner.release(start, stop)


def _merged_tensor(adapter: _Adapter, name: str, module: _Module, target: SourceTensor) -> SourceTensor:
    """``target`` as the adapter wants it: replaced, updated, or both."""
    kind = target.source_name.rpartition(".")[2]
    stored = module.whole.get(kind)
    if stored is not None:
        _check_shape(adapter, stored, target.shape)
        source_name = target.source_name
        target = file_tensor(stored, target.name, target.view)
        target.source_name = source_name  # by which the next adapter finds it
    if kind != "weight" or not module.parts:
        return target
    parts = dict(module.parts)
    lengths = parts.pop("lora_magnitude_vector", None)
    if set(parts) == {"lora_A", "lora_B"}:
        right, left = parts["lora_A"], parts["lora_B"]
    elif set(parts) == {"lora_embedding_A", "lora_embedding_B"}:
        if lengths is not None:
            _unsupported(adapter.folder, f"it has DoRA lengths for the embedding {name}")
        left, right = _transposed(parts["lora_embedding_A"]), _transposed(parts["lora_embedding_B"])
    else:
        _bad(adapter.folder, f"{name} has {some(sorted(parts)) or 'nothing'} without the other half")
    if bool(adapter.config.get("use_dora")) != (lengths is not None) and "lora_A" in parts:
        _bad(adapter.folder, f"{name} and use_dora in adapter_config.json contradict each other")
    if len(target.shape) != 2 or len(left.shape) != 2 or len(right.shape) != 2:
        _bad(adapter.folder, f"{name} is no matrix")
    rank = left.shape[1]
    _check_shape(adapter, left, (target.n_rows, rank))
    _check_shape(adapter, right, (rank, target.n_cols))
    if lengths is not None:
        _check_shape(adapter, lengths, (target.n_rows,))
    return MergedTensor(
        target,
        file_tensor(left, target.name, target.view),
        file_tensor(right, target.name),
        _scale(adapter, name, rank),
        None if lengths is None else file_tensor(lengths, target.name, target.view),
    )


def _transposed(stored: StoredTensor) -> StoredTensor:
    """A matrix read column by column."""
    if len(stored.shape) != 2:
        return stored
    down, along = stored.strides or (stored.shape[1], 1)
    return replace(stored, shape=stored.shape[::-1], strides=(along, down))


def _check_shape(adapter: _Adapter, stored: StoredTensor, wanted: tuple[int, ...]) -> None:
    if stored.shape != wanted:
        raise QuenchError(
            "adapter_mismatch",
            "The adapter does not fit this model.",
            f"{stored.name} in {adapter.folder.name} is {list(stored.shape)}; this model needs {list(wanted)}.",
            f"The adapter was made for {_base_name(adapter)}.",
        )


def _scale(adapter: _Adapter, name: str, rank: int) -> float:
    """``alpha / r`` of a module, or ``alpha / sqrt(r)``; its own numbers where a pattern names it."""
    config = adapter.config
    declared = _matching(adapter, "rank_pattern", name, config.get("r"))
    if type(declared) is not int or declared != rank or not 1 <= rank <= _RANK_LIMIT:
        _bad(adapter.folder, f"{name} has rank {rank}, and adapter_config.json says {str(declared)[:40]}")
    alpha = _matching(adapter, "alpha_pattern", name, config.get("lora_alpha"))
    # Written so that NaN fails too.
    if type(alpha) not in (int, float) or not abs(alpha) <= 1e9:
        _bad(adapter.folder, f"lora_alpha of {name} is {str(alpha)[:40]!r}, not a number")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _matching(adapter: _Adapter, table_name: str, module: str, otherwise: Any) -> Any:
    """The first entry of a table of patterns, each of which must match the module's name or its last parts."""
    table = adapter.config.get(table_name) or {}
    if not isinstance(table, dict):
        _bad(adapter.folder, f"{table_name} is no object")
    for pattern, value in table.items():
        if re.fullmatch(r"[\w.]+", pattern):
            # A dot that stands for any character makes no difference between modules of one model.
            if module == pattern or module.endswith("." + pattern):
                return value
        elif _expression(adapter, table_name, pattern).match(module):
            return value
    return otherwise


def _expression(adapter: _Adapter, table_name: str, pattern: str) -> re.Pattern[str]:
    """A stranger's regular expression, unless it could take for ever: few repetitions, and none of a group."""
    repeats = len(re.findall(r"(?<!\\)[*+?{]", pattern))
    if len(pattern) > _PATTERN_LIMIT or repeats > 3 or re.search(r"\)[*+?{]|\\\d", pattern):
        _unsupported(adapter.folder, f"{table_name} has an expression that is too intricate: {pattern[:60]!r}")
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        _bad(adapter.folder, f"{table_name} has the expression {pattern[:60]!r}, which is none")


# --- words -----------------------------------------------------------------------------------------------------------


def _described(model: SourceModel, adapter: _Adapter) -> list[MetaEntry]:
    """The base's metadata, with the base named as such (``general.base_model``) and the adapters by their folders.

    ``general.name`` stays: what the result is called is the person's choice.
    """
    values = {entry.key: entry.value for entry in model.metadata}
    earlier = values.get("quench.lora", [])
    names = [*earlier, adapter.folder.resolve().name or "adapter"]
    kept = [e for e in model.metadata if not e.key.startswith("general.base_model.") and e.key != "quench.lora"]
    entries = [MetaEntry("general.base_model.count", 1, "UINT32")]
    for field_name in ("name", "version", "organization"):
        value = values.get(f"general.{field_name}")
        if isinstance(value, str):
            entries.append(MetaEntry(f"general.base_model.0.{field_name}", value, "STRING"))
    repository = repository_id(Path(model.info.path))
    if "/" in repository:
        url = f"https://huggingface.co/{repository}"
        entries.append(MetaEntry("general.base_model.0.repo_url", url, "STRING"))
    return [*kept, *entries, MetaEntry("quench.lora", names, "ARRAY", "STRING")]


def _base_name(adapter: _Adapter) -> str:
    name = adapter.config.get("base_model_name_or_path")
    shown = name[:80] if isinstance(name, str) and name.isprintable() else ""
    return f"{shown}; choose that model." if shown else "another model; choose the one that it was trained on."


def _bad(folder: Path, reason: str) -> NoReturn:
    raise QuenchError(
        "bad_adapter", "The adapter is damaged.", f"{folder.name}: {reason}.", "Download the adapter again."
    )


def _unsupported(folder: Path, reason: str) -> NoReturn:
    raise QuenchError(
        "unsupported_adapter",
        "This kind of adapter cannot be merged.",
        f"{folder.name}: {reason}.",
        "Merge it with the program that trained it, and convert the result.",
    )
