"""A model folder's own tokenizer on any text, token by token, through the tokenizers library."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from converter.vocabulary import tekken
from converter.vocabulary.comparison import JSON_FILES, folder_tokenizer
from converter.vocabulary.files import TokenizerFiles
from converter.vocabulary.loading import encode
from converter.vocabulary.special import NAMES, token_text

if TYPE_CHECKING:
    from pathlib import Path

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Piece(NamedTuple):
    """A token: number, spelling in the vocabulary, the bytes that it stands for, whether it is a special one."""

    id: int
    spelling: str
    data: bytes
    special: bool


class FolderTokenizer:
    """The tokenizer of a folder. ``size`` is how many tokens it has. Raises ``QuenchError`` where it cannot be run."""

    def __init__(self, folder: Path) -> None:
        self._files = TokenizerFiles(folder)
        self._tokenizer = folder_tokenizer(self._files)
        self._added = self._tokenizer.get_added_tokens_decoder()
        self._byte_level = _is_byte_level(self._files)
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def split(self, text: str, *, special: bool = True, ends: bool = False) -> list[Piece]:
        """``special``: texts of special tokens become these; ``ends``: with what the file's post-processor puts in
        front and behind. Raises ``QuenchError`` ``bad_vocabulary`` as :func:`encode` does."""
        self._tokenizer.encode_special_tokens = not special
        return [self._piece(number) for number in encode(self._tokenizer, [text], special=ends)[0]]

    def named(self) -> dict[str, str]:
        """Texts of ``bos_token``, ``eos_token`` ... as the folder's configuration names them."""
        found = {f"{name}_token": token_text(self._files.config.get(f"{name}_token")) for name in NAMES}
        return {name: text for name, text in found.items() if text is not None}

    def _piece(self, number: int) -> Piece:
        added = self._added.get(number)
        if added is not None:
            return Piece(number, added.content, added.content.encode("utf-8", "replace"), bool(added.special))
        spelling = self._tokenizer.id_to_token(number) or ""
        return Piece(number, spelling, self._data(spelling), False)

    def _data(self, spelling: str) -> bytes:
        if self._byte_level:
            known = [_BYTES.get(character) for character in spelling]
            return bytes(byte for byte in known if byte is not None)
        if found := _BYTE.fullmatch(spelling):
            return bytes([int(found[1], 16)])
        return spelling.replace("▁", " ").removeprefix("##").encode("utf-8", "replace")


def _is_byte_level(files: TokenizerFiles) -> bool:
    if any(files.has(name) for name in JSON_FILES):
        return files.kind == "BPE" and files.is_byte_level
    return files.has(tekken.FILE)


def _byte_characters() -> dict[str, int]:
    """GPT-2's way to write bytes: printable Latin characters stand for themselves, the others follow from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(rest)}


_BYTES = _byte_characters()
