"""Models that are made for a comparison: a source and a recipe, converted into the cache and found there again.

``FOLDER=Q4_K_M`` stands where a model's path stands. The file lies under an id of its source as it is now, so that a
changed source is converted anew; the cache is kept below a bound by removing what was used longest ago.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection
from pathlib import Path

from app import paths
from converter.recipes import RECIPES
from converter.spec import ConversionSpec, QuenchError

MOST_BYTES = 40 << 30
"""What made files may take together; those of the running comparison stay in any case."""
_NOT_HERE = ("auto", "F32", "F16")
MOST_FILES = 10_000
FULL = ("F32", "F16", "BF16")
"""Types of files that a recipe can be made from without squeezing twice."""


def choices() -> tuple[str, ...]:
    """Recipes that can be made of any source, without an importance matrix, the largest file first."""
    plain = [each for each in RECIPES.values() if not (each.needs_imatrix or each.instead or each.name in _NOT_HERE)]
    return tuple(recipe.name for recipe in sorted(plain, key=lambda recipe: -recipe.bits))


def with_recipe(source: str, recipe: str) -> str:
    """What stands for a path where a model is meant that is made first."""
    return f"{source}={recipe}" if recipe else source


def split(path: str) -> tuple[str, str]:
    """(source, recipe) of what :func:`with_recipe` made; the recipe is empty for a model that is there."""
    source, equals, recipe = path.rpartition("=")
    if not equals or recipe not in RECIPES or not source:
        return path, ""
    with contextlib.suppress(OSError):
        if Path(path).exists():
            return path, ""
    return source, recipe


def folder() -> Path:
    """Where made models lie. Created."""
    made = paths.cache() / "recipes"
    made.mkdir(parents=True, exist_ok=True)
    return made


def place(source: str, recipe: str) -> Path:
    """The file of a source in a recipe, made or not. Raises as :func:`state_of`."""
    path = Path(source)
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    base = next((stem.removesuffix(f"-{kind}") for kind in FULL if stem.endswith(f"-{kind}")), stem) or "model"
    return folder() / state_of(source) / f"{base}-{recipe}.gguf"


def spec(source: str, recipe: str, target: Path) -> ConversionSpec:
    """How it is made. Squeezing a quantized file again would compare the wrong thing, so it is refused as elsewhere."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return ConversionSpec(source=source, output=str(target), types=(recipe,), overwrite=True)


def state_of(source: str) -> str:
    """An id of a source as it lies there: names, lengths and times of its files, which are not read.

    Raises ``QuenchError`` ``not_found`` for what is not there.
    """
    path = Path(source)
    try:
        files = sorted(path.iterdir())[:MOST_FILES] if path.is_dir() else [path]
        found = [(file.name, state.st_size, state.st_mtime_ns) for file in files if (state := file.stat())]
    except OSError as error:
        raise QuenchError("not_found", "The model is not there.", str(error), "Choose another one.") from error
    return hashlib.blake2b(repr((str(path.absolute()), found)).encode("utf-8", "replace"), digest_size=16).hexdigest()


def used(path: Path) -> None:
    """Note that a made file was used now."""
    with contextlib.suppress(OSError):
        path.touch()


def trim(keep: Collection[Path], most: int = MOST_BYTES) -> list[Path]:
    """Remove made files, those used longest ago first, until they take at most ``most`` bytes; returns the removed.

    ``keep`` stay. A file that cannot be removed stays too.
    """
    found = []
    for path in folder().glob("*/*.gguf"):
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    total, gone = sum(size for _, size, _ in found), []
    kept = {path.absolute() for path in keep}
    for _, size, path in sorted(found):
        if total <= most:
            break
        if path.absolute() in kept:
            continue
        try:
            path.unlink()
        except OSError:
            continue
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        total -= size
        gone.append(path)
    return gone


__all__ = [
    "FULL", "MOST_BYTES", "choices", "folder", "place", "spec", "split", "state_of", "trim", "used", "with_recipe",
]  # fmt: skip
