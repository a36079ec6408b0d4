"""Special tokens, the flags that add them, merges and chat templates, as GGUF keys.

Follows the order in which llama.cpp's converter looks: the post-processor of tokenizer.json for the flags, the names
in tokenizer_config.json for the ids, and ``*_token_id`` of config.json for what is still open.
"""

from __future__ import annotations

import string
from functools import cache
from typing import TYPE_CHECKING, Any

from converter.sources.base import MetaEntry
from converter.vocabulary.files import check_text, damaged

if TYPE_CHECKING:
    from converter.vocabulary.files import TokenizerFiles

NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# "seperator" is how the format spells it.
_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}
_FLAG_KEYS = {"bos": "add_bos_token", "eos": "add_eos_token", "sep": "add_sep_token"}
_TEMPLATE_NAME = frozenset(string.ascii_letters + string.digits)


class SpecialTokens:
    """What a folder says about its special tokens. ``ids`` and ``flags`` are keyed ``bos``, ``eos`` ..."""

    def __init__(self, files: TokenizerFiles, config: dict[str, Any], n_vocab: int) -> None:
        self.ids: dict[str, int] = {}
        self.flags: dict[str, bool] = {}
        self._normalizer: dict[str, bool] = {}
        self._files = files
        self._n_vocab = n_vocab
        self._names = list(NAMES)
        # A working copy: the post-processor may fill in names that the file leaves open.
        self._contents = {name: token_text(files.config.get(f"{name}_token")) for name in NAMES}
        if files.has("tokenizer.json"):
            for name, stand_in in (("bos", "cls"), ("eos", "sep")):
                self._contents[name] = self._contents[name] or self._contents[stand_in]
            self._read_normalizer(files.outline.normalizer)
            self._read_post_processor(files.outline.post_processor)
        if files.has("tokenizer_config.json"):
            self._read_flags_and_names()
        text_config = _dict(config.get("text_config"))  # of models that see as well
        for name in self._names:
            key = f"{name}_token_id"
            self._set(name, text_config.get(key) if config.get(key) is None else config[key])

    def default(self, name: str, number: int | None, engine: int | None) -> None:
        """Gives an id that the files do not name, where the engine would take ``engine`` for it and be wrong."""
        if number is not None and number != engine:
            self.ids.setdefault(name, number)

    def entries(self) -> list[MetaEntry]:
        """Ids, then flags, as GGUF keys. Those for which the format has no key are left out."""
        ids = [MetaEntry(f"tokenizer.ggml.{_ID_KEYS[n]}", i, "UINT32") for n, i in self.ids.items() if n in _ID_KEYS]
        flags = [
            MetaEntry(f"tokenizer.ggml.{_FLAG_KEYS[n]}", value, "BOOL")
            for n, value in self.flags.items()
            if n in _FLAG_KEYS
        ]
        cases = [MetaEntry(f"tokenizer.ggml.normalizer.{n}", v, "BOOL") for n, v in self._normalizer.items()]
        return ids + flags + cases

    def _read_normalizer(self, normalizer: dict[str, Any] | None, depth: int = 0) -> None:
        """Whether text is lower-cased and loses its accents, wherever in a sequence of steps that is said."""
        step = _dict(normalizer)
        kind = step.get("type")
        if kind == "Lowercase":
            self._normalizer["lowercase"] = True
        elif kind == "StripAccents":
            self._normalizer["strip_accents"] = True
        elif kind == "BertNormalizer":
            for name in ("lowercase", "strip_accents"):
                if isinstance(step.get(name), bool):
                    self._normalizer[name] = step[name]
        elif kind == "Sequence" and depth < 8:
            for each in _list(step.get("normalizers")):
                self._read_normalizer(_dict(each), depth + 1)

    def _set(self, name: str, token: Any) -> None:
        if type(token) is not int or name in self.ids:
            return
        # -1 is how some configs say "none".
        if 0 <= token < self._n_vocab:
            self.ids[name] = token

    def _read_post_processor(self, processor: dict[str, Any] | None) -> None:
        if not processor:
            return
        for step in _list(processor.get("processors", [processor])):
            kind = _dict(step).get("type")
            if kind == "ByteLevel":
                self.flags.setdefault("bos", False)
                self.flags.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self.flags |= {"bos": True, "eos": True, "sep": True}
                for name in ("cls", "sep"):
                    pair = _list(_dict(step).get(name))
                    if not self._contents[name] and pair and isinstance(pair[0], str):
                        self._contents[name] = pair[0]
            elif kind == "TemplateProcessing":
                self._read_template(_dict(step))

    def _read_template(self, step: dict[str, Any]) -> None:
        """Whether a single sequence begins or ends with a special token, and whether pairs are separated by one."""
        single = [_special(part) for part in _list(step.get("single"))]
        first = last = None
        if len(single) > 1:
            first, last = single[0], single[-1]
        if first:
            self._leading(first)
        if last:
            self._trailing(last)
        pair = _list(step.get("pair"))
        if not pair:
            return
        begin = 1 if first and _special(pair[0]) == first else 0
        end = len(pair) - 1 if last and _special(pair[-1]) == last else len(pair)
        self._separator(pair[begin:end], last)

    def _leading(self, token: str) -> None:
        known = (self._contents["bos"], self._contents["cls"])
        if token not in known:
            for name in ("bos", "cls"):
                if not self._contents[name]:
                    self._contents[name] = token
        self.flags["bos"] = token in (self._contents["bos"], self._contents["cls"])

    def _trailing(self, token: str) -> None:
        if token != self._contents["eos"]:
            # The name that tokenizer_config.json calls the end is then the end of a turn.
            for name in ("eot", "eom"):
                if name not in self._names:
                    self._names.append(name)
                    self._contents[name] = self._contents["eos"]
                    break
            self._contents["eos"] = token
        self.flags["eos"] = True

    def _separator(self, parts: list[Any], last: str | None) -> None:
        if len(parts) < 3 or _sequence(parts[0]) != "A" or _sequence(parts[-1]) != "B":
            return
        known = (self._contents["sep"], self._contents["eos"])
        inner = [_special(part) for part in parts[1:-1]]
        add = bool(inner[0] in known and inner[0] and not last)
        if len(inner) == 2 and inner[1] and inner[1] in known:
            add = True
        self.flags["sep"] = add
        if add and not self._contents["sep"]:
            self._contents["sep"] = self._contents["eos"]

    def _read_flags_and_names(self) -> None:
        numbers: dict[str, int] = {}
        for token in self._files.added_tokens:
            numbers.setdefault(token.content, token.id)
        for name in self._names:
            flag = self._files.config.get(f"add_{name}_token")
            if isinstance(flag, bool):
                self.flags.setdefault(name, flag)
            content = self._contents.get(name)
            if content is not None:
                self._set(name, numbers.get(content))


@cache
def letters() -> tuple[str, ...]:
    """The letter that byte-level vocabularies write for each byte: printable ones stand for themselves, the others
    take the letters from U+0100 on, in order."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in plain else chr(next(others)) for byte in range(256))


def merge_lines(merges: list[str | tuple[str, str]]) -> list[str]:
    """Merges as GGUF holds them: two parts with one space between. Spaces inside a part become U+0120, the letter
    that byte-level vocabularies write for a space."""
    lines = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else [part.replace(" ", "Ġ") for part in merge]
        if len(parts) != 2 or not all(parts):
            raise damaged(f"tokenizer.json has the merge {str(merge)[:60]!r}")
        lines.append(check_text(" ".join(parts), "a merge"))
    return lines


def template_entries(files: TokenizerFiles) -> list[MetaEntry]:
    """The chat template, from tokenizer_config.json or a file of its own; named alternatives get keys of their own."""
    template = chat_template(files)
    if template is None:
        return []
    if isinstance(template, str):
        return [MetaEntry("tokenizer.chat_template", check_text(template, "the chat template"), "STRING")]
    entries, names, default = [], [], None
    for name, text in template.items():
        if name == "default":
            default = text
        elif name not in names:
            names.append(name)
            entries.append(MetaEntry(f"tokenizer.chat_template.{name}", text, "STRING"))
    if names:
        entries.append(MetaEntry("tokenizer.chat_templates", names, "ARRAY", "STRING"))
    if default is not None:
        entries.append(MetaEntry("tokenizer.chat_template", default, "STRING"))
    return entries


def chat_template(files: TokenizerFiles) -> str | dict[str, str] | None:
    """One template, several by name, or None. Names are reduced to letters, digits and ``_``."""
    if not files.has("tokenizer_config.json"):
        return None
    found: Any = files.config.get("chat_template")
    if "chat_template" not in files.config:
        found = _template_files(files)
        if found is None:
            found = files.optional_json("chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {}
        for choice in found:
            name, text = _dict(choice).get("name"), _dict(choice).get("template")
            if isinstance(name, str) and name and isinstance(text, str):
                clean = "".join(c if c in _TEMPLATE_NAME else "_" for c in name)
                named[clean] = check_text(text, "a chat template")
        return named or None
    return check_text(found, "the chat template") if isinstance(found, str) else None


def _template_files(files: TokenizerFiles) -> str | list[dict[str, str]] | None:
    """chat_template.jinja, with the named ones of the folder additional_chat_templates if there are any."""
    main = files.optional_text("chat_template.jinja")
    if main is None:
        return None
    named = files.named_templates()
    if not named:
        return main
    return [{"name": name, "template": text} for name, text in {"default": main, **named}.items()]


def token_text(entry: Any) -> str | None:
    """A special token's text; it is written as a string or as an object."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def _special(part: Any) -> str | None:
    name = _dict(_dict(part).get("SpecialToken")).get("id")
    return name if isinstance(name, str) else None


def _sequence(part: Any) -> Any:
    return _dict(_dict(part).get("Sequence")).get("id")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
