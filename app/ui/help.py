"""The help of a page (F1): its own words, the shortcuts and the glossary."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QDialog, QHBoxLayout, QTextBrowser, QVBoxLayout, QWidget

from app.ui.glossary import GLOSSARY
from app.ui.widgets import button, label

SHORTCUTS = (
    ("Ctrl+1 … Ctrl+7", "Go to a page"),
    ("Ctrl+K", "Every action, page and model by name"),
    ("Ctrl+N", "New chat"),
    ("Ctrl+L", "Choose a model"),
    ("Ctrl+O", "Open a GGUF file"),
    ("Esc", "Stop a reply; close a notice or the jobs drawer"),
    ("F1", "This help"),
    ("Ctrl+Q", "Quit"),
)


def markdown(text: str) -> str:
    """The whole help as Markdown: the page's own text, shortcuts, glossary."""

    def tr(source: str) -> str:
        return QCoreApplication.translate("help", source)

    parts = [text.strip(), f"### {tr('Keys')}"]
    parts += [f"- **{keys}** {tr(words)}" for keys, words in SHORTCUTS]
    parts.append(f"\n### {tr('Words')}")
    parts += [f"- **{term}** {meaning}" for term, meaning in GLOSSARY.items()]
    return "\n\n".join(parts[:2]) + "\n\n" + "\n".join(parts[2:])


class HelpDialog(QDialog):
    """A window of its own beside the page; the page stays usable."""

    def __init__(self, title: str, text: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(self.tr("Help: {0}").format(title))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(560, 600)
        self.browser = QTextBrowser()
        self.browser.setAccessibleName(self.windowTitle())
        self.browser.setOpenLinks(False)
        self.browser.setMarkdown(markdown(text))
        self.browser.document().setDocumentMargin(12)
        self._air()
        close = button(self.tr("Close"), self.close)
        row = QHBoxLayout()
        row.addStretch(1)
        row.addWidget(close)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 16, 16, 16)
        layout.setSpacing(8)
        layout.addWidget(label(title, "title"))
        layout.addWidget(self.browser, 1)
        layout.addLayout(row)

    def _air(self) -> None:
        """Room above paragraphs and headings: Markdown documents come without any."""
        cursor = QTextCursor(self.browser.document())
        while True:
            form = cursor.blockFormat()
            form.setTopMargin(16 if form.headingLevel() else 4)
            cursor.setBlockFormat(form)
            if not cursor.movePosition(QTextCursor.MoveOperation.NextBlock):
                return
