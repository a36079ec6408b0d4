"""Recipes as files: a type for every tensor, as exact rules, with the reasons as comments. Text, to be shared.

    # Quench recipe
    # base=Q4_K_M
    # imatrix=model.imatrix.gguf sha256=...
    # 3.1% of the damage; ...
    ^blk\\.0\\.ffn_down\\.weight$=Q6_K

The base gives what no rule names its type. ``# refined`` says that the blocks are; a line that begins with ``# error
feedback`` that a conversion gives the same types and not the same bytes. Else, with the importance matrix of that hash,
the same source gives the same bytes; a sibling model (a fine-tune) takes the rules with a matrix of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from app.files import write_atomically
from app.fit_messages import FitPlanned, FittedTensor, Recipe
from converter.spec import QuenchError

SUFFIX = ".recipe"
MOST_BYTES = 4 << 20
_FIRST = "# Quench recipe"
_BASE = re.compile(r"# base=(\w+)")
_REFINED = "# refined"
_FEEDBACK = "# error feedback: only quench fit rounds so; a conversion with this recipe has the same types"
_IMATRIX = re.compile(r"# imatrix=(.+) sha256=([0-9a-f]{64})")


def rules(tensors: Sequence[FittedTensor]) -> tuple[tuple[str, str], ...]:
    """Types as exact tensor rules."""
    return tuple((f"^{re.escape(tensor.name)}$", tensor.type) for tensor in tensors)


def imatrix_beside(output: Path) -> Path:
    """Where the importance matrix of a fitted file is kept."""
    return output.with_suffix(".imatrix.gguf")


def write(output: Path, base: str, plan: FitPlanned, imatrix: Path | None) -> Path:
    """Write the recipe of ``output`` beside it and return its path. OSError if it cannot be."""
    lines = [_FIRST, f"# base={base}"]
    if imatrix is not None:
        lines.append(f"# imatrix={imatrix.name} sha256={digest_of(imatrix)}")
    if plan.refined:
        lines.append(_REFINED)
    if any(tensor.fed for tensor in plan.tensors):
        lines.append(_FEEDBACK)
    what = f"{plan.ratio:.3f} of {base}'s divergence on texts that no step saw" if plan.measured else "not measured"
    lines.append(f"# {plan.bytes} bytes of tensors; {what}")
    for tensor, (pattern, kind) in zip(plan.tensors, rules(plan.tensors), strict=True):
        lines += [f"# {tensor.reason}", f"{pattern}={kind}"]
    path = output.with_suffix(SUFFIX)
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return path


def read(path: Path) -> Recipe:
    """A recipe file. QuenchError ``bad_recipe`` for one that is none, or whose importance matrix is another one."""

    def bad(detail: str) -> QuenchError:
        return QuenchError(
            "bad_recipe", "This recipe cannot be used.", detail, "quench fit writes one beside its file."
        )

    try:
        if path.stat().st_size > MOST_BYTES:
            raise bad(f"{path} has more than {MOST_BYTES} bytes.")
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise bad(f"{path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise bad(f"{path} is no text.") from error
    base = next((match[1] for match in map(_BASE.fullmatch, lines) if match), "")
    found = tuple(line for line in lines if line and not line.startswith("#"))
    if lines[:1] != [_FIRST] or not base or not found:
        raise bad(f"{path} is no recipe.")
    named = next((match for match in map(_IMATRIX.fullmatch, lines) if match), None)
    beside = path.with_name(Path(named[1]).name) if named else path
    whole = Recipe(
        base,
        found,
        imatrix="",
        matrix=beside.name if named else "",
        digest=named[2] if named else "",
        refined=_REFINED in lines,
        feedback=_FEEDBACK in lines,
    )
    if named is None or not beside.is_file():
        return whole
    if digest_of(beside) != named[2]:
        raise bad(f"{beside} is another importance matrix than the recipe's.")
    return msgspec.structs.replace(whole, imatrix=str(beside))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits. OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["Recipe", "digest_of", "imatrix_beside", "read", "rules", "write"]
