"""The commands themselves: each takes its parsed options and returns what it made. Heavy imports are inside."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from app import console, tables
from converter.spec import Cancelled, ConversionSpec, Plan, Planned, QuenchError

if TYPE_CHECKING:
    from app.store import Store


class Result(msgspec.Struct, frozen=True):
    """What a command made: ``data`` for ``--json``, ``text`` for people, and the exit status."""

    data: Any
    text: str
    status: int = 0


def demo(options: argparse.Namespace) -> Result:
    from app import demo

    return Result(*demo.run(options.out, window=not options.no_window))


def inspect(options: argparse.Namespace) -> Result:
    import converter

    if options.against is not None:
        from app import inspect_commands

        return inspect_commands.against(options)
    with converter.open_model(options.path) as model:
        info = model.info
    rows = [
        ("kind", info.kind),
        ("architecture", info.architecture),
        ("parameters", f"{info.parameters:,}"),
        ("layers", str(info.layers)),
        ("context length", f"{info.context_length:,}"),
        ("vocabulary", f"{info.vocabulary:,}"),
        ("tokenizer", f"{info.tokenizer} / {info.pre_tokenizer}"),
        ("types", ", ".join(f"{count} x {name}" for name, count in info.types.items())),
        ("size", console.size(info.bytes)),
        *(("problem", text) for text in info.problems),
        *(("note", text) for text in info.notes),
    ]
    data = msgspec.to_builtins(info)
    if options.tokenizer_check:
        from app import tokenizer_check

        check = tokenizer_check.check_folder(options.path, options.pre_tokenizer)
        data["tokenizer_check"] = msgspec.to_builtins(check)
        rows.append(("tokenizers", tokenizer_check.whole(check)))
    if options.tokens is not None or options.prompt is not None:
        from app import inspect_commands

        more, told = inspect_commands.answers(info, options.tokens, options.prompt)
        data |= more
        rows += told
    width = max(len(name) for name, _ in rows)
    return Result(data, "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows))


def convert(options: argparse.Namespace) -> Result:
    import converter
    from app import conversion, downloads
    from converter.options import parse_layers, parse_size
    from converter.spec import Planned, Progress

    kinds, by_recipe = _types_of(options)
    home = os.path.expanduser  # keeps a slash at the end of an output, which says something
    spec = converter.ConversionSpec(
        source=home(options.source),
        output=home(options.output),
        types=kinds,
        imatrix=home(options.imatrix) if options.imatrix else None,
        tensor_types=tuple(_rule(text) for text in (*options.tensor_type, *by_recipe)),
        output_type=options.output_type,
        embedding_type=options.embedding_type,
        pure=options.pure,
        leave_output=options.leave_output,
        lora=tuple(options.lora),
        check=not options.no_check,
        threads=options.threads,
        memory_mib=options.memory,
        overwrite=options.overwrite,
        allow_requantize=options.allow_requantize,
        override_kv=tuple(options.override_kv),
        remove_kv=tuple(options.remove_kv),
        prune_layers=parse_layers(options.prune_layers),
        keep_split=options.keep_split,
        split_size=parse_size(options.split_size) if options.split_size else 0,
        refined=options.refined,
        resume=options.resume,
        pre_tokenizer=options.pre_tokenizer,
    )
    if options.dry_run:
        return _plan_conversion(spec)
    if downloads.is_remote(spec.source):
        from app import hub_commands

        spec = msgspec.structs.replace(spec, source=hub_commands.source_folder(spec.source))
    progress = console.Progress()

    def show(event: object) -> None:
        tell_kernels(progress, event)
        if isinstance(event, Planned):
            for warning in event.plan.warnings:
                print(f"quench: {warning}", file=sys.stderr)
            _tell_kept(progress, event, spec.resume)
        elif isinstance(event, Progress):
            label = f"{console.size(event.rate)}/s  {event.label}"
            progress.update(label, event.done, event.total, event.seconds_left)

    for path in (spec.source, spec.output, spec.imatrix or "", *spec.lora):
        _check_name(path)
    result = conversion.run(spec, show)
    progress.clear()
    text = tables.files([(o.path, o.type, o.bytes, o.bpw) for o in result.outputs])
    text += (
        f"\n{console.duration(result.seconds)}, peak memory {console.size(result.peak_rss)}, kernels {result.kernels}"
    )
    notes = [f"\n{o.path}: {o.checked.note}" for o in result.outputs if o.checked and o.checked.note]
    text += "".join(notes)
    data = msgspec.to_builtins(result)
    data.pop("message", None)
    return Result(data, text)


def _plan_conversion(spec: ConversionSpec) -> Result:
    """The plan of a conversion; for a model of the hub from its headers alone, with what would be downloaded."""
    import converter
    from app import downloads

    if not downloads.is_remote(spec.source):
        plan = converter.plan(spec.source, spec)
        return Result(tables.plan_data(plan), tables.plan(plan))
    from app import hub_commands

    def make(folder: Path) -> Plan:
        return converter.plan(folder, msgspec.structs.replace(spec, source=str(folder)))

    wanted, plan = hub_commands.plan_remote(spec.source, make)
    text = f"{tables.plan(plan)}\n{console.size(wanted.to_fetch)} to download"
    return Result({**tables.plan_data(plan), "download": msgspec.to_builtins(wanted)}, text)


def tell_kernels(progress: console.Progress, event: object) -> None:
    """Say in a line of its own which kernels were just found to be wrong here."""
    from app.protocol import KernelsChecked

    if isinstance(event, KernelsChecked):
        from app import kernel_check

        progress.say(kernel_check.in_words(event.check))


def _tell_kept(progress: console.Progress, planned: Planned, resume: bool) -> None:
    """Say what becomes of an interrupted run of the same conversion."""
    percent = int(100 * planned.kept)
    if resume and planned.kept:
        progress.say(f"Going on at {percent} %.")
    elif resume:
        progress.say("There is nothing to go on with; starting from the beginning.")
    elif planned.kept:
        progress.say(f"Starting from the beginning; --resume would have gone on at {percent} %.")


def _rule(text: str) -> tuple[str, str]:
    pattern, equals, type_name = text.rpartition("=")
    if not equals or not pattern or not type_name:
        raise QuenchError("usage", "A tensor rule has the form RE=TYPE.", text, "attn_v=Q6_K", exit_status=2)
    return pattern, type_name


def _types_of(options: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The types that are asked for, and the rules of a recipe file."""
    asked = tuple(name.strip() for name in options.type.split(",") if name.strip())
    if options.recipe:
        from app.recipe_files import read

        recipe = read(Path(absolute(options.recipe)))
        options.imatrix = options.imatrix or recipe.imatrix or None
        options.refined = options.refined or recipe.refined
        if recipe.feedback:
            console.Progress().say("only quench fit rounds with error feedback: the same types, other bytes")
        return asked or (recipe.base,), recipe.rules
    if not asked:
        raise QuenchError("usage", "The type is missing.", "", "--type Q4_K_M, or --recipe F", exit_status=2)
    return asked, ()


def fit(options: argparse.Namespace) -> Result:
    from app import fitting
    from app.fit_messages import Size, Wish
    from app.protocol import Status
    from converter.options import parse_size
    from converter.spec import Progress

    progress = console.Progress()

    def show(event: object) -> None:
        tell_kernels(progress, event)
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)
        elif isinstance(event, Progress):
            progress.update(f"{console.size(event.rate)}/s  {event.label}", event.done, event.total, event.seconds_left)

    size = Size(
        size=parse_size(options.size) if options.size else 0,
        bpw=options.bpw,
        like=options.like,
        leave_free=parse_size(options.leave_free) if options.leave_free else 0,
        context=options.context,
    )
    wish = Wish(
        source=absolute(options.source),
        output=absolute(options.output),
        size=size,
        imatrix=absolute(options.imatrix) if options.imatrix else "",
        texts=named_texts([options.text]) if options.text else (),
        floors=tuple(_rule(text) for text in options.at_least),
        windows=options.windows,
        minutes=options.minutes,
        refined=options.refined,
        feedback=options.feedback,
        threads=options.threads,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
        speed=options.speed,
        sensitivity=absolute(options.sensitivity) if options.sensitivity else "",
        unmeasured=options.unmeasured,
    )
    found = fitting.run(wish, show, lambda step, words: progress.say(words))
    progress.clear()
    return Result(tables.fit_data(found), tables.fit(found))


def quality(options: argparse.Namespace) -> Result:
    from app import journals, measurements
    from app.child import run_job
    from app.fingerprint_files import is_fingerprint
    from app.measure_messages import MeasureQuality, QualityResult, QualityUpdate
    from app.protocol import Status
    from app.remote.address import is_remote
    from app.served_candidates import candidates_of

    progress = console.Progress()

    def show(event: object) -> None:
        tell_kernels(progress, event)
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)
        elif isinstance(event, QualityUpdate):
            kld = event.result.kld.mean
            least = "at least " if event.result.at_least else ""
            label = f"{event.result.label}: KLD {least}{kld.value:.5f} +- {kld.error:.5f}"
            progress.update(label, event.windows, event.windows_total)

    if options.history:
        return _quality_history([options.reference, *options.candidates] if options.reference else [])
    reference = absolute(options.reference or "")
    saved = is_fingerprint(reference)
    served = candidates_of(options)
    files = [absolute(path) for path in options.candidates if not is_remote(path)]
    if not options.reference or (not files and not served and not options.fingerprint):
        usage = "A candidate is missing, or --fingerprint."
        hint = "quench quality REF CAND..., or quench quality REF --fingerprint OUT.qref"
        raise QuenchError("usage", "The command line is not understood.", usage, hint, exit_status=2)
    caches = tuple("" if kind.strip() == "f16" else kind.strip() for kind in options.kv.split(","))
    command = MeasureQuality(
        reference=reference,
        candidates=(*(path for path in files for _ in caches), *(place.path for place in served)),
        kv=tuple(kind for _ in files for kind in caches),
        texts=() if saved and not options.text else chosen_texts(options.text),
        context=(0 if saved else 512) if options.context is None else options.context,
        chunks=options.chunks,
        minutes=options.minutes,
        precision=options.precision / 100,
        tasks=_tasks(options.tasks) if options.tasks else None,
        run_code=options.run_code,
        threads=options.threads,
        report=absolute(options.report) if options.report else None,
        fingerprint=absolute(options.fingerprint) if options.fingerprint else None,
        fingerprint_matrix=options.fingerprint_matrix,
        fresh=options.fresh,
        served=served,
        served_top=options.served_top,
        machines=machines_of(options),
    )
    try:
        result = finished(run_job("measure", command, show), QualityResult)
    except Cancelled:
        part = journals.kept_fraction(command)
        if part is None:
            raise
        hint = f"The same command goes on at {part:.0%}."
        raise QuenchError("interrupted", "Interrupted.", "", hint, exit_status=130) from None
    keep(lambda store: measurements.keep_quality(store, result, command.report or ""), progress)
    progress.clear()
    return Result(tables.quality_data(result), tables.quality(result))


def keep(kept: Callable[[Store], None], progress: console.Progress) -> None:
    """Put a result where the window and the history look for it. That this fails must not lose the result."""
    import sqlite3

    from app import paths
    from app.store import Store

    try:
        with contextlib.closing(Store(paths.database())) as store:
            kept(store)
    except (QuenchError, sqlite3.Error) as error:
        progress.say(f"The result is not kept for later comparisons: {getattr(error, 'title', error)}")


def _quality_history(models: Sequence[str]) -> Result:
    from app import history, paths
    from app.store import Store
    from converter.identity import content_id

    chosen = [absolute(path) for path in models]
    contents = [content for path in chosen if (content := content_id(path))]
    with contextlib.closing(Store(paths.database())) as store:
        found = history.of_models(store, chosen, contents)
    return Result(tables.history_data(found), tables.history(found))


def machines_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Where else models are computed; ``QuenchError`` ``bad_machine``."""
    from app.remote.machines import check_endpoints

    return check_endpoints(options.rpc) if options.rpc else ()


def _tasks(name: str) -> str:
    """A bundled set of tasks by its name, else a file."""
    from app.quality.tasks import BUNDLED

    return name if name in BUNDLED else absolute(name)


def sensitivity(options: argparse.Namespace) -> Result:
    from app.child import run_job
    from app.measure_messages import MeasureSensitivity, SensitivityResult
    from app.protocol import Status

    progress = console.Progress()

    def show(event: object) -> None:
        tell_kernels(progress, event)
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)

    command = MeasureSensitivity(
        reference=absolute(options.reference),
        candidate=absolute(options.candidate),
        texts=chosen_texts(options.text),
        context=options.context,
        chunks=options.chunks,
        minutes=options.minutes,
        threads=options.threads,
    )
    result = finished(run_job("measure", command, show), SensitivityResult)
    progress.clear()
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    return Result(data, tables.sensitivity(result))


def chosen_texts(given: str | None) -> tuple[str, ...]:
    """What ``--text`` names, else the usual ones."""
    from app.quality.texts import DEFAULT

    return named_texts([given]) if given else DEFAULT


def named_texts(given: Sequence[str]) -> tuple[str, ...]:
    """Bundled texts and groups of them by their names, files, and - for the input; each of ``given`` may be several,
    with commas."""
    from app.quality.texts import expand, is_bundled

    names = [part.strip() for several in given for part in several.split(",")]
    return expand(name if is_bundled(name) else text_file(name) for name in names)


def text_file(name: str) -> str:
    """The file that ``name`` is; for - one with what comes in, which is there as long as this process."""
    return _input_file() if name == "-" else absolute(name)


@functools.cache
def _input_file() -> str:
    from app.quality.texts import MAX_BYTES

    folder = tempfile.mkdtemp(prefix="quench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "input.txt"
    file.write_bytes(sys.stdin.buffer.read(MAX_BYTES + 1))  # one byte more than is taken: it is refused, not cut
    return str(file)


def imatrix(options: argparse.Namespace) -> Result:
    given = [options.model, options.show, options.merge]
    usage = ""
    if sum(value is not None for value in given) != 1:
        usage = "Exactly one of MODEL, --show and --merge is needed."
    elif options.show is None and options.output is None:
        usage = "The output is missing."
    if usage:
        hint = "quench imatrix MODEL -o OUT, quench imatrix --show F, or quench imatrix --merge F,F -o OUT"
        raise QuenchError("usage", "The command line is not understood.", usage, hint, exit_status=2)
    return _measure_imatrix(options) if options.model is not None else _read_imatrix(options)


def _imatrix_form(output: str, wanted: str) -> str:
    return wanted or ("dat" if output.endswith(".dat") else "gguf")


def _read_imatrix(options: argparse.Namespace) -> Result:
    """The statistics of a file, or of several put together. Nothing native runs: no worker is needed."""
    from app import imatrix_files

    if options.show is not None:
        found = imatrix_files.describe(Path(absolute(options.show)))
    else:
        output = absolute(options.output)
        inputs = [Path(absolute(part.strip())) for part in options.merge.split(",")]
        found = imatrix_files.merge(inputs, Path(output), _imatrix_form(output, options.format), options.context or 512)
    data: dict[str, Any] = msgspec.to_builtins(found)
    if found.checkpoint is None:
        data.pop("checkpoint")
    return Result(data, tables.imatrix_file(found))


def _measure_imatrix(options: argparse.Namespace) -> Result:
    from app.child import run_job
    from app.measure_messages import ImatrixResult, MeasureImatrix
    from app.protocol import Status
    from app.quality.texts import CALIBRATION

    progress = console.Progress()

    def show(event: object) -> None:
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)

    output = absolute(options.output)
    command = MeasureImatrix(
        model=absolute(options.model),
        texts=named_texts(options.text) or tuple(CALIBRATION),
        output=output,
        format=_imatrix_form(output, options.format),
        context=options.context,
        chunks=options.chunks,
        process_output=options.process_output,
        resume=options.resume,
        threads=options.threads,
        minutes=options.minutes,
    )
    result = finished(run_job("measure", command, show), ImatrixResult)
    progress.clear()
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    return Result(data, tables.imatrix(result))


def bench(options: argparse.Namespace) -> Result:
    from app.child import run_job
    from app.measure_messages import BenchResult, MeasureBench
    from app.protocol import Status

    progress = console.Progress()

    def show(event: object) -> None:
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)

    command = MeasureBench(
        models=tuple(absolute(path) for path in options.models),
        prompt=options.prompt,
        generate=options.generate,
        depths=options.depth,
        threads=options.threads,
        repeat=options.repeat,
        machines=machines_of(options),
    )
    result = finished(run_job("measure", command, show), BenchResult)
    progress.clear()
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    return Result(data, tables.bench(result))


def kernels(options: argparse.Namespace) -> Result:
    import kernels
    from converter.encode import unusable

    try:
        kernels.active()
    except kernels.KernelError as error:
        raise unusable(error) from error
    return _kernels(options)


def _kernels(options: argparse.Namespace) -> Result:
    import kernels
    from app import kernel_check

    if options.action == "selftest":
        results = kernel_check.run_selftest(kernels.backends())
        kernel_check.remember(results)
    known = kernel_check.remembered()
    data: dict[str, Any] = {
        "backends": kernels.backends(),
        "active": known.backend if known is not None else kernels.active(),
        "cpu": kernels.cpu(),
        "note": kernels.note(),
        "failed": known.failed if known is not None else {},
    }
    lines = [f"cpu       {data['cpu']}", f"backends  {', '.join(data['backends'])}", f"active    {data['active']}"]
    lines += [f"note      {data['note']}"] if data["note"] else []
    lines += [f"wrong     {name}: {what}" for name, what in data["failed"].items()]
    if options.action == "selftest":
        data["results"] = [row for name in data["backends"] for row in results[name]]
        lines.append(tables.selftest(data["results"]))
        passed = all(row["passed"] for row in data["results"])
        return Result(data, "\n".join(lines), 0 if passed else 1)
    if options.action == "bench":
        progress = console.Progress()
        try:
            data["results"] = kernels.bench(
                options.types,
                oracle=_engine_base_library(),
                samples={"trained": _trained_rows()},
                on_step=progress.update,
            )
        except kernels.KernelError as error:
            raise QuenchError("usage", "The kernels cannot be timed.", error.message, exit_status=2) from error
        progress.clear()
        lines.append(tables.kernel_bench(data["results"]))
    return Result(data, "\n".join(lines))


def _trained_rows() -> Any:
    """Weights of the bundled model, float32 (n, 4096): what a quantizer meets, unlike gaussian ones."""
    import numpy as np

    import converter
    from resources import path

    with converter.open_model(path("pocket")) as model:
        matrices = [tensor for tensor in model.tensors if len(tensor.shape) == 2]
        weights = np.concatenate([tensor.rows(0, tensor.n_rows).reshape(-1) for tensor in matrices])
    return weights[: len(weights) // 4096 * 4096].reshape(-1, 4096)


def _engine_base_library() -> str | None:
    """The engine's libggml-base, found without importing the engine; ``None`` if it is not installed."""
    from importlib.util import find_spec

    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    return next((str(folder / name) for name in names if (folder / name).exists()), None)


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise QuenchError(
            "empty_prompt", "There is nothing to answer.", "The prompt is empty.", "-p TEXT", exit_status=2
        )


def absolute(path: str) -> str:
    """A path from the command line; ``QuenchError`` for a name that is no UTF-8."""
    _check_name(path)
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - keeps links as they are


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        # Messages between processes and the database are UTF-8.
        raise QuenchError(
            "bad_name",
            "The file's name is not UTF-8.",
            repr(os.fsencode(path)),
            "Rename it, or make a link to it with a simpler name.",
        ) from error


def finished(event: Any, kind: type[Any]) -> Any:
    """The result of a job; a job that was cancelled is an interruption."""
    if not isinstance(event, kind):
        raise Cancelled
    return event
