"""Downloads in the window, with real workers against the fake hub: progress, pause, restart, faults, and their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app import jobs
from app.hub.messages import DownloadProgress, Patience
from app.jobs import CANCELLED, DONE, FAILED, PAUSED, QUEUED, RUNNING
from app.protocol import Convert
from app.ui.context import Context
from app.ui.job_center import Job
from app.ui.job_drawer import JobDrawer
from app.ui.window import MainWindow
from converter.spec import ConversionSpec
from tests.fakehub import FakeHub, FakeRepo
from tests.hub.downloading import FAST, check_whole, command, noise, place
from tests.ui.conftest import nameless
from tests.ui.test_find_page import choose, press, settled, words

SIZE = 3_000_000
ENDLESS = Patience(stall=300)
"""What stands still stays so, however long a test takes to look."""


@pytest.fixture
def repo(fakehub: FakeHub) -> FakeRepo:
    """A model in two parts, that are only noise, and a small file."""
    files = {f"w-0000{n}-of-00002.gguf": noise(SIZE, n) for n in (1, 2)}
    return fakehub.add("org/noise", {**files, "config.json": b"{}"})


@pytest.fixture
def drawer(qtbot: QtBot, context: Context) -> JobDrawer:
    made = JobDrawer(context)
    qtbot.addWidget(made)
    made.resize(352, 700)
    made.show()
    return made


@pytest.fixture
def later(qtbot: QtBot, context: Context) -> Iterator[Callable[[], Context]]:
    """``later()`` ends the program, and is what the next start finds."""
    made: list[Context] = []

    def again() -> Context:
        context.close()
        made.append(Context())
        return made[-1]

    yield again
    for one in made:
        one.close()


def start(context: Context, repo: FakeRepo, **changes: object) -> Job:
    return context.jobs.submit("download", f"Download {repo.id}", command(repo, **{"patience": ENDLESS, **changes}))


def rested(qtbot: QtBot, job: Job) -> Job:
    qtbot.waitUntil(lambda: not job.is_active)
    return job


def half_way(qtbot: QtBot, hub: FakeHub, context: Context, repo: FakeRepo, **changes: object) -> Job:
    """A download that stands still in the middle of a file."""
    hub.fail("body", "w-00002-of-00002.gguf", "stall", after=SIZE // 2)
    job = start(context, repo, **changes)
    qtbot.waitUntil(lambda: hub.stalled.is_set() and job.transfer is not None and job.transfer.finished == 2)
    qtbot.waitUntil(lambda: job.progress > 0.7)
    return job


# ---- how it goes -----------------------------------------------------------------------------------------------


def test_every_file_is_shown_until_it_is_verified(
    *, qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, drawer: JobDrawer, hub_environment: Path
) -> None:
    job = half_way(qtbot, fakehub, context, repo)
    (row,) = drawer.rows()
    seen = words(row)
    assert "w-00001-of-00002.gguf" in seen and "w-00002-of-00002.gguf" in seen
    assert "2 of 3 files" in seen
    assert "50\N{NO-BREAK SPACE}% of 2.9 MiB" in seen
    assert seen.count("verified") == 2
    assert nameless(drawer) == []
    fakehub.released.set()
    assert rested(qtbot, job).state == DONE, job.error and job.error.detail
    assert words(row).count("verified") == 3
    assert job.progress == 1.0
    check_whole(hub_environment, repo)
    assert jobs.remembered() == []


def test_a_download_goes_from_the_plan_into_the_library(
    qtbot: QtBot, fakehub: FakeHub, window: MainWindow, context: Context, pocket_gguf: Callable[[str], Path]
) -> None:
    fakehub.add("org/Tiny-GGUF", {"Tiny-Q4_K_M.gguf": pocket_gguf("Q4_K_M").read_bytes()}, tags=["gguf"])
    page = window.show_page("find")
    settled(qtbot, page)
    choose(qtbot, page, "org/Tiny-GGUF")
    panel = page.details.panel
    qtbot.waitUntil(lambda: panel.plan is not None)
    plan = panel.plan
    panel.download.click()
    (job,) = context.jobs.jobs
    assert job.title == "Download Tiny-GGUF Q4_K_M"
    panel._download()
    assert len(context.jobs.jobs) == 1, "the same download is not begun twice"
    rested(qtbot, job)
    assert job.state == DONE, job.error and job.error.detail
    path = str(Path(plan.folder) / "Tiny-Q4_K_M.gguf")
    qtbot.waitUntil(lambda: context.library.entry(path) is not None)
    assert context.library.entry(path).problems == ()
    qtbot.waitUntil(lambda: panel.plan is not None)
    assert "nothing to download" in panel.words()
    assert [made.text() for made in panel.findChildren(QPushButton) if made.isVisible()] == [
        "Chat",
        "Convert",
        "Show in the library",
    ]
    (toast,) = window.toasts.toasts()
    assert toast.notice.kind == "good"
    requests: list[tuple[str, dict]] = []
    context.navigate.connect(lambda key, request: requests.append((key, request)))
    press(panel, "Show in the library")
    assert requests == [("library", {"add": path})]
    library = window.page("library")
    qtbot.waitUntil(lambda: [row.info.path for row in library.selected()] == [path])


def test_download_and_convert_ends_on_the_convert_page(
    *, qtbot: QtBot, fakehub: FakeHub, window: MainWindow, context: Context, pocket: Path, hub_environment: Path
) -> None:
    repo = fakehub.add_folder("org/Pocket", pocket, tags=["safetensors"])
    repo.commit({"picture.png": noise(50_000, 1), "onnx/model.onnx": noise(50_000, 2), "README.md": b"# Pocket"})
    page = window.show_page("find")
    settled(qtbot, page)
    choose(qtbot, page, "org/Pocket")
    qtbot.waitUntil(lambda: page.details.panel.plan is not None)
    page.details.panel.convert.click()
    with qtbot.waitSignal(window.page_shown) as shown:
        pass
    assert shown.args == ["convert"]
    source = window.page("convert").source
    qtbot.waitUntil(lambda: source.info is not None)
    assert source.path() == str(place(hub_environment, repo).folder)
    assert fakehub.served["picture.png"] == fakehub.served["onnx/model.onnx"] == 0


# ---- pause, restart, give up -----------------------------------------------------------------------------------


def test_pause_and_resume_fetch_no_byte_twice(
    *, qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, drawer: JobDrawer, hub_environment: Path
) -> None:
    job = half_way(qtbot, fakehub, context, repo)
    (row,) = drawer.rows()
    press(row, "Pause")
    qtbot.waitUntil(lambda: job.state == PAUSED)
    assert job.kept == pytest.approx(0.75, abs=0.01)
    assert "Paused at 75" in words(row)
    press(row, "Resume")
    assert rested(qtbot, job).state == DONE, job.error and job.error.detail
    check_whole(hub_environment, repo)
    assert fakehub.served["w-00001-of-00002.gguf"] == SIZE
    assert fakehub.served["w-00002-of-00002.gguf"] <= SIZE + (1 << 17)


def test_a_download_goes_on_after_a_restart(
    *, qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, later: Callable[[], Context],
    hub_environment: Path,
) -> None:  # fmt: skip
    half_way(qtbot, fakehub, context, repo)
    again = later()
    drawer = JobDrawer(again)
    qtbot.addWidget(drawer)
    drawer.show()
    (card,) = drawer.left()
    assert "Interrupted at 75" in words(card)
    press(card, "Resume")
    (job,) = again.jobs.jobs
    assert rested(qtbot, job).state == DONE, job.error and job.error.detail
    check_whole(hub_environment, repo)
    assert fakehub.served["w-00001-of-00002.gguf"] == SIZE
    assert jobs.remembered() == []


def parts(home: Path) -> list[Path]:
    return [path for path in (home / "hub").rglob("*") if path.name.endswith((".incomplete", ".gone"))]


def test_giving_up_removes_what_is_half_here_but_for_what_another_fetches(
    *, qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, drawer: JobDrawer, hub_environment: Path
) -> None:
    job = half_way(qtbot, fakehub, context, repo)
    job.pause()
    qtbot.waitUntil(lambda: job.state == PAUSED)
    assert len(parts(hub_environment)) == 1
    fakehub.fail("body", "w-00002-of-00002.gguf", "stall", after=SIZE // 2 + 1000)
    files = tuple(file for file in command(repo).files if file.path.endswith(".gguf"))
    other = context.jobs.submit("download", "Other", command(repo, files=files, patience=ENDLESS))
    other.pause()
    qtbot.waitUntil(lambda: other.state == PAUSED)
    press(next(row for row in drawer.rows() if row.job is job), "Discard")
    assert job.state == CANCELLED
    assert len(parts(hub_environment)) == 1, "the other download goes on with it"
    other.cancel()
    qtbot.waitUntil(lambda: parts(hub_environment) == [])
    assert jobs.remembered() == []


def test_downloads_do_not_hold_up_conversions(
    *, qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, pocket: Path, tmp_path: Path
) -> None:
    first = half_way(qtbot, fakehub, context, repo)
    others = [fakehub.add(f"org/{name}", {"x.gguf": noise(1000, 7)}) for name in ("a", "b")]
    fakehub.fail("body", "x.gguf", "stall", after=10, times=1)
    second, third = (start(context, other) for other in others)
    assert [job.state for job in (first, second, third)] == [RUNNING, RUNNING, QUEUED]
    spec = ConversionSpec(source=str(pocket), output=str(tmp_path / "p.gguf"), types=("Q8_0",))
    conversion = context.jobs.submit("convert", "Pocket", Convert(spec))
    assert conversion.state == RUNNING
    assert rested(qtbot, conversion).state == DONE
    assert third.state == QUEUED
    fakehub.released.set()
    for job in (first, second, third):
        assert rested(qtbot, job).state == DONE, job.error and job.error.detail


@pytest.mark.slow
def test_a_limit_holds_at_once_and_so_does_its_end(
    qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, hub_environment: Path
) -> None:
    context.update_settings(download_limit=1)  # the least that a limit can be: it would take minutes
    job = start(context, repo)
    moved: list[DownloadProgress] = []
    job.event.connect(lambda event: moved.append(event) if isinstance(event, DownloadProgress) else None)
    qtbot.waitUntil(lambda: len(moved) >= 5)
    assert job.is_active
    assert job.progress < 0.5
    context.update_settings(download_limit=0)
    assert rested(qtbot, job).state == DONE
    check_whole(hub_environment, repo)


def test_one_limit_holds_for_two_downloads_together(qtbot: QtBot, fakehub: FakeHub, context: Context) -> None:
    rate = 1 << 20
    context.update_settings(download_limit=rate)
    both = [start(context, fakehub.add(f"org/{name}", {"x.gguf": noise(9_000_000, 3)})) for name in ("a", "b")]

    def done() -> int:
        return sum(job.transfer.done for job in both if job.transfer is not None)

    qtbot.waitUntil(lambda: all(job.progress > 0.05 for job in both))
    before, begun = done(), time.monotonic()
    qtbot.waitUntil(lambda: done() - before >= 3 * rate)
    # A busy machine only takes longer; a limit for each of them would take half of this.
    assert time.monotonic() - begun >= 0.75 * (done() - before) / rate


# ---- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("cut", {"after": 1_000_000}),
        # The worker of each passes the quick tests of the hub; the window shows them no differently.
        pytest.param("reset", {"after": 1_000_000}, marks=pytest.mark.slow),
        pytest.param("stall", {"after": 1_000_000}, marks=pytest.mark.slow),
        pytest.param("corrupt", {"after": 2_000_000}, marks=pytest.mark.slow),
        pytest.param("status", {"status": 503}, marks=pytest.mark.slow),
    ],
)
def test_a_fault_ends_with_whole_files(
    *, qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, context: Context, drawer: JobDrawer, hub_environment: Path,
    kind: str, options: dict,
) -> None:  # fmt: skip
    fakehub.fail("body", "w-00001-of-00002.gguf", kind, **options)
    job = start(context, repo, patience=FAST)
    assert rested(qtbot, job).state == DONE, job.error and job.error.detail
    check_whole(hub_environment, repo)
    assert "3 of 3 files" in words(drawer)


def test_a_file_that_always_comes_damaged_is_told_in_words(
    qtbot: QtBot, fakehub: FakeHub, repo: FakeRepo, window: MainWindow, context: Context
) -> None:
    fakehub.fail("body", "w-00001-of-00002.gguf", "corrupt", times=99, after=5)
    job = rested(qtbot, start(context, repo, patience=FAST))
    assert job.state == FAILED
    assert job.error is not None and job.error.code == "bad_checksum"
    (toast,) = window.toasts.toasts()
    assert toast.notice.kind == "bad"
    assert "another network" in words(toast)
    fakehub.faults.clear()
    press(toast, "Resume")
    assert rested(qtbot, job).state == DONE
    assert window.isVisible()


def test_a_refused_download_can_be_tried_again_where_it_was_begun(
    qtbot: QtBot, fakehub: FakeHub, window: MainWindow, context: Context
) -> None:
    repo = fakehub.add("org/gated", {"x-Q8_0.gguf": noise(1000, 1)}, tags=["gguf"], gated="manual")
    page = window.show_page("find")
    settled(qtbot, page)
    choose(qtbot, page, "org/gated")
    panel = page.details.panel
    qtbot.waitUntil(lambda: panel.plan is not None)
    panel.download.click()
    qtbot.waitUntil(panel.error.isVisible)
    assert panel.error.error is not None and panel.error.error.code == "gated"
    assert {"Open the licence page", "Set a token", "Try again"} <= {
        made.text() for made in panel.error.findChildren(QPushButton) if made.isVisible()
    }
    repo.gated = ""
    press(panel, "Try again")
    qtbot.waitUntil(lambda: context.jobs.jobs[-1].state == DONE)
    qtbot.waitUntil(lambda: panel.plan is not None)
    assert not panel.error.isVisible()
    assert "nothing to download" in panel.words()


def test_a_gated_model_fails_with_what_to_do_and_leaves_nothing(
    qtbot: QtBot, fakehub: FakeHub, context: Context, drawer: JobDrawer
) -> None:
    repo = fakehub.add("org/gated", {"x.gguf": noise(1000, 1)}, gated="manual")
    job = rested(qtbot, start(context, repo))
    assert (job.state, job.kept) == (FAILED, None)
    assert job.error is not None and job.error.code == "gated"
    (row,) = drawer.rows()
    assert "accept it at" in words(row)
    assert jobs.remembered() == []
