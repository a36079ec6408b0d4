"""Proxies, certificates, no network: through the command line, as a person meets them."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trustme

from tests.fakehub import FakeHub
from tests.hub.program import quench


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_hub(hub_environment: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub behind TLS, with a certificate that only ``authority`` vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with FakeHub(tls=context) as hub:
        hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"weights" * 100_000})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return str(file)


@contextmanager
def connect_proxy(folder: Path, *options: str) -> Iterator[tuple[str, Path]]:
    """proxy.py on a free port: (its address, its log of connections)."""
    with closing(socket.socket()) as spare:
        spare.bind(("127.0.0.1", 0))
        port = spare.getsockname()[1]
    log = folder / "proxy.log"
    command = [
        sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(port), "--num-workers", "1",
        "--num-acceptors", "1", "--log-file", str(log), "--log-level", "INFO", "--data-dir", str(folder / "proxy"),
        *options,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield f"127.0.0.1:{port}", log
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until it listens; it is asked by connecting, which waits in the system."""
    while process.poll() is None:
        try:
            with closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                return
        except OSError:
            continue
    raise AssertionError(f"the proxy ended with {process.returncode}")


def test_a_download_goes_through_a_connect_proxy(
    secure_hub: FakeHub, trusted: str, tmp_path: Path, hub_environment: Path
) -> None:
    with connect_proxy(tmp_path) as (address, log):
        environment = {"HTTPS_PROXY": f"http://{address}", "SSL_CERT_FILE": trusted}
        status, data, err = quench("download", "org/model", **environment)
        assert status == 0, (data, err)
        assert {file["state"] for file in data["files"]} == {"verified"}
        wrong = quench("download", "org/other", **environment)
    assert (wrong[0], wrong[1]["error"]["code"]) == (3, "repo_not_found")
    ports = {url.rpartition(":")[2] for url in (secure_hub.url, secure_hub.storage)}
    text = log.read_text()
    assert "CONNECT" in text
    assert all(f"127.0.0.1:{port}" in text for port in ports), text


def test_a_proxy_from_the_settings_is_used(secure_hub: FakeHub, trusted: str, tmp_path: Path) -> None:
    from app import settings

    with connect_proxy(tmp_path) as (address, log):
        settings.save(settings.Settings(hub_proxy=f"http://{address}"))
        status, data, _ = quench("download", "org/model", SSL_CERT_FILE=trusted)
        assert status == 0, data
    assert "CONNECT" in log.read_text()


def test_a_proxy_that_wants_a_password(secure_hub: FakeHub, trusted: str, tmp_path: Path) -> None:
    with connect_proxy(tmp_path, "--basic-auth", "me:geheim-1") as (address, _):
        status, data, err = quench("search", "x", HTTPS_PROXY=f"http://me:falsch-2@{address}", SSL_CERT_FILE=trusted)
        assert (status, data["error"]["code"]) == (3, "proxy")
        assert "falsch-2" not in json.dumps(data) + err
        status, data, _ = quench("search", "x", HTTPS_PROXY=f"http://me:geheim-1@{address}", SSL_CERT_FILE=trusted)
        assert status == 0, data


def test_a_proxy_that_is_not_there(secure_hub: FakeHub, trusted: str, closed_port: str) -> None:
    environment = {"HTTPS_PROXY": f"http://me:geheim@{closed_port}", "SSL_CERT_FILE": trusted}
    status, data, err = quench("search", "x", **environment)
    assert (status, data["error"]["code"]) == (3, "proxy")
    assert "Settings" in data["error"]["hint"]
    assert "geheim" not in json.dumps(data) + err


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "ftp://x", "http://", "http://a:b"])
def test_a_proxy_that_cannot_be_used(secure_hub: FakeHub, proxy: str) -> None:
    status, data, err = quench("search", "x", HTTPS_PROXY=proxy)
    assert status == 3
    assert data["error"]["code"] in ("proxy", "bad_proxy")
    assert "Traceback" not in err


def test_a_certificate_that_nobody_vouches_for(secure_hub: FakeHub) -> None:
    status, data, _ = quench("search", "x")
    assert (status, data["error"]["code"]) == (3, "tls")
    assert "SSL_CERT_FILE" in data["error"]["hint"]
    assert secure_hub.seen == []


def test_a_certificate_file_that_is_none(secure_hub: FakeHub, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("not a certificate")
    for file in (bad, tmp_path / "missing.pem"):
        status, data, err = quench("search", "x", SSL_CERT_FILE=str(file))
        assert (status, data["error"]["code"]) == (3, "tls")
        assert "Traceback" not in err


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address at which nobody listens."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments", [("search", "x"), ("download", "org/model"), ("convert", "hf://a/b", "-o", "x", "--type", "F16")]
)
def test_no_network_is_told_and_nothing_hangs(
    hub_environment: Path, closed_port: str, arguments: tuple[str, ...]
) -> None:
    status, data, err = quench(*arguments, HF_ENDPOINT=f"http://{closed_port}")
    assert (status, data["error"]["code"]) == (3, "no_network")
    assert "on this machine" in data["error"]["hint"]
    assert "Traceback" not in err


def test_a_name_that_is_not_known(hub_environment: Path) -> None:
    status, data, _ = quench("search", "x", HF_ENDPOINT="http://hub.invalid")
    assert (status, data["error"]["code"]) == (3, "no_network")


def test_offline_mode_asks_nobody_and_uses_what_is_here(hub_environment: Path, closed_port: str, pocket: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": f"http://{closed_port}"}
    for arguments in (("search", "x"), ("download", "org/model")):
        status, data, _ = quench(*arguments, **environment)
        assert (status, data["error"]["code"]) == (3, "offline")
    status, data, _ = quench("inspect", str(pocket), **environment)
    assert status == 0, data


def test_a_hub_that_never_answers(fakehub: FakeHub) -> None:
    from app import settings
    from app.hub import access
    from app.hub.client import connect
    from app.hub.messages import Query
    from app.hub.search import search
    from converter.spec import QuenchError

    fakehub.fail("api", "*", "stall", times=99)
    hub = connect(access.access(settings.load()), stall=0.2)
    with closing(hub), pytest.raises(QuenchError) as caught:
        search(hub, Query("x"))
    assert caught.value.code == "timeout"
