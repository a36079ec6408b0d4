"""PyTorch checkpoints: read right without PyTorch, and nothing that they ask for is ever run."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import ConversionSpec, QuenchError, convert, open_model
from converter.sources.base import SourceTensor
from converter.sources.files import ByteFile
from converter.sources.gathered import file_tensor
from converter.sources.parts import read_part
from tests.converter.checkpoints import (
    Code,
    View,
    archive,
    checkpoint,
    entries,
    legacy,
    replace_weights,
    views_of,
)
from tests.converter.folders import bpe_tokenizer, scattered, to_bytes, tokenizer_size, write_folder, write_json
from tests.converter.reference import environment

VOCABULARY = tokenizer_size(bpe_tokenizer())


def make(folder: Path, kind: str = "qwen3", **changes: Any) -> dict[str, np.ndarray]:
    _, tensors = write_folder(folder, kind, vocab_size=VOCABULARY, **changes)
    write_json(folder / "tokenizer.json", bpe_tokenizer())
    return tensors


def converted(folder: Path, output: Path, kind: str = "F16") -> bytes:
    convert(ConversionSpec(str(folder), str(output), (kind,), overwrite=True))
    return output.read_bytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_checkpoint_converts_to_the_same_bytes_as_safetensors(kind: str, dtype: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tensors = make(folder, kind, dtype=dtype)
    expected = converted(folder, tmp_path / "a.gguf")
    replace_weights(folder, tensors, dtype)
    assert converted(folder, tmp_path / "b.gguf") == expected
    (folder / "pytorch_model.bin").write_bytes(legacy(*views_of(tensors, dtype)))
    assert converted(folder, tmp_path / "b.gguf") == expected, "the form before PyTorch 1.6"


def test_shards_and_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tensors = make(folder, "mistral", shards=3)
    expected = converted(folder, tmp_path / "a.gguf")
    replace_weights(folder, tensors, shards=3)
    assert converted(folder, tmp_path / "b.gguf") == expected
    for path in ("pytorch_model.bin.index.json", "pytorch_model-00002-of-00003.bin", "config.json"):
        with open_model(folder / path) as model:
            assert len({t.source_file for t in model.tensors}) == 3
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(QuenchError) as caught:
        open_model(folder)
    assert caught.value.code == "missing_shard"


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything at all")
    with open_model(tmp_path) as model:
        assert {t.source_file for t in model.tensors} == {"model.safetensors"}


def test_a_file_of_any_name_is_opened_by_itself(tmp_path: Path) -> None:
    tensors = make(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    (tmp_path / "epoch 3.pt").write_bytes(checkpoint(tensors))
    with open_model(tmp_path / "epoch 3.pt") as model:
        assert {t.source_file for t in model.tensors} == {"epoch 3.pt"}


def test_weights_inside_of_a_training_checkpoint(tmp_path: Path) -> None:
    views, storages = views_of(make(tmp_path), "BF16")
    inner = entries(views, storages)["archive/data.pkl"][2:-1]
    code = Code().add(b"}(").text("epoch").number(3).text("state_dict").add(inner).text("note").text("x").add(b"u")
    (tmp_path / "model.safetensors").unlink()
    files = entries(views, storages) | {"archive/data.pkl": code.stop()}
    (tmp_path / "pytorch_model.bin").write_bytes(archive(files))
    with open_model(tmp_path) as model:
        assert model.info.layers == 2


def test_an_output_tied_to_the_embedding_is_left_out(tmp_path: Path) -> None:
    """PyTorch lists both names with one storage, safetensors leave one out; the results are the same bytes."""
    folder = tmp_path / "model"
    tensors = make(folder)
    expected = converted(folder, tmp_path / "a.gguf")
    views, storages = views_of(tensors, "BF16")
    views["lm_head.weight"] = views["model.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(archive(entries(views, storages)))
    assert converted(folder, tmp_path / "b.gguf") == expected


STRIDED = {
    "transposed": View("0", (30, 40), (1, 30)),
    "some columns": View("0", (20, 7), (40, 1), offset=13),
    "every third column": View("0", (30, 13), (40, 3), offset=1),
    "every second row": View("0", (15, 40), (80, 1)),
    "one row for all": View("0", (50, 40), (0, 1), offset=40),
    "one number for all": View("0", (3, 5), (0, 0), offset=7),
    "three dimensions, turned": View("0", (4, 10, 30), (300, 1, 10)),
    "three dimensions, gaps": View("0", (3, 5, 4), (400, 40, 2)),
    "a column as a vector": View("0", (30,), (40,), offset=5),
    "dimensions of one": View("0", (1, 40, 1), (7, 1, 9), offset=80),
    "overlapping rows": View("0", (100, 40), (11, 1)),
    "nothing at all": View("0", (0, 40), (40, 1)),
    "parameter": View("0", (30, 40), (40, 1), parameter=True),
}


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
@pytest.mark.parametrize("name", STRIDED)
def test_views_of_a_storage(name: str, dtype: str, tmp_path: Path) -> None:
    """Against numpy's own view of the same numbers, in slabs of every size."""
    view = replace(STRIDED[name], dtype=dtype)
    values = (np.arange(1200) % 251).astype(np.float32)
    path = tmp_path / "weights.pt"
    path.write_bytes(archive(entries({"x": view}, {"0": to_bytes(values, dtype)})))
    strides = tuple(4 * stride for stride in view.strides)
    expected = np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides)
    found = read(path)
    rows = expected.reshape(-1, view.shape[-1])
    for step in (1, 7, 1000):
        slabs = [found.rows(a, min(a + step, len(rows))) for a in range(0, len(rows), step)]
        np.testing.assert_array_equal(np.concatenate(slabs) if slabs else rows[:0], rows)
    raw = found.raw(0, found.n_rows)
    assert raw.nbytes == found.n_bytes
    assert found.n_rows == 0 or raw.tobytes() == to_bytes(rows, "F32" if dtype == "F64" else dtype)


def read(path: Path) -> SourceTensor:
    """The only tensor of a file, as a source hands it out."""
    (stored,) = read_part(ByteFile(path))
    return file_tensor(stored, "x")


def test_a_transposed_matrix_is_gathered_in_pieces(tmp_path: Path) -> None:
    """More than a megabyte a slab, so that pieces of columns are put together."""
    values = scattered((1500, 700), 3)
    path = tmp_path / "weights.pt"
    path.write_bytes(archive(entries({"x": View("0", (700, 1500), (1, 700))}, {"0": to_bytes(values, "F32")})))
    np.testing.assert_array_equal(read(path).rows(11, 600), values.T[11:600])


def test_rotary_rows_of_a_strided_tensor(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tensors = make(folder, "llama")
    expected = converted(folder, tmp_path / "a.gguf")
    views, storages = views_of(tensors, "BF16")
    for name, view in views.items():
        if name.endswith("_proj.weight"):
            rows = view.shape[0]
            views[name] = View(view.key, view.shape, (1, rows), dtype="BF16")
            storages[view.key] = to_bytes(np.ascontiguousarray(tensors[name].T), "BF16")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(archive(entries(views, storages)))
    assert converted(folder, tmp_path / "b.gguf") == expected


def test_an_archive_with_64_bit_sizes(tmp_path: Path) -> None:
    tensors = make(tmp_path)
    files = entries(*views_of(tensors, "BF16"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, raw in files.items():
            with packed.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
                entry.write(raw)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(with_end64(out.getvalue()))
    with open_model(tmp_path) as model:
        found = next(t for t in model.tensors if t.name == "token_embd.weight")
        expected = to_bytes(tensors["model.embed_tokens.weight"], "BF16")
        assert found.raw(0, found.n_rows).tobytes() == expected


def with_end64(raw: bytes) -> bytes:
    """The archive with its directory's place and size in a 64-bit record, as beyond 4 GiB."""
    at = raw.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HLL", raw, at + 10)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return raw[:at] + end64 + locator + end


# --- hostile ---------------------------------------------------------------------------------------------------------


class Reduced:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def packed(code: bytes, **others: bytes) -> bytes:
    return archive({"archive/data.pkl": code, **others})


def one(view: View, raw: bytes = bytes(400)) -> bytes:
    return archive(entries({"x": view}, {view.key: raw}))


FLAG = "quench-was-here"
CALLS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "system": ("posix.system", lambda: pickle.dumps(Reduced(os.system, f"touch {FLAG}"), 2)),
    "system, text form": ("posix.system", lambda: b"cposix\nsystem\n(S'touch x'\ntR."),
    "system, by instance": ("posix.system", lambda: b"\x80\x02(X\x01\x00\x00\x00xiposix\nsystem\n."),
    "eval": ("builtins.eval", lambda: pickle.dumps(Reduced(eval, f"open('{FLAG}', 'w')"), 4)),
    "exec": ("builtins.exec", lambda: pickle.dumps(Reduced(exec, f"open('{FLAG}', 'w')"), 5)),
    "getattr": (
        "builtins.getattr",
        lambda: pickle.dumps(Reduced(getattr, Reduced(getattr, "x", "__class__"), "__mro__"), 4),
    ),
    "import": ("importlib.import_module", lambda: pickle.dumps(Reduced(importlib.import_module, "this"), 4)),
    "popen": ("subprocess.Popen", lambda: pickle.dumps(Reduced(subprocess.Popen, ["touch", FLAG]), 4)),
    "in a tensor's place": (
        "posix.system",
        lambda: Code().add(b"}").text("x").name("posix", "system").add(b"(").text(f"touch {FLAG}").add(b"tRs").stop(),
    ),
    "dotted name": (
        "collections.OrderedDict.__class__",
        lambda: Code().text("collections").text("OrderedDict.__class__").add(b"\x93)R").stop(),
    ),
    "a name with a bell": ("'os.\\x07'", lambda: Code().name("os", "\x07").stop()),
    "a name that looks alike": ("collections.OrderedDict ", lambda: Code().name("collections", "OrderedDict ").stop()),
}


@pytest.mark.parametrize("form", ["archive", "legacy"])
@pytest.mark.parametrize("name", CALLS)
def test_code_is_named_and_never_run(name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    called, build = CALLS[name]
    code = build()
    path = tmp_path / "weights.bin"
    if form == "archive":
        path.write_bytes(packed(code))
    else:
        head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join(head) + code)
    with pytest.raises(QuenchError) as caught:
        read_part(ByteFile(path))
    assert caught.value.code == "runs_code"
    assert caught.value.title == f"The checkpoint wants to run code: {called}."
    assert caught.value.detail and caught.value.hint
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["weights.bin"]
    assert "this" not in sys.modules


def test_other_things_of_pytorch_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(packed(Code().name("torch._utils", "_rebuild_tensor_v3").stop()))
    with pytest.raises(QuenchError) as caught:
        read_part(ByteFile(path))
    assert caught.value.code == "not_plain_tensors" and "torch._utils._rebuild_tensor_v3" in caught.value.title


def nested(depth: int) -> bytes:
    return Code().add(b"]" * depth, b"a" * (depth - 1)).stop()


def changed(change: Callable[[bytes], bytes]) -> bytes:
    return change(one(View("0", (10, 10), (10, 1))))


def patched(raw: bytes, magic: bytes, at: int, value: bytes, last: bool = True) -> bytes:
    """The archive with a field of one of its records overwritten."""
    where = (raw.rfind(magic) if last else raw.find(magic)) + at
    return raw[:where] + value + raw[where + len(value) :]


def overlapping() -> bytes:
    """Two names for one entry's bytes, as an archive that unpacks to more than it holds has them."""
    raw = archive(entries({"x": View("0", (10, 10), (10, 1))}, {"0": bytes(400)}))
    start = raw.find(b"PK\x01\x02")
    second = raw.find(b"PK\x01\x02", start + 1)
    third = raw.find(b"PK\x01\x02", second + 1)
    place = raw[start + 42 : start + 46]
    return raw[: second + 42] + place + raw[second + 46 : third] + raw[third:]


DAMAGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty": ("bad_checkpoint", lambda: b""),
    "no pickle": ("bad_checkpoint", lambda: b"hello" * 100),
    "another pickle": ("bad_checkpoint", lambda: pickle.dumps({"a": 1}, 2)),
    "archive of something else": ("bad_checkpoint", lambda: archive({"a/photo.jpg": b"x"})),
    "two lists of tensors": ("bad_checkpoint", lambda: archive({"a/data.pkl": b"N.", "b/data.pkl": b"N."})),
    "program": ("not_plain_tensors", lambda: archive({"a/data.pkl": b"N.", "a/constants.pkl": b"N."})),
    "big-endian": ("bad_checkpoint", lambda: packed(b"\x80\x02}.", **{"archive/byteorder": b"big"})),
    "no tensors": ("bad_checkpoint", lambda: packed(b"\x80\x02}.")),
    "only numbers": ("bad_checkpoint", lambda: packed(pickle.dumps({"x": 1}, 2))),
    "pickle without an end": ("bad_checkpoint", lambda: packed(b"\x80\x02}")),
    "pickle cut in a name": ("bad_checkpoint", lambda: packed(b"\x80\x02ctorch")),
    "stop on an empty stack": ("bad_checkpoint", lambda: packed(b"\x80\x02.")),
    "mark that stays open": ("bad_checkpoint", lambda: packed(b"\x80\x02(}.")),
    "old protocol": ("bad_checkpoint", lambda: packed(pickle.dumps({"x": 1}, 0))),
    "future protocol": ("bad_checkpoint", lambda: packed(b"\x80\x09N.")),
    "unknown instruction": ("bad_checkpoint", lambda: packed(b"\x80\x02\xff.")),
    "registered code": ("bad_checkpoint", lambda: packed(b"\x80\x02\x82\x01.")),
    "persistent name": ("bad_checkpoint", lambda: packed(b"\x80\x02Pstorage\n.")),
    "lists very deep": ("bad_checkpoint", lambda: packed(nested(200_000))),
    "marks very deep": ("bad_checkpoint", lambda: packed(b"\x80\x02" + b"(" * 1_000_000 + b".")),
    "tuples very deep as a key": (
        "bad_checkpoint",
        lambda: packed(b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns."),
    ),
    "too many instructions": ("bad_checkpoint", lambda: packed(b"\x80\x02" + b"N0" * 1_100_000 + b"N.")),
    "memo at the end of the world": ("bad_checkpoint", lambda: packed(b"\x80\x02Nr\xff\xff\xff\xff.")),
    "memo that was never filled": ("bad_checkpoint", lambda: packed(b"\x80\x02j\xff\xff\xff\xff.")),
    "memo doubled forty times": (
        "bad_checkpoint",
        lambda: packed(b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(40)) + b"."),
    ),
    "text of four gigabytes": ("bad_checkpoint", lambda: packed(b"\x80\x02X\xff\xff\xff\xffabc.")),
    "text of an exabyte": ("bad_checkpoint", lambda: packed(b"\x80\x04\x8d" + b"\xff" * 8 + b".")),
    "bytes of a negative number": ("bad_checkpoint", lambda: packed(b"\x80\x02T\xff\xff\xff\xff.")),
    "number of a megabyte": (
        "bad_checkpoint",
        lambda: packed(b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20) + b"."),
    ),
    "text that is no text": ("bad_checkpoint", lambda: packed(b"\x80\x02X\x02\x00\x00\x00\xff\xfe.")),
    "dictionary from a list": (
        "bad_checkpoint",
        lambda: packed(Code().name("collections", "OrderedDict").add(b"(]tR").stop()),
    ),
    "state of a list": ("bad_checkpoint", lambda: packed(b"\x80\x02]}b.")),
    "call of a text": ("bad_checkpoint", lambda: packed(Code().text("x").add(b")R").stop())),
    "call of a storage's kind": (
        "bad_checkpoint",
        lambda: packed(Code().name("torch", "FloatStorage").add(b")R").stop()),
    ),
    "object of an ordered dictionary": (
        "bad_checkpoint",
        lambda: packed(Code().name("collections", "OrderedDict").add(b")\x81").stop()),
    ),
    "tensor longer than its storage": ("bad_checkpoint", lambda: one(View("0", (10, 11), (11, 1)))),
    "tensor that begins behind its storage": ("bad_checkpoint", lambda: one(View("0", (1,), (1,), offset=100))),
    "tensor of 2^80 numbers": ("bad_checkpoint", lambda: one(View("0", (1 << 40, 1 << 40), (0, 0)))),
    "negative stride": ("bad_checkpoint", lambda: one(View("0", (10,), (-1,), offset=50))),
    "negative size": ("bad_checkpoint", lambda: one(View("0", (-5, 4), (1, 1)))),
    "negative offset": ("bad_checkpoint", lambda: one(View("0", (5,), (1,), offset=-1))),
    "strides of another shape": ("bad_checkpoint", lambda: one(View("0", (5, 4), (1,)))),
    "a hundred dimensions": ("bad_checkpoint", lambda: one(View("0", (1,) * 100, (1,) * 100))),
    "storage that claims more": ("bad_checkpoint", lambda: one(View("0", (10,), (1,), count=1000))),
    "storage that claims less": ("bad_checkpoint", lambda: one(View("0", (10,), (1,), count=10))),
    "storage that is not there": (
        "bad_checkpoint",
        lambda: packed(Code().state({"x": View("7", (1,), (1,))}, {"7": 1}).stop()),
    ),
    "storage outside of the folder": (
        "bad_checkpoint",
        lambda: packed(Code().state({"x": View("../../../etc/passwd", (1,), (1,), count=1)}, {}).stop()),
    ),
    "storage of an unknown kind": (
        "not_plain_tensors",
        lambda: packed(Code().state({"x": View("0", (1,), (1,), dtype="QInt8Storage", count=1)}, {}).stop()),
    ),
    "name with a line break": ("bad_checkpoint", lambda: packed_name("a\nb")),
    "name without letters": ("bad_checkpoint", lambda: packed_name("")),
    "compressed": ("bad_archive", lambda: archive(entries(*views_of({"x": np.zeros(9)}, "F32")), zipfile.ZIP_DEFLATED)),
    "path upwards": ("bad_archive", lambda: archive({"a/data.pkl": b"N.", "a/../../x": b"y"})),
    "path from the root": ("bad_archive", lambda: archive({"a/data.pkl": b"N.", "/etc/passwd": b"y"})),
    "cut in the middle": ("truncated", lambda: changed(lambda raw: raw[: len(raw) // 2])),
    "cut by one byte": ("truncated", lambda: changed(lambda raw: raw[:-1])),
    "bytes behind the end": ("truncated", lambda: changed(lambda raw: raw + b"x")),
    "bytes before the beginning": ("bad_archive", lambda: changed(lambda raw: raw[:4] + b"xx" + raw[4:])),
    "list of tensors changed": ("bad_checkpoint", lambda: changed(lambda raw: raw.replace(b"cpu", b"gpu"))),
    "size in the directory": ("bad_archive", lambda: changed(lambda raw: patched(raw, b"PK\x01\x02", 24, b"\xff\x00"))),
    "sizes in the directory": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x01\x02", 20, struct.pack("<2L", 1 << 30, 1 << 30))),
    ),
    "64-bit sizes that are not there": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x01\x02", 20, b"\xff" * 8)),
    ),
    "entry elsewhere": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x01\x02", 42, b"\x01\x00\x00\x00")),
    ),
    "entry behind the end": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x01\x02", 42, b"\xff\xff\xff\x7f")),
    ),
    "encrypted": ("bad_archive", lambda: changed(lambda raw: patched(raw, b"PK\x01\x02", 8, b"\x01\x00"))),
    "other name in the entry": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x03\x04", 30, b"b", last=False)),
    ),
    "more entries than there are": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x05\x06", 8, b"\x09\0\x09\0")),
    ),
    "directory elsewhere": ("bad_archive", lambda: changed(lambda raw: patched(raw, b"PK\x05\x06", 16, b"\0\0\0\0"))),
    "64-bit directory that is not there": (
        "bad_archive",
        lambda: changed(lambda raw: patched(raw, b"PK\x05\x06", 16, b"\xff\xff\xff\xff")),
    ),
    "overlapping entries": ("bad_archive", overlapping),
    "old form, storages cut": ("truncated", lambda: legacy(*single())[:-1]),
    "old form, a storage that claims more": ("bad_checkpoint", lambda: legacy(*single(), {"0": 1 << 60})),
    "old form, no storages": ("truncated", lambda: legacy(*single())[:-408]),
}  # fmt: skip


def single() -> tuple[dict[str, View], dict[str, bytes]]:
    return {"x": View("0", (10, 10), (10, 1))}, {"0": bytes(400)}


def packed_name(name: str) -> bytes:
    return archive(entries({name: View("0", (10,), (1,))}, {"0": bytes(40)}))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    code, build = DAMAGE[name]
    path = tmp_path / "weights.bin"
    path.write_bytes(build())
    file = ByteFile(path)
    try:
        with pytest.raises(QuenchError) as caught:
            read_part(file)
    finally:
        file.close()
    error = caught.value
    assert error.code == code, (error.title, error.detail)
    assert error.title.endswith(".") and error.detail and error.hint.endswith(".")


def test_cuts_and_flipped_bytes_are_errors_or_harmless(tmp_path: Path) -> None:
    """No exception but ours, whatever byte is wrong."""
    path = tmp_path / "weights.bin"
    for raw in (one(View("0", (2, 2), (2, 1)), bytes(16)), legacy({"x": View("0", (2,), (1,))}, {"0": bytes(8)})):
        for at in range(len(raw)):
            for damaged in (raw[:at], raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])[bool(at % 5) :]:
                path.write_bytes(damaged)
                file = ByteFile(path)
                try:
                    for tensor in read_part(file):
                        assert tensor.offset + tensor.n_bytes <= len(damaged)
                except QuenchError:
                    pass
                finally:
                    file.close()


@pytest.mark.parametrize("part", ["../x.bin", "/etc/x.bin", ".x.bin", "x.safetensors", "a\\b.bin", 7])
def test_an_index_that_leads_elsewhere(part: Any, tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": {"model.norm.weight": part}})
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "bad_index"


def test_an_index_that_lies(tmp_path: Path) -> None:
    tensors = make(tmp_path, shards=2)
    replace_weights(tmp_path, tensors, shards=2)
    names = list(tensors)
    parts = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    write_json(
        tmp_path / "pytorch_model.bin.index.json", {"weight_map": dict.fromkeys(names, parts[0]) | {"z": parts[1]}}
    )
    with pytest.raises(QuenchError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "missing_tensor"


def test_reading_a_checkpoint_imports_neither_torch_nor_pickle(tmp_path: Path) -> None:
    tensors = make(tmp_path)
    replace_weights(tmp_path, tensors)
    code = (
        "import sys\nfrom converter import open_model\n"
        "t = open_model(sys.argv[1]).tensors[0]; t.raw(0, t.n_rows)\n"
        "print(sorted({'torch', 'pickle', '_pickle', 'zipfile'} & set(sys.modules) - before))\n"
    ).replace("import sys\n", "import sys, numpy, kernels\nbefore = set(sys.modules)\n", 1)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


TORCH_SAVE = """
import sys, torch
from safetensors.torch import load_file

source, target, zipped = sys.argv[1:]
state = torch.nn.Module().state_dict()
for number, (name, value) in enumerate(load_file(source).items()):
    if number % 3 == 1 and value.dim() == 2:
        value = value.t().contiguous().t()
    elif number % 3 == 2:
        value = torch.cat([value, value])[len(value) :]
    state[name] = torch.nn.Parameter(value) if number % 2 else value
torch.save(state, target, _use_new_zipfile_serialization=zipped == "True")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_pytorch_writes(dtype: str, zipped: bool, tmp_path: Path) -> None:
    """Parameters, views and tied tensors of a real checkpoint, against the same model in safetensors."""
    folder = tmp_path / "model"
    make(folder, "llama", dtype=dtype)
    expected = converted(folder, tmp_path / "a.gguf", "Q8_0")
    weights = folder / "model.safetensors"
    command = [environment.python(), "-c", TORCH_SAVE, weights, folder / "pytorch_model.bin", str(zipped)]
    subprocess.run(command, check=True)
    weights.unlink()
    assert converted(folder, tmp_path / "b.gguf", "Q8_0") == expected
