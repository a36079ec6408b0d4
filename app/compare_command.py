"""``quench compare``: the same prompts, or a text, through several models, and where they part."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import msgspec

from app import console
from app.commands import Result, absolute, check_prompt, text_file
from app.compare import align, documents
from app.compare.results import Comparison, names_of
from app.files import refuse_output
from app.quality import numbers
from app.quality.prompts import BUNDLED, load
from app.remote.address import is_remote
from converter.spec import QuenchError


def compare(options: argparse.Namespace) -> Result:
    from app.compare import run

    given = [name for name in ("prompt", "prompts", "text") if getattr(options, name) is not None]
    if len(given) != 1:
        what = "One of -p TEXT, --prompts F and --text F is needed."
        raise QuenchError("usage", "The command line is not understood.", what, "", exit_status=2)
    for path in options.export:
        if Path(path).suffix.lower() not in documents.FORMS:
            known = ", ".join(documents.FORMS)
            raise QuenchError("usage", "A comparison is not written in this form.", path, known, exit_status=2)
    models = [path if is_remote(path) else absolute(path) for path in (options.reference, *options.models)]
    read = [*models, *(absolute(path) for path in (options.text, options.prompts) if path and path != BUNDLED)]
    for path in options.export:
        refuse_output(Path(absolute(path)), read)
    progress = console.Progress()
    common: dict[str, Any] = {"context": options.context, "threads": options.threads, "on_step": progress.update}
    if options.text is not None:
        found = run.score_text(models, _text(options.text), **common)
    elif options.prompt is not None:
        check_prompt(options.prompt)
        found = run.compare(models, [options.prompt], max_tokens=options.max_tokens, **common)
    else:
        prompts = load(options.prompts if options.prompts == BUNDLED else absolute(options.prompts))
        prompts = prompts[: options.limit or None]
        found = run.compare(models, prompts, max_tokens=options.max_tokens, **common)
    progress.clear()
    for path in options.export:
        documents.save(found, Path(absolute(path)))
    if options.prompts is None:
        return Result({"columns": msgspec.to_builtins(found.entries[0].columns)}, _one(found))
    return Result(documents.document(found), _many(found))


def _text(path: str) -> str:
    from app.quality.texts import read_text

    return read_text(Path(text_file(path)), "Check the path.")


def _one(found: Comparison) -> str:
    parts = []
    for column in found.entries[0].columns:
        assert column is not None
        head = os.path.basename(column.path)  # noqa: PTH119 - a label
        if column.first_divergence >= 0:
            head += f"  parts at token {column.first_divergence}"
        if column.scored:
            head += f"  KLD {numbers.AT_LEAST if column.bounds else ''}{column.kld:.4f}  top-1 {column.top1:.1%}"
        elif column.unscored:
            head += f"  no divergence: {column.unscored}"
        if column.tokens_per_second:
            head += f"  {column.tokens_per_second:.0f} tokens/s"
        parts.append(f"--- {head}\n{column.text.strip()}")
    return "\n\n".join(parts)


def _many(found: Comparison) -> str:
    """A line for each model but the reference: means over the prompts, and how long the answers stay together."""
    lines = [f"{len(found.entries)} prompts; reference {names_of(found.models)[0]}"]
    for place, name in enumerate(names_of(found.models)[1:], start=1):
        columns = [entry.columns[place] for entry in found.entries]
        scored = [column for column in columns if column is not None and column.scored]
        half = align.median(documents.survival_of(found, place))
        same = sum(entry.columns[0] is not None and column is not None and column.text == entry.columns[0].text
                   for entry, column in zip(found.entries, columns, strict=True))  # fmt: skip
        words = f"{name}  the same answer to {same}"
        words += f"  half have parted after {half} tokens" if half is not None else "  fewer than half ever part"
        if scored:
            kld, top1 = (sum(getattr(each, key) for each in scored) / len(scored) for key in ("kld", "top1"))
            least = numbers.AT_LEAST if any(each.bounds for each in scored) else ""
            words += f"  KLD {least}{kld:.4f}  top-1 {top1:.1%}"
        lines.append(words)
    return "\n".join(lines)
