"""Unigram vocabularies (GGUF's ``t5``): T5's and XLM-RoBERTa's, from SentencePiece's model file or tokenizer.json.

Unlike ``llama``'s, these carry their map of characters (what is lower-cased, composed or dropped before splitting),
and the engine splits by the best sum of scores.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.sources.files import read_bounded
from converter.vocabulary.files import damaged
from converter.vocabulary.loading import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    check_number,
    too_many,
)
from converter.vocabulary.model_file import BPE, MODEL_LIMIT, ModelFile, Piece, check_charsmap, read_model
from converter.vocabulary.sentencepiece import (
    ADDED_SCORE,
    added_by_name,
    adds_space,
    padding,
    piece_entries,
    unknown_piece,
)
from converter.vocabulary.sentencepiece import entries as sentencepiece_entries
from converter.vocabulary.special import SpecialTokens, template_entries
from converter.vocabulary.word_piece import type_count

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles

FAIRSEQ_FILE = "sentencepiece.bpe.model"
T5_FILES = ("tokenizer.model", "spiece.model")
# XLM-RoBERTa's vocabulary begins with four special tokens where its model file has three.
FAIRSEQ = tuple(
    Piece(text, 0.0, kind)
    for text, kind in (("<s>", CONTROL), ("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN))
)
_FAIRSEQ_SHIFT = 1
_ENGINE_UNKNOWN = 2
NOMIC_MASK = 250001
"""Nomic's model file lacks the mask, which is this token."""


def t5_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys of a T5 folder; a BPE model under T5's name (Pile-T5) is SentencePiece as any other."""
    name = next((name for name in T5_FILES if files.has(name)), "")
    if not name:
        return json_entries(files, config, n_vocab)
    model = read_model(read_bounded(files.folder / name, MODEL_LIMIT))
    if model.kind == BPE:
        return sentencepiece_entries(files, config, n_vocab)
    pieces = _own(model, n_vocab)
    for text, number in added_by_name(files).items():
        if number < n_vocab:
            pieces[number] = Piece(text, ADDED_SCORE, USER_DEFINED)
    return _written(files, config, pieces, model)


def fairseq_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int, mask: int = 0) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys of an XLM-RoBERTa folder. ``mask``: the number of a mask that the file lacks."""
    segments = [MetaEntry("tokenizer.ggml.token_type_count", type_count(config), "UINT32")]
    if not files.has(FAIRSEQ_FILE):
        return segments + json_entries(files, config, n_vocab)
    model = read_model(read_bounded(files.folder / FAIRSEQ_FILE, MODEL_LIMIT))
    size = max(n_vocab, len(model.pieces))
    if size > n_vocab:
        raise too_many(model.pieces[-1].text, size - 1, n_vocab)
    # All others move up by one; the last, which is room of the model's own, makes place for them.
    pieces = [*FAIRSEQ, *_own(model, size)[len(FAIRSEQ) - _FAIRSEQ_SHIFT : -_FAIRSEQ_SHIFT]]
    if 0 < mask < len(pieces):
        pieces[mask] = Piece("<mask>", 0.0, CONTROL)
    return segments + _written(files, config, pieces, model)


def json_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys from a Unigram tokenizer.json, padded to ``n_vocab``."""
    found = files.unigram
    if len(found.vocab) > n_vocab:
        raise too_many(found.vocab[-1][0], len(found.vocab) - 1, n_vocab)
    pieces = padding(n_vocab)
    for number, (text, score) in enumerate(found.vocab):
        if not math.isfinite(score):
            raise damaged(f"token {text[:40]!r} has the score {score}")
        pieces[number] = Piece(text, score, UNKNOWN if number == found.unk_id else NORMAL)
    for token in files.added_tokens:
        check_number(token.content, token.id, n_vocab)
        if token.id != found.unk_id:
            score = pieces[token.id].score if token.id < len(found.vocab) else ADDED_SCORE
            pieces[token.id] = Piece(token.content, score, CONTROL if token.special else USER_DEFINED)
    model = ModelFile([], 0, adds_space(files.outline), _squeezes(files.outline), _charsmap(files.outline.normalizer))
    return _written(files, config, pieces, model)


def _own(model: ModelFile, n_vocab: int) -> list[Piece]:
    if len(model.pieces) > n_vocab:
        raise too_many(model.pieces[-1].text, len(model.pieces) - 1, n_vocab)
    pieces = padding(n_vocab)
    for number, piece in enumerate(model.pieces):
        pieces[number] = piece._replace(type=NORMAL) if piece.type == USER_DEFINED else piece
    return pieces


def _written(files: TokenizerFiles, config: dict[str, Any], pieces: list[Piece], model: ModelFile) -> list[MetaEntry]:
    result = [
        MetaEntry("tokenizer.ggml.model", "t5", "STRING"),
        MetaEntry("tokenizer.ggml.pre", "default", "STRING"),
        *piece_entries(pieces),
        MetaEntry("tokenizer.ggml.add_space_prefix", model.prefix, "BOOL"),
        MetaEntry("tokenizer.ggml.remove_extra_whitespaces", model.squeeze, "BOOL"),
    ]
    if model.charsmap:
        charsmap = list(check_charsmap(model.charsmap))
        result.append(MetaEntry("tokenizer.ggml.precompiled_charsmap", charsmap, "ARRAY", "UINT8"))
    special = SpecialTokens(files, config, len(pieces))
    special.default("unk", unknown_piece(pieces), _ENGINE_UNKNOWN)
    return result + special.entries() + template_entries(files)


def _charsmap(normalizer: Any, depth: int = 0) -> bytes:
    """The map of characters of a ``normalizer`` object, wherever in its sequence; empty if it has none."""
    if not isinstance(normalizer, dict) or depth > 4:
        return b""
    text = normalizer.get("precompiled_charsmap")
    if isinstance(text, str):
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise damaged(f"the map of characters of tokenizer.json is no base64: {error}") from error
    steps = normalizer.get("normalizers")
    found = (_charsmap(step, depth + 1) for step in steps) if isinstance(steps, list) else iter(())
    return next(filter(None, found), b"")


def _squeezes(outline: Any) -> bool:
    """Whether a tokenizer.json drops repeated spaces: by splitting at white space, or by replacing runs of it."""
    splitting = outline.pre_tokenizer or {}
    steps = splitting.get("pretokenizers", [splitting])
    if isinstance(steps, list) and any(isinstance(s, dict) and s.get("type") == "WhitespaceSplit" for s in steps):
        return True
    normalizer = outline.normalizer or {}
    steps = normalizer.get("normalizers", [normalizer])
    for step in steps if isinstance(steps, list) else []:
        pattern = step.get("pattern") if isinstance(step, dict) else None
        if isinstance(pattern, dict) and pattern.get("Regex") == " {2,}":
            return True
    return False
