"""GGUF files written byte by byte, so that any number in them can be a lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw) if length is None else length) + raw


def string_key(key: str, value: str) -> bytes:
    return text(key) + u32(8) + text(value)


def number_key(key: str, value: int) -> bytes:
    return text(key) + u32(4) + u32(value)


def tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int, n_dims: int | None = None) -> bytes:
    """A tensor's entry; ``dims`` in the file's order, the row length first."""
    return (
        text(name) + u32(len(dims) if n_dims is None else n_dims) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)
    )


@dataclass
class GgufFile:
    """Parts of a file; :meth:`build` joins them. Counts follow the parts unless they are set."""

    keys: list[bytes] = field(default_factory=lambda: [string_key("general.architecture", "llama")])
    tensors: list[bytes] = field(default_factory=lambda: [tensor("token_embd.weight", (32, 4), 0, 0)])
    data: bytes = bytes(32 * 4 * 4)
    magic: bytes = b"GGUF"
    version: int = 3
    n_keys: int | None = None
    n_tensors: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        head = self.magic + u32(self.version)
        head += u64(len(self.tensors) if self.n_tensors is None else self.n_tensors)
        head += u64(len(self.keys) if self.n_keys is None else self.n_keys)
        head += b"".join(self.keys) + b"".join(self.tensors)
        return head + bytes(-len(head) % self.alignment) + self.data
