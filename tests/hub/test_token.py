"""The token: where it comes from, that it opens what it should, and that it is nowhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import settings
from app.child import Child
from app.hub import access
from app.hub.messages import DownloadProgress
from converter.spec import QuenchError
from tests.fakehub import FakeHub, FakeRepo
from tests.hub.downloading import FAST, command, fetch, run
from tests.hub.program import quench

TOKEN = "hf_Geheim0123456789abcdefGeheim"
FILE_KEYRING = "keyrings.alt.file.PlaintextKeyring"


@pytest.fixture
def gated(fakehub: FakeHub) -> FakeRepo:
    fakehub.tokens |= {TOKEN, "hf_a-stranger"}
    return fakehub.add(
        "org/gated", {"config.json": b"{}", "model.safetensors": b"w" * 100_000}, gated="manual", readers=(TOKEN,)
    )


def found() -> access.Access:
    return access.access(settings.load())


def keyring_environment(tmp_path: Path) -> dict[str, str]:
    """A keyring that is a real one of the keyring package and keeps its data under ``tmp_path``."""
    return {"PYTHON_KEYRING_BACKEND": FILE_KEYRING, "XDG_DATA_HOME": str(tmp_path / "keyring"), "HOME": str(tmp_path)}


def test_a_token_in_the_keyring_is_found_by_every_process(gated: FakeRepo, tmp_path: Path) -> None:
    environment = keyring_environment(tmp_path)
    program = (
        "import sys; from app import settings; from app.hub import access\n"
        "state = access.save_token(access.access(settings.load()), sys.stdin.readline())\n"
        "print(state.source, state.keeps)"
    )
    saved = subprocess.run(
        [sys.executable, "-c", program],
        input=TOKEN,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    assert saved.stdout.split() == ["keyring", "True"]
    status, data, err = quench("download", "org/gated", **environment)
    assert status == 0, (data, err)
    assert len(data["files"]) == 2
    # A mirror does not get the token of the hub.
    with FakeHub() as other:
        other.add("org/open", {"config.json": b"{}"})
        status, data, _ = quench("download", "org/open", **environment, HF_ENDPOINT=other.url)
        assert status == 0, data
        assert {seen.authorization for seen in other.seen} == {None}


def test_without_a_keyring_it_lasts_for_the_session_and_says_so(
    gated: FakeRepo, quench_home: Path, hub_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring

    keyring.core.init_backend()
    monkeypatch.setenv("HF_TOKEN", "")
    state = access.save_token(found(), f"  {TOKEN}\n")
    assert (state.source, state.keeps) == ("environment", False)
    assert "no keyring" in state.why
    assert access.token(found()) == TOKEN
    fetch(command(gated))
    assert access.save_token(found(), "").source == ""
    assert access.token(found()) is None
    assert written_with(TOKEN, quench_home.parent, hub_environment) == []


def test_what_is_no_token_is_refused() -> None:
    for bad in ("short", "two words here", "hf_ümläute-lang", "x" * 600, "line\nbreak-in-it"):
        with pytest.raises(QuenchError) as caught:
            access.save_token(access.Access("http://x", False, "", ""), bad)
        assert caught.value.code == "bad_token"
        assert bad not in json.dumps(caught.value.as_dict())


def test_the_file_of_the_login_command_is_honoured(gated: FakeRepo, hub_environment: Path) -> None:
    hub_environment.mkdir(parents=True, exist_ok=True)
    (hub_environment / "token").write_text(TOKEN + "\n")
    assert access.token_state(found()).source == "file"
    fetch(command(gated))


@pytest.mark.parametrize(
    ("token", "code", "words"),
    [
        (None, "gated", "accept"),
        ("hf_a-stranger", "gated", "owner"),
        ("hf_expired-or-revoked", "bad_token", "settings/tokens"),
    ],
)
def test_gated_models_say_what_to_do(
    *, fakehub: FakeHub, gated: FakeRepo, monkeypatch: pytest.MonkeyPatch, token: str | None, code: str, words: str
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    _, verdict = run(command(gated))
    assert verdict.error is not None
    assert verdict.error.code == code
    assert words in verdict.error.hint
    assert fakehub.url in verdict.error.hint


def test_the_storage_never_sees_the_token(fakehub: FakeHub, gated: FakeRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch(command(gated))
    # The storage refuses a request with a token, as the real one does.
    assert {seen.authorization for seen in fakehub.requests("model.safetensors")} == {None}
    assert {seen.authorization for seen in fakehub.seen if seen.where == "resolve"} == {f"Bearer {TOKEN}"}


def written_with(secret: str, *folders: Path) -> list[Path]:
    """The files under ``folders`` that hold the secret."""
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize("trouble", ["status", "echo", "crash", "kill", "odd"])
def test_a_failing_run_tells_it_to_nobody(
    *, fakehub: FakeHub, gated: FakeRepo, quench_home: Path, hub_environment: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, trouble: str,
) -> None:  # fmt: skip
    from app import jobs
    from app.protocol import encode

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_DEBUG", "1")  # huggingface_hub writes every request to its log
    monkeypatch.setenv("HF_HUB_VERBOSITY", "debug")
    if trouble == "echo":
        fakehub.fail("resolve", "*", status=403, headers={"X-Error-Message": f"no right: Bearer {TOKEN}"}, times=99)
    elif trouble in ("crash", "kill"):
        fakehub.fail("body", "model.safetensors", "stall", after=50_000)
    elif trouble == "odd":
        fakehub.fail("body", "*", "corrupt", times=99)
    else:
        fakehub.fail("resolve", "*", status=500, times=99)
    download = command(gated, patience=FAST)
    jobs.remember(jobs.Record("one", "download", "org/gated", download))
    lines: list[bytes] = []
    with Child("download") as child:
        child.send(download)
        command_line = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        for event in child.events():
            lines.append(encode(event))
            if trouble in ("crash", "kill") and isinstance(event, DownloadProgress) and fakehub.stalled.is_set():
                os.kill(child.pid, 11 if trouble == "crash" else 9)
        verdict = child.wait(60)
        log = child.log_tail()
    assert verdict.error is not None
    told = json.dumps([verdict.error.as_dict(), log]) + b"".join(lines).decode()
    assert TOKEN not in told
    assert TOKEN.encode() not in command_line
    assert written_with(TOKEN, quench_home.parent, hub_environment, tmp_path) == []


def test_the_command_line_tells_it_to_nobody(
    fakehub: FakeHub, gated: FakeRepo, quench_home: Path, hub_environment: Path, tmp_path: Path
) -> None:
    fakehub.fail("resolve", "*", status=403, headers={"X-Error-Message": f"Bearer {TOKEN}"}, times=99)
    status, data, err = quench("download", "org/gated", HF_TOKEN=TOKEN, HF_DEBUG="1")
    assert status == 3
    assert TOKEN not in json.dumps(data) + err
    # One with a sign that no header can carry must not end up in the client's complaint about it.
    status, data, err = quench("search", "x", HF_TOKEN="hf_bad\x01secret-part")
    assert "secret-part" not in json.dumps(data) + err
    assert written_with(TOKEN, quench_home.parent, hub_environment, tmp_path) == []
