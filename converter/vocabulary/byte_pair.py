"""Byte-level BPE (GGUF's ``gpt2``) from tokenizer.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.spec import QuenchError
from converter.vocabulary.files import MAX_TOKEN_ID, as_text, check_text, damaged
from converter.vocabulary.pretokenizer import ADDS_BOS, recognise
from converter.vocabulary.special import NAMES, SpecialTokens, merge_lines, template_entries

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

    from converter.vocabulary.files import TokenizerFiles

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_LOOKS_SPECIAL = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


def looks_special(token: str) -> bool:
    """Whether a token is a control token by its spelling; some models forget to mark theirs."""
    return token in _LOOKS_SPECIAL or any(token.startswith(a) and token.endswith(b) for a, b in _BRACKETS)


def entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys for a byte-level BPE vocabulary padded to ``n_vocab`` tokens.

    Raises ``QuenchError`` ``bad_vocabulary``, ``vocabulary_size`` or ``unknown_pre_tokenizer``.
    """
    tokenizer = load_tokenizer(files, n_vocab)
    name, how = recognise(files.outline, tokenizer)
    tokens, types = _tokens(tokenizer, n_vocab)
    special = SpecialTokens(files, config, n_vocab)
    if how == "structure" and name in ADDS_BOS:
        # This tokenizer adds a token in front only if it says so; the pre-tokenizer's default would do it always.
        special.flags.setdefault("bos", False)
    merges = merge_lines(files.bpe.merges)
    result = [
        MetaEntry("tokenizer.ggml.model", "gpt2", "STRING"),
        MetaEntry("tokenizer.ggml.pre", name, "STRING"),
        MetaEntry("tokenizer.ggml.tokens", tokens, "ARRAY", "STRING"),
        MetaEntry("tokenizer.ggml.token_type", types, "ARRAY", "INT32"),
    ]
    if merges:
        result.append(MetaEntry("tokenizer.ggml.merges", merges, "ARRAY", "STRING"))
    return result + special.entries() + template_entries(files)


def load_tokenizer(files: TokenizerFiles, n_vocab: int) -> Tokenizer:
    """The tokenizer of tokenizer.json with what tokenizer_config.json adds to it."""
    from tokenizers import AddedToken, Tokenizer

    bpe = files.bpe  # typed and checked before the library sees the file
    for token, number in bpe.vocab.items():
        if not 0 <= number < MAX_TOKEN_ID:
            raise damaged(f"token {token[:40]!r} has the number {number}")
    text = as_text(files.tokenizer_bytes, "tokenizer.json")
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _declare(tokenizer, files, n_vocab, AddedToken)
    except BaseException as error:
        # The library reports damage as a plain Exception, and a failed assumption of its own as a PanicException,
        # which derives from BaseException alone.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise damaged(f"tokenizer.json: {error}") from error
    return tokenizer


def _declare(tokenizer: Tokenizer, files: TokenizerFiles, n_vocab: int, kind: type[AddedToken]) -> None:
    """Adds what tokenizer_config.json declares: its numbered tokens with their flags, then the named special ones."""
    for number, token in sorted(files.declared_tokens.items()):
        if number < n_vocab:
            tokenizer.add_tokens(
                [
                    kind(
                        token.content,
                        single_word=token.single_word,
                        lstrip=token.lstrip,
                        rstrip=token.rstrip,
                        normalized=token.normalized,
                        special=token.special,
                    )
                ]
            )
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    for name in NAMES:
        entry = files.config.get(f"{name}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(content, str) and content and content not in known:
            room = tokenizer.get_vocab_size(with_added_tokens=True) < n_vocab
            if tokenizer.token_to_id(content) is not None or room:
                tokenizer.add_special_tokens([content])


def _tokens(tokenizer: Tokenizer, n_vocab: int) -> tuple[list[str], list[int]]:
    """Token texts and types by number; gaps and the room up to ``n_vocab`` become unused ``[PAD<number>]``."""
    by_number = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    if not by_number:
        raise damaged("tokenizer.json has no tokens")
    highest = max(by_number)
    if highest >= n_vocab:
        raise QuenchError(
            "vocabulary_size",
            "The tokenizer has more tokens than the model.",
            f"Token {by_number[highest][:40]!r} has number {highest}, but the model has {n_vocab} tokens.",
            "The tokenizer's files belong to another model or version; download them again together.",
        )
    added = tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for number in range(n_vocab):
        token = by_number.get(number)
        if token is None:
            tokens.append(f"[PAD{number}]")
            types.append(UNUSED)
            continue
        kind = NORMAL
        if number in added:
            if not added[number].normalized:
                ids = tokenizer.encode(token, add_special_tokens=False).ids
                token = tokenizer.decode(ids, skip_special_tokens=False)
            kind = CONTROL if added[number].special or looks_special(token) else USER_DEFINED
            if kind == USER_DEFINED:
                token = token.replace("▁", " ")
        tokens.append(check_text(token, "a token"))
        types.append(kind)
    return tokens, types
