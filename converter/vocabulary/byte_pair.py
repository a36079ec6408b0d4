"""Byte-level BPE (GGUF's ``gpt2``) from tokenizer.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.vocabulary.loading import load_tokenizer, numbered
from converter.vocabulary.pretokenizer import ADDS_BOS, recognise
from converter.vocabulary.special import SpecialTokens, merge_lines, template_entries

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles


def entries(
    files: TokenizerFiles, config: dict[str, Any], n_vocab: int, accepted: str | None = None
) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys for a byte-level BPE vocabulary padded to ``n_vocab`` tokens.

    ``accepted`` names a pre-tokenizer that the person chose; it is used where none is recognised. Raises
    ``QuenchError`` ``bad_vocabulary``, ``vocabulary_size`` or ``unknown_pre_tokenizer``.
    """
    tokenizer = load_tokenizer(files, n_vocab)
    name, how = recognise(files.outline, tokenizer, accepted)
    tokens, types = numbered(tokenizer, n_vocab)
    special = SpecialTokens(files, config, n_vocab)
    if how != "fingerprint" and name in ADDS_BOS:
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
    if how == "accepted":
        result.append(MetaEntry("quench.pre_tokenizer", f"{name}: chosen by hand, not recognised", "STRING"))
    return result + special.entries() + template_entries(files)
