"""Texts to vectors with a model made for it. The low-level API, one text at a time.

How the vectors of a text's tokens become one is the file's own choice (``<architecture>.pooling_type``: mean, the first
token's, the last token's); where it names none it is the mean, as in sentence-transformers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from app import hardware
from app.engine import native
from app.engine.loading import load_weights, tokens_of, trained_context
from app.engine.native import DECODE_OK, lib
from app.memory_messages import Memory
from app.protocol import LoadOptions
from converter.spec import Cancelled, QuenchError

Vectors = npt.NDArray[np.float32]

MOST_TOKENS = 2048
"""Of one text, unless a longer context is asked for: all of it is looked at in one step, whose memory grows with it."""

_MEAN, _RANK = 1, 4  # enum llama_pooling_type


class Embeddings(NamedTuple):
    """``vectors`` float32 (n_texts, width) of length 1; ``tokens`` of each text; ``cut``: texts that were too long."""

    vectors: Vectors
    tokens: tuple[int, ...]
    cut: tuple[int, ...]


class Embedder:
    """A loaded embeddings model. Serves one thread. A context manager: leaving it frees the model."""

    def __init__(self, model: Any, context: Any, pooling: int, threads: int) -> None:
        self._model = model
        self._context = context
        self._vocab = lib.llama_model_get_vocab(model)
        self._has_memory = bool(lib.llama_get_memory(context))
        self.pooling = pooling
        self.threads = threads
        self.context = int(lib.llama_n_ubatch(context))
        self.context_trained = trained_context(model)
        self.width = int(lib.llama_model_n_embd(model))
        self.parameters = int(lib.llama_model_n_params(model))
        self.description = (
            native.metadata(model, "general.name") or native.metadata(model, "general.architecture") or ""
        )
        self._closed = False

    @classmethod
    def load(
        cls, path: str, options: LoadOptions | None = None, on_progress: Callable[[float], bool] | None = None
    ) -> Self:
        """Load a GGUF file.

        Raises:
            QuenchError: ``not_embedding`` for a model that writes or ranks, and as for a model that writes
                (:meth:`app.engine.model.Model.load`).
            converter.spec.Cancelled: ``on_progress`` said no.
        """
        options = options or LoadOptions()
        model = load_weights(path, options, on_progress)
        try:
            pooling = _pooling(model, path)
            tokens = options.context or min(MOST_TOKENS, trained_context(model) or 512)
            threads = options.threads or hardware.default_threads()
            params = lib.llama_context_default_params()
            # A text goes through whole: what comes later in it changes what came before.
            params.n_ctx = params.n_batch = params.n_ubatch = tokens
            params.n_seq_max = 1
            params.n_threads = params.n_threads_batch = threads
            params.embeddings = True
            # It rounds to 16 bits on the way: some 1e-4 of a vector, against a table of all pairs of tokens.
            params.flash_attn_type = native.FLASH_ATTENTION[options.flash_attention]
            params.pooling_type = pooling
            context = lib.llama_init_from_model(model, params)
            if not context:
                raise QuenchError(
                    "context_failed",
                    "The model could not be started with these options.",
                    f"Context {tokens}.\n{native.log.errors()}".strip(),
                    "Choose a smaller context.",
                    exit_status=4,
                )
        except BaseException:
            lib.llama_model_free(model)
            raise
        return cls(model, context, pooling, threads)

    def embed(self, texts: Sequence[str], *, cancelled: Callable[[], bool] = lambda: False) -> Embeddings:
        """A vector for each text. A text that is longer than the context is cut at its end.

        Raises:
            QuenchError: ``empty_text`` (its place in the detail), ``embedding_failed``.
            converter.spec.Cancelled: ``cancelled`` said so between two texts.
        """
        vectors = np.empty((len(texts), self.width), np.float32)
        counts, cut = [], []
        for index, text in enumerate(texts):
            if cancelled():
                raise Cancelled
            tokens = tokens_of(self._vocab, text, special=False, ends=True)
            if not text.strip() or not tokens:
                raise QuenchError("empty_text", "A text is empty.", f"Text {index + 1} has no words.", "Leave it out.")
            if len(tokens) > self.context:
                cut.append(index)
                tokens = [*tokens[: self.context - 1], tokens[-1]]  # the mark of the end stays the last one
            counts.append(len(tokens))
            vectors[index] = self._vector(tokens)
        return Embeddings(vectors, tuple(counts), tuple(cut))

    def memory(self) -> Memory:
        """What the process takes now."""
        process = hardware.process_memory()
        sizes = native.log.buffers()
        weights = int(lib.llama_model_size(self._model))
        return Memory(process.anonymous, process.share, process.peak, weights, sizes["kv"], sizes["compute"])

    def close(self) -> None:
        """Free the model."""
        if not self._closed:
            self._closed = True
            lib.llama_free(self._context)
            lib.llama_model_free(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _vector(self, tokens: list[int]) -> Vectors:
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for place, token in enumerate(tokens):
                batch.token[place] = token
                batch.pos[place] = place
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = 0
                batch.logits[place] = True
            if self._has_memory:
                lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
                code = lib.llama_decode(self._context, batch)
            else:
                code = lib.llama_encode(self._context, batch)
        finally:
            lib.llama_batch_free(batch)
        found = lib.llama_get_embeddings_seq(self._context, 0) if code == DECODE_OK else None
        if not found:
            raise _failed(f"The engine answered {code}.\n{native.log.errors()}".strip())
        raw = ctypes.cast(found, ctypes.POINTER(ctypes.c_float * self.width)).contents
        vector = np.array(raw, np.float64)
        length = float(np.sqrt(vector @ vector))
        if not np.isfinite(length) or length == 0.0:
            raise _failed("A vector is zero or not finite.")
        return (vector / length).astype(np.float32)


def _pooling(model: Any, path: str) -> int:
    """How the file wants the tokens' vectors to become one; ``not_embedding`` if it is not made for vectors."""
    architecture = native.metadata(model, "general.architecture") or ""
    pooling = int(native.metadata_number(model, f"{architecture}.pooling_type") or 0)
    if pooling == _RANK:
        raise _not_embedding("This model ranks pairs of texts; it makes no vectors.", path, architecture)
    encodes = native.metadata(model, f"{architecture}.attention.causal") == "false"
    if (not encodes and pooling <= 0) or (lib.llama_model_has_encoder(model) and lib.llama_model_has_decoder(model)):
        raise _not_embedding("This model is not made for vectors.", path, architecture)
    return pooling if pooling > 0 else _MEAN


def _not_embedding(title: str, path: str, architecture: str) -> QuenchError:
    return QuenchError("not_embedding", title, f"{path} ({architecture})", "Choose an embeddings model.")


def _failed(detail: str) -> QuenchError:
    return QuenchError(
        "embedding_failed", "The engine made no vector.", detail, "The model file may be damaged: convert it again."
    )


__all__ = ["Embedder", "Embeddings"]
