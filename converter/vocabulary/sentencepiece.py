"""SentencePiece vocabularies (GGUF's ``llama``) from tokenizer.model, or from the tokenizer.json made of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.sources.files import read_bounded
from converter.vocabulary.files import check_text, damaged
from converter.vocabulary.loading import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    check_number,
    looks_special,
)
from converter.vocabulary.model_file import MODEL_LIMIT, Piece, read_model
from converter.vocabulary.special import SpecialTokens, merge_lines, template_entries

if TYPE_CHECKING:
    from converter.vocabulary.files import AddedToken, TokenizerFiles

PADDING_SCORE, ADDED_SCORE = -10000.0, -1000.0
_ENGINE_UNKNOWN = 0
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys from tokenizer.model, padded to ``n_vocab``."""
    pieces = model_pieces(files, n_vocab)
    for number, token in files.declared_tokens.items():
        if number < n_vocab:
            special = token.special or looks_special(token.content)
            text = token.content if special else token.content.replace("▁", " ")
            pieces[number] = Piece(text, ADDED_SCORE, CONTROL if special else USER_DEFINED)
    return written(files, config, pieces)


def declared_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """As :func:`entries`, for families whose added tokens are taken as tokenizer_config.json and tokenizer.json spell
    and mark them (Phi-3, InternLM 2)."""
    pieces = model_pieces(files, n_vocab)
    for number, token in _declared(files):
        check_number(token.content, number, n_vocab)
        pieces[number] = Piece(token.content, ADDED_SCORE, CONTROL if token.special else USER_DEFINED)
    return written(files, config, pieces)


def internlm_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """As :func:`declared_entries`, with InternLM 2's habits: a token that is U+0000, which the engine takes for an
    empty text, becomes a sign of its own, and ``[UNUSED_TOKEN_...]`` are unused."""
    model = read_model(read_bounded(files.folder / "tokenizer.model", MODEL_LIMIT))
    found = {entry.key: entry for entry in declared_entries(files, config, n_vocab)}
    tokens, types = found["tokenizer.ggml.tokens"].value, found["tokenizer.ggml.token_type"].value
    declared = {number for number, _ in _declared(files)}
    for number, text in enumerate(tokens):
        if number in declared:
            continue
        if text == "\0":
            tokens[number] = "🐉"
        elif text.startswith("[UNUSED"):
            types[number] = UNUSED
    return [*found.values(), MetaEntry("tokenizer.ggml.add_space_prefix", model.prefix, "BOOL")]


def json_entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys from a BPE tokenizer.json with byte fallback, which stands for a SentencePiece model.

    The engine merges by score, highest first, so a token's score is minus the rank of the merge that makes it: the
    order in which tokenizer.json applies its merges.
    """
    bpe = files.bpe
    scores: dict[str, float] = {}
    for rank, line in enumerate(merge_lines(bpe.merges)):
        left, _, right = line.partition(" ")
        scores.setdefault(left + right, -float(rank))
    pieces = padding(n_vocab)
    for text, number in bpe.vocab.items():
        check_number(text, number, n_vocab)
        kind = BYTE if _BYTE_TOKEN.fullmatch(text) else UNKNOWN if text == bpe.unk_token else NORMAL
        pieces[number] = Piece(text, scores.get(text, ADDED_SCORE if kind == NORMAL else 0.0), kind)
    declared = {token.id: token for token in files.added_tokens} | files.declared_tokens
    for number, token in declared.items():
        check_number(token.content, number, n_vocab)
        if pieces[number].type == UNKNOWN:
            continue
        special = token.special or looks_special(token.content)
        # The engine looks for user-defined tokens in the text as it comes, where spaces are spaces.
        text = token.content if special else token.content.replace("▁", " ")
        pieces[number] = Piece(text, ADDED_SCORE, CONTROL if special else USER_DEFINED)
    return written(files, config, pieces) + _prefix(files)


def padding(n_vocab: int) -> list[Piece]:
    return [Piece(f"[PAD{i}]", PADDING_SCORE, UNUSED) for i in range(n_vocab)]


def model_pieces(files: TokenizerFiles, n_vocab: int) -> list[Piece]:
    """tokenizer.model and added_tokens.json, padded to ``n_vocab`` and cut there."""
    pieces = padding(n_vocab)
    model = read_model(read_bounded(files.folder / "tokenizer.model", MODEL_LIMIT))
    for number, piece in enumerate(model.pieces[:n_vocab]):
        # The engine treats user-defined pieces of the model itself as ordinary ones.
        pieces[number] = piece._replace(type=NORMAL) if piece.type == USER_DEFINED else piece
    for text, number in added_by_name(files).items():
        if number < n_vocab:
            pieces[number] = Piece(text, ADDED_SCORE, USER_DEFINED)
    return pieces


def added_by_name(files: TokenizerFiles) -> dict[str, int]:
    """added_tokens.json, checked."""
    found = files.optional_json("added_tokens.json")
    for text, number in found.items():
        if type(number) is not int or number < 0:
            raise damaged(f"added_tokens.json gives {text[:40]!r} the number {str(number)[:40]!r}")
    return found


def unknown_piece(pieces: list[Piece]) -> int | None:
    return next((number for number, piece in enumerate(pieces) if piece.type == UNKNOWN), None)


def written(files: TokenizerFiles, config: dict[str, Any], pieces: list[Piece]) -> list[MetaEntry]:
    special = SpecialTokens(files, config, len(pieces))
    special.default("unk", unknown_piece(pieces), _ENGINE_UNKNOWN)
    return [
        MetaEntry("tokenizer.ggml.model", "llama", "STRING"),
        MetaEntry("tokenizer.ggml.pre", "default", "STRING"),
        *piece_entries(pieces),
        *special.entries(),
        *template_entries(files),
    ]


def piece_entries(pieces: list[Piece]) -> list[MetaEntry]:
    return [
        MetaEntry("tokenizer.ggml.tokens", [check_text(p.text, "a token") for p in pieces], "ARRAY", "STRING"),
        MetaEntry("tokenizer.ggml.scores", [p.score for p in pieces], "ARRAY", "FLOAT32"),
        MetaEntry("tokenizer.ggml.token_type", [p.type for p in pieces], "ARRAY", "INT32"),
    ]


def _declared(files: TokenizerFiles) -> list[tuple[int, AddedToken]]:
    return [*files.declared_tokens.items(), *((token.id, token) for token in files.added_tokens)]


def _prefix(files: TokenizerFiles) -> list[MetaEntry]:
    """No space is put in front of the text where tokenizer.json has no step that does (as Gemma's)."""
    return [] if adds_space(files.outline) else [MetaEntry("tokenizer.ggml.add_space_prefix", False, "BOOL")]


def adds_space(outline: Any) -> bool:
    """Whether a tokenizer.json puts a space in front of the text."""
    steps = [*_steps(outline.normalizer, "normalizers"), *_steps(outline.pre_tokenizer, "pretokenizers")]
    for step in steps:
        if step.get("type") == "Prepend" and step.get("prepend"):
            return True
        if step.get("type") == "Metaspace":
            if "prepend_scheme" in step:
                return bool(step["prepend_scheme"] != "never")
            return step.get("add_prefix_space") is not False
    return False


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if not part:
        return []
    steps = part.get(name, [part])
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
