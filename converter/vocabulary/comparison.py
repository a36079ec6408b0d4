"""What a folder's own tokenizer makes of hard texts: one side of the check of a conversion.

The other side is the engine's, which this package does not know. Where a folder has only a SentencePiece model file or
tekken.json, the tokenizers library runs on what they stand for, as transformers does it.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import msgspec

from converter.sources.files import read_bounded
from converter.spec import QuenchError
from converter.vocabulary import tekken
from converter.vocabulary.files import TokenizerFiles
from converter.vocabulary.loading import (
    BYTE,
    CONTROL,
    MAX_NUMBER,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    encode,
    from_text,
    load_tokenizer,
)
from converter.vocabulary.model_file import MODEL_LIMIT, UNIGRAM, ModelFile, Piece, read_model
from converter.vocabulary.sentencepiece import added_by_name
from converter.vocabulary.texts import HARD_TEXTS
from converter.vocabulary.unigram import FAIRSEQ, FAIRSEQ_FILE, T5_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

_SPECIALS = 8
"""How many special tokens are tried inside a text."""
JSON_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")


def source_tokens(folder: Path) -> list[tuple[str, list[int]]]:
    """Hard texts and the numbers that the folder's tokenizer gives their tokens, without those that it puts in front
    and behind; special tokens in a text count as such. Raises ``QuenchError`` where the tokenizer cannot be run."""
    files = TokenizerFiles(folder)
    tokenizer = folder_tokenizer(files)
    added = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items()) if token.special]
    step = max(1, len(added) // _SPECIALS)
    composed = [normalize("NFC", text) for text in HARD_TEXTS]
    texts = [*HARD_TEXTS, *(text for text in composed if text not in HARD_TEXTS)]
    texts += [f"a{token} b{token}c" for token in added[::step][:_SPECIALS]]
    return list(zip(texts, encode(tokenizer, texts), strict=True))


def folder_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """The folder's tokenizer in the tokenizers library. Raises ``QuenchError`` where there is none that it can run."""
    if any(files.has(name) for name in JSON_FILES):
        return load_tokenizer(files, MAX_NUMBER)
    if files.has(tekken.FILE):
        return _made(tekken.tokenizer_json(files))
    for name in (*T5_FILES, FAIRSEQ_FILE):
        if files.has(name):
            model = read_model(read_bounded(files.folder / name, MODEL_LIMIT))
            pieces = [*FAIRSEQ, *model.pieces[len(FAIRSEQ) - 1 :]] if name == FAIRSEQ_FILE else model.pieces
            return _made(_model_json(files, model, pieces))
    raise QuenchError("missing_tokenizer", "The folder has no vocabulary.", str(files.folder), "")


def _made(found: dict[str, Any]) -> Tokenizer:
    return from_text(msgspec.json.encode(found).decode())


def _model_json(files: TokenizerFiles, model: ModelFile, own: list[Piece]) -> dict[str, Any]:
    """The tokenizer.json for a model file and the tokens that were added to it."""
    pieces = list(own)
    named = {number: Piece(text, 0.0, USER_DEFINED) for text, number in added_by_name(files).items()}
    for number, token in files.declared_tokens.items():
        named[number] = Piece(token.content, 0.0, CONTROL if token.special else USER_DEFINED)
    for number, piece in sorted(named.items()):
        if number <= len(pieces) + len(named):
            pieces += [Piece(f"[PAD{n}]", 0.0, NORMAL) for n in range(len(pieces), number + 1)]
            pieces[number] = piece
    # What is never made of text must not be found as a single character either.
    pieces = [p._replace(text=f"[UNUSED{n}]") if p.type == UNUSED else p for n, p in enumerate(pieces)]
    unknown = next((number for number, piece in enumerate(pieces) if piece.type == UNKNOWN), None)
    unigram = model.kind == UNIGRAM
    return {
        "version": "1.0",
        "added_tokens": [_added(number, piece) for number, piece in enumerate(pieces) if piece.type in _ADDED],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(files, model)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": _unigram(pieces, unknown) if unigram else _merged(pieces, unknown),
    }


_ADDED = (CONTROL, UNKNOWN, USER_DEFINED)


def _added(number: int, piece: Piece) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": piece.text, **flags, "special": piece.type != USER_DEFINED}


def _normalizers(files: TokenizerFiles, model: ModelFile) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.squeeze:
        steps.append({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    prefix = files.config.get("add_prefix_space")
    if prefix if isinstance(prefix, bool) else model.prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]


def _unigram(pieces: list[Piece], unknown: int | None) -> dict[str, Any]:
    vocab = [(piece.text, piece.score) for piece in pieces]
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": _has_bytes(pieces)}


def _merged(pieces: list[Piece], unknown: int | None) -> dict[str, Any]:
    """BPE: a merge for every way to make a token from two others, those of the best token first."""
    numbers = {piece.text: number for number, piece in enumerate(pieces)}
    usual = {piece.text for piece in pieces if piece.type == NORMAL}
    merges = []
    for piece in sorted((p for p in pieces if p.type == NORMAL), key=lambda p: -p.score):
        text = piece.text
        ways = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in usual and text[i:] in usual]
        merges += sorted(ways, key=lambda way: (numbers[way[0]], numbers[way[1]]))
    return {
        "type": "BPE",
        "unk_token": None if unknown is None else pieces[unknown].text,
        "fuse_unk": True,
        "byte_fallback": _has_bytes(pieces),
        "vocab": numbers,
        "merges": merges,
    }


def _has_bytes(pieces: list[Piece]) -> bool:
    return any(piece.type == BYTE for piece in pieces)
