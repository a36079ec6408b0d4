"""The engine's tokenizer alone: the vocabulary of a GGUF file without its weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from app.engine.loading import check_file, load_error
from app.engine.native import lib


def vocabulary_tokens(path: str, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """What the engine makes of each text with the vocabulary of a GGUF file; texts of special tokens become these,
    and nothing is put in front or behind. Raises ``QuenchError`` as :func:`app.engine.loading.check_file` and
    ``load_failed``."""
    check_file(path)
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise load_error(path)
    try:
        vocab = lib.llama_model_get_vocab(model)
        return [_tokens(vocab, text) for text in texts]
    finally:
        lib.llama_model_free(model)


def _tokens(vocab: object, text: str) -> tuple[int, ...]:
    data = text.encode("utf-8", "replace")
    size = len(data) + 8
    while True:
        tokens = (ctypes.c_int32 * size)()
        count = int(lib.llama_tokenize(vocab, data, len(data), tokens, size, False, True))
        if count >= 0:
            return tuple(tokens[:count])
        size = -count
