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
from importlib import import_module
from typing import Any, NoReturn

import msgspec

from app import commands, edges
from app.context_messages import OVERFLOWS
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
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str, run: Callable[[argparse.Namespace], Any]) -> Parser:
        command = subparsers.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(run=run)
        return command

    demo = add("demo", "the whole road on the bundled Pocket model", commands.demo)
    demo.add_argument("--out", default="demo", metavar="DIR")
    demo.add_argument("--no-window", action="store_true", help="write the screenshots, open no window")

    inspect = add("inspect", "what a model folder or a GGUF file is", commands.inspect)
    inspect.add_argument("path")
    inspect.add_argument(
        "--tokenizer-check", action="store_true", help="a folder's tokenizer against the engine's, on hard texts"
    )
    inspect.add_argument("--pre-tokenizer", metavar="NAME", help="as for convert")
    inspect.add_argument("--tokens", metavar="TEXT", help="the tokens of a text")
    inspect.add_argument("--prompt", metavar="TEXT", help="the prompt that the chat template makes of a question")
    inspect.add_argument("--against", metavar="B", help="what another model differs in, tensor by tensor")
    inspect.add_argument("--threads", type=_natural, default=0, metavar="N", help="for --against; 0: all cores")

    convert = add("convert", "a model folder or a GGUF file to GGUF", commands.convert)
    convert.add_argument("source", metavar="SRC", help="a folder, a GGUF file, or hf://organization/name[@revision]")
    convert.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="a file for one type, a folder for several"
    )
    convert.add_argument("--type", default="", metavar="T[,T...]", help="F32, F16, BF16, auto, Q8_0, Q4_K_M ..., copy")
    convert.add_argument("--imatrix", metavar="F", help="importance matrix (GGUF or .dat)")
    convert.add_argument("--tensor-type", action="append", default=[], metavar="RE=T", help="type for matching tensors")
    convert.add_argument("--recipe", metavar="F", help="types from a recipe that quench fit has written")
    convert.add_argument("--output-type", metavar="T", help="type of the output matrix")
    convert.add_argument("--embedding-type", metavar="T", help="type of the token embeddings")
    convert.add_argument("--pure", action="store_true", help="the same type everywhere")
    convert.add_argument("--leave-output", action="store_true", help="keep output.weight as it is")
    convert.add_argument("--allow-requantize", action="store_true", help="quantize again what is quantized already")
    convert.add_argument(
        "--override-kv",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="metadata; int, float, bool, str, or a type of the format; [TYPE] for a list",
    )
    convert.add_argument("--remove-kv", action="append", default=[], metavar="KEY", help="metadata to leave out")
    convert.add_argument("--prune-layers", default="", metavar="L[,L-M...]", help="leave these layers out")
    convert.add_argument("--split-size", default="", metavar="SIZE", help="files of at most this size, as 2GiB or 500M")
    convert.add_argument("--keep-split", action="store_true", help="files as the source has them")
    convert.add_argument(
        "--refined", action="store_true", help="same types and sizes, numbers closer to the source's; see README"
    )
    convert.add_argument(
        "--pre-tokenizer", metavar="NAME", help="how text is split, for a model whose way is not recognised"
    )
    convert.add_argument("--no-check", action="store_true", help="do not read back and try what was written")
    convert.add_argument("--lora", action="append", default=[], metavar="DIR", help="adapter to merge; repeatable")
    convert.add_argument("--threads", type=_natural, default=0, metavar="N")
    convert.add_argument("--memory", type=_natural, default=0, metavar="MiB")
    convert.add_argument("--dry-run", action="store_true", help="plan: exact sizes, types, disk and memory needed")
    convert.add_argument("--overwrite", action="store_true")
    convert.add_argument("--resume", action="store_true", help="go on where an interrupted run of the same ended")

    fit = add("fit", "the least damage at a size: types by measured divergence", commands.fit)
    fit.add_argument("source", metavar="SRC", help="a model folder, or a GGUF file in 16 or 32 bits")
    fit.add_argument("-o", "--output", required=True, metavar="OUT")
    size = fit.add_mutually_exclusive_group()
    size.add_argument("--size", default="", metavar="SIZE", help="of the file, as 3.5GiB or 500M")
    size.add_argument("--bpw", type=_amount, default=0.0, metavar="BITS", help="bits a weight, over the whole file")
    size.add_argument("--like", default="", metavar="T", help="the bytes of this recipe, as Q4_K_M")
    size.add_argument(
        "--leave-free", default="", metavar="SIZE", help="memory to leave when it runs with --context (8k)"
    )
    fit.add_argument(
        "--speed", type=_amount, default=0.0, metavar="N", help="at least N tokens/s here; with a size or without one"
    )
    fit.add_argument(
        "--context", type=_natural, default=0, metavar="N", help="tokens in the cache, for --leave-free and --speed"
    )
    fit.add_argument("--imatrix", default="", metavar="F", help="importance matrix; default: one is measured")
    fit.add_argument(
        "--sensitivity", default="", metavar="F", help="costs that were measured before are taken from F, new ones kept"
    )
    fit.add_argument("--text", default="", metavar="F[,F...]", help="texts to probe on; default: the calibration texts")
    fit.add_argument("--at-least", action="append", default=[], metavar="RE=T", help="the smallest type for these")
    fit.add_argument("--windows", type=_natural, default=1, help="windows of each text; more is slower and surer")
    fit.add_argument("--minutes", type=_amount, default=20.0, help="about this time; 0: no limit")
    fit.add_argument(
        "--unmeasured",
        action="store_true",
        help="no time: types by rule of thumb, close to the standard recipe; nothing is measured",
    )
    fit.add_argument("--feedback", action="store_true", help="round with error feedback (GPTQ), where it helps")
    fit.add_argument(
        "--refined",
        action="store_true",
        help="try blocks whose numbers are closer to the source's too; kept where better",
    )
    fit.add_argument("--threads", type=_natural, default=0)
    fit.add_argument("--overwrite", action="store_true")
    fit.add_argument("--dry-run", action="store_true", help="choose the types, write nothing")

    imatrix = add("imatrix", "importance matrix: which columns of a model matter", commands.imatrix)
    imatrix.add_argument("model", nargs="?", metavar="MODEL", help="a GGUF file, best F16 or BF16")
    imatrix.add_argument("-o", "--output", metavar="OUT")
    imatrix.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="F[,F...]",
        help="files or bundled texts, also several times, - for the input; default: the calibration text",
    )
    imatrix.add_argument("--show", metavar="F", help="run nothing: the statistics of a file that is there")
    imatrix.add_argument("--merge", metavar="F,F[,F...]", help="run nothing: add files of one model up into OUT")
    imatrix.add_argument("--format", default="", choices=("gguf", "dat"), help="default: by the name of OUT")
    imatrix.add_argument("--context", type=_natural, default=512)
    imatrix.add_argument("--chunks", type=_natural, default=0, help="windows; 0: all")
    imatrix.add_argument("--minutes", type=_amount, default=0.0, help="stop after this time; 0: no limit")
    imatrix.add_argument("--process-output", action="store_true", help="the output matrix as well")
    imatrix.add_argument("--resume", action="store_true", help="go on from an interrupted run")
    imatrix.add_argument("--threads", type=_natural, default=0)

    quality = add("quality", "how far candidates are from the full-precision reference", commands.quality)
    quality.add_argument(
        "reference", metavar="REF", nargs="?", help="a GGUF file, or answers of one that were saved (.qref)"
    )
    quality.add_argument(
        "candidates",
        nargs="*",
        metavar="CAND",
        help="files, or server:NAME/MODEL of a server that the library knows; none: only --fingerprint",
    )
    quality.add_argument("--url", metavar="U", help="one more: what this server has; key in QUENCH_API_KEY")
    quality.add_argument("--model", dest="served", metavar="NAME", help="with --url: which of its models")
    quality.add_argument(
        "--server-top",
        dest="served_top",
        type=_natural,
        default=0,
        metavar="N",
        help="tokens whose odds servers are asked for at each position; 0: 1,024, or a small vocabulary whole",
    )
    quality.add_argument(
        "--text",
        metavar="F[,F...]",
        help="files, - for the input, or bundled slices: prose, technical, code, mathematics, dialogue, data (by "
        "default these, or the text of the .qref), languages for all eight, or german, french, spanish, italian, "
        "portuguese, russian, chinese, japanese",
    )
    quality.add_argument(
        "--context", type=_natural, help="tokens of a window; its second half counts; default: 512, or the .qref's"
    )
    quality.add_argument(
        "--kv", metavar="TYPE[,TYPE...]", default="f16", help="cache types that each CAND is measured with"
    )
    quality.add_argument("--chunks", type=_natural, default=0, help="windows a text; 0: all")
    quality.add_argument("--minutes", type=_amount, default=0.0, help="stop after this time; 0: no limit")
    quality.add_argument(
        "--precision",
        type=_percent,
        default=0.0,
        metavar="PERCENT",
        help="stop when half of the 95 %% interval of every mean KLD is within this part of it; 0: off",
    )
    quality.add_argument(
        "--tasks",
        metavar="F.jsonl",
        help="graded tasks: 'quench' (330 tasks in 17 slices) or 'pocket' (480 short ones, made for Pocket), or a file "
        "of yours, of GSM8K, MMLU, ARC or HumanEval",
    )
    quality.add_argument(
        "--run-code",
        action="store_true",
        help="let tasks run programs that the models write: locked down, but no virtual machine",
    )
    quality.add_argument("--threads", type=_natural, default=0)
    quality.add_argument(
        "--fresh", action="store_true", help="from the beginning; otherwise what an interrupted run has kept is used"
    )
    quality.add_argument("--report", metavar="OUT.html")
    quality.add_argument(
        "--history",
        action="store_true",
        help="show earlier results of these files (none: of all), what may be compared together; nothing is measured",
    )
    quality.add_argument(
        "--fingerprint", metavar="OUT.qref", help="save the reference's answers, to be REF when it is not there"
    )
    quality.add_argument(
        "--fingerprint-matrix",
        choices=("auto", "always", "never"),
        default="auto",
        help="whether the output matrix goes into it; auto: where the file stays small",
    )

    _add_machines(quality)

    sensitivity = add("sensitivity", "what each tensor of a quantized file costs", commands.sensitivity)
    sensitivity.add_argument("reference", metavar="REF")
    sensitivity.add_argument(
        "candidate", metavar="CAND", help="a file made from REF; each tensor alone is taken from it"
    )
    sensitivity.add_argument("--text", metavar="F[,F...]", help="files, bundled slices, or -; default: as for quality")
    sensitivity.add_argument("--context", type=_natural, default=512)
    sensitivity.add_argument("--chunks", type=_natural, default=2, help="windows a text; 0: all")
    sensitivity.add_argument("--minutes", type=_amount, default=0.0, help="stop after this time; 0: no limit")
    sensitivity.add_argument("--threads", type=_natural, default=0)

    methods = add("methods", "methods of quantization compared on one model", _late("run", "app.methods_command"))
    methods.add_argument("model", metavar="MODEL", help="a folder, or a GGUF file in 16 or 32 bits")
    methods.add_argument("--text", metavar="F[,F...]", help="files, bundled slices, or -; default: as for quality")
    methods.add_argument("--methods", metavar="M[,M...]", help="only these; without it all are measured")
    methods.add_argument(
        "--file", action="append", default=[], metavar="F", help="a GGUF file of the same model beside them; repeatable"
    )
    methods.add_argument(
        "--calibration", metavar="F[,F...]", help="texts that methods may look at; default: the bundled ones for it"
    )
    methods.add_argument("--context", type=_natural, default=512)
    methods.add_argument("--chunks", type=_natural, default=2, help="windows a text; 0: all")
    methods.add_argument("--minutes", type=_amount, default=0.0, help="as much as there is time for; 0: no limit")
    methods.add_argument("--threads", type=_natural, default=0)

    bench = add("bench", "speed and memory", commands.bench)
    bench.add_argument("models", nargs="+", metavar="MODEL")
    bench.add_argument("--prompt", type=_natural, default=512)
    bench.add_argument("--generate", type=_natural, default=128)
    bench.add_argument("--depth", type=_naturals, default=(0,), metavar="N[,N...]")
    bench.add_argument("--threads", type=_naturals, default=(), metavar="N[,N...]")
    bench.add_argument("--repeat", type=_natural, default=5)
    _add_machines(bench)

    chat = add("chat", "a reply, or a chat in the terminal", _late("chat", "app.chat_command"))
    chat.add_argument("model", nargs="?", metavar="MODEL")
    chat.add_argument("--url", metavar="U", help="talk to an OpenAI-compatible server instead; key in QUENCH_API_KEY")
    chat.add_argument("--model", dest="served", metavar="NAME", help="with --url: which of its models")
    chat.add_argument("-p", "--prompt", metavar="TEXT")
    chat.add_argument("--system", default="", metavar="S")
    held = chat.add_mutually_exclusive_group()
    held.add_argument("--schema", metavar="F", help="hold answers to the JSON schema in this file")
    held.add_argument("--grammar", metavar="F", help="hold answers to the grammar (GBNF) in this file")
    chat.add_argument("--stop", action="append", default=[], metavar="S", help="end before this text; repeatable")
    chat.add_argument("--probabilities", action="store_true", help="with -p --json: how likely each token was")
    chat.add_argument("--draft", default="", metavar="D", help="guess tokens ahead: lookup, or a smaller model's file")
    _add_sampling(chat)
    _add_context(chat)

    serve = add("serve", "a model behind an OpenAI-compatible API", _late("serve", "app.serve_command"))
    serve.add_argument("model", metavar="MODEL")
    serve.add_argument("--host", default="127.0.0.1", metavar="H", help="beyond this machine only with a token")
    serve.add_argument("--port", type=_port, default=8080, metavar="N", help="0: any free one")
    serve.add_argument(
        "--token", default="", metavar="T", help="wanted of everybody; QUENCH_SERVE_TOKEN keeps it off the process list"
    )
    _add_loading(serve)

    embed = add("embed", "how alike texts are to an embeddings model", _late("embed", "app.embed_command"))
    embed.add_argument("model", metavar="MODEL")
    embed.add_argument("--text", required=True, metavar="F", help="a file with one text a line; - for the input")
    embed.add_argument("--context", type=_natural, default=0)
    embed.add_argument("--threads", type=_natural, default=0)

    compare = add("compare", "answers side by side, and where they part", _late("compare", "app.compare_command"))
    compare.add_argument("reference", metavar="REF", help="a file, SOURCE=RECIPE to be made first, server:NAME/MODEL")
    compare.add_argument("models", nargs="+", metavar="MODEL")
    compare.add_argument("-p", "--prompt", metavar="TEXT")
    compare.add_argument(
        "--prompts", metavar="F", help="a set of prompts, one JSON object a line; everyday: the bundled"
    )
    compare.add_argument("--limit", type=_natural, default=0, metavar="N", help="only the first N prompts of the set")
    compare.add_argument("--text", metavar="F", help="score a text of your own instead of an answer")
    compare.add_argument("--max-tokens", type=_natural, default=256)
    compare.add_argument(
        "--export", action="append", default=[], metavar="FILE", help="also write .md, .html, .json or .csv"
    )
    compare.add_argument("--context", type=_natural, default=0)
    compare.add_argument("--threads", type=_natural, default=0)

    search = add("search", "models of the Hugging Face hub", _late("search"))
    search.add_argument("text", metavar="TEXT")
    search.add_argument("--gguf", action="store_true", help="with GGUF files")
    search.add_argument("--convertible", action="store_true", help="that can be converted")
    search.add_argument("--fits", action="store_true", help="whose 4-bit file fits into this machine's memory")
    search.add_argument("--limit", type=_natural, default=20, metavar="N")
    search.add_argument(
        "--sort", default="downloads", choices=("downloads", "likes", "trending_score", "last_modified", "created_at")
    )
    search.add_argument("--licence", "--license", default="", metavar="TAG", help="such as apache-2.0")
    search.add_argument("--task", default="", metavar="TAG", help="such as text-generation")
    search.add_argument("--author", default="", metavar="NAME")

    download = add("download", "a model of the Hugging Face hub", _late("download"))
    download.add_argument("repo", metavar="REPO", help="organization/name")
    download.add_argument("--revision", default="", metavar="R", help="branch, tag or commit")
    download.add_argument("--files", action="append", default=[], metavar="GLOB[,GLOB...]", help="only these")
    download.add_argument("--for-conversion", action="store_true", help="only what a conversion reads")
    download.add_argument("--to", default="", metavar="DIR", help="into this folder instead of the Hugging Face cache")
    download.add_argument("--limit-rate", type=_rate, default=0, metavar="SIZE", help="bytes a second, as 2MiB")
    download.add_argument("--dry-run", action="store_true", help="list files and bytes, fetch nothing")

    library = add("library", "the local models", _late("library", "app.library_commands"))
    library.add_argument("action", choices=("list", "add", "remove", "verify"))
    library.add_argument("paths", nargs="*", metavar="PATH")

    kernels = add("kernels", "the C library", commands.kernels)
    kernels.add_argument("action", choices=("list", "selftest", "bench"))
    kernels.add_argument("--types", type=_names, metavar="T[,T...]", help="bench: these types alone")
    return parser


def _late(name: str, module: str = "app.hub_commands") -> Callable[[argparse.Namespace], Any]:
    """A command of a module that is loaded when it runs."""

    def run(options: argparse.Namespace) -> Any:
        return getattr(import_module(module), name)(options)

    return run


def _rate(text: str) -> int:
    from converter.options import parse_size

    return parse_size(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _natural(text: str) -> int:
    value = _whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _port(text: str) -> int:
    value = _natural(text)
    if value > 65535:
        raise argparse.ArgumentTypeError("must be at most 65535")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError("must be a finite number")
    return value


def _amount(text: str) -> float:
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _percent(text: str) -> float:
    value = _amount(text)
    if value >= 100:
        raise argparse.ArgumentTypeError("must be less than 100 %")
    return value


def _naturals(text: str) -> tuple[int, ...]:
    return tuple(_natural(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip().upper() for part in text.split(","))


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Options that override the model's own generation defaults."""
    parser.add_argument("--max-tokens", type=_natural, default=1024)
    parser.add_argument("--temperature", type=_number)
    parser.add_argument("--top-k", type=_natural)
    parser.add_argument("--top-p", type=_number)
    parser.add_argument("--min-p", type=_number)
    parser.add_argument("--repeat-penalty", type=_number)
    parser.add_argument("--seed", type=_whole)
    _add_loading(parser)


def _add_loading(parser: argparse.ArgumentParser) -> None:
    """How a model is loaded."""
    parser.add_argument("--context", type=_natural, default=0)
    parser.add_argument("--kv", default="f16", choices=("f16", "bf16", "q8_0", "q5_1", "q4_0"))
    parser.add_argument(
        "--gpu-layers", type=_natural, default=0, metavar="N", help="layers on the GPU, if there is one"
    )
    parser.add_argument("--threads", type=_natural, default=0)
    _add_machines(parser, ". With it --gpu-layers says how many layers they get (0: by memory)")


def _add_machines(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Where else a model is computed."""
    parser.add_argument(
        "--rpc",
        default="",
        metavar="HOST:PORT[,HOST:PORT]",
        help="machines whose llama.cpp RPC workers compute a part of the model, in trusted networks only: nothing on "
        f"the way is encrypted{more}",
    )


def _add_context(parser: argparse.ArgumentParser) -> None:
    """How the model is loaded, and what happens when its context is full."""
    parser.add_argument("--flash-attention", default="auto", choices=("auto", "on", "off"))
    parser.add_argument(
        "--overflow",
        default="stop",
        choices=OVERFLOWS,
        help="when the context is full: stop, leave out the oldest turns (shift), or sum them up (summarise)",
    )
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE[=SCALE]", help="a GGUF adapter; SCALE 1 is as trained"
    )
    parser.add_argument("--load-anyway", action="store_true", help="also a model that does not fit into memory")
    parser.add_argument("--dry-run", action="store_true", help="say what the model would take in memory, load nothing")


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
    status: int = result.status
    return status


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
