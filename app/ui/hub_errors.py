"""What a person can do about an error of the hub: a table from codes to buttons."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QMessageBox, QWidget

from app.hub.access import access
from app.ui.widgets import Action
from converter.spec import QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

LICENCE, PAGE, TOKEN, SPELLING = "licence", "page", "token", "spelling"
NETWORK, ONLINE, RETRY = "network", "online", "retry"

WHAT_TO_DO: dict[str, tuple[str, ...]] = {
    "gated": (LICENCE, TOKEN, RETRY),
    "forbidden": (TOKEN, PAGE, RETRY),
    "bad_token": (TOKEN, RETRY),
    "repo_not_found": (SPELLING, TOKEN),
    "revision_not_found": (SPELLING,),
    "bad_repo_name": (SPELLING,),
    "disabled": (PAGE,),
    "offline": (ONLINE,),
    "no_network": (RETRY, NETWORK),
    "proxy": (NETWORK, RETRY),
    "bad_proxy": (NETWORK,),
    "bad_endpoint": (NETWORK,),
    "tls": (NETWORK, RETRY),
    "bad_answer": (RETRY, NETWORK),
    "refused_by_hub": (RETRY, NETWORK),
}
"""The buttons of each code, the main one first; every other error can be tried again."""


def page_of(context: Context, repo: str) -> str:
    """The address of a model's page on the hub that is asked; empty if its address is none."""
    try:
        return f"{access(context.settings).endpoint}/{repo}"
    except QuenchError:
        return ""


def actions_for(
    context: Context,
    parent: QWidget,
    error: QuenchError,
    retry: Callable[[], object],
    spell: Callable[[], object],
    *,
    repo: str = "",
) -> list[Action]:
    """Buttons for an error card, about ``repo`` where it is about one; ``spell`` leads to where it was typed."""
    table: dict[str, Action] = {
        LICENCE: (parent.tr("Open the licence page"), lambda: visit(parent, page_of(context, repo))),
        PAGE: (parent.tr("Open its page"), lambda: visit(parent, page_of(context, repo))),
        TOKEN: (parent.tr("Set a token"), lambda: context.navigate.emit("settings", {"section": "hub"})),
        SPELLING: (parent.tr("Check the spelling"), spell),
        NETWORK: (parent.tr("Settings"), lambda: context.navigate.emit("settings", {"section": "hub"})),
        ONLINE: (parent.tr("Go online"), lambda: go_online(context)),
        RETRY: (parent.tr("Try again"), retry),
    }
    impossible = set() if repo else {LICENCE, PAGE}
    if not can_go_online(context):
        impossible.add(ONLINE)
    return [table[name] for name in WHAT_TO_DO.get(error.code, (RETRY,)) if name not in impossible]


def is_offline(context: Context) -> bool:
    """Whether offline mode is on, by setting or environment."""
    try:
        return access(context.settings).offline
    except QuenchError:
        return False


def can_go_online(context: Context) -> bool:
    """Whether offline mode is a setting here, and not decided by the environment."""
    try:
        return "offline" not in access(context.settings).from_environment
    except QuenchError:
        return True


def go_online(context: Context) -> None:
    """Switch offline mode off."""
    context.update_settings(hub_offline=False)


def visit(parent: QWidget, address: str) -> QMessageBox | None:
    """Open a page of the hub in the browser, after asking; the whole address is shown."""
    url = QUrl(address)
    if url.scheme() not in ("http", "https"):
        return None
    box = QMessageBox(parent)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setWindowTitle(parent.tr("Open a page?"))
    box.setText(parent.tr("Open this page in the browser?"))
    box.setInformativeText(address[:500])
    yes = box.addButton(parent.tr("Open"), QMessageBox.ButtonRole.AcceptRole)
    copy = box.addButton(parent.tr("Copy address"), QMessageBox.ButtonRole.ActionRole)
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))

    def answered(pressed: Any) -> None:
        if pressed is yes:
            QDesktopServices.openUrl(url)
        elif pressed is copy:
            QGuiApplication.clipboard().setText(address)

    box.buttonClicked.connect(answered)
    box.open()
    return box
