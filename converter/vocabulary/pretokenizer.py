"""Which of the engine's pre-tokenizers a byte-level BPE vocabulary needs.

A known fingerprint decides. Else the structure of tokenizer.json does: the steps of ``pre_tokenizer`` and their
regular expressions are brought into one spelling and looked up. What matches neither is refused, with the nearest
known ones named and the texts on which they part: a wrong pre-tokenizer makes a model quietly worse, so that only a
person may choose one.
"""

from __future__ import annotations

import difflib
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from converter.spec import QuenchError
from converter.vocabulary.fingerprints import CHECK_TEXT, FINGERPRINTS
from converter.vocabulary.loading import encode, from_text
from converter.vocabulary.texts import HARD_TEXTS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from converter.vocabulary.files import Outline

# English contractions, any case; the same thing is spelled in several ways.
_CONTRACTIONS = "<contractions>"
_SPELLINGS = (
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", _CONTRACTIONS),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),
    ("'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),
    ("'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])", _CONTRACTIONS),
    ("\\p{N}{1}", "\\p{N}"),
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
_DIGIT, _DIGITS, _NUMBER = "\\p{N}", "\\p{N}{1,3}", "\\p{N}+"
_GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
_BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"
_NO_BREAKS = " ?[^\\s\\p{L}\\p{N}\\r\\n]+"
_LONG_RUNS = "|".join(
    ("\\s*[\\r\\n]", *(f"\\s{{{n}}}(?!\\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)), "\\s{1,2}(?!\\S)", "\\s{1}")
)
# DeepSeek LLM lists its letters and signs.
_DEEPSEEK_LETTERS = (
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-"
    "\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
)
_DEEPSEEK_SIGNS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_YOUTU_SCRIPTS = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
_EXAONE_WORDS = "[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+"


def _any(*alternatives: str) -> str:
    return "|".join(alternatives)


_CL100K = _any(_CONTRACTIONS, _WORDS, _DIGITS, _SIGNS, _SPACES)
_QWEN2 = _any(_CONTRACTIONS, _WORDS, _DIGIT, _SIGNS, _SPACES)
_TEKKEN = _any(*_CASED, _DIGIT, _SLASH_SIGNS, _SPACES)
_O200K = _any(*(f"{w}{_CONTRACTIONS}?" for w in _CASED), _DIGITS, _SLASH_SIGNS, _SPACES)
_YOUTU = _any(*(f"{w}{_CONTRACTIONS}?" for w in _CASED), _DIGIT, _SLASH_SIGNS, _SPACES)
_V3 = _any(_ASCII_SIGN, _V3_WORDS, _V3_SIGNS, _SPACES)

# Steps in one spelling -> (name, name if whole words are looked up before merges apply). An empty first name: the
# engine always looks up whole words with it.
_STRUCTURES: dict[tuple[str, ...], tuple[str, str]] = {
    ("bytes+words",): ("gpt-2", ""),
    (_GPT2, "bytes"): ("gpt-2", ""),
    (_DIGIT, "bytes+words"): ("smollm", ""),
    (_DIGIT, _GPT2, "bytes"): ("smollm", ""),
    ("punctuation:contiguous", "bytes+words", "[0-9][0-9][0-9]"): ("falcon", ""),
    (_CL100K, "bytes"): ("smaug-bpe", "llama-bpe"),
    (_any(_CONTRACTIONS, _WORDS, _DIGITS, _SIGNS, _LONG_RUNS), "bytes"): ("jais-2", ""),
    (_QWEN2, "bytes"): ("qwen2", ""),
    (_any(_CONTRACTIONS, _MARKED_WORDS, _DIGIT, _MARKED_SIGNS, _SPACES), "bytes"): ("qwen35", ""),
    (_any(_CONTRACTIONS, _WORDS, _DIGIT, _NO_BREAKS, _SPACES), "bytes"): ("seed-coder", ""),
    (_any(_CONTRACTIONS, _EXAONE_WORDS, _DIGIT, " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?", _SPACES), "bytes"): (
        "exaone-moe",
        "",
    ),
    (_DIGITS, _any(_CONTRACTIONS, _WORDS, _NUMBER, _SIGNS, _SPACES), "bytes"): ("", "minicpm5"),
    ("[^\\n]+|[\\n]+", _QWEN2, "bytes"): ("laguna", ""),
    (_any(_WORDS, _DIGIT, _SIGNS, _SPACES), "bytes"): ("ufakzeka", ""),
    (_TEKKEN, "bytes"): ("", "tekken"),
    (_O200K, "bytes"): ("gpt-4o", ""),
    ("\\d{1,3}(?=(?:\\d{3})*\\b)", _O200K, "bytes"): ("tiny_aya", ""),
    (_YOUTU_SCRIPTS, _YOUTU, "bytes"): ("", "youtu"),
    (_DIGITS, _CJK, _V3, "bytes"): ("deepseek-v3", ""),
    ("[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", _DEEPSEEK_CJK, _DIGIT, "bytes"): ("deepseek-coder", ""),
    ("[\\r\\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_SIGNS, "\\s+$", _DEEPSEEK_CJK, _DIGIT, "bytes"): ("deepseek-llm", ""),
    (_BLOOM, "bytes"): ("bloom", ""),
    (_BLOOM, _DIGIT, "bytes"): ("viking", ""),
    (_NUMBER, "(?=(\\d{3})+(?!\\d))", "bytes"): ("superbpe", ""),
}
# These pre-tokenizers put a beginning-of-text token in front unless the file says otherwise.
ADDS_BOS = frozenset(
    {"llama-bpe", "tekken", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "chameleon"}
)
NAMES = frozenset(FINGERPRINTS.values()) - {"bert-bge-large", "jina-v2-en"} | {"mpt", "default"}
"""The engine's names for byte-level vocabularies."""
_TRIED, _OFFERED, _SHOWN = 5, 3, 3


def known_name(tokenizer: Tokenizer) -> str:
    """The name under which the tokenizer is known; empty if it is not.

    The sum is that of the tokens with the special ones that a class adds; not every tokenizer.json says that it does,
    so that those without and those with the beginning-of-text token in front are looked up too.
    """
    full, bare = encode(tokenizer, [CHECK_TEXT], special=True)[0], encode(tokenizer, [CHECK_TEXT])[0]
    for ids in (full, bare):
        name = FINGERPRINTS.get(sha256(str(ids).encode()).hexdigest())
        if name:
            return name
    return ""


def recognise(outline: Outline, tokenizer: Tokenizer | None, accepted: str | None = None) -> tuple[str, str]:
    """``(name, how)`` with ``how`` ``fingerprint``, ``structure`` or ``accepted``; without a tokenizer only the
    structure is looked at.

    ``accepted`` is used where nothing is recognised. Raises ``QuenchError`` ``unknown_pre_tokenizer`` naming the
    nearest, with the texts on which they differ where there is a tokenizer.
    """
    if accepted is not None and accepted not in NAMES:
        raise QuenchError(
            "unknown_pre_tokenizer",
            "The engine does not know this pre-tokenizer.",
            f"{accepted[:60]!r} is none of {', '.join(sorted(NAMES))}.",
            "Choose one of them, or none.",
            exit_status=2,
        )
    name = known_name(tokenizer) if tokenizer is not None else ""
    if name in NAMES:
        return name, "fingerprint"
    steps = structure(outline.pre_tokenizer)
    plain, whole_words = _STRUCTURES.get(steps, ("", ""))
    name = whole_words if outline.model.ignore_merges and whole_words else plain
    if name:
        return name, "structure"
    if accepted is not None:
        return accepted, "accepted"
    raise _not_known(steps, plain or whole_words, tokenizer)


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
        return _DIGIT if step.get("individual_digits") else _NUMBER
    if kind == "Punctuation":
        return f"punctuation:{str(step.get('behavior', 'Isolated')).lower()[:20]}"
    if kind == "Split":
        pattern = step.get("pattern")
        pattern = pattern if isinstance(pattern, dict) else {}
        regex = pattern.get("Regex")
        # Keeping the matches, or removing what lies between them: the same where the matches cover everything.
        keeps = (step.get("behavior"), bool(step.get("invert"))) in {("Isolated", False), ("Removed", True)}
        if isinstance(regex, str) and keeps:
            return _one_spelling(regex)
    return f"!{kind}"


def _one_spelling(regex: str) -> str:
    regex = regex.replace("\r", "\\r").replace("\n", "\\n")
    for spelling, common in _SPELLINGS:
        regex = regex.replace(spelling, common)
    return regex


def _not_known(steps: tuple[str, ...], almost: str, tokenizer: Tokenizer | None) -> QuenchError:
    """The error for a splitting that is not known: the nearest names, and texts on which they part from this one."""
    text = " then ".join(steps)
    scored = sorted(
        (
            (
                difflib.SequenceMatcher(None, text, " then ".join(known), autojunk=False).ratio(),
                names[0] or names[1],
                known,
            )
            for known, names in _STRUCTURES.items()
        ),
        reverse=True,
    )
    names, detail = [name for _, name, _ in scored], ""
    if tokenizer is not None:
        tried = [(name, _differences(tokenizer, known)) for _, name, known in scored[:_TRIED]]
        # Those that differ on the fewest texts first; what could not be tried last.
        tried.sort(key=lambda each: len(HARD_TEXTS) + 1 if each[1] is None else len(each[1]))
        names = [name for name, _ in tried]
        detail = "".join(f"\n{_in_words(name, found)}" for name, found in tried[:_OFFERED])
    offered = tuple(dict.fromkeys([*([almost] if almost else []), *names]))[:_OFFERED]
    nearest = offered[0]
    if almost:
        detail = f"It splits like {almost!r} but applies its merges in another way.{detail}"
    else:
        detail = f"Nearest is {nearest!r}.{detail}"
    return QuenchError(
        "unknown_pre_tokenizer",
        "The way this model splits text is not known to the engine.",
        f"{detail}\nSteps: {text[:300] or 'none'}.\nOn the command line: --pre-tokenizer {nearest}.",
        f"If the differences do not matter to you, choose one of {', '.join(offered)}. "
        "Else look for a ready GGUF file of this model.",
        choices=offered,
    )


def _differences(tokenizer: Tokenizer, known: tuple[str, ...]) -> list[str] | None:
    """The texts that the tokenizer encodes in another way than with the splitting ``known`` in place of its own; None
    where that cannot be tried."""
    whole = json.loads(tokenizer.to_str())
    whole["pre_tokenizer"] = _runnable(known)
    try:
        ours, theirs = encode(tokenizer, HARD_TEXTS), encode(from_text(json.dumps(whole)), HARD_TEXTS)
    except QuenchError:  # only the comparison is lost
        return None
    return [text for text, a, b in zip(HARD_TEXTS, ours, theirs, strict=True) if a != b]


def _in_words(name: str, found: list[str] | None) -> str:
    if found is None:
        return f"{name}: could not be compared."
    if not found:
        return f"{name}: no difference in {len(HARD_TEXTS)} texts."
    shown = ", ".join(json.dumps(text, ensure_ascii=False)[:60] for text in found[:_SHOWN])
    return f"{name}: differs in {len(found)} of {len(HARD_TEXTS)} texts, such as {shown}."


def _runnable(steps: tuple[str, ...]) -> dict[str, Any]:
    """A ``pre_tokenizer`` object for steps in one spelling."""
    found: list[dict[str, Any]] = []
    for step in steps:
        if step.startswith("bytes"):
            words = step == "bytes+words"
            found.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words})
        elif step.startswith("punctuation:"):
            found.append({"type": "Punctuation", "behavior": step.partition(":")[2].capitalize()})
        else:
            regex = step.replace(_CONTRACTIONS, _SPELLINGS[0][0])
            found.append({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False})
    return {"type": "Sequence", "pretokenizers": found}
