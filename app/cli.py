"""The headless twin of every page: ``quench COMMAND ... [--json]``.

With ``--json`` stdout is one JSON object and everything else goes to stderr. Exit status: 0 done; 2 usage; 3 bad input;
4 not enough disk or memory; 5 the engine process died; 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from app import console, edges
from converter.spec import Cancelled, QuenchError

INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are our errors."""

    def error(self, message: str) -> NoReturn:
        raise QuenchError("usage", "The command line is not understood.", message, self.format_usage(), exit_status=2)


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object on stdout")
    common.add_argument("--home", default=argparse.SUPPRESS, metavar="DIR", help="keep all data in this folder")
    parser = Parser(prog="quench", description="Local language models: convert, chat, and see what quantizing cost.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--home", metavar="DIR", help="keep all data in this folder")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str, run: Callable[[argparse.Namespace], Any]) -> Parser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(run=run)
        return command

    demo = add("demo", "the whole road on the bundled Pocket model", run_demo)
    demo.add_argument("--out", default="demo", metavar="DIR")
    demo.add_argument("--no-window", action="store_true", help="write the screenshots, open no window")

    inspect = add("inspect", "what a model folder or a GGUF file is", run_inspect)
    inspect.add_argument("path")

    convert = add("convert", "a model folder or a GGUF file to GGUF", run_convert)
    convert.add_argument("source", metavar="SRC")
    convert.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file for one type, a folder for several"
    )
    convert.add_argument("--type", required=True, metavar="T[,T...]", help="F32, F16, BF16, auto, Q8_0, Q4_K_M ...")
    convert.add_argument("--imatrix", metavar="F", help="importance matrix (GGUF or .dat)")
    convert.add_argument("--tensor-type", action="append", default=[], metavar="RE=T", help="type for matching tensors")
    convert.add_argument("--output-type", metavar="T")
    convert.add_argument("--embedding-type", metavar="T")
    convert.add_argument("--pure", action="store_true", help="the same type everywhere")
    convert.add_argument("--leave-output", action="store_true", help="keep output.weight as it is")
    convert.add_argument("--allow-requantize", action="store_true")
    convert.add_argument("--threads", type=_natural, default=0, metavar="N")
    convert.add_argument("--memory", type=_natural, default=0, metavar="MiB")
    convert.add_argument("--dry-run", action="store_true", help="plan: exact sizes, types, disk and memory needed")
    convert.add_argument("--overwrite", action="store_true")

    quality = add("quality", "how far candidates are from the full-precision reference", run_quality)
    quality.add_argument("reference", metavar="REF")
    quality.add_argument("candidates", nargs="+", metavar="CAND")
    quality.add_argument("--text", metavar="F[,F...]", help="files or bundled slices; default: all bundled slices")
    quality.add_argument("--context", type=_natural, default=512)
    quality.add_argument("--chunks", type=_natural, default=0, help="windows a text; 0: all")
    quality.add_argument("--minutes", type=_number, default=0.0)
    quality.add_argument("--tasks", metavar="F.jsonl", help="graded tasks; 'pocket' for the bundled set")
    quality.add_argument("--threads", type=_natural, default=0)
    quality.add_argument("--report", metavar="OUT.html")

    bench = add("bench", "speed and memory", run_bench)
    bench.add_argument("models", nargs="+", metavar="MODEL")
    bench.add_argument("--prompt", type=_natural, default=512)
    bench.add_argument("--generate", type=_natural, default=128)
    bench.add_argument("--depth", type=_naturals, default=(0,), metavar="N[,N...]")
    bench.add_argument("--threads", type=_naturals, default=(), metavar="N[,N...]")
    bench.add_argument("--repeat", type=_natural, default=5)

    chat = add("chat", "a reply, or a chat in the terminal", run_chat)
    chat.add_argument("model", metavar="MODEL")
    chat.add_argument("-p", "--prompt", metavar="TEXT")
    chat.add_argument("--system", default="", metavar="S")
    _add_sampling(chat)

    compare = add("compare", "answers side by side, and where they part", run_compare)
    compare.add_argument("reference", metavar="REF")
    compare.add_argument("models", nargs="+", metavar="MODEL")
    compare.add_argument("-p", "--prompt", required=True, metavar="TEXT")
    compare.add_argument("--max-tokens", type=_natural, default=256)
    compare.add_argument("--context", type=_natural, default=0)
    compare.add_argument("--threads", type=_natural, default=0)

    library = add("library", "the local models", run_library)
    library.add_argument("action", choices=("list", "add", "remove", "verify"))
    library.add_argument("paths", nargs="*", metavar="PATH")

    kernels = add("kernels", "the C library", run_kernels)
    kernels.add_argument("action", choices=("list", "selftest", "bench"))
    return parser


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError("must be a finite number")
    return value


def _naturals(text: str) -> tuple[int, ...]:
    return tuple(_natural(part) for part in text.split(","))


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Options that override the model's own generation defaults."""
    parser.add_argument("--max-tokens", type=_natural, default=1024)
    parser.add_argument("--temperature", type=_number)
    parser.add_argument("--top-k", type=_natural)
    parser.add_argument("--top-p", type=_number)
    parser.add_argument("--min-p", type=_number)
    parser.add_argument("--repeat-penalty", type=_number)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--context", type=_natural, default=0)
    parser.add_argument("--kv", default="f16", choices=("f16", "q8_0", "q4_0"))
    parser.add_argument("--threads", type=_natural, default=0)


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    edges.complete_streams()
    try:
        status = _run(arguments, "--json" in arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left (head, less); there is nobody to tell.
        edges.silence_output()
        return 0
    except OSError as error:
        edges.silence_output()
        trouble = edges.system_error(error)
        show_error(trouble, False)
        return trouble.exit_status
    return status


def _run(arguments: list[str], as_json: bool) -> int:
    """One command with everything that it says; only what goes wrong with the output itself is raised."""
    try:
        options = build_parser().parse_args(arguments)
        if options.home:
            os.environ["QUENCH_HOME"] = options.home
        if options.version:
            from importlib.metadata import version

            print(version("quench-studio"))
            return 0
        if options.command is None:
            from app.ui import application

            return application.main(sys.argv[:1])
        with edges.endings(signal.default_int_handler):
            result = options.run(options)
    except QuenchError as error:
        show_error(error, as_json)
        return error.exit_status
    except (Cancelled, KeyboardInterrupt):
        show_error(QuenchError("interrupted", "Interrupted.", exit_status=INTERRUPTED), as_json)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        trouble = edges.system_error(error)
        show_error(trouble, as_json)
        return trouble.exit_status
    except Exception as error:
        if not as_json:
            raise
        # A script that asked for JSON gets JSON even for our own mistakes; the traceback stays on stderr.
        traceback.print_exc()
        mistake = QuenchError("internal", "Something went wrong that should not.", repr(error), exit_status=1)
        show_error(mistake, as_json)
        return 1
    if as_json:
        sys.stdout.write(msgspec.json.format(_json(result.data), indent=1).decode() + "\n")
    elif result.text:
        print(result.text)
    return 0


class Result(msgspec.Struct, frozen=True):
    """What a command made: ``data`` for ``--json``, ``text`` for people."""

    data: Any
    text: str


def _json(data: Any) -> bytes:
    """``data`` as JSON, also with names of files in it that are no UTF-8."""
    from app.protocol import whole_text

    try:
        return msgspec.json.encode(data)
    except UnicodeEncodeError:
        return msgspec.json.encode(whole_text(msgspec.to_builtins(data)))


def show_error(error: QuenchError, as_json: bool) -> None:
    """The error object on stdout, or a few plain lines on stderr."""
    if as_json:
        sys.stdout.write(_json({"error": error.as_dict()}).decode() + "\n")
        return
    lines = [f"quench: {error.title}"]
    lines += [textwrap.indent(part, "  ") for part in (error.detail, error.hint) if part]
    print("\n".join(lines), file=sys.stderr)


# ---- commands --------------------------------------------------------------------------------------------------


def run_demo(options: argparse.Namespace) -> Result:
    from app import demo

    return Result(*demo.run(options.out, window=not options.no_window))


def run_inspect(options: argparse.Namespace) -> Result:
    import converter

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
    ]
    width = max(len(name) for name, _ in rows)
    return Result(msgspec.to_builtins(info), "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows))


def run_convert(options: argparse.Namespace) -> Result:
    import converter
    from converter.spec import Progress

    spec = converter.ConversionSpec(
        source=options.source,
        output=options.output,
        types=tuple(name.strip() for name in options.type.split(",")),
        imatrix=options.imatrix,
        tensor_types=tuple(_rule(text) for text in options.tensor_type),
        output_type=options.output_type,
        embedding_type=options.embedding_type,
        pure=options.pure,
        leave_output=options.leave_output,
        threads=options.threads,
        memory_mib=options.memory,
        overwrite=options.overwrite,
        allow_requantize=options.allow_requantize,
    )
    if options.dry_run:
        plan = converter.plan(options.source, spec)
        data = {
            "outputs": [
                {
                    "path": output.path,
                    "type": output.type,
                    "bytes": output.bytes,
                    "bpw": output.bpw,
                    "tensors": {tensor.name: tensor.type for tensor in output.tensors},
                }
                for output in plan.outputs
            ],
            "read_bytes": plan.read_bytes,
            "disk_needed": plan.disk_needed,
            "disk_free": plan.disk_free,
            "memory_needed": plan.memory_needed,
            "seconds": plan.seconds,
        }
        return Result(data, _files_table([(o.path, o.type, o.bytes, o.bpw) for o in plan.outputs]))
    progress = console.Progress()

    def show(event: object) -> None:
        if isinstance(event, Progress):
            label = f"{console.size(event.rate)}/s  {event.label}"
            progress.update(label, event.done, event.total, event.seconds_left)

    with edges.interruptible() as stopped:
        result = converter.convert(spec, show, stopped)
    progress.clear()
    text = _files_table([(o.path, o.type, o.bytes, o.bpw) for o in result.outputs])
    text += (
        f"\n{console.duration(result.seconds)}, peak memory {console.size(result.peak_rss)}, kernels {result.kernels}"
    )
    data = msgspec.to_builtins(result)
    data.pop("message", None)
    return Result(data, text)


def _rule(text: str) -> tuple[str, str]:
    pattern, equals, type_name = text.rpartition("=")
    if not equals or not pattern or not type_name:
        raise QuenchError("usage", "A tensor rule has the form RE=TYPE.", text, "attn_v=Q6_K", exit_status=2)
    return pattern, type_name


def _files_table(files: list[tuple[str, str, int, float]]) -> str:
    rows = [(path, kind, console.size(count), f"{bpw:.2f}") for path, kind, count, bpw in files]
    return console.table(("file", "type", "size", "bits/weight"), rows)


def run_quality(options: argparse.Namespace) -> Result:
    from app.child import run_job
    from app.protocol import MeasureQuality, QualityResult, QualityUpdate, Status
    from app.quality.texts import BUNDLED

    progress = console.Progress()

    def show(event: object) -> None:
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)
        elif isinstance(event, QualityUpdate):
            kld = event.result.kld.mean
            label = f"{event.result.type}: KLD {kld.value:.5f} +- {kld.error:.5f}"
            progress.update(label, event.windows, event.windows_total)

    texts = tuple(_text(part.strip()) for part in options.text.split(",")) if options.text else tuple(BUNDLED)
    command = MeasureQuality(
        reference=_absolute(options.reference),
        candidates=tuple(_absolute(path) for path in options.candidates),
        texts=texts,
        context=options.context,
        chunks=options.chunks,
        minutes=options.minutes,
        tasks=options.tasks,
        threads=options.threads,
        report=_absolute(options.report) if options.report else None,
    )
    result = _finished(run_job("measure", command, show), QualityResult)
    progress.clear()
    return Result(quality_data(result), quality_table(result))


def _text(name: str) -> str:
    """A bundled slice by its name, else a file."""
    from app.quality.texts import BUNDLED

    return name if name in BUNDLED else _absolute(name)


def quality_data(result: Any) -> dict[str, Any]:
    """The ``quench quality --json`` object of a QualityResult."""
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    for candidate in data["candidates"]:
        candidate["kld"]["error"] = candidate["kld"]["mean"]["error"]
    return data


def quality_table(result: Any) -> str:
    """The same for people."""
    rows = []
    for item in (result.reference, *result.candidates):
        tasks = item.tasks.values()
        asked = sum(score.n for score in tasks)
        rows.append(
            (
                item.type,
                console.size(item.bytes),
                f"{item.perplexity.value:.3f} +- {item.perplexity.error:.3f}",
                f"{item.kld.mean.value:.5f} +- {item.kld.mean.error:.5f}",
                f"{item.top1.value:.1%}",
                f"{sum(score.correct for score in tasks) / asked:.1%}" if asked else "-",
                f"{item.tokens_per_second:.0f}",
                item.verdict,
            )
        )
    header = ("type", "size", "perplexity", "KLD (nats)", "top-1", "tasks", "tokens/s", "verdict")
    return console.table(header, rows)


def run_bench(options: argparse.Namespace) -> Result:
    from app.child import run_job
    from app.protocol import BenchResult, MeasureBench, Status

    progress = console.Progress()

    def show(event: object) -> None:
        if isinstance(event, Status):
            progress.update(event.label, event.done, event.total, event.seconds_left)

    command = MeasureBench(
        models=tuple(_absolute(path) for path in options.models),
        prompt=options.prompt,
        generate=options.generate,
        depths=options.depth,
        threads=options.threads,
        repeat=options.repeat,
    )
    result = _finished(run_job("measure", command, show), BenchResult)
    progress.clear()
    rows = [
        (
            os.path.basename(model.path),  # noqa: PTH119 - a label
            point.kind,
            str(point.depth),
            str(point.threads),
            f"{point.speed.median:.1f}",
            f"{point.speed.p10:.1f} to {point.speed.p90:.1f}",
        )
        for model in result.models
        for point in _speed_rows(model)
    ]
    text = console.table(("model", "what", "depth", "threads", "tokens/s", "10 to 90 %"), rows)
    data: dict[str, Any] = msgspec.to_builtins(result)
    data.pop("message", None)
    return Result(data, text)


class _SpeedRow(msgspec.Struct, frozen=True):
    kind: str
    depth: int
    threads: int
    speed: Any


def _speed_rows(model: Any) -> list[_SpeedRow]:
    return [
        _SpeedRow(kind, point.depth, point.threads, point.tokens_per_second)
        for kind, points in (("prompt", model.prompt), ("generate", model.generate))
        for point in points
    ]


def run_chat(options: argparse.Namespace) -> Result:
    from app.protocol import ChatMessage, LoadOptions
    from app.sessions import ChatSession

    if options.prompt is not None:
        _check_prompt(options.prompt)
    progress = console.Progress()
    load = LoadOptions(context=options.context, threads=options.threads, kv_type=options.kv)
    with ChatSession(_absolute(options.model), load, lambda part: progress.update("loading", part, 1.0)) as session:
        progress.clear()
        sampling = _sampling(options, session.loaded.defaults)
        history = [ChatMessage("system", options.system)] if options.system else []
        if options.prompt is None:
            if not sys.stdin.isatty() and options.json:
                raise QuenchError(
                    "usage", "A chat in the terminal has no JSON form.", "", "Give -p TEXT.", exit_status=2
                )
            return _terminal_chat(session, history, sampling)
        messages = (*history, ChatMessage("user", options.prompt))
        stream = None if options.json else _print_piece
        reply = session.generate(messages, sampling, stream)
    end = reply.end
    data = {
        "text": reply.text,
        "tokens": end.tokens,
        "tokens_per_second": end.tokens_per_second,
        "first_token": end.first_token,
        "stop": end.stop,
        "memory": msgspec.to_builtins(end.memory),
    }
    if not options.json:
        print()
        rate = f"{end.tokens} tokens, {end.tokens_per_second:.1f} tokens/s, first token {end.first_token * 1000:.0f} ms"
        print(rate, file=sys.stderr)
    return Result(data, "")


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise QuenchError(
            "empty_prompt", "There is nothing to answer.", "The prompt is empty.", "-p TEXT", exit_status=2
        )


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _sampling(options: argparse.Namespace, defaults: Any) -> Any:
    """The model's own defaults with what the command line says on top."""
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return msgspec.structs.replace(defaults, max_tokens=options.max_tokens, **given)


def _terminal_chat(session: Any, history: list[Any], sampling: Any) -> Result:
    from app.protocol import ChatMessage

    print(f"{session.loaded.description}. An empty line or Ctrl-D ends the chat.", file=sys.stderr)
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            break
        if not question:
            break
        history.append(ChatMessage("user", question))
        try:
            reply = session.generate(tuple(history), sampling, _print_piece)
        except Cancelled:
            print()
            history.pop()
            continue
        print()
        history.append(ChatMessage("assistant", reply.text))
    return Result({}, "")


def run_compare(options: argparse.Namespace) -> Result:
    from app import comparison

    _check_prompt(options.prompt)
    progress = console.Progress()
    (columns,) = comparison.compare(
        [_absolute(path) for path in (options.reference, *options.models)],
        [options.prompt],
        max_tokens=options.max_tokens,
        context=options.context,
        threads=options.threads,
        on_step=progress.update,
    )
    progress.clear()
    parts = []
    for column in columns:
        head = os.path.basename(column.path)  # noqa: PTH119 - a label
        if column.first_divergence >= 0:
            head += f"  parts at token {column.first_divergence}"
        head += f"  KLD {column.kld:.4f}  top-1 {column.top1:.1%}  {column.tokens_per_second:.0f} tokens/s"
        parts.append(f"--- {head}\n{column.text.strip()}")
    return Result({"columns": msgspec.to_builtins(columns)}, "\n\n".join(parts))


def run_library(options: argparse.Namespace) -> Result:
    from app import library, paths, settings
    from app.store import Store

    chosen = [_absolute(path) for path in options.paths]
    if options.action in ("add", "remove") and not chosen:
        usage = f"quench library {options.action} PATH"
        raise QuenchError("usage", "Which model?", "No path was given.", usage, exit_status=2)
    store = Store(paths.database())
    try:
        for path in chosen:
            if options.action == "add":
                _check_usable(path)
                store.add_model(path)
            elif options.action == "remove":
                store.remove_model(path)
        looked_at = [*library.default_folders(), *settings.load().folders, *store.known_models()]
    finally:
        store.close()
    if options.action == "verify" and chosen:
        looked_at = chosen
    # "verify" reads every header again, which is what a listing does too; a broken file has its reason in "problems".
    models: list[dict[str, Any]] = [
        {
            "path": info.path,
            "base": library.base_name(info),
            "type": library.type_label(info),
            "bytes": info.bytes,
            "architecture": info.architecture,
            "problems": list(info.problems),
        }
        for info in map(library.describe, library.candidates(looked_at))
    ]
    rows = [
        (item["path"], item["type"], console.size(item["bytes"]), item["architecture"], "; ".join(item["problems"]))
        for item in sorted(models, key=lambda item: item["path"])
    ]
    return Result({"models": models}, console.table(("model", "type", "size", "architecture", "problems"), rows))


def _check_usable(path: str) -> None:
    """Refuse to add what is no model, with the reader's own reason."""
    import converter

    with converter.open_model(path):
        return


def run_kernels(options: argparse.Namespace) -> Result:
    import kernels

    data: dict[str, Any] = {"backends": kernels.backends(), "active": kernels.active(), "cpu": kernels.cpu()}
    lines = [f"cpu       {data['cpu']}", f"backends  {', '.join(data['backends'])}", f"active    {data['active']}"]
    if options.action == "selftest":
        data["results"] = kernels.selftest()
        passed = {True: "ok", False: "WRONG BYTES"}
        lines += [
            f"{entry['kernel']:10}  {entry['type']:6}  {entry['backend']:10}  {passed[entry['passed']]}"
            for entry in data["results"]
        ]
    elif options.action == "bench":
        data["results"] = kernels.bench(oracle=_engine_base_library())
        rows = [
            (
                f"{entry['kernel']} {entry['type']}",
                entry["backend"],
                f"{entry['million_weights_per_second']:.1f}",
                f"{entry['gigabytes_per_second']:.2f}",
                f"{entry['oracle_ratio']:.2f}x" if entry["oracle_ratio"] else "-",
            )
            for entry in data["results"]
        ]
        lines.append(console.table(("kernel", "backend", "Mweights/s", "GB/s", "against llama.cpp"), rows))
    return Result(data, "\n".join(lines))


def _engine_base_library() -> str | None:
    """The engine's libggml-base, found without importing the engine; ``None`` if it is not installed."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    return next((str(folder / name) for name in names if (folder / name).exists()), None)


def _absolute(path: str) -> str:
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
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - keeps links as they are


def _finished(event: Any, kind: type[Any]) -> Any:
    """The result of a job; a job that was cancelled is an interruption."""
    if not isinstance(event, kind):
        raise Cancelled
    return event
