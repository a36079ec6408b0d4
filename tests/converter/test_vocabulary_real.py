"""The vocabularies of well-known models, there and back: rebuilt as a folder's files from the engine's own GGUFs, read
by us, and compared with the GGUF; and what the engine makes of our keys, with what the models' tokenizers made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from converter.architectures import find_family
from converter.architectures.base import Family
from converter.vocabulary import entries, outline
from converter.vocabulary.loading import looks_special
from tests.converter import vocab_folders
from tests.converter.engine_vocabulary import engine_tokens, keyed, write_gguf
from tests.converter.folders import CONFIGS
from tests.converter.vocab_folders import (
    BYTE_LEVEL,
    CONTROL,
    NORMAL,
    SENTENCEPIECE,
    UNIGRAMS,
    UNUSED,
    USER_DEFINED,
    WORDPIECE,
    Vocabulary,
    write_vocabulary,
)

# Names by which the engine does the same; files of an earlier age have none.
PRE_TOKENIZERS = {"aquila": "gpt-2", "gpt-neox": "olmo", "mpt": "olmo", "qwen35": "qwen2", "bert-bge": "jina-v2-en"}
FAMILIES = {"bert-bge": "bert", "nomic-bert-moe": "nomic-bert", "phi-3": "phi3"} | dict.fromkeys(
    ("baichuan", "llama-spm"), "sentencepiece"
)
CASES = [(name, False) for name in vocab_folders.NAMES] + [(name, True) for name in (*SENTENCEPIECE, *UNIGRAMS)]


def family(name: str) -> Family:
    return dataclasses.replace(find_family(CONFIGS["llama"]), vocabulary=FAMILIES.get(name, "bpe"))


def config_of(found: Vocabulary) -> dict[str, Any]:
    """Special ids as config.json names them, and BERT's number of segments."""
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "seperator": "sep", "mask": "mask"}
    ids = {f"{ours}_token_id": found.keys.get(f"{theirs}_token_id") for theirs, ours in names.items()}
    return {key: value for key, value in ids.items() if value is not None} | {
        "type_vocab_size": found.keys.get("token_type_count", 1)
    }


def expected_tokens(found: Vocabulary, name: str) -> list[str]:
    tokens = list(found.tokens)
    for number, token in enumerate(tokens):
        if name in WORDPIECE and found.types[number] == NORMAL and token.startswith("[unused"):
            tokens[number] = f"▁{token}"  # an earlier converter left these bare
        elif found.is_padding(number) and name not in UNIGRAMS:
            tokens[number] = f"[PAD{number}]"
    return tokens


def expected_types(found: Vocabulary, name: str) -> list[int]:
    """Types as they are given now: room is unused, and what is spelled like a control token is one."""
    types = []
    for number, (token, kind) in enumerate(zip(found.tokens, found.types, strict=True)):
        special = kind == USER_DEFINED and looks_special(token) and name in BYTE_LEVEL
        # An early converter did not look at which tokens have a name.
        special |= name == "aquila" and number == found.keys["bos_token_id"]
        types.append(UNUSED if found.is_padding(number) else CONTROL if special else kind)
    return types


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "json_form"), CASES, ids=str)
def test_there_and_back(name: str, json_form: bool, llama_cpp_sources: Path, tmp_path: Path) -> None:
    found = Vocabulary(llama_cpp_sources / "models" / f"ggml-vocab-{name}.gguf")
    folder = tmp_path / "model"
    write_vocabulary(found, name, folder, json_form=json_form)
    made = entries(folder, family(name), config_of(found), found.size)
    values = keyed(made)
    assert values["model"] == found.keys["model"]
    named = PRE_TOKENIZERS.get(name, found.keys.get("pre"))
    assert values["pre"] == (named or "default")
    assert outline(folder, family(name)).model == found.keys["model"]
    if name in BYTE_LEVEL or not json_form:
        assert values["tokens"] == expected_tokens(found, name)
    if not json_form and name not in ("phi-3",):
        assert values["token_type"] == expected_types(found, name)
    if "merges" in found.keys:
        assert values["merges"] == found.keys["merges"]
    for key, value in found.keys.items():
        if key.endswith("_token_id") and key != "cls_token_id":
            assert values[key] == value, key
    for key in (
        "add_bos_token",
        "add_eos_token",
        "token_type_count",
        "remove_extra_whitespaces",
        "precompiled_charsmap",
    ):
        if key in found.keys and (key in values or name in UNIGRAMS + WORDPIECE):
            recorded = found.keys[key]
            assert values[key] == ([n & 0xFF for n in recorded] if isinstance(recorded, list) else recorded), key
    if not Path(f"{found.path}.inp").exists():
        return
    vectors = found.vectors()
    assert len(vectors) > 40
    texts = tuple(text for text, _ in vectors)
    engine = engine_tokens(write_gguf(tmp_path / "v.gguf", made), texts)
    for text, tokens, (_, expected) in zip(texts, engine, vectors, strict=True):
        assert tokens == expected, text
