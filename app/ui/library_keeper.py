"""Deleting models (asking with what goes and how much, the wastebasket) and verifying them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QDir, QFile, QObject, QStandardPaths, Qt
from PySide6.QtWidgets import QMessageBox, QWidget

from app.local import disk
from app.local.disk import Removal
from app.local.verify import DAMAGED, UNREADABLE
from app.protocol import VerifyModels, VerifyResult
from app.ui import format as fmt
from app.ui.context import Context
from app.ui.job_center import Job
from converter.spec import QuenchError

SHOWN = 8


def _tr(text: str) -> str:
    return QCoreApplication.translate("LibraryKeeper", text)


def question(removal: Removal, names: list[str], parent: QWidget | None = None) -> QMessageBox:
    """The question before ``removal``: how many models, what goes, how much that frees. ``accept`` is its first
    button."""
    box = QMessageBox(parent)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle(_tr("Delete"))
    box.setTextFormat(Qt.TextFormat.PlainText)
    what = _tr("Move {0} to the wastebasket?").format(names[0])
    if len(names) > 1:
        what = _tr("Move {0} models to the wastebasket?").format(len(names))
    box.setText(what)
    lines = [fmt.path(path) for path in removal.paths[:SHOWN]]
    if len(removal.paths) > SHOWN:
        lines.append(_tr("and {0} more").format(len(removal.paths) - SHOWN))
    free = _tr("{0} will be free once the wastebasket is emptied.").format(fmt.size(removal.bytes))
    if not removal.bytes:
        free = _tr("Nothing will be free by it: the same bytes are needed elsewhere.")
    box.setInformativeText("\n".join([*lines, "", free]))
    box.addButton(_tr("Move to the wastebasket"), QMessageBox.ButtonRole.DestructiveRole)
    box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
    return box


def ask(removal: Removal, names: list[str], parent: QWidget | None = None) -> bool:
    """Whether the person wants it."""
    box = question(removal, names, parent)
    box.exec()
    yes = box.buttonRole(box.clickedButton()) == QMessageBox.ButtonRole.DestructiveRole
    box.deleteLater()
    return yes


def to_wastebasket(context: Context, removal: Removal, models: list[str]) -> bool:
    """Move what ``removal`` names; ``models`` that are loaded are let go of first. What cannot be moved is told, and
    the rest stays where it is."""
    for model in models:
        engine = context.engines.find(model)
        for owner in list(engine.owners) if engine is not None else ():
            context.engines.release(model, owner)
    # Qt makes the wastebasket where there is none yet, but not the folder that it belongs into.
    QDir().mkpath(QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericDataLocation))
    for path in removal.paths:
        if not Path(path).is_symlink() and not Path(path).exists():
            continue
        if Path(path).is_symlink() and _unlinked(path):
            continue  # a link into the Hugging Face cache: what it led to goes by its own name
        if not QFile(path).moveToTrash():
            context.notify.error(
                QuenchError(
                    "not_deleted",
                    _tr("The model could not be moved to the wastebasket."),
                    path,
                    _tr("Its disk may have no wastebasket, or be write-protected. Delete it in your file manager."),
                )
            )
            return False
    return True


def _unlinked(path: str) -> bool:
    try:
        Path(path).unlink()
    except OSError:
        return False
    return True


class Keeper(QObject):
    """Deletes models after asking (``confirm(removal, names)``), and verifies them as a job."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self.confirm: Callable[[Removal, list[str]], bool] = partial(ask, parent=parent)
        context.jobs.finished.connect(self._ended)

    def delete(self, paths: list[str]) -> None:
        """Move models to the wastebasket. Of what may not go nothing goes: the error says whose it is."""
        library = self._context.library
        chosen = [listed for listed in map(library.listed, paths) if listed is not None]
        try:
            removal = disk.removal(chosen, library.known)
        except QuenchError as error:
            self._context.notify.error(error)
            return
        names = [listed.title or Path(listed.path).name for listed in chosen]
        if not chosen or not self.confirm(removal, names):
            return
        if not to_wastebasket(self._context, removal, paths):
            library.rescan()
            return
        for path in paths:
            library.forget(path)
        one, many = self.tr("Moved to the wastebasket: {0}"), self.tr("{0} models moved to the wastebasket")
        self._context.notify.info(one.format(names[0]) if len(names) == 1 else many.format(len(names)))

    def verify(self) -> None:
        """Read every file whole and compare it with what it should be."""
        command = VerifyModels(self._context.library.where(), time.time())
        self._context.jobs.submit("verify", self.tr("Verify all models"), command, "library")

    def _ended(self, job: Job) -> None:
        """What a verification found: the damaged files are told by name, and listed as broken."""
        if not isinstance(job.result, VerifyResult):
            return
        files = job.result.files
        bad = [file for file in files if file.state in (DAMAGED, UNREADABLE)]
        for file in bad:
            self._context.library.mark_damaged(file.model, f"{Path(file.path).name}: {file.how}")
        if not bad:
            words = self.tr("{0} files verified, {1}: all good").format(len(files), fmt.size(job.result.bytes))
            self._context.notify.info(words)
            return
        title = self.tr("{0} of {1} files are not what they should be.").format(len(bad), len(files))
        detail = "\n".join(f"{file.path}: {file.how}" for file in bad[:20])
        hint = self.tr("Download or convert them again.")
        self._context.notify.error(QuenchError("damaged", title, detail, hint))
