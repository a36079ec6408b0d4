"""Everything about a conversion that is known before its first byte: files, types, sizes, memory, time, refusals.

:func:`prepare` is the one place that decides; the preview and the conversion both call it, so they cannot disagree.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

import kernels
from converter import estimate, options, recipes, splitting, writer
from converter import imatrix as imatrices
from converter.encode import BYTES_PER_WEIGHT, NATIVE, refused, writable
from converter.sources import lora, open_model
from converter.sources.base import MetaEntry, SourceModel, SourceTensor
from converter.spec import ConversionSpec, Plan, PlannedOutput, PlannedTensor, QuenchError, RuleCount, expected_seconds

MEBIBYTE = 1 << 20
_LARGEST_CAP = 2048 * MEBIBYTE
_BASE_MEMORY = 32 * MEBIBYTE
"""Anonymous memory of the interpreter, numpy and the kernels before any model is read: 23 MiB, and some to spare."""
_VOCABULARY = 24
"""Bytes of memory for each byte of the packed header: measured 16 (SentencePiece) to 21 (a tokenizer.json)."""
_CHUNK_WEIGHTS = 1 << 20
"""The most weights that one thread works on at a time: more gain nothing."""

_OWN_KEYS = {"general.quantization_version", "general.file_type"}
_SHARED_NAMES = {"quantize.imatrix.file", "quantize.imatrix.dataset"}


@dataclass(frozen=True)
class Target:
    """One output: its recipe, its file, a (type, reason) for each tensor of the source, and the file's layout.

    ``files`` are the paths of all its files: ``path`` alone, or the parts of a split one.
    """

    recipe: recipes.Recipe
    path: Path
    choices: list[tuple[str, str]]
    layout: writer.Layout
    rules: tuple[RuleCount, ...] = ()

    @property
    def files(self) -> list[Path]:
        return [path for path, _ in splitting.files_of(self.path, self.layout)]


@dataclass(frozen=True)
class Prepared:
    """A decided conversion. ``chunk_weights`` is the slab size; ``folder`` must exist or be made before writing."""

    model: SourceModel
    spec: ConversionSpec
    targets: list[Target]
    importance: imatrices.Imatrix | None
    threads: int
    chunk_weights: int
    folder: Path
    plan: Plan


@contextmanager
def opened(model: SourceModel | str | os.PathLike[str], pre_tokenizer: str | None = None) -> Iterator[SourceModel]:
    """The model itself, left open, or the one at a path, closed at the end."""
    if isinstance(model, SourceModel):
        yield model
    else:
        with open_model(Path(model), pre_tokenizer) as fresh:
            yield fresh


def plan(model: SourceModel | str | os.PathLike[str], spec: ConversionSpec) -> Plan:
    """Exact sizes, types with reasons, disk, memory and time of a conversion, without writing anything.

    ``model`` is an opened source or its path. Raises ``QuenchError`` for whatever makes the conversion impossible in
    itself (``unknown_type``, ``requantize``, ``needs_imatrix`` ...); what the disk says now (existing files, free
    space) is checked when it starts, and too little space is a warning here.
    """
    with opened(model, spec.pre_tokenizer) as source, lora.merged(source, spec.lora) as whole:
        found = prepare(whole, spec, timed=True).plan
    if found.disk_needed <= found.disk_free:
        return found
    short = f"The disk has too little room: {found.disk_needed:,} bytes are needed, {found.disk_free:,} are free."
    return msgspec.structs.replace(found, warnings=(*found.warnings, short))


def prepare(model: SourceModel, spec: ConversionSpec, *, timed: bool = False) -> Prepared:
    """Decides a conversion. See :func:`plan`. ``timed`` probes the kernels, for half a second, to tell the time."""
    if not model.tensors:
        raise QuenchError("no_weights", "The source has no weights.", str(model.info.path), "Choose a whole model.")
    if model.incomplete:
        raise QuenchError(
            "incomplete", "The source is only a part of a model.", model.incomplete, "Put all its parts in one folder."
        )
    importance = imatrices.read(spec.imatrix) if spec.imatrix else None
    whole, model = model, options.applied(model, spec)
    overrides = recipes.checked(
        recipes.Overrides(
            spec.tensor_types,
            spec.output_type,
            spec.embedding_type,
            spec.pure,
            spec.leave_output,
            importance is not None,
            spec.keep_split,
        )
    )
    chosen = _recipes(spec, model)
    paths, folder = _paths(spec, model, chosen)
    if importance is not None and not any(tensor.name in importance.entries for tensor in whole.tensors):
        raise importance.of_another_model()
    shared = _Shared(_carried(model.metadata, importance), spec, overrides)
    targets = [_target(model, recipe, path, shared) for recipe, path in zip(chosen, paths, strict=True)]
    importance = options.renamed_importance(importance, whole, spec) if importance else None
    for target in targets:
        _refuse_requantizing(model, target, spec)
        _refuse_missing_importance(model, target, importance)
    threads, chunk_weights, memory = _memory(model, spec, targets, importance)
    read_bytes = sum(tensor.read_bytes(0, tensor.n_rows) for tensor in model.tensors)
    seconds, loading = _timed(model, targets, threads, spec.refined, importance) if timed else (None, 0.0)
    if timed:
        loading += _decoding(model, threads, chunk_weights)
    outputs = tuple(
        _planned(model.tensors, target, seconds[i] if seconds else None) for i, target in enumerate(targets)
    )
    return Prepared(
        model,
        spec,
        targets,
        importance,
        threads,
        chunk_weights,
        folder,
        Plan(
            source=model.info,
            outputs=outputs,
            read_bytes=read_bytes,
            disk_needed=sum(target.layout.size for target in targets),
            disk_free=free_bytes(folder),
            memory_needed=memory,
            seconds=expected_seconds(outputs, read_bytes, loading) if timed else None,
            warnings=_warnings(targets),
            loading=loading,
        ),
    )


def preflight(prepared: Prepared) -> None:
    """What the disk must say before the first byte. Raises ``QuenchError``; ``no_space`` names the numbers."""
    folder = prepared.folder
    parent = folder if folder.exists() else folder.parent
    if not parent.is_dir():
        raise QuenchError(
            "no_folder",
            "The output folder does not exist.",
            f"{folder} is not a folder, and neither is the one above it.",
            "Create it, or choose another.",
        )
    if not os.access(parent, os.W_OK):
        raise QuenchError(
            "read_only", "The output folder cannot be written to.", f"{parent}.", "Choose another folder."
        )
    _refuse_overwriting_source(prepared.model, prepared.targets)
    refuse_taken(prepared)
    needed = prepared.plan.disk_needed
    free = free_bytes(folder) + sum(_left_behind(path) for path, _ in _files(prepared))
    if needed > free:
        raise QuenchError(
            "no_space",
            "There is not enough free space on the disk.",
            f"The outputs need {needed:,} bytes, {free:,} are free in {parent}.",
            f"Free {needed - free:,} bytes, make fewer types at once, or choose another disk.",
            exit_status=4,
        )


def refuse_taken(prepared: Prepared) -> None:
    """Refuse names that something has which must not be replaced: ``QuenchError`` ``exists`` or ``bad_output``."""
    spec = prepared.spec
    for path, layout in _files(prepared):
        if path.is_dir():
            raise QuenchError("exists", "A folder has the output's name.", f"{path}.", "Choose another name.")
        if path.exists() and not path.is_file():  # /dev/null: renaming onto it would take it from everybody
            detail = f"{path} is a device, a pipe or a socket."
            raise QuenchError("bad_output", "A model can only be written to a file.", detail, "Choose another name.")
        if path.exists() and not spec.overwrite and not (spec.resume and writer.begins_as(path, layout)):
            raise QuenchError(
                "exists",
                "The output is there already.",
                f"{path}.",
                "Allow overwriting, or choose another name.",
            )


def _files(prepared: Prepared) -> list[tuple[Path, writer.Layout]]:
    return [file for target in prepared.targets for file in splitting.files_of(target.path, target.layout)]


def free_bytes(folder: Path) -> int:
    """Free bytes where ``folder`` is or would be."""
    for place in (folder, *folder.parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return 0


def _left_behind(path: Path) -> int:
    """Blocks of a ``.part`` that a killed run left and that this one will take over."""
    try:
        return getattr(path.with_name(path.name + ".part").stat(), "st_blocks", 0) * 512
    except OSError:
        return 0


def _recipes(spec: ConversionSpec, model: SourceModel) -> list[recipes.Recipe]:
    if not spec.types:
        raise QuenchError(
            "unknown_type", "No type was chosen.", "The list of types is empty.", "Choose one.", exit_status=2
        )
    found = [recipes.resolve(name, model.hparams, model.tensors) for name in spec.types]
    if model.info.kind != "gguf" and (spec.keep_split or recipes.COPY in found):
        raise QuenchError(
            "usage",
            "A model folder can only be converted.",
            "Copying as it is and keeping the division into files are for GGUF sources.",
            "Choose auto for the source's own 16-bit numbers, or a size for the files.",
            exit_status=2,
        )
    if spec.keep_split and spec.split_size:
        raise QuenchError(
            "usage", "There are two wishes for the division into files.", "", "Keep it, or give a size.", exit_status=2
        )
    return list({recipe.name: recipe for recipe in found}.values())


def _paths(spec: ConversionSpec, model: SourceModel, chosen: Sequence[recipes.Recipe]) -> tuple[list[Path], Path]:
    """Every output's file and the folder they go into."""
    if not spec.output:
        raise QuenchError(
            "usage", "The output has no name.", "An empty path was given.", "Name a file or a folder.", exit_status=2
        )
    output = Path(spec.output)
    _refuse_bad_name(output)
    ends_as_folder = spec.output.endswith(("/", os.sep))
    if len(spec.types) == 1 and not ends_as_folder and not output.is_dir():
        return [output.absolute()], output.absolute().parent
    if not output.is_dir() and (output.exists() or output.suffix.lower() == ".gguf"):
        raise QuenchError(
            "not_a_folder",
            "Several types need a folder, not a file.",
            f"{output} was given for {', '.join(recipe.name for recipe in chosen)}.",
            "Name a folder; each type gets its own file in it.",
            exit_status=2,
        )
    folder = output.absolute()
    base = re.sub(r'[/\\:*?"<>|\x00-\x1f]+', "-", model.info.name).strip(" .") or "model"
    found = [folder / f"{base}-{recipe.name}.gguf" for recipe in chosen]
    for path in found:
        _refuse_bad_name(path)
    return found, folder


def _refuse_bad_name(path: Path) -> None:
    """A name that the system cannot look up: too long (with our ending too), a circle of links, a forbidden byte."""
    for name in (path, path.with_name(f"{path.name}.part") if path.name else path):
        try:
            name.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue  # what preflight speaks about
        except (OSError, ValueError) as error:
            raise QuenchError(
                "bad_output", "The output's name cannot be used.", str(error), "Choose another name or folder."
            ) from error


def _carried(metadata: Sequence[MetaEntry], importance: imatrices.Imatrix | None) -> list[MetaEntry]:
    """The source's metadata for every output, without names of folders on somebody's disk."""
    kept = []
    for entry in metadata:
        if entry.key in _OWN_KEYS:
            continue
        if importance is not None and entry.key.startswith("quantize.imatrix."):
            continue
        if entry.key in _SHARED_NAMES and isinstance(entry.value, str):
            kept.append(MetaEntry(entry.key, imatrices.bare_name(entry.value), entry.type))
        else:
            kept.append(entry)
    if importance is not None:
        kept.append(MetaEntry("quantize.imatrix.file", importance.file, "STRING"))
        if importance.dataset:
            kept.append(MetaEntry("quantize.imatrix.dataset", importance.dataset, "STRING"))
        kept.append(MetaEntry("quantize.imatrix.entries_count", len(importance.entries), "UINT32"))
        if importance.chunks:
            kept.append(MetaEntry("quantize.imatrix.chunks_count", importance.chunks, "UINT32"))
    return kept


class _Shared:
    """What all outputs have in common: metadata, packed once, and what was asked for."""

    def __init__(self, entries: Sequence[MetaEntry], spec: ConversionSpec, overrides: recipes.Overrides) -> None:
        self.spec = spec
        self.overrides = overrides
        self.own = [entry for entry in map(options.parse_override, spec.override_kv) if entry.key in _OWN_KEYS]
        self.packed = writer.pack_metadata(entries)
        self.keys = len(entries)
        self.alignment = writer.alignment_of(entries)


def _target(model: SourceModel, recipe: recipes.Recipe, path: Path, shared: _Shared) -> Target:
    choices = recipes.types(model.hparams, model.tensors, recipe, shared.overrides, model.info.kind)
    _refuse_unwritable(model.tensors, choices)
    own = [MetaEntry("general.quantization_version", recipes.QUANTIZATION_VERSION, "UINT32")]
    file_type = _file_type(model) if recipe is recipes.COPY else recipe.file_type
    if recipe.name in recipes.PLAIN_TYPES and any(tensor.type == "MXFP4" for tensor in model.tensors):
        file_type = recipes.MXFP4_FILE_TYPE  # experts stay as they are stored
    if file_type is not None:
        own.append(MetaEntry("general.file_type", file_type, "UINT32"))
    own = options.overridden([entry for entry in own if entry.key not in shared.spec.remove_kv], shared.own)
    tensors = [(t.name, t.shape, kind) for t, (kind, _) in zip(model.tensors, choices, strict=True)]
    packed = (shared.packed, writer.pack_metadata(own))
    contents = splitting.Contents(packed, shared.keys + len(own), tensors, shared.alignment)
    layout = splitting.split_layout(path, contents, _homes(model, contents, shared.spec))
    rules = recipes.rule_counts(model.hparams, model.tensors, recipe, shared.overrides, model.info.kind)
    return Target(recipe, path, choices, layout, tuple(rules))


def _file_type(model: SourceModel) -> int | None:
    """``general.file_type`` of a GGUF source; None if it does not say."""
    found = model.info.metadata.get("general.file_type")
    return found if isinstance(found, int) and found >= 0 else None


def _homes(model: SourceModel, contents: splitting.Contents, spec: ConversionSpec) -> list[int]:
    """The number of the file that each tensor goes into."""
    if spec.split_size:
        return splitting.by_size(splitting.sizes(contents), spec.split_size)
    if spec.keep_split:
        files = list(dict.fromkeys(tensor.source_file for tensor in model.tensors))
        return [files.index(tensor.source_file) for tensor in model.tensors]
    return [0] * len(contents.tensors)


def _warnings(targets: Sequence[Target]) -> tuple[str, ...]:
    """What is allowed and yet hardly meant."""
    found = []
    for rules in zip(*(target.rules for target in targets), strict=True):
        rule = rules[0]
        if not rule.matches:
            found.append(f"The rule {rule.pattern}={rule.type} matches no tensor.")
        elif not any(one.wins for one in rules):
            found.append(f"The rule {rule.pattern}={rule.type} decides nothing: others come before it, or the tensors "
                         "it matches are never quantized.")  # fmt: skip
    return tuple(found)


def _planned(tensors: Sequence[SourceTensor], target: Target, seconds: Sequence[float] | None) -> PlannedOutput:
    places = target.layout.tensors
    seconds = seconds or [0.0] * len(places)
    weights = sum(tensor.n_elements for tensor in tensors)
    return PlannedOutput(
        type=target.recipe.name,
        path=str(target.files[0]),
        bytes=target.layout.size,
        bpw=8 * sum(place.bytes for place in places) / max(weights, 1),
        tensors=tuple(
            PlannedTensor(place.name, place.shape, place.type, place.bytes, why, took)
            for place, (_, why), took in zip(places, target.choices, seconds, strict=True)
        ),
        files=tuple(map(str, target.files)) if len(target.files) > 1 else (),
        rules=target.rules,
    )


def _refuse_unwritable(tensors: Sequence[SourceTensor], choices: Sequence[tuple[str, str]]) -> None:
    for tensor, (kind, _) in zip(tensors, choices, strict=True):
        if kind == tensor.type:
            continue
        if not tensor.readable:
            raise QuenchError(
                "unsupported_type",
                "These weights are stored in a type that Quench cannot read as numbers.",
                f"{tensor.source_name} in {tensor.source_file} is {tensor.type}.",
                "Start from a full-precision model (F16, BF16 or F32) instead.",
            )
        if kind not in writable():
            raise QuenchError(
                "unsupported_type",
                "The recipe needs a type that this build cannot write.",
                f"{tensor.name} would be {kind}.",
                "Choose another type.",
            )


def _refuse_requantizing(model: SourceModel, target: Target, spec: ConversionSpec) -> None:
    if spec.allow_requantize:
        return
    for tensor, (kind, _) in zip(model.tensors, target.choices, strict=True):
        block = recipes.BLOCK_WEIGHTS.get(tensor.type, 256 if tensor.readable else 1)
        if kind != tensor.type and block > 1:
            raise QuenchError(
                "requantize",
                "The source is quantized already.",
                f"{tensor.name} is {tensor.type} and would become {kind}: its rounding errors would be rounded again, "
                "and the result is worse than the same type made from the original.",
                "Start from the original model, or allow requantizing if there is none.",
            )


def _refuse_missing_importance(model: SourceModel, target: Target, importance: imatrices.Imatrix | None) -> None:
    for tensor, (kind, _) in zip(model.tensors, target.choices, strict=True):
        found = importance.for_tensor(tensor.name, tensor.shape) if importance else None
        if found is None and kind != tensor.type and recipes.needs_imatrix(target.recipe, tensor.name, kind):
            raise QuenchError(
                "needs_imatrix",
                f"{target.recipe.name} needs an importance matrix.",
                f"{tensor.name} in {kind} would be unusable without one"
                + (f", and {importance.file} has no entry for it." if importance else "."),
                "Make one from a calibration text, or choose a larger type.",
            )


def _refuse_overwriting_source(model: SourceModel, targets: Sequence[Target]) -> None:
    source = Path(model.info.path).resolve()
    inputs = {source, *(file.path.resolve() for file in model.files)}
    if source.is_dir():
        inputs |= {entry.resolve() for entry in source.iterdir() if entry.suffix != ".gguf"}
    for path in (path for target in targets for path in target.files):
        if Path(os.path.realpath(path)) in inputs:
            raise QuenchError(
                "output_is_source",
                "The output would replace the source.",
                f"{path}.",
                "Choose another name.",
                exit_status=2,
            )


def _memory(
    model: SourceModel, spec: ConversionSpec, targets: Sequence[Target], importance: imatrices.Imatrix | None
) -> tuple[int, int, int]:
    """Threads, weights a chunk and bytes needed, within the cap. A chunk is never less than one row.

    The cap is on anonymous memory, all of the process's. Pages of the mapped source belong to the system's cache.
    """
    cap = spec.memory_mib * MEBIBYTE or min(psutil.virtual_memory().available // 4, _LARGEST_CAP)
    threads = spec.threads if spec.threads > 0 else cores()
    longest = max(tensor.n_cols for tensor in model.tensors)
    fixed = _BASE_MEMORY + _VOCABULARY * sum(map(len, targets[0].layout.header))
    fixed += model.working_bytes
    fixed += sum(entry.nbytes for entry in importance.entries.values()) if importance else 0
    room = (cap - fixed) // BYTES_PER_WEIGHT
    threads = max(1, min(threads, room // max(longest, _CHUNK_WEIGHTS // 64)))
    chunk = max(longest, min(_CHUNK_WEIGHTS, room // threads))
    needed = threads * chunk * BYTES_PER_WEIGHT + fixed
    if needed > cap:
        raise QuenchError(
            "no_memory",
            "The memory limit is too low.",
            f"The program, the vocabulary and one row at a time need {needed:,} bytes, the limit is {cap:,}.",
            "Raise the limit or close other programs.",
            exit_status=4,
        )
    return threads, chunk, needed


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _timed(
    model: SourceModel, targets: Sequence[Target], threads: int, refined: bool, importance: imatrices.Imatrix | None
) -> tuple[list[list[float]], float]:
    """Expected seconds for every tensor of every target, and those for widening what they are made from, once for all.

    ``QuenchError`` if the kernels refuse to be measured.
    """
    weighted = importance is not None

    def making(tensor: SourceTensor, kind: str) -> estimate.Work | None:
        if kind == tensor.type and tensor.type not in NATIVE:
            return None
        return estimate.Work(tensor.type if tensor.type in NATIVE else "F32", kind, weighted, refined)

    needed = [
        [making(tensor, kind) for tensor, (kind, _) in zip(model.tensors, target.choices, strict=True)]
        for target in targets
    ]
    widened = [
        estimate.Work(tensor.type, "", False, False) if tensor.type not in NATIVE and any(works) else None
        for tensor, *works in zip(model.tensors, *needed, strict=True)
    ]
    wanted = [work for each in (*needed, widened) for work in each if work is not None]
    try:
        costs = estimate.costs(wanted, min(threads, cores()))
    except kernels.KernelError as error:
        raise refused(error, "the kernels") from error
    seconds = [
        [tensor.n_elements * costs[work] if work else 0.0 for tensor, work in zip(model.tensors, each, strict=True)]
        for each in (*needed, widened)
    ]
    return seconds[:-1], sum(seconds[-1])


def _decoding(model: SourceModel, threads: int, chunk_weights: int) -> float:
    """Expected seconds for making the weights of a quantized checkpoint whole, once for all outputs."""
    kinds = {tensor.name: tensor.type for tensor in model.info.tensors}
    packed = [(kind, t) for t in model.tensors if (kind := kinds.get(t.name, t.type)) != t.type]
    return estimate.decoding(packed, min(threads, cores()), chunk_weights)
