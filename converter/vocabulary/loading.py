"""tokenizer.json as the tokenizers library understands it, and what it says of each token.

The file is a stranger's: its types and sizes are checked before the library sees it, and whatever runs the file's
regular expressions has a time limit.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from converter.spec import QuenchError
from converter.vocabulary.files import MAX_PATTERN, MAX_TOKEN_ID, as_text, check_text, damaged
from converter.vocabulary.special import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import AddedToken, Tokenizer

    from converter.vocabulary.files import TokenizerFiles

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MAX_NUMBER = MAX_TOKEN_ID
SECONDS = 20.0
"""The longest that a tokenizer may take for a few short texts; usual ones take milliseconds."""
_LOOKS_SPECIAL = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
_DEEPEST = 32


def looks_special(token: str) -> bool:
    """Whether a token is a control token by its spelling; some models forget to mark theirs."""
    return token in _LOOKS_SPECIAL or any(token.startswith(a) and token.endswith(b) for a, b in _BRACKETS)


def load_tokenizer(files: TokenizerFiles, n_vocab: int) -> Tokenizer:
    """The tokenizer of tokenizer.json with what tokenizer_config.json adds to it. ``QuenchError`` ``bad_vocabulary``
    for one that the library does not take."""
    from tokenizers import AddedToken

    _check(files)
    tokenizer = from_text(as_text(files.tokenizer_bytes, "tokenizer.json"))
    try:
        _declare(tokenizer, files, n_vocab, AddedToken)
    except BaseException as error:
        raise _library_failed(error) from error
    return tokenizer


def from_text(text: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json; ``QuenchError`` ``bad_vocabulary`` for one that the library does not take."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except BaseException as error:
        raise _library_failed(error) from error
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """Token numbers of each text; ``special``: with the tokens that the post-processor adds.

    The regular expressions of a file can be made to take for ever: raises ``QuenchError`` ``bad_vocabulary`` after
    :data:`SECONDS`. A thread cannot be ended; it stops at the library's own limit for one match, or with the process.
    """
    found: list[list[int]] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.extend(each.ids for each in tokenizer.encode_batch(list(texts), add_special_tokens=special))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            failed.append(error)

    thread = threading.Thread(target=work, name="tokenizer", daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        raise damaged(f"its patterns need more than {SECONDS:.0f} seconds for {sum(map(len, texts))} characters")
    if failed:
        raise _library_failed(failed[0]) from failed[0]
    return found


def numbered(tokenizer: Tokenizer, n_vocab: int) -> tuple[list[str], list[int]]:
    """Token texts and types by number; gaps and the room up to ``n_vocab`` become unused ``[PAD<number>]``."""
    by_number = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
    if not by_number:
        raise damaged("tokenizer.json has no tokens")
    highest = max(by_number)
    if highest >= n_vocab:
        raise too_many(by_number[highest], highest, n_vocab)
    added = tokenizer.get_added_tokens_decoder()
    raw = [number for number in sorted(added) if not added[number].normalized and number in by_number]
    spelled = dict(zip(raw, _as_it_comes_back(tokenizer, [by_number[number] for number in raw]), strict=True))
    tokens, types = [], []
    for number in range(n_vocab):
        token = by_number.get(number)
        if token is None:
            tokens.append(f"[PAD{number}]")
            types.append(UNUSED)
            continue
        kind = NORMAL
        if number in added:
            token = spelled.get(number, token)
            kind = CONTROL if added[number].special or looks_special(token) else USER_DEFINED
            if kind == USER_DEFINED:
                token = token.replace("▁", " ")
        tokens.append(check_text(token, "a token"))
        types.append(kind)
    return tokens, types


def too_many(token: str, number: int, n_vocab: int) -> QuenchError:
    return QuenchError(
        "vocabulary_size",
        "The tokenizer has more tokens than the model.",
        f"Token {token[:40]!r} has number {number}, but the model has {n_vocab} tokens.",
        "The tokenizer's files belong to another model or version; download them again together.",
    )


def check_number(token: str, number: int, n_vocab: int) -> None:
    """Raises for a token that the model has no row for."""
    if not 0 <= number < min(n_vocab, MAX_TOKEN_ID):
        raise too_many(token, number, n_vocab)


def _as_it_comes_back(tokenizer: Tokenizer, tokens: list[str]) -> list[str]:
    """Added tokens as text in and out of the tokenizer makes them: the engine compares them with finished text."""
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids in encode(tokenizer, tokens)] if tokens else []


def _check(files: TokenizerFiles) -> None:
    """What the library takes on trust: the numbers of tokens, the length of patterns, the depth of nesting."""
    kind = files.kind
    if kind in ("BPE", "WordPiece"):
        for token, number in (files.bpe.vocab if kind == "BPE" else files.word_piece.vocab).items():
            if not 0 <= number < MAX_TOKEN_ID:
                raise damaged(f"token {token[:40]!r} has the number {number}")
    elif kind == "Unigram":
        if len(files.unigram.vocab) > MAX_TOKEN_ID:
            raise damaged(f"tokenizer.json has {len(files.unigram.vocab)} tokens")
    else:
        raise QuenchError(
            "unknown_tokenizer",
            "This kind of tokenizer cannot be converted.",
            f"tokenizer.json holds a {kind[:40]} model; BPE, WordPiece and Unigram are known.",
            "Look for a ready GGUF file of this model.",
        )
    for part in (files.outline.normalizer, files.outline.pre_tokenizer, files.outline.decoder):
        _check_patterns(part, 0)


def _check_patterns(part: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise damaged("tokenizer.json is nested too deeply")
    if isinstance(part, dict):
        pattern = part.get("Regex")
        if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
            raise damaged(f"tokenizer.json has a pattern of {len(pattern)} characters")
        for value in part.values():
            _check_patterns(value, depth + 1)
    elif isinstance(part, list):
        for value in part:
            _check_patterns(value, depth + 1)


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


def _library_failed(error: BaseException) -> BaseException:
    """The library reports damage as a plain Exception, and a failed assumption of its own as a PanicException, which
    derives from BaseException alone. Anything else is not the file's fault."""
    if type(error) is Exception or type(error).__name__ == "PanicException":
        return damaged(f"tokenizer.json: {error}")
    return error
