"""The application's one stylesheet, made from colour tokens. Everything that QPalette cannot say stands here.

Borders grow from one to two pixels on focus and the padding shrinks by as much, so that nothing moves.
"""

from __future__ import annotations

from string import Template

import resources

_TEMPLATE = Template(
    """
QMainWindow, QDialog { background: $background; }
QWidget { color: $text; }
QLabel { background: transparent; }
QLabel[role="title"] { font-size: 20px; font-weight: 600; }
QLabel[role="display"] { font-size: 28px; font-weight: 600; }
QLabel[role="heading"] { font-size: 15px; font-weight: 600; }
QLabel[role="muted"] { color: $muted; }
QLabel[role="small"] { color: $muted; font-size: 12px; }
QLabel[role="number"] { font-family: "$mono"; }
QLabel[role="figure"] { font-family: "$mono"; font-size: 20px; }
QLabel[role="good"] { color: $good; }
QLabel[role="warn"] { color: $warn; }
QLabel[role="bad"] { color: $bad; }
QLabel:disabled { color: $faded; }

QFrame[role="card"] { background: $surface; border: 1px solid $border; border-radius: 6px; }
QFrame[role="raised"] { background: $raised; border: none; border-radius: 6px; }
QFrame[role="error"] { background: $surface; border: 1px solid $bad; border-radius: 6px; }
QFrame[role="toast"] { background: $raised; border: 1px solid $border; border-radius: 6px; }
QFrame[role="drawer"] { background: $surface; border: none; border-left: 1px solid $border; }
QFrame[role="rail"] { background: $surface; border: none; border-right: 1px solid $border; }
QFrame[role="status"] { background: $surface; border: none; border-top: 1px solid $border; }
QFrame[role="line"] { background: $border; border: none; max-height: 1px; min-height: 1px; }
QFrame[role="popover"] { background: $surface; border: 1px solid $border; border-radius: 6px; }
QFrame[role="drop"] { background: $accent_soft; border: 2px dashed $accent; border-radius: 6px; }

QPushButton {
    background: $surface; border: 1px solid $border; border-radius: 6px;
    padding: 6px 12px; min-height: 18px; }
QPushButton:hover { background: $raised; }
QPushButton:pressed { background: $border; }
QPushButton:focus { border: 2px solid $accent; padding: 5px 11px; }
QPushButton:disabled { color: $faded; background: $background; }
QPushButton:checked { background: $accent_soft; border-color: $accent; }
QPushButton[role="primary"] { background: $accent; color: $on_accent; border: 1px solid $accent; font-weight: 600; }
QPushButton[role="primary"]:hover { background: $accent_hover; border-color: $accent_hover; }
QPushButton[role="primary"]:pressed { background: $accent; }
QPushButton[role="primary"]:focus { border: 2px solid $text; padding: 5px 11px; }
QPushButton[role="primary"]:disabled { background: $raised; color: $faded; border: 1px solid $border; }
QPushButton[role="danger"] { color: $bad; border: 1px solid $border; }
QPushButton[role="danger"]:hover { border-color: $bad; }
QPushButton[role="danger"]:focus { border: 2px solid $bad; padding: 5px 11px; }
QPushButton[role="danger"]:disabled { color: $faded; }
QPushButton[role="quiet"] { background: transparent; border: 1px solid transparent; }
QPushButton[role="quiet"]:hover { background: $raised; }
QPushButton[role="quiet"]:focus { border: 2px solid $accent; padding: 5px 11px; }
QPushButton[role="quiet"]:checked { background: $accent_soft; }
QPushButton[role="link"] { background: transparent; border: none; color: $accent; padding: 2px; text-align: left; }
QPushButton[role="link"]:hover { text-decoration: underline; }
QPushButton[role="link"]:focus { border: 1px solid $accent; padding: 1px; }

QToolButton { background: transparent; border: 1px solid transparent; border-radius: 6px; padding: 4px; }
QToolButton:hover { background: $raised; }
QToolButton:pressed, QToolButton:checked { background: $accent_soft; }
QToolButton:focus { border: 2px solid $accent; padding: 3px; }
QToolButton:disabled { color: $faded; }
QToolButton::menu-indicator { image: none; }
QToolButton[role="rail"] {
    font-size: 12px; color: $muted; border: 1px solid transparent;
    border-radius: 6px; padding: 6px 2px; }
QToolButton[role="rail"]:hover { background: $raised; color: $text; }
QToolButton[role="rail"]:checked { background: $accent_soft; color: $text; }
QToolButton[role="rail"]:focus { border: 2px solid $accent; padding: 5px 1px; }
QToolButton[role="status"] { font-size: 12px; color: $text; padding: 2px 8px; border-radius: 4px; }
QToolButton[role="status"]:focus { padding: 1px 7px; }

QLineEdit, QPlainTextEdit, QTextEdit, QTextBrowser, QSpinBox, QDoubleSpinBox, QComboBox {
    background: $surface; border: 1px solid $field; border-radius: 6px;
    selection-background-color: $accent; selection-color: $on_accent; }
QLineEdit { padding: 6px 8px; min-height: 18px; }
QSpinBox, QDoubleSpinBox { padding: 5px 8px; min-height: 20px; }
QComboBox { padding: 6px 8px; min-height: 18px; }
QPlainTextEdit, QTextEdit { padding: 4px; }
QLineEdit:focus { border: 2px solid $accent; padding: 5px 7px; }
QSpinBox:focus, QDoubleSpinBox:focus { border: 2px solid $accent; padding: 4px 7px; }
QComboBox:focus, QComboBox:on { border: 2px solid $accent; padding: 5px 7px; }
QPlainTextEdit:focus, QTextEdit:focus { border: 2px solid $accent; padding: 3px; }
QTextBrowser[role="plain"], QTextEdit[role="plain"], QPlainTextEdit[role="plain"] {
    border: none; background: transparent;
    padding: 0; }
QComboBox > QLineEdit, QComboBox > QLineEdit:focus { border: none; padding: 0; min-height: 0; background: transparent; }
QLineEdit:disabled, QPlainTextEdit:disabled, QTextEdit:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled,
QComboBox:disabled { color: $faded; background: $background; border-color: $border; }
QComboBox::drop-down { subcontrol-origin: padding; subcontrol-position: center right; width: 24px; border: none; }
QComboBox::down-arrow { image: url("$icons/down.svg"); width: 12px; height: 12px; }
QComboBox QAbstractItemView { background: $surface; border: 1px solid $border; padding: 4px; outline: 0;
    selection-background-color: $accent_soft; selection-color: $text; }
QSpinBox::up-button, QDoubleSpinBox::up-button { subcontrol-origin: border; subcontrol-position: top right;
    width: 22px; height: 14px; border: none; background: transparent; margin: 2px 2px 0 0; }
QSpinBox::down-button, QDoubleSpinBox::down-button { subcontrol-origin: border; subcontrol-position: bottom right;
    width: 22px; height: 14px; border: none; background: transparent; margin: 0 2px 2px 0; }
QSpinBox::up-arrow, QDoubleSpinBox::up-arrow { image: url("$icons/up.svg"); width: 10px; height: 10px; }
QSpinBox::down-arrow, QDoubleSpinBox::down-arrow { image: url("$icons/down.svg"); width: 10px; height: 10px; }

QCheckBox, QRadioButton {
    spacing: 8px; padding: 3px; border: 1px solid transparent;
    border-radius: 4px; background: transparent; }
QCheckBox:focus, QRadioButton:focus { border: 2px solid $accent; padding: 2px; }
QCheckBox:disabled, QRadioButton:disabled { color: $faded; }
QCheckBox::indicator, QRadioButton::indicator, QAbstractItemView::indicator {
    width: 16px; height: 16px; border: 1px solid $muted; border-radius: 4px; background: $surface; }
QRadioButton::indicator { border-radius: 9px; }
QCheckBox::indicator:hover, QRadioButton::indicator:hover { border-color: $accent; }
QCheckBox::indicator:checked, QAbstractItemView::indicator:checked {
    background: $accent; border-color: $accent; image: url("$icons/check.svg"); }
QAbstractItemView::indicator:indeterminate, QCheckBox::indicator:indeterminate {
    background: $accent_soft;
    border-color: $accent; }
QRadioButton::indicator:checked { background: $surface; border: 5px solid $accent; width: 8px; height: 8px; }
QCheckBox::indicator:disabled, QRadioButton::indicator:disabled { border-color: $border; background: $raised; }

QAbstractItemView { background: $surface; border: 1px solid $border; border-radius: 6px; outline: 0;
    alternate-background-color: $raised; selection-background-color: $accent_soft; selection-color: $text; }
QAbstractItemView:focus { border: 2px solid $accent; }
QTreeView::item, QListView::item, QTableView::item { padding: 4px 6px; border: none; }
QTreeView::item:hover, QListView::item:hover { background: $raised; }
QTreeView::item:selected, QListView::item:selected, QTableView::item:selected {
    background: $accent_soft;
    color: $text; }
QTreeView::branch { background: transparent; }
QTreeView::branch:has-children:closed { image: url("$icons/right.svg"); }
QTreeView::branch:has-children:open { image: url("$icons/down.svg"); }
QTableView { gridline-color: $border; }
QTableCornerButton::section { background: $surface; border: none; }
QHeaderView { background: transparent; border: none; }
QHeaderView::section { background: $surface; color: $muted; font-size: 12px; border: none;
    border-bottom: 1px solid $border; padding: 6px 9px; }
QHeaderView::section:hover { color: $text; }
QHeaderView::down-arrow { image: url("$icons/down.svg"); width: 10px; height: 10px; subcontrol-position: center right; }
QHeaderView::up-arrow { image: url("$icons/up.svg"); width: 10px; height: 10px; subcontrol-position: center right; }

QScrollArea { background: transparent; border: none; }
QScrollArea > QWidget > QWidget[role="page"] { background: transparent; }
QScrollBar:vertical { background: transparent; width: 10px; margin: 2px; }
QScrollBar:horizontal { background: transparent; height: 10px; margin: 2px; }
QScrollBar::handle { background: $handle; border-radius: 3px; }
QScrollBar::handle:vertical { min-height: 32px; }
QScrollBar::handle:horizontal { min-width: 32px; }
QScrollBar::handle:hover { background: $muted; }
QScrollBar::add-line, QScrollBar::sub-line { width: 0; height: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }

QProgressBar { background: $raised; border: none; border-radius: 3px; min-height: 6px; max-height: 6px; }
QProgressBar::chunk { background: $accent; border-radius: 3px; }
QProgressBar[role="bad"]::chunk { background: $bad; }
QProgressBar[role="good"]::chunk { background: $good; }
QSlider { min-height: 24px; border: 1px solid transparent; border-radius: 6px; }
QSlider:focus { border: 2px solid $accent; }
QSlider::groove:horizontal { background: $border; height: 4px; border-radius: 2px; }
QSlider::sub-page:horizontal { background: $accent; border-radius: 2px; }
QSlider::handle:horizontal {
    background: $surface; border: 2px solid $accent; width: 12px;
    height: 12px; margin: -6px 0; border-radius: 8px; }

QTabWidget::pane { border: none; border-top: 1px solid $border; }
QTabBar { background: transparent; border: none; }
QTabBar::tab {
    background: transparent; color: $muted; padding: 8px 12px;
    border: none; border-bottom: 2px solid transparent; }
QTabBar::tab:selected { color: $text; border-bottom: 2px solid $accent; }
QTabBar::tab:hover { color: $text; }
QTabBar::tab:focus { color: $text; background: $accent_soft; }
QTabBar::tab:disabled { color: $faded; }
QGroupBox { border: none; margin-top: 24px; font-weight: 600; }
QGroupBox::title { subcontrol-origin: margin; left: 0; padding: 0; }
QSplitter::handle { background: $border; }
QSplitter::handle:horizontal { width: 1px; }
QSplitter::handle:vertical { height: 1px; }
QSplitter::handle:hover { background: $accent; }

QMenu { background: $surface; border: 1px solid $border; padding: 4px; }
QMenu::item { padding: 6px 24px 6px 12px; border-radius: 4px; background: transparent; }
QMenu::item:selected { background: $accent_soft; color: $text; }
QMenu::item:disabled { color: $faded; }
QMenu::icon { padding-left: 8px; }
QMenu::separator { height: 1px; background: $border; margin: 4px 8px; }
QToolTip { background: $raised; color: $text; border: 1px solid $border; padding: 6px 8px; }
"""
)


def _mix(first: str, second: str, part: float) -> str:
    """``part`` of the way from ``first`` to ``second``, both ``#RRGGBB``."""
    a = [int(first[i : i + 2], 16) for i in (1, 3, 5)]
    b = [int(second[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(x + (y - x) * part):02X}" for x, y in zip(a, b, strict=True))


def _luminance(color: str) -> float:
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def faded(tokens: dict[str, str]) -> str:
    """The text colour as near to the surface as 4.5 : 1 (WCAG AA) on background, surface and raised allows."""

    def readable(color: str) -> bool:
        for role in ("background", "surface", "raised"):
            high, low = sorted((_luminance(color), _luminance(tokens[role])), reverse=True)
            if (high + 0.05) / (low + 0.05) < 4.55:
                return False
        return True

    steps = (_mix(tokens["text"], tokens["surface"], part / 100) for part in range(50, 0, -1))
    return next(filter(readable, steps), tokens["text"])


def build(tokens: dict[str, str], dark: bool, mono: str) -> str:
    """The stylesheet for a token set. ``mono`` is the family for figures."""
    extra = {
        "faded": faded(tokens),
        "accent_hover": _mix(tokens["accent"], tokens["text"], 0.14),
        # Fields need an edge that is seen (3 : 1 against their surface, WCAG 1.4.11); cards do not.
        "field": _mix(tokens["border"], tokens["muted"], 0.78),
        "handle": _mix(tokens["border"], tokens["muted"], 0.35),
        "icons": resources.path("icons/dark" if dark else "icons/light").as_posix(),
        "mono": mono,
    }
    return _TEMPLATE.substitute(tokens | extra)
