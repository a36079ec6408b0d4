"""The weight files of a model folder: which ones count, their index, and the tensors in them.

Safetensors files are taken before PyTorch checkpoints where a folder has both: they need no interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from converter.sources.files import INDEX_LIMIT, cannot_read, read_json
from converter.sources.pickle import read_checkpoint
from converter.sources.safetensors import read_header
from converter.sources.stored import StoredTensor, some
from converter.spec import QuenchError

if TYPE_CHECKING:
    from pathlib import Path

    from converter.sources.files import ByteFile


class _Naming(NamedTuple):
    """How one format's files are called."""

    index_name: str
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]


_NAMINGS = (
    _Naming("model.safetensors.index.json", ("model", "gptq_model"), (".safetensors",)),
    _Naming("pytorch_model.bin.index.json", ("pytorch_model", "model"), (".bin", ".pt", ".pth")),
)
CHECKPOINT_SUFFIXES = _NAMINGS[1].suffixes
WEIGHT_SUFFIXES = tuple(suffix for naming in _NAMINGS for suffix in naming.suffixes)
INDEX_NAMES = tuple(naming.index_name for naming in _NAMINGS)


def is_usual_name(name: str) -> bool:
    """Whether a folder's naming makes this file a part of its model."""
    return any(name.startswith(naming.prefixes) and name.endswith(naming.suffixes) for naming in _NAMINGS)


def find_parts(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a model folder in order, and the index (tensor name -> file name; empty without one).

    An index wins; else every file of the usual naming counts. Raises ``QuenchError`` for a folder without weights, an
    index that is damaged or leads out of the folder, and a missing shard.
    """
    try:
        present = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise cannot_read(folder, error) from error
    for naming in _NAMINGS:
        if (folder / naming.index_name).is_file():
            return _indexed(folder, naming)
        names = [n for n in present if n.startswith(naming.prefixes) and n.endswith(naming.suffixes)]
        if names:
            _refuse_partial_set(folder, names)
            return [folder / name for name in names], {}
    raise _no_weights(folder, present)


def read_parts(files: list[ByteFile]) -> list[StoredTensor]:
    """All tensors of all files, file by file, names sorted within a file; a name in two files is refused."""
    tensors: list[StoredTensor] = []
    homes: dict[str, str] = {}
    for file in files:
        for tensor in read_part(file):
            if tensor.name in homes:
                raise QuenchError(
                    "bad_index",
                    "The weight file is damaged.",
                    f"{file.path.name}: it holds {tensor.name}, which {homes[tensor.name]} holds too.",
                    "Download the weights again, from one version of the model.",
                )
            homes[tensor.name] = file.path.name
            tensors.append(tensor)
    return tensors


def read_part(file: ByteFile) -> list[StoredTensor]:
    """The tensors of one file, sorted by name. The name's ending says the format."""
    return read_checkpoint(file) if file.path.name.lower().endswith(CHECKPOINT_SUFFIXES) else read_header(file)


def check_index(tensors: list[StoredTensor], index: dict[str, str]) -> None:
    """Raises ``QuenchError`` when the index and the files disagree about which tensor lies where."""
    if not index:
        return
    found = {tensor.name: tensor.file.path.name for tensor in tensors}
    lost = sorted(name for name in index if name not in found)
    if lost:
        raise QuenchError(
            "missing_tensor",
            "A weight file lacks tensors that the index promises.",
            f"{index[lost[0]]} should hold {some(lost)}.",
            "Download that file again; it belongs to another version or is damaged.",
        )
    wrong = sorted(name for name, part in found.items() if index.get(name) != part)
    if wrong:
        raise QuenchError(
            "bad_index",
            "The index and the weight files do not belong together.",
            f"{some(wrong)} in {found[wrong[0]]}: the index says {index.get(wrong[0], 'nothing about it')}.",
            "Download the index and the weights again, from the same version of the model.",
        )


def _indexed(folder: Path, naming: _Naming) -> tuple[list[Path], dict[str, str]]:
    index = _read_index(folder / naming.index_name, naming.suffixes)
    names = sorted(set(index.values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise QuenchError(
            "missing_shard",
            f"Weight files are missing: {len(missing)} of {len(names)}.",
            f"{naming.index_name} names {some(missing)}, not found in {folder}.",
            "Download the missing files into the same folder.",
        )
    return [folder / name for name in names], index


def _read_index(path: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    weight_map = read_json(path, limit=INDEX_LIMIT, code="bad_index").get("weight_map")
    hint = "Download the index again."
    if not isinstance(weight_map, dict) or not weight_map:
        raise QuenchError("bad_index", f"{path.name} has no weight_map.", f"{path}", hint)
    for name, part in weight_map.items():
        if not isinstance(part, str) or not _plain_file_name(part, suffixes):
            raise QuenchError(
                "bad_index",
                f"{path.name} names a file that does not lie in the model's folder.",
                f"{name!r} -> {part!r}",
                "Do not use this folder unless you know where it comes from; download the index again.",
            )
    return weight_map


def _plain_file_name(name: str, suffixes: tuple[str, ...]) -> bool:
    return (
        name.endswith(suffixes)
        and not name.startswith(".")
        and not any(c in name for c in '/\\:\0<>|"?*')
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= 255
    )


def _no_weights(folder: Path, names: list[str]) -> QuenchError:
    if "adapter_config.json" in names:
        return adapter_not_model(folder)
    detail = f"No model*.safetensors or pytorch_model*.bin in {folder}."
    others = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    if others:
        detail += f" There is {some(others)}, which does not follow the usual naming."
    return QuenchError(
        "missing_weights",
        "The folder has no weights that can be read.",
        detail,
        "Download the model's .safetensors files into this folder.",
    )


def adapter_not_model(folder: Path) -> QuenchError:
    """The refusal for a folder that holds an adapter where a model is wanted."""
    return QuenchError(
        "adapter",
        "This folder holds an adapter, not a whole model.",
        f"{folder}",
        "Open the base model instead, and name this folder as the LoRA adapter to merge.",
    )


def _refuse_partial_set(folder: Path, names: list[str]) -> None:
    """Without an index, ``model-00001-of-00003.safetensors`` still says how many there should be."""
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        head, _, count = stem.rpartition("-of-")
        prefix, _, number = head.rpartition("-")
        if not (count.isdecimal() and number.isdecimal() and len(count) == len(number) == 5):
            continue
        wanted = [f"{prefix}-{i:05d}-of-{count}{dot}{suffix}" for i in range(1, int(count) + 1)]
        missing = [w for w in wanted if w not in names]
        if missing:
            raise QuenchError(
                "missing_shard",
                f"Weight files are missing: {len(missing)} of {len(wanted)}.",
                f"{name} is there, but not {some(missing)}, in {folder}.",
                "Download the missing files into the same folder.",
            )
