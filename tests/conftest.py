"""Fixtures for all tests: a home of its own for each test, Pocket, and Pocket's files made once a session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def tested_kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a home remembers of its kernels: the self-test of the first start, run once a session."""
    from app import kernel_check

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUENCH_HOME", str(tmp_path_factory.mktemp("first-home")))
        kernel_check.check()
        return kernel_check.record_file().read_bytes()


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
    home = tmp_path_factory.mktemp("home") / "quench-home"
    if request.node.get_closest_marker("fresh_home") is None:
        home.mkdir()
        (home / "kernels.json").write_bytes(tested_kernels)
    monkeypatch.setenv("QUENCH_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(home.parent / "hf-home"))
    # No test meets the models that other programs have on this machine.
    monkeypatch.setenv("HOME", str(home.parent / "user"))
    monkeypatch.setenv("OLLAMA_MODELS", str(home.parent / "user" / "ollama"))
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "APPDATA", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    yield home


@pytest.fixture(scope="session")
def pocket() -> Path:
    """The bundled model as a Hugging Face folder."""
    from resources import path

    return path("pocket")


@pytest.fixture(scope="session")
def broken_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel library whose best backend computes wrong numbers and whose second best, if it has lanes, crashes."""
    from tests.kernels import native
    from tests.once import made_once

    return made_once(tmp_path_factory, "broken-kernels", native.build_broken)


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 47 million random weights: its conversion takes long enough for something to happen meanwhile."""
    from tests.models import write_model

    folder = tmp_path_factory.mktemp("models") / "long"
    write_model(folder, 4)
    return folder


@pytest.fixture(scope="session")
def endless_gguf(long_model: Path) -> Path:
    """A model with Pocket's vocabulary that talks without end and takes its time: 94 MB are read for each token.

    With ``ENDLESS`` of :mod:`tests.models` an answer takes a minute on a fast machine. Tests that stop, kill or leave
    an answer half-way use it, so that it is still coming however late they look. Not to be changed.
    """
    import converter

    target = long_model.parent / "endless.gguf"
    converter.convert(converter.ConversionSpec(str(long_model), str(target), ("BF16",)))
    return target


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

    folder = tmp_path_factory.mktemp("pocket")
    made: dict[str, Path] = {}

    def make(type_name: str) -> Path:
        if type_name not in made:
            target = folder / f"Pocket-{type_name}.gguf"
            spec = converter.ConversionSpec(source=str(pocket), output=str(target), types=(type_name,))
            converter.convert(spec, lambda event: None, lambda: False)
            made[type_name] = target
        return made[type_name]

    return make
