"""Opening a model file in the engine: what can be refused is refused in words before native code sees it."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import hardware
from app.engine import native, spread
from app.engine.native import lib
from app.memory_plan import cache_of
from app.protocol import LoadOptions
from converter.sources.files import ByteFile
from converter.sources.gguf_header import Header, read_header
from converter.spec import Cancelled, QuenchError

DEFAULT_CONTEXT = 8192
"""Tokens of context unless told otherwise; the trained length if that is less."""

LEAST_CONTEXT = 1024
"""A context that was not asked for is not made smaller than this to fit."""

BATCH = 512
"""Tokens a decode call takes at most, physical and logical. More gains nothing on a CPU and costs memory."""

_MAX_BATCH = 8192
_CONTEXT_STEP = 256  # the library makes contexts of whole steps only
_MAX_LAYERS = 512  # as many as the engine has room for
_UNSUPPORTED = re.compile(r"unknown model architecture: '([^']*)'")


@dataclass(frozen=True)
class Opened:
    """Native pointers of a loaded model, and the bytes of its buffers; ``here``: of weights on this machine.
    ``positions``: tokens that it has learned places for, 0 where places are computed."""

    model: Any
    context: Any
    kv: int
    compute: int
    repacked: int
    here: int
    threads: int
    batch: int
    outputs: int
    positions: int


def open_native(
    path: str,
    options: LoadOptions,
    on_progress: Callable[[float], bool] | None,
    outputs: int,
    sequences: int,
    *,
    eval_callback: Any = None,
    repack: bool = True,
    anyway: bool = False,
) -> Opened:
    """Load ``path`` and make a context. See :meth:`app.engine.model.Model.load` for the meaning and the errors."""
    check_options(options)
    positions = learned_positions(check_file(path), options)
    native.start()
    native.log.clear()
    model = _load(path, options, on_progress, repack)
    try:
        check_generative(model, path)
        threads = options.threads or hardware.default_threads()
        tokens = wanted_context(model, options)
        if not anyway:
            _check_memory(model, tokens * sequences, options.kv_type)
        params = context_params(options, tokens, threads, outputs, sequences)
        if eval_callback is not None:
            params.cb_eval = eval_callback
        context = lib.llama_init_from_model(model, params)
        if not context:
            raise no_context(tokens, options)
    except BaseException:
        lib.llama_model_free(model)
        raise
    if options.machines:
        spread.watch()
    sizes = native.log.buffers()
    # The library takes no more tokens at once than the context has; more in one call would abort the process.
    batch = min(int(params.n_batch), int(lib.llama_n_batch(context)))
    outputs = min(batch, int(params.n_outputs_max))
    parts = (sizes["kv"], sizes["compute"], sizes["repacked"], sizes["here"])
    return Opened(model, context, *parts, threads, batch, outputs, positions)


def wanted_context(model: Any, options: LoadOptions) -> int:
    """Tokens of context, in whole steps: what is asked for, else 8,192 or the trained length."""
    return tokens_in_steps(options.context or min(DEFAULT_CONTEXT, trained_context(model) or DEFAULT_CONTEXT))


def tokens_in_steps(tokens: int) -> int:
    """The least context of whole steps, which are all that the library makes, that has room for ``tokens``."""
    return -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP


def check_file(path: str) -> Header | None:
    """Refuse what is no whole GGUF file, and numbers that the engine answers with an abort instead of an error.

    Returns the header, None if it holds types that only the engine may know.

    Raises:
        QuenchError: ``not_found``, ``unreadable``, ``not_a_file``, ``not_gguf``, ``bad_header``, ``truncated``,
            ``unsupported_version``; ``load_failed`` for a folder.
    """
    if Path(path).is_dir():
        raise QuenchError(
            "load_failed",
            "This is a folder, not a GGUF file.",
            path,
            "Convert the folder first, and use the GGUF file.",
        )
    file = ByteFile(Path(path))
    try:
        header = read_header(file)
    except QuenchError as error:
        if error.code == "unsupported_type":
            return None  # unknown to the converter, perhaps not to the engine, which decides
        raise
    finally:
        file.close()
    _check_numbers(header, path)
    return header


def learned_positions(header: Header | None, options: LoadOptions) -> int:
    """Tokens that a model has a learned place for, 0 where places are computed. The engine ends itself at one more.

    Raises:
        QuenchError: ``bad_options`` for a context that is longer.
    """
    table = header.table.named.get("position_embd.weight") if header is not None else None
    positions = table.shape[0] if table is not None else 0
    if 0 < positions < options.context:
        raise QuenchError(
            "bad_options",
            "The model cannot have such a long context.",
            f"{options.context} tokens were asked for; it has learned {positions} places, and there are no others.",
            f"Choose at most {positions} tokens of context.",
            exit_status=2,
        )
    return positions


def _check_numbers(header: Header, path: str) -> None:
    architecture = header.value("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _damaged(path, "general.architecture is missing.")
    layers = header.value(f"{architecture}.block_count")
    if isinstance(layers, int) and not 0 < layers <= _MAX_LAYERS:
        raise _damaged(path, f"{architecture}.block_count is {layers}.")
    for key in (f"{architecture}.attention.layer_norm_rms_epsilon", f"{architecture}.attention.layer_norm_epsilon"):
        epsilon = header.value(key)
        if isinstance(epsilon, float) and not 0 <= epsilon < 1:
            raise _damaged(path, f"{key} is {epsilon}.")


def _damaged(path: str, detail: str) -> QuenchError:
    return QuenchError(
        "bad_header", "The GGUF file is damaged.", f"{Path(path).name}: {detail}", "Download or convert it again."
    )


def check_options(options: LoadOptions) -> None:
    """Refuse options that the engine would answer with NULL or an abort; QuenchError ``bad_options``."""
    problem = ""
    if options.kv_type not in native.KV_TYPES:
        problem = f"There is no cache type {options.kv_type!r}. Known: {', '.join(native.KV_TYPES)}."
    elif options.flash_attention not in native.FLASH_ATTENTION:
        problem = f"Flash attention is auto, on or off, not {options.flash_attention!r}."
    elif options.flash_attention == "off" and options.kv_type not in {"f32", "f16", "bf16"}:
        problem = f"A {options.kv_type} cache needs flash attention."
    elif not 0 <= options.context <= 1 << 24:
        problem = f"A context of {options.context} tokens is out of range."
    elif not 0 <= options.threads <= 512:
        problem = f"{options.threads} threads are out of range."
    if problem:
        raise QuenchError("bad_options", "The model cannot be loaded this way.", problem, "", exit_status=2)


def _load(path: str, options: LoadOptions, on_progress: Callable[[float], bool] | None, repack: bool) -> Any:
    raised: list[BaseException] = []
    stopped = False

    def progress(fraction: float, _data: int | None) -> bool:
        nonlocal stopped
        if on_progress is None:
            return True
        try:
            stopped = not on_progress(float(fraction))
        except BaseException as error:  # noqa: BLE001 - nothing may cross native code; it is raised again below
            raised.append(error)
            stopped = True
        return not stopped

    found = spread.consult(options)
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    if found:
        layers = _layers(path)
        params.n_gpu_layers = spread.share(found, options, layers, hardware.memory_available()).layers
        devices = spread.attach(params, found)  # noqa: F841 - lives until the model is loaded
    params.use_extra_bufts = repack
    callback = lib.llama_progress_callback(progress)
    params.progress_callback = callback
    model = lib.llama_model_load_from_file(path.encode(), params)
    if raised:
        _free(model)
        raise raised[0]
    if stopped:
        _free(model)
        raise Cancelled
    if not model:
        raise load_error(path)
    return model


def _layers(path: str) -> int:
    """Layers of a checked file; what its header does not say counts as the most there can be."""
    header = check_file(path)
    layers = header.value(f"{header.value('general.architecture')}.block_count") if header is not None else None
    return layers if isinstance(layers, int) else _MAX_LAYERS


def load_weights(path: str, options: LoadOptions, on_progress: Callable[[float], bool] | None = None) -> Any:
    """A checked file's model without a context, to be given back with ``llama_model_free``; errors as for
    :func:`open_native`."""
    check_options(options)
    check_file(path)
    native.start()
    native.log.clear()
    return _load(path, options, on_progress, True)


def trained_context(model: Any) -> int:
    """Tokens that the model was trained on; 0 where the file does not say, or says what no number of tokens is."""
    return max(0, int(lib.llama_model_n_ctx_train(model)))


def _free(model: Any) -> None:
    if model:
        lib.llama_model_free(model)


def load_error(path: str) -> QuenchError:
    reasons = native.log.errors()
    unsupported = _UNSUPPORTED.search(reasons)
    if re.search(r"unable to allocate RPC", reasons):
        return QuenchError(
            "no_memory_elsewhere",
            "A machine has too little memory for its part of the model.",
            reasons,
            "Take more machines, fewer layers for them (GPU layers), or a smaller model.",
            exit_status=4,
        )
    if unsupported:
        return QuenchError(
            "unsupported_architecture",
            "The engine does not know this kind of model.",
            f"Architecture {unsupported[1]!r} in {path}.",
            "A newer version of the program may know it.",
        )
    return QuenchError(
        "load_failed",
        "The model file could not be loaded.",
        f"{path}\n{reasons}".strip(),
        "The file may be incomplete or damaged. Download or convert it again.",
    )


def check_generative(model: Any, path: str) -> None:
    architecture = native.metadata(model, "general.architecture") or ""
    causal = native.metadata(model, f"{architecture}.attention.causal")
    if causal == "false" or not lib.llama_model_has_decoder(model):
        raise QuenchError(
            "not_generative",
            "This model does not write text.",
            f"{path} is an embedding model ({architecture}).",
            "Choose a model that is made for chatting.",
        )
    if lib.llama_model_has_encoder(model):
        raise QuenchError(
            "not_generative",
            "This model rewrites texts and does not go on with one.",
            f"{path} has an encoder and a decoder ({architecture}).",
            "Choose a model that is made for chatting.",
        )


def _check_memory(model: Any, tokens: int, kv_type: str) -> None:
    """The cache is cleared when it is made, so one that is too large ends in a kill, not in an error."""
    cache = cache_of(lambda key: header_value(model, key), tokens, kv_type)
    needed = cache.kv + cache.state if cache is not None else 0
    available = hardware.memory_available()
    if needed > available:
        raise QuenchError(
            "no_memory",
            "There is not enough memory for this context.",
            f"{tokens} tokens need {needed} bytes of cache; {available} bytes are free.",
            "Choose a smaller context or a smaller cache type, or close other programs.",
            exit_status=4,
        )


def header_value(model: Any, key: str) -> Any:
    """A number or a list of numbers as the engine shows it, its other values as text."""
    text = native.metadata(model, key)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def context_params(options: LoadOptions, tokens: int, threads: int, outputs: int, sequences: int) -> Any:
    params = lib.llama_context_default_params()
    batch = min(BATCH * sequences, _MAX_BATCH) if sequences > 1 else BATCH
    params.n_ctx = tokens * sequences
    params.n_batch = batch
    params.n_ubatch = BATCH
    params.n_seq_max = sequences
    params.n_outputs_max = min(outputs, batch) if outputs else batch
    params.n_threads = threads
    params.n_threads_batch = threads
    params.type_k = params.type_v = native.KV_TYPES[options.kv_type]
    params.flash_attn_type = native.FLASH_ATTENTION[options.flash_attention]
    params.swa_full = False  # layers with a window keep only that much
    params.offload_kqv = options.gpu_layers != 0 or bool(options.machines)
    params.op_offload = options.gpu_layers != 0 and not options.machines
    return params


def no_context(tokens: int, options: LoadOptions) -> QuenchError:
    return QuenchError(
        "context_failed",
        "The model could not be started with these options.",
        f"Context {tokens}, cache {options.kv_type}.\n{native.log.errors()}".strip(),
        "Choose a smaller context, or the f16 cache.",
        exit_status=4,
    )


def text_of(function: Callable[[Any, int], int]) -> bytes:
    """Call a native function that fills a buffer and says the length, negative when the buffer was too small."""
    size = 128
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = int(function(buffer, size))
        if length >= 0:
            return buffer.raw[:length]
        size = -length


def tokens_of(vocabulary: Any, text: str, *, special: bool, ends: bool) -> list[int]:
    """Tokens of ``text``. ``special``: texts of special tokens become these; ``ends``: with what the model puts in
    front and behind."""
    data = text.encode("utf-8", "replace")
    size = len(data) + 8
    while True:
        tokens = (ctypes.c_int32 * size)()
        count = int(lib.llama_tokenize(vocabulary, data, len(data), tokens, size, ends, special))
        if count >= 0:
            return tokens[:count]
        size = -count


__all__ = [
    "BATCH",
    "DEFAULT_CONTEXT",
    "LEAST_CONTEXT",
    "Opened",
    "check_file",
    "check_generative",
    "check_options",
    "context_params",
    "header_value",
    "load_error",
    "no_context",
    "open_native",
    "text_of",
    "tokens_in_steps",
    "tokens_of",
    "trained_context",
    "wanted_context",
]
