"""Fixtures for all tests: a home of its own for each test, Pocket, and Pocket's files made once a session."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.once import made_once

# Before Qt or numpy load: no screen, and no spinning threads beside the test's own.
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# pytest-qt would otherwise take a binding that happens to be installed; and Qt must not ask the desktop's theme.
os.environ.pop("QT_QPA_PLATFORMTHEME", None)
# A shell starts what it puts into the background deaf to Ctrl-C, and nohup to a lost terminal; so would be the programs
# that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


ROOT = Path(__file__).resolve().parent
LONGEST = (
    "test_cli.py", "test_cli_hostile.py", "ui/test_hostile.py", "ui/test_downloads.py", "ui/test_inspect.py",
    "converter/test_pipeline.py", "converter/test_whole_files.py", "converter/test_journal.py", "e2e", "ui", "workers",
    "remote", "quality", "hub", "engine",
)  # fmt: skip
"""Files and folders that take the most time: begun first, so that none is left alone at the end."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """The processes of a whole run share the compilation of the tests: each takes some, and finds the others done."""
    mine = getattr(session.config, "workerinput", None)
    if mine is None or [Path(each).resolve() for each in session.config.args] != [ROOT]:
        return
    modules = sorted(ROOT.rglob("test_*.py"), key=lambda path: path.stat().st_size)
    for path in modules[int(mine["workerid"].removeprefix("gw")) :: mine["workercount"]]:
        # What goes wrong, warnings as well, the collection meets again, and tells it.
        with contextlib.suppress(Exception, pytest.skip.Exception), warnings.catch_warnings():
            warnings.simplefilter("error")
            importlib.import_module(".".join(path.relative_to(ROOT.parent).with_suffix("").parts))


@pytest.hookimpl(trylast=True)  # after the tests have been put in random order
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; all others stay in their random order."""
    places = [ROOT / name for name in LONGEST]

    def place(item: pytest.Item) -> int:
        return next((n for n, path in enumerate(places) if item.path.is_relative_to(path)), len(places))

    items.sort(key=place)


@pytest.fixture(scope="session")
def tested_kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a home remembers of its kernels: the self-test of the first start, run once a session."""
    from app import kernel_check

    def make(home: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QUENCH_HOME", str(home))
            kernel_check.check()
            return kernel_check.record_file()

    return made_once(tmp_path_factory, "first-home", make).read_bytes()


@pytest.fixture(autouse=True)
def quench_home(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tested_kernels: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """``QUENCH_HOME`` of the test's own, not inside ``tmp_path``, for this process and its children.

    The kernels were tested for it already, as at every start but the first; not so with the mark ``fresh_home``.
    """
    fresh = request.node.get_closest_marker("fresh_home") is not None
    yield _move_in(tmp_path_factory, monkeypatch, None if fresh else tested_kernels)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory, tested_kernels: bytes) -> Iterator[Path]:
    """As :func:`quench_home`, for a worker that the tests of a file ask one after another."""
    with pytest.MonkeyPatch.context() as patch:
        yield _move_in(tmp_path_factory, patch, tested_kernels)


def _move_in(factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch, kernels: bytes | None) -> Path:
    home = factory.mktemp("home") / "quench-home"
    if kernels is not None:
        home.mkdir()
        (home / "kernels.json").write_bytes(kernels)
    patch.setenv("QUENCH_HOME", str(home))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_HOME", str(home.parent / "hf-home"))
    # No test meets the models that other programs have on this machine.
    patch.setenv("HOME", str(home.parent / "user"))
    patch.setenv("OLLAMA_MODELS", str(home.parent / "user" / "ollama"))
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA", "USERPROFILE"):
        patch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The bundled model as a Hugging Face folder."""
    from resources import path

    return path("pocket")


@pytest.fixture(scope="session")
def broken_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel library whose best backend computes wrong numbers and whose second best, if it has lanes, crashes."""
    from tests.kernels import native

    return made_once(tmp_path_factory, "broken-kernels", native.build_broken)


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 47 million random weights: its conversion takes long enough for something to happen meanwhile."""
    from tests.models import write_model

    def make(folder: Path) -> Path:
        write_model(folder / "long", 4)
        return folder / "long"

    return made_once(tmp_path_factory, "long-model", make)


@pytest.fixture(scope="session")
def endless_gguf(long_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with Pocket's vocabulary that talks without end and takes its time: 94 MB are read for each token.

    With ``ENDLESS`` of :mod:`tests.models` an answer takes a minute on a fast machine. Tests that stop, kill or leave
    an answer half-way use it, so that it is still coming however late they look. Not to be changed.
    """
    import converter

    def make(folder: Path) -> Path:
        target = folder / "endless.gguf"
        converter.convert(converter.ConversionSpec(str(long_model), str(target), ("BF16",)))
        return target

    return made_once(tmp_path_factory, "endless", make)


@pytest.fixture
def slow_kernels() -> Iterator[pytest.MonkeyPatch]:
    """Workers convert with the reference kernels: the same bytes in twenty times the time, about ten seconds for the
    long model to one K-quant on one thread. Its ``undo()`` ends it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUENCH_KERNELS", "reference")
        yield patch


@pytest.fixture(scope="session")
def pocket_gguf(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``pocket_gguf("Q4_K_M")`` is that file of Pocket, converted by us once a session. Not to be changed."""
    import converter

    @functools.cache
    def made(type_name: str) -> Path:
        def make(folder: Path) -> Path:
            target = folder / f"Pocket-{type_name}.gguf"
            spec = converter.ConversionSpec(source=str(pocket), output=str(target), types=(type_name,))
            converter.convert(spec, lambda event: None, lambda: False)
            return target

        return made_once(tmp_path_factory, f"pocket-{type_name}", make)

    return made
