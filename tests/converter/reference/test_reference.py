"""Every architecture, built small and random, against llama.cpp's converter and transformers.

    pytest -m slow tests/converter/reference -k mixtral

The table of the run is printed at its end (``-rP`` or ``-s``) and written to ``architectures.md`` in pytest's folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.converter.reference.compare import HEADER, Reference, Verdict, verdict
from tests.converter.reference.models import MODELS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    with Reference(tmp_path_factory.mktemp("reference")) as process:
        yield process


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, Verdict]]:
    verdicts: dict[str, Verdict] = {}
    yield verdicts
    text = "\n".join([HEADER, *(verdicts[name].line() for name in MODELS if name in verdicts)])
    (tmp_path_factory.mktemp("table") / "architectures.md").write_text(text + "\n", encoding="utf-8")
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(text)


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_equals_the_reference(
    name: str, reference: Reference, table: dict[str, Verdict], tmp_path: Path
) -> None:
    table[name] = verdict(reference, name, tmp_path)
    assert not table[name].problems
