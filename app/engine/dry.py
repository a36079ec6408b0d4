"""A dry load: the engine reads a model's header and lays everything out, but allocates neither weights nor cache.

Its figures are exact for every architecture that it knows. A file of 150,000 tokens costs some tenths of a second, most
of it for the vocabulary.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from app import hardware
from app.engine import native, spread
from app.engine.loading import (
    LEAST_CONTEXT,
    check_file,
    check_generative,
    check_options,
    context_params,
    header_value,
    learned_positions,
    load_error,
    no_context,
    tokens_in_steps,
    wanted_context,
)
from app.engine.native import lib
from app.engine.spread import Share
from app.memory_messages import MemoryPlan
from app.memory_plan import repacked_bytes, work_bytes
from app.protocol import LoadOptions
from converter import open_model
from converter.spec import QuenchError

_NO_MAPPING = 0  # enum llama_load_mode: with the others a load without allocation aborts
_CACHE = re.compile(r"\bsize =\s+([0-9.]+) MiB \(")
_COMPUTE = re.compile(r"(?:compute|output) buffer size =\s+([0-9.]+) MiB")


def plan_load(
    path: str, options: LoadOptions, *, outputs: int, replaces: tuple[int, ...] = (), ratio: float = 1.0
) -> MemoryPlan:
    """What ``path`` will need. ``options.context`` 0: 8,192 tokens or the trained length, halved until it fits.

    Over several machines: what stays here. They are asked how they are, and given nothing to do; which layers they get
    is the plan's ``layers``. Compute buffers are counted as if all were computed here.

    Args:
        outputs: rows of logits that will be asked for at once.
        replaces: process ids that will have ended by then: what they hold counts as free.
        ratio: what was learned of this architecture's plans.

    Raises:
        QuenchError: as :meth:`app.engine.model.Model.load`.
    """
    check_options(options)
    learned_positions(check_file(path), options)
    native.start()
    found = spread.consult(options)
    native.log.clear()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0 if found else options.gpu_layers
    params.no_alloc = True
    params.load_mode = _NO_MAPPING
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise load_error(path)
    try:
        check_generative(model, path)
        tensors = _tensors(path)
        weights = int(lib.llama_model_size(model))
        available, freed = hardware.memory_available(), sum(hardware.anonymous_memory(pid) for pid in replaces)
        share = None
        if found:
            share = spread.share(found, options, int(lib.llama_model_n_layer(model)), available + freed)
            options = msgspec.structs.replace(options, machines=(), gpu_layers=0)
        away = _weights_elsewhere(weights, tensors, share) if share is not None else 0
        here = [tensor for tensor in tensors if share is None or not share.is_elsewhere(tensor[0])]
        plan = MemoryPlan(
            architecture=native.metadata(model, "general.architecture") or "",
            context=0,
            kv_type=options.kv_type,
            weights=weights - away,
            repacked=repacked_bytes(here, hardware.features()) if options.gpu_layers == 0 else 0,
            kv=0,
            compute=0,
            process=0,
            available=available,
            freed=freed,
            ratio=ratio,
            layers=share.layers if share is not None else 0,
            elsewhere=away + (_doubled(tensors) if share is not None else 0),
            room_elsewhere=share.room if share is not None else 0,
        )
        return _with_context(plan, model, options, outputs, share.cache_here if share is not None else 1.0)
    finally:
        lib.llama_model_free(model)
        hardware.give_back()


def _weights_elsewhere(weights: int, tensors: list[tuple[str, tuple[int, ...], str, int]], share: Share) -> int:
    """Bytes of weights that other machines get; where the tensors are unknown, by layers alone."""
    if not tensors:
        return weights * share.layers // (share.of + 1)
    return sum(size for name, _, _, size in tensors if share.is_elsewhere(name))


def _doubled(tensors: list[tuple[str, tuple[int, ...], str, int]]) -> int:
    """Bytes of an input table that is the output matrix too: it stays here, and is sent besides."""
    sizes = {name: size for name, _, _, size in tensors}
    return 0 if "output.weight" in sizes else sizes.get("token_embd.weight", 0)


def _with_context(plan: MemoryPlan, model: Any, options: LoadOptions, outputs: int, here: float) -> MemoryPlan:
    """``plan`` with the context that is asked for, or, where none is, the longest one that fits. ``here``: the part of
    the cache that is on this machine."""
    asked = tokens = wanted_context(model, options)
    while True:
        kv, compute, process = _buffers(model, options, tokens, outputs)
        found = msgspec.structs.replace(
            plan,
            context=tokens,
            kv=round(kv * here),
            compute=compute,
            process=process,
            elsewhere=plan.elsewhere + round(kv * (1 - here)),
            asked=asked if tokens < asked else 0,
        )
        if found.fits or options.context or tokens <= LEAST_CONTEXT:
            return found
        tokens = max(LEAST_CONTEXT, tokens_in_steps(tokens // 2))


def _buffers(model: Any, options: LoadOptions, tokens: int, outputs: int) -> tuple[int, int, int]:
    """Bytes of a context of ``tokens``: cache and state, compute buffers, and what the process has beside these."""
    native.log.clear()
    hardware.give_back()
    before = hardware.anonymous_memory()
    context = lib.llama_init_from_model(model, context_params(options, tokens, 1, outputs, 1))
    if not context:
        raise no_context(tokens, options)
    # The description of the graph is made once here, and a second time at the first decode.
    process = 2 * hardware.anonymous_memory() - before
    lib.llama_free(context)
    lines = [text for _, text in native.log.lines]
    flash = options.flash_attention != "off" and not any("set to disabled" in line for line in lines)
    work = work_bytes(lambda key: header_value(model, key), tokens, flash)
    return _sum(_CACHE, lines), _sum(_COMPUTE, lines) + work, process


def _sum(pattern: re.Pattern[str], lines: list[str]) -> int:
    found = [pattern.search(line) for line in lines]
    return round(sum(float(match[1]) for match in found if match) * (1 << 20))


def _tensors(path: str) -> list[tuple[str, tuple[int, ...], str, int]]:
    """Names, shapes, types and bytes; nothing where a type is unknown to us (it is not repacked either)."""
    try:
        with open_model(path) as model:
            return [(tensor.name, tensor.shape, tensor.type, tensor.bytes) for tensor in model.info.tensors]
    except QuenchError as error:
        if error.code == "unsupported_type":
            return []
        raise


__all__ = ["plan_load"]
