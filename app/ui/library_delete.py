"""Deleting models: asking with what goes and how much, and the wastebasket."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QCoreApplication, QDir, QFile, QStandardPaths, Qt
from PySide6.QtWidgets import QMessageBox, QWidget

from app.local.disk import Removal
from app.ui import format as fmt
from app.ui.context import Context
from converter.spec import QuenchError

SHOWN = 8


def _tr(text: str) -> str:
    return QCoreApplication.translate("LibraryDelete", text)


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
