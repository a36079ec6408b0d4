"""One model of the hub: its files at one commit, what they are, what a conversion would read, and its card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from app.hub import errors, fitting
from app.hub.client import Hub, check_stopped, question
from app.hub.groups import for_conversion, groups
from app.hub.messages import FileGroup, RemoteFile, Repository
from app.hub.names import RepoName, is_commit, unsafe_reason
from app.hub.search import count, refusal, text
from converter.sources.files import CONFIG_LIMIT, parse_json
from converter.spec import QuenchError

MAX_FILES = 20_000
CARD_LIMIT = 1 << 20

_HASH_CHARACTERS = frozenset("0123456789abcdef")


def look_up(hub: Hub, name: RepoName, stopped: Callable[[], bool] = lambda: False) -> Repository:
    """What ``name`` is now, pinned to a commit.

    Three requests and one for every thousand files: the model, its tree, and ``config.json`` if it has one. Raises
    ``QuenchError`` for all that :mod:`app.hub.errors` knows, and ``bad_answer`` for a repository without end.
    """
    with question(f"The model {name.id}"):
        info = hub.api.model_info(name.id, revision=name.revision or None)
        commit = info.sha
        if not isinstance(commit, str) or not is_commit(commit):
            raise errors.bad_answer(name.id, "it has no commit")
        real = text(info.id, 200) or name.id
        files, problems = _files(hub, real, commit, stopped)
        found = groups(files)
        paths, why_not = for_conversion(files)
        config = _config(hub, real, commit, files) if any(file.path == "config.json" for file in files) else None
        # Of a gated model's config the hub itself tells the few keys that name its architecture.
        outline = config if config is not None else info.config if isinstance(info.config, dict) else {}
        refused = refusal(outline) if paths and outline else None
        if refused is not None:
            paths, why_not = (), f"{refused.title} {refused.detail}"
    tags = tuple(text(tag, 80) for tag in (info.tags or [])[:200] if isinstance(tag, str))
    gguf = info.gguf if isinstance(info.gguf, dict) else {}
    parameters = (count(info.safetensors.total) if info.safetensors is not None else 0) or count(gguf.get("total"))
    context = outline.get("max_position_embeddings")
    return Repository(
        id=real,
        revision=commit,
        reference=name.revision or "main",
        files=tuple(files),
        groups=tuple(_with_fit(group, config, parameters) for group in found),
        for_conversion=paths,
        why_not=why_not,
        gated=text(info.gated, 10) if info.gated else "",
        private=bool(info.private),
        licence=next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), ""),
        downloads=count(info.downloads),
        likes=count(info.likes),
        parameters=parameters,
        architecture=text(outline.get("model_type"), 60) or text(gguf.get("architecture"), 60),
        context_length=count(context) or count(gguf.get("context_length")),
        task=text(info.pipeline_tag, 60),
        tags=tags,
        modified=info.last_modified.isoformat() if info.last_modified else "",
        renamed_from=name.id if real.lower() != name.id.lower() else "",
        problems=tuple(problems),
    )


def _files(hub: Hub, repo: str, commit: str, stopped: Callable[[], bool]) -> tuple[list[RemoteFile], list[str]]:
    """The files of a commit in order of their paths, without those that must not be written."""
    files: dict[str, RemoteFile] = {}
    refused: list[str] = []
    folded: dict[str, str] = {}
    seen = 0
    for entry in hub.api.list_repo_tree(repo, recursive=True, revision=commit):
        seen += 1
        if seen > MAX_FILES:
            raise errors.bad_answer(repo, f"it has more than {MAX_FILES:,} files")
        if seen % 1000 == 0:
            check_stopped(stopped)
        size = getattr(entry, "size", None)
        if size is None:
            continue  # a folder
        path = entry.path
        if not isinstance(path, str):
            raise errors.bad_answer(repo, "it has a file without a name")
        reason = unsafe_reason(path)
        if not reason and folded.setdefault(path.casefold(), path) != path:
            reason = "another file differs from it only in capitals"
        file = _file(entry, path, size)
        if reason or file is None:
            refused.append(f"{path[:80]!r} is left out: {reason or 'the hub says no size or checksum for it'}.")
            continue
        files[path] = file
    if len(refused) > 5:
        refused = [*refused[:5], f"{len(refused) - 5} more files are left out."]
    return [files[path] for path in sorted(files)], refused


def _file(entry: Any, path: str, size: Any) -> RemoteFile | None:
    lfs = entry.lfs
    large = count(lfs.size) if lfs is not None else count(size)
    sha256 = lfs.sha256 if lfs is not None else ""
    oid = entry.blob_id
    if type(size) is not int or size < 0 or not _is_hash(oid, 40) or (lfs is not None and not _is_hash(sha256, 64)):
        return None
    return RemoteFile(path, large, sha256, oid)


def _is_hash(value: Any, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and set(value) <= _HASH_CHARACTERS


def _config(hub: Hub, repo: str, commit: str, files: list[RemoteFile]) -> dict[str, Any] | None:
    """``config.json`` as an object; None if it is gated, absurd or no object: then less is known."""
    size = next(file.bytes for file in files if file.path == "config.json")
    if size > CONFIG_LIMIT:
        return None
    try:
        return parse_json(_read(hub, repo, commit, "config.json", CONFIG_LIMIT)[0], "config.json", "bad_config")
    except QuenchError as error:
        if isinstance(error, errors.HubError) and error.code not in ("gated", "repo_not_found", "forbidden"):
            raise
        return None


def _with_fit(group: FileGroup, config: dict[str, Any] | None, parameters: int) -> FileGroup:
    """With the memory that it takes: from the config where there is one, else an estimate from the size."""
    if group.kind == "projector" or not group.bytes or group.missing:
        return group
    plan = fitting.from_config(config, group.bytes) if config is not None else None
    if plan is None:
        level, memory = fitting.from_size(group.bytes, parameters)
        return msgspec.structs.replace(group, fits=level, memory=memory, estimated=True)
    return msgspec.structs.replace(group, fits=plan.level, memory=plan.total, cache=plan.kv, compute=plan.compute)


def read_card(hub: Hub, repo: str, commit: str) -> tuple[str, bool]:
    """The model card as Markdown without its front matter, and whether it was cut off at 1 MiB.

    It is text by a stranger: show it as untrusted Markdown. An empty text if the model has no card.
    """
    try:
        with question("The model card"):
            data, cut = _read(hub, repo, commit, "README.md", CARD_LIMIT)
    except errors.HubError as error:
        if error.code == "file_not_found":
            return "", False
        raise
    card = data.decode("utf-8", "replace").replace("\r\n", "\n").removeprefix("\ufeff")
    if card.startswith("---\n"):
        _, end, rest = card[4:].partition("\n---")
        if end:
            card = rest.partition("\n")[2]
    return card.lstrip("\n"), cut


def _read(hub: Hub, repo: str, commit: str, path: str, limit: int) -> tuple[bytes, bool]:
    """At most ``limit`` bytes of a file, and whether there was more."""
    data = bytearray()
    with hub.client.stream("GET", hub.address(repo, path, commit), headers=hub.headers()) as response:
        try:
            for piece in response.iter_bytes():
                data += piece
                if len(data) > limit:
                    return bytes(data[:limit]), True
        except hub.client.failures as error:
            raise errors.from_transport(error, response.request, hub.access.proxy) from error
    return bytes(data), False
