"""What is told about memory before and after a model is loaded. Bytes throughout."""

from __future__ import annotations

import msgspec

from app.load_options import LoadOptions
from converter.spec import QuenchError


class Memory(msgspec.Struct, frozen=True):
    """True memory of a process in bytes. ``anonymous`` is RssAnon, ``share`` PSS, ``peak`` VmHWM.

    ``weights`` is the model's tensors (file bytes), ``kv`` the cache, ``compute`` the engine's scratch buffers,
    ``repacked`` the copies of weights in the processor's own order.
    """

    anonymous: int
    share: int
    peak: int
    weights: int = 0
    kv: int = 0
    compute: int = 0
    repacked: int = 0


class MemoryPlan(msgspec.Struct, frozen=True):
    """What a model will need with ``context`` tokens.

    ``weights`` are read from the file (a mapping: the system may drop and read them again), the rest is the process's
    own: ``repacked`` copies of weights, ``kv`` (with recurrent state), ``compute`` buffers, and ``process`` itself with
    vocabulary and libraries. ``ratio``: how much more or less models of this architecture took here than was planned.
    ``available`` is what could be had when the plan was made, ``freed`` what models that make place will give back.
    ``asked``: the context that was wanted, where it was reduced to fit; else 0. Of a model over several machines this
    is what stays on this one; ``elsewhere`` is how many bytes of weights and cache the others get, ``layers`` how many
    layers, and ``room_elsewhere`` what they said they have.
    """

    architecture: str
    context: int
    kv_type: str
    weights: int
    repacked: int
    kv: int
    compute: int
    process: int
    available: int
    freed: int = 0
    ratio: float = 1.0
    asked: int = 0
    layers: int = 0
    elsewhere: int = 0
    room_elsewhere: int = 0

    @property
    def own(self) -> int:
        """Without the weights: what must be there, or the system ends the process."""
        return self.repacked + self.kv + self.compute + self.process

    @property
    def total(self) -> int:
        return self.weights + self.own

    @property
    def expected(self) -> int:
        """The total with what was learned."""
        return round(self.total * self.ratio)

    @property
    def room(self) -> int:
        return self.available + self.freed

    @property
    def fits(self) -> bool:
        return self.expected <= self.room and self.elsewhere <= self.room_elsewhere


def in_words(count: int) -> str:
    """``297.2 MiB`` or ``4.58 GiB``, in plain text."""
    return f"{count / (1 << 30):,.2f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):,.1f} MiB"


def parts_in_words(plan: MemoryPlan) -> str:
    """The parts of a plan that are not nothing, one after another."""
    parts = (
        ("weights", plan.weights),
        ("repacked weights", plan.repacked),
        (f"KV cache for {plan.context:,} tokens ({plan.kv_type})", plan.kv),
        ("compute buffer", plan.compute),
        ("the process itself", plan.process),
    )
    text = " + ".join(f"{in_words(count)} {name}" for name, count in parts if count)
    if plan.expected != plan.total:
        text += f", x {plan.ratio:.2f} as {plan.architecture} models took here"
    if plan.layers:
        text += f"; {in_words(plan.elsewhere)} ({plan.layers} layers) on other machines"
    return text


def does_not_fit(plan: MemoryPlan, name: str) -> QuenchError:
    """The error for a model that the memory cannot take."""
    freed = f", {in_words(plan.freed)} of it by ending the model that is loaded now" if plan.freed else ""
    there = f", {in_words(plan.room_elsewhere)} on the other machines" if plan.layers else ""
    return QuenchError(
        "no_memory",
        "This model does not fit into the memory that is free.",
        f"{name} needs {in_words(plan.expected)}: {parts_in_words(plan)}.\n"
        f"{in_words(plan.room)} can be had{freed}{there}.",
        "Choose a smaller context, cache type or model, or close other programs. Loaded anyway it may be very slow, or "
        "the system may end it.",
        exit_status=4,
    )


class PlanLoad(msgspec.Struct, frozen=True, tag_field="message", tag="plan_load"):
    """Plan the memory of a model without loading its weights (worker ``plan``); :class:`LoadPlanned` or Failed.

    ``replaces`` are processes that will have ended by then, ``ratio`` is what was learned of the architecture.
    """

    request: int
    path: str
    options: LoadOptions = LoadOptions()
    replaces: tuple[int, ...] = ()
    ratio: float = 1.0


class LoadPlanned(msgspec.Struct, frozen=True, tag_field="message", tag="load_planned"):
    """Answer to :class:`PlanLoad`."""

    request: int
    plan: MemoryPlan


__all__ = ["LoadPlanned", "MemoryPlan", "PlanLoad", "does_not_fit", "in_words", "parts_in_words"]
