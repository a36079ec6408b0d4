"""Tokenizer files that are damaged or made to do harm: a named error in bounded time, whatever is in them."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter import QuenchError
from converter.architectures import find_family
from converter.architectures.base import Family
from converter.vocabulary import entries, loading, outline
from converter.vocabulary.comparison import source_tokens
from converter.vocabulary.model_file import read_model
from tests.converter.folders import CONFIGS, bpe_tokenizer, tokenizer_size, write_json
from tests.converter.golden_vocabularies import UNIGRAM, tekken_file, write_case
from tests.converter.vocab_folders import sentencepiece_model


def family(vocabulary: str) -> Family:
    return dataclasses.replace(find_family(CONFIGS["llama"]), vocabulary=vocabulary)


def refused(folder: Path, vocabulary: str, size: int, code: str = "bad_vocabulary") -> QuenchError:
    """The error of reading a folder; the quick look must live through it too."""
    outline(folder, family(vocabulary))
    with pytest.raises(QuenchError) as caught:
        entries(folder, family(vocabulary), {}, size)
    assert caught.value.code == code, caught.value
    return caught.value


def changed(folder: Path, case: str, change: Callable[[dict[str, Any]], object], file: str = "tokenizer.json") -> int:
    size = write_case(case, folder)
    found = json.loads((folder / file).read_text(encoding="utf-8"))
    change(found)
    write_json(folder / file, found)
    return size


def test_a_tokenizer_of_100_megabytes(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(100_000_000)  # a hole: nothing is written, and nothing must be read
    refused(tmp_path, "bpe", 300, "too_large")


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "tekken.json", "tokenizer.model", "spiece.model"])
def test_other_files_of_100_megabytes(name: str, tmp_path: Path) -> None:
    if name == "merges.txt":
        write_json(tmp_path / "vocab.json", {"a": 0})
    with (tmp_path / name).open("wb") as file:
        file.truncate(100_000_000)
    refused(tmp_path, "t5" if name == "spiece.model" else "llama", 300, "too_large")


def test_a_pattern_that_takes_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it costs is exponential in the length of the text; the library's own limit is in seconds."""
    monkeypatch.setattr(loading, "SECONDS", 0.01)
    tokenizer = bpe_tokenizer(r"(x+x+)+y|(\p{L}+\s?)+#|(?:(?:\S+\s?)+)+\d{30}")
    write_json(tmp_path / "tokenizer.json", tokenizer)
    error = refused(tmp_path, "bpe", tokenizer_size(tokenizer))
    assert "seconds" in error.detail


def test_a_pattern_that_the_library_gives_up(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(r"(x+x+)+y|(\p{L}+\s?)+#")
    write_json(tmp_path / "tokenizer.json", tokenizer)
    refused(tmp_path, "bpe", tokenizer_size(tokenizer))
    with pytest.raises(QuenchError):
        source_tokens(tmp_path)


def test_a_pattern_that_is_no_pattern_and_one_that_is_too_long(tmp_path: Path) -> None:
    for regex in ("(((", "a" * (1 << 16) + "b"):
        tokenizer = bpe_tokenizer(regex)
        write_json(tmp_path / "tokenizer.json", tokenizer)
        refused(tmp_path, "bpe", tokenizer_size(tokenizer))


def test_steps_in_steps(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer()
    steps: dict[str, Any] = tokenizer["pre_tokenizer"]
    for _ in range(100):
        steps = {"type": "Sequence", "pretokenizers": [steps]}
    write_json(tmp_path / "tokenizer.json", tokenizer | {"pre_tokenizer": steps})
    refused(tmp_path, "bpe", tokenizer_size(tokenizer))


WORD_PIECE: dict[str, Callable[[dict[str, Any]], object]] = {
    "negative": lambda t: t["model"]["vocab"].update(xyz=-1),
    "enormous": lambda t: t["model"]["vocab"].update(xyz=1 << 40),
    "text for a number": lambda t: t["model"]["vocab"].update(xyz="4"),
    "no vocabulary": lambda t: t["model"].pop("vocab"),
    "no unknown token": lambda t: t["model"].update(unk_token=7),
}


@pytest.mark.parametrize("name", WORD_PIECE)
def test_damaged_word_pieces(name: str, tmp_path: Path) -> None:
    refused(tmp_path, "bert", changed(tmp_path, "bert", WORD_PIECE[name]))


def test_word_pieces_that_the_engine_cannot_split(tmp_path: Path) -> None:
    size = changed(tmp_path, "bert", lambda t: t.update(pre_tokenizer={"type": "WhitespaceSplit"}))
    refused(tmp_path, "bert", size, "unknown_tokenizer")
    size = changed(tmp_path, "bert", lambda t: t["model"].update(continuing_subword_prefix="@@"))
    refused(tmp_path, "bert", size, "unknown_tokenizer")


def test_more_tokens_than_the_model_has(tmp_path: Path) -> None:
    for case, vocabulary in (("bert", "bert"), ("xlm-roberta-json", "xlm-roberta"), ("t5", "t5"), ("tekken", "llama")):
        write_case(case, tmp_path / case)
        refused(tmp_path / case, vocabulary, 40, "vocabulary_size")
    write_case("xlm-roberta-model", tmp_path / "model")
    refused(tmp_path / "model", "xlm-roberta", 40, "vocabulary_size")


UNIGRAMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no number": lambda t: t["model"]["vocab"].append(["x", "high"]),
    "three parts": lambda t: t["model"]["vocab"].append(["x", 1.0, 2.0]),
    "charsmap is no base64": lambda t: t["normalizer"].update(precompiled_charsmap="%%%"),
    "charsmap claims more": lambda t: t["normalizer"].update(
        precompiled_charsmap=base64.b64encode(b"\xff\xff\xff\x7f" + bytes(64)).decode()
    ),
    "charsmap of three bytes": lambda t: t["normalizer"].update(precompiled_charsmap=base64.b64encode(b"abc").decode()),
}


@pytest.mark.parametrize("name", UNIGRAMS)
def test_damaged_unigrams(name: str, tmp_path: Path) -> None:
    refused(tmp_path, "xlm-roberta", changed(tmp_path, "xlm-roberta-json", UNIGRAMS[name]))


def test_a_model_file_whose_map_of_characters_claims_more(tmp_path: Path) -> None:
    pieces = [(p.text, p.score, p.type) for p in read_model(UNIGRAM.read_bytes()).pieces]
    data = sentencepiece_model(pieces, model_type=1, charsmap=b"\xfc\xff\xff\xff" + bytes(16))
    (tmp_path / "spiece.model").write_bytes(data)
    refused(tmp_path, "t5", len(pieces))


def test_a_model_file_cut_anywhere_is_damage_or_shorter(tmp_path: Path) -> None:
    """No cut raises anything but the one error; what is left of whole fields may be read."""
    data = UNIGRAM.read_bytes()
    errors = 0
    for end in range(0, len(data), 7):
        try:
            assert len(read_model(data[:end]).pieces) <= 180
        except QuenchError as error:
            assert error.code == "bad_vocabulary"
            errors += 1
    assert errors > 100


TEKKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "vocabulary of billions": lambda t: t["config"].update(default_vocab_size=1 << 60),
    "billions of special tokens": lambda t: t["config"].update(default_num_special_tokens=1 << 60),
    "negative size": lambda t: t["config"].update(default_vocab_size=-5),
    "special beyond its number": lambda t: t["special_tokens"].append({"rank": 9999, "token_str": "x"}),
    "rank out of order": lambda t: t["vocab"][3].update(rank=7),
    "no base64": lambda t: t["vocab"][300].update(token_bytes="%%"),
    "a token twice": lambda t: t["vocab"][300].update(token_bytes=t["vocab"][301]["token_bytes"]),
    "a token of nothing": lambda t: t["vocab"][300].update(token_bytes=base64.b64encode(b"\xff\xfe").decode()) or
    t["vocab"][301].update(token_bytes=base64.b64encode(b"\xff\xfe\xfd\xfc").decode()),
    "no pattern": lambda t: t["config"].pop("pattern"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEKKEN)
def test_damaged_tekken(name: str, tmp_path: Path) -> None:
    found = tekken_file()
    TEKKEN[name](found)
    write_json(tmp_path / "tekken.json", found)
    refused(tmp_path, "llama", 400)


def test_older_files_that_are_damaged(tmp_path: Path) -> None:
    write_case("gpt2-files", tmp_path)
    (tmp_path / "merges.txt").write_text("#version\na b c\n", encoding="utf-8")
    refused(tmp_path, "bpe", 300)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    refused(tmp_path, "bpe", 300)
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    write_json(tmp_path / "vocab.json", {"a": 1 << 40})
    refused(tmp_path, "bpe", 300)


def test_templates_by_the_hundred(tmp_path: Path) -> None:
    size = write_case("templates", tmp_path)
    for number in range(100):
        (tmp_path / "additional_chat_templates" / f"{number}.jinja").write_text("x", encoding="utf-8")
    refused(tmp_path, "qwen", size)


def test_an_empty_folder(tmp_path: Path) -> None:
    for vocabulary in ("bpe", "llama", "bert", "t5", "xlm-roberta", "nomic-bert", "phi3", "internlm2"):
        refused(tmp_path, vocabulary, 300, "missing_tokenizer")
