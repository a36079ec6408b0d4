"""Importance matrices that are broken, foreign, or of another model."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from converter.imatrix import bare_name, read
from converter.spec import QuenchError


def gguf_file(path: Path, tensors: dict[str, np.ndarray], keys: bool = True, chunks: str = "") -> Path:
    writer = gguf.GGUFWriter(path, "imatrix")
    if keys:
        writer.add_array("imatrix.datasets", ["a.txt", "b.txt"])
        if chunks:
            writer.add_string("imatrix.chunk_count", chunks)
        else:
            writer.add_uint32("imatrix.chunk_count", 3)
        writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_each_expert_is_divided_by_its_own_count(tmp_path: Path) -> None:
    sums = np.array([[2, 4, 6], [10, 20, 30], [7, 7, 7]], np.float32)
    counts = np.array([[2], [10], [0]], np.float32)
    path = gguf_file(tmp_path / "m.gguf", {"e.weight.in_sum2": sums, "e.weight.counts": counts})
    found = read(path)
    weights = found.for_tensor("e.weight", (3, 8, 3))
    assert weights is not None
    assert np.array_equal(weights, [[1, 2, 3], [1, 2, 3], [1, 1, 1]])
    assert (found.file, found.dataset, found.chunks) == ("m.gguf", "a.txt", 3)
    assert found.for_tensor("other.weight", (8, 3)) is None
    with pytest.raises(QuenchError, match="needs 3"):
        found.for_tensor("e.weight", (8, 3))


def test_embeddings_of_another_size_are_ignored(tmp_path: Path) -> None:
    name = "token_embd.weight"
    tensors = {f"{name}.in_sum2": np.ones((1, 4), np.float32), f"{name}.counts": np.ones((1, 1), np.float32)}
    assert read(gguf_file(tmp_path / "m.gguf", tensors)).for_tensor(name, (10, 8)) is None


def legacy(*entries: tuple[bytes, int, list[float]]) -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        parts += [struct.pack("<i", len(name)), name, struct.pack("<ii", calls, len(values))]
        parts.append(np.array(values, "<f4").tobytes())
    return b"".join(parts)


def test_the_older_format_with_and_without_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(legacy((b"a.weight", 4, [4, 8]), (b"b.weight", 0, [3, 5])))
    found = read(path)
    assert found.entries["a.weight"].tolist() == [1, 2]
    assert found.entries["b.weight"].tolist() == [3, 5]
    assert (found.chunks, found.dataset) == (0, "")


GOOD = legacy((b"a.weight", 4, [4, 8]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GG",
        b"text that is no matrix at all",
        GOOD[:-1],
        GOOD[:10],
        legacy((b"a.weight", 1, [float("nan")])),
        legacy((b"a.weight", 1, [1.0, -1.0])),
        legacy((b"a.weight", 1, [])),
        struct.pack("<i", -5),
        struct.pack("<i", 0),
        struct.pack("<ii", 1, 1 << 30) + b"x" * 100,
    ],
    ids=[
        "empty",
        "two bytes",
        "text",
        "cut",
        "cut in a name",
        "nan",
        "below zero",
        "no values",
        "negative count",
        "none",
        "long name",
    ],
)
def test_broken_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(data)
    with pytest.raises(QuenchError) as caught:
        read(path)
    assert caught.value.code == "bad_imatrix"
    assert caught.value.exit_status == 3


def test_broken_gguf_files_are_refused(tmp_path: Path) -> None:
    one, count = np.ones((1, 4), np.float32), np.ones((1, 1), np.float32)
    broken = [
        gguf_file(tmp_path / "half.gguf", {"a.in_sum2": one}),
        gguf_file(tmp_path / "keys.gguf", {"a.in_sum2": one, "a.counts": count}, keys=False),
        gguf_file(tmp_path / "type.gguf", {"a.in_sum2": one.astype(np.float16), "a.counts": count}),
        gguf_file(tmp_path / "ratio.gguf", {"a.in_sum2": one, "a.counts": np.ones((1, 3), np.float32)}),
        gguf_file(tmp_path / "other half.gguf", {"a.counts": count}),
        gguf_file(tmp_path / "minus.gguf", {"a.in_sum2": -one, "a.counts": count}),
        gguf_file(tmp_path / "infinite.gguf", {"a.in_sum2": one * np.float32(np.inf), "a.counts": count}),
        gguf_file(tmp_path / "words.gguf", {"a.in_sum2": one, "a.counts": count}, chunks="many"),
        gguf_file(tmp_path / "model.gguf", {"a.weight": one}),
    ]
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(broken[0].read_bytes()[:50])
    for path in [*broken, cut]:
        with pytest.raises(QuenchError) as caught:
            read(path)
        assert caught.value.code == "bad_imatrix", path.name


@pytest.mark.parametrize("path", ["/home/me/a b.txt", "C:\\Users\\me\\a b.txt", "a b.txt", "dir/a b.txt/"])
def test_only_the_bare_name_is_kept(path: str) -> None:
    assert bare_name(path) == "a b.txt"
