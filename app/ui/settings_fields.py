"""Fields of the Settings page: rows of name, field and hint; numbers that the wheel does not change by accident."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QDoubleSpinBox, QGridLayout, QSpinBox, QWidget

from app.ui.widgets import Card, label

FIELD_WIDTH = 200


def form(card: Card) -> QGridLayout:
    """A grid of rows inside a card; see :func:`add_row`."""
    grid = QGridLayout()
    grid.setHorizontalSpacing(16)
    grid.setVerticalSpacing(8)
    grid.setColumnMinimumWidth(0, 168)
    grid.setColumnStretch(2, 1)
    card.body.addLayout(grid)
    return grid


def add_row(grid: QGridLayout, text: str, field: QWidget, tip: str = "", wide: int = 0) -> None:
    """A row: the field's name, which becomes its accessible one, the field, and a hint beside it.

    ``wide`` is the width of a field that reaches into the hints' column.
    """
    row = grid.rowCount()
    if not isinstance(field, QCheckBox) and text:
        field.setFixedWidth(wide or FIELD_WIDTH)
    if text:
        name = label(text, wrap=True)
        name.setBuddy(field)
        grid.addWidget(name, row, 0)
        field.setAccessibleName(text)
    grid.addWidget(field, row, 1, 1, 2 if wide else 1)
    if tip:
        grid.addWidget(label(tip, "small", wrap=True), row, 2)


class _Whole(QSpinBox):
    """Changed by the wheel only when it has the focus: scrolling the page must not change settings."""

    def wheelEvent(self, event: Any) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class _Decimal(QDoubleSpinBox):
    """As :class:`_Whole`, with decimals."""

    def wheelEvent(self, event: Any) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


def whole(low: int, high: int, step: int = 1) -> QSpinBox:
    """A whole number."""
    field = _Whole()
    field.setRange(low, high)
    field.setSingleStep(step)
    field.setGroupSeparatorShown(True)
    field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return field


def decimal(low: float, high: float, step: float, digits: int = 2) -> QDoubleSpinBox:
    """A number with decimals."""
    field = _Decimal()
    field.setDecimals(digits)
    field.setRange(low, high)
    field.setSingleStep(step)
    field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return field
