"""Sources of weights: model folders and GGUF files, behind one face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from converter.sources.base import MetaEntry, RecipeHints, SourceModel, SourceTensor
from converter.sources.files import ByteFile, cannot_read
from converter.spec import QuenchError

if TYPE_CHECKING:
    import os

__all__ = ["MetaEntry", "RecipeHints", "SourceModel", "SourceTensor", "open_model"]


def open_model(path: str | os.PathLike[str], pre_tokenizer: str | None = None) -> SourceModel:
    """Opens a model: a Hugging Face folder, a ``.safetensors`` or PyTorch file inside one, or a GGUF file.

    Reads headers only; weights and vocabulary follow when they are asked for. Never runs code from the model.
    ``pre_tokenizer`` as in ``ConversionSpec``. Raises ``QuenchError`` and nothing else for whatever ``path`` turns out
    to be.
    """
    target = _absolute(path)
    if target.is_dir():
        return _open_folder(target, None, pre_tokenizer)
    from converter.sources.parts import INDEX_NAMES, WEIGHT_SUFFIXES

    if target.suffix.lower() in WEIGHT_SUFFIXES:
        return _open_beside(target, pre_tokenizer)
    if target.name == "config.json" or target.name.endswith(INDEX_NAMES):
        return _open_folder(target.parent, None, pre_tokenizer)
    from converter.sources.gguf import open_gguf

    if target.suffix.lower() != ".gguf":
        _refuse_unless_gguf(target)
    return open_gguf(target)


def _absolute(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(path).expanduser().absolute()
        target.stat()
    except OSError as error:
        raise cannot_read(Path(path), error) from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name; no home folder
        raise QuenchError("not_found", "This is no file name.", f"{path!r}: {error}", "Check the path.") from error
    return target


def _open_folder(folder: Path, weights: Path | None, pre_tokenizer: str | None) -> SourceModel:
    from converter.sources.folder import open_folder

    try:
        return open_folder(folder, weights, pre_tokenizer)
    except OSError as error:
        raise cannot_read(folder, error) from error


def _open_beside(weights: Path, pre_tokenizer: str | None) -> SourceModel:
    """A weight file stands for its folder, or for itself where the folder's naming leaves it out."""
    from converter.sources.parts import is_usual_name

    return _open_folder(weights.parent, None if is_usual_name(weights.name) else weights, pre_tokenizer)


def _refuse_unless_gguf(path: Path) -> None:
    file = ByteFile(path)
    try:
        magic = file.read(0, 4) if file.size >= 4 else b""
    finally:
        file.close()
    if magic != b"GGUF":
        raise QuenchError(
            "not_a_model",
            "This file is not a model that can be read.",
            f"{path.name} is neither GGUF nor safetensors nor a PyTorch checkpoint.",
            "Choose a .gguf file or a model folder.",
        )
