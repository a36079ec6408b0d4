"""A source's tokenizer against the engine's: in a conversion, and for a folder that is only looked at."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from app import conversion, tokenizer_check
from converter.spec import ConversionSpec, QuenchError
from tests.converter.folders import QWEN2_REGEX, bpe_tokenizer, tokenizer_size, write_folder, write_json
from tests.test_cli import quench_error, quench_json

TWO_DIGITS = QWEN2_REGEX.replace(r"\p{N}|", r"\p{N}{1,2}|")


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A model that splits numbers in pairs of digits, as no known one does; its vocabulary has such pairs."""
    folder = tmp_path / "unknown"
    folder.mkdir()
    tokenizer = bpe_tokenizer(TWO_DIGITS)
    write_folder(folder, "qwen2", vocab_size=tokenizer_size(tokenizer), hidden_size=256, intermediate_size=256)
    write_json(folder / "tokenizer.json", tokenizer)
    return folder


def test_a_conversion_says_what_both_tokenizers_make_of_hard_texts(pocket: Path, tmp_path: Path) -> None:
    output = conversion.run(ConversionSpec(str(pocket), str(tmp_path / "p.gguf"), ("Q8_0",)), lambda e: None).outputs[0]
    assert output.checked is not None
    check = output.checked.tokenizer
    assert check is not None and check.texts > 50
    # Pocket's tokenizer composes characters first, the engine does not.
    assert check.different == check.composing == len(check.examples) > 0
    assert all(each.composing and each.source != each.engine for each in check.examples)
    assert output.checked.note == "", "nothing that comes of the conversion"


def test_a_gguf_has_no_tokenizer_to_compare_with(pocket: Path, tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.gguf"), str(tmp_path / "b.gguf")
    conversion.run(ConversionSpec(str(pocket), first, ("F16",), check=False), lambda event: None)
    output = conversion.run(ConversionSpec(first, second, ("Q8_0",)), lambda event: None).outputs[0]
    assert output.checked is not None and output.checked.tokenizer is None and output.checked.token is not None
    assert quench_error(3, "inspect", first, "--tokenizer-check")["code"] == "no_tokenizer"


def test_a_vocabulary_of_another_order_is_found(pocket: Path) -> None:
    """Two tokens change places: rows read back and the engine answers, but most texts have other tokens."""
    expected = tokenizer_check.source_tokens(str(pocket))
    swapped = [[{223: 222, 222: 223}.get(token, token) for token in tokens] for _, tokens in expected]
    check = tokenizer_check.compared(expected, swapped)
    assert check.different > 10 and check.composing == 0
    assert f"{check.different} of {check.texts}" in tokenizer_check.in_words(check)


def test_an_unknown_splitting_is_refused_with_what_is_nearest(unknown: Path, tmp_path: Path) -> None:
    error = quench_error(3, "convert", unknown, "-o", tmp_path / "out.gguf", "--type", "F16")
    assert error["code"] == "unknown_pre_tokenizer"
    # No text has three digits that the vocabulary holds as one token, but some have two.
    assert "Nearest is 'smaug-bpe'" in error["detail"] and "smaug-bpe: no difference" in error["detail"]
    assert "qwen2: differs in" in error["detail"] and "2024-12-31" in error["detail"]
    assert "--pre-tokenizer smaug-bpe" in error["detail"] and "smaug-bpe" in error["hint"]
    assert not (tmp_path / "out.gguf").exists()


def test_a_person_may_accept_the_nearest(unknown: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    made = quench_json("convert", unknown, "-o", path, "--type", "F16", "--pre-tokenizer", "qwen2")
    checked = made["outputs"][0]["checked"]
    assert checked["tokenizer"]["different"] > 0 and "such as" in checked["note"]
    assert any("12" in example["text"] for example in checked["tokenizer"]["examples"])
    keys = gguf.GGUFReader(path).fields
    assert keys["tokenizer.ggml.pre"].contents() == "qwen2"
    assert "chosen by hand" in keys["quench.pre_tokenizer"].contents()
    looked = quench_json("inspect", unknown, "--tokenizer-check", "--pre-tokenizer", "qwen2")["tokenizer_check"]
    assert looked == checked["tokenizer"]


def test_a_choice_that_is_not_needed_changes_nothing(pocket: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    spec = ConversionSpec(str(pocket), str(path), ("F16",), pre_tokenizer="llama-bpe", check=False)
    conversion.run(spec, lambda event: None)
    keys = gguf.GGUFReader(path).fields
    assert keys["tokenizer.ggml.pre"].contents() == "qwen2" and "quench.pre_tokenizer" not in keys


def test_a_name_that_the_engine_does_not_know(unknown: Path, tmp_path: Path) -> None:
    error = quench_error(
        2, "convert", unknown, "-o", tmp_path / "out.gguf", "--type", "F16", "--pre-tokenizer", "qwen99"
    )
    assert error["code"] == "unknown_pre_tokenizer" and "qwen2" in error["detail"]
    with pytest.raises(QuenchError):
        tokenizer_check.check_folder(str(unknown), "qwen99")
