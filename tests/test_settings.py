"""Settings survive damage, foreign fields and other versions of the program."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from app import paths, settings
from app.protocol import LoadOptions, Sampling


def test_round_trip_keeps_every_field(quench_home: Path) -> None:
    wanted = settings.Settings(
        theme="dark", folders=("/models/ä b",), sampling=Sampling(temperature=0.1, seed=7), splitters={"chat": "AAAA"}
    )
    settings.save(wanted)
    assert settings.load() == wanted


def test_no_file_gives_the_defaults(quench_home: Path) -> None:
    assert settings.load() == settings.Settings()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"{" * 100_000])
def test_a_damaged_file_is_set_aside(quench_home: Path, content: bytes) -> None:
    paths.settings_file().write_bytes(content)
    assert settings.load() == settings.Settings()
    assert not paths.settings_file().exists()
    assert paths.settings_file().with_name("settings.json.bad").read_bytes() == content


def test_one_bad_field_costs_only_that_field(quench_home: Path) -> None:
    raw = {"theme": "purple", "threads": "many", "reduce_motion": "false", "context": 4096, "from_the_future": 1}
    paths.settings_file().write_bytes(msgspec.json.encode(raw))
    assert settings.load() == settings.Settings(context=4096)


def test_saving_replaces_whole_or_not_at_all(quench_home: Path) -> None:
    settings.save(settings.Settings(theme="dark"))
    target = paths.settings_file()
    target.unlink()
    target.mkdir()  # replacing a folder by a file must fail
    with pytest.raises(OSError):
        settings.save(settings.Settings(theme="light"))
    assert sorted(path.name for path in quench_home.iterdir()) == ["kernels.json", "settings.json"]


def test_every_load_option_has_its_setting() -> None:
    wanted = LoadOptions(context=4096, threads=3, gpu_layers=7, kv_type="q8_0", flash_attention="on")
    assert settings.Settings(**msgspec.structs.asdict(wanted)).load_options() == wanted
    assert settings.Settings().load_options() == LoadOptions()
