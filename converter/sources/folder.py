"""A Hugging Face model folder as a source: config.json, safetensors or PyTorch weights, tokenizer files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from converter import architectures, vocabulary
from converter.sources.base import MetaEntry, RecipeHints, SourceModel
from converter.sources.files import ByteFile, cannot_read, read_json
from converter.sources.gguf import count_types
from converter.sources.naming import general_entries, repository_id
from converter.sources.parts import adapter_not_model, check_index, find_parts, read_parts
from converter.sources.stored import READABLE_DTYPES, some
from converter.sources.tensors import ComputedTensor, FileTensor, file_tensor
from converter.spec import ModelInfo, QuenchError, TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

    from converter.architectures import Parameters
    from converter.sources.base import SourceTensor
    from converter.sources.stored import StoredTensor

_UNSAFE_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')


def open_folder(folder: Path, weights: Path | None = None, pre_tokenizer: str | None = None) -> SourceModel:
    """Opens a model folder; reads headers only. ``weights`` restricts it to one file outside the usual naming;
    ``pre_tokenizer`` as in ``ConversionSpec``.

    Raises ``QuenchError`` for anything that would make a conversion fail later, but for the vocabulary, which is
    read when ``metadata`` is first asked for.
    """
    config = _config(folder)
    family = architectures.find_family(config)
    _refuse_quantized(config)
    parameters = architectures.parameters(family, config)
    paths, index = ([weights], {}) if weights is not None else find_parts(folder)
    files: list[ByteFile] = []
    try:
        files.extend(ByteFile(path) for path in paths)
        stored = read_parts(files)
        check_index(stored, index)
        stored = _without_tied(stored)
        tensors = _tensors(parameters, stored)
        info = _info(folder, files, parameters, tensors)
    except QuenchError:
        _close(files)
        raise

    sizes = parameters.sizes
    hints = RecipeHints(family.architecture, sizes.layers, sizes.heads, sizes.kv_heads, 0)

    def metadata() -> list[MetaEntry]:
        try:
            return [
                MetaEntry("general.architecture", family.architecture, "STRING"),
                *general_entries(folder, config, info.parameters),
                *architectures.metadata(parameters),
                *vocabulary.entries(folder, family, config, sizes.vocabulary, pre_tokenizer),
            ]
        except OSError as error:  # a folder that went away meanwhile
            raise cannot_read(folder, error) from error

    return SourceModel(info, tensors, hints, metadata, lambda: _close(files), files)


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


def _refuse_quantized(config: dict[str, Any]) -> None:
    quantization = config.get("quantization_config") or config.get("quantization")
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    raise QuenchError(
        "unsupported_quantization",
        "These weights are already quantized in a way that cannot be read yet.",
        f"config.json says {str(method or 'quantization_config')[:60]}.",
        "Download the original model in 16 bits instead; it also converts with less loss.",
    )


def _tensors(parameters: Parameters, stored: list[StoredTensor]) -> list[SourceTensor]:
    """GGUF tensors in the order in which the files list theirs, computed ones first."""
    matched, missing, unknown = architectures.match_tensors(parameters, [t.name for t in stored])
    if missing:
        raise QuenchError(
            "missing_tensor",
            "The model's weights are incomplete.",
            f"{some(missing)} {'is' if len(missing) == 1 else 'are'} not in any weight file.",
            "Download the model again; a file may be missing or belong to another version.",
        )
    if unknown:
        raise QuenchError(
            "unknown_tensor",
            "The model has weights that its architecture does not have.",
            f"{some(unknown)}: unknown to {parameters.family.title}.",
            "It may be a changed architecture under a known name; look for a ready GGUF file.",
        )
    tensors: list[SourceTensor] = []
    factors = architectures.frequency_factors(parameters)
    if factors is not None:
        tensors.append(ComputedTensor("rope_freqs.weight", factors))
    for tensor in stored:
        if tensor.name in matched:
            rule, name = matched[tensor.name]
            expected = tuple(getattr(parameters.sizes, size) for size in rule.shape)
            heads = getattr(parameters.sizes, rule.heads) if rule.heads else 0
            tensors.append(_tensor(tensor, name, expected, heads))
    return tensors


def _without_tied(stored: list[StoredTensor]) -> list[StoredTensor]:
    """Without an output matrix that is the embedding itself, which PyTorch's files list and others leave out."""
    places = {t.name: (t.file, t.offset, t.dtype, t.shape, t.strides) for t in stored}
    output, embedding = (places.get(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
    if output is None or output != embedding:
        return stored
    return [tensor for tensor in stored if tensor.name != "lm_head.weight"]


def _tensor(stored: StoredTensor, name: str, expected: tuple[int, ...], heads: int) -> FileTensor:
    if stored.shape != expected:
        raise QuenchError(
            "bad_shape",
            "The weights do not fit the model's config.json.",
            f"{stored.name} is {list(stored.shape)}; config.json makes it {list(expected)}.",
            "Download config.json and the weights again, from the same version of the model.",
        )
    if stored.dtype not in READABLE_DTYPES:
        raise QuenchError(
            "unsupported_dtype",
            "The weights are stored in a form that cannot be read yet.",
            f"{stored.name} in {stored.file.path.name} is {stored.dtype}; BF16, F16, F32 and F64 are read.",
            "Download the original model in 16 bits instead.",
        )
    return file_tensor(stored, name, heads)


def _info(folder: Path, files: list[ByteFile], parameters: Parameters, tensors: list[SourceTensor]) -> ModelInfo:
    sizes, family = parameters.sizes, parameters.family
    listed = tuple(TensorInfo(t.name, t.shape, t.type, t.n_bytes) for t in tensors)
    outline = vocabulary.outline(folder, family)
    names = {t.name for t in listed}
    tied = "output.weight" not in names
    problems = architectures.problems(parameters) + outline.problems
    if tied and parameters.values.get("tie_word_embeddings") is False:
        problems.append("lm_head.weight is missing although config.json says it is not shared; the embedding is used.")
    keys = [MetaEntry("general.architecture", family.architecture, "STRING"), *architectures.metadata(parameters)]
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
        experts=0,
        vocabulary=sizes.vocabulary,
        tokenizer=outline.model,
        pre_tokenizer=outline.pre,
        types=count_types(listed),
        bytes=sum(file.size for file in files),
        tensors=listed,
        metadata={entry.key: entry.value for entry in keys},
        problems=tuple(problems),
        chat_template=outline.chat_template,
        tied_embeddings=tied,
    )


def _base_name(folder: Path) -> str:
    name = repository_id(folder).rpartition("/")[2]
    return _UNSAFE_IN_NAMES.sub("-", name).strip(" .-") or "model"


def _close(files: list[ByteFile]) -> None:
    for file in files:
        file.close()
