"""The face that every source of weights shows: what it is, its tensors, and its GGUF metadata.

A source is read in slabs of rows. Nothing here opens a file: the readers in this package do, and hand out objects of
these classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from converter.sources.files import ByteFile
    from converter.sources.stored import StoredTensor
    from converter.sources.views import View
    from converter.spec import ModelInfo


@dataclass(frozen=True, slots=True)
class MetaEntry:
    """One GGUF key and its value, ready to write.

    ``type`` and ``item_type`` are names of ``gguf.GGUFValueType`` members (``UINT32``, ``STRING``, ``ARRAY`` ...);
    ``item_type`` is set for arrays only. Strings are ``str`` or, where a file holds bytes that are no UTF-8,
    ``bytes``. An array value is a list, or a numpy array for long numeric ones.
    """

    key: str
    value: Any
    type: str
    item_type: str | None = None


@dataclass(frozen=True, slots=True)
class RecipeHints:
    """What the types depend on. ``kv_heads`` and ``heads`` are those of the first layer; ``experts`` 0 if none.

    ``half`` is the 16-bit type that stands for a quantized checkpoint's own where no matrix has one, empty if none.
    """

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int
    half: str = ""


class SourceTensor(ABC):
    """One tensor as the output will hold it: GGUF name, row-major shape, permutations already applied on reading.

    ``type`` is the GGML type of the source's bytes (``F32``, ``F16``, ``BF16``, ``Q4_K`` ...). A tensor of one
    dimension is one row. ``source_name`` and ``source_file`` are for messages (:meth:`place` is exact where several
    stored tensors make up one). ``view`` is what was done to the order of the stored rows, None if nothing was.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    source_name: str
    source_file: str
    view: View | None = None

    @property
    def n_cols(self) -> int:
        """Length of a row: the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Product of the leading dimensions."""
        rows = 1
        for dim in self.shape[:-1]:
            rows *= dim
        return rows

    @property
    def n_elements(self) -> int:
        return self.n_rows * self.n_cols

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole tensor in the source's type."""
        return self.n_rows * self.row_bytes

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of one row in the source's type."""

    @property
    @abstractmethod
    def readable(self) -> bool:
        """Whether :meth:`rows` can give numbers; quantized types without a decoder can only be copied raw."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows ``start`` to ``stop`` widened to float32, C-contiguous ``(stop - start, n_cols)``, owned by the caller.

        Raises ``QuenchError`` (``truncated`` if the file shrank, ``unsupported_type`` if there is no decoder) and
        ``IndexError`` for rows outside the tensor.
        """

    @abstractmethod
    def raw(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """The same rows as the source's bytes, ``(stop - start, row_bytes)``, C-contiguous, not to be written to.

        Where they lie in a file just so, this is a view of the file's map: no copy, aligned for its type, and good as
        long as it is kept, also after the model was closed. Raises what :meth:`rows` raises.
        """

    def place(self, row: int) -> tuple[str, str, int]:
        """What a row is called where it is stored: tensor, file, and the row in that tensor as it is read here."""
        return self.source_name, self.source_file, row

    def read_bytes(self, start: int, stop: int) -> int:
        """Bytes that must be read for these rows; over all rows, what the tensor costs the disk."""
        return (stop - start) * self.row_bytes

    def release(self, start: int, stop: int) -> None:  # noqa: B027 - a hint, which not every tensor has a use for
        """Says that what :meth:`raw` gave of these rows was used; it stays valid, but leaves the resident memory."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A model folder's weights as they are stored, and what an architecture makes of them.

    ``made`` gives the GGUF tensors for a list of stored ones; it raises ``QuenchError`` where they do not fit.
    ``name`` is a stored tensor's name as transformers has it; ``output`` and ``embedding`` are such names of the two
    matrices that may be one. ``turned`` says of such a name whether its module keeps its matrix as (in, out).
    """

    stored: Sequence[StoredTensor]
    made: Callable[[list[StoredTensor]], list[SourceTensor]]
    name: Callable[[str], str]
    output: str
    embedding: str
    turned: Callable[[str], bool]


@dataclass
class SourceModel:
    """An opened model folder or GGUF file. Close it, or use it as a context manager.

    ``tensors`` are in the order in which a whole file lists them. ``metadata`` is built when first asked for (a
    vocabulary may take a second) and holds neither ``general.file_type`` nor ``general.quantization_version``: those
    belong to the output. It may raise ``QuenchError``. ``files`` are all that weights are read from: a conversion can
    only be resumed when it knows them again. ``working_bytes`` is memory that reading takes beside the rows.
    ``incomplete`` is a sentence if files of the model are missing: it can be looked at but not converted. ``weights``
    is there for model folders.
    """

    info: ModelInfo
    tensors: list[SourceTensor]
    hparams: RecipeHints
    build_metadata: Callable[[], list[MetaEntry]]
    on_close: Callable[[], None]
    files: Sequence[ByteFile] = ()
    working_bytes: int = 0
    incomplete: str = ""
    weights: Weights | None = None
    _metadata: list[MetaEntry] | None = field(default=None, init=False, repr=False)

    @property
    def metadata(self) -> list[MetaEntry]:
        if self._metadata is None:
            self._metadata = self.build_metadata()
        return self._metadata

    def close(self) -> None:
        """Gives the files back; reading tensors afterwards raises ``QuenchError``."""
        self.on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
