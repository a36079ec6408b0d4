"""Vocabularies that are only there as tiktoken files: the same keys as of the tokenizer.json that they stand for."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from converter import QuenchError
from converter.architectures import find_family
from converter.architectures.base import Family
from converter.vocabulary import entries, outline
from tests.converter.engine_vocabulary import keyed
from tests.converter.folders import QWEN2_REGEX, bpe_tokenizer, write_json
from tests.converter.vocab_folders import (
    LLAMA3_REGEX,
    QWEN_SPECIALS,
    Vocabulary,
    write_tiktoken,
)

QWEN: Family = find_family({"architectures": ["QWenLMHeadModel"]})
LLAMA: Family = find_family({"architectures": ["LlamaForCausalLM"]})
GLM: Family = find_family({"architectures": ["ChatGLMModel"]})
VOCAB: dict[str, int] = bpe_tokenizer()["model"]["vocab"]
GLM_SPECIALS = ("<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|user|>", "<|observation|>")


def test_qwen_1(tmp_path: Path) -> None:
    """Tokens, merges and pre-tokenizer of the tokenizer.json with the same tokens, and the specials of its class."""
    count = write_tiktoken(tmp_path / "qwen.tiktoken", VOCAB)
    size = count + QWEN_SPECIALS
    found = keyed(entries(tmp_path, QWEN, {}, size + 3))
    other = tmp_path / "json"
    other.mkdir()
    write_json(other / "tokenizer.json", bpe_tokenizer(QWEN2_REGEX, specials=()))
    expected = keyed(entries(other, QWEN, {}, count))
    assert found["model"] == "gpt2" and found["pre"] == expected["pre"] == "qwen2"
    assert found["tokens"][:count] == expected["tokens"]
    # "..." is never on the way to "....", whose halves come before it.
    assert found["merges"] == [*expected["merges"][:-1], ".. .."]
    assert found["tokens"][count : count + 4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"]
    assert found["tokens"][size - 1 :] == ["<|extra_204|>", *(f"[PAD{size + i}]" for i in range(3))]
    assert found["token_type"] == [1] * count + [3] * QWEN_SPECIALS + [5] * 3
    assert {found[f"{name}_token_id"] for name in ("bos", "eos", "unknown")} == {count}
    assert outline(tmp_path, QWEN) == ("gpt2", "qwen2", None, [], [])


def test_glm_4(tmp_path: Path) -> None:
    """Its special tokens stand in tokenizer_config.json, and its file is called as SentencePiece's are."""
    count = write_tiktoken(tmp_path / "tokenizer.model", VOCAB)
    declared = {str(count + at): {"content": text, "special": True} for at, text in enumerate(GLM_SPECIALS)}
    config = {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": declared, "chat_template": "{{ 'x' }}"}
    write_json(tmp_path / "tokenizer_config.json", config)
    found = keyed(entries(tmp_path, GLM, {}, count + len(GLM_SPECIALS)))
    assert found["model"] == "gpt2" and found["tokens"][count:] == list(GLM_SPECIALS)
    assert found["eos_token_id"] == count and found["eot_token_id"] == count + 4
    assert found["chat_template"] == "{{ 'x' }}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["qwen2", "llama-bpe"])
def test_real_vocabularies(name: str, llama_cpp_sources: Path, tmp_path: Path) -> None:
    """Merges of models whose tokenizer.json was made of such a file, to the last one."""
    found = Vocabulary(llama_cpp_sources / "models" / f"ggml-vocab-{name}.gguf")
    count = 151643 if name == "qwen2" else 128000
    vocab = {text: number for number, text in enumerate(found.tokens[:count])}
    file, family = ("qwen.tiktoken", QWEN) if name == "qwen2" else ("tokenizer.model", LLAMA)
    write_tiktoken(tmp_path / file, vocab)
    made = keyed(entries(tmp_path, family, {}, found.size))
    assert made["merges"] == found.keys["merges"]
    assert made["tokens"][:count] == found.tokens[:count] and made["pre"] == name
    if name == "llama-bpe":
        assert made["tokens"][count:] == found.tokens[count:]


# What is wrong -> the file's lines, and what is said.
BROKEN: dict[str, tuple[bytes, str]] = {
    "no base64": (b"a=== 0\n", "no token"),
    "a rank twice": (b"YQ== 0\nYg== 0\n", "rank 0"),
    "a rank that is not there": (b"YQ== 0\nYg== 2\n", "leaves out a rank"),
    "a token twice": (b"YQ== 0\nYQ== 1\n", "token twice"),
    "too few bytes": (b"YQ== 0\nYg== 1\n", "256 bytes"),
    "a rank without end": (b"YQ== 0\nYg== 99999999\n", "rank 99999999"),
    "a token without end": (b"YQ== 0\n" + base64.b64encode(b"x" * 600) + b" 1\n", "600 bytes"),
    "something behind": (b"YQ== 0\nhello\n", "line 2"),
    "cut off": (b"YQ== 0\nYg==", "line 2"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    data, words = BROKEN[name]
    (tmp_path / "qwen.tiktoken").write_bytes(data)
    with pytest.raises(QuenchError) as caught:
        entries(tmp_path, QWEN, {}, 300)
    assert caught.value.code in ("bad_vocabulary", "missing_tokenizer")
    assert words in caught.value.detail or caught.value.code == "missing_tokenizer"


def test_tokens_that_would_take_for_ever(tmp_path: Path) -> None:
    letters = [text for text in VOCAB if len(text) == 1]
    vocab = {text: at for at, text in enumerate(letters)}
    for number in range(3000):
        vocab[f"{number:04d}" * 120] = len(vocab)
    write_tiktoken(tmp_path / "qwen.tiktoken", vocab)
    with pytest.raises(QuenchError) as caught:
        entries(tmp_path, QWEN, {}, 10000)
    assert caught.value.code == "bad_vocabulary" and "longer" in caught.value.detail


@pytest.mark.parametrize("config", [{"tokenizer_class": "TikTokenTokenizer"}, {}])
def test_a_class_that_is_not_known_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    write_tiktoken(tmp_path / "tiktoken.model", VOCAB)
    write_json(tmp_path / "tokenizer_config.json", config)
    with pytest.raises(QuenchError) as caught:
        entries(tmp_path, LLAMA, {}, 300)
    error = caught.value
    assert error.code == "unknown_tokenizer" and "tiktoken.model" in error.detail
    assert str(config.get("tokenizer_class", "without a name")) in error.detail and "tokenizer.json" in error.hint
    assert any("Python code" in problem for problem in outline(tmp_path, LLAMA).problems)


def test_a_tokenizer_json_beside_it_is_preferred(tmp_path: Path) -> None:
    write_tiktoken(tmp_path / "tokenizer.model", VOCAB)
    tokenizer = bpe_tokenizer(LLAMA3_REGEX, specials=("<|own|>",))
    tokenizer["model"]["ignore_merges"] = True
    write_json(tmp_path / "tokenizer.json", tokenizer)
    found = keyed(entries(tmp_path, LLAMA, {}, len(VOCAB) + 1))
    assert found["pre"] == "llama-bpe" and "<|own|>" in found["tokens"]
