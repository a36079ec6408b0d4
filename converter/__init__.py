"""Model folders and GGUF files in, GGUF files out. Never runs code that comes with a model.

The names below are loaded when they are first used, so that importing this package (for its specs and errors) costs
neither numpy nor a tokenizer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.pipeline import convert, plan
    from converter.recipes import RECIPES, Recipe
    from converter.sources import open_model
    from converter.spec import ConversionSpec, QuenchError

_HOMES = {
    "open_model": "converter.sources",
    "plan": "converter.pipeline",
    "convert": "converter.pipeline",
    "RECIPES": "converter.recipes",
    "Recipe": "converter.recipes",
    "ConversionSpec": "converter.spec",
    "QuenchError": "converter.spec",
}

__all__ = ["RECIPES", "ConversionSpec", "QuenchError", "Recipe", "convert", "open_model", "plan"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
