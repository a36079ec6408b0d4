"""Asks the hub for the window: searches, looks models up, plans downloads, reads headers. Lives until it is left.

Each question has a thread of its own, so that a slow answer does not hold up the next: what is typed while a search
runs starts another. A question that fails costs a ``Failed`` with its number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from app import settings
from app.hub import access, planning, remote, repository
from app.hub.client import Hub, connect
from app.hub.messages import (
    AskToken,
    CardRead,
    DownloadPlanned,
    HubFound,
    InspectRemote,
    KeepToken,
    LookedUp,
    LookUp,
    PlanDownload,
    ReadCard,
    Repository,
    SearchHub,
    TokenTold,
)
from app.hub.names import parse_repo
from app.hub.search import search
from app.protocol import Event, Inspected, failed
from app.workers.runtime import Connection
from converter.spec import Cancelled, QuenchError

Question = SearchHub | LookUp | ReadCard | PlanDownload | InspectRemote | AskToken | KeepToken

REMEMBERED = 32
"""Models whose files are known without asking again: at one commit they never change."""


def serve(connection: Connection) -> None:
    """Answer every ``Question`` until the parent leaves.

    How the hub is reached, and with which token, is read from settings and environment when the worker starts.
    """
    hub = connect(access.access(settings.load()), connection.cancelled.is_set)
    known: OrderedDict[str, Repository] = OrderedDict()
    for command in connection.commands():
        if isinstance(command, Question):
            threading.Thread(target=_reply, args=(connection, hub, known, command), daemon=True).start()


def _reply(connection: Connection, hub: Hub, known: OrderedDict[str, Repository], command: Question) -> None:
    try:
        connection.send(_answer(connection, hub, known, command))
    except Cancelled:
        return
    except QuenchError as error:
        connection.send(failed(error, command.request))
    except Exception as error:
        trouble = QuenchError("internal", "Something went wrong that should not.", type(error).__name__, exit_status=1)
        connection.send(failed(trouble, command.request))
        raise


def _answer(connection: Connection, hub: Hub, known: OrderedDict[str, Repository], command: Question) -> Event:
    stopped = connection.cancelled.is_set
    if isinstance(command, SearchHub):
        return HubFound(command.request, tuple(search(hub, command.query, stopped)))
    if isinstance(command, AskToken):
        return TokenTold(command.request, access.token_state(hub.access))
    if isinstance(command, KeepToken):
        return TokenTold(command.request, access.save_token(hub.access, command.secret))
    if isinstance(command, LookUp):
        looked_up = repository.look_up(hub, parse_repo(command.name), stopped)
        known[f"{looked_up.id}@{looked_up.revision}"] = looked_up
        while len(known) > REMEMBERED:
            known.popitem(last=False)
        return LookedUp(command.request, looked_up)
    if isinstance(command, ReadCard):
        return CardRead(command.request, *repository.read_card(hub, command.repo, command.revision))
    if isinstance(command, InspectRemote):
        return Inspected(command.request, remote.inspect(hub, command.repo, command.revision, command.files))
    found = known.get(command.name) or repository.look_up(hub, parse_repo(command.name), stopped)
    chosen = planning.choose(found, command.files, conversion=command.conversion)
    return DownloadPlanned(command.request, planning.plan(hub.access.cache, found, chosen, command.to))
