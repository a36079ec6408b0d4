"""Better rounding at the same bytes: tensors quantized with error feedback, and a guard that keeps only what helps.

What goes into the matrices is gathered from calibration texts (:mod:`app.engine.covariance`), as many inputs at a time
as memory allows, in as many passes over the texts as that takes; then :func:`kernels.quantize_with_feedback` rounds
them. Every text counts the same, however long it is. Feedback is only as good as its calibration: for text that looks
like none of it the result can be worse than plain rounding. So windows of every text are held back, and the guard
compares the two on them, kind by kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

import kernels
from app import hardware
from app.engine.covariance import WIDE, Covariances, Matrix, sum_bytes
from app.engine.grafts import Part
from app.engine.model import Model
from app.quality import texts as texts_module
from app.quality.divergence import first_scored, score
from app.quality.encoded import Encoded
from converter.encode import load, refused
from converter.sources.base import SourceModel, SourceTensor
from converter.spec import Cancelled

Windows = dict[str, list[tuple[int, ...]]]
"""Windows of tokens by text."""

By = Mapping[str, float]
"""Mean divergence by text."""

MEMORY = 1 << 30
"""Bytes for covariances of one pass, where nothing else is said."""

SHRINKAGE = 0.1
"""A tenth of what the calibration text has inputs go together is not believed."""

HELD_BACK = 6
"""One in so many windows of a text is for the guard."""

UNKNOWN = 4.0
"""Times the median perplexity from which a text is none that the model knows."""

KNOWN_WINDOWS = 4
"""Windows of each text that its perplexity is taken from."""

SLAB = 256
"""Rows that are rounded together, at most."""

GUARD_ROUNDS = 3
"""Roles that the guard takes feedback from, one after the other, before it gives up."""

EMBEDDING = "token_embd.weight"
OUTPUTS = frozenset({"output.weight", EMBEDDING})
"""Matrices beside those of the layers: the first, or the second where it stands for both."""

LOOKUP_SHARE = 0.2
"""Of an embedding that is the output matrix too, the part of its errors that counts for the rows themselves. On Pocket
0.1 to 0.3 are about as good."""

_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Calibration:
    """Windows that covariances are made from, and windows for the guard."""

    windows: Windows
    held: Windows


def calibration(
    model: texts_module.Tokenizer, names: Sequence[str] = tuple(texts_module.CALIBRATION), context: int = 512
) -> Calibration:
    """Cut texts (bundled ones by name, files by path) into both, evenly over each text.

    Raises QuenchError ``text_too_short`` and the codes of :func:`app.quality.texts.load`.
    """
    found = Calibration({}, {})
    for text in texts_module.load(names):
        cut = [window.tokens for window in texts_module.windows(text, model, context)]
        step = min(HELD_BACK, len(cut))
        found.held[text.name] = cut[step // 2 :: step]
        found.windows[text.name] = [window for place, window in enumerate(cut) if place % step != step // 2]
    return found


def unknown(losses: Mapping[str, float]) -> dict[str, float]:
    """Of mean losses by text in nats those that are of no text that the model knows, as perplexities."""
    limit = float(np.median(list(losses.values()))) + math.log(UNKNOWN)
    return {name: math.exp(loss) for name, loss in losses.items() if loss > limit}


def known(model: Model, given: Calibration) -> tuple[Calibration, dict[str, float]]:
    """Without the texts that the model does not know, such as languages that it never learned; and their perplexities.

    What it computes there is far from what it computes otherwise, and has the covariances serve nobody. Nothing may be
    watched by the model's covariances.
    """
    losses = {}
    for name, windows in given.held.items():
        nlls = []
        for window in windows[:KNOWN_WINDOWS]:
            first = first_scored(len(window))
            logits = model.window_logits(window, first)[:-1]
            nlls.append(score(logits, window[first + 1 :], keep=False).nll)
        losses[name] = float(np.concatenate(nlls).mean())
    strange = unknown(losses)

    def without(windows: Windows) -> Windows:
        return {name: cut for name, cut in windows.items() if name not in strange}

    return Calibration(without(given.windows), without(given.held)), strange


@dataclass(frozen=True)
class Options:
    """``memory``: bytes for the covariances of one pass; the largest input alone may take more. ``damping`` and
    ``shrinkage``: as of :func:`kernels.feedback`. ``threads``: 0 for all cores.

    Inputs are the model's own. Those that the quantized layers below give, layer after layer, were tried on Pocket and
    gained nothing: 0.508 and 0.504 of the standard Q4_K_M's divergence, 0.459 and 0.457 of Q2_K's."""

    memory: int = MEMORY
    damping: float = kernels.DAMPING
    shrinkage: float = SHRINKAGE
    threads: int = 0


@dataclass
class FeedbackEncoder:
    """Rounds tensors of ``source`` with error feedback, with the same model in ``model`` to compute their inputs.

    ``model`` was loaded with ``capture=covariances``, ``repack=False``, a context of at least a window and the weights
    in ordinary memory. ``ticked`` is called after each window, with what is being done;
    ``stopped`` is asked then.

    ``plain``: after a tensor was given, the same one rounded with the diagonal of its covariance as importance.
    ``left_out``: why a tensor was not rounded this way, by name.
    """

    model: Model
    covariances: Covariances
    source: SourceModel
    windows: Windows
    options: Options = field(default_factory=Options)
    stopped: Callable[[], bool] = lambda: False
    ticked: Callable[[str], None] = lambda label: None
    left_out: dict[str, str] = field(default_factory=dict, init=False)

    def encode(self, types: Mapping[str, Sequence[str]]) -> Iterator[tuple[Encoded, Encoded]]:
        """Each tensor of ``types`` (names with one type or several) that can be, in each of its types, as (with
        feedback, plain), pass by pass.

        Experts, embeddings that are no output matrix and other tensors that are not plain matrices, and types that have
        no feedback, are left out.

        Raises:
            QuenchError: ``not_finite``, ``overflow``; what the engine says.
            converter.spec.Cancelled: ``stopped`` became true.
        """
        tensors = {tensor.name: tensor for tensor in self.source.tensors}
        fitting = {name: self._fitting(tensors[name], kinds) for name, kinds in types.items()}
        for group, sums in self.inputs([name for name, kinds in fitting.items() if kinds]):
            yield from self._round([tensors[name] for name in group], sums, fitting)

    def inputs(self, names: Sequence[str]) -> Iterator[tuple[list[str], Matrix]]:
        """The matrices of ``names`` that share an input, with the sums of x x^T over it, pass by pass.

        Raises:
            QuenchError: what the engine says.
            converter.spec.Cancelled: ``stopped`` became true.
        """
        for wanted in self._passes(names):
            self._gather(wanted)
            for leader, group in self.covariances.groups(wanted).items():
                yield group, self.covariances.sums.pop(leader).sums
        self.covariances.watch(())

    def passes(self, types: Mapping[str, Sequence[str]]) -> int:
        """How often :meth:`encode` will go over the windows."""
        tensors = {tensor.name: tensor for tensor in self.source.tensors}
        return len(self._passes([name for name, kinds in types.items() if self._fitting(tensors[name], kinds)]))

    def _fitting(self, tensor: SourceTensor, kinds: Sequence[str]) -> list[str]:
        """Those of ``kinds`` that the tensor can be rounded to this way."""
        if len(tensor.shape) != 2 or not (_LAYER.match(tensor.name) or tensor.name in OUTPUTS):
            self.left_out[tensor.name] = "It is no plain matrix that the engine multiplies with."
            return []
        found = [kind for kind in kinds if kind in kernels.FEEDBACK_TYPES]
        if not found:
            self.left_out[tensor.name] = f"There is no error feedback for {', '.join(kinds)}."
        return found

    # ---- inputs ----------------------------------------------------------------------------------------------

    def _passes(self, names: Collection[str]) -> list[list[str]]:
        """Names whose inputs are gathered together. In the order in which the engine comes to them."""
        if not names:
            return []
        shortest = min((windows[0] for windows in self.windows.values() if windows), key=len)
        self.covariances.watch(names, keep=False)
        self._decode(shortest[:32])
        groups = self.covariances.groups(list(self.covariances.leaders))
        chosen = set(names)
        for name in chosen - set(self.covariances.leaders):
            self.left_out[name] = "The engine does not multiply with it as one matrix."
        found: list[list[str]] = []
        used = 0
        for leader, members in groups.items():
            own = [name for name in members if name in chosen]
            if not own:
                continue
            size = sum_bytes(self.covariances.columns[leader])
            if not found or used + size > self.options.memory:
                found.append([])
                used = 0
            found[-1] += own
            used += size
        return found

    def _gather(self, names: Collection[str]) -> None:
        self.covariances.watch(names)
        whole = sum(map(len, self.windows.values()))
        for windows in self.windows.values():
            if windows:
                self.covariances.weight = whole / (len(self.windows) * len(windows))
            for window in windows:
                self._decode(window)
                self.ticked("Reading the calibration text")
        self.covariances.weight = 1.0

    def _decode(self, window: tuple[int, ...]) -> None:
        if self.stopped():
            raise Cancelled
        # Logits of every position are asked for: without them the engine leaves out the last layer's rows.
        self.model.window_logits(window, 0)
        self.covariances.check()

    # ---- rounding --------------------------------------------------------------------------------------------

    def _round(
        self, tensors: Sequence[SourceTensor], sums: Matrix, types: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[Encoded, Encoded]]:
        """Tensors of one input."""
        if tensors[0].name == EMBEDDING:
            sums = _looked_up(sums)
        kind = np.float32 if len(sums) >= WIDE else np.float64
        try:
            given = kernels.feedback(sums, damping=self.options.damping, shrinkage=self.options.shrinkage, dtype=kind)
        except kernels.KernelError as error:
            if error.code != "bad_covariance":
                raise
            self.left_out.update({tensor.name: error.message for tensor in tensors})
            return
        del sums
        for tensor in tensors:
            if self.stopped():
                raise Cancelled
            for qtype in types[tensor.name]:
                pair = self._both(tensor, qtype, given)
                if pair is not None:
                    yield pair
            self.ticked("Rounding")

    def _both(self, tensor: SourceTensor, kind: str, given: kernels.Feedback) -> tuple[Encoded, Encoded] | None:
        width = kernels.row_bytes(kind, tensor.n_cols)
        fed, plain = (np.empty((tensor.n_rows, width), np.uint8) for _ in range(2))
        threads = self.options.threads or hardware.physical_cores()
        slab = min(SLAB, max(32, -(-tensor.n_rows // (32 * threads)) * 32))

        def one(start: int) -> None:
            stop = min(start + slab, tensor.n_rows)
            rows, source = load(tensor, start, stop)
            kernels.quantize(kind, rows, given.importance, source=source, out=plain[start:stop])
            kernels.quantize_with_feedback(kind, rows, given, source=source, out=fed[start:stop])

        try:
            with ThreadPoolExecutor(threads, "rounding") as pool:
                list(pool.map(one, range(0, tensor.n_rows, slab)))
        except kernels.KernelError as error:
            if error.code in ("not_finite", "overflow"):
                # Not the weights' own fault, or plain rounding will say so: corrections grew without bounds.
                self.left_out[tensor.name] = error.message
                return None
            raise refused(error, f"{tensor.name}, to {kind}") from error
        return tuple(Encoded(tensor.name, tensor.shape, kind, data) for data in (fed, plain))  # type: ignore[return-value]


def _looked_up(sums: Matrix) -> Matrix:
    """The covariance for an embedding that is the output matrix too: its rows are looked up as they are."""
    mean = float(np.diagonal(sums).mean(dtype=np.float64))
    sums *= 1 - LOOKUP_SHARE
    sums.reshape(-1)[:: len(sums) + 1] += LOOKUP_SHARE * mean
    return sums


# ---- the guard ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guarded:
    """What the guard found: ``kept`` are the names of the tensors whose feedback helps; ``plain`` and ``fed`` mean
    divergences by text with plain rounding and with what is kept; ``dropped`` the roles that were taken away."""

    kept: frozenset[str]
    plain: By
    fed: By
    dropped: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """The geometric mean over texts of divergence with feedback / without."""
        return math.exp(sum(math.log(self.fed[name] / self.plain[name]) for name in self.plain) / len(self.plain))


def guard(
    plain: Mapping[str, Part], fed: Mapping[str, Part], divergence: Callable[[Mapping[str, Part]], By]
) -> Guarded:
    """Which tensors of ``fed`` to take in place of those of ``plain``, so that no text is worse for it.

    ``divergence``: of the reference with these tensors in it, by text, on windows that no covariance saw. If any text
    is worse with feedback, the role (``ffn_down`` ...) whose feedback costs the worst one most goes back to plain
    rounding, up to ``GUARD_ROUNDS`` times; if that does not help, all do.
    """
    before = divergence(plain)
    kept = set(fed)
    dropped: list[str] = []
    after = divergence({**plain, **fed})
    while kept and _worst(before, after) > 1.0:
        roles = sorted({_role(name) for name in kept})
        if len(dropped) == GUARD_ROUNDS or len(roles) == 1:
            return Guarded(frozenset(), before, before, (*dropped, *roles))
        trials = {}
        for role in roles:
            without = {name for name in kept if _role(name) != role}
            trials[role] = divergence({**plain, **{name: fed[name] for name in without}})
        role = min(roles, key=lambda each: _worst(before, trials[each]))
        kept = {name for name in kept if _role(name) != role}
        after = trials[role]
        dropped.append(role)
    return Guarded(frozenset(kept), before, after, tuple(dropped))


def _worst(before: By, after: By) -> float:
    return max((after[name] / before[name] for name in before if before[name] > 0), default=1.0)


def _role(name: str) -> str:
    """``ffn_down`` of ``blk.7.ffn_down.weight``."""
    return _LAYER.sub("", name).removesuffix(".weight")


__all__ = ["Calibration", "FeedbackEncoder", "Guarded", "Options", "calibration", "guard", "known", "unknown"]
