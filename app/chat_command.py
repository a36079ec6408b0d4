"""``quench chat``: a reply, or a chat in the terminal, with a model file or a server."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from app import console
from app.chat_messages import ALWAYS, GRAMMAR, LOOKUP, NEVER, SCHEMA, Constraint
from app.child import SERVER_KEY_VARIABLE
from app.commands import Result, absolute, check_prompt, finished, machines_of
from converter.spec import Cancelled, QuenchError

ENGINE_DIED = 5
"""Exit status of an error after which there is no engine to go on with."""


def chat(options: argparse.Namespace) -> Result:
    from app.protocol import ChatMessage, LoadOptions
    from app.sessions import ChatSession

    if options.prompt is not None:
        check_prompt(options.prompt)
    elif options.json and not options.dry_run:
        raise QuenchError("usage", "A chat in the terminal has no JSON form.", "", "Give -p TEXT.", exit_status=2)
    constraint, draft = _constraint(options), _draft(options)
    progress = console.Progress()
    load = LoadOptions(
        context=options.context,
        threads=options.threads,
        kv_type=options.kv,
        gpu_layers=options.gpu_layers,
        flash_attention=options.flash_attention,
        machines=machines_of(options),
    )
    if options.dry_run and options.url is None and options.model is not None:
        return _plan_loading(absolute(options.model), load)
    if load.machines and options.url is not None:
        raise QuenchError("usage", "A server's model is not loaded here.", "", "Leave out --rpc.", exit_status=2)
    adapters = tuple(_adapter(text) for text in options.lora)
    if adapters and options.url is not None:
        raise QuenchError("usage", "A server's model takes no adapters.", "", "Leave out --lora.", exit_status=2)
    with ChatSession(
        _what_answers(options),
        load,
        lambda part: progress.update("loading", part, 1.0),
        anyway=options.load_anyway,
        overflow=options.overflow,
        on_fit=_tell_fit,
    ) as session:
        progress.clear()
        if adapters:
            session.adapt(adapters)
        sampling = _sampling(options, session.loaded.defaults)
        history = [ChatMessage("system", options.system)] if options.system else []
        if options.prompt is None:
            return _terminal_chat(session, history, sampling, constraint, draft)
        messages = (*history, ChatMessage("user", options.prompt))
        stream = None if options.json else _print_piece
        wanted = ALWAYS if options.probabilities else NEVER
        reply = session.generate(messages, sampling, stream, constraint=constraint, probabilities=wanted, draft=draft)
    end = reply.end
    data = {
        "text": reply.text,
        "tokens": end.tokens,
        "tokens_per_second": end.tokens_per_second,
        "first_token": end.first_token,
        "stop": end.stop,
        "memory": msgspec.to_builtins(end.memory),
        "plan": _plan_data(session.loaded.plan),
        "context": session.loaded.context,
        "left_out": reply.left_out,
        "seed": end.seed,
    }
    if options.draft:
        data["ahead"] = msgspec.to_builtins(end.ahead)
    if options.probabilities:
        data["probabilities"] = [
            {
                "text": choice.text,
                "probability": choice.probability,
                "top": [{"text": each.text, "probability": each.probability} for each in choice.top],
            }
            for choice in reply.choices
        ]
    if not options.json:
        print()
        rate = f"{end.tokens} tokens, {end.tokens_per_second:.1f} tokens/s, first token {end.first_token * 1000:.0f} ms"
        if end.ahead is not None:
            rate += f", {end.ahead.right} of {end.ahead.guessed} guesses right, {end.ahead.gain:.2f}x"
        print(rate, file=sys.stderr)
    return Result(data, "")


def _plan_loading(path: str, load: Any) -> Result:
    """What a model would take in memory."""
    from app.child import run_job
    from app.memory_messages import LoadPlanned, PlanLoad, in_words, parts_in_words

    plan = finished(run_job("plan", PlanLoad(1, path, load), lambda event: None), LoadPlanned).plan
    fits = "fits" if plan.fits else "does not fit"
    text = f"{in_words(plan.total)}: {parts_in_words(plan)}\n{in_words(plan.room)} can be had: it {fits}"
    if plan.asked:
        text += f" with a context of {plan.context:,} instead of {plan.asked:,} tokens"
    return Result({"plan": _plan_data(plan)}, text, 0 if plan.fits else 4)


def _plan_data(plan: Any) -> dict[str, Any] | None:
    """The plan with its sums; None for a model that a server has."""
    if plan is None:
        return None
    return {**msgspec.to_builtins(plan), "total": plan.total, "fits": plan.fits}


def _adapter(text: str) -> Any:
    from app.adapter_messages import Adapter

    path, equals, scale = text.rpartition("=")
    if not equals or Path(text).exists():
        return Adapter(absolute(text))
    try:
        number = float(scale)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise QuenchError("usage", "The scale of an adapter is a number.", text, "FILE=0.5", exit_status=2)
    return Adapter(absolute(path), number)


def _tell_fit(event: Any) -> None:
    """Say what the model no longer sees."""
    if event.summarising:
        print(f"quench: the context is full; summing up {event.left_out} messages", file=sys.stderr)
    elif event.shifted:
        print(f"quench: the context was full; the oldest {event.shifted} tokens went", file=sys.stderr)
    else:
        print(f"quench: the model does not see the oldest {event.left_out} messages", file=sys.stderr)


def _what_answers(options: argparse.Namespace) -> Any:
    """The path of a model file, or how a served model is reached."""
    if (options.model is None) == (options.url is None) or (options.served and not options.url):
        raise QuenchError(
            "usage",
            "Name a model file, or a server.",
            "",
            "quench chat MODEL, or chat --url U --model NAME",
            exit_status=2,
        )
    if options.url is None:
        return absolute(options.model)
    from app.remote import address, keys
    from app.remote.messages import Connect

    secret = keys.check(os.environ.get(SERVER_KEY_VARIABLE, ""))
    return Connect(address.check_url(options.url), options.served or "", secret)


def _draft(options: argparse.Namespace) -> str:
    """Who guesses tokens ahead."""
    if not options.draft:
        return ""
    other = "--probabilities" if options.probabilities else "a schema or a grammar"
    if options.probabilities or options.schema or options.grammar or options.url:
        other = "a server" if options.url else other
        raise QuenchError(
            "usage", "Tokens are not guessed ahead here.", f"--draft does not go with {other}.", "", exit_status=2
        )
    return LOOKUP if options.draft == LOOKUP else absolute(options.draft)


MAX_CONSTRAINT = 1 << 20
"""Bytes of a schema's or grammar's file that are read."""


def _constraint(options: argparse.Namespace) -> Constraint:
    """What the answers are held to, from a file; it is checked before the model is loaded."""
    kind = SCHEMA if options.schema else GRAMMAR if options.grammar else ""
    if not kind:
        return Constraint()
    from app import constraints

    path = absolute(options.schema or options.grammar)
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a pipe is as good as a file
            data = file.read(MAX_CONSTRAINT + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "It is not a UTF-8 text." if isinstance(error, UnicodeDecodeError) else error.strerror
        raise QuenchError("unreadable", "The file cannot be read.", f"{path}: {why}", "Choose another file.") from error
    if len(data) > MAX_CONSTRAINT:
        raise QuenchError(
            "unreadable", "The file is too large.", f"{path} has more than 1 MiB.", "Choose another file."
        )
    made = Constraint(kind, text)
    constraints.check(made)
    return made


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _sampling(options: argparse.Namespace, defaults: Any) -> Any:
    """The model's own defaults with what the command line says on top."""
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    stop = tuple(options.stop) or defaults.stop
    return msgspec.structs.replace(defaults, max_tokens=options.max_tokens, stop=stop, **given)


def _terminal_chat(session: Any, history: list[Any], sampling: Any, constraint: Constraint, draft: str) -> Result:
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
            reply = session.generate(tuple(history), sampling, _print_piece, constraint=constraint, draft=draft)
        except Cancelled:
            print()
            history.pop()
            continue
        except QuenchError as error:
            if error.exit_status == ENGINE_DIED or not sys.stdin.isatty():
                raise
            print(f"quench: {error.title} {error.detail}".rstrip(), file=sys.stderr)  # the chat goes on without it
            history.pop()
            continue
        print()
        history.append(ChatMessage("assistant", reply.text))
    return Result({}, "")
