"""The two servers of the fake hub: the hub itself and the storage that large files are redirected to."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.fakehub.faults import Fault
from tests.fakehub.repositories import FakeRepo, StoredFile

PIECE = 1 << 16
TREE_PAGE = 1000
MODIFIED = "2026-03-01T12:00:00.000Z"


@dataclass(frozen=True)
class Seen:
    """A request that came: ``path`` is the file's where it is about one, ``start`` where its range begins."""

    where: str
    method: str
    path: str
    start: int | None
    authorization: str | None
    user_agent: str = ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left in the middle of an answer is what many tests are about."""


class FakeHub:
    """A context manager: two servers on free ports of 127.0.0.1. ``url`` is what HF_ENDPOINT is set to.

    With ``tls`` both speak it. ``tree_page`` is the number of entries on a page of a tree.

    ``served`` counts the bytes of each file's body that were sent, ``seen`` lists the requests.
    """

    def __init__(self, tree_page: int = TREE_PAGE, tls: ssl.SSLContext | None = None) -> None:
        self.repos: dict[str, FakeRepo] = {}
        self.renamed: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.faults: list[Fault] = []
        self.served: Counter[str] = Counter()
        self.seen: list[Seen] = []
        self.tree_page = tree_page
        self.released = threading.Event()
        self.stalled = threading.Event()
        self.on_bytes: Callable[[str, int], None] = lambda path, count: None
        self.lock = threading.Lock()
        self._servers = [
            _Server(("127.0.0.1", 0), type("Handler", (kind,), {"hub": self})) for kind in (_Hub, _Storage)
        ]
        scheme = "http" if tls is None else "https"
        self.url, self.storage = (f"{scheme}://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        if tls is not None:
            for server in self._servers:
                # The handshake is done by the thread of the connection, when it first reads.
                server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes], **fields: Any) -> FakeRepo:
        """A new repository with a first commit."""
        repo = FakeRepo(repo_id, **fields)
        repo.commit(files)
        self.repos[repo_id] = repo
        return repo

    def add_folder(self, repo_id: str, folder: Path, **fields: Any) -> FakeRepo:
        """A new repository with the files of a folder."""
        return self.add(repo_id, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}, **fields)

    def fail(self, where: str, path: str = "*", kind: str = "status", **fields: Any) -> Fault:
        """Let something go wrong from now on; see :class:`Fault`."""
        fault = Fault(where, path, kind, **fields)
        self.faults.append(fault)
        return fault

    def requests(self, path: str, where: str = "body", method: str = "GET") -> list[Seen]:
        """What was asked for of a file."""
        return [seen for seen in self.seen if (seen.where, seen.path, seen.method) == (where, path, method)]

    def take_fault(self, where: str, path: str, method: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.matches(where, path, method):
                    fault.used += 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the tests look at ``seen``."""

    def note(self, where: str, path: str) -> Fault | None:
        given = self.headers.get("range") or ""
        start = int(given.removeprefix("bytes=").partition("-")[0]) if given.startswith("bytes=") else None
        with self.hub.lock:
            self.hub.seen.append(
                Seen(
                    where,
                    self.command,
                    path,
                    start,
                    self.headers.get("authorization"),
                    self.headers.get("user-agent") or "",
                )
            )
        return self.hub.take_fault(where, path, self.command)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any, **headers: str) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json; charset=utf-8", **headers)

    def refuse(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        """An error as the hub makes it: the reason stands in headers."""
        more = {"X_Error_Code": code} if code else {}
        more |= {"X_Error_Message": message} if message else {}
        body = json.dumps({"error": message or str(status)}).encode()
        self.answer(status, body, Content_Type="application/json; charset=utf-8", **more, **headers)

    def spoil(self, fault: Fault) -> None:
        self.refuse(fault.status, **{name.replace("-", "_"): value for name, value in fault.headers.items()})

    def body(self, path: str, file: StoredFile, headers: dict[str, str]) -> None:
        """A file's bytes, or the part that was asked for, or what a fault makes of them."""
        fault = self.note("body", path)
        if fault is not None and fault.kind == "status":
            self.spoil(fault)
            return
        kind = fault.kind if fault is not None else ""
        after = fault.after if fault is not None else 0
        data, total = file.data, len(file.data)
        start, stop = 0, total
        asked = self.headers.get("range", "")
        if asked.startswith("bytes=") and kind != "whole":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(total, int(last) + 1 if last else total)
            if start >= total:
                self.answer(416, b"", Content_Range=f"bytes */{total}")
                return
            if kind == "other_range":
                start = start - 7 if start >= 7 else start + 7
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        else:
            self.send_response(200)
        part = bytearray(data[start:stop])
        if kind == "corrupt" and start <= after < stop:
            part[after - start] ^= 0xFF
        if kind == "longer":
            part += b"\0" * 4096
        if kind == "end":
            part = part[: max(0, after - start)]
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self._send(
            path, bytes(part), kind, max(0, after - start) if kind in ("cut", "reset", "stall", "trickle") else -1
        )

    def _send(self, path: str, part: bytes, kind: str, limit: int) -> None:
        view = memoryview(part)
        sent = 0
        while sent < len(view):
            if sent == limit:
                if self._break(kind):
                    return
                limit = -1
            step = 1 if kind == "trickle" and limit < 0 else PIECE
            piece = view[sent : min(sent + step, limit if limit > sent else len(view))]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            sent += len(piece)
            with self.hub.lock:
                self.hub.served[path] += len(piece)
            self.hub.on_bytes(path, sent)
            if step == 1:
                self.hub.released.wait(0.02)

    def _break(self, kind: str) -> bool:
        """Do what the fault does at its point; True if that was the end of the connection."""
        self.close_connection = True
        if kind == "stall":
            self.hub.stalled.set()
            self.hub.released.wait(60)
            return True
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return True
        return kind == "cut"


class _Hub(_Handler):
    """huggingface.co."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = parse_qs(parts.query)
        if path == "/api/models":
            if self._api_fault(path):
                return
            self._search(query)
        elif path.startswith("/api/models/"):
            if self._api_fault(path):
                return
            self._model(path.removeprefix("/api/models/"), parts.path, query)
        elif path.startswith("/api/resolve-cache/models/"):
            owner, name, commit, *rest = path.removeprefix("/api/resolve-cache/models/").split("/")
            file = self.hub.repos[f"{owner}/{name}"].files(commit)["/".join(rest)]
            self.body("/".join(rest), file, {"ETag": f'"{file.oid}"', "X-Repo-Commit": commit})
        elif "/resolve/" in parts.path or "/raw/" in parts.path:
            kind = "resolve" if "/resolve/" in parts.path else "raw"
            repo_id, _, rest = parts.path.strip("/").partition(f"/{kind}/")
            revision, _, name = rest.partition("/")
            self._file(unquote(repo_id), unquote(revision), unquote(name), kind)
        else:
            self.refuse(404, message="Sorry, we can't find the page you are looking for.")

    def _api_fault(self, path: str) -> bool:
        fault = self.note("api", path)
        if fault is None:
            return False
        if fault.kind == "json":
            self.answer(200, fault.data, Content_Type="application/json")
        elif fault.kind == "stall":
            self.hub.stalled.set()
            self.hub.released.wait(60)
            self.close_connection = True
        else:
            self.spoil(fault)
        return True

    def _token(self) -> str | None:
        """The token of the request; None without one. An unknown one is refused, and an empty string returned."""
        given = self.headers.get("authorization")
        if given is None:
            return None
        token = given.removeprefix("Bearer ")
        if token in self.hub.tokens:
            return token
        self.refuse(401, message="Invalid credentials in Authorization header")
        return ""

    def _repo(self, repo_id: str, *, contents: bool) -> FakeRepo | None:
        """The repository, if this request may see it; else the refusal has been sent."""
        token = self._token()
        if token == "":
            return None
        if repo_id in self.hub.renamed:
            new = self.hub.renamed[repo_id]
            where = self.path.replace(quote(repo_id), quote(new), 1)
            self.answer(307, b"Temporary Redirect. Redirecting to " + where.encode(), Location=where)
            return None
        repo = self.hub.repos.get(repo_id)
        hidden = repo is None or (repo.private and token not in repo.readers)
        if repo is None or hidden:
            # Nobody learns from the answer whether a private repository exists.
            status = 401 if token is None else 404
            self.refuse(status, "RepoNotFound", "Repository not found" if token else "Invalid username or password.")
            return None
        if repo.disabled:
            self.refuse(403, message="Access to this resource is disabled.")
            return None
        if contents and repo.gated and token not in repo.readers:
            message = f"Access to model {repo.id} is restricted. You must have access to it and be authenticated."
            self.refuse(401 if token is None else 403, "GatedRepo", message)
            return None
        return repo

    def _search(self, query: dict[str, list[str]]) -> None:
        if self._token() == "":
            return
        one = {key: values[0] for key, values in query.items()}
        words = one.get("search", "").lower()
        found = [repo for repo in self.hub.repos.values() if not repo.private and words in repo.id.lower()]
        for tag in query.get("filter", []):
            found = [repo for repo in found if tag in repo.tags]
        if "author" in one:
            found = [repo for repo in found if repo.id.startswith(one["author"] + "/")]
        if "gated" in one:
            found = [repo for repo in found if bool(repo.gated) == (one["gated"].lower() == "true")]
        if "pipeline_tag" in one:
            found = [repo for repo in found if repo.fields.get("pipeline_tag") == one["pipeline_tag"]]
        key = {"likes": "likes"}.get(one.get("sort", ""), "downloads")
        found.sort(key=lambda repo: -getattr(repo, key))
        size = min(int(one.get("limit", "1000")), 100)
        start = int(one.get("cursor", "0"))
        links = {}
        if start + size < len(found):
            more = urlencode({**query, "cursor": start + size}, doseq=True)
            links["Link"] = f'<{self.hub.url}/api/models?{more}>; rel="next"'
        expand = query.get("expand")
        self.json([self._describe(repo, repo.head, expand) for repo in found[start : start + size]], **links)

    def _describe(self, repo: FakeRepo, commit: str, expand: list[str] | None = None) -> dict[str, Any]:
        whole = {
            "_id": "65" + commit[:22],
            "id": repo.id,
            "modelId": repo.id,
            "sha": commit,
            "private": repo.private,
            "gated": repo.gated or False,
            "disabled": repo.disabled,
            "downloads": repo.downloads,
            "likes": repo.likes,
            "tags": repo.tags,
            "lastModified": MODIFIED,
            "createdAt": MODIFIED,
            "siblings": [{"rfilename": path} for path in sorted(repo.commits[commit])],
            **repo.fields,
        }
        return whole if expand is None else {key: whole[key] for key in ("_id", "id", *expand) if key in whole}

    def _model(self, rest: str, raw: str, query: dict[str, list[str]]) -> None:
        for mark in ("/revision/", "/tree/"):
            if mark in raw:
                repo_id, _, tail = raw.removeprefix("/api/models/").partition(mark)
                revision, _, inside = tail.partition("/")
                self._at(unquote(repo_id), unquote(revision), unquote(inside), mark, query)
                return
        self._at(rest, "main", "", "/revision/", query)

    def _at(self, repo_id: str, revision: str, inside: str, mark: str, query: dict[str, list[str]]) -> None:
        repo = self._repo(repo_id, contents=False)
        if repo is None:
            return
        commit = repo.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif mark == "/tree/":
            self._tree(repo, commit, inside, query)
        else:
            described = self._describe(repo, commit)
            if query.get("blobs"):
                files = repo.commits[commit]
                described["siblings"] = [{"rfilename": path, **_blob(files[path])} for path in sorted(files)]
            self.json(described)

    def _tree(self, repo: FakeRepo, commit: str, inside: str, query: dict[str, list[str]]) -> None:
        files = repo.commits[commit]
        folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
        entries: list[dict[str, Any]] = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders
        ]
        entries += [{"type": "file", "path": path, **_tree_entry(file)} for path, file in sorted(files.items())]
        start = int(query.get("cursor", ["0"])[0])
        links = {}
        if start + self.hub.tree_page < len(entries):
            more = urlencode({**query, "cursor": start + self.hub.tree_page}, doseq=True)
            links["Link"] = f'<{self.hub.url}/api/models/{repo.id}/tree/{commit}?{more}>; rel="next"'
        self.json(entries[start : start + self.hub.tree_page], **links)

    def _file(self, repo_id: str, revision: str, path: str, kind: str) -> None:
        fault = self.note("resolve", path)
        if fault is not None and fault.kind == "status":
            self.spoil(fault)
            return
        repo = self._repo(repo_id, contents=True)
        if repo is None:
            return
        commit = repo.resolve(revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        file = repo.commits[commit].get(path)
        if file is None:
            self.refuse(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
            return
        if kind == "raw":
            self.answer(200, file.pointer if file.large else file.data, Content_Type="text/plain; charset=utf-8")
            return
        common = {"X_Repo_Commit": commit, "X_Linked_Size": str(file.listed), "X_Linked_ETag": f'"{file.etag}"'}
        if not file.large:
            where = f"/api/resolve-cache/models/{repo.id}/{commit}/{quote(path)}"
            self.answer(307, b"Temporary Redirect", Location=where, ETag=f'"{file.etag}"', **common)
            return
        where = (
            f"{self.hub.storage}/{repo.id}/{file.sha256}?response=inline&Signature=sealed&path={quote(path, safe='')}"
        )
        self.answer(302, b"Found. Redirecting", Location=where, ETag=f'"{file.oid}"', **common)


class _Storage(_Handler):
    """The storage behind the hub. It knows no tokens: its addresses are signed."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if self.headers.get("authorization") is not None or query.get("Signature") != ["sealed"]:
            self.answer(400, b"<Error><Code>InvalidArgument</Code></Error>", Content_Type="application/xml")
            return
        path = query["path"][0]
        owner, name, sha256 = parts.path.strip("/").split("/")
        repo = self.hub.repos[f"{owner}/{name}"]
        file = next(
            file for files in repo.commits.values() for file in files.values() if file.large and file.sha256 == sha256
        )
        # As S3: the tag of the object there is not the hash of its content.
        self.body(path, file, {"ETag": f'"{sha256[:32]}-3"', "Content-Type": "binary/octet-stream"})


def _tree_entry(file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"oid": file.oid, "size": file.listed}
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": file.listed, "pointerSize": len(file.pointer)}
    return entry


def _blob(file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": file.listed, "blobId": file.oid}
    if file.large:
        entry["lfs"] = {"sha256": file.sha256, "size": file.listed, "pointerSize": len(file.pointer)}
    return entry
