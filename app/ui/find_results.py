"""What a search on the hub has found: a table of models, and how a row of it looks in the narrow list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter
from PySide6.QtWidgets import QApplication, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.hub.fitting import BITS
from app.hub.messages import FoundModel
from app.ui import format as fmt
from app.ui.theme import Theme
from app.ui.widgets import tip

_Index = QModelIndex | QPersistentModelIndex
NAME, PARAMETERS, FITS, DOWNLOADS, LIKES, ACCESS = range(6)
MODEL_ROLE = int(Qt.ItemDataRole.UserRole) + 1
ROW_HEIGHT = 52
ROLES = {"good": "good", "tight": "warn", "no": "bad"}
"""The colour of each level of fitting."""


def compact(count: int) -> str:
    """``1.2 M``, ``34 K``, ``812``."""
    return fmt.parameters(count) if count >= 1000 else fmt.number(count)


class ResultsModel(QAbstractTableModel):
    """Models in the order in which the hub gave them. ``MODEL_ROLE`` is the :class:`FoundModel` of a row."""

    def __init__(self, theme: Theme, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.models: tuple[FoundModel, ...] = ()

    def set_models(self, models: Sequence[FoundModel]) -> None:
        """Show these. More of what is shown already is put behind it, so that a selection stays."""
        models = tuple(models)
        before = len(self.models)
        if before and models[:before] == self.models:
            if len(models) > before:
                self.beginInsertRows(QModelIndex(), before, len(models) - 1)
                self.models = models
                self.endInsertRows()
            return
        self.beginResetModel()
        self.models = models
        self.endResetModel()

    def row_of(self, identifier: str) -> int:
        """The row of a model's id, -1 if it is not there."""
        return next((n for n, model in enumerate(self.models) if model.id == identifier), -1)

    def rowCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.models)

    def columnCount(self, parent: _Index | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else 6

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or role != Qt.ItemDataRole.DisplayRole:
            return None
        titles = (self.tr("Model"), self.tr("Parameters"), self.tr("Fits?"), self.tr("Downloads"), self.tr("Likes"))
        return (*titles, self.tr("Access"))[section]

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if not index.isValid():
            return None
        model = self.models[index.row()]
        if role == MODEL_ROLE:
            return model
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(model, index.column())
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(self._tip(model) or "") or None
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == FITS and model.fits:
            return self._theme.color(ROLES[model.fits])
        if role == Qt.ItemDataRole.AccessibleTextRole and index.column() == NAME:
            return f"{model.id}, {self.sentence(model)}, {self.fits(model)}"
        return None

    def fits(self, model: FoundModel) -> str:
        """The word of the badge; empty if the hub does not say how large the model is."""
        words = {"good": self.tr("Fits"), "tight": self.tr("Just fits"), "no": self.tr("Too large")}
        return words.get(model.fits, "")

    def access(self, model: FoundModel) -> str:
        """``gated``, ``private`` or nothing."""
        return self.tr("gated") if model.gated else self.tr("private") if model.private else ""

    def sentence(self, model: FoundModel) -> str:
        """The second line of a row."""
        kinds = [name for name, has in (("GGUF", model.gguf), (self.tr("convertible"), model.convertible)) if has]
        facts = [
            fmt.parameters(model.parameters) if model.parameters else "",
            " ".join(kinds),
            self.tr("{0} downloads").format(compact(model.downloads)),
            self.tr("{0} likes").format(compact(model.likes)),
            model.licence,
        ]
        return " · ".join(fact for fact in facts if fact)

    def _text(self, model: FoundModel, column: int) -> str:
        return {
            NAME: model.id,
            PARAMETERS: fmt.parameters(model.parameters),
            FITS: self.fits(model),
            DOWNLOADS: compact(model.downloads),
            LIKES: compact(model.likes),
            ACCESS: self.access(model),
        }[column]

    def _tip(self, model: FoundModel) -> str:
        lines = [model.id, self.sentence(model)]
        if model.fits:
            words = self.tr(
                "{0}: as a 4-bit file of about {1}, with the cache of 8,192 tokens; estimated from the number of "
                "parameters against the memory that is free now."
            )
            lines.append(words.format(self.fits(model), fmt.size(model.parameters * BITS / 8)))
        else:
            lines.append(self.tr("The hub does not say how large it is; its files will."))
        if model.gated:
            lines.append(self.tr("Gated: its licence has to be accepted on the hub before it can be downloaded."))
        return "\n".join(lines)


class ResultDelegate(QStyledItemDelegate):
    """Two lines: the name and the badge that says whether it fits; under them what is known of it."""

    def __init__(self, theme: Theme, model: ResultsModel, parent: QObject) -> None:
        super().__init__(parent)
        self._theme = theme
        self._model = model

    def sizeHint(self, option: QStyleOptionViewItem, index: _Index) -> QSize:
        return QSize(160, ROW_HEIGHT)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        self.initStyleOption(option, index)
        option.text = ""
        style = option.widget.style() if option.widget is not None else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        model: FoundModel = index.data(MODEL_ROLE)
        area = option.rect.adjusted(12, 7, -12, -7)
        upper = QRect(area.left(), area.top(), area.width(), 19)
        lower = QRect(area.left(), area.bottom() - 16, area.width(), 17)
        painter.save()
        right = upper.right()
        for text, role in (
            (self._model.fits(model), ROLES.get(model.fits, "muted")),
            (self._model.access(model), "warn"),
        ):
            if text:
                painter.setFont(self._theme.font(12))
                painter.setPen(self._theme.color(role))
                wide = painter.fontMetrics().horizontalAdvance(text)
                where = QRect(right - wide, upper.top(), wide + 1, upper.height())
                painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, text)
                right -= wide + 10
        self._name(painter, QRect(upper.left(), upper.top(), right - upper.left() - 4, upper.height()), model.id)
        painter.setFont(self._theme.font(12))
        painter.setPen(self._theme.color("muted"))
        line = painter.fontMetrics().elidedText(self._model.sentence(model), Qt.TextElideMode.ElideRight, lower.width())
        painter.drawText(lower, Qt.AlignmentFlag.AlignVCenter, line)
        painter.setPen(self._theme.color("border"))
        painter.drawLine(option.rect.left() + 12, option.rect.bottom(), option.rect.right() - 12, option.rect.bottom())
        painter.restore()

    def _name(self, painter: QPainter, area: QRect, identifier: str) -> None:
        """The owner muted, the name strong; where there is no room the owner goes first."""
        owner, slash, name = identifier.rpartition("/")
        bold, plain = self._theme.font(13, bold=True), self._theme.font(13)
        head = owner + slash
        room = area.width() - QFontMetrics(bold).horizontalAdvance(name)
        shown = QFontMetrics(plain).elidedText(head, Qt.TextElideMode.ElideRight, room) if room > 32 else ""
        painter.setFont(plain)
        painter.setPen(self._theme.color("muted"))
        painter.drawText(area, Qt.AlignmentFlag.AlignVCenter, shown)
        left = area.left() + QFontMetrics(plain).horizontalAdvance(shown)
        painter.setFont(bold)
        painter.setPen(self._theme.color("text"))
        rest = QRect(left, area.top(), area.right() - left, area.height())
        text = painter.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, rest.width())
        painter.drawText(rest, Qt.AlignmentFlag.AlignVCenter, text)
