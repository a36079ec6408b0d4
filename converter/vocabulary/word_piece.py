"""WordPiece (GGUF's ``bert``) from tokenizer.json or vocab.txt.

WordPiece marks what continues a word (``##ing``); GGUF marks what begins one, with U+2581 as SentencePiece does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.spec import QuenchError
from converter.vocabulary.loading import CONTROL, load_tokenizer, numbered
from converter.vocabulary.pretokenizer import known_name
from converter.vocabulary.special import SpecialTokens, template_entries

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles

# Where config.json is silent: what transformers assumes for these.
_TWO_SEGMENTS = frozenset({"bert", "camembert", "roberta", "xlm-roberta", "nomic_bert"})
# Special tokens and the numbers that the engine takes for them.
_USUAL = {
    "unk": ("[UNK]", 100),
    "bos": ("[CLS]", 101),
    "sep": ("[SEP]", 102),
    "mask": ("[MASK]", 103),
    "pad": ("[PAD]", 0),
}
_CONTINUES, _BEGINS = "##", "▁"


def entries(files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> list[MetaEntry]:
    """All ``tokenizer.*`` keys for a WordPiece vocabulary padded to ``n_vocab`` tokens. Raises ``QuenchError``."""
    prefix = files.word_piece.continuing_subword_prefix
    splitting = (files.outline.pre_tokenizer or {}).get("type")
    if prefix != _CONTINUES or splitting != "BertPreTokenizer":
        raise QuenchError(
            "unknown_tokenizer",
            "The engine does not split text like this tokenizer.",
            f"It marks continuations with {prefix[:20]!r} and splits by {str(splitting)[:40]}; known is BERT's.",
            "Look for a ready GGUF file of this model.",
        )
    tokenizer = load_tokenizer(files, n_vocab)
    tokens, types = numbered(tokenizer, n_vocab)
    special = SpecialTokens(files, config, n_vocab)
    if not files.has("tokenizer.json"):  # vocab.txt says nothing of them, and the engine takes BERT's own numbers
        numbers = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
        for name, (text, number) in _USUAL.items():
            special.default(name, numbers.get(text), number)
    # The engine does not look at the name; it is written because other programs show it.
    name = known_name(tokenizer) or "default"
    return [
        MetaEntry("tokenizer.ggml.token_type_count", type_count(config), "UINT32"),
        MetaEntry("tokenizer.ggml.model", "bert", "STRING"),
        MetaEntry("tokenizer.ggml.pre", name, "STRING"),
        MetaEntry("tokenizer.ggml.tokens", list(map(_marked, tokens, types)), "ARRAY", "STRING"),
        MetaEntry("tokenizer.ggml.token_type", types, "ARRAY", "INT32"),
        *special.entries(),
        *template_entries(files),
    ]


def type_count(config: dict[str, Any]) -> int:
    """How many segments a text can have (BERT's sentence A and B)."""
    count = config.get("type_vocab_size")
    if type(count) is int and 0 <= count < 1 << 16:
        return count
    return 2 if config.get("model_type") in _TWO_SEGMENTS else 1


def _marked(token: str, kind: int) -> str:
    if kind == CONTROL:
        return token
    return token[len(_CONTINUES) :] if token.startswith(_CONTINUES) else _BEGINS + token
