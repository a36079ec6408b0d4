"""The middle column of the Convert page: which files to make, how large they will be, and how exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QKeyEvent, QMouseEvent, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from app.ui import format as fmt
from app.ui.library_rows import FitWords
from app.ui.widgets import badge_size, label, paint_badge
from converter.recipes import COPY, RECIPES, Recipe
from converter.spec import PlannedOutput

if TYPE_CHECKING:
    from app.ui.context import Context
    from app.ui.theme import Theme

CHECK, NAME, TITLE, SIZE, FITS = range(5)
WIDTHS = {CHECK: 32, NAME: 66, SIZE: 80, FITS: 92}
DEFAULT = ("Q4_K_M",)
SHOWN = tuple(name for name in RECIPES if name != "auto")
TYPE_ROLE = Qt.ItemDataRole.UserRole


class RecipeModel(QAbstractTableModel):
    """One row a recipe. ``changed`` when the ticks changed."""

    changed = Signal()

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.recipes: list[Recipe] = [*(RECIPES[name] for name in SHOWN), COPY]
        self.ticked: set[str] = set(DEFAULT)
        self.blocked: dict[str, str] = {}
        self._planned: dict[str, PlannedOutput] = {}
        self._fits: dict[str, FitWords] = {}

    def ticked_names(self) -> tuple[str, ...]:
        """Ticked recipes that can be made now, in the list's order."""
        return tuple(r.name for r in self.recipes if r.name in self.ticked and r.name not in self.blocked)

    def set_ticked(self, names: Iterable[str]) -> None:
        self.ticked = set(names)
        self._refresh()
        self.changed.emit()

    def toggle(self, row: int) -> None:
        name = self.recipes[row].name
        if name in self.blocked:
            return
        self.ticked ^= {name}
        self._refresh(row)
        self.changed.emit()

    def set_blocked(self, reasons: dict[str, str]) -> None:
        """Recipes that cannot be made with the present settings, each with the reason."""
        if reasons != self.blocked:
            self.blocked = reasons
            self._refresh()

    def set_plan(self, planned: dict[str, PlannedOutput], fits: dict[str, FitWords]) -> None:
        self._planned, self._fits = planned, fits
        self._refresh()

    def _refresh(self, row: int | None = None) -> None:
        first, last = (0, len(self.recipes) - 1) if row is None else (row, row)
        self.dataChanged.emit(self.index(first, 0), self.index(last, FITS))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else len(self.recipes)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        return 0 if parent is not None and parent.isValid() else 5

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            right = section == SIZE
            side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.DisplayRole:
            return ("", self.tr("Type"), "", self.tr("Size"), self.tr("Fits?"))[section]
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if self.recipes[index.row()].name in self.blocked:
            return Qt.ItemFlag.ItemIsSelectable
        return flags | Qt.ItemFlag.ItemIsUserCheckable if index.column() == CHECK else flags

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        recipe, column = self.recipes[index.row()], index.column()
        if role == Qt.ItemDataRole.CheckStateRole and column == CHECK:
            return Qt.CheckState.Checked if recipe.name in self.ticked_names() else Qt.CheckState.Unchecked
        if role == TYPE_ROLE:
            return recipe.name
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._words(recipe)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{recipe.name}, {recipe.title}"
        if role == Qt.ItemDataRole.TextAlignmentRole and column == SIZE:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.FontRole:
            return {SIZE: self._theme.mono(), TITLE: self._theme.font(12)}.get(column)
        fit = self._fits.get(recipe.name)
        if role == Qt.ItemDataRole.ForegroundRole and column == FITS and fit is not None:
            return self._theme.color(fit.role)
        if role == Qt.ItemDataRole.ForegroundRole and column == TITLE:
            return self._theme.color("muted")
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(recipe, column, fit)
        return None

    def _text(self, recipe: Recipe, column: int, fit: FitWords | None) -> str:
        planned = self._planned.get(recipe.name)
        if column == SIZE:
            return fmt.size(planned.bytes) if planned else ""
        if column == FITS:
            return fit.text if fit else ""
        return {NAME: recipe.name, TITLE: recipe.title}.get(column, "")

    def _words(self, recipe: Recipe) -> str:
        planned = self._planned.get(recipe.name)
        bits = planned.bpw if planned else recipe.bits
        about = "" if planned else self.tr("about ")
        words = self.tr("%1: %2. %3 %4%5 bits per weight.") if bits else "%1: %2. %3"
        for mark, text in (
            ("%1", recipe.name),
            ("%2", recipe.title),
            ("%3", recipe.sentence),
            ("%4", about[:1].upper() + about[1:]),
            ("%5", fmt.number(bits, 2)),
        ):
            words = words.replace(mark, text)
        fit = self._fits.get(recipe.name)
        if recipe.name in self.blocked:
            words += f"\n{self.blocked[recipe.name]}"
        elif recipe.gains:
            words += " " + self.tr("Gains much from an importance matrix.")
        return words + (f"\n{fit.why}" if fit else "")


class BadgeDelegate(QStyledItemDelegate):
    """Paints a type's name in its colour."""

    def __init__(self, theme: Theme, parent: Any = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        return badge_size(self._theme, str(index.data(TYPE_ROLE))) + QSize(8, 10)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, option.palette.highlight())
        size = badge_size(self._theme, str(index.data(TYPE_ROLE)))
        top = option.rect.center().y() - size.height() / 2 + 1
        area = QRectF(option.rect.left() + 2, top, size.width(), size.height())
        usable = bool(option.state & QStyle.StateFlag.State_Enabled)
        paint_badge(painter, area, str(index.data(TYPE_ROLE)), self._theme, usable=usable)


class RecipeView(QTableView):
    """The list. A click anywhere on a row ticks it, so does the space bar."""

    def __init__(self, model: RecipeModel, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._recipes = model
        self.setModel(model)
        self.setItemDelegateForColumn(NAME, BadgeDelegate(theme, self))
        self.setShowGrid(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setTabKeyNavigation(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(30)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(20)
        for column in (CHECK, NAME, SIZE, FITS):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(TITLE, QHeaderView.ResizeMode.Stretch)
        for column, width in WIDTHS.items():
            self.setColumnWidth(column, width)
        self.setAccessibleName(self.tr("Types to make"))
        self.setMinimumHeight(120)

    def sizeHint(self) -> QSize:
        """Low, so that in a small window the cards below it are seen whole; it takes all that is left."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        narrow = self.viewport().width() < 380
        self.setColumnHidden(TITLE, narrow)
        fits = QHeaderView.ResizeMode.Stretch if narrow else QHeaderView.ResizeMode.Fixed
        self.horizontalHeader().setSectionResizeMode(FITS, fits)
        if not narrow:
            self.setColumnWidth(FITS, WIDTHS[FITS])

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        index = self.indexAt(event.position().toPoint())
        if index.isValid() and event.button() == Qt.MouseButton.LeftButton:
            self.setCurrentIndex(index)
            self._recipes.toggle(index.row())
            event.accept()
            return
        super().mouseReleaseEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Space and self.currentIndex().isValid():
            self._recipes.toggle(self.currentIndex().row())
            return
        super().keyPressEvent(event)


class RecipeList(QWidget):
    """The list with the plain words for the row that is looked at."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.model = RecipeModel(context.theme, self)
        self.view = RecipeView(self.model, context.theme)
        self._words = label("", "muted", wrap=True)
        self._words.setMinimumHeight(36)
        self._words.setAlignment(Qt.AlignmentFlag.AlignTop)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.view, 1)
        layout.addWidget(self._words)
        self.view.selectionModel().currentChanged.connect(self._describe)
        self.model.dataChanged.connect(self._describe)
        context.theme.changed.connect(self.view.viewport().update)
        self.view.setCurrentIndex(self.model.index(0, NAME))

    def _describe(self, *_: object) -> None:
        index = self.view.currentIndex()
        if index.isValid():
            words = str(index.data(Qt.ItemDataRole.ToolTipRole)).split("\n")
            blocked = index.data(TYPE_ROLE) in self.model.blocked
            self._words.setText(" ".join(words[:2]) if blocked else words[0])
