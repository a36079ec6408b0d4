"""LoRA adapters (PEFT folders) merged into a model while it is read: ``W' = W + s B A``, row by row, in float32.

What an adapter changes are the weights as the checkpoint stores them, before they are stacked, split or reordered.

Formulas: Hu et al. 2021 (LoRA), Liu et al. 2024 (DoRA, each row brought to a learnt length); how updates of a whole
stack of experts lie in a file is as the ``peft`` library has it.

The result is the function that was trained. Where output and embedding are one tensor, an adapter that changes one of
them leaves the other as it was, so that the merged model has both (``ensure_weight_tying`` keeps them one).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from converter.sources.adapters import (
    Adapter,
    Module,
    bad_adapter,
    base_name,
    check_shape,
    read_adapter,
    scale_of,
    unsupported,
)
from converter.sources.base import MetaEntry, SourceModel, Weights
from converter.sources.dequantize.parts import Bands
from converter.sources.files import ByteFile
from converter.sources.gguf import count_types
from converter.sources.merging import MergedReader, Pair, matrix_of, merged_tensor, rows_of, transposed
from converter.sources.naming import repository_id
from converter.sources.stored import READABLE_DTYPES, StoredTensor, some
from converter.spec import QuenchError, TensorInfo

_HEAD_TARGET = "output.weight"
_NESTED = ".base_layer"
_DECLARED = ("gate_up_proj", "down_proj")
"""Parameters of experts in the order in which transformers' classes declare them."""
_APART = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("down_proj",), ("w2",))}
"""What such a parameter is made of in checkpoints that store each expert by itself."""


@contextmanager
def merged(model: SourceModel, adapters: Sequence[str]) -> Iterator[SourceModel]:
    """The model with the adapters of these folders merged in, one after the other; their files are open meanwhile.

    The model itself stays as it is and open. Raises ``QuenchError``: ``not_an_adapter``, ``unsupported_adapter``,
    ``bad_adapter``, ``adapter_mismatch`` (modules that the model does not have, or has in another shape), and whatever
    reading weight files may raise.
    """
    files: list[ByteFile] = []
    bands = Bands()
    try:
        for folder in adapters:
            model = _with(model, read_adapter(Path(folder).expanduser(), files), bands)
        yield model
    finally:
        for file in files:
            file.close()


# --- merging ---------------------------------------------------------------------------------------------------------


def _with(model: SourceModel, adapter: Adapter, bands: Bands) -> SourceModel:
    weights = model.weights
    if weights is None:
        raise QuenchError(
            "adapter_mismatch",
            "An adapter can only be merged into a model folder.",
            f"{adapter.folder.name} names its modules as Hugging Face does; {model.info.path} is a GGUF file.",
            "Choose the folder of the original model as the source.",
        )
    base = _Base(weights)
    updates = [_Update(adapter, name, module, bands) for name, module in adapter.modules.items()]
    lost = [update.name for update in updates if not _applied(update, base)]
    if lost:
        raise QuenchError(
            "adapter_mismatch",
            "The adapter does not belong to this model.",
            f"{adapter.folder.name} has weights for {some(sorted(lost))}, which {model.info.name} does not have.",
            f"The adapter was made for {base_name(adapter)}.",
        )
    if not adapter.config.get("ensure_weight_tying"):
        base.part_output()
    stored = base.stored
    tensors = weights.made(stored)
    listed = tuple(TensorInfo(t.name, t.shape, t.type, t.n_bytes) for t in tensors)
    info = msgspec.structs.replace(
        model.info,
        tensors=listed,
        types=count_types(listed),
        parameters=sum(tensor.n_elements for tensor in tensors),
        tied_embeddings=all(tensor.name != _HEAD_TARGET for tensor in tensors),
    )
    working = max((t.reader.working_bytes for t in stored if isinstance(t.reader, MergedReader)), default=0)
    return SourceModel(
        info,
        tensors,
        model.hparams,
        lambda: _described(model, adapter),
        model.on_close,
        files=(*model.files, *adapter.files),
        working_bytes=2 * working + max(model.working_bytes, Bands.working_bytes),
        weights=replace(weights, stored=stored),
    )


@dataclass(frozen=True, slots=True)
class _Update:
    """What an adapter has for the module (or parameter) ``name``."""

    adapter: Adapter
    name: str
    module: Module
    bands: Bands


class _Base:
    """A model's stored weights by transformers' names, while an adapter changes some."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.stored = list(weights.stored)
        self._places = {weights.name(tensor.name): at for at, tensor in enumerate(self.stored)}
        self._tied = weights.output not in self._places and weights.embedding in self._places

    def named(self, names: Sequence[str]) -> list[str]:
        """The names under which these are there, empty if they are not all there.

        Adapters of a model without its head leave out the first ``model.``, and transformers calls Mixtral's experts
        as those of all other models. The head of a model whose output is its embedding gets a tensor of its own:
        training changed the one and not the other.
        """
        for prefix, old, new in (("", "", ""), ("model.", "", ""), ("", ".mlp.", ".block_sparse_moe.")):
            found = [self._weights.name(prefix + name.replace(old, new)) for name in names]
            if all(name in self._places for name in found):
                return found
        if self._tied and [self._weights.name(name) for name in names] == [self._weights.output]:
            self._append(self._weights.output, self[self._weights.embedding])
            return [self._weights.output]
        return []

    def part_output(self) -> None:
        """Where one matrix was both and only the embedding has changed, the output keeps what it was."""
        embedding, output = self._weights.embedding, self._weights.output
        if self._tied and output not in self._places:
            before = self._weights.stored[self._places[embedding]]
            if output and self[embedding] is not before:
                self._append(output, before)

    def turned(self, name: str) -> bool:
        return self._weights.turned(name)

    def replaced(self, name: str, new: str, tensor: StoredTensor) -> None:
        """Puts a tensor in the place of one of another name."""
        at = self._places[new] = self._places.pop(name)
        self.stored[at] = replace(tensor, name=new)

    def _append(self, name: str, tensor: StoredTensor) -> None:
        self._places[name] = len(self.stored)
        self.stored.append(replace(tensor, name=name))

    def __getitem__(self, name: str) -> StoredTensor:
        return self.stored[self._places[name]]

    def __setitem__(self, name: str, tensor: StoredTensor) -> None:
        self.stored[self._places[name]] = tensor


def _applied(update: _Update, base: _Base) -> bool:
    """Changes what the adapter has for a module; False if the model does not have all of it."""
    name, module = update.name, update.module
    kinds = [*module.whole, *(["weight"] if module.parts and "weight" not in module.whole else [])]
    found = base.named([f"{name}.{kind}" for kind in kinds])
    if not found:
        return bool(module.parts) and not module.whole and _applied_to_parameter(update, base)
    for kind, full in zip(kinds, found, strict=True):
        whole = module.whole.get(kind)
        if whole is not None:
            check_shape(update.adapter, whole, base[full].shape)
            base[full] = replace(whole, name=base[full].name)
        if kind == "weight" and module.parts:
            base[full] = _updated(update, base[full], base.turned(full))
    return True


def _updated(update: _Update, target: StoredTensor, turned: bool) -> StoredTensor:
    """A stored matrix with the adapter's update. ``turned``: it is stored as (in, out)."""
    adapter, name = update.adapter, update.name
    parts = dict(update.module.parts)
    lengths = parts.pop("lora_magnitude_vector", None)
    if set(parts) == {"lora_A", "lora_B"}:
        right, left = parts["lora_A"], parts["lora_B"]
    elif set(parts) == {"lora_embedding_A", "lora_embedding_B"}:
        if lengths is not None:
            unsupported(adapter.folder, f"it has DoRA lengths for the embedding {name}")
        left, right = _columns(parts["lora_embedding_A"]), _columns(parts["lora_embedding_B"])
    else:
        bad_adapter(adapter.folder, f"{name} has {some(sorted(parts)) or 'nothing'} without the other half")
    if bool(adapter.config.get("use_dora")) != (lengths is not None) and "lora_A" in parts:
        bad_adapter(adapter.folder, f"{name} and use_dora in adapter_config.json contradict each other")
    if len(target.shape) != 2 or len(left.shape) != 2 or len(right.shape) != 2:
        bad_adapter(adapter.folder, f"{name} is no matrix")
    _readable(target)
    rank = left.shape[1]
    outputs, inputs = target.shape[::-1] if turned else target.shape
    check_shape(adapter, left, (outputs, rank))
    check_shape(adapter, right, (rank, inputs))
    if lengths is not None:
        check_shape(adapter, lengths, (outputs,))
    pair = Pair(left, right)
    scale = scale_of(adapter, name, rank)
    reader = MergedReader(
        target, [pair.transposed if turned else pair], scale, update.bands, lengths, lengths_of_columns=turned
    )
    return merged_tensor(target, reader)


def _columns(stored: StoredTensor) -> StoredTensor:
    return transposed(stored) if len(stored.shape) == 2 else stored


def _readable(stored: StoredTensor) -> None:
    if stored.dtype not in READABLE_DTYPES:
        raise QuenchError(
            "unsupported_dtype",
            "The weights that the adapter changes are stored in a form that cannot be read.",
            f"{stored.name} in {stored.file.path.name} is {stored.dtype}; BF16, F16, F32 and F64 are read.",
            "Use the adapter with the original model in 16 bits.",
        )


# --- updates of experts that are one parameter (target_parameters) ---------------------------------------------------


def _applied_to_parameter(update: _Update, base: _Base) -> bool:
    """Changes a parameter without a module of its own: all experts' matrices, for which A and B are stacked.

    Parameters of one module are wrapped one in the other, in the order in which it declares them, the last outside.
    """
    adapter, plain = update.adapter, update.name
    while plain.endswith(_NESTED):
        plain = plain.removesuffix(_NESTED)
    level = (len(update.name) - len(plain)) // len(_NESTED)
    targets = adapter.config.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        bad_adapter(adapter.folder, "target_parameters is no list of names")
    shorts = {target.rpartition(".")[2] for target in targets}
    wanted = [short for short in shorts if any(f".{plain}.{short}".endswith(f".{target}") for target in targets)]
    if len(wanted) > 1 and not set(wanted) <= set(_DECLARED):
        unsupported(adapter.folder, f"it changes {some(sorted(wanted))} of {plain}, whose order is not known")
    wanted.sort(key=lambda short: _DECLARED.index(short) if short in _DECLARED else 0)
    if level >= len(wanted):
        return False
    if set(update.module.parts) != {"lora_A", "lora_B"}:
        bad_adapter(adapter.folder, f"{update.name} has {some(sorted(update.module.parts))} for a parameter")
    return _stacked(replace(update, name=f"{plain}.{wanted[-1 - level]}"), base)


def _stacked(update: _Update, base: _Base) -> bool:
    """Updates the experts' matrices that transformers has under a name, however the checkpoint stores them."""
    found = base.named([update.name])
    if found:
        target = base[found[0]]
        flat = len(target.shape) == 2
        base[found[0]] = (
            _updated(update, target, False) if flat else _updated_stack(update, target, _is_turned(update, target))
        )
        return True
    packed = base.named([f"{update.name}_blocks"])
    if packed:  # MXFP4 has (out, in) where the same model in 16 bits has (in, out)
        updated = _updated_stack(update, transposed(base[packed[0]]), True)
        base.replaced(packed[0], packed[0].removesuffix("_blocks"), updated)
        return True
    home, _, short = update.name.rpartition(".")
    for parts in _APART.get(short, ()):
        experts: list[list[str]] = []
        while names := base.named([f"{home}.{len(experts)}.{part}.weight" for part in parts]):
            experts.append(names)
        if experts:
            _update_apart(update, base, experts)
            return True
    return False


def _is_turned(update: _Update, target: StoredTensor) -> bool:
    """Whether a stack is read as (in, out), which its shape says but for square matrices.

    Before version 0.19 the library took every stack for that.
    """
    rows, columns = target.shape[-2:]
    if rows != columns:
        return update.module.parts["lora_A"].shape[1:] == (rows,)
    version = re.match(r"(\d+)\.(\d+)", str(update.adapter.config.get("peft_version") or "0.0"))
    return version is not None and (int(version[1]), int(version[2])) < (0, 19)


def _updated_stack(update: _Update, target: StoredTensor, turned: bool) -> StoredTensor:
    if len(target.shape) != 3:
        bad_adapter(update.adapter.folder, f"{update.name} is neither a matrix nor a stack of them")
    _readable(target)
    experts, rows, columns = target.shape
    pairs, scale = _pairs(update, experts, *((columns, rows) if turned else (rows, columns)))
    pairs = [pair.transposed for pair in pairs] if turned else pairs
    return merged_tensor(target, MergedReader(target, pairs, scale, update.bands))


def _update_apart(update: _Update, base: _Base, experts: list[list[str]]) -> None:
    """Updates experts that are stored one by one: gate and up share the rows of one update."""
    height, width = base[experts[0][0]].shape[0], base[experts[0][0]].shape[-1]
    pairs, scale = _pairs(update, len(experts), len(experts[0]) * height, width)
    for pair, parts in zip(pairs, experts, strict=True):
        for at, part in enumerate(parts):
            target = base[part]
            _readable(target)
            check_shape(update.adapter, target, (height, width))
            own = Pair(rows_of(pair.left, at * height, (at + 1) * height), pair.right)
            base[part] = merged_tensor(target, MergedReader(target, [own], scale, update.bands))


def _pairs(update: _Update, experts: int, outputs: int, inputs: int) -> tuple[list[Pair], float]:
    """Each expert's B and A, and the scale: A is experts under each other, B has them column by column in turn."""
    down, up = update.module.parts["lora_A"], update.module.parts["lora_B"]
    rank = down.shape[0] // experts if len(down.shape) == 2 else 0
    if not rank:
        bad_adapter(update.adapter.folder, f"{update.name} has no matrices for {experts} experts")
    check_shape(update.adapter, down, (rank * experts, inputs))
    check_shape(update.adapter, up, (outputs, rank * experts))
    pairs = [
        Pair(matrix_of(up, e, experts, by_rows=False), matrix_of(down, e, experts, by_rows=True))
        for e in range(experts)
    ]
    return pairs, scale_of(update.adapter, update.name, rank)


# --- words -----------------------------------------------------------------------------------------------------------


def _described(model: SourceModel, adapter: Adapter) -> list[MetaEntry]:
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
