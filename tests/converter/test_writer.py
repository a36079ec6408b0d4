"""The file writer: what it lays out is read by gguf-py, and a file is whole or absent."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from converter.pipeline import verify
from converter.sources.base import MetaEntry
from converter.spec import QuenchError
from converter.writer import Layout, PartFile, alignment_of, layout, pack_metadata, row_bytes

ENTRIES = [
    MetaEntry("general.architecture", "llama", "STRING"),
    MetaEntry("a.empty", "", "STRING"),
    MetaEntry("a.text", "größe 模型 ☕", "STRING"),
    MetaEntry("a.u8", 255, "UINT8"),
    MetaEntry("a.i8", -128, "INT8"),
    MetaEntry("a.u16", 65535, "UINT16"),
    MetaEntry("a.i16", -32768, "INT16"),
    MetaEntry("a.u32", 2**32 - 1, "UINT32"),
    MetaEntry("a.i32", -(2**31), "INT32"),
    MetaEntry("a.u64", 2**64 - 1, "UINT64"),
    MetaEntry("a.i64", -(2**63), "INT64"),
    MetaEntry("a.f32", 0.5, "FLOAT32"),
    MetaEntry("a.f64", 0.1, "FLOAT64"),
    MetaEntry("a.yes", True, "BOOL"),
    MetaEntry("a.no", False, "BOOL"),
    MetaEntry("a.words", ["one", "", "drei"], "ARRAY", "STRING"),
    MetaEntry("a.numbers", [1, -2, 3], "ARRAY", "INT32"),
    MetaEntry("a.scores", np.array([0.25, -1.5], np.float32), "ARRAY", "FLOAT32"),
    MetaEntry("a.flags", [True, False, True], "ARRAY", "BOOL"),
]
TENSORS = [("x.weight", (3, 64), "Q8_0"), ("y.bias", (5,), "F32"), ("z.weight", (2, 3, 256), "Q4_K")]


def made(entries: list[MetaEntry] = ENTRIES, alignment: int = 32) -> Layout:
    return layout([pack_metadata(entries)], len(entries), TENSORS, alignment)


def fill(part: PartFile) -> dict[str, bytes]:
    random = np.random.default_rng(5)
    content = {}
    for place in reversed(part.plan.tensors):
        content[place.name] = random.integers(0, 256, place.bytes, np.uint8).tobytes()
        part.write(place.offset, content[place.name])
    return content


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_gguf_py_reads_what_was_written(tmp_path: Path, alignment: int) -> None:
    entries = [*ENTRIES, MetaEntry("general.alignment", alignment, "UINT32")]
    plan = made(entries, alignment_of(entries))
    target = tmp_path / "file.gguf"
    with PartFile(target, plan) as part:
        content = fill(part)
        part.seal(verify)
        part.publish()
    assert list(tmp_path.glob("file*")) == [target]
    assert target.stat().st_size == plan.size
    reader = gguf.GGUFReader(target)
    for entry in entries:
        found = reader.fields[entry.key].contents()
        wanted = entry.value.tolist() if isinstance(entry.value, np.ndarray) else entry.value
        assert found == wanted and type(found) is type(wanted), entry.key
        assert reader.fields[entry.key].types[0].name == entry.type
    assert [t.name for t in reader.tensors] == [name for name, _, _ in TENSORS]
    for tensor, (name, shape, kind) in zip(reader.tensors, TENSORS, strict=True):
        assert tuple(reversed(tensor.shape.tolist())) == shape
        assert tensor.tensor_type.name == kind
        assert tensor.data.tobytes() == content[name]
        assert tensor.data_offset % alignment == 0


def test_the_header_equals_gguf_pys(tmp_path: Path) -> None:
    """The same keys and tensors written by the reference package give the same bytes (it drops empty strings)."""
    entries = [entry for entry in ENTRIES if entry.key not in {"a.empty", "a.words"}]
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    for entry in entries[1:]:
        item = gguf.GGUFValueType[entry.item_type] if entry.item_type else None
        value = entry.value.tolist() if isinstance(entry.value, np.ndarray) else entry.value
        writer.add_key_value(entry.key, value, gguf.GGUFValueType[entry.type], item)
    for name, shape, kind in TENSORS:
        count = int(np.prod(shape[:-1])) * row_bytes(kind, shape[-1])
        writer.add_tensor_info(name, shape, np.dtype(np.float16), count, gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    theirs = (tmp_path / "theirs.gguf").read_bytes()
    plan = made(entries)
    assert b"".join(plan.header)[: len(theirs)] == theirs
    assert plan.tensors[0].offset == -(-len(theirs) // 32) * 32


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q6_K", "IQ4_XS", "TQ1_0"])
def test_row_sizes_are_the_formats(kind: str) -> None:
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert row_bytes(kind, 3 * weights) == 3 * size
    if weights > 1:
        with pytest.raises(ValueError, match="blocks"):
            row_bytes(kind, weights + 1)


@pytest.mark.parametrize(
    "entry",
    [
        MetaEntry("k", 256, "UINT8"),
        MetaEntry("k", "text", "UINT32"),
        MetaEntry("k", 1, "STRING"),
        MetaEntry("k", [[1]], "ARRAY", "ARRAY"),
        MetaEntry("k", ["a"], "ARRAY", "INT32"),
        MetaEntry("k", 1, "UINT128"),
    ],
)
def test_values_that_do_not_fit_are_refused(entry: MetaEntry) -> None:
    with pytest.raises(QuenchError) as caught:
        pack_metadata([entry])
    assert caught.value.code == "bad_metadata"


@pytest.mark.parametrize("alignment", [0, 3, 1 << 21])
def test_impossible_alignments_are_refused(alignment: int) -> None:
    with pytest.raises(QuenchError):
        alignment_of([MetaEntry("general.alignment", alignment, "UINT32")])


def test_an_abandoned_file_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file.gguf"
    with pytest.raises(KeyboardInterrupt), PartFile(target, made()) as part:
        fill(part)
        assert (tmp_path / "file.gguf.part").exists()
        raise KeyboardInterrupt
    assert list(tmp_path.glob("file*")) == []


def test_the_target_changes_only_when_published(tmp_path: Path) -> None:
    target = tmp_path / "file.gguf"
    target.write_bytes(b"old")
    with PartFile(target, made()) as part:
        fill(part)
        part.seal(verify)
        assert target.read_bytes() == b"old"
        part.publish()
        assert target.stat().st_size == part.plan.size


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    target = tmp_path / "file.gguf"
    plan = made()
    with PartFile(target, plan) as part:
        fill(part)
        infos = len(b"".join(plan.header[:-1]))
        part.write(infos - 8, struct.pack("<Q", 0))
        with pytest.raises(QuenchError):
            part.seal(verify)
    assert list(tmp_path.glob("file*")) == []


def test_a_leftover_part_is_taken_over_and_its_bytes_do_not_shine_through(tmp_path: Path) -> None:
    target = tmp_path / "file.gguf"
    (tmp_path / "file.gguf.part").write_bytes(b"\xff" * 10_000)
    with PartFile(target, made()) as part:
        content = fill(part)
        part.seal(verify)
        part.publish()
    last = part.plan.tensors[-1]
    data = target.read_bytes()
    ends = [place.offset + place.bytes for place in part.plan.tensors]
    starts = [place.offset for place in part.plan.tensors[1:]] + [part.plan.size]
    assert all(not any(data[end:start]) for end, start in zip(ends, starts, strict=True))
    assert data[last.offset : last.offset + last.bytes] == content[last.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses the second opening by itself")
def test_a_second_writer_is_turned_away(tmp_path: Path) -> None:
    target = tmp_path / "file.gguf"
    with PartFile(target, made()) as part:
        content = fill(part)
        with pytest.raises(QuenchError) as caught:
            PartFile(target, made())
        assert caught.value.code == "busy"
        part.seal(verify)
        part.publish()
    first = part.plan.tensors[0]
    assert target.read_bytes()[first.offset : first.offset + first.bytes] == content[first.name]


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX signal")
def test_a_killed_writer_leaves_a_part_that_the_next_one_can_take(tmp_path: Path) -> None:
    target = tmp_path / "file.gguf"
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.converter.test_writer import made, PartFile\n"
        "part = PartFile(Path(sys.argv[1]), made()); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert [path.name for path in tmp_path.glob("file*")] == ["file.gguf.part"]
    with PartFile(target, made()) as part:
        fill(part)
        part.seal(verify)
        part.publish()
    assert [path.name for path in tmp_path.glob("file*")] == ["file.gguf"]
    assert target.stat().st_size == part.plan.size


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space for a file")
def test_the_space_is_taken_before_the_work(tmp_path: Path) -> None:
    """Otherwise a disk that fills up meanwhile would be met only after hours."""
    plan = layout([pack_metadata(ENTRIES)], len(ENTRIES), [("x.weight", (4096, 1024), "F16")], 32)
    with PartFile(tmp_path / "file.gguf", plan) as part:
        assert part.part.stat().st_blocks * 512 >= plan.size
