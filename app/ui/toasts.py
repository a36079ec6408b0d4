"""Notices over the lower right corner of the window."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QPoint, Qt, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app.ui.notify import Notice
from app.ui.theme import Theme, set_role
from app.ui.widgets import button, details, icon_button, label

WIDTH, SHOWN, STAYS_MS = 360, 3, 6000
_MOVED = (QEvent.Type.Resize, QEvent.Type.Move, QEvent.Type.Show, QEvent.Type.Hide)


class Toast(QFrame):
    """One notice. Good news leaves by itself, bad news stays until it is closed or acted on."""

    def __init__(self, theme: Theme, notice: Notice, parent: QWidget) -> None:
        super().__init__(parent)
        set_role(self, "error" if notice.kind == "bad" else "toast")
        self.notice = notice
        self.setFixedWidth(WIDTH)
        self._theme = theme
        self._picture = QLabel()
        self._picture.setAlignment(Qt.AlignmentFlag.AlignTop)
        theme.changed.connect(self._tint)
        self._tint()
        text = QVBoxLayout()
        text.setSpacing(4)
        text.addWidget(label(notice.text, wrap=True))
        if notice.error is not None and notice.error.hint:
            text.addWidget(label(notice.error.hint, "small", wrap=True))
        row = QHBoxLayout()
        row.setSpacing(8)
        for caption, run in notice.actions:
            made = button(caption)
            made.clicked.connect(self.leave)
            made.clicked.connect(lambda checked=False, run=run: run())
            row.addWidget(made)
        if notice.error is not None:
            row.addWidget(button(self.tr("Copy details"), self._copy, "quiet"))
        row.addStretch(1)
        if row.count() > 1:
            text.addLayout(row)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(12, 8, 8, 8)
        layout.setSpacing(8)
        layout.addWidget(self._picture)
        layout.addLayout(text, 1)
        layout.addWidget(
            icon_button(theme, "close", self.tr("Close the notice"), self.leave), 0, Qt.AlignmentFlag.AlignTop
        )
        self.setAccessibleName(notice.text)
        if notice.kind != "bad":
            QTimer.singleShot(STAYS_MS, self, self.leave)

    def leave(self) -> None:
        """Go away."""
        self.hide()
        self.deleteLater()
        stack = self.parent()
        if isinstance(stack, ToastStack):
            stack.arrange()

    def _tint(self) -> None:
        name, role = {"bad": ("error", "bad"), "good": ("check", "good")}.get(self.notice.kind, ("info", "muted"))
        self._picture.setPixmap(self._theme.pixmap(name, role))

    def _copy(self) -> None:
        if self.notice.error is not None:
            QGuiApplication.clipboard().setText(details(self.notice.error))


class ToastStack(QWidget):
    """Holds the notices over ``parent`` and keeps to its corner; takes no room when it is empty."""

    def __init__(self, theme: Theme, parent: QWidget, bottom: int) -> None:
        super().__init__(parent)
        self._theme = theme
        self._bottom = bottom
        self._right = 0
        self._clear: QWidget | None = None
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(8)
        parent.installEventFilter(self)
        self.hide()

    def add(self, notice: Notice) -> None:
        """Show a notice; the oldest leaves when there are too many. The same text is not shown twice at a time."""
        toasts = self.toasts()
        if any(toast.notice.text == notice.text and toast.notice.kind == notice.kind for toast in toasts):
            return
        if len(toasts) >= SHOWN:
            toasts[0].leave()
        toast = Toast(self._theme, notice, self)
        self._layout.addWidget(toast)
        toast.show()  # a layout shows what it is given only in the next turn of the event loop
        self.arrange()

    def toasts(self) -> list[Toast]:
        """The notices that are up, oldest first."""
        found = [self._layout.itemAt(n).widget() for n in range(self._layout.count())]
        return [toast for toast in found if isinstance(toast, Toast) and not toast.isHidden()]

    def set_right(self, width: int) -> None:
        """Keep ``width`` pixels on the right free (the drawer)."""
        self._right = width
        self.arrange()

    def keep_clear_of(self, widget: QWidget | None) -> None:
        """Stay above ``widget`` wherever it would be covered: what a person writes in and sends with."""
        if self._clear is not None:
            self._clear.removeEventFilter(self)
        self._clear = widget
        if widget is not None:
            widget.installEventFilter(self)
        self.arrange()

    def arrange(self) -> None:
        """Take the place that the notices need."""
        if not self.toasts():
            self.hide()
            return
        self.show()
        self._layout.activate()
        height = (
            self._layout.totalHeightForWidth(WIDTH) if self._layout.hasHeightForWidth() else self.sizeHint().height()
        )
        parent = self.parentWidget()
        left = parent.width() - self._right - WIDTH - 16
        bottom = self._lowest(left)
        height = min(height, bottom - 16)
        self.setGeometry(left, bottom - height - 8, WIDTH, height)
        self.raise_()

    def _lowest(self, left: int) -> int:
        """Where the notices must end when they begin at ``left``."""
        parent = self.parentWidget()
        bottom = parent.height() - self._bottom
        if self._clear is None or not self._clear.isVisible():
            return bottom
        corner = self._clear.mapTo(parent, QPoint(0, 0))
        covered = corner.x() < left + WIDTH and corner.x() + self._clear.width() > left
        return min(bottom, corner.y()) if covered else bottom

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() in _MOVED and not self.isHidden():
            self.arrange()
        return False
