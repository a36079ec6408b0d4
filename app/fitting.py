"""A fit from end to end: from a model to a file of a given size that does the least damage. Knows no Qt.

What is needed is made on the way in a work folder: a GGUF file in 32 or 16 bits, and an importance matrix. Then
a worker chooses the types (:mod:`app.quality.fitting`), and the converter makes the file, in one pass from the source,
by exact rules that are kept beside it (:mod:`app.recipe_files`) with the importance matrix: with both the file can be
made again byte for byte. What is finished in the work folder is not made again by a run that goes on.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

import kernels
from app import conversion, fit_estimate, fit_files, fit_speed, hardware, paths, recipe_files
from app.child import run_job
from app.console import size as size_words
from app.files import is_special, refuse_output, write_atomically
from app.fit_messages import (
    IMPORTANCE,
    JUDGED,
    PROBING,
    REFERENCE,
    STANDARDS,
    STEPS,
    TYPES,
    WRITING,
    Budget,
    FitChosen,
    FitPlanned,
    FitPreview,
    FitSum,
    Fitted,
    FittedTensor,
    FitTypes,
    Refusal,
    Size,
    Wish,
)
from app.measure_messages import ImatrixResult, MeasureImatrix
from app.protocol import Command, Event
from app.quality import known_costs, texts
from app.quality.texts import CALIBRATION, DEFAULT
from converter import fit_prior, imatrix, open_model, recipes
from converter.planning import free_bytes, prepare
from converter.sources.base import SourceModel
from converter.spec import Cancelled, ConversionSpec, ModelInfo, QuenchError

IMATRIX_WINDOWS = 160
"""Of 512 tokens: the first of them say nearly all, and half a billion parameters then take some minutes."""

JUDGES = DEFAULT
"""Texts that the result is judged on."""

SMALL_REFERENCE = 2 << 30
"""Bytes in 32 bits up to which a model is measured so: a window of Pocket takes 0.57 (one thread) to 0.61 (two) of what
it takes in 16 bits, which the engine widens at every product (Zen 1, AVX2)."""

MOST_WINDOWS = 4
"""Of each text, where the time decides."""

_MATRIX_FACTS = 512
"""Bytes of a file's header that name its importance matrix, at most."""

Show = Callable[[Event], None]
Say = Callable[[str, str], None]
"""Hears of each step that begins: one of :data:`app.fit_messages.STEPS`, and what it does in words."""

Job = Callable[[str, Command, Show], Event]
"""Runs a command in a worker as :func:`app.child.run_job` does."""


def run(wish: Wish, show: Show, say: Say, job: Job = run_job) -> Fitted:
    """Do it all. ``show`` gets the events of every step, and :class:`FitChosen` before the file is written.

    Raises:
        QuenchError: ``usage`` for a size that is no size; what :func:`preview` refuses; what the steps raise.
        Cancelled: a worker was stopped. What is finished stays in ``wish.work``, if one was given.
    """
    if wish.work and (Path(wish.work) / fit_files.MADE).exists():  # the file that is there is this fit's own
        wish = msgspec.structs.replace(wish, overwrite=True)
    with open_model(wish.source) as source:
        wish = _settled(source, wish)
        budget = budget_of(source, wish)
        refused = _refusals(source, wish, budget)
        if refused:
            raise refused[0]
        info = source.info
        ruled = _ruled(source, budget, wish) if wish.unmeasured else None
    with _work_folder(wish) as work:
        if ruled is not None:
            matrix, chosen = wish.imatrix, ruled
        else:
            kind = _reference_type(info)
            reference = _reference(wish, kind, work, show, say, job) if kind else wish.source
            matrix = wish.imatrix or _imatrix(reference, info, wish, work, show, say, job)
            chosen = _kept_choice(work) or _choice(reference, matrix, info, budget, wish, work, show, say, job)
        budget, plan = chosen.budget, chosen.plan
        if wish.dry_run:
            return Fitted(budget, plan)
        show(chosen)
        say(WRITING, f"writing {Path(wish.output).name}")
        spec = ConversionSpec(
            source=wish.source,
            output=wish.output,
            types=(budget.standard,),
            imatrix=matrix or None,
            tensor_types=recipe_files.rules(plan.tensors),
            refined=plan.refined,
            threads=wish.threads,
            overwrite=wish.overwrite,
            resume=bool(wish.work),
            blocks=str(work / fit_files.BLOCKS) if _is_fed(plan) else None,
        )
        made = conversion.run(spec, show, job)
        with suppress(OSError):
            (work / fit_files.MADE).touch()
        return Fitted(budget, plan, made, _recipe(wish, chosen, Path(matrix) if matrix else None))


def _ruled(source: SourceModel, budget: Budget, wish: Wish) -> FitChosen:
    """Types by rule of thumb, which needs nothing but names and sizes."""
    standard = {
        tensor.name: kind
        for tensor, (kind, _) in zip(source.tensors, _recipe_types(source, budget.standard), strict=True)
        if not recipes.unquantizable(source.info.architecture, tensor)
    }
    sizes = {
        tensor.name: {
            kind: tensor.n_rows * kernels.row_bytes(kind, tensor.n_cols)
            for kind in (recipes.fitting(kind, tensor.n_cols) for kind in _kinds(wish, tensor.name))
        }
        for tensor in source.tensors
        if tensor.name in standard
    }
    types = fit_prior.chosen(standard, sizes, budget.tensors, source.hparams.layers)
    size = {name: sizes[name][kind] for name, kind in types.items()}
    return FitChosen(
        budget,
        FitPlanned(
            tensors=tuple(
                FittedTensor(name, kind, size[name], 0.0, _rule_words(kind, standard[name]))
                for name, kind in types.items()
            ),
            bytes=sum(size.values()),
            standard_bytes=_standard_bytes(source, budget.standard),
            predicted=0.0, ratio=0.0, types_ratio=0.0, gap=0.0, domains=(),
            kept=types != standard, shared=False, refined=False, seconds=0.0, measured=False,
        ),
    )  # fmt: skip


def _rule_words(kind: str, standard: str) -> str:
    if kind == standard:
        return "not measured; as the standard recipe has it"
    return f"not measured; {standard} in the standard recipe, exchanged by rule of thumb"


def _recipe(wish: Wish, chosen: FitChosen, matrix: Path | None) -> str:
    """Put the recipe beside the file, and the importance matrix if it was made for it."""
    output = Path(wish.output)
    try:
        if matrix is not None and not wish.imatrix:
            matrix = _beside(matrix, recipe_files.imatrix_beside(output))
        return str(recipe_files.write(output, chosen.budget.standard, chosen.plan, matrix))
    except OSError as error:
        raise QuenchError(
            "not_saved",
            "The recipe could not be written.",
            str(error),
            f"{output.name} itself is whole. Make room, then resume.",
            exit_status=4,
        ) from error


@contextmanager
def _work_folder(wish: Wish) -> Iterator[Path]:
    if wish.work:
        work = Path(wish.work)
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="fit-") as made:
        yield Path(made)


def _reference_type(info: ModelInfo) -> str:
    """What the model is measured in; empty where it is used as it is."""
    if 4 * info.parameters <= SMALL_REFERENCE:
        return "" if info.kind == "gguf" and set(info.types) == {"F32"} else "F32"
    return "" if info.kind == "gguf" else "auto"


def _reference_bytes(info: ModelInfo) -> int:
    """About what the file takes that is made to be measured; 0 for none."""
    return {"": 0, "F32": 4, "auto": 2}[_reference_type(info)] * info.parameters


def _is_fed(plan: FitPlanned) -> bool:
    return any(tensor.fed for tensor in plan.tensors)


def _reference(  # noqa: PLR0917 - the parts of one run
    wish: Wish, kind: str, work: Path, show: Show, say: Say, job: Job
) -> str:
    target = work / fit_files.REFERENCE
    if not target.is_file():
        say(REFERENCE, "making a file to measure with")
        spec = ConversionSpec(wish.source, str(target), (kind,), threads=wish.threads, resume=bool(wish.work))
        conversion.run(spec, show, job)
    return str(target)


def _imatrix(  # noqa: PLR0917 - the parts of one run
    reference: str, info: ModelInfo, wish: Wish, work: Path, show: Show, say: Say, job: Job
) -> str:
    # The converter writes the matrix's name into the file: it must be the one that it will have beside it.
    target = work / recipe_files.imatrix_beside(Path(wish.output)).name
    if not target.is_file():
        say(IMPORTANCE, "measuring which columns matter (importance matrix)")
        command = MeasureImatrix(
            model=reference,
            texts=wish.calibration or tuple(CALIBRATION),
            output=str(target),
            chunks=IMATRIX_WINDOWS,
            minutes=wish.minutes / 4,
            resume=bool(wish.work),
            threads=wish.threads,
        )
        begun = time.monotonic()
        result = _done(job("measure", command, show), ImatrixResult)
        fit_estimate.learn(info, IMPORTANCE, result.chunks, time.monotonic() - begun)
    return str(target)


def _choice(  # noqa: PLR0917 - the parts of one run
    reference: str,
    matrix: str,
    info: ModelInfo,
    budget: Budget,
    wish: Wish,
    work: Path,
    show: Show,
    say: Say,
    job: Job,
) -> FitChosen:
    say(PROBING, f"choosing types for {budget.tensors:,} bytes, against {budget.standard}")
    command = FitTypes(
        reference=reference,
        budget=budget.tensors,
        standard=budget.standard,
        texts=wish.texts or tuple(CALIBRATION),
        judges=JUDGES,
        imatrix=matrix,
        windows=wish.windows,
        minutes=wish.minutes,
        floors=wish.floors,
        threads=wish.threads,
        refined=wish.refined,
        feedback=wish.feedback,
        blocks=str(work / fit_files.BLOCKS) if wish.feedback else "",
        speed=wish.speed,
        cached=wish.size.context if wish.speed else 0,
        kv_type=wish.size.kv_type,
        costs=wish.sensitivity or str(work / fit_files.COSTS),
        named=bool(wish.sensitivity),
    )
    plan = _done(job("measure", command, show), FitPlanned)
    chosen = FitChosen(msgspec.structs.replace(budget, standard=plan.standard or budget.standard), plan)
    if not wish.minutes and not plan.probes_known:
        amount = _amounts(info, len(chosen.plan.tensors), wish)
        fit_estimate.learn(info, PROBING, sum(amount.values()) - amount[IMPORTANCE], chosen.plan.seconds)
    with suppress(OSError):  # without it the next run chooses again
        write_atomically(work / fit_files.PLAN, msgspec.json.encode(chosen))
    return chosen


def _kept_choice(work: Path) -> FitChosen | None:
    """What an earlier run of the same wish has chosen; another version's is not taken."""
    try:
        found = msgspec.json.decode((work / fit_files.PLAN).read_bytes(), type=FitChosen)
    except (OSError, msgspec.DecodeError):
        return None
    return None if _is_fed(found.plan) and not (work / fit_files.BLOCKS).is_file() else found


def _beside(matrix: Path, beside: Path) -> Path:
    """Bring the importance matrix to the file that was made with it."""
    part = beside.with_name(f".{beside.name[:60]}.{secrets.token_hex(4)}.part")
    try:
        shutil.copyfile(matrix, part)
        part.replace(beside)
    finally:
        part.unlink(missing_ok=True)
    return beside


Kind = TypeVar("Kind")


def _done(end: object, kind: type[Kind]) -> Kind:
    if not isinstance(end, kind):
        raise Cancelled
    return end


# ---- before it begins ----------------------------------------------------------------------------------------------


def preview(wish: Wish) -> FitPreview:
    """What a wish would make, take and need, and what stands against it.

    Raises:
        QuenchError: what :func:`converter.open_model` raises; ``usage`` for a size that is no size.
    """
    with open_model(wish.source) as source:
        wish = _settled(source, wish)
        budget = budget_of(source, wish)
        info = source.info
        chosen = _chosen(source)
        overhead = budget.file - budget.tensors
        by_recipe = {name: overhead + _standard_bytes(source, name) for name in STANDARDS}
        reference, seconds = _reference_needs(source, wish)
        floors = tuple(sum(bool(_search(pattern, name)) for name in chosen) for pattern, _ in wish.floors)
        fit = hardware.fits(info, wish.size.context, wish.size.kv_type)
        steps = seconds | ({} if wish.unmeasured else _seconds(info, len(chosen), wish))
        speed, known = _expected_speed(source, wish, budget.standard)
        return FitPreview(
            budget=budget,
            smallest=overhead + _least(source, wish),
            largest=overhead + _standard_bytes(source, STANDARDS[-1]),
            standards=by_recipe,
            floors=floors,
            running=FitSum(_context(info, wish), budget.file, fit.kv, fit.compute, fit.available),
            disk=budget.file,
            disk_free=free_bytes(Path(wish.output).parent),
            work_disk=0 if wish.unmeasured else _reference_bytes(info),
            work_free=free_bytes(_work_place(wish)),
            memory=0 if wish.unmeasured else fit_estimate.memory(info, reference, wish.threads),
            memory_free=fit.available,
            seconds={step: steps[step] for step in STEPS if steps.get(step)},
            speed=speed,
            speed_known=known,
            refusals=tuple(
                Refusal(error.code, error.title, error.detail, error.hint) for error in _refusals(source, wish, budget)
            ),
        )


def _settled(source: SourceModel, wish: Wish) -> Wish:
    """The same with a number of windows: the most that the time is expected to allow, one at least."""
    if wish.windows or wish.unmeasured:
        return wish
    tensors = len(_chosen(source))
    tries = [msgspec.structs.replace(wish, windows=count) for count in range(MOST_WINDOWS, 0, -1)]
    fast = (each for each in tries if sum(_seconds(source.info, tensors, each).values()) <= 60 * wish.minutes)
    return next(fast, tries[-1])


def _reference_needs(source: SourceModel, wish: Wish) -> tuple[int, dict[str, float]]:
    """Bytes of the model that is measured, and seconds for making that file and the result."""
    seconds = {WRITING: prepare(source, _spec(wish, STANDARDS[0]), timed=True).plan.seconds or 0.0}
    made = 0 if wish.unmeasured else _reference_bytes(source.info)
    if made:
        seconds[REFERENCE] = made / 0.5e9 + 0.3
    return made or source.info.bytes, seconds


def _seconds(info: ModelInfo, tensors: int, wish: Wish) -> dict[str, float]:
    """Seconds of the steps that compute. A limit of time ends the matrix, and lets layers share probes."""
    windows = _amounts(info, tensors, wish)
    found = fit_estimate.seconds(info, windows, wish.threads)
    limit = 60 * wish.minutes
    if limit:
        found[IMPORTANCE] = min(found[IMPORTANCE], limit / 4)
        found[PROBING] = min(found[PROBING], limit * fit_estimate.PROBING_PART)
        found[JUDGED] = min(found[JUDGED], limit * fit_estimate.JUDGING_PART)
    return found


def _amounts(info: ModelInfo, tensors: int, wish: Wish) -> dict[str, int]:
    chunks = 0 if wish.imatrix else IMATRIX_WINDOWS
    if wish.calibration:
        chunks = min(chunks, fit_estimate.windows_of(wish.calibration, info.vocabulary))
    texts = len(wish.texts or CALIBRATION)
    return fit_estimate.amounts(tensors, (texts, len(JUDGES)), wish.windows, chunks, feedback=wish.feedback)


def _refusals(source: SourceModel, wish: Wish, budget: Budget) -> list[QuenchError]:
    """What stands against a wish; the worst first."""
    found = [*_refused_source(source), *_refused_unmeasured(wish), *_refused_floors(wish), *_refused_files(wish)]
    if not found:
        found += [*_refused_size(source, wish, budget), *_refused_speed(source, wish)]
    return found + ([] if wish.dry_run else _refused_place(source, wish, budget))


def _refused_source(source: SourceModel) -> Iterator[QuenchError]:
    odd = next((tensor for tensor in source.tensors if tensor.type not in recipes.PLAIN_TYPES), None)
    if source.info.kind == "gguf" and odd is not None:
        yield QuenchError(
            "quantized_source",
            "The model is quantized already.",
            f"{odd.name} is {odd.type}.",
            "Give the original: a model folder, or a GGUF file in 16 or 32 bits.",
        )


def _refused_unmeasured(wish: Wish) -> Iterator[QuenchError]:
    """What cannot be had without measuring."""
    asked = (
        ("A goal of speed", wish.speed > 0),
        ("Error feedback", wish.feedback),
        ("Refined blocks, kept where they are better,", wish.refined),
        ("A file of costs", bool(wish.sensitivity)),
    )
    problem = next((words for words, wanted in asked if wanted), "") if wish.unmeasured else ""
    if problem:
        detail = f"{problem} needs measuring, and nothing is to be measured."
        yield QuenchError("bad_options", "This cannot be fitted.", detail, "Leave one of both out.", exit_status=2)


def _refused_floors(wish: Wish) -> Iterator[QuenchError]:
    for pattern, kind in wish.floors:
        problem = "" if kind in TYPES else f"{kind} is none of {', '.join(TYPES)}."
        try:
            re.compile(pattern)
        except re.error as error:
            problem = f"{pattern}: {error}"
        if problem:
            yield QuenchError(
                "bad_options", "This smallest type cannot be used.", problem, "attn_v=Q4_K", exit_status=2
            )


def _refused_files(wish: Wish) -> Iterator[QuenchError]:
    """Own texts, an importance matrix and costs that cannot be read."""
    try:
        if wish.texts or wish.calibration:
            texts.load(dict.fromkeys((*wish.texts, *wish.calibration)))
        if wish.imatrix:
            imatrix.read(wish.imatrix)
        if wish.sensitivity:
            known_costs.check(wish.sensitivity)
    except QuenchError as error:
        yield error


def _refused_size(source: SourceModel, wish: Wish, budget: Budget) -> Iterator[QuenchError]:
    least = _least(source, wish)
    if least <= budget.tensors:
        return
    overhead = budget.file - budget.tensors
    smallest = size_words(least + overhead)
    detail = f"{size_words(budget.file)} are asked for; the smallest types that are allowed take {smallest}."
    if wish.size.leave_free:
        fit = hardware.fits(source.info, wish.size.context, wish.size.kv_type)
        detail = (
            f"{size_words(fit.available)} of memory are free; {size_words(wish.size.leave_free)} are to be left, "
            f"{size_words(fit.kv)} go to the KV cache and {size_words(fit.compute)} to computing. That leaves "
            f"{size_words(max(0, budget.file))}; the smallest types that are allowed take {smallest}."
        )
    yield QuenchError(
        "too_small",
        "The model cannot be made that small.",
        detail,
        "Allow smaller types, or a larger size.",
        exit_status=4,
    )


def _refused_speed(source: SourceModel, wish: Wish) -> Iterator[QuenchError]:
    """What could not be that fast by what was measured of this model; else the run finds out before it probes."""
    pace, known = fit_speed.pace_of(source.info) if wish.speed else (None, False)
    if pace is None or not known:
        return
    tensors = [tensor for tensor in source.tensors if not recipes.unquantizable(source.info.architecture, tensor)]
    read = fit_speed.weights_read(source.info, tensors)
    fastest = {
        tensor.name: min((recipes.fitting(kind, tensor.n_cols) for kind in _kinds(wish, tensor.name)), key=pace.weight)
        for tensor in tensors
    }
    rest = fit_speed.cache_seconds(source.info, wish.size.context, wish.size.kv_type)
    nearest = 1 / (fit_speed.seconds(pace, read, fastest) + rest)
    if nearest < wish.speed:
        yield fit_speed.too_slow(wish.speed, nearest, wish.size.context)


def _expected_speed(source: SourceModel, wish: Wish, standard: str) -> tuple[float, bool]:
    """Tokens a second of a standard recipe, and whether that comes from this very model; 0 where nobody asks."""
    if not wish.speed:
        return 0.0, False
    info = source.info
    pace, known = fit_speed.pace_of(info)
    types = {
        tensor.name: kind
        for tensor, (kind, _) in zip(source.tensors, _recipe_types(source, standard), strict=True)
        if not recipes.unquantizable(info.architecture, tensor)
    }
    read = fit_speed.weights_read(info, source.tensors)
    rest = fit_speed.cache_seconds(info, wish.size.context, wish.size.kv_type)
    seconds = fit_speed.seconds(pace, read, types) + rest
    return (1 / seconds if seconds > 0 else 0.0), known


def _refused_place(source: SourceModel, wish: Wish, budget: Budget) -> list[QuenchError]:
    """An output that cannot be written or would cost an input, a full disk, and memory that the model does not fit."""
    found = []
    folder = Path(wish.output).parent
    place = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        detail = f"{place} is no folder that can be written to."
        found.append(
            QuenchError(
                "bad_output", "The output folder cannot be used.", detail, "Choose another folder.", exit_status=4
            )
        )
    elif Path(wish.output).exists() and not wish.overwrite:
        hint = "Choose another name, or allow it to be replaced."
        found.append(QuenchError("output_exists", "The output file is there already.", wish.output, hint))
    else:
        try:
            if is_special(Path(wish.output)):
                detail = f"{wish.output} is a device, a pipe or a socket."
                raise QuenchError(
                    "bad_output", "A model can only be written to a file.", detail, "Choose another name."
                )
            refuse_output(Path(wish.output), (wish.source, wish.imatrix, wish.sensitivity, *wish.texts))
        except QuenchError as error:
            found.append(error)
    reference = 0 if wish.unmeasured else _reference_bytes(source.info)
    work = _work_place(wish)
    together = place.is_dir() and work.stat().st_dev == place.stat().st_dev
    for where, needed in ((folder, budget.file + (reference if together else 0)), (work, reference)):
        free = free_bytes(where)
        if place.is_dir() and needed > free:
            detail = f"{size_words(needed)} are needed in {where}, {size_words(free)} are free."
            found.append(
                QuenchError("no_space", "There is not enough room on the disk.", detail, "Free some.", exit_status=4)
            )
            break
    weights, free = reference or source.info.bytes, hardware.memory_available()
    if weights > free and not wish.unmeasured:
        detail = f"The model that is measured takes {size_words(weights)}, {size_words(free)} are free."
        hint = "Close other programs; a fit runs the whole model."
        found.append(QuenchError("no_memory", "There is not enough memory to measure.", detail, hint, exit_status=4))
    return found


def _work_place(wish: Wish) -> Path:
    """An existing folder on the disk of the work folder."""
    work = Path(wish.work) if wish.work else paths.cache()
    return next((each for each in (work, *work.parents) if each.is_dir()), work)


def _search(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


# ---- sizes ---------------------------------------------------------------------------------------------------------


def budget_of(source: SourceModel, wish: Wish) -> Budget:
    """What the size that is asked for leaves for the tensors that are chosen."""
    by_recipe = {name: _standard_bytes(source, name) for name in STANDARDS}
    overhead = _overhead(source, wish)
    size = wish.size
    given = sum(map(bool, (size.size, size.bpw, size.like, size.leave_free)))
    if given > 1 or (given == 0 and not wish.speed):
        raise QuenchError("usage", "The size is missing.", "Give exactly one size.", "--like Q4_K_M", exit_status=2)
    if not given:  # as large as can be, if only it is fast enough
        size = Size(like=STANDARDS[-1])
    if size.like:
        name = recipes.recipe(size.like).name
        if name not in by_recipe:
            raise QuenchError("usage", "Not a recipe to fit like.", size.like, ", ".join(STANDARDS), exit_status=2)
        tensors, standard = by_recipe[name], name
    else:
        file = size.size or round(size.bpw * source.info.parameters / 8)
        if size.leave_free:
            file = min(_leaving(source, size), overhead + by_recipe[STANDARDS[-1]])
        tensors = file - overhead
        standard = next((name for name in reversed(STANDARDS) if by_recipe[name] <= tensors), STANDARDS[0])
    file = tensors + overhead
    return Budget(file, tensors, standard, 8 * file / max(1, source.info.parameters))


def _chosen(source: SourceModel) -> list[str]:
    """Names of the tensors that get a type."""
    return [tensor.name for tensor in source.tensors if not recipes.unquantizable(source.info.architecture, tensor)]


def _standard_bytes(source: SourceModel, name: str) -> int:
    """What the chosen tensors take in a standard recipe with an importance matrix."""
    return sum(
        tensor.n_rows * kernels.row_bytes(kind, tensor.n_cols)
        for tensor, (kind, _) in zip(source.tensors, _recipe_types(source, name), strict=True)
        if not recipes.unquantizable(source.info.architecture, tensor)
    )


def _recipe_types(source: SourceModel, name: str) -> Sequence[tuple[str, str]]:
    """Of all tensors, in a standard recipe with an importance matrix."""
    overrides = recipes.Overrides(has_imatrix=True)
    return recipes.types(source.hparams, source.tensors, recipes.recipe(name), overrides, source.info.kind)


def _least(source: SourceModel, wish: Wish) -> int:
    """Bytes of the chosen tensors in the smallest types that the floors allow."""
    total = 0
    for tensor in source.tensors:
        if recipes.unquantizable(source.info.architecture, tensor):
            continue
        total += min(
            tensor.n_rows * kernels.row_bytes(recipes.fitting(kind, tensor.n_cols), tensor.n_cols)
            for kind in _kinds(wish, tensor.name)
        )
    return total


def _kinds(wish: Wish, name: str) -> Sequence[str]:
    """The types that a tensor may have."""
    floor = next((kind for pattern, kind in wish.floors if _search(pattern, name)), TYPES[0])
    return TYPES[TYPES.index(floor) :] if floor in TYPES else TYPES


def _spec(wish: Wish, kind: str) -> ConversionSpec:
    return ConversionSpec(
        wish.source, wish.output, (kind,), overwrite=True, allow_requantize=True, threads=wish.threads
    )


def _overhead(source: SourceModel, wish: Wish) -> int:
    """Bytes of the file beside the chosen tensors: header, vocabulary, norms."""
    chosen = set(_chosen(source))
    (output,) = prepare(source, _spec(wish, "Q8_0")).plan.outputs
    return _MATRIX_FACTS + output.bytes - sum(tensor.bytes for tensor in output.tensors if tensor.name in chosen)


def _context(info: ModelInfo, wish: Wish) -> int:
    return wish.size.context or min(8192, info.context_length or 8192)


def _leaving(source: SourceModel, size: Size) -> int:
    """The size of a file that leaves ``size.leave_free`` bytes of memory when it runs; negative if nothing is left."""
    fit = hardware.fits(source.info, size.context, size.kv_type)
    return fit.available - size.leave_free - fit.kv - fit.compute


__all__ = ["IMATRIX_WINDOWS", "STANDARDS", "budget_of", "preview", "run"]
