"""Which of the engine's pre-tokenizers a byte-level BPE vocabulary needs.

A known fingerprint decides. Else the structure of tokenizer.json does: the steps of ``pre_tokenizer`` and their
regular expressions are brought into one spelling and looked up. What matches neither is refused, with the nearest
known one named: a wrong pre-tokenizer makes a model quietly worse.
"""

from __future__ import annotations

import difflib
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from converter.spec import QuenchError
from converter.vocabulary.fingerprints import CHECK_TEXT, FINGERPRINTS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from converter.vocabulary.files import Outline

# English contractions, any case; the same thing is spelled in several ways.
_CONTRACTIONS = "<contractions>"
_SPELLINGS = (
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", _CONTRACTIONS),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),
    ("'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),
    ("\\p{N}{1}", "\\p{N}"),
    ("[0-9]", "\\d"),
    # Possessive quantifiers only save time here: nothing that follows could take a character back.
    ("?+", "?"),
    ("++", "+"),
    # A greedy \s* has already taken the line breaks.
    ("\\s*[\\r\\n]+", "\\s*[\\r\\n]"),
)
_WORDS = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
_MARKED_WORDS = "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+"
_MARKED_SIGNS = " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
_SIGNS = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
_SPACES = "\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
_UPPER, _LOWER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
_LEAD = "[^\\r\\n\\p{L}\\p{N}]?"
_CASED = (f"{_LEAD}{_UPPER}*{_LOWER}+", f"{_LEAD}{_UPPER}+{_LOWER}*")
_SLASH_SIGNS = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_SIGN = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
_V3_WORDS = "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
_V3_SIGNS = " ?[\\p{P}\\p{S}]+[\\r\\n]*"
_DIGIT, _DIGITS = "\\p{N}", "\\p{N}{1,3}"


def _any(*alternatives: str) -> str:
    return "|".join(alternatives)


# Steps in one spelling -> (name, name if whole words are looked up before merges apply).
_STRUCTURES: dict[tuple[str, ...], tuple[str, str]] = {
    ("bytes+words",): ("gpt-2", ""),
    ("digits:1", "bytes+words"): ("smollm", ""),
    (_any(_CONTRACTIONS, _WORDS, _DIGITS, _SIGNS, _SPACES), "bytes"): ("smaug-bpe", "llama-bpe"),
    (_any(_CONTRACTIONS, _WORDS, _DIGIT, _SIGNS, _SPACES), "bytes"): ("qwen2", ""),
    (_any(_CONTRACTIONS, _MARKED_WORDS, _DIGIT, _MARKED_SIGNS, _SPACES), "bytes"): ("qwen35", ""),
    (_any(_WORDS, _DIGIT, _SIGNS, _SPACES), "bytes"): ("ufakzeka", ""),
    (_any(*_CASED, _DIGIT, _SLASH_SIGNS, _SPACES), "bytes"): ("", "tekken"),
    (_any(*(f"{w}{_CONTRACTIONS}?" for w in _CASED), _DIGITS, _SLASH_SIGNS, _SPACES), "bytes"): ("gpt-4o", ""),
    (_DIGITS, _CJK, _any(_ASCII_SIGN, _V3_WORDS, _V3_SIGNS, _SPACES), "bytes"): ("deepseek-v3", ""),
    ("[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "digits:1", "bytes"): ("deepseek-coder", ""),
}
# These pre-tokenizers put a beginning-of-text token in front unless the file says otherwise.
ADDS_BOS = frozenset({"llama-bpe", "tekken", "falcon3", "pixtral", "midm-2.0"})


def fingerprint(tokenizer: Tokenizer) -> str:
    """The sum under which a tokenizer is known, 64 hexadecimal digits."""
    ids = tokenizer.encode(CHECK_TEXT).ids
    return sha256(str(ids).encode()).hexdigest()


def recognise(outline: Outline, tokenizer: Tokenizer | None) -> tuple[str, str]:
    """``(name, how)`` with ``how`` ``fingerprint`` or ``structure``; without a tokenizer only the structure is looked
    at. Raises ``QuenchError`` ``unknown_pre_tokenizer`` naming the nearest."""
    if tokenizer is not None:
        known = FINGERPRINTS.get(fingerprint(tokenizer))
        if known:
            return known, "fingerprint"
    steps = structure(outline.pre_tokenizer)
    plain, whole_words = _STRUCTURES.get(steps, ("", ""))
    name = whole_words if outline.model.ignore_merges and whole_words else plain
    if name:
        return name, "structure"
    raise QuenchError(
        "unknown_pre_tokenizer",
        "The way this model splits text is not known to the engine.",
        _difference(steps, plain or whole_words),
        "Look for a ready GGUF file of this model, or wait for a version that knows it.",
    )


def structure(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...]:
    """The steps of a ``pre_tokenizer`` object in one spelling; steps that are not understood are marked with ``!``."""
    if not pre_tokenizer:
        return ()
    if pre_tokenizer.get("type") != "Sequence":
        return (_step(pre_tokenizer),)
    parts = pre_tokenizer.get("pretokenizers")
    if not isinstance(parts, list):
        return ("!Sequence",)
    return tuple(_step(part) if isinstance(part, dict) else "!" for part in parts[:64])


def _step(step: dict[str, Any]) -> str:
    kind = str(step.get("type"))[:40]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes+words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits":
        return "digits:1" if step.get("individual_digits") else "digits"
    if kind == "Split":
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        # Keeping the matches, or removing what lies between them: the same where the matches cover everything.
        keeps = (step.get("behavior"), bool(step.get("invert"))) in {("Isolated", False), ("Removed", True)}
        if isinstance(regex, str) and keeps and len(regex) < 10_000:
            return _one_spelling(regex)
    return f"!{kind}"


def _one_spelling(regex: str) -> str:
    regex = regex.replace("\r", "\\r").replace("\n", "\\n")
    for spelling, common in _SPELLINGS:
        regex = regex.replace(spelling, common)
    return regex


def _difference(steps: tuple[str, ...], almost: str) -> str:
    text = " then ".join(steps)
    if almost:
        return f"It splits like {almost!r} but applies its merges in another way. Steps: {text[:300]}."
    scored = [
        (difflib.SequenceMatcher(None, text, " then ".join(known), autojunk=False).ratio(), names[0] or names[1])
        for known, names in _STRUCTURES.items()
    ]
    ratio, nearest = max(scored)
    return f"Nearest is {nearest!r} ({ratio:.0%} alike). Steps: {text[:300] or 'none'}."
