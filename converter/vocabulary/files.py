"""The tokenizer's files of a model folder, read once, bounded, and checked for the types that the code relies on."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from converter.sources.files import CONFIG_LIMIT, read_bounded, read_json, read_text
from converter.spec import QuenchError

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

# The largest published tokenizer.json have about 35 MB.
TOKENIZER_LIMIT = 95 << 20
TEMPLATE_LIMIT = 4 << 20
MAX_TEMPLATES = 64
MAX_TOKEN_ID = 1 << 24
MAX_TOKEN_LENGTH = 1 << 16
MAX_PATTERN = 1 << 16


class AddedToken(msgspec.Struct, frozen=True):
    """An entry of ``added_tokens``. ``normalized`` and ``special`` as the tokenizers library understands them."""

    content: str
    id: int = -1
    special: bool = False
    normalized: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False


class BpeModel(msgspec.Struct, frozen=True):
    """The ``model`` part of a tokenizer.json of type BPE. A merge is a string with a space, or a pair."""

    vocab: dict[str, int]
    merges: list[str | tuple[str, str]] = []
    type: str | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None
    unk_token: str | None = None


class WordPieceModel(msgspec.Struct, frozen=True):
    """The ``model`` part of a tokenizer.json of type WordPiece."""

    vocab: dict[str, int]
    unk_token: str = "[UNK]"
    continuing_subword_prefix: str = "##"


class UnigramModel(msgspec.Struct, frozen=True):
    """The ``model`` part of a tokenizer.json of type Unigram: tokens in the order of their numbers, with their
    logarithmic probabilities."""

    vocab: list[tuple[str, float]]
    unk_id: int | None = None


class _Kind(msgspec.Struct, frozen=True):
    type: str | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None


class Outline(msgspec.Struct, frozen=True):
    """tokenizer.json without its long parts: quick to decode whatever the size of the vocabulary."""

    model: _Kind
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    normalizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None
    added_tokens: list[AddedToken] | None = None


class _WholeBpe(msgspec.Struct, frozen=True):
    model: BpeModel


class _WholeWordPiece(msgspec.Struct, frozen=True):
    model: WordPieceModel


class _WholeUnigram(msgspec.Struct, frozen=True):
    model: UnigramModel


class TokenizerFiles:
    """The folder's tokenizer files; each is read when first asked for. Damage raises ``QuenchError``
    ``bad_vocabulary``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    @cached_property
    def tokenizer_bytes(self) -> bytes:
        """tokenizer.json; where there is none, what the older files (vocab.json, vocab.txt) stand for."""
        if self.has("tokenizer.json"):
            return read_bounded(self.folder / "tokenizer.json", TOKENIZER_LIMIT)
        from converter.vocabulary.older import as_tokenizer_json

        return as_tokenizer_json(self)

    @cached_property
    def outline(self) -> Outline:
        return decode(self.tokenizer_bytes, Outline, "tokenizer.json")

    @cached_property
    def kind(self) -> str:
        """What tokenizer.json holds: ``BPE``, ``WordPiece``, ``Unigram`` or something else. Old files name no type."""
        found = self.outline.model.type
        return "BPE" if found is None else found

    @property
    def is_byte_level(self) -> bool:
        """Whether a BPE tokenizer.json writes bytes as letters, as GPT-2 did, and is not a SentencePiece model's."""
        decoder = str((self.outline.decoder or {}).get("type"))
        if decoder == "ByteLevel" or not self.outline.model.byte_fallback:
            return True
        return decoder != "Sequence"

    @cached_property
    def bpe(self) -> BpeModel:
        """The vocabulary and merges of tokenizer.json, which must be BPE."""
        self._expect("BPE")
        return decode(self.tokenizer_bytes, _WholeBpe, "tokenizer.json").model

    @cached_property
    def word_piece(self) -> WordPieceModel:
        self._expect("WordPiece")
        return decode(self.tokenizer_bytes, _WholeWordPiece, "tokenizer.json").model

    @cached_property
    def unigram(self) -> UnigramModel:
        self._expect("Unigram")
        return decode(self.tokenizer_bytes, _WholeUnigram, "tokenizer.json").model

    def _expect(self, kind: str) -> None:
        if self.kind != kind:
            raise QuenchError(
                "unknown_tokenizer",
                "This kind of tokenizer cannot be converted.",
                f"tokenizer.json holds a {self.kind[:40]} model; this architecture has {kind}.",
                "Look for a ready GGUF file of this model.",
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json; empty if there is none."""
        return self.optional_json("tokenizer_config.json")

    def optional_json(self, name: str) -> dict[str, Any]:
        """A small JSON object of the folder; empty if the file is not there."""
        if not self.has(name):
            return {}
        return read_json(self.folder / name, limit=8 * CONFIG_LIMIT, code="bad_vocabulary")

    @cached_property
    def declared_class(self) -> str:
        """``tokenizer_class`` of tokenizer_config.json without the ``Fast`` at its end; may be empty."""
        found = self.config.get("tokenizer_class")
        return found.removesuffix("Fast") if isinstance(found, str) else ""

    def optional_text(self, name: str) -> str | None:
        if not self.has(name):
            return None
        return read_text(self.folder / name, TEMPLATE_LIMIT)

    def named_templates(self) -> dict[str, str]:
        """The templates of the folder additional_chat_templates by file name without ``.jinja``."""
        folder = self.folder / "additional_chat_templates"
        if not folder.is_dir():
            return {}
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".jinja"))
        if len(names) > MAX_TEMPLATES:
            raise damaged(f"additional_chat_templates holds {len(names)} templates")
        return {name.removesuffix(".jinja"): read_text(folder / name, TEMPLATE_LIMIT) for name in names}

    @cached_property
    def added_tokens(self) -> list[AddedToken]:
        """``added_tokens`` of tokenizer.json, in the file's order."""
        if not self.has("tokenizer.json"):
            return []
        for token in self.outline.added_tokens or []:
            check_text(token.content, "an added token")
        return list(self.outline.added_tokens or [])

    @cached_property
    def declared_tokens(self) -> dict[int, AddedToken]:
        """``added_tokens_decoder`` of tokenizer_config.json by token id."""
        declared = self.config.get("added_tokens_decoder")
        if declared is None:
            return {}
        if not isinstance(declared, dict):
            raise damaged("added_tokens_decoder of tokenizer_config.json is not an object")
        result = {}
        for key, entry in declared.items():
            if not (key.isascii() and key.isdecimal() and len(key) < 10):
                raise damaged(f"added_tokens_decoder has the number {key[:40]!r}")
            token = convert(entry, AddedToken, "added_tokens_decoder")
            check_text(token.content, "an added token")
            result[int(key)] = token
        return result


def decode(data: bytes, kind: type[T], what: str) -> T:
    """``data`` as JSON of the shape ``kind``; any failure is a ``QuenchError`` ``bad_vocabulary``."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(f"{what}: {error}") from error


def convert(value: Any, kind: type[T], what: str) -> T:
    """A parsed JSON value as ``kind``; otherwise ``QuenchError`` ``bad_vocabulary``."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.MsgspecError as error:
        raise damaged(f"{what}: {error}") from error


def as_text(data: bytes, what: str) -> str:
    """UTF-8 bytes as text; ``QuenchError`` ``bad_vocabulary`` for others."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(f"{what} is no UTF-8 text: {error}") from error


def check_text(text: str, what: str) -> str:
    """Refuses text that cannot be written as UTF-8 (half of a surrogate pair)."""
    if len(text) > TEMPLATE_LIMIT:
        raise damaged(f"{what} has {len(text)} characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise damaged(f"{what} is no valid text: {error}") from error
    return text


def damaged(reason: str) -> QuenchError:
    return QuenchError(
        "bad_vocabulary",
        "The model's vocabulary is damaged.",
        f"{reason.rstrip('.')}.",
        "Download the tokenizer's files again from the model's page.",
    )
