"""The small parts that all pages are made of. Looks come from roles, texts from the caller."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QDragEnterEvent,
    QDropEvent,
    QFont,
    QFontMetrics,
    QGuiApplication,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QShowEvent,
)
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app import library
from app.protocol import Failed
from app.remote.address import is_remote, split_path
from app.ui import format as fmt
from app.ui.servers import title_of_served
from app.ui.theme import Theme, readable_on, set_role
from converter.spec import ModelInfo, QuenchError

if TYPE_CHECKING:
    from app.ui.context import Context

Action = tuple[str, Callable[[], object]]


def label(text: str = "", role: str = "", *, wrap: bool = False, parent: QWidget | None = None) -> QLabel:
    """A plain-text label: model names and file names can never be taken for markup."""
    made = QLabel(parent)
    made.setTextFormat(Qt.TextFormat.PlainText)
    made.setText(text)
    made.setWordWrap(wrap)
    if role:
        set_role(made, role)
    return made


def tip(text: str) -> str:
    """A tooltip that says ``text`` and nothing else: one that looks like markup would be drawn as such."""
    return f"<p>{escape(text)}</p>".replace("\n", "<br>") if "<" in text else text


def button(text: str, clicked: Callable[[], object] | None = None, role: str = "") -> QPushButton:
    """A push button with its look and action."""
    made = QPushButton(text)
    made.setAccessibleName(text.replace("&", ""))
    made.setAutoDefault(False)
    if role:
        set_role(made, role)
    if clicked is not None:
        made.clicked.connect(lambda checked=False: clicked())
    return made


def icon_button(theme: Theme, icon: str, name: str, clicked: Callable[[], object] | None = None) -> QToolButton:
    """An icon-only button; ``name`` is its tooltip and its accessible name. 32 px square."""
    made = QToolButton()
    theme.set_icon(made, icon)
    made.setToolTip(name)
    made.setAccessibleName(name)
    made.setFixedSize(32, 32)
    made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    if clicked is not None:
        made.clicked.connect(lambda checked=False: clicked())
    return made


def line() -> QFrame:
    """A horizontal hairline."""
    made = QFrame()
    set_role(made, "line")
    made.setFixedHeight(1)
    return made


class ElidedLabel(QLabel):
    """A one-line plain-text label that shortens itself in the middle; the whole text is its tooltip."""

    def __init__(self, text: str = "", mode: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self._mode = mode
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setText(text)

    def setText(self, text: str) -> None:
        super().setText(text)
        self.setToolTip(tip(text))

    def minimumSizeHint(self) -> QSize:
        return QSize(24, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        text = QFontMetrics(self.font()).elidedText(self.text(), self._mode, self.width())
        self.style().drawItemText(
            painter,
            self.rect(),
            int(self.alignment() | Qt.AlignmentFlag.AlignVCenter),
            self.palette(),
            self.isEnabled(),
            text,
            self.foregroundRole(),
        )


class LiveBar(QProgressBar):
    """A bar that is painted with all else that changed; a progress bar paints its window at once with every value."""

    def setValue(self, value: int) -> None:
        if value != self.value():
            self.setUpdatesEnabled(False)
            super().setValue(value)
            self.setUpdatesEnabled(True)


class LiveLabel(QLabel):
    """A one-line plain-text label for figures that change many times a second.

    A label of any size asks for a new layout with every text, which repaints all that shares a window's layouts with
    it. This one has a fixed size, that of its widest text so far and of two more figures.
    """

    def __init__(self, font: QFont, role: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.setFont(font)
        if role:
            set_role(self, role)
        self._fit()

    def setText(self, text: str) -> None:
        if text != self.text():
            super().setText(text)
            if self.sizeHint().width() > self.width():
                self._fit()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit()

    def _fit(self) -> None:
        room = self.fontMetrics().horizontalAdvance("00") if self.text() else 0
        self.setMinimumWidth(0)  # else it counts as wanted
        self.setFixedSize(self.sizeHint() + QSize(room, 0))


class Card(QFrame):
    """A framed area with an optional heading; put the contents into ``body``."""

    def __init__(self, title: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        set_role(self, "card")
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(16, 16, 16, 16)
        self.body.setSpacing(8)
        self.heading = label(title, "heading")
        self.body.addWidget(self.heading)
        self.heading.setVisible(bool(title))

    def set_title(self, title: str) -> None:
        self.heading.setText(title)
        self.heading.setVisible(bool(title))


_BREAKS = re.compile(r"[./\\_-]")
"""Where a name may be broken that is too long for a line."""


class ErrorCard(QFrame):
    """What happened, why, what to do, and the buttons to do it. Hidden until :meth:`show_error`."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        set_role(self, "error")
        self.error: QuenchError | None = None
        self._told = ""
        self._title = label("", "heading", wrap=True)
        self._hint = label("", "", wrap=True)
        self._detail = label("", "small", wrap=True)
        self._detail.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._detail.setMaximumHeight(96)
        self._detail.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.choice = QComboBox()
        self.choice.setAccessibleName(self.tr("Choices"))
        self.choice.hide()
        self._buttons = QGridLayout()
        self._buttons.setSpacing(8)
        self._pressed: list[QPushButton] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        for part in (self._title, self._hint, self._detail):
            layout.addWidget(part)
        layout.addWidget(self.choice, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addLayout(self._buttons)
        self.hide()

    def show_error(self, error: QuenchError | Failed, actions: list[Action] | None = None, choose: str = "") -> None:
        """Show ``error`` with a button for each action and one that copies the details; the first is the main one.
        ``choose``, if given, names the list of the error's choices, of which :attr:`choice` has one."""
        known = error.to_error() if isinstance(error, Failed) else error
        self.error = known
        self._title.setText(known.title)
        self._hint.setText(known.hint)
        self._hint.setVisible(bool(known.hint))
        first = known.detail.strip().splitlines()[:3]
        self._told = "\n".join(text[:300] for text in first)
        self._detail.setVisible(bool(first))
        self.choice.clear()
        self.choice.addItems(list(known.choices) if choose else [])
        if choose:
            self.choice.setAccessibleName(choose)
            self.choice.setToolTip(choose)
        self.choice.setVisible(self.choice.count() > 0)
        for old in self._pressed:
            self._buttons.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._pressed = [
            button(text, clicked, "primary" if position == 0 else "")
            for position, (text, clicked) in enumerate(actions or [])
        ]
        self._pressed.append(button(self.tr("Copy details"), self.copy_details, "quiet"))
        self.setAccessibleName(known.title)
        self._arrange()
        self.show()

    def _arrange(self) -> None:
        """The buttons side by side, in two columns or one under the other where they would be cut."""
        widths = [each.sizeHint().width() for each in self._pressed]
        room = self.width() - 32
        columns = len(widths) if sum(widths) + 8 * (len(widths) - 1) <= room else 2
        if columns == 2 and 2 * max(widths, default=0) + 8 > room:
            columns = 1
        for at, each in enumerate(self._pressed):
            self._buttons.addWidget(each, at // columns, at % columns)
        for column in range(max(len(widths) + 1, self._buttons.columnCount())):
            self._buttons.setColumnStretch(column, 1 if column == columns == len(widths) else 0)
        self._wrap_detail(room)
        # A layout that is short of room would draw wrapped lines and buttons over each other.
        self.setMinimumHeight(max(0, self.layout().heightForWidth(self.width())))

    def _wrap_detail(self, room: int) -> None:
        """Names that are wider than the card may be broken after their dots and dashes. Such a text cannot be selected:
        it would be copied with signs in it that nobody sees."""
        wide = self._detail.fontMetrics().horizontalAdvance
        shown = " ".join(
            _BREAKS.sub("\\g<0>\u200b", word) if wide(word) > room else word for word in self._told.split(" ")
        )
        if shown != self._detail.text():
            self._detail.setText(shown)
            usual, none = Qt.TextInteractionFlag.TextSelectableByMouse, Qt.TextInteractionFlag.NoTextInteraction
            self._detail.setTextInteractionFlags(usual if shown == self._told else none)

    def minimumSizeHint(self) -> QSize:
        return QSize(120, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def clear(self) -> None:
        """The trouble is over: hide."""
        self.error = None
        self.hide()

    def copy_details(self) -> None:
        """Put code, title, detail and hint on the clipboard."""
        if self.error is not None:
            QGuiApplication.clipboard().setText(details(self.error))


def details(error: QuenchError) -> str:
    """An error as text for a bug report."""
    parts = (f"[{error.code}] {error.title}", error.detail, error.hint)
    return "\n".join(part for part in parts if part)


class EmptyState(QWidget):
    """What stands where there is nothing yet: an icon, a sentence, and what to do about it."""

    def __init__(
        self,
        icon: str,
        title: str,
        text: str = "",
        actions: list[Action] | None = None,
        *,
        theme: Theme | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._icon_name = icon
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 24, 24, 24)
        layout.setSpacing(8)
        layout.addStretch(1)
        self._icon = QLabel()
        self._icon.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._icon.setVisible(theme is not None)
        layout.addWidget(self._icon)
        self.title = label(title, "heading", wrap=True)
        self.text = label(text, "muted", wrap=True)
        for part in (self.title, self.text):
            part.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            layout.addWidget(part)
        self.text.setVisible(bool(text))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addStretch(1)
        self.buttons = []
        for position, (caption, clicked) in enumerate(actions or []):
            made = button(caption, clicked, "primary" if position == 0 else "")
            self.buttons.append(made)
            row.addWidget(made)
        row.addStretch(1)
        if actions:
            layout.addSpacing(8)
            layout.addLayout(row)
        layout.addStretch(1)
        if theme is not None:
            theme.changed.connect(self._tint)
            self._tint()

    def set_text(self, title: str, text: str = "") -> None:
        self.title.setText(title)
        self.text.setText(text)
        self.text.setVisible(bool(text))

    def _tint(self) -> None:
        if self._theme is not None:
            self._icon.setPixmap(self._theme.pixmap(self._icon_name, "muted", 32))


class StatTile(QFrame):
    """One figure with its name and unit."""

    def __init__(self, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        set_role(self, "raised")
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 8, 12, 8)
        layout.setSpacing(0)
        self._label = label(text, "small")
        self._value = label(fmt.DASH, "figure")
        self._unit = label("", "small")
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self._value)
        row.addWidget(self._unit, 0, Qt.AlignmentFlag.AlignBottom)
        row.addStretch(1)
        layout.addWidget(self._label)
        layout.addLayout(row)

    def set_value(self, text: str, unit: str = "", role: str = "figure") -> None:
        """Show ``text``; an empty one is a dash."""
        self._value.setText(text or fmt.DASH)
        self._unit.setText(unit)
        self._value.setAccessibleName(f"{self._label.text()}: {text} {unit}".strip())

    def value(self) -> str:
        return self._value.text()


class TypeBadge(QWidget):
    """A type's name beside its colour."""

    def __init__(self, type_name: str, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._type = type_name
        theme.changed.connect(self.update)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setToolTip(type_words(type_name))
        self.setAccessibleName(type_name)

    def set_type(self, type_name: str) -> None:
        self._type = type_name
        self.setToolTip(type_words(type_name))
        self.setAccessibleName(type_name)
        self.updateGeometry()
        self.update()

    def type_name(self) -> str:
        return self._type

    def sizeHint(self) -> QSize:
        return badge_size(self._theme, self._type)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        paint_badge(painter, QRectF(self.rect()), self._type, self._theme)


def badge_size(theme: Theme, type_name: str) -> QSize:
    """How much room :func:`paint_badge` wants."""
    return QSize(QFontMetrics(theme.mono(12)).horizontalAdvance(type_name) + 12, 20)


def paint_badge(painter: QPainter, area: QRectF, type_name: str, theme: Theme, *, usable: bool = True) -> None:
    """Draw a type badge into ``area`` (delegates use it too): the type's colour, its name in the readable ink.

    One that is not ``usable`` now has the colour as its outline only, so that its name stays readable.
    """
    if not type_name:
        return
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    color = theme.type_color(type_name)
    painter.setPen(QPen(theme.color("border") if usable else color, 1))
    painter.setBrush(color if usable else Qt.BrushStyle.NoBrush)
    painter.drawRoundedRect(area.adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
    painter.setPen(readable_on(QColor(color)) if usable else QColor(theme.faded))
    painter.setFont(theme.mono(12))
    painter.drawText(area, Qt.AlignmentFlag.AlignCenter, type_name)
    painter.restore()


def type_words(type_name: str) -> str:
    """The tooltip for a type or recipe: plain words from the recipe table, or just the name."""
    from converter.recipes import RECIPES

    recipe = RECIPES.get(type_name)
    if recipe is None:
        return type_name
    return f"{type_name}: {recipe.title}. {recipe.sentence}"


class ModelPicker(QComboBox):
    """A choice among the library's usable models, with "Open file..." at the end. ``changed`` when the path changes."""

    changed = Signal()

    def __init__(self, context: Context, kinds: set[str] | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._kinds = kinds or {"gguf"}
        self._path: str | None = None
        self._stale = False
        self.setAccessibleName(self.tr("Model"))
        self.setMinimumWidth(160)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setMaxVisibleItems(16)
        self.activated.connect(self._picked)
        context.library.changed.connect(self._on_library)
        self._refill()

    def showEvent(self, event: QShowEvent) -> None:
        if self._stale:
            self._refill()
        super().showEvent(event)

    def path(self) -> str | None:
        """The chosen model's path, None if none is chosen."""
        return self._path

    def set_path(self, path: str | None) -> None:
        """Choose a model; one that the library does not know yet is shown by its file name."""
        before = self._path
        self._path = path or None
        self._refill()
        if self._path != before:
            self.changed.emit()

    def info(self) -> ModelInfo | None:
        """The library's entry for the choice."""
        return self._context.library.entry(self._path) if self._path else None

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QStylePainter(self)
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        text = self.currentText() or self.tr("Choose a model")
        option.currentText = QFontMetrics(self.font()).elidedText(text, Qt.TextElideMode.ElideMiddle, self.width() - 44)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def _on_library(self) -> None:
        """A library of thousands changes many times while it is read: what nobody sees can wait."""
        self._stale = not self.isVisible()
        if not self._stale:
            self._refill()

    def _refill(self) -> None:
        self._stale = False
        wanted = [(title_of(info), info.path) for info in self._context.library.usable(self._kinds)]
        if self._path and is_remote(self._path) and self._path not in {path for _, path in wanted}:
            wanted.insert(0, (" · ".join(reversed(split_path(self._path))), self._path))
        elif self._path and self._path not in {path for _, path in wanted}:
            name = library.file_title(self._path) if self._path.lower().endswith(".gguf") else Path(self._path).name
            wanted.insert(0, (name, self._path))
        have = [(self.itemText(i), self.itemData(i)) for i in range(self.count())]
        last = (self.tr("Open file…") if "hf" not in self._kinds else self.tr("Open a file or folder…"), "")
        if have != [*wanted, last]:
            self.clear()
            for text, path in wanted:
                self.addItem(text, path)
                self.setItemData(self.count() - 1, tip(path), Qt.ItemDataRole.ToolTipRole)
            self.addItem(*last)
        self.setCurrentIndex(self.findData(self._path) if self._path else -1)
        self.setToolTip(tip(self._path or ""))

    def _picked(self, index: int) -> None:
        path = self.itemData(index)
        if path:
            self.set_path(path)
            return
        self.setCurrentIndex(self.findData(self._path) if self._path else -1)
        chosen = self.ask()
        if chosen:
            self._context.library.add(chosen)
            self.set_path(chosen)

    def ask(self) -> str:
        """Let the person choose a file, or a folder where the kinds allow one."""
        if self._kinds == {"hf"}:
            return QFileDialog.getExistingDirectory(self, self.tr("Open a model folder"))
        chosen, _ = QFileDialog.getOpenFileName(
            self, self.tr("Open a model"), "", self.tr("Models (*.gguf *.safetensors config.json);;All files (*)")
        )
        if chosen and "hf" in self._kinds and not chosen.lower().endswith(".gguf"):
            return str(Path(chosen).parent)
        return chosen


def title_of(info: ModelInfo) -> str:
    """How a model is called in lists: ``Pocket · Q4_K_M``."""
    if info.kind == "server":
        return title_of_served(info)
    kind = library.type_label(info)
    return f"{library.base_name(info)} · {kind}" if kind else library.base_name(info)


class ProgressLine(QWidget):
    """A bar with what is being done, how fast, how long still, and a button to stop it (``cancelled``)."""

    cancelled = Signal()
    NARROW = 400
    """Below this width what is being done is worth more room than how fast."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._label = ElidedLabel()
        self._rate = label("", "number")
        self._left = label("", "muted")
        self._bar = QProgressBar()
        self._bar.setRange(0, 1000)
        self._bar.setTextVisible(False)
        self._bar.setAccessibleName(self.tr("Progress"))
        self.button = button(self.tr("Cancel"), self.cancelled.emit)
        top = QHBoxLayout()
        top.setSpacing(16)
        top.addWidget(self._label, 1)
        top.addWidget(self._rate)
        top.addWidget(self._left)
        column = QVBoxLayout()
        column.setSpacing(6)
        column.addLayout(top)
        column.addWidget(self._bar)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(16)
        layout.addLayout(column, 1)
        layout.addWidget(self.button)

    def set_progress(
        self, fraction: float | None, label_text: str = "", rate: str = "", seconds_left: float | None = None
    ) -> None:
        """``fraction`` 0..1, or None while it is not known how much there is."""
        if fraction is None:
            self._bar.setRange(0, 0)
        else:
            self._bar.setRange(0, 1000)
            self._bar.setValue(round(min(max(fraction, 0.0), 1.0) * 1000))
        self._label.setText(label_text)
        self._rate.setText(rate)
        left = "" if seconds_left is None else self.tr("{0} left").format(fmt.seconds(seconds_left))
        self._left.setText(left)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._rate.setVisible(self.width() >= self.NARROW)

    def set_cancellable(self, possible: bool) -> None:
        self.button.setVisible(possible)


def fit_height(window: QWidget) -> None:
    """Make a dialog as high as its contents need at its width: lines wrap, and Qt's own adjustSize does not ask how."""
    layout = window.layout()
    layout.activate()
    width = max(window.width(), window.minimumWidth())
    window.resize(
        width, layout.totalHeightForWidth(width) if layout.hasHeightForWidth() else layout.sizeHint().height()
    )


def drop_paths(event: QDragEnterEvent | QDropEvent) -> list[str]:
    """Local paths of a drag or drop; an empty list if it brings none."""
    mime: Any = event.mimeData()
    return [url.toLocalFile() for url in mime.urls() if url.isLocalFile()] if mime.hasUrls() else []
