"""The glance at a model says what opening it says, and tells models apart by what is in them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

import converter
from converter.identity import Glance, content_id, glance
from converter.sources.gguf_header import KnownParts
from converter.spec import ModelInfo, QuenchError
from tests.converter.gguf_files import GgufFile, number_key, string_key, tensor, text, u32, u64

Gguf = Callable[[str], Path]


def opened(path: Path) -> ModelInfo:
    """What ``open_model`` says, cut down to what a list needs."""
    with converter.open_model(path) as model:
        info = model.info
    short = {
        key: value
        for key, value in info.metadata.items()
        if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 200)
    }
    return msgspec.structs.replace(info, tensors=(), metadata=short, chat_template=None)


@pytest.mark.parametrize("type_name", ["F16", "Q8_0", "Q4_K_M", "Q2_K"])
def test_a_glance_says_what_opening_says(pocket_gguf: Gguf, type_name: str) -> None:
    known = KnownParts()
    for _ in range(2):  # the second time with the vocabulary known
        assert glance(pocket_gguf(type_name), known).info == opened(pocket_gguf(type_name))


def test_a_glance_at_a_folder_says_what_opening_says(pocket: Path) -> None:
    assert glance(pocket).info == opened(pocket)
    assert {Path(file).suffix for file in glance(pocket).files} == {".safetensors"}


def damaged(seed: int) -> bytes:
    """A small model with a long list of strings, with some bytes of its header changed, or cut."""
    words = b"".join(text(f"w{number}") for number in range(400))
    keys = [
        string_key("general.architecture", "llama"),
        number_key("llama.block_count", 1),
        text("tokenizer.ggml.tokens") + u32(9) + u32(8) + u64(400) + words,
        string_key("x.long", "é" * 300),
    ]
    whole = bytearray(GgufFile(keys, [tensor("token_embd.weight", (32, 4), 0, 0)]).build())
    chance = random.Random(seed)
    head = len(whole) - 32 * 4 * 4
    for _ in range(chance.randrange(3)):
        place = chance.choice([chance.randrange(head), chance.randrange(140), head - 1 - chance.randrange(120)])
        whole[place] = chance.choice([0, 1, 255, chance.randrange(256)])
    return bytes(whole[: chance.randrange(len(whole))]) if chance.random() < 0.2 else bytes(whole)


def test_a_glance_refuses_what_opening_refuses(tmp_path: Path) -> None:
    known = KnownParts()
    file = tmp_path / "x.gguf"
    outcomes = set()
    for seed in range(400):
        file.write_bytes(damaged(seed))
        answers = []
        for look in (opened, lambda path: glance(path, known).info):
            try:
                answers.append(look(file))
                outcomes.add("good")
            except QuenchError as error:
                answers.append((error.code, error.title, error.detail))
                outcomes.add(error.code)
        assert answers[0] == answers[1], seed
    assert {"good", "bad_header", "truncated", "not_gguf"} <= outcomes


def test_what_is_kept_is_bounded() -> None:
    known = KnownParts(limit=10_000)

    def found(number: int) -> bool:
        return known.find(300, bytearray(b"before" + number.to_bytes(64, "little") + b"more"), 6) is not None

    for number in range(100):
        known.keep(300, number.to_bytes(64, "little") + bytes(2000), number)
        assert found(number)
    assert [number for number in range(100) if found(number)] == [96, 97, 98, 99]
    known.keep(300, bytes(20_000), None)
    assert not found(0)


def test_what_is_known_changes_no_answer(pocket_gguf: Gguf, tmp_path: Path) -> None:
    """Files of one shape and vocabulary in turn, one of which lies about its tensors behind the same beginning."""
    paths = [pocket_gguf(name) for name in ("Q4_K_M", "Q8_0", "Q4_K_M", "BF16", "Q8_0")]
    known = KnownParts()
    assert [glance(path, known) for path in paths] == [glance(path) for path in paths]
    data = bytearray(paths[0].read_bytes())
    name = data.rindex(b"output_norm.weight")
    data[name + len("output_norm.weight") + 4] ^= 1  # the low byte of its only dimension
    lying = tmp_path / "lying.gguf"
    lying.write_bytes(data)
    for each in (known, None):
        with pytest.raises(QuenchError) as caught:
            glance(lying, each)
        assert caught.value.code in ("bad_header", "truncated")


def test_the_content_follows_the_bytes_not_the_name(pocket_gguf: Gguf, tmp_path: Path) -> None:
    copy = tmp_path / "renamed.gguf"
    shutil.copy(pocket_gguf("Q4_K_M"), copy)
    blob = tmp_path / ("sha256-" + "a" * 64)
    os.link(copy, blob)
    ids = [glance(path).content for path in (pocket_gguf("Q4_K_M"), copy, blob)]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 32
    assert glance(pocket_gguf("Q8_0")).content != ids[0]
    with copy.open("r+b") as file:  # the very last weights
        file.seek(-3, os.SEEK_END)
        file.write(b"\x5a")
    assert glance(copy).content != ids[0]


def test_the_content_of_a_folder_follows_its_weights(pocket: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other name"
    shutil.copytree(pocket, copy)
    assert content_id(copy) == content_id(pocket) != ""
    weights = next(copy.glob("*.safetensors"))
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x5a")
    assert content_id(copy) != content_id(pocket)
    weights.unlink()
    assert content_id(copy) == ""


def test_quantizing_leaves_the_family_alone(pocket: Path, pocket_gguf: Gguf, tmp_path: Path) -> None:
    made: list[Glance] = [glance(pocket), *(glance(pocket_gguf(name)) for name in ("F16", "Q8_0", "Q2_K"))]
    assert len({each.family for each in made}) == 1
    assert len({each.content for each in made}) == 4
    other = tmp_path / "other.gguf"
    with_other_norms(pocket_gguf("Q8_0"), other)
    assert glance(other).family not in ("", made[0].family)


def with_other_norms(source: Path, target: Path) -> None:
    """A copy of a GGUF file whose last norm is another; gguf-py finds the place."""
    shutil.copy(source, target)
    reader = gguf.GGUFReader(target, "r+")
    norm = next(entry for entry in reader.tensors if entry.name == "output_norm.weight")
    norm.data[:] = np.float32(0.5)
    reader.data.flush()
