"""Two models compared: figures against gguf-py and numpy in float64, bytes and values told apart, hostile files."""

from __future__ import annotations

import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from converter.comparing import compare
from converter.difference import Compared, ComparisonDone, MetadataDifference, TensorDifference
from converter.spec import Cancelled, Progress, QuenchError
from tests.converter.gguf_files import GgufFile, number_key, string_key, tensor

Pocket = Callable[[str], Path]


class Found:
    """Everything that a comparison says."""

    def __init__(self, first: Path, second: Path, **options: Any) -> None:
        self.tensors: dict[str, TensorDifference] = {}
        self.metadata: dict[str, MetadataDifference] = {}
        self.names: list[str] = []
        self.done: ComparisonDone = compare(first, second, self._take, **options)

    def _take(self, event: object) -> None:
        if isinstance(event, Compared):
            self.metadata |= {entry.key: entry for entry in event.metadata}
            self.tensors |= {entry.name: entry for entry in event.tensors}
            self.names += [entry.name for entry in event.tensors]


def numbers(path: Path) -> dict[str, np.ndarray]:
    """Every tensor by gguf-py, float64."""
    return {
        entry.name: gguf.quants.dequantize(entry.data, entry.tensor_type).astype(np.float64)
        for entry in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [("BF16", "Q4_K_M"), ("F32", "Q8_0"), ("Q6_K", "Q2_K"), ("F16", "Q5_0"), ("BF16", "IQ4_XS"), ("Q3_K_M", "Q4_K_M")],
)
def test_the_figures_are_those_of_another_reader(pocket_gguf: Pocket, first: str, second: str) -> None:
    a, b = pocket_gguf(first), pocket_gguf(second)
    found = Found(a, b)
    ours, theirs = numbers(a), numbers(b)
    assert found.names == list(ours)
    for name, told in found.tensors.items():
        apart = ours[name] - theirs[name]
        if not apart.any():
            assert told.change in ("same", "same_values")
            continue
        assert told.change == "different"
        assert told.rmse == pytest.approx(np.sqrt(np.mean(apart**2)), rel=1e-6)
        assert told.largest == pytest.approx(np.abs(apart).max(), rel=1e-6)
        assert told.relative == pytest.approx(np.linalg.norm(apart) / np.linalg.norm(ours[name]), rel=1e-6)
        assert told.unequal == np.count_nonzero(apart)
    changes = {told.change for told in found.tensors.values()}
    assert "different" in changes


def test_the_order_of_the_threads_changes_nothing(pocket_gguf: Pocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.comparing._SLAB", 1 << 12)
    a, b = pocket_gguf("BF16"), pocket_gguf("Q4_K_M")
    assert Found(a, b, threads=1).tensors == Found(a, b, threads=7).tensors


def test_the_same_bytes_and_the_same_values_are_told_apart(pocket_gguf: Pocket, tmp_path: Path) -> None:
    assert {entry.change for entry in Found(*[pocket_gguf("Q4_K_M")] * 2).tensors.values()} == {"same"}
    wide = Found(pocket_gguf("BF16"), pocket_gguf("F32"))
    assert {entry.change for entry in wide.tensors.values()} == {"same", "same_values"}
    assert wide.tensors["token_embd.weight"].change == "same_values"
    zeros = written(tmp_path / "a.gguf", np.array([[0.0, 1.0] * 16], np.float32))
    minus = written(tmp_path / "b.gguf", np.array([[-0.0, 1.0] * 16], np.float32))
    assert Found(zeros, minus).tensors["token_embd.weight"].change == "same_values"


def test_one_weight_of_many_is_found(pocket_gguf: Pocket, tmp_path: Path) -> None:
    """Most slabs have the same bytes; the relative error is still over the whole tensor."""
    source = pocket_gguf("F32")
    changed = shutil.copy(source, tmp_path / "changed.gguf")
    entry = next(each for each in gguf.GGUFReader(source).tensors if each.name == "token_embd.weight")
    with Path(changed).open("r+b") as file:
        file.seek(int(entry.data_offset) + 4 * 1000)
        old = struct.unpack("<f", file.read(4))[0]
        file.seek(-4, 1)
        file.write(struct.pack("<f", old + 0.5))
    found = Found(source, Path(changed))
    told = found.tensors["token_embd.weight"]
    whole = np.asarray(entry.data, np.float64)
    assert told.unequal == 1
    assert told.largest == pytest.approx(0.5, rel=1e-6)
    assert told.relative == pytest.approx(0.5 / np.linalg.norm(whole), rel=1e-6)
    assert sum(each.change != "same" for each in found.tensors.values()) == 1


def test_rows_longer_than_a_piece_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.comparing._PIECE", 256)
    random = np.random.default_rng(5)
    ours, theirs = (random.standard_normal((3, 1024), dtype=np.float32) for _ in range(2))
    told = Found(written(tmp_path / "a.gguf", ours), written(tmp_path / "b.gguf", theirs)).tensors["token_embd.weight"]
    apart = ours.astype(np.float64) - theirs
    assert told.rmse == pytest.approx(np.sqrt(np.mean(apart**2)), rel=1e-9)
    assert told.largest == np.abs(apart).max()


def test_what_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    ours = np.ones((1, 32), np.float32)
    theirs = ours.copy()
    ours[0, :4] = [np.nan, np.inf, 3.4e38, np.nan]
    theirs[0, :4] = [np.nan, -np.inf, -3.4e38, 1.0]
    told = Found(written(tmp_path / "a.gguf", ours), written(tmp_path / "b.gguf", theirs)).tensors["token_embd.weight"]
    assert (told.change, told.not_finite, told.unequal) == ("different", 2, 3)
    assert told.largest == pytest.approx(6.8e38, rel=1e-6)
    assert told.rmse == pytest.approx(6.8e38 / np.sqrt(30), rel=1e-6)
    same = Found(tmp_path / "a.gguf", shutil.copy(tmp_path / "a.gguf", tmp_path / "c.gguf"))
    assert same.tensors["token_embd.weight"].change == "same"


def test_shapes_missing_tensors_and_unreadable_types_are_named(tmp_path: Path) -> None:
    def file(name: str, entries: list[bytes], data: int) -> Path:
        path = tmp_path / name
        path.write_bytes(GgufFile(tensors=entries, data=bytes(data)).build())
        return path

    a = file("a.gguf", [tensor("x", (32, 4), 0, 0), tensor("gone", (8,), 0, 512), tensor("odd", (8,), 26, 544)], 576)
    b = file("b.gguf", [tensor("x", (64, 2), 0, 0), tensor("odd", (8,), 27, 512), tensor("new", (8,), 0, 576)], 608)
    found = Found(a, b)
    assert [(name, found.tensors[name].change) for name in found.names] == [
        ("x", "shape"), ("gone", "only_first"), ("odd", "not_compared"), ("new", "only_second"),
    ]  # fmt: skip
    assert (found.tensors["x"].first_shape, found.tensors["x"].second_shape) == ((4, 32), (2, 64))
    assert "I32 and I64" in found.tensors["odd"].note


def test_metadata_is_compared_key_by_key(tmp_path: Path) -> None:
    def file(name: str, *keys: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(GgufFile(keys=[string_key("general.architecture", "llama"), *keys]).build())
        return path

    def strings(key: str, *values: str) -> bytes:
        head = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IIQ", 9, 8, len(values))
        return head + b"".join(struct.pack("<Q", len(value)) + value.encode() for value in values)

    a = file(
        "a.gguf", number_key("n", 1), number_key("gone", 2), strings("words", "a", "bc", "d"), string_key("s", "x")
    )
    b = file("b.gguf", number_key("n", 2), string_key("s", "x"), strings("words", "a", "bd", "d"), number_key("new", 3))
    found = Found(a, b)
    assert [(key, entry.change) for key, entry in found.metadata.items()] == [
        ("n", "changed"), ("gone", "removed"), ("words", "changed"), ("new", "added"),
    ]  # fmt: skip
    assert found.done.keys_same == 2
    assert found.metadata["words"].at == 1
    assert found.metadata["words"].first is not None
    assert (found.metadata["words"].first.type, found.metadata["words"].first.items) == ("ARRAY STRING", 3)
    number = found.metadata["n"]
    assert number.first is not None and number.second is not None
    assert (number.first.value, number.second.value) == (1, 2)


def test_a_folder_can_be_compared_with_what_was_made_of_it(pocket: Path, pocket_gguf: Pocket) -> None:
    found = Found(pocket, pocket_gguf("BF16"))
    assert {entry.change for entry in found.tensors.values()} <= {"same", "same_values"}
    assert all(entry.change == "added" for entry in found.metadata.values())  # what belongs to a file alone
    assert {"general.file_type", "general.quantization_version"} <= set(found.metadata)


def test_it_stops_when_told_to(pocket_gguf: Pocket) -> None:
    threads = threading.active_count()
    with pytest.raises(Cancelled):
        compare(pocket_gguf("BF16"), pocket_gguf("F32"), stopped=lambda: True)
    assert threading.active_count() == threads


def test_progress_never_passes_what_there_is_to_read(pocket_gguf: Pocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converter.comparing._REPORT", 0.0)
    heard: list[Progress] = []
    done = compare(
        pocket_gguf("BF16"),
        pocket_gguf("F32"),
        lambda event: heard.append(event) if isinstance(event, Progress) else None,
    )
    assert heard
    assert all(event.done <= event.total == done.bytes for event in heard)


@pytest.mark.parametrize("damage", ["truncated", "not_gguf", "bad_header"])
def test_a_damaged_side_is_an_error_in_words(pocket_gguf: Pocket, tmp_path: Path, damage: str) -> None:
    whole = pocket_gguf("Q8_0").read_bytes()
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(
        {"truncated": whole[:-5000], "not_gguf": b"x" * 64, "bad_header": GgufFile(n_keys=7).build()}[damage]
    )
    for sides in ((bad, pocket_gguf("Q8_0")), (pocket_gguf("Q8_0"), bad)):
        with pytest.raises(QuenchError) as caught:
            compare(*sides)
        assert caught.value.code in (damage, "truncated")


def written(path: Path, values: np.ndarray) -> Path:
    rows, columns = values.shape
    path.write_bytes(
        GgufFile(tensors=[tensor("token_embd.weight", (columns, rows), 0, 0)], data=values.tobytes()).build()
    )
    return path
