"""The command line under attack: lying models, strange names, closed streams, signals. Never a traceback."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

from tests.test_cli import ROOT, quench, quench_error, quench_json

Pocket = Callable[[str], Path]
LISTED = (2, 3, 4, 5)
posix = pytest.mark.skipif(os.name != "posix", reason="descriptors and signals are of Unix")


def patched(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A copy of a GGUF file with other metadata; a value is put in the key's own type, or (value, type) as given."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "llama")
    left = dict(changes)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value, kind, items = field.contents(), field.types[0], None
        if kind == gguf.GGUFValueType.ARRAY:
            items = field.types[-1]
        writer.add_key_value(field.name, left.pop(field.name, value), kind, items)
    for name, (value, kind) in left.items():
        writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def survives(*arguments: str | Path) -> tuple[int, dict[str, str]]:
    """Run a command that may fail; it must do so by the contract. (status, error or {})."""
    result = quench(*arguments, "--json", timeout=300)
    assert "Traceback" not in result.stderr, result.stderr
    data = json.loads(result.stdout)
    error: dict[str, str] = data.get("error", {})
    assert result.returncode in LISTED if error else result.returncode == 0
    if error:
        assert error["code"] != "internal" and error["title"] and (error["detail"] or error["hint"])
    return result.returncode, error


U, F, S = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
LIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no layers": ({"llama.block_count": 0}, ("bad_header",)),
    "more layers than there are": ({"llama.block_count": 99}, ("load_failed", "bad_header")),
    "a huge width": ({"llama.embedding_length": 2_000_000_000}, ("load_failed", "bad_header")),
    "no heads": ({"llama.attention.head_count": 0}, ("load_failed", "bad_header")),
    "odd heads": ({"llama.attention.head_count": 7}, ("load_failed", "bad_header")),
    "an epsilon that is no number": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, ("bad_header",)),
    "an endless context": ({"llama.context_length": 2**32 - 1}, ("",)),
    "an unknown pre-tokenizer": ({"tokenizer.ggml.pre": "nonsense"}, ("load_failed",)),
    "an unknown tokenizer": ({"tokenizer.ggml.model": "nonsense"}, ("load_failed",)),
    "experts that are not there": ({"llama.expert_count": (200, U)}, ("engine_died", "load_failed", "bad_header")),
    "a loop without an end": (
        {"tokenizer.chat_template": "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}"},
        ("template_limit",),
    ),
    "a huge text": ({"tokenizer.chat_template": "{{ 'x' * 10**9 }}"}, ("template_limit",)),
    "a huge number": ({"tokenizer.chat_template": "{{ 9**(9**9) }}"}, ("template_limit", "bad_template")),
    "a template of three megabytes": ({"tokenizer.chat_template": "a" * 3_000_000}, ("template_limit", "bad_template")),
    "a recursion": (
        {"tokenizer.chat_template": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"},
        ("template_limit", "bad_template"),
    ),
    "a way out of the sandbox": (
        {"tokenizer.chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
        ("bad_template", "template_refused"),
    ),
}


COVERED = ("a huge width", "no heads", "odd heads", "an unknown tokenizer", "a huge text", "a huge number",
           "a template of three megabytes", "a recursion", "a way out of the sandbox")  # fmt: skip
"""Met before a command's contract matters, and there by quick tests: :mod:`tests.engine.test_loading` and
:mod:`tests.engine.test_template`. The others are one of each kind of end."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COVERED else []) for name in LIES]
)
def test_a_gguf_that_lies_is_an_error_in_words(name: str, pocket_gguf: Pocket, tmp_path: Path) -> None:
    changes, codes = LIES[name]
    file = patched(pocket_gguf("Q4_K_M"), tmp_path / "lie.gguf", changes)
    _, error = survives("chat", file, "-p", "Hi", "--max-tokens", "2")
    assert error.get("code", "") in codes


def test_flipped_bytes_in_the_header_never_break_the_contract(pocket_gguf: Pocket, tmp_path: Path) -> None:
    good = pocket_gguf("Q4_K_M").read_bytes()
    chance = random.Random(11)
    codes = []
    for _ in range(3):
        data = bytearray(good)
        for _ in range(chance.choice((1, 3))):
            data[chance.randrange(8, 1500)] = chance.randrange(256)
        (tmp_path / "flip.gguf").write_bytes(data)
        codes.append(survives("chat", tmp_path / "flip.gguf", "-p", "Hi", "--max-tokens", "2")[1].get("code"))
    assert "bad_header" in codes


def test_bad_outputs_are_refused_before_any_work(pocket: Path, tmp_path: Path) -> None:
    loop, taken = tmp_path / "loop.gguf", tmp_path / "taken.gguf"
    loop.symlink_to(loop)
    taken.write_bytes(b"mine")
    pipe = tmp_path / "pipe"
    getattr(os, "mkfifo", Path.touch)(pipe)
    cases: list[tuple[int, str | Path, tuple[str, ...]]] = [
        (3, tmp_path / ("y" * 250 + ".gguf"), ("bad_output",)),  # fits, but not with the ending of a part
        (3, tmp_path / ("y" * 300 + ".gguf"), ("bad_output",)),
        (3, loop, ("bad_output",)),
        (3, taken, ("exists",)),
        (3, taken / "x.gguf", ("no_folder", "bad_output")),
        (3, pipe, ("bad_output", "exists")),  # a file where there are no pipes
        (2, "", ("usage",)),
    ]
    for status, output, codes in cases:
        over = ("--overwrite",) if output == pipe and pipe.is_fifo() else ()
        assert quench_error(status, "convert", pocket, "-o", output, "--type", "Q2_K", *over)["code"] in codes
    assert taken.read_bytes() == b"mine"
    assert loop.is_symlink()
    assert sorted(tmp_path.iterdir()) == [loop, pipe, taken]


def test_strange_names_work(pocket: Path, tmp_path: Path) -> None:
    for name in ("with spaces ünï 漢字.gguf", "-dash.gguf", "z" * 240 + ".gguf"):
        made = quench_json("convert", "--type", "Q8_0", "-o", tmp_path / name, pocket)
        assert made["outputs"][0]["path"] == str(tmp_path / name)
        assert quench_json("chat", tmp_path / name, "-p", "Hi", "--max-tokens", "2")["tokens"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_names_that_are_not_utf8_are_told_and_never_break_the_output(pocket_gguf: Pocket, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"b\xff.gguf")
    odd.write_bytes(pocket_gguf("Q4_K_M").read_bytes())
    assert quench_json("inspect", odd)["path"].endswith("b\ufffd.gguf")
    assert quench("inspect", odd).returncode == 0
    assert quench_error(3, "inspect", tmp_path / os.fsdecode(b"no\xfe"))["code"] == "not_found"
    convert = ("convert", odd, "-o", tmp_path / "out.gguf", "--type", "Q4_K_M")
    for command in (("chat", odd, "-p", "x"), ("library", "add", odd), ("bench", odd), convert):
        assert quench_error(3, *command)["code"] == "bad_name"
    assert quench_json("chat", pocket_gguf("Q4_K_M"), "-p", os.fsdecode(b"a\xffb"), "--max-tokens", "2")["tokens"] > 0


@pytest.mark.parametrize(
    ("status", "code", "arguments"),
    [
        (2, "empty_prompt", ("chat", "Q", "-p", "")),
        (2, "empty_prompt", ("chat", "Q", "-p", " \n")),
        (2, "empty_prompt", ("compare", "Q", "Q", "-p", "")),
        (2, "usage", ("chat", "Q", "-p", "x", "--temperature", "nan")),
        (2, "usage", ("chat", "Q", "-p", "x", "--lora", "adapter.gguf=nan")),
        (2, "usage", ("chat", "Q")),
        (3, "load_failed", ("bench", "FOLDER")),
        (2, "output_is_source", ("imatrix", "Q", "-o", "Q")),
        (2, "output_is_source", ("quality", "Q", "Q", "--report", "Q")),
        (2, "usage", ("quality", "Q", "Q", "--minutes", "inf")),
        (2, "bad_options", ("chat", "Q", "-p", "x", "--threads", "5000")),
        (2, "bad_sampling", ("chat", "Q", "-p", "x", "--max-tokens", "0")),
        (3, "context_full", ("chat", "Q", "-p", "word " * 20_000)),
        (4, "no_memory", ("chat", "Q", "-p", "x", "--context", str(1 << 24))),
        (3, "bad_text", ("quality", "Q", "Q", "--text", "FOLDER")),
        (3, "bad_text", ("quality", "Q", "Q", "--text", "/dev/zero")),
        (3, "text_not_utf8", ("quality", "Q", "Q", "--text", "BINARY")),
        (3, "text_too_short", ("quality", "Q", "Q", "--text", "SHORT")),
    ],
)
def test_values_out_of_reason(
    status: int, code: str, arguments: tuple[str, ...], pocket_gguf: Pocket, tmp_path: Path
) -> None:
    if "/dev/zero" in arguments and not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "short.txt").write_text("short")
    places = {
        "Q": str(pocket_gguf("Q4_K_M")),
        "FOLDER": str(tmp_path),
        "BINARY": str(tmp_path / "binary"),
        "SHORT": str(tmp_path / "short.txt"),
    }
    assert quench_error(status, *(places.get(word, word) for word in arguments))["code"] == code


def test_a_small_context_answers(pocket_gguf: Pocket) -> None:
    for tokens in (1, 300):
        text = "Tell me a story. " * 60 if tokens == 300 else "Hi"  # a prompt of more tokens than were asked for
        data = quench_json("chat", pocket_gguf("Q4_K_M"), "-p", text, "--max-tokens", "2", "--context", str(tokens))
        assert data["tokens"] > 0


def test_two_vocabularies_cannot_be_measured_against_each_other(pocket_gguf: Pocket, tmp_path: Path) -> None:
    good = pocket_gguf("Q4_K_M")
    tokens = gguf.GGUFReader(good).fields["tokenizer.ggml.tokens"].contents()
    tokens[500], tokens[501] = tokens[501], tokens[500]
    other = patched(good, tmp_path / "other.gguf", {"tokenizer.ggml.tokens": tokens})
    assert quench_error(3, "quality", good, other, "--chunks", "1")["title"]


def test_a_home_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file")
    assert quench_error(3, "--home", home, "library", "list")["code"] == "no_home"
    home.unlink()
    home.mkdir()
    (home / "quench.db").write_bytes(b"nonsense" * 1000)
    assert quench_error(3, "--home", home, "library", "list")["code"] == "store_damaged"
    (home / "quench.db").unlink()
    (home / "quench.db").mkdir()
    assert quench_error(3, "--home", home, "library", "list")["code"] == "store_unwritable"
    (home / "quench.db").rmdir()
    (home / "settings.json").mkdir()
    (home / "settings.json.bad").touch()
    assert [model["place"] for model in quench_json("--home", home, "library", "list")["models"]] == ["bundled"]


# ---- streams and signals ---------------------------------------------------------------------------------------


def in_shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``line`` in a shell, where ``"$@"`` is the program with ``arguments``."""
    words = ["sh", "-c", line, "sh", sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(words, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)


@posix
@pytest.mark.parametrize(
    "closed", [*(pytest.param(each, marks=pytest.mark.slow) for each in ("<&-", ">&-", "2>&-")), "<&- >&- 2>&-"]
)
def test_closed_streams_change_nothing_but_what_is_seen(
    closed: str, pocket: Path, pocket_gguf: Pocket, tmp_path: Path
) -> None:
    assert in_shell(f'"$@" {closed}', "convert", pocket, "-o", tmp_path / "p.gguf", "--type", "Q2_K").returncode == 0
    assert quench_json("inspect", tmp_path / "p.gguf")["bytes"] == (tmp_path / "p.gguf").stat().st_size
    for arguments in (("-p", "Hi", "--max-tokens", "2"), ()):  # without a prompt: a chat that ends at once
        answer = in_shell(f'"$@" {closed}', "chat", pocket_gguf("Q4_K_M"), *arguments)
        assert (answer.returncode, "Traceback" in answer.stderr) == (0, False)
    assert in_shell(f'"$@" {closed}', "inspect", tmp_path / "no", "--json").returncode == 3


@posix
def test_a_reader_that_leaves_and_a_full_disk_are_no_tracebacks(pocket_gguf: Pocket) -> None:
    model = pocket_gguf("Q4_K_M")
    for arguments in (("inspect", model), ("kernels", "list"), ("chat", model, "-p", "Hi", "--max-tokens", "50")):
        left = in_shell('{ "$@"; echo "status $?" >&2; } | head -c 1', *arguments)
        assert "status 0" in left.stderr
        assert "Error" not in left.stderr
    if Path("/dev/full").exists():
        for arguments in (("inspect", model, "--json"), ("inspect", model), ("inspect", "/no", "--json")):
            full = in_shell('"$@" > /dev/full', *arguments)
            assert full.returncode == 4
            assert os.strerror(errno.ENOSPC) in full.stderr and "Traceback" not in full.stderr


TYPES = "Q2_K,Q3_K_S,Q3_K_M,Q3_K_L,Q4_K_S,Q4_K_M,Q5_K_S,Q5_K_M,Q6_K,Q8_0,F16,BF16,F32"


def started(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command that has said its first word on stderr."""
    command = [sys.executable, "-m", "app", *map(str, arguments), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    return process


@posix
@pytest.mark.usefixtures("slow_kernels")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_command_that_is_ended_leaves_no_file_and_no_worker(
    name: str,
    long_model: Path,
    pocket_gguf: Pocket,
    endless_gguf: Path,
    tmp_path: Path,
) -> None:
    convert = started("convert", long_model, "-o", tmp_path / "out", "--type", TYPES)
    convert.send_signal(signal.Signals[name])
    out, err = convert.communicate(timeout=300)
    assert (convert.returncode, json.loads(out)["error"]["code"]) == (130, "interrupted"), err
    assert not list(tmp_path.rglob("*.*"))
    quality = started("quality", pocket_gguf("BF16"), endless_gguf)
    (worker,) = psutil.Process(quality.pid).children()
    quality.send_signal(signal.Signals[name])
    out, err = quality.communicate(timeout=300)
    assert (quality.returncode, json.loads(out)["error"]["code"]) == (130, "interrupted"), err
    assert not worker.is_running()


@posix
def test_a_command_killed_outright_takes_its_worker_along(pocket_gguf: Pocket, endless_gguf: Path) -> None:
    quality = started("quality", pocket_gguf("BF16"), endless_gguf)
    (worker,) = psutil.Process(quality.pid).children()
    quality.kill()
    quality.communicate(timeout=300)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.wait(120)
    assert not worker.is_running()


def test_conversions_into_one_file_exclude_each_other(pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "same.gguf"
    command = [sys.executable, "-m", "app", "convert", str(pocket), "-o", str(target), "--overwrite", "--json"]
    running = [
        subprocess.Popen([*command, "--type", kind], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for kind in ("Q4_K_M", "F32", "Q2_K")
    ]
    ends = [(process.communicate(timeout=300)[0], process.returncode) for process in running]
    assert 0 in [status for _, status in ends]
    for out, status in ends:
        assert status == 0 or json.loads(out)["error"]["code"] == "busy"
    assert quench_json("inspect", target)["problems"] == []
    assert list(tmp_path.iterdir()) == [target]


def test_a_safetensors_header_of_exabytes_is_not_believed(pocket: Path, tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    folder.mkdir()
    for file in pocket.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    error = quench_error(3, "convert", folder, "-o", tmp_path / "x.gguf", "--type", "Q8_0")
    assert error["code"] in ("bad_header", "truncated")
    assert not (tmp_path / "x.gguf").exists()
