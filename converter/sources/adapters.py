"""Folders of LoRA adapters, as the ``peft`` library writes them, read and checked.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). Names of files, keys and settings
are the library's. Scales: Hu et al. 2021 (LoRA, ``s = alpha / r``), Kalajdzievski 2023 (rank-stabilized, ``s = alpha /
sqrt(r)``).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from converter.sources.files import ByteFile, cannot_read, read_json
from converter.sources.parts import read_part
from converter.sources.stored import READABLE_DTYPES, StoredTensor
from converter.spec import QuenchError

_WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_RANK_LIMIT = 1 << 16

_UNSUPPORTED = (
    "lora_bias", "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "use_qalora",
    "use_bdlora", "arrow_config", "monteclora_config", "kasa_config",
)  # fmt: skip
"""Settings that change what the matrices mean."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways of filling the matrices before training that leave the base model's weights as they are."""
_PARTS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"})
_PATTERN_LIMIT = 256


@dataclass
class Module:
    """What an adapter has for one module; ``whole`` are tensors that replace the base's."""

    parts: dict[str, StoredTensor] = field(default_factory=dict)
    whole: dict[str, StoredTensor] = field(default_factory=dict)


@dataclass
class Adapter:
    """An opened adapter: its settings, what it has by module, and the files that this comes from."""

    folder: Path
    config: dict[str, Any]
    modules: dict[str, Module]
    files: tuple[ByteFile, ...]


def read_adapter(folder: Path, files: list[ByteFile]) -> Adapter:
    """Reads an adapter's settings and the header of its weights; opened files are added to ``files``. Raises
    ``QuenchError`` ``not_found``, ``not_an_adapter``, ``unsupported_adapter``, ``bad_adapter``."""
    path = folder / "adapter_config.json"
    try:
        if not folder.exists():
            raise QuenchError("not_found", "The LoRA adapter is not there.", f"{folder}", "Check the path.")
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
    modules: dict[str, Module] = {}
    for stored in read_part(file):
        _sort_in(folder, modules, stored)
    if not modules:
        bad_adapter(folder, "it has no matrices")
    return Adapter(folder, config, modules, (files[-2], file))


def _refuse_unsupported(folder: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        unsupported(folder, f"it is of the kind {str(kind)[:40]!r}, not LORA")
    for name in _UNSUPPORTED:
        if config.get(name):
            unsupported(folder, f"it was trained with {name}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, list | dict) or start not in _PLAIN_STARTS:
        unsupported(folder, f"it was begun with {str(start)[:40]!r}, which changes the base model's weights as well")


def _sort_in(folder: Path, modules: dict[str, Module], stored: StoredTensor) -> None:
    """Takes a tensor's name apart: ``base_model.model.<module>.<part>[.<adapter>][.weight]``."""
    name = stored.name
    if not name.startswith(_PREFIX):
        bad_adapter(folder, f"{name[:120]} does not begin with {_PREFIX}")
    if stored.dtype not in READABLE_DTYPES:
        bad_adapter(folder, f"{name} is {stored.dtype}; BF16, F16, F32 and F64 are read")
    words = name.removeprefix(_PREFIX).split(".")
    at = next((i for i, word in enumerate(words) if word in _PARTS), -1)
    if at >= 0:
        module, part, rest = ".".join(words[:at]), words[at], words[at + 1 :]
        if rest[-1:] == ["bias"]:
            unsupported(folder, f"it was trained with lora_bias ({name})")
        home = modules.setdefault(module, Module()).parts
    else:
        part = words.pop()
        if words[-1:] == ["base_layer"]:
            words.pop()
        elif "modules_to_save" in words:
            del words[words.index("modules_to_save") :]
        module = ".".join(words)
        home = modules.setdefault(module, Module()).whole
    if part in home:
        bad_adapter(folder, f"it holds {part} of {module} twice")
    home[part] = stored


def check_shape(adapter: Adapter, stored: StoredTensor, wanted: tuple[int, ...]) -> None:
    """``QuenchError`` ``adapter_mismatch`` where a tensor has another shape than the model wants."""
    if stored.shape != wanted:
        raise QuenchError(
            "adapter_mismatch",
            "The adapter does not fit this model.",
            f"{stored.name} in {adapter.folder.name} is {list(stored.shape)}; this model needs {list(wanted)}.",
            f"The adapter was made for {base_name(adapter)}.",
        )


def scale_of(adapter: Adapter, name: str, rank: int) -> float:
    """``alpha / r`` of a module, or ``alpha / sqrt(r)``; its own numbers where a pattern names it."""
    config = adapter.config
    declared = _matching(adapter, "rank_pattern", name, config.get("r"))
    if type(declared) is not int or declared != rank or not 1 <= rank <= _RANK_LIMIT:
        bad_adapter(adapter.folder, f"{name} has rank {rank}, and adapter_config.json says {str(declared)[:40]}")
    alpha = _matching(adapter, "alpha_pattern", name, config.get("lora_alpha"))
    # Written so that NaN fails too.
    if type(alpha) not in (int, float) or not abs(alpha) <= 1e9:
        bad_adapter(adapter.folder, f"lora_alpha of {name} is {str(alpha)[:40]!r}, not a number")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _matching(adapter: Adapter, table_name: str, module: str, otherwise: Any) -> Any:
    """The first entry of a table of patterns, each of which must match the module's name or its last parts."""
    table = adapter.config.get(table_name) or {}
    if not isinstance(table, dict):
        bad_adapter(adapter.folder, f"{table_name} is no object")
    for pattern, value in table.items():
        if re.fullmatch(r"[\w.]+", pattern):
            # A dot that stands for any character makes no difference between modules of one model.
            if module == pattern or module.endswith("." + pattern):
                return value
        elif _expression(adapter, table_name, pattern).match(module):
            return value
    return otherwise


def _expression(adapter: Adapter, table_name: str, pattern: str) -> re.Pattern[str]:
    """A stranger's regular expression, unless it could take for ever: few repetitions, and none of a group."""
    repeats = len(re.findall(r"(?<!\\)[*+?{]", pattern))
    if len(pattern) > _PATTERN_LIMIT or repeats > 3 or re.search(r"\)[*+?{]|\\\d", pattern):
        unsupported(adapter.folder, f"{table_name} has an expression that is too intricate: {pattern[:60]!r}")
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        bad_adapter(adapter.folder, f"{table_name} has the expression {pattern[:60]!r}, which is none")


def base_name(adapter: Adapter) -> str:
    """The end of a sentence on what the adapter was made for."""
    name = adapter.config.get("base_model_name_or_path")
    shown = name[:80] if isinstance(name, str) and name.isprintable() else ""
    return f"{shown}; choose that model." if shown else "another model; choose the one that it was trained on."


def bad_adapter(folder: Path, reason: str) -> NoReturn:
    """Raises the error for an adapter that contradicts itself."""
    raise QuenchError(
        "bad_adapter", "The adapter is damaged.", f"{folder.name}: {reason}.", "Download the adapter again."
    )


def unsupported(folder: Path, reason: str) -> NoReturn:
    """Raises the error for an adapter that means something else than a sum."""
    raise QuenchError(
        "unsupported_adapter",
        "This kind of adapter cannot be merged.",
        f"{folder.name}: {reason}.",
        "Merge it with the program that trained it, and convert the result.",
    )
