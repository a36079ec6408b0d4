"""A Hugging Face model folder as a source: config.json, safetensors or PyTorch weights, tokenizer files."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converter import architectures, vocabulary
from converter.sources import dequantize
from converter.sources.base import MetaEntry, RecipeHints, SourceModel, Weights
from converter.sources.files import ByteFile, cannot_read, read_json
from converter.sources.gguf import count_types
from converter.sources.naming import count_parameters, general_entries, repository_id
from converter.sources.parts import adapter_not_model, check_index, find_parts, read_parts
from converter.sources.pooling import pooling_entries
from converter.sources.stacks import taken_apart
from converter.spec import ModelInfo, QuenchError, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

    from converter.architectures import Parameters
    from converter.sources.base import SourceTensor

_UNSAFE_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')


def open_folder(folder: Path, weights: Path | None = None, pre_tokenizer: str | None = None) -> SourceModel:
    """Opens a model folder; reads headers only. ``weights`` restricts it to one file outside the usual naming;
    ``pre_tokenizer`` as in ``ConversionSpec``.

    Raises ``QuenchError`` for anything that would make a conversion fail later, but for the vocabulary, which is
    read when ``metadata`` is first asked for.
    """
    config = _config(folder)
    family = architectures.find_family(config)
    quantization = dequantize.recognise(folder, config)
    parameters = architectures.parameters(family, config)
    paths, index = ([weights], {}) if weights is not None else find_parts(folder)
    files: list[ByteFile] = []
    try:
        files.extend(ByteFile(path) for path in paths)
        stored = read_parts(files)
        check_index(stored, index)
        decoded = quantization.decoded(stored)
        whole, origins = taken_apart(decoded.tensors)
        kinds = {name: decoded.kinds[origin] for name, origin in origins.items() if origin in decoded.kinds}
        decoded = replace(decoded, tensors=whole, kinds=decoded.kinds | kinds)
        tensors = architectures.tensors(parameters, whole)
        info = _info(folder, files, parameters, tensors, decoded)
    except QuenchError:
        _close(files)
        raise

    sizes = parameters.sizes
    hints = RecipeHints(family.architecture, sizes.layers, sizes.heads, sizes.kv_heads, sizes.experts, decoded.half)

    def metadata() -> list[MetaEntry]:
        try:
            own = architectures.metadata(parameters)
            entries = [
                MetaEntry("general.architecture", family.architecture, "STRING"),
                *general_entries(folder, config, count_parameters(tensors)),
                *(entry for entry in own if architectures.is_own(entry)),
                *(pooling_entries(folder, family.architecture) if family.pooled else ()),
                *vocabulary.entries(folder, family, config, sizes.vocabulary, pre_tokenizer),
                *(entry for entry in own if not architectures.is_own(entry)),
            ]
            return list({entry.key: entry for entry in entries}.values())
        except OSError as error:  # a folder that went away meanwhile
            raise cannot_read(folder, error) from error

    weights_as_stored = Weights(
        decoded.tensors,
        lambda stored: architectures.tensors(parameters, stored),
        lambda name: architectures.renamed(family, name),
        architectures.source_of(family, "output.weight"),
        architectures.source_of(family, "token_embd.weight"),
        lambda name: architectures.is_turned(family, name),
    )
    return SourceModel(
        info, tensors, hints, metadata, lambda: _close(files), files, decoded.working_bytes, weights=weights_as_stored
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.is_file():
        return read_json(path)
    names = sorted(entry.name for entry in folder.iterdir())
    if "adapter_config.json" in names:
        raise adapter_not_model(folder)
    found = f"It holds {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}." if names else "It is empty."
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    raise QuenchError(
        "no_model",
        "This folder is not a model.",
        f"{folder} has no config.json. {found}",
        f"Open {ggufs[0]} itself." if ggufs else "Choose a folder with config.json and .safetensors files.",
    )


def _info(
    folder: Path,
    files: list[ByteFile],
    parameters: Parameters,
    tensors: list[SourceTensor],
    decoded: dequantize.Decoded,
) -> ModelInfo:
    sizes, family = parameters.sizes, parameters.family
    listed = tuple(_listed(tensor, decoded) for tensor in tensors)
    outline = vocabulary.outline(folder, family)
    names = {t.name for t in listed}
    tied = "output.weight" not in names
    notes = [*([decoded.note] if decoded.note else []), *outline.notes, *architectures.notes(parameters)]
    if tied and parameters.values.get("tie_word_embeddings") is False:
        notes.append("lm_head.weight is missing although config.json says it is not shared; the embedding is used.")
    own = filter(architectures.is_own, architectures.metadata(parameters))
    keys = [MetaEntry("general.architecture", family.architecture, "STRING"), *own]
    return ModelInfo(
        path=str(folder),
        kind="hf",
        name=_base_name(folder),
        architecture=family.architecture,
        parameters=sum(t.n_elements for t in tensors),
        layers=sizes.layers,
        context_length=parameters.values["max_position_embeddings"],
        embedding_length=sizes.embedding,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        key_length=sizes.head,
        value_length=sizes.head,
        experts=sizes.experts,
        vocabulary=sizes.vocabulary,
        tokenizer=outline.model,
        pre_tokenizer=outline.pre,
        types=count_types(listed),
        bytes=sum(file.size for file in files),
        tensors=listed,
        metadata={entry.key: entry.value for entry in keys},
        problems=tuple(outline.problems),
        notes=tuple(notes),
        chat_template=outline.chat_template,
        tied_embeddings=tied,
    )


def _listed(tensor: SourceTensor, decoded: dequantize.Decoded) -> TensorInfo:
    """As the checkpoint has it: what is quantized takes fewer bytes than its float rows."""
    kind = decoded.kinds.get(tensor.source_name)
    if kind is None:
        return TensorInfo(tensor.name, tensor.shape, tensor.type, tensor.n_bytes)
    return TensorInfo(tensor.name, tensor.shape, kind, tensor.read_bytes(0, tensor.n_rows))


def _base_name(folder: Path) -> str:
    name = repository_id(folder).rpartition("/")[2]
    return _UNSAFE_IN_NAMES.sub("-", name).strip(" .-") or "model"


def _close(files: list[ByteFile]) -> None:
    for file in files:
        file.close()
