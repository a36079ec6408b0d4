"""What two models differ in, as plain data: metadata key by key, weights tensor by tensor.

"First" and "second" are the two models in the order in which they were named. Cheap to import; found by
:mod:`converter.comparing`.
"""

from __future__ import annotations

from typing import Any

import msgspec

SAME, SAME_VALUES, DIFFERENT = "same", "same_values", "different"
SHAPE, ONLY_FIRST, ONLY_SECOND, NOT_COMPARED = "shape", "only_first", "only_second", "not_compared"
ADDED, REMOVED, CHANGED = "added", "removed", "changed"


class MetadataValue(msgspec.Struct, frozen=True):
    """``type`` is a GGUF type name (``UINT32``, ``STRING``, ``ARRAY STRING`` ...), ``items`` 1 unless an array.

    ``value`` is the value, of a long one its beginning.
    """

    type: str
    items: int
    value: Any


class MetadataDifference(msgspec.Struct, frozen=True):
    """A key that is not the same in both. ``change``: ``added`` (only the second has it), ``removed`` (only the first)
    or ``changed``; ``at`` is the first item in which two arrays of one type part, else -1."""

    key: str
    change: str
    first: MetadataValue | None = None
    second: MetadataValue | None = None
    at: int = -1


class TensorDifference(msgspec.Struct, frozen=True):
    """One tensor of either model. ``change`` says how it compares:

    - ``same``: one type and the same bytes;
    - ``same_values``: other bytes or types, but every weight is the same number;
    - ``different``: then ``rmse`` is the root of the mean squared difference, ``largest`` the largest difference of one
      weight, ``relative`` sqrt(sum (x - y)^2 / sum x^2) over the weights x of the first and y of the second (None where
      the first has none but zeros), ``unequal`` how many weights are not the same number;
    - ``shape``: the shapes differ, so that weights cannot be told against each other;
    - ``only_first``, ``only_second``;
    - ``not_compared``: ``note`` says why, such as a type that cannot be read as numbers.

    Shapes are row-major, types GGML names; those of a side that has no such tensor are empty. Weights that are no
    number in one of both and not the same in the other are counted in ``not_finite`` and left out of the figures.
    """

    name: str
    change: str
    first_type: str = ""
    second_type: str = ""
    first_shape: tuple[int, ...] = ()
    second_shape: tuple[int, ...] = ()
    rmse: float = 0.0
    largest: float = 0.0
    relative: float | None = 0.0
    unequal: int = 0
    not_finite: int = 0
    note: str = ""


class Compared(msgspec.Struct, frozen=True, tag_field="message", tag="compared"):
    """Some of what was found: every part of it comes once, metadata first, tensors in the order of the first model and
    then those that only the second has."""

    metadata: tuple[MetadataDifference, ...] = ()
    tensors: tuple[TensorDifference, ...] = ()


class ComparisonDone(msgspec.Struct, frozen=True, tag_field="message", tag="comparison_done"):
    """The end of a comparison. ``keys_same`` metadata keys are equal in both; ``bytes`` of both were read.

    ``notes`` are sentences, such as that a part of a split model is missing.
    """

    first: str
    second: str
    keys_same: int
    tensors: int
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()


ComparisonEvent = Compared | ComparisonDone
