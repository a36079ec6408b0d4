"""The engine's tokenizer alone: the vocabulary of a GGUF file without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from app.engine import native
from app.engine.loading import check_file, load_error, text_of, tokens_of
from app.engine.native import lib

_CONTROL = 1 << 3  # enum llama_token_attr


class Vocabulary:
    """A vocabulary in the engine. A context manager; one object serves one thread.

    Raises ``QuenchError`` as :func:`app.engine.loading.check_file` and ``load_failed``.
    """

    def __init__(self, path: str) -> None:
        check_file(path)
        native.start()
        native.log.clear()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self._model = lib.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise load_error(path)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.size = int(lib.llama_vocab_n_tokens(self._vocab))

    def tokens(self, text: str, *, special: bool = True, ends: bool = False) -> tuple[int, ...]:
        """Tokens of ``text``. ``special``: texts of special tokens become these; ``ends``: with what the model puts in
        front and behind."""
        return tuple(tokens_of(self._vocab, text, special=special, ends=ends))

    def data(self, token: int) -> bytes:
        """The bytes that a token stands for; of a special one its name."""
        self._check(token)
        return text_of(lambda buffer, size: lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, True))

    def spelling(self, token: int) -> str:
        """A token as the vocabulary lists it."""
        self._check(token)
        return (lib.llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    def is_special(self, token: int) -> bool:
        """Whether it is a control token or ends a reply."""
        self._check(token)
        attributes = int(lib.llama_vocab_get_attr(self._vocab, token))
        return bool(attributes & _CONTROL) or bool(lib.llama_vocab_is_eog(self._vocab, token))

    def named(self) -> dict[str, str]:
        """Texts of ``bos_token`` and ``eos_token``, where the file itself names them."""
        found = {}
        for name, ask in (("bos", lib.llama_vocab_bos), ("eos", lib.llama_vocab_eos)):
            if native.metadata(self._model, f"tokenizer.ggml.{name}_token_id") is not None:
                token = int(ask(self._vocab))
                if 0 <= token < self.size:
                    found[f"{name}_token"] = self.data(token).decode("utf-8", "replace")
        return found

    def close(self) -> None:
        if self._model:
            lib.llama_model_free(self._model)
            self._model = None

    def _check(self, token: int) -> None:
        if not 0 <= token < self.size:
            raise ValueError(f"token {token} of {self.size}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def vocabulary_tokens(path: str, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """What the engine makes of each text with the vocabulary of a GGUF file; texts of special tokens become these,
    and nothing is put in front or behind. Raises ``QuenchError`` as :class:`Vocabulary`."""
    with Vocabulary(path) as vocabulary:
        return [vocabulary.tokens(text) for text in texts]
