"""A model in the engine: text to tokens and back, replies, logits, speed. The low-level API throughout.

One object serves one thread; only :meth:`Model.interrupt` may be called from another one.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from app import hardware
from app.adapter_messages import Adapter
from app.engine import native, threads
from app.engine.adapters import Adapters
from app.engine.capture import Watcher
from app.engine.choices import LogitsView
from app.engine.head import HeadCapture
from app.engine.held import Held, context_full
from app.engine.loading import BATCH, open_native, text_of, tokens_of, trained_context
from app.engine.native import DECODE_ABORTED, DECODE_OK, lib
from app.engine.reply import Extras, Generated, Stats, Writer, never
from app.engine.sampling import defaults_of
from app.engine.template import ChatTemplate
from app.marks import KEPT
from app.memory_messages import Memory
from app.protocol import ChatMessage, LoadOptions, Sampling
from converter.spec import Cancelled, QuenchError

Logits = npt.NDArray[np.float32]

_SENTENCEPIECE = 1  # enum llama_vocab_type


class Part(NamedTuple):
    """Tokens of one sequence for :meth:`Model.next_tokens`; ``wanted``: the token after them is asked for."""

    sequence: int
    position: int
    tokens: Sequence[int]
    wanted: bool


class Model:
    """A loaded model with one context. Make it with :meth:`load`, end it with :meth:`close`.

    Attributes:
        context: tokens that fit; ``context_trained``: tokens that the model was trained on.
        vocabulary: number of tokens, which is the width of the logits.
        template: the model's own chat template or None.
        defaults: sampling from the model's metadata, ours where it says nothing.
        held: what the context holds of earlier prompts and replies.
        bos, eos: token numbers, -1 if there is none; ``adds_bos``: a text begins with ``bos``.
        context_pointer, vocab_pointer, model_pointer: the library's own, for this package.
    """

    def __init__(self, path: str, options: LoadOptions, opened: Any, sequences: int) -> None:
        self.path = path
        self.options = options
        self.sequences = sequences
        self._model, self._context = opened.model, opened.context
        self._kv, self._compute, self._repacked = opened.kv, opened.compute, opened.repacked
        self._here: int = opened.here
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.threads: int = opened.threads
        self.prompt_threads: int = opened.threads
        described = text_of(lambda buffer, size: lib.llama_model_desc(self._model, buffer, size)).decode()
        self.description = described.replace(" ?B", "")  # what it says of a size that it has no name for
        self.parameters = int(lib.llama_model_n_params(self._model))
        room = int(lib.llama_n_ctx_seq(self._context))
        self.context = min(room, opened.positions or room)
        self.context_trained = trained_context(self._model)
        self.vocabulary = int(lib.llama_vocab_n_tokens(self._vocab))
        self.bos = self._named_token("bos", lib.llama_vocab_bos)
        self.eos = self._named_token("eos", lib.llama_vocab_eos)
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        self.defaults = defaults_of(self._model)
        raw = lib.llama_model_chat_template(self._model, None)
        self.template: str | None = raw.decode("utf-8", "replace") if raw else None
        self._outputs: int = opened.outputs
        self._batch = native.Batch(opened.batch)
        self._adapters = Adapters(path, self._model, self._context)
        self._interrupt = native.Interrupt()
        self._interrupt.attach(self._context)
        self.context_pointer, self.vocab_pointer, self.model_pointer = self._context, self._vocab, self._model
        self._token = (ctypes.c_int32 * 1)()
        self._single = lib.llama_batch_get_one(self._token, 1)
        self._writer: Writer | None = None
        self._chat: ChatTemplate | None = None
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self.held = Held(self._model, self._context, self.context, min(BATCH, self._batch.capacity))
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str,
        options: LoadOptions | None = None,
        on_progress: Callable[[float], bool] | None = None,
        *,
        outputs: int = 0,
        sequences: int = 1,
        capture: Watcher | None = None,
        repack: bool = True,
        anyway: bool = False,
    ) -> Self:
        """Load a GGUF file.

        Args:
            on_progress: called with 0..1 while weights are read; False stops the loading.
            outputs: most logits rows a decode may give (fewer need less memory); 0: as many as a batch has tokens.
            sequences: texts that :meth:`windows_logits` may put into one decode; each has the whole context.
            capture: sees the activations of every decode; it must live as long as the model.
            repack: the engine may keep a second copy of the weights in an order that suits the processor: faster for
                many tokens, not worth its time and memory for one.
            anyway: also where the cache is larger than the memory that is free.

        Raises:
            QuenchError: the codes of :func:`app.engine.loading.check_file`, ``bad_options``, ``load_failed`` (the
                detail says why), ``unsupported_architecture``, ``not_generative``, ``no_memory``, ``context_failed``.
            converter.spec.Cancelled: ``on_progress`` said no.
        """
        options = options or LoadOptions()
        callback = capture.callback if capture else None
        opened = open_native(
            path, options, on_progress, outputs, sequences, eval_callback=callback, repack=repack, anyway=anyway
        )
        model = cls(path, options, opened, sequences)
        alone = capture is None or isinstance(capture, HeadCapture)
        if alone and repack and options.threads == 0 and not options.machines:
            model._settle_threads()
        return model

    # ---- text ------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool, add_special: bool) -> list[int]:
        """Tokens of ``text``. ``special``: texts of special tokens become these; ``add_special``: BOS and EOS as the
        model wants them."""
        return tokens_of(self._vocab, text, special=special, ends=add_special)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless ``special``."""
        key = (token, special)
        piece = self._pieces.get(key)
        if piece is None:
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"token {token} of {self.vocabulary}")
            piece = text_of(lambda buffer, size: lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, special))
            self._pieces[key] = piece
        return piece

    def shown(self, token: int) -> bytes:
        """What a reply shows of a token: its bytes, and of a control token the name if it marks a part of an answer."""
        piece = self.piece(token)
        if piece:
            return piece
        name = self.piece(token, special=True)
        return name if name.decode("utf-8", "replace") in KEPT else b""

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of ``tokens``; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Whether ``token`` ends a reply (end of text, of turn, of message)."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool = True, tools: str = "") -> str:
        """The prompt for a conversation by the model's template, or ChatML; errors as in :class:`ChatTemplate`."""
        return self.chat_template().render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

    def chat_template(self) -> ChatTemplate:
        """The model's template, or ChatML, compiled once; errors as in :class:`ChatTemplate`."""
        if self._chat is None:
            names = {"bos_token": self.bos, "eos_token": self.eos}
            special = {name: self.detokenize([token], special=True) for name, token in names.items() if token >= 0}
            self._chat = ChatTemplate(self.template, special)
        return self._chat

    def prompt_tokens(self, prompt: str) -> list[int]:
        """Tokens of a rendered prompt: special tokens parsed, BOS once if the model wants it, no EOS.

        Raises:
            QuenchError: ``context_full`` for a text that cannot fit by its length alone: splitting ten megabytes into
                tokens takes seconds that nothing could interrupt.
        """
        if len(prompt) > 16 * self.context and len(prompt) > 4 * self.context * self._longest_piece():
            raise context_full(f"The prompt has {len(prompt)} characters, the context {self.context} tokens.")
        tokens = self.tokenize(prompt, special=True, add_special=False)
        if self.adds_bos and self.bos >= 0 and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        return tokens

    def opening_tokens(self) -> list[int]:
        """What stands before a text that stands by itself: the token that begins one, or where the vocabulary has none
        the token that ends one, after which models have seen texts begin. ``QuenchError`` ``empty_prompt`` without."""
        first = next((token for token in (self.bos, self.eos) if token >= 0), None)
        if first is None:
            raise QuenchError("empty_prompt", "The model has no token that begins a text.", "", "Give a prompt too.")
        return [first]

    def _named_token(self, name: str, ask: Callable[[Any], int]) -> int:
        """The token that the file itself names; where it names none the library answers with a customary number."""
        if native.metadata(self._model, f"tokenizer.ggml.{name}_token_id") is None:
            return -1
        token = int(ask(self._vocab))
        return token if 0 <= token < self.vocabulary else -1

    def _longest_piece(self) -> int:
        return max(len(self.piece(token, special=True)) for token in range(self.vocabulary))

    def continuation_tokens(self, text: str) -> list[int]:
        """Tokens of ``text`` as it stands after a prompt. It is plain text: nothing in it becomes a special token.

        Vocabularies that put a space before a text's first word would put one into the middle here: a line feed
        before the text takes it, and is taken away again.
        """
        if int(lib.llama_vocab_type(self._vocab)) != _SENTENCEPIECE:
            return self.tokenize(text, special=False, add_special=False)
        feed = self.tokenize("\n", special=False, add_special=False)
        tokens = self.tokenize("\n" + text, special=False, add_special=False)
        if tokens[: len(feed)] == feed:
            return tokens[len(feed) :]
        return self.tokenize(text, special=False, add_special=False)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """LoRA adapters in use."""
        return self._adapters.used

    @property
    def native_context(self) -> Any:
        """The library's own context, for neighbours of this module."""
        return self._context

    def use_adapters(self, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
        """Change how the model computes by exactly these LoRA adapters; what the context held is of no use then.

        Raises:
            QuenchError: as :meth:`app.engine.adapters.Adapters.use`.
        """
        if self._adapters.use(adapters):
            self.held.clear()
        return self._adapters.used

    # ---- replies ---------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Tokens in the context now."""
        return len(self.held.tokens)

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        *,
        extras: Extras | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[Generated]:
        """Answer the prompt ``tokens``, one item a token; the last item has the statistics.

        What the context still holds of an earlier prompt is not computed again. ``cancelled`` is asked between
        tokens; to stop inside a long prompt make it true, then call :meth:`interrupt`. A full context ends the reply,
        or, from ``keep`` 0 on, loses the older half of what stands behind its first ``keep`` tokens.

        Raises:
            QuenchError: ``empty_prompt``, ``context_full`` (the prompt does not fit), ``bad_sampling``,
                ``decode_failed``; with a grammar ``bad_grammar``, ``not_in_grammar``, ``grammar_dead_end``.
        """
        self._writer = Writer(self, sampling, extras or Extras())
        try:
            yield from self._writer.write(tokens, cancelled)
        finally:
            self._writer = None

    def grammar_busy(self) -> float:
        """Seconds that a constraint has been keeping the library busy, which nothing can interrupt. From any thread."""
        writer = self._writer
        restriction = writer.restriction if writer is not None else None
        since = restriction.busy_since if restriction is not None else 0.0
        return time.monotonic() - since if since else 0.0

    def interrupt(self) -> None:
        """Make the decode call in progress return. May be called from any thread; the next reply starts afresh."""
        self._interrupt.set()

    def prepare(self, tokens: Sequence[int]) -> None:
        """Before a reply to ``tokens``: forget an old interruption; errors as :meth:`generate`."""
        self._interrupt.clear()
        self._check_prompt(tokens)

    def advance_all(self, tokens: Sequence[int]) -> bool:
        """Compute a few tokens behind what is held, with the logits of each; False when it was interrupted."""
        self._batch.clear()
        self._batch.add(tokens, len(self.held.tokens), 0, 0)
        code = self._batch.decode(self._context)
        if code == DECODE_ABORTED:
            self.held.forget_after(len(self.held.tokens))
            return False
        if code != DECODE_OK:
            self.held.failed(code)
        self.held.tokens.extend(tokens)
        return True

    def likeliest(self) -> int:
        """The most probable token after what is held."""
        return int(LogitsView(self._context, self.vocabulary).now().argmax())

    def ends(self) -> bool:
        """Whether some token of the vocabulary ends a reply."""
        return any(lib.llama_vocab_is_eog(self._vocab, token) for token in range(self.vocabulary))

    def token_named(self, text: str) -> int:
        """The token whose text this is, a special one too; -1 if it is not one token."""
        tokens = self.tokenize(text, special=True, add_special=False)
        return tokens[0] if len(tokens) == 1 else -1

    def _check_prompt(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise QuenchError("empty_prompt", "There is nothing to answer.", "The prompt has no tokens.", "")
        if len(tokens) >= self.context:
            raise context_full(f"The prompt has {len(tokens)} tokens, the context {self.context}.")

    # ---- logits ----------------------------------------------------------------------------------------------

    def window_logits(self, tokens: Sequence[int], first: int) -> Logits:
        """Logits after each of the positions ``first`` ... of ``tokens``, from a clean context.

        Returns:
            float32 (len(tokens) - first, vocabulary), valid until the next call of the model.

        Raises:
            QuenchError: ``context_full``, ``decode_failed``.
            converter.spec.Cancelled: :meth:`interrupt` was called.
        """
        self._check_window(tokens, first)
        self.held.clear()
        return self._logits(tokens, 0, first)

    def windows_logits(self, windows: Sequence[Sequence[int]], first: int) -> Iterator[Logits]:
        """:meth:`window_logits` of each window, several in one decode if the model was loaded with ``sequences``.

        Each array is valid until the next one is asked for.
        """
        for window in windows:
            self._check_window(window, first)
        for at in range(0, len(windows), self.sequences):
            group = windows[at : at + self.sequences]
            rows = [len(window) - first for window in group]
            fits = sum(map(len, group)) <= self._batch.capacity and sum(rows) <= self._outputs
            if len(group) == 1 or not fits:
                for window in group:
                    yield self.window_logits(window, first)
                continue
            self.held.clear()
            self._batch.clear()
            for sequence, window in enumerate(group):
                self._batch.add(window, 0, sequence, first)
            self._decode_batch()
            logits = native.logits(self._context, sum(rows), self.vocabulary)
            for sequence, count in enumerate(rows):
                start = sum(rows[:sequence])
                yield logits[start : start + count]
            self.held.clear()

    def answer_logits(
        self, prompt: Sequence[int], answer: Sequence[int], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[tuple[int, Logits]]:
        """Logits that predict each token of ``answer`` after ``prompt``: (index of the first, rows), in order.

        The rows are views, valid until the next step. They are the same bits whatever the model did before: everything
        is computed from a clean context, in decode calls of one shape and with one number of threads. (Keys and values
        that a reply left behind were computed token by token, and differ in the last bits.)

        Raises:
            QuenchError: ``empty_prompt``, ``context_full``, ``decode_failed``.
            converter.spec.Cancelled: ``cancelled`` became true.
        """
        self._interrupt.clear()
        self._check_prompt([*prompt, *answer[:-1]] if prompt else [])
        self.held.clear()
        inputs = [prompt[-1], *answer[:-1]]
        step = min(self._outputs, self._batch.capacity)
        before = self.threads
        self.set_threads(self.prompt_threads)
        try:
            if not self.held.feed(prompt[:-1], cancelled):
                raise Cancelled
            for at in range(0, len(inputs) if answer else 0, step):
                if cancelled():
                    raise Cancelled
                yield at, self._logits(inputs[at : at + step], len(self.held.tokens), 0)
        finally:
            self.set_threads(before, self.prompt_threads)

    def _check_window(self, tokens: Sequence[int], first: int) -> None:
        if not 0 <= first < len(tokens):
            raise ValueError(f"first position {first} of {len(tokens)} tokens")
        if len(tokens) > self.context:
            raise QuenchError(
                "context_full",
                "The text is longer than the model's context.",
                f"{len(tokens)} tokens, the context has {self.context}.",
                "Choose a smaller window.",
            )

    def _logits(self, tokens: Sequence[int], position: int, first: int) -> Logits:
        """Append ``tokens`` to sequence 0; one decode if they fit into a batch, else copies put together."""
        parts: list[Logits] = []
        at = 0
        while at < len(tokens):
            skipped = max(0, min(first, len(tokens)) - at)  # tokens whose logits nobody wants
            stop = min(len(tokens), at + min(self._batch.capacity, skipped + self._outputs))
            part = tokens[at:stop]
            self._batch.clear()
            self._batch.add(part, position + at, 0, min(skipped, len(part)))
            rows = self._batch.wanted()
            self._decode_batch()
            self.held.tokens.extend(part)
            if rows:
                view = native.logits(self._context, rows, self.vocabulary)
                parts.append(view if stop == len(tokens) and not parts else view.copy())
            at = stop
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    # ---- several texts at once -------------------------------------------------------------------------------

    @property
    def batch_capacity(self) -> int:
        """Tokens that one decode call takes."""
        return self._batch.capacity

    def forget(self) -> None:
        """Empty the context."""
        self.held.clear()

    @property
    def output_capacity(self) -> int:
        """Rows of logits that one decode call gives."""
        return self._outputs

    def parts_logits(self, parts: Sequence[Part], *, every: bool = False) -> Logits:
        """Compute ``parts`` in one decode call; the logits after each that wants them, or ``every`` token's, in order.

        What each sequence holds stays until :meth:`forget`, which must also be called before the first step.

        Returns:
            float32 (rows, vocabulary), valid until the next call of the model.

        Raises:
            ValueError: more than :attr:`batch_capacity` tokens or :attr:`output_capacity` rows.
            QuenchError: ``context_full``, ``decode_failed``.
            converter.spec.Cancelled: :meth:`interrupt` was called.
        """
        self._batch.clear()
        for part in parts:
            wanted_from = 0 if every else len(part.tokens) - (1 if part.wanted else 0)
            self._batch.add(part.tokens, part.position, part.sequence, wanted_from)
        rows = self._batch.wanted()
        if rows > self._outputs:
            # The library would abort the process.
            raise ValueError(f"{rows} rows of logits, at most {self._outputs}")
        self._decode_batch()
        if not rows:
            return np.empty((0, self.vocabulary), np.float32)
        return native.logits(self._context, rows, self.vocabulary)

    def next_tokens(self, parts: Sequence[Part]) -> list[int]:
        """Compute ``parts`` as :meth:`parts_logits`; the most likely next token of each that wants one, in order."""
        best: list[int] = self.parts_logits(parts).argmax(axis=1).tolist()
        return best

    def share(self, source: int, targets: Sequence[int]) -> None:
        """Give the empty sequences ``targets`` all that ``source`` holds."""
        memory = lib.llama_get_memory(self._context)
        for target in targets:
            lib.llama_memory_seq_cp(memory, source, target, -1, -1)

    def _decode_batch(self) -> None:
        code = self._batch.decode(self._context)
        if code != DECODE_OK:
            self.held.failed(code)

    # ---- speed and memory ------------------------------------------------------------------------------------

    def set_threads(self, number: int, prompt_threads: int = 0) -> None:
        """Change the number of threads for replies and for prompts (0: the same), at once."""
        for count in (number, prompt_threads or number):
            if not 1 <= count <= 512:
                raise ValueError(f"{count} threads")
        lib.llama_set_n_threads(self._context, number, prompt_threads or number)
        self.threads, self.prompt_threads = number, prompt_threads or number

    def _settle_threads(self) -> None:
        """Take the number of threads that writes fastest with this model here."""
        cores = self.threads
        if cores == 1 or self.context < threads.MOST:
            return

        def measure(count: int, tokens: int) -> float:
            self.set_threads(count, cores)
            return self.bench_generate(tokens)

        options = self.options
        circumstances = (options.kv_type, options.gpu_layers, options.flash_attention)
        self.set_threads(threads.settle(self.path, cores, measure, *circumstances), cores)

    def bench_prompt(self, tokens: int, depth: int = 0) -> float:
        """Seconds to compute a prompt of ``tokens`` random tokens after ``depth`` others (not timed).

        Raises:
            QuenchError: ``context_full``; converter.spec.Cancelled after :meth:`interrupt`.
        """
        text = self._random_tokens(tokens, depth)
        start = time.perf_counter()
        self._feed_or_cancel(text)
        lib.llama_synchronize(self._context)
        return time.perf_counter() - start

    def bench_generate(self, tokens: int, depth: int = 0) -> float:
        """Seconds to compute ``tokens`` random tokens one by one, without sampling, after ``depth`` others."""
        text = self._random_tokens(tokens, depth)
        one = (ctypes.c_int32 * 1)()
        batch = lib.llama_batch_get_one(one, 1)
        start = time.perf_counter()
        for token in text:
            one[0] = token
            code = lib.llama_decode(self._context, batch)
            if code != DECODE_OK:
                self.held.failed(code)
            lib.llama_synchronize(self._context)
        seconds = time.perf_counter() - start
        self.held.clear()
        return seconds

    def bench_together(self, tokens: int) -> float:
        """Seconds to compute ``tokens`` random tokens in one call with the logits of each, after a few others."""
        text = self._random_tokens(tokens, min(16, self.context - tokens))
        start = time.perf_counter()
        if not self.advance_all(text):
            raise Cancelled
        lib.llama_synchronize(self._context)
        seconds = time.perf_counter() - start
        self.held.clear()
        return seconds

    def _random_tokens(self, tokens: int, depth: int) -> list[int]:
        """Clear the context, fill ``depth`` of it, and return ``tokens`` random tokens."""
        if tokens < 1 or depth < 0:
            raise ValueError(f"{tokens} tokens at depth {depth}")
        if tokens + depth > self.context:
            raise QuenchError(
                "context_full",
                "The measurement is longer than the model's context.",
                f"{tokens} tokens after {depth}, the context has {self.context}.",
                "Choose a smaller depth, or load the model with a larger context.",
                exit_status=2,
            )
        drawn: list[int] = np.random.default_rng(1).integers(0, self.vocabulary, tokens + depth).tolist()
        self.held.clear()
        self._feed_or_cancel(drawn[:depth])
        return drawn[depth:]

    def _feed_or_cancel(self, tokens: Sequence[int]) -> None:
        if not self.held.feed(tokens, self._interrupt.is_set):
            raise Cancelled

    def memory(self) -> Memory:
        """True memory of this process now, and the engine's parts of it."""
        process = hardware.process_memory()
        weights = int(lib.llama_model_size(self._model))
        if self.options.machines:
            weights = min(weights, self._here)  # and of a matrix that two machines have, this one's
        return Memory(process.anonymous, process.share, process.peak, weights, self._kv, self._compute, self._repacked)

    def close(self) -> None:
        """Free everything native. The object is of no use afterwards; closing twice is no error."""
        if self._closed:
            return
        self._closed = True
        self._batch.free()
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["Extras", "Generated", "Logits", "Model", "Part", "Stats", "never"]
