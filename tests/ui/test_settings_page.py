"""Settings: every field shows what is saved and saves what is set."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QAbstractSpinBox, QComboBox, QPushButton
from pytestqt.qtbot import QtBot

from app import settings
from app.protocol import Sampling
from app.ui.context import Context
from app.ui.notify import Notice
from app.ui.settings_page import PARTS, SettingsPage, version_of


@pytest.fixture
def page(qtbot: QtBot, context: Context) -> SettingsPage:
    made = SettingsPage(context)
    qtbot.addWidget(made)
    made.resize(900, 700)
    made.show()
    return made


def named(page: SettingsPage, name: str, kind: type) -> object:
    return next(field for field in page.findChildren(kind) if field.accessibleName() == name)


def choose(field: QComboBox, text: str) -> None:
    field.setCurrentIndex(field.findText(text))
    field.activated.emit(field.currentIndex())


def test_choices_are_saved(page: SettingsPage, context: Context) -> None:
    choose(page.theme, "Dark")
    choose(page.enter_sends, "Ctrl+Enter sends")
    choose(page.kv_type, "8 bits")
    saved = settings.load()
    assert (saved.theme, saved.enter_sends, saved.kv_type) == ("dark", False, "q8_0")
    assert context.theme.is_dark


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("Temperature", 1.25, lambda saved: saved.sampling.temperature),
        ("Top-k", 7, lambda saved: saved.sampling.top_k),
        ("Top-p", 0.5, lambda saved: saved.sampling.top_p),
        ("Min-p", 0.11, lambda saved: saved.sampling.min_p),
        ("Repeat penalty", 1.1, lambda saved: saved.sampling.repeat_penalty),
        ("Longest reply", 300, lambda saved: saved.sampling.max_tokens),
        ("Context", 4096, lambda saved: saved.context),
        ("Threads", 3, lambda saved: saved.threads),
        ("Pass up to a KLD of", 0.045, lambda saved: saved.pass_kld),
        ("Fail from a KLD of", 0.33, lambda saved: saved.fail_kld),
        ("Same first choice for a Pass", 0.9, lambda saved: saved.pass_top1),
    ],
)
def test_numbers_are_saved(page: SettingsPage, name: str, value: float, read: object) -> None:
    named(page, name, QAbstractSpinBox).setValue(value)
    assert read(settings.load()) == pytest.approx(value)


def test_typing_saves_when_it_is_over(qtbot: QtBot, page: SettingsPage, context: Context) -> None:
    seen: list[int] = []
    context.settings_changed.connect(lambda: seen.append(context.settings.threads))
    page.threads.setFocus()
    page.threads.selectAll()
    qtbot.keyClicks(page.threads, "12")
    assert seen == []
    qtbot.keyClick(page.threads, Qt.Key.Key_Return)
    assert seen == [12]


def test_fields_follow_changes_made_elsewhere(page: SettingsPage, context: Context) -> None:
    context.update_settings(theme="light", threads=5, reduce_motion=False, sampling=Sampling(temperature=0.1))
    assert page.theme.currentText() == "Light"
    assert page.threads.value() == 5
    assert not page.reduce_motion.isChecked()
    assert named(page, "Temperature", QAbstractSpinBox).value() == pytest.approx(0.1)


def test_reset_brings_the_sampling_defaults_back(qtbot: QtBot, page: SettingsPage, context: Context) -> None:
    context.update_settings(sampling=Sampling(temperature=2.0, top_k=1))
    qtbot.mouseClick(named(page, "Reset sampling", QPushButton), Qt.MouseButton.LeftButton)
    assert settings.load().sampling == Sampling()


def test_reduce_motion_by_mouse(qtbot: QtBot, page: SettingsPage, context: Context) -> None:
    assert page.reduce_motion.isChecked()
    page.reduce_motion.click()
    assert settings.load().reduce_motion is False


def test_folders_are_listed_and_removed(qtbot: QtBot, page: SettingsPage, context: Context, tmp_path: Path) -> None:
    context.update_settings(folders=(str(tmp_path / "a"), str(tmp_path / "b")))
    assert [page.folders.item(row).text() for row in range(page.folders.count())] == list(context.settings.folders)
    page.folders.setCurrentRow(0)
    qtbot.mouseClick(named(page, "Remove", QPushButton), Qt.MouseButton.LeftButton)
    assert settings.load().folders == (str(tmp_path / "b"),)


def test_about_names_kernels_versions_and_licences(qtbot: QtBot, page: SettingsPage, quench_home: Path) -> None:
    import kernels

    assert page.facts["Data folder"].text() == str(quench_home)
    assert page.facts["Kernels"].text().startswith(kernels.active())
    assert all(version_of(name)[0].isdigit() for name, _ in PARTS)
    qtbot.mouseClick(named(page, "Copy these facts", QPushButton), Qt.MouseButton.LeftButton)
    assert f"Data folder: {quench_home}" in QGuiApplication.clipboard().text()


def test_kernels_that_are_wrong_here_are_told_once_and_shown(
    qtbot: QtBot, page: SettingsPage, context: Context, broken_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kernels

    monkeypatch.delenv("QUENCH_KERNELS", raising=False)
    monkeypatch.setenv("QUENCH_KERNELS_LIBRARY", str(broken_kernels))
    best = kernels.backends()[0]
    notices: list[Notice] = []
    context.notify.posted.connect(notices.append)
    for _ in range(2):
        with qtbot.waitSignal(context.kernels_checked):
            context.check_kernels()
    assert [notice.kind for notice in notices] == ["bad"]
    assert notices[0].error is not None and best in notices[0].error.detail
    assert context.kernels is not None and context.kernels.backend not in context.kernels.failed
    assert context.kernels.backend in notices[0].error.hint
    text = page.facts["Kernels"].text()
    assert text.startswith(context.kernels.backend) and f"wrong on this machine: {best}" in text
    assert settings.load().kernels_told == tuple(context.kernels.failed)


def test_kernels_that_pass_are_not_worth_a_notice(qtbot: QtBot, page: SettingsPage, context: Context) -> None:
    import kernels

    with qtbot.assertNotEmitted(context.notify.posted), qtbot.waitSignal(context.kernels_checked):
        context.check_kernels()
    assert context.kernels is not None
    assert page.facts["Kernels"].text() == f"{kernels.active()} ({', '.join(kernels.backends())})"
