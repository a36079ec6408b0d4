"""How a fit came out, in words and bars: by kind of text, beside the standard recipe of the same size."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QCoreApplication, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QGridLayout, QSizePolicy, QWidget

from app.fit_messages import STEPS, FitDomain, FitPlanned, FitProgress
from app.ui import format as fmt
from app.ui.widgets import label

_FULL = 1.25
"""The ratio at the right end of a bar."""


def step_names() -> dict[str, str]:
    """What the steps of a fit are called."""
    names = (
        _tr("Reference file"),
        _tr("Importance matrix"),
        _tr("Probing every tensor"),
        _tr("Judging"),
        _tr("Writing"),
    )
    return dict(zip(STEPS, names, strict=True))


def progress_words(progress: FitProgress) -> str:
    """The step and what it does now, in a line."""
    name = step_names().get(progress.step, "")
    return name if progress.label in ("", name) else f"{name} · {progress.label}"


def _tr(text: str) -> str:
    return QCoreApplication.translate("fit", text)


class RatioBar(QWidget):
    """A bar from nothing to a ratio, with a line where it would be 1: as the standard recipe."""

    def __init__(self, theme: Any, ratio: float) -> None:
        super().__init__()
        self._theme = theme
        self._ratio = ratio
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(72, 16)

    def minimumSizeHint(self) -> QSize:
        return QSize(16, 16)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        tokens, high = self._theme.tokens, self.height()
        one = self.width() / _FULL
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(tokens.raised))
        painter.drawRoundedRect(QRectF(0, 3, one, high - 6), 3, 3)
        painter.setBrush(QColor(tokens.accent if self._ratio <= 1 else tokens.warn))
        painter.drawRoundedRect(QRectF(0, 3, max(3.0, one * min(self._ratio, _FULL)), high - 6), 3, 3)
        painter.setPen(QPen(QColor(tokens.muted), 1))
        painter.drawLine(round(one), 0, round(one), high)
        painter.end()


class DomainTable(QWidget):
    """One row a kind of text: the divergence of the fitted types, of the standard recipe, and their ratio."""

    def __init__(self, theme: Any, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(9)
        self._grid.setVerticalSpacing(2)
        self._grid.setColumnStretch(1, 1)
        self.setAccessibleName(self.tr("Divergence by kind of text"))

    def show_domains(self, domains: tuple[FitDomain, ...], standard: str) -> None:
        """Fill it anew; divergences in nats."""
        while self._grid.count():
            item = self._grid.takeAt(0)
            item.widget().hide()
            item.widget().deleteLater()
        heads = (self.tr("Text"), "", self.tr("fitted"), standard, self.tr("ratio"))
        for column, text in enumerate(heads):
            self._put(label(text, "small"), 0, column, right=column > 1)
        for row, domain in enumerate(domains, 1):
            ratio = ratio_of(domain)
            self._put(label(domain.name), row, 0)
            bar = RatioBar(self._theme, ratio)
            bar.setToolTip(self.tr("The line is where it would be as {0}.").format(standard))
            self._grid.addWidget(bar, row, 1)
            for column, value in ((2, domain.fitted), (3, domain.standard)):
                figure = label(fmt.significant(value, 3), "number")
                figure.setToolTip(self.tr("Mean KL divergence from the model in 16 bits, in nats"))
                self._put(figure, row, column, right=True)
            self._put(label(fmt.number(ratio, 2), "number"), row, 4, right=True)
        self.updateGeometry()

    def texts(self) -> list[str]:
        """What stands in it, row by row, the head first."""
        places = ((row, column) for row in range(self._grid.rowCount()) for column in range(5))
        items = [self._grid.itemAtPosition(row, column) for row, column in places]
        return [item.widget().text() for item in items if item is not None and hasattr(item.widget(), "text")]

    def _put(self, part: Any, row: int, column: int, *, right: bool = False) -> None:
        side = Qt.AlignmentFlag.AlignRight if right else Qt.AlignmentFlag.AlignLeft
        self._grid.addWidget(part, row, column, side | Qt.AlignmentFlag.AlignVCenter)


def ratio_of(domain: FitDomain) -> float:
    """Fitted / standard; 1 where neither diverges."""
    return domain.fitted / domain.standard if domain.standard > 0 else 1.0


def sentence(plan: FitPlanned, standard: str, tr: Any) -> str:
    """How much was gained, in a sentence; no claim where nothing was measured."""
    if not plan.measured:
        words = (
            tr("Not measured: {0} with types exchanged by rule of thumb, {1}")
            if plan.kept
            else tr("Not measured: the types of {0}, {1}")
        )
        return str(words.format(standard, _size_words(plan, tr)))
    if not plan.kept:
        words = tr("{0} was as good on texts that no step saw, and was kept.").format(standard)
        return str(words)
    change = abs(1 - plan.ratio)
    if plan.ratio > 1:
        words = tr("{0} more divergence than {1}, {2}, on texts that no step saw")
    else:
        words = tr("{0} less divergence than {1}, {2}, on texts that no step saw")
    return str(words.format(fmt.percent(change, 0), standard, _size_words(plan, tr)))


def how_words(plan: FitPlanned, tr: Any) -> list[str]:
    """What else there is to say of how it was made."""
    words = []
    fed = sum(tensor.fed for tensor in plan.tensors)
    alone = tr("the types alone: {0} of the divergence").format(fmt.percent(plan.types_ratio, 0))
    if fed:
        words.append(tr("{0} of {1} tensors with error feedback").format(fed, len(plan.tensors)))
    if plan.refined:
        words.append(tr("refined blocks"))
    if plan.kept and (fed or plan.refined):
        words.append(alone)
    if plan.shared:
        words.append(tr("layers share types for want of time: more minutes choose each by itself"))
    return words


def _size_words(plan: FitPlanned, tr: Any) -> str:
    part = plan.bytes / plan.standard_bytes - 1 if plan.standard_bytes else 0.0
    if abs(part) < 0.005:
        return str(tr("at the same size"))
    words = tr("in {0} more bytes") if part > 0 else tr("in {0} fewer bytes")
    return str(words.format(fmt.percent(abs(part), 0 if abs(part) >= 0.015 else 1)))


__all__ = ["DomainTable", "RatioBar", "how_words", "progress_words", "ratio_of", "sentence", "step_names"]
