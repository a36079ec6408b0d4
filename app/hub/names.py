"""Names from outside: what a person types for a repository, and what a repository calls its files."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from converter.spec import QuenchError

SCHEME = "hf://"
MAX_PATH = 400
MAX_DEPTH = 16

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"(?:{_PART}/)?{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_BAD_CHARACTERS = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


class RepoName(NamedTuple):
    """``revision`` is a branch, a tag or a commit; empty for the main branch."""

    id: str
    revision: str = ""


def parse_repo(text: str) -> RepoName:
    """``org/name``, ``hf://org/name@revision`` or the address of a model's page, as a name.

    Raises ``QuenchError`` ``bad_repo_name`` for anything else.
    """
    given = text.strip()
    rest, revision = given.removeprefix(SCHEME), ""
    if given.startswith(("http://", "https://")):
        rest, revision = _from_address(given)
    elif "@" in rest:
        rest, _, revision = rest.partition("@")
    if not _ID.fullmatch(rest) or ".." in rest or "--" in rest or rest.endswith(".git"):
        raise _bad_name(given, "A model of the hub is called like this: organization/name.")
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision or revision.endswith("/")):
        raise _bad_name(given, f"{revision[:80]!r} is no revision.")
    return RepoName(rest, revision)


def _from_address(address: str) -> tuple[str, str]:
    parts = [unquote(part) for part in urlsplit(address).path.split("/") if part]
    if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve"):
        return "/".join(parts[:2]), parts[3]
    return "/".join(parts[:2]), ""


def is_commit(revision: str) -> bool:
    """Whether this is a whole commit hash, which names the same files for ever."""
    return _COMMIT.fullmatch(revision) is not None


def unsafe_reason(path: str) -> str:
    """Why a repository's file must not be written under this name; empty if it may.

    The rules are those of all systems at once, so that a download that works here works elsewhere.
    """
    if not path or len(path) > MAX_PATH:
        return f"its name has {len(path)} characters"
    if _BAD_CHARACTERS.search(path) or not path.isprintable():
        return "its name has characters that are no part of a file's name"
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        return f"it lies {len(parts)} folders deep"
    for part in parts:
        if part in ("", ".", ".."):
            return "its name leads out of the model's folder"
        if len(part.encode("utf-8", "replace")) > 240:
            return "a part of its name is too long"
        if part[-1] in ". " or _RESERVED.fullmatch(part):
            return f"{part[:40]!r} is no name on Windows"
    return ""


def _bad_name(given: str, why: str) -> QuenchError:
    return QuenchError(
        "bad_repo_name",
        "This is not the name of a model on the hub.",
        f"{given[:200]!r}: {why}",
        "Copy the name from the top of the model's page.",
        exit_status=2,
    )
