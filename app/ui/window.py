"""The main window: rail, pages, status bar, job drawer, shortcuts. What pages show is theirs alone."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from PySide6.QtCore import QByteArray, QEasingCurve, QPoint, QPropertyAnimation, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QGuiApplication, QKeyEvent, QKeySequence, QResizeEvent, QShortcut, QShowEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QButtonGroup,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QMessageBox,
    QSplitter,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.ui.context import Context
from app.ui.download_queue import KIND as DOWNLOAD
from app.ui.help import HelpDialog
from app.ui.job_center import DONE, FAILED, Job
from app.ui.job_drawer import WIDTH as DRAWER_WIDTH
from app.ui.job_drawer import JobDrawer
from app.ui.notify import Notice
from app.ui.palette import Command, Palette
from app.ui.serve_dialog import ServeDialog
from app.ui.servers import KIND
from app.ui.status_bar import StatusBar
from app.ui.theme import set_role
from app.ui.toasts import ToastStack
from app.ui.widgets import ErrorCard, ModelPicker, title_of
from converter.spec import QuenchError


@dataclass(frozen=True)
class PageEntry:
    """One page, imported at the first visit. One that is ``under`` another has no line of its own on the rail."""

    key: str
    text: str
    icon: str
    module: str
    name: str
    under: str = ""


PAGES = (
    PageEntry("library", "Library", "library", "app.ui.library", "LibraryPage"),
    PageEntry("convert", "Convert", "convert", "app.ui.convert", "ConvertPage"),
    PageEntry("chat", "Chat", "chat", "app.ui.chat", "ChatPage"),
    PageEntry("compare", "Compare", "compare", "app.ui.compare", "ComparePage"),
    PageEntry("quality", "Quality", "quality", "app.ui.quality", "QualityPage"),
    PageEntry("bench", "Bench", "bench", "app.ui.bench", "BenchPage"),
    PageEntry("settings", "Settings", "settings", "app.ui.settings_page", "SettingsPage"),
)
KEYS = tuple(entry.key for entry in PAGES)
ENTRIES = {
    entry.key: entry
    for entry in (*PAGES, PageEntry("find", "Find models", "search", "app.ui.find", "FindPage", under="library"))
}
SIZE, SMALLEST = QSize(1280, 800), QSize(800, 480)
RAIL_WIDTH = 88
MOTION_MS = 120
_SHOWS = {"convert": ("convert",), "fit": ("convert",), "measure": ("quality", "bench")}
"""Pages that show how a job of a kind ended; on any other page the window posts a notice."""


class BrokenPage(QWidget):
    """Stands in for a page that could not be made (a missing part of the installation), with the reason."""

    def __init__(self, error: QuenchError, retry: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.card = ErrorCard()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 24, 24, 24)
        layout.addWidget(self.card)
        layout.addStretch(1)
        self.card.show_error(error, [(self.tr("Retry"), retry)])


class MainWindow(QMainWindow):
    """One per context. ``page_shown`` carries the key of the page that is in front now."""

    page_shown = Signal(str)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self._pages: dict[str, QWidget] = {}
        self._restored = False
        self.setWindowTitle("Quench")
        self.setMinimumSize(SMALLEST)
        self.resize(SIZE)
        self.stack = QStackedWidget()
        self.drawer = JobDrawer(context)
        self.drawer.closed.connect(lambda: self.show_drawer(False))
        self.status = StatusBar(context)
        self.status.jobs_clicked.connect(lambda: self.show_drawer(not self.drawer_is_open()))
        self.status.serve_clicked.connect(self.show_serving)
        self.status.model_clicked.connect(lambda: self.show_page("chat"))
        middle = QHBoxLayout()
        middle.setContentsMargins(0, 0, 0, 0)
        middle.setSpacing(0)
        middle.addWidget(self._make_rail())
        middle.addWidget(self.stack, 1)
        center = QWidget()
        layout = QVBoxLayout(center)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(middle, 1)
        layout.addWidget(self.status)
        self.setCentralWidget(center)
        # Over the page, so that nothing below is laid out anew when it slides in.
        self.drawer.setParent(center)
        self.drawer.hide()
        self._drawer_open = False
        self._motion = QPropertyAnimation(self.drawer, b"pos", self)
        self._motion.setDuration(MOTION_MS)
        self._motion.setEasingCurve(QEasingCurve.Type.OutCubic)
        self._motion.finished.connect(self._place_drawer)
        self.toasts = ToastStack(context.theme, center, self.status.sizeHint().height())
        self.commands_palette = Palette(context.theme, center)
        self._make_shortcuts()
        self._left = False
        context.closing.connect(self._leave)
        context.closed.connect(self._stop_timers)
        context.navigate.connect(self.navigate)
        context.notify.posted.connect(self.toasts.add)
        context.jobs.finished.connect(self._job_ended)
        self._restore_geometry()
        last = context.settings.last_page
        self.show_page(last if last in KEYS else KEYS[0])

    # ---- pages -------------------------------------------------------------------------------------------------

    def show_page(self, key: str) -> QWidget:
        """Bring a page to the front, making it at the first visit; returns it. ``KeyError`` for an unknown key."""
        page = self.page(key)
        self.stack.setCurrentWidget(page)
        self._status_last()
        self.toasts.keep_clear_of(getattr(page, "composer", None))
        self._rail[ENTRIES[key].under or key].setChecked(True)
        self.page_shown.emit(key)
        return page

    def _status_last(self) -> None:
        """The Tab key comes to the status bar after the page, although what is made later stands behind it at first."""
        last = self.previousInFocusChain()
        while last is not self and (not last.focusPolicy() or self.status.isAncestorOf(last)):
            last = last.previousInFocusChain()
        for part in (self.status.model, self.status.serve, self.status.jobs):
            QWidget.setTabOrder(last, part)
            last = part

    def page(self, key: str) -> QWidget:
        """The page, made if need be, without showing it."""
        if key not in self._pages:
            self._pages[key] = self._make_page(ENTRIES[key])
            self.stack.addWidget(self._pages[key])
            self._restore_splitters(key, self._pages[key])
            for field in self._pages[key].findChildren(QAbstractSpinBox):
                # A stylesheet's padding does not reach the text inside a spin box.
                field.lineEdit().setTextMargins(6, 0, 0, 0)
                field.lineEdit().setAccessibleName(field.accessibleName())
        return self._pages[key]

    def current_key(self) -> str:
        """The key of the page in front."""
        current = self.stack.currentWidget()
        return next(key for key, page in self._pages.items() if page is current)

    def navigate(self, key: str, request: dict[str, Any]) -> None:
        """Show a page and hand it a request."""
        page = self.show_page(key)
        receive = getattr(page, "receive", None)
        if receive is not None and request:
            receive(request)

    # ---- drawer, palette, help ---------------------------------------------------------------------------------

    def drawer_is_open(self) -> bool:
        return self._drawer_open

    def show_drawer(self, shown: bool) -> None:
        """Open or close the job drawer, at once with reduced motion."""
        if shown == self._drawer_open:
            return
        self._drawer_open = shown
        self._motion.stop()
        right = self.centralWidget().width()
        if self.context.settings.reduce_motion or not self.isVisible():
            self._place_drawer()
        else:
            self._place_drawer(visible=True)
            self._motion.setStartValue(QPoint(right if shown else right - DRAWER_WIDTH, 0))
            self._motion.setEndValue(QPoint(right - DRAWER_WIDTH if shown else right, 0))
            self._motion.start()
        self.toasts.set_right(DRAWER_WIDTH if shown else 0)
        if shown:
            self.drawer.setFocus()

    def show_palette(self) -> None:
        """Open the command palette."""
        self.commands_palette.open_with(self.commands())

    def show_help(self) -> HelpDialog:
        """Open the help of the page in front."""
        page = self.stack.currentWidget()
        text = page.help_text() if hasattr(page, "help_text") else ""
        dialog = HelpDialog(self.tr(ENTRIES[self.current_key()].text), text, self)
        dialog.show()
        return dialog

    def commands(self) -> list[Command]:
        """Everything that the palette offers now."""
        context = self.context
        found = [
            Command(self.tr("Go to {0}").format(self.tr(entry.text)), lambda key=entry.key: self.show_page(key),
                    entry.icon, f"Ctrl+{number}")
            for number, entry in enumerate(PAGES, 1)
        ]  # fmt: skip
        found += [
            Command(self.tr("Find models"), lambda: self.show_page("find"), "search", "Hugging Face, download"),
            Command(self.tr("New chat"), self.new_chat, "chat", "Ctrl+N"),
            Command(self.tr("Open a GGUF file…"), self.open_file, "file"),
            Command(self.tr("Open a model folder…"), self.open_folder, "folder"),
            Command(self.tr("Look for models again"), context.library.rescan, "retry"),
            Command(self.tr("Show or hide jobs"), lambda: self.show_drawer(not self.drawer_is_open()), "jobs"),
            Command(self.tr("Serve the loaded model…"), self.show_serving, "share", "API, OpenAI"),
            Command(self.tr("Light theme"), lambda: context.update_settings(theme="light"), "sun"),
            Command(self.tr("Dark theme"), lambda: context.update_settings(theme="dark"), "moon"),
            Command(self.tr("Theme of the system"), lambda: context.update_settings(theme="system"), "settings"),
            Command(self.tr("Help for this page"), self.show_help, "inspect", "F1"),
            Command(self.tr("Quit"), self.close, "close", "Ctrl+Q"),
        ]
        for info in context.library.usable({"gguf", KIND}):
            name, path = title_of(info), info.path
            found.append(
                Command(self.tr("Chat with {0}").format(name),
                        lambda path=path: self.navigate("chat", {"model": path}), "chat", path)
            )  # fmt: skip
        for info in context.library.usable():
            name, path = title_of(info), info.path
            found.append(
                Command(self.tr("Convert {0}").format(name),
                        lambda path=path: self.navigate("convert", {"source": path}), "convert", path)
            )  # fmt: skip
        return found

    def new_chat(self) -> None:
        """Open the Chat page with an empty conversation."""
        self.navigate("chat", {"new": True})

    def show_serving(self) -> ServeDialog:
        """The switch that offers the loaded model to other programs."""
        dialog = ServeDialog(self.context, self)
        dialog.open()
        return dialog

    def open_file(self) -> None:
        """Ask for a GGUF file and add it to the library."""
        path, _ = QFileDialog.getOpenFileName(self, self.tr("Open a model"), "", self.tr("GGUF models (*.gguf)"))
        if path:
            self.navigate("library", {"add": path})

    def open_folder(self) -> None:
        """Ask for a folder and add it to the library."""
        path = QFileDialog.getExistingDirectory(self, self.tr("Open a model folder"))
        if path:
            self.navigate("library", {"add": path})

    def focus_model_picker(self) -> None:
        """Put the focus into the model choice of the page in front; open the Chat page if it has none."""
        for page in (self.stack.currentWidget(), None):
            where = page if page is not None else self.show_page("chat")
            pickers = [
                picker for picker in where.findChildren(ModelPicker) if picker.isVisible() and picker.isEnabled()
            ]
            if pickers:
                pickers[0].setFocus(Qt.FocusReason.ShortcutFocusReason)
                return

    # ---- closing -----------------------------------------------------------------------------------------------

    def confirm_quit(self, count: int) -> bool:
        """Ask whether to quit with ``count`` jobs unfinished."""
        box = QMessageBox(self)
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle("Quench")
        one, many = self.tr("Quit while a job is not finished?"), self.tr("Quit while {0} jobs are not finished?")
        box.setText(one if count == 1 else many.format(count))
        box.setInformativeText(self.tr("They stop now. Next time you can go on where they were."))
        leave = box.addButton(self.tr("Quit"), QMessageBox.ButtonRole.AcceptRole)
        stay = box.addButton(self.tr("Keep working"), QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stay)
        box.exec()
        return box.clickedButton() is leave

    def closeEvent(self, event: QCloseEvent) -> None:
        active = len(self.context.jobs.active())
        if active and not self.confirm_quit(active):
            event.ignore()
            return
        self._leave()
        event.accept()

    def _leave(self) -> None:
        """Save what is to be saved, once: at the window's end or at the context's, whichever comes first."""
        if self._left:
            return
        self._left = True
        self.save_state()
        for page in self._pages.values():
            closing = getattr(page, "closing", None)
            if closing is not None:
                closing()

    def _stop_timers(self) -> None:
        """One that fires later would look into a closed store."""
        for timer in self.findChildren(QTimer):
            timer.stop()

    def save_state(self) -> None:
        """Remember geometry, page and splitters."""
        splitters = dict(self.context.settings.splitters)
        for key, page in self._pages.items():
            for name, splitter in _splitters(page):
                splitters[f"{key}/{name}"] = _text(splitter.saveState())
        self.context.update_settings(
            geometry=_text(self.saveGeometry()), last_page=self.current_key(), splitters=splitters
        )

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape:
            self.escape()
            return
        super().keyPressEvent(event)

    def escape(self) -> None:
        """Esc: the page in front may stop what it does (``escape() -> bool``); else notices and the drawer close."""
        page_escape = getattr(self.stack.currentWidget(), "escape", None)
        if page_escape is not None and page_escape():
            return
        if self.toasts.toasts():
            self.toasts.toasts()[-1].leave()
        elif self.drawer_is_open():
            self.show_drawer(False)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_drawer()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self._restored:
            self._restored = True
            self.stack.currentWidget().setFocus()  # not on the rail: a ring there looks like a choice
            QTimer.singleShot(0, self, self._offer_unfinished)

    # ---- parts -------------------------------------------------------------------------------------------------

    def _place_drawer(self, *, visible: bool | None = None) -> None:
        """Where the drawer rests: along the right side, down to the status bar."""
        center = self.centralWidget()
        if center is None or self._motion.state() == QPropertyAnimation.State.Running:
            return
        height = center.height() - self.status.height()
        self.drawer.setGeometry(center.width() - DRAWER_WIDTH, 0, DRAWER_WIDTH, height)
        self.drawer.setVisible(self._drawer_open if visible is None else visible)
        self.drawer.raise_()
        self.toasts.raise_()

    def _make_rail(self) -> QFrame:
        rail = QFrame()
        set_role(rail, "rail")
        rail.setFixedWidth(RAIL_WIDTH)
        rail.setAccessibleName(self.tr("Pages"))
        layout = QVBoxLayout(rail)
        layout.setContentsMargins(8, 12, 8, 8)
        layout.setSpacing(4)
        logo = QLabel()
        logo.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        logo.setPixmap(self.context.theme.pixmap("quench", "text", 32))
        logo.setAccessibleName("Quench")
        layout.addWidget(logo)
        layout.addSpacing(8)
        self._rail: dict[str, QToolButton] = {}
        group = QButtonGroup(self)
        for number, entry in enumerate(PAGES, 1):
            made = QToolButton()
            set_role(made, "rail")
            made.setCheckable(True)
            made.setText(self.tr(entry.text))
            made.setAccessibleName(self.tr(entry.text))
            made.setToolTip(f"{self.tr(entry.text)} (Ctrl+{number})")
            made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextUnderIcon)
            made.setFixedSize(RAIL_WIDTH - 17, 56)
            made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            self.context.theme.set_icon(made, entry.icon)
            made.clicked.connect(lambda checked=False, key=entry.key: self.show_page(key))
            group.addButton(made)
            if entry.key == "settings":
                layout.addStretch(1)
            layout.addWidget(made)
            self._rail[entry.key] = made
        return rail

    def _make_shortcuts(self) -> None:
        table: list[tuple[str, Callable[[], object]]] = [
            (f"Ctrl+{number}", partial(self.show_page, entry.key)) for number, entry in enumerate(PAGES, 1)
        ]
        table += [
            ("Ctrl+K", self.show_palette),
            ("Ctrl+N", self.new_chat),
            ("Ctrl+L", self.focus_model_picker),
            ("Ctrl+O", self.open_file),
            ("F1", self.show_help),
            ("Ctrl+Q", self.close),
        ]
        for keys, run in table:
            QShortcut(QKeySequence(keys), self, activated=run)

    def _make_page(self, entry: PageEntry) -> QWidget:
        try:
            page: QWidget = getattr(importlib.import_module(entry.module), entry.name)(self.context)
        except ImportError as error:
            trouble = QuenchError(
                "page_missing",
                self.tr("The page {0} cannot be opened.").format(self.tr(entry.text)),
                str(error),
                self.tr("A part of the installation is missing. Install Quench again."),
                exit_status=5,
            )
            return BrokenPage(trouble, lambda: self._remake(entry.key))
        return page

    def _remake(self, key: str) -> None:
        page = self._pages.pop(key)
        self.stack.removeWidget(page)
        page.deleteLater()
        self.show_page(key)

    def _job_ended(self, job: Job) -> None:
        if job.kind == DOWNLOAD:
            notice = self.context.downloads.notice(job)
            if notice is not None and not self.drawer_is_open():
                self.context.notify.posted.emit(notice)
            return
        shown_on = tuple(job.owner.split()) or _SHOWS.get(job.kind, ())
        if self.drawer_is_open() or self.current_key() in shown_on or not shown_on:
            return
        show = (self.tr("Show"), lambda: self.show_page(shown_on[0]))
        if job.state == FAILED and job.error is not None:
            again = self.tr("Retry") if job.kept is None else self.tr("Resume")
            self.context.notify.posted.emit(
                Notice("bad", f"{job.title}: {job.error.title}", job.error, ((again, job.retry), show))
            )
        elif job.state == DONE:
            self.context.notify.good(self.tr("Done: {0}").format(job.title), [show])

    def _offer_unfinished(self) -> None:
        count = len(self.context.jobs.unfinished())
        if count:
            one, many = self.tr("A job was not finished last time."), self.tr("{0} jobs were not finished last time.")
            text = one if count == 1 else many.format(count)
            self.context.notify.info(text, [(self.tr("Show"), lambda: self.show_drawer(True))])

    def _restore_geometry(self) -> None:
        saved = self.context.settings.geometry
        if saved and self.restoreGeometry(_bytes(saved)):
            return
        screen = QGuiApplication.primaryScreen()
        if screen is not None:
            self.resize(SIZE.boundedTo(screen.availableSize()))

    def _restore_splitters(self, key: str, page: QWidget) -> None:
        for name, splitter in _splitters(page):
            saved = self.context.settings.splitters.get(f"{key}/{name}")
            if saved:
                splitter.restoreState(_bytes(saved))


def _splitters(page: QWidget) -> list[tuple[str, QSplitter]]:
    found = page.findChildren(QSplitter)
    return [(splitter.objectName() or str(number), splitter) for number, splitter in enumerate(found)]


def _text(data: QByteArray) -> str:
    return base64.b64encode(data.data()).decode("ascii")


def _bytes(text: str) -> QByteArray:
    try:
        return QByteArray(base64.b64decode(text, validate=True))
    except ValueError:  # a settings file edited by hand
        return QByteArray()
