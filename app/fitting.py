"""``quench fit``: from a model to a file of a given size that does the least damage. Knows no Qt.

What is needed is made on the way in a work folder: a 16-bit GGUF file of a model folder, and an importance matrix. Then
a worker chooses the types (:mod:`app.quality.fitting`), and the converter makes the file, in one pass from the source,
by exact rules that are kept beside it (:mod:`app.recipe_files`) with the importance matrix: with both the file can be
made again byte for byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import kernels
from app import conversion, hardware, paths, recipe_files
from app.child import run_job
from app.fit_messages import FitPlanned, FitTypes
from app.measure_messages import ImatrixResult, MeasureImatrix
from app.protocol import Event
from app.quality.texts import CALIBRATION, DEFAULT
from converter import open_model, recipes
from converter.sources.base import SourceModel
from converter.spec import Cancelled, ConversionResult, ConversionSpec, QuenchError

STANDARDS = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0")
"""Recipes that a fit is measured against, the smallest first."""

IMATRIX_WINDOWS = 160
"""Of 512 tokens: the first of them say nearly all, and half a billion parameters then take some minutes."""

Show = Callable[[Event], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How large the file may become; exactly one is given. ``size`` and ``leave_free`` in bytes."""

    size: int = 0
    bpw: float = 0.0
    like: str = ""
    leave_free: int = 0


@dataclass(frozen=True)
class Wish:
    """What is asked for. ``texts`` to probe on (none: the bundled calibration), ``floors`` as in :class:`FitTypes`."""

    source: str
    output: str
    size: Size
    imatrix: str = ""
    texts: tuple[str, ...] = ()
    floors: tuple[tuple[str, str], ...] = ()
    windows: int = 2
    minutes: float = 0.0
    refined: bool = False
    threads: int = 0
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Budget:
    """``file`` bytes in all, of which ``tensors`` for those that are chosen; ``standard`` is the recipe to beat."""

    file: int
    tensors: int
    standard: str
    bpw: float


@dataclass(frozen=True)
class Fitted:
    """The types with their reasons, and the files; ``conversion`` is None after a dry run."""

    budget: Budget
    plan: FitPlanned
    conversion: ConversionResult | None
    recipe: str = ""


def run(wish: Wish, show: Show, say: Say) -> Fitted:
    """Do it all. ``show`` gets the events of every step, ``say`` what step it is.

    Raises:
        QuenchError: ``usage`` for a size that is no size; ``too_small``; what the steps raise.
        Cancelled: after Ctrl-C.
    """
    with open_model(wish.source) as source:
        budget = budget_of(source, wish)
        plain = source.info.kind == "gguf"
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=paths.cache(), prefix="fit-")))
        reference = wish.source if plain else _reference(wish, work, show, say)
        matrix = wish.imatrix or _imatrix(reference, wish, work, show, say)
        say(f"choosing types for {budget.tensors:,} bytes, against {budget.standard}")
        plan = _done(
            run_job(
                "measure",
                FitTypes(
                    reference=reference,
                    budget=budget.tensors,
                    standard=budget.standard,
                    texts=wish.texts or tuple(CALIBRATION),
                    judges=DEFAULT[:5],
                    imatrix=matrix,
                    windows=wish.windows,
                    minutes=wish.minutes,
                    floors=wish.floors,
                    threads=wish.threads,
                ),
                show,
            ),
            FitPlanned,
        )
        if wish.dry_run:
            return Fitted(budget, plan, None)
        say(f"writing {Path(wish.output).name}")
        spec = ConversionSpec(
            source=wish.source,
            output=wish.output,
            types=(budget.standard,),
            imatrix=matrix,
            tensor_types=recipe_files.rules(plan.tensors),
            refined=wish.refined,
            threads=wish.threads,
            overwrite=wish.overwrite,
        )
        made = conversion.run(spec, show)
    recipe = recipe_files.write(Path(wish.output), budget.standard, plan, Path(matrix))
    return Fitted(budget, plan, made, str(recipe))


def _reference(wish: Wish, work: Path, show: Show, say: Say) -> str:
    say("making a 16-bit file to measure with")
    spec = ConversionSpec(wish.source, str(work / "reference.gguf"), ("auto",), threads=wish.threads)
    return conversion.run(spec, show).outputs[0].path


def _imatrix(reference: str, wish: Wish, work: Path, show: Show, say: Say) -> str:
    say("measuring which columns matter (importance matrix)")
    command = MeasureImatrix(
        model=reference,
        texts=tuple(CALIBRATION),
        output=str(recipe_files.imatrix_beside(Path(wish.output)) if not wish.dry_run else work / "importance.gguf"),
        chunks=IMATRIX_WINDOWS,
        minutes=wish.minutes / 4,
        threads=wish.threads,
    )
    return _done(run_job("measure", command, show), ImatrixResult).path


Kind = TypeVar("Kind")


def _done(end: object, kind: type[Kind]) -> Kind:
    if not isinstance(end, kind):
        raise Cancelled
    return end


# ---- sizes ---------------------------------------------------------------------------------------------------------


def budget_of(source: SourceModel, wish: Wish) -> Budget:
    """What the size that is asked for leaves for the tensors that are chosen."""
    chosen = [tensor for tensor in source.tensors if not recipes.unquantizable(source.info.architecture, tensor)]
    by_recipe = {name: _standard_bytes(source, name) for name in STANDARDS}
    overhead = _overhead(source, wish, {tensor.name for tensor in chosen})
    size = wish.size
    if sum(map(bool, (size.size, size.bpw, size.like, size.leave_free))) != 1:
        raise QuenchError("usage", "The size is missing.", "Give exactly one size.", "--like Q4_K_M", exit_status=2)
    if size.like:
        name = recipes.recipe(size.like).name
        if name not in by_recipe:
            raise QuenchError("usage", "Not a recipe to fit like.", size.like, ", ".join(STANDARDS), exit_status=2)
        tensors, standard = by_recipe[name], name
    else:
        file = size.size or round(size.bpw * source.info.parameters / 8) or _leaving(source, size.leave_free)
        tensors = file - overhead
        standard = next((name for name in reversed(STANDARDS) if by_recipe[name] <= tensors), STANDARDS[0])
    file = tensors + overhead
    return Budget(file, tensors, standard, 8 * file / max(1, source.info.parameters))


def _standard_bytes(source: SourceModel, name: str) -> int:
    """What the chosen tensors take in a standard recipe with an importance matrix."""
    overrides = recipes.Overrides(has_imatrix=True)
    kinds = recipes.types(source.hparams, source.tensors, recipes.recipe(name), overrides, source.info.kind)
    return sum(
        tensor.n_rows * kernels.row_bytes(kind, tensor.n_cols)
        for tensor, (kind, _) in zip(source.tensors, kinds, strict=True)
        if not recipes.unquantizable(source.info.architecture, tensor)
    )


def _overhead(source: SourceModel, wish: Wish, chosen: set[str]) -> int:
    """Bytes of the file beside the chosen tensors: header, vocabulary, norms."""
    from converter.planning import plan

    spec = ConversionSpec(wish.source, wish.output, ("Q8_0",), overwrite=True)
    (output,) = plan(source, spec).outputs
    return output.bytes - sum(tensor.bytes for tensor in output.tensors if tensor.name in chosen)


def _leaving(source: SourceModel, free: int) -> int:
    """The size of a file that leaves ``free`` bytes of memory when it runs with 8,192 tokens of context."""
    fit = hardware.fits(source.info)
    return max(0, hardware.memory_available() - free - fit.kv - fit.compute)
