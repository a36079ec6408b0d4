"""Views of stored tensors, against what numpy makes of the whole array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from converter.sources.base import SourceTensor
from converter.sources.files import ByteFile
from converter.sources.gathered import ChangedTensor, StackedTensor, file_tensor
from converter.sources.stored import StoredTensor
from converter.sources.views import View, placed
from tests.converter.folders import scattered, to_bytes

# Stored shape, view, the same with numpy.
VIEWS: dict[str, tuple[tuple[int, ...], View | None, Any]] = {
    "as it is": ((12, 10), None, lambda x: x),
    "rotary rows": (
        (48, 10), View("(h p j) ... -> (h j p) ...", {"h": 3, "p": 2}),
        lambda x: x.reshape(3, 2, 8, 10).swapaxes(1, 2).reshape(48, 10),
    ),
    "rotary bias": (
        (48,), View("(h p j) ... -> (h j p) ...", {"h": 3, "p": 2}),
        lambda x: x.reshape(3, 2, 8).swapaxes(1, 2).reshape(48),
    ),
    "transpose": ((40, 70), View("a b -> b a"), lambda x: x.T),
    "a large transpose": ((700, 900), View("a b -> b a"), lambda x: x.T),
    "second half of the rows": ((20, 7), View("(s f) c -> f c", {"s": 2}, at={"s": 1}), lambda x: x[10:]),
    "every second row": ((20, 7), View("(f s) ... -> f ...", {"s": 2}, at={"s": 1}), lambda x: x[1::2]),
    "fused to parts": (
        (36, 5), View("(h n d) c -> (n h d) c", {"h": 3, "n": 3}),
        lambda x: x.reshape(3, 3, 4, 5).swapaxes(0, 1).reshape(36, 5),
    ),
    "queries of groups": (
        (48, 5), View("(g x d) c -> (g x d) c", {"g": 3, "x": 4}, keep={"x": (0, 2)}),
        lambda x: x.reshape(3, 4, 4, 5)[:, :2].reshape(24, 5),
    ),
    "one of each group, rotary": (
        (64, 5), View("(g x p j) c -> (g j p) c", {"g": 4, "x": 4, "p": 2}, at={"x": 2}),
        lambda x: x.reshape(4, 4, 2, 2, 5)[:, 2].swapaxes(1, 2).reshape(16, 5),
    ),
    "heads of a matrix, transposed": (
        (24, 9), View("(h d) c -> h c d", {"h": 2}, keep={"d": (0, 5)}),
        lambda x: x.reshape(2, 12, 9)[:, :5].transpose(0, 2, 1),
    ),
    "the last rows, group by group": (
        (38, 5), View("(g r d) ... -> (r g d) ...", {"g": 2, "r": 3}, rows=(8, 38)),
        lambda x: x[8:].reshape(2, 3, 5, 5).swapaxes(0, 1).reshape(30, 5),
    ),
    "columns, group by group": (
        (7, 30), View("c (g r d) -> c (r g d)", {"g": 2, "r": 3}),
        lambda x: x.reshape(7, 2, 3, 5).swapaxes(1, 2).reshape(7, 30),
    ),
    "filters without their middle": (
        (38, 1, 4), View("(g r d) o t -> (r g d) t", {"g": 2, "r": 3}, at={"o": 0}, rows=(8, 38)),
        lambda x: x[8:, 0].reshape(2, 3, 5, 4).swapaxes(0, 1).reshape(30, 4),
    ),
    "experts, transposed and interleaved": (
        (3, 6, 8), View("e c (f s) -> e f c", {"s": 2}, at={"s": 1}), lambda x: x.transpose(0, 2, 1)[:, 1::2],
    ),
    "halves of experts": (
        (3, 8, 6), View("e (s f) c -> e f c", {"s": 2}, at={"s": 0}), lambda x: x[:, :4],
    ),
}  # fmt: skip


class Decoder:
    """Rows that no file holds: those of an array, in whole rows."""

    def __init__(self, values: np.ndarray, dtype: str) -> None:
        rows = values.reshape(-1, values.shape[-1])
        self.bytes = np.frombuffer(to_bytes(rows, dtype), np.uint8).reshape(len(rows), -1)

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        assert 0 <= start < stop <= len(self.bytes)
        return self.bytes[start:stop]

    def read_bytes(self, start: int, stop: int) -> int:
        return stop - start


def stored(folder: Path, values: np.ndarray, dtype: str, kind: str) -> StoredTensor:
    """An array as a file holds it: at an odd offset, transposed (with steps), or decoded by a reader."""
    lead = 3 if kind == "at an odd place" else 64
    raw = values.T if kind == "with steps" else values
    path = folder / "x.bin"
    path.write_bytes(bytes(lead) + to_bytes(np.ascontiguousarray(raw), dtype))
    strides = tuple(int(np.prod(values.shape[:axis])) for axis in range(values.ndim)) if kind == "with steps" else None
    reader = Decoder(values, dtype) if kind == "decoded" else None
    return StoredTensor("x", ByteFile(path), lead, values.size, dtype, values.shape, strides, reader)


def slabs(tensor: SourceTensor, step: int) -> np.ndarray:
    """All rows, in slabs of ``step``, as numbers; the raw bytes must say the same."""
    found = []
    for start in range(0, tensor.n_rows, step):
        stop = min(start + step, tensor.n_rows)
        rows = tensor.rows(start, stop)
        raw = tensor.raw(start, stop)
        assert raw.shape == (stop - start, tensor.row_bytes)
        if tensor.type == "F32":
            np.testing.assert_array_equal(raw.view("<f4"), rows)
        elif tensor.type == "BF16":
            np.testing.assert_array_equal(raw.view("<u2"), (rows.view("<u4") >> 16).astype("<u2"))
        tensor.release(start, stop)
        found.append(rows)
    return np.concatenate(found).reshape(tensor.shape)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
@pytest.mark.parametrize("kind", ["plain", "at an odd place", "with steps", "decoded"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_what_numpy_makes_of_the_array(name: str, kind: str, dtype: str, tmp_path: Path) -> None:
    shape, view, same = VIEWS[name]
    values = scattered(shape, 5)
    if dtype == "BF16":
        values = (values.view("<u4") & np.uint32(0xFFFF0000)).view(np.float32)
    expected = same(values)
    tensor = file_tensor(stored(tmp_path, values, dtype, kind), "y", view)
    assert tensor.shape == expected.shape and tensor.type == ("F32" if dtype == "F64" else dtype)
    for step in (1, 7, tensor.n_rows):
        np.testing.assert_array_equal(slabs(tensor, max(step, 1)), expected)


def test_rows_in_one_piece_are_not_copied(tmp_path: Path) -> None:
    values = scattered((3, 8, 6), 5)
    tensor = file_tensor(stored(tmp_path, values, "F32", "plain"), "y", VIEWS["halves of experts"][1])
    first, second = tensor.raw(0, 2), tensor.raw(1, 2)
    assert first.base is not None and np.shares_memory(first, second)


def test_experts_are_stacked(tmp_path: Path) -> None:
    values = [scattered((4, 6), seed) for seed in range(3)]
    parts = []
    for i, part in enumerate(values):
        (tmp_path / str(i)).mkdir()
        parts.append(file_tensor(stored(tmp_path / str(i), part, "F32", "plain"), "y"))
    tensor = StackedTensor("y", (3, 4, 6), parts)
    for step in (1, 3, 5, 12):
        np.testing.assert_array_equal(slabs(tensor, step), np.stack(values))
    assert tensor.place(9) == ("x", "x.bin", 1)
    assert tensor.read_bytes(3, 9) == 6 * 24 and tensor.rows(4, 4).shape == (0, 6)
    with pytest.raises(IndexError):
        tensor.rows(3, 13)


def test_parts_of_different_types_become_float32(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    values = scattered((2, 6), 1)
    half = file_tensor(stored(tmp_path, values, "F16", "plain"), "y")
    full = file_tensor(stored(tmp_path / "b", values, "F32", "plain"), "y")
    tensor = StackedTensor("y", (2, 2, 6), [half, full])
    assert tensor.type == "F32"
    np.testing.assert_array_equal(slabs(tensor, 4), np.stack([values.astype(np.float16).astype(np.float32), values]))


def test_a_change_is_made_in_float32(tmp_path: Path) -> None:
    values = scattered((4, 6), 1)
    tensor = ChangedTensor(file_tensor(stored(tmp_path, values, "F16", "plain"), "y"), lambda x: x + 1)
    np.testing.assert_array_equal(slabs(tensor, 3), values.astype(np.float16).astype(np.float32) + 1)


@pytest.mark.parametrize(
    "view",
    [
        View("(h p j) ... -> (h j p) ...", {"h": 5, "p": 2}),
        View("(h d) c -> (h d) c", {"h": 2}, keep={"d": (3, 9)}),
        View("(h d) c -> d c", {"h": 2}, at={"h": 2}),
        View("a b c -> a c b"),
        View("a -> a"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(view: View) -> None:
    with pytest.raises(ValueError):
        placed(view, (16, 4), None)
