"""What is known of the hub, as structs that travel between processes, and the messages that carry them (a part of
:mod:`app.protocol`, which lists them all). Sizes in bytes, times in seconds."""

from __future__ import annotations

import msgspec


class Query(msgspec.Struct, frozen=True):
    """A search. ``sort`` is one of :data:`app.hub.search.SORTS`; ``task`` a pipeline tag such as ``text-generation``.

    ``gguf``: repositories with GGUF files; ``convertible``: safetensors of an architecture that can be converted;
    ``fits``: only what fits into this machine's memory. ``licence`` is a tag such as ``apache-2.0``. ``gated`` None
    means both.
    """

    text: str
    sort: str = "downloads"
    limit: int = 20
    gguf: bool = False
    convertible: bool = False
    fits: bool = False
    gated: bool | None = None
    licence: str = ""
    task: str = ""
    author: str = ""


class FoundModel(msgspec.Struct, frozen=True):
    """One result. ``gated`` is ``""``, ``auto`` or ``manual``; 0 parameters or bytes: the hub does not say.

    ``bytes`` are those of the weights as they lie there (safetensors). ``fits`` is ``good``, ``tight``, ``no`` or
    empty: whether a 4-bit file of these parameters would run here, from the number of parameters alone.
    """

    id: str
    downloads: int
    likes: int
    gated: str
    licence: str
    parameters: int
    bytes: int
    fits: str
    gguf: bool = False
    convertible: bool = False
    task: str = ""
    architecture: str = ""
    modified: str = ""
    private: bool = False


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository. ``sha256`` is that of a large file (LFS), ``oid`` the git object's SHA-1 of any other."""

    path: str
    bytes: int
    sha256: str = ""
    oid: str = ""


class FileGroup(msgspec.Struct, frozen=True):
    """Files that are one model only together: the shards of one precision, or one GGUF file.

    ``kind`` is ``gguf``, ``safetensors``, ``pytorch`` or ``projector`` (mmproj); ``type`` such as ``Q4_K_M``, empty if
    the name says nothing. ``missing`` counts shards that the names promise and the repository lacks. ``fits`` and
    ``memory`` (weights, cache for 8k tokens, compute) are empty if shards are missing, and ``estimated`` if there is no
    config to compute them from; ``cache`` and ``compute`` are parts of it, 0 in an estimate.
    """

    kind: str
    name: str
    type: str
    files: tuple[str, ...]
    bytes: int
    missing: int = 0
    fits: str = ""
    memory: int = 0
    estimated: bool = False
    cache: int = 0
    compute: int = 0


class Repository(msgspec.Struct, frozen=True):
    """One model of the hub at one commit. ``renamed_from`` is what was asked for, if it is called otherwise now.

    ``for_conversion`` are the paths that a conversion reads, empty with ``why_not`` if it cannot be converted.
    ``problems`` are sentences, for example on files whose names cannot be used.
    """

    id: str
    revision: str
    reference: str
    files: tuple[RemoteFile, ...]
    groups: tuple[FileGroup, ...]
    for_conversion: tuple[str, ...]
    why_not: str
    gated: str
    private: bool
    licence: str
    downloads: int
    likes: int
    parameters: int
    architecture: str
    context_length: int
    task: str
    tags: tuple[str, ...]
    modified: str
    renamed_from: str = ""
    problems: tuple[str, ...] = ()


class PlannedFile(msgspec.Struct, frozen=True):
    """A file of a plan. ``state`` is ``cached``, ``partial`` (``have`` bytes are here already) or ``missing``."""

    path: str
    bytes: int
    sha256: str
    oid: str
    state: str
    have: int


class DownloadPlan(msgspec.Struct, frozen=True):
    """Exactly what a download takes. ``bytes`` of all files, ``to_fetch`` of those over the network.

    ``to`` is the folder that the files go to, empty for the Hugging Face cache; ``folder`` is where they will be.
    """

    repo: str
    revision: str
    reference: str
    files: tuple[PlannedFile, ...]
    bytes: int
    to_fetch: int
    disk_free: int
    folder: str
    to: str = ""


class Patience(msgspec.Struct, frozen=True):
    """When a transfer is tried again. ``stall``: seconds without a byte (or with hardly any, for twice as long).

    ``tries``: attempts in a row that bring nothing before the download fails; between them it waits ``pause`` seconds,
    doubled each time up to ``longest``, and a random part of that. What a server asks for (Retry-After) is waited for
    up to ``obey``.
    """

    stall: float = 20.0
    tries: int = 8
    pause: float = 1.0
    longest: float = 30.0
    obey: float = 300.0


class FileProgress(msgspec.Struct, frozen=True):
    """A file that moved since the last message; ``index`` is its place in the plan.

    ``state`` is ``waiting``, ``fetching``, ``checking``, ``retrying`` (``note`` says why) or ``done``. A file that had
    trouble between two messages comes twice: the trouble first, then how it stands.
    """

    index: int
    done: int
    state: str
    note: str = ""


class FinishedFile(msgspec.Struct, frozen=True):
    """``state`` is ``verified`` (fetched, and its checksum is right) or ``cached`` (it was there)."""

    path: str
    bytes: int
    sha256: str
    state: str


class TokenState(msgspec.Struct, frozen=True):
    """Where the token comes from: ``environment``, ``keyring``, ``file`` (of ``hf auth login``), or empty for none.

    ``keeps``: whether a new one would outlive this session; if not, ``why`` says what is missing.
    """

    source: str
    keeps: bool
    why: str = ""


class Download(msgspec.Struct, frozen=True, tag_field="message", tag="download"):
    """Fetch ``files`` of a commit (worker ``download``), into the Hugging Face cache or under the folder ``to``.

    It is pinned: everything but how the hub is reached, which the worker takes from settings and environment, so that
    a download goes on over another network, and no token travels. It always goes on with what is there. ``reference``
    is the branch or tag that this commit is; ``at_once`` files are fetched at a time; ``limit`` is bytes a second, 0
    for none. ``cache`` empty: the cache of the environment.
    """

    repo: str
    revision: str
    files: tuple[RemoteFile, ...]
    reference: str = "main"
    to: str = ""
    cache: str = ""
    at_once: int = 4
    limit: int = 0
    patience: Patience = Patience()


class SearchHub(msgspec.Struct, frozen=True, tag_field="message", tag="search_hub"):
    """Search the hub (worker ``hub``); answered by :class:`HubFound` or :class:`Failed`."""

    request: int
    query: Query


class LookUp(msgspec.Struct, frozen=True, tag_field="message", tag="look_up"):
    """What a model of the hub is (worker ``hub``); ``name`` as a person types it. Answered by :class:`LookedUp`."""

    request: int
    name: str


class ReadCard(msgspec.Struct, frozen=True, tag_field="message", tag="read_card"):
    """The model card of a commit (worker ``hub``); answered by :class:`CardRead`."""

    request: int
    repo: str
    revision: str


class PlanDownload(msgspec.Struct, frozen=True, tag_field="message", tag="plan_download"):
    """What a download would take (worker ``hub``); answered by :class:`DownloadPlanned`, which refuses nothing.

    ``files`` are paths or patterns, none means all; ``conversion``: what a conversion reads instead.
    """

    request: int
    name: str
    files: tuple[str, ...] = ()
    conversion: bool = False
    to: str = ""


class InspectRemote(msgspec.Struct, frozen=True, tag_field="message", tag="inspect_remote"):
    """Headers of files on the hub (worker ``hub``): a GGUF with its parts, or what a conversion reads.

    Answered by :class:`Inspected` as for a local model.
    """

    request: int
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]


class AskToken(msgspec.Struct, frozen=True, tag_field="message", tag="ask_token"):
    """Where the hub's token comes from (worker ``hub``); answered by :class:`TokenTold`, never with the token."""

    request: int


class KeepToken(msgspec.Struct, frozen=True, tag_field="message", tag="keep_token"):
    """Keep a token in the system's keyring, or forget it (worker ``hub``); answered by :class:`TokenTold`.

    The one message that holds a secret: it goes over the worker's input, is written nowhere, and does not print it.
    """

    request: int
    secret: str

    def __repr__(self) -> str:
        return f"KeepToken(request={self.request})"


class LimitRate(msgspec.Struct, frozen=True, tag_field="message", tag="limit_rate"):
    """From now on a running download (worker ``download``) takes so many bytes a second, 0 for no limit."""

    limit: int


class DownloadStarted(msgspec.Struct, frozen=True, tag_field="message", tag="download_started"):
    """A download's first word. ``have`` bytes of each file are here already, in the order of the command."""

    folder: str
    have: tuple[int, ...]
    total: int


class DownloadProgress(msgspec.Struct, frozen=True, tag_field="message", tag="download_progress"):
    """``done`` of ``total`` bytes are here, ``rate`` bytes/s come; ``files`` are those that moved meanwhile."""

    done: int
    total: int
    rate: float
    seconds_left: float | None
    files: tuple[FileProgress, ...]


class DownloadResult(msgspec.Struct, frozen=True, tag_field="message", tag="download_result"):
    """Every file is there and checked. ``folder`` is the model's; ``fetched`` bytes came over the network."""

    repo: str
    revision: str
    folder: str
    files: tuple[FinishedFile, ...]
    bytes: int
    fetched: int
    seconds: float


class HubFound(msgspec.Struct, frozen=True, tag_field="message", tag="hub_found"):
    """Answer to :class:`SearchHub`."""

    request: int
    models: tuple[FoundModel, ...]


class LookedUp(msgspec.Struct, frozen=True, tag_field="message", tag="looked_up"):
    """Answer to :class:`LookUp`."""

    request: int
    repository: Repository


class CardRead(msgspec.Struct, frozen=True, tag_field="message", tag="card_read"):
    """Answer to :class:`ReadCard`: Markdown by a stranger. ``cut``: it was longer."""

    request: int
    text: str
    cut: bool


class DownloadPlanned(msgspec.Struct, frozen=True, tag_field="message", tag="download_planned"):
    """Answer to :class:`PlanDownload`."""

    request: int
    plan: DownloadPlan


class TokenTold(msgspec.Struct, frozen=True, tag_field="message", tag="token_told"):
    """Answer to :class:`AskToken` and :class:`KeepToken`."""

    request: int
    state: TokenState
