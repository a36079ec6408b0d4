"""A source's tokenizer against the engine's, on texts that are hard for tokenizers. Knows no Qt."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from app.child import Child
from app.protocol import ModelTried, Tokenized, TryModel
from converter.spec import QuenchError, TextDifference, TokenizerCheck

EXAMPLES = 8
Encoded = list[tuple[str, list[int]]]


def source_tokens(source: str) -> Encoded:
    """Hard texts with the tokens that the source's own tokenizer gives them; empty for a GGUF file. Raises
    ``QuenchError`` where the tokenizer cannot be run."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    if path.suffix.lower() == ".gguf" or not (folder / "config.json").is_file():
        return []
    from converter.vocabulary.comparison import source_tokens as encoded

    return encoded(folder)


def compared(expected: Encoded, found: Sequence[Sequence[int]]) -> TokenizerCheck:
    """``found``: the engine's tokens of the same texts."""
    both = {text: (tuple(ours), tuple(theirs)) for (text, ours), theirs in zip(expected, found, strict=True)}
    different = []
    for text, (ours, theirs) in both.items():
        if ours != theirs:
            composed = normalize("NFC", text)
            composing = composed != text and both.get(composed) == (ours, ours)
            different.append(TextDifference(text, ours, theirs, composing))
    different.sort(key=lambda each: each.composing)
    only = sum(each.composing for each in different)
    return TokenizerCheck(len(both), len(different), only, tuple(different[:EXAMPLES]))


def check_folder(source: str, pre_tokenizer: str | None = None) -> TokenizerCheck:
    """The check for a model folder that is not converted yet: its vocabulary alone is written for the engine.

    Raises ``QuenchError``: what reading the folder raises, ``no_tokenizer`` for a GGUF file, what the engine says.
    """
    import converter
    from converter.writer import write_vocabulary

    expected = source_tokens(source)
    if not expected:
        raise QuenchError(
            "no_tokenizer",
            "There is nothing to compare the engine's tokenizer with.",
            f"{source} is not a model folder with files of a tokenizer.",
            "Choose the folder that the model was made from.",
        )
    with tempfile.TemporaryDirectory(prefix="quench-") as scratch:
        path = Path(scratch) / "vocabulary.gguf"
        with converter.open_model(source, pre_tokenizer) as model:
            write_vocabulary(path, model.metadata)
        with Child("trial") as child:
            child.send(TryModel(str(path), tuple(text for text, _ in expected), vocabulary_only=True))
            tokens = [event.tokens for event in child.events() if isinstance(event, Tokenized)]
            end = child.wait()
            if end.error is not None:
                raise end.error
            if not isinstance(child.terminal, ModelTried) or not tokens:
                raise QuenchError("engine_died", "The engine gave no answer.", str(path), "", exit_status=5)
    return compared(expected, tokens[0])


def in_words(check: TokenizerCheck) -> str:
    """A sentence about differences that come of the conversion; empty if there are none."""
    count = check.different - check.composing
    if not count:
        return ""
    shown = ", ".join(repr(each.text[:40]) for each in check.examples[:3] if not each.composing)
    return (
        f"The engine splits {count} of {check.texts} hard texts into other tokens than the source's tokenizer, "
        f"such as {shown}."
    )


def whole(check: TokenizerCheck) -> str:
    """What the check found, for a person who asked for it."""
    found = in_words(check) or f"The same tokens in {check.texts - check.composing} of {check.texts} hard texts."
    if check.composing:
        found += (
            f" In {check.composing} texts with decomposed characters they differ, because the engine does not compose "
            "characters as this tokenizer does; such text is rare."
        )
    return found
