"""A comparison without a window: the same prompts, or a text of one's own, through several models."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from app import conversion, paths, settings
from app.child import SERVER_KEY_VARIABLE
from app.compare import batches, recipes
from app.compare.align import pieces
from app.compare.results import UNSCORABLE, Column, Comparison, Entry, aligned, make_column
from app.protocol import ChatMessage, Event, LoadOptions, Sampling, Scored
from app.quality.prompts import NO_SLICE, Prompt
from app.remote.address import find, is_remote, split_path
from app.remote.messages import Connect
from app.sessions import ChatSession
from converter.spec import Progress, QuenchError

_TOLD = 3 * 4096
"""Words of 4 bytes that a server's likeliest tokens of a position take on the disk, at most."""

OnStep = Callable[[str, float, float], None]


def _silent(label: str, done: float, total: float) -> None:
    """Nobody wants to know."""


def compare(
    models: Sequence[str],
    prompts: Sequence[str | Prompt],
    *,
    max_tokens: int = 256,
    context: int = 0,
    threads: int = 0,
    on_step: OnStep = _silent,
) -> Comparison:
    """Ask every model every prompt greedily; the first model is the reference.

    A model is a file, ``SOURCE=RECIPE`` for one that is made first (:mod:`.recipes`), or ``server:NAME/MODEL``.
    Models run one after another, so speeds are solo speeds. Raises QuenchError as :class:`ChatSession` does.
    """
    asked = [each if isinstance(each, Prompt) else Prompt(NO_SLICE, each) for each in prompts]
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    options = LoadOptions(context=context, threads=threads)
    _refuse_missing(models)
    opened = [_ready(path, on_step) for path in models]
    columns: list[list[Column | None]] = [[None] * len(models) for _ in asked]
    with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="compare-") as folder:
        size = batches.batch_size(_vocabulary(opened), max_tokens, batches.room(Path(folder)))
        session: ChatSession | None = None
        loaded, done = -1, 0
        try:
            for step in batches.steps(len(asked), len(models), size):
                on_step(_name(models[step.model]), done, len(asked) * len(models))
                done += 1
                if step.model != loaded:
                    if session is not None:
                        session.close()
                        session = None  # its memory is free before the next one's is taken
                    session, loaded = ChatSession(opened[step.model], options), step.model
                assert session is not None
                file = Path(folder) / f"reference-{step.prompt}.logp"
                row = columns[step.prompt]
                row[step.model] = _answer(
                    session,
                    models,
                    step.model,
                    prompt=asked[step.prompt].prompt,
                    reference=row[0],
                    sampling=sampling,
                    file=file,
                )
                if step.last:
                    for left in Path(folder).glob("*.logp"):
                        left.unlink()
        finally:
            if session is not None:
                session.close()
    entries = (Entry(each.prompt, each.slice, tuple(row)) for each, row in zip(asked, columns, strict=True))
    return Comparison(tuple(models), tuple(entries))


def score_text(
    models: Sequence[str], text: str, *, context: int = 0, threads: int = 0, on_step: OnStep = _silent
) -> Comparison:
    """How probable every model finds a text that nobody of them wrote, and how far each is from the first on it."""
    options = LoadOptions(context=context, threads=threads)
    _refuse_missing(models)
    columns: list[Column | None] = []
    with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="compare-") as folder:
        file = str(Path(folder) / "reference.logp")
        for place, path in enumerate(models):
            opened = _ready(path, on_step)
            on_step(_name(path), place, len(models))
            with ChatSession(opened, options) as session:
                scored, why = _score(session, path, (), text, columns[0] if place else None, file=file)
                memory = session.loaded.memory
            own = _texts(scored) or pieces(text)
            column = make_column(path, text, None, scored, reference=place == 0, own=own, common=len(own), unscored=why)
            columns.append(msgspec.structs.replace(column, memory=memory, bytes=_bytes(opened)))
    return Comparison(tuple(models), (Entry("", NO_SLICE, tuple(columns)),))


def _answer(
    session: ChatSession,
    models: Sequence[str],
    place: int,
    *,
    prompt: str,
    reference: Column | None,
    sampling: Sampling,
    file: Path,
) -> Column:
    """One model's answer, scored where that is possible."""
    messages = (ChatMessage("user", prompt),)
    reply = session.generate(messages, sampling)
    path = models[place]
    scored, why = _score(
        session, path, messages, reference.text if reference else reply.text, reference, file=str(file)
    )
    tokens: tuple[str, ...] | None = None
    if scored is not None and (reference is None or reference.text == reply.text):
        tokens = _texts(scored)
    elif not is_remote(path):
        tokens = _texts(session.score(messages, reply.text))
    own, common = aligned(reference, reply.text, tokens)
    return make_column(
        path, reply.text, reply.end, scored, reference=place == 0, own=own,
        common=common, size=_bytes(path), unscored=why,
    )  # fmt: skip


def _score(
    session: ChatSession,
    path: str,
    messages: tuple[ChatMessage, ...],
    text: str,
    reference: Column | None,
    *,
    file: str,
) -> tuple[Scored | None, str]:
    """The reference's answer scored, by itself first (without ``reference``), or why that cannot be."""
    if reference is not None and not reference.scored:
        return None, reference.unscored
    try:
        if reference is None:
            return session.score(messages, text, write=file), ""
        return session.score(messages, text, against=file), ""
    except QuenchError as error:
        if is_remote(path) and error.code in UNSCORABLE:
            return None, error.title
        raise


def _texts(scored: Scored | None) -> tuple[str, ...]:
    return tuple(token.text for token in scored.tokens) if scored is not None else ()


def _refuse_missing(models: Sequence[str]) -> None:
    """Say what is no file before another model has taken its time."""
    for path in models:
        source, recipe = recipes.split(path)
        if is_remote(path) or recipe or Path(source).is_file():
            continue
        if Path(source).is_dir():
            hint = f"{source}=Q4_K_M makes that first."
            raise QuenchError("load_failed", "This is a folder, not a GGUF file.", source, hint)
        hint = "Check the path" + (", and the type after =." if "=" in source else ".")
        raise QuenchError("not_found", "The file is not there.", source, hint)


def _ready(path: str, on_step: OnStep) -> str | Connect:
    """What a session opens: a file that is there by now, or how a server is reached."""
    if is_remote(path):
        return _connect(path)
    source, recipe = recipes.split(path)
    return make(source, recipe, on_step) if recipe else path


def make(source: str, recipe: str, on_step: OnStep = _silent) -> str:
    """The file of a source in a recipe, converted into the cache if it is not there."""
    target = recipes.place(source, recipe)
    if not target.exists():

        def show(event: Event) -> None:
            if isinstance(event, Progress):
                on_step(f"making {target.name}", event.done, event.total)

        recipes.trim({target})
        conversion.run(recipes.spec(source, recipe, target), show)
    recipes.used(target)
    return str(target)


def _connect(path: str) -> Connect:
    name, model = split_path(path)
    server = find(settings.load().servers, name)
    if server is None:
        raise QuenchError("no_server", "The server is not known.", name, "Add it in the Library of the window.")
    from app.remote import keys

    return Connect(server.url, model, keys.check(os.environ.get(SERVER_KEY_VARIABLE, "")))


def _vocabulary(opened: Sequence[str | Connect]) -> int:
    """Words of the reference's vocabulary; of a server's what takes as much room."""
    if isinstance(opened[0], Connect):
        return _TOLD
    from converter.identity import glance

    return max(1, glance(opened[0]).info.vocabulary)


def _bytes(path: str | Connect) -> int:
    """Size of a model's file; 0 where there is none."""
    if isinstance(path, Connect) or is_remote(path):
        return 0
    source, recipe = recipes.split(path)
    try:
        found = Path(recipes.place(source, recipe) if recipe else path)
        return found.stat().st_size
    except OSError:
        return 0


def _name(path: str) -> str:
    return path if is_remote(path) else Path(path).name


__all__ = ["compare", "make", "score_text"]
