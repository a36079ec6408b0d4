"""Earlier results of the models on the page: what may be compared stands together, newest first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QDateTime, QLocale, Qt
from PySide6.QtWidgets import QHeaderView, QStackedWidget, QTreeWidget, QTreeWidgetItem, QVBoxLayout, QWidget

from app import history
from app.history import Change, Past, Series
from app.measure_messages import CandidateQuality, Estimate
from app.ui import format as fmt
from app.ui.widgets import label

if TYPE_CHECKING:
    from app.ui.context import Context

MEASURED, KLD, CHANGE, TOP1, TOKENS, VERSIONS = range(6)
ROOM = {TOKENS: 720, TOP1: 600, VERSIONS: 520}
"""Pixels of width below which a column is left to the tooltip."""


class QualityHistory(QWidget):
    """One row a result under a heading that says what it belongs to: another text, reference or machine is another
    heading, never another row."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self.series: list[Series] = []
        self.tree = QTreeWidget()
        self.tree.setAccessibleName(self.tr("Earlier results"))
        self.tree.setUniformRowHeights(True)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.tree.setRootIsDecorated(False)
        self.tree.setItemsExpandable(False)
        self.tree.setIndentation(12)
        self.tree.setHeaderLabels(
            [
                self.tr("Measured"),
                self.tr("KLD mean ±"),
                self.tr("Change"),
                self.tr("Top-1"),
                self.tr("Tokens"),
                self.tr("Quench / engine"),
            ]
        )
        header = self.tree.header()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        self.tree.headerItem().setToolTip(
            CHANGE,
            self.tr("Against the result before it, window by window. What chance explains cannot be told apart."),
        )
        self.nothing = label(self.tr("The first result of these files is still to come"), "muted")
        self.nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.nothing)
        self.pages.addWidget(self.tree)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 0)
        layout.addWidget(self.pages)
        self._shown: tuple[dict[str, str], list[CandidateQuality]] = ({}, [])
        context.theme.changed.connect(self._repaint)

    def set_results(self, named: dict[str, str], candidates: list[CandidateQuality]) -> None:
        """Look up what the store has of these. ``named`` has a short name for each candidate's key."""
        self._shown = named, candidates
        paths = {item.path for item in candidates}
        contents = {item.content for item in candidates if item.content}
        self.series = history.of_models(self._context.store, paths, contents) if candidates else []
        by_label = {(item.path, item.kv): named[item.key] for item in candidates}
        self.tree.clear()
        for series in self.series:
            name = by_label.get((series.path, series.kv), series.label)
            self.tree.addTopLevelItem(self._heading(name, series))
        for row in range(self.tree.topLevelItemCount()):
            self.tree.setFirstColumnSpanned(row, self.tree.rootIndex(), True)
        self.tree.expandAll()
        self.pages.setCurrentWidget(self.tree if self.series else self.nothing)

    def is_empty(self) -> bool:
        """Whether there is nothing to look at yet."""
        return not self.series

    def _heading(self, name: str, series: Series) -> QTreeWidgetItem:
        texts = history.texts_in_words(series)
        if not series.by_content:
            texts = self.tr("%1 (the same by name)").replace("%1", texts)
        words = self.tr("{0} · {1} · {2} · {3} tokens · against {4}").format(
            name, series.machine, texts, fmt.number(series.context), Path(series.reference).stem
        )
        item = QTreeWidgetItem([words])
        item.setToolTip(0, "\n".join((series.path, series.reference, ", ".join(series.texts), series.machine)))
        item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
        font = self.font()
        font.setBold(True)
        item.setFont(0, font)
        for place, past in enumerate(series.results):
            item.addChild(self._row(past, series.changes[place] if place < len(series.changes) else None))
        return item

    def _row(self, past: Past, change: Change | None) -> QTreeWidgetItem:
        when = QDateTime.fromSecsSinceEpoch(int(past.when))
        item = QTreeWidgetItem(
            [
                QLocale().toString(when.date(), QLocale.FormatType.ShortFormat),
                fmt.estimate(past.kld, 1) if past.kld.error > 0 else fmt.significant(past.kld.value, 3),
                self._change(change),
                fmt.percent(past.top1.value),
                fmt.number(past.tokens),
                f"{past.program or fmt.DASH} / {past.engine or fmt.DASH}",
            ]
        )
        titles = [self.tree.headerItem().text(column) for column in range(self.tree.columnCount())]
        facts = [f"{title}: {item.text(column)}" for column, title in enumerate(titles) if column != MEASURED]
        tip = "\n".join([QLocale().toString(when, QLocale.FormatType.ShortFormat), *facts])
        for column in range(self.tree.columnCount()):
            item.setToolTip(column, tip)
            if column in (KLD, TOP1, TOKENS):
                item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if change is not None and change.apart:
            worse = change.difference.value > 0
            item.setForeground(CHANGE, self._context.theme.color("bad" if worse else "good"))
        return item

    def _change(self, change: Change | None) -> str:
        if change is None:
            return fmt.DASH
        if not change.apart:
            return self.tr("not told apart")
        size = Estimate(abs(change.difference.value), change.difference.error)
        words = fmt.estimate(size, 1) if size.error > 0 else fmt.significant(size.value, 2)
        return self.tr("▲ {0}").format(words) if change.difference.value > 0 else self.tr("▼ {0}").format(words)

    def _repaint(self) -> None:
        """Colours of another theme."""
        if self.series:
            self.set_results(*self._shown)

    def resizeEvent(self, event: object) -> None:
        super().resizeEvent(event)
        for column, width in ROOM.items():
            self.tree.setColumnHidden(column, self.width() < width)
