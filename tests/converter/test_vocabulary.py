"""Vocabularies: against the tokenizers and sentencepiece packages, and against the engine that will use them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece
from tokenizers import Tokenizer

from converter import QuenchError, open_model
from converter.architectures import find_family
from converter.sources.base import MetaEntry
from converter.vocabulary import entries, outline
from converter.vocabulary.files import TokenizerFiles
from converter.vocabulary.fingerprints import CHECK_TEXT, FINGERPRINTS
from converter.vocabulary.pretokenizer import NAMES
from tests.converter.engine_vocabulary import engine_tokens, keyed, write_gguf
from tests.converter.folders import (
    CONFIGS,
    LLAMA3_REGEX,
    QWEN2_REGEX,
    bpe_tokenizer,
    tokenizer_size,
    write_json,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
TEXTS = (
    CHECK_TEXT,
    "the and ing 12345 we've SHE'LL\r\n\r\n\tx  y   z",
    "def f(x):\n    return x**2  # 1_000_000\n",
    "naïve façade – “quotes” … 😀👩‍👩‍👧 हिन्दी ภาษาไทย 日本語 한국어 العربية",
    " leading, trailing ",
    "A1b2C3 3.14159 1,234,567 camelCaseWord HTTPServer x/y//z\n/\n",
)
TEKKEN_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}"
    r"\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O_REGEX = (
    TEKKEN_REGEX.replace(r"\p{M}]+|[^\r\n\p{L}\p{N}]?[", r"\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[")
    .replace(r"\p{M}]*|\p{N}|", r"\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|")
)  # fmt: skip
CL100K_REGEX = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK3_STEPS = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
FAMILY = find_family(CONFIGS["llama"])
QWEN = find_family(CONFIGS["qwen2"])


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def folder_with(path: Path, tokenizer: dict[str, Any], **config: Any) -> Path:
    write_json(path / "tokenizer.json", tokenizer)
    write_json(path / "tokenizer_config.json", config)
    return path


# tokenizer.json's structure -> the pre-tokenizer that it needs.
STRUCTURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "qwen2": (sequence(split(QWEN2_REGEX), byte_level(False)), {}, "qwen2"),
    "qwen2-inverted": (sequence(split(QWEN2_REGEX, "Removed", True), byte_level(False)), {}, "qwen2"),
    "llama3": (sequence(split(LLAMA3_REGEX), byte_level(False)), {"ignore_merges": True}, "llama-bpe"),
    "llama3-with-merges": (sequence(split(LLAMA3_REGEX), byte_level(False)), {}, "smaug-bpe"),
    "cl100k": (sequence(split(CL100K_REGEX), byte_level(False)), {}, "smaug-bpe"),
    "gpt-2": (byte_level(True), {}, "gpt-2"),
    "smollm": (sequence({"type": "Digits", "individual_digits": True}, byte_level(True)), {}, "smollm"),
    "tekken": (sequence(split(TEKKEN_REGEX), byte_level(False)), {"ignore_merges": True}, "tekken"),
    "gpt-4o": (sequence(split(GPT4O_REGEX, "Removed", True), byte_level(False)), {}, "gpt-4o"),
    "deepseek-v3": (sequence(*(split(step) for step in DEEPSEEK3_STEPS), byte_level(False)), {}, "deepseek-v3"),
}
CHECK_TEXT_SUM = "a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da"
# Where the engine's own expression for cased words differs from the one it stands for.
ENGINE_DIFFERS = {("tekken", 3), ("gpt-4o", 3)}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structure_decides_and_the_engine_splits_the_same(name: str, tmp_path: Path) -> None:
    pre_tokenizer, model, expected = STRUCTURES[name]
    tokenizer = bpe_tokenizer(**model) | {"pre_tokenizer": pre_tokenizer}
    folder_with(tmp_path, tokenizer)
    found = entries(tmp_path, QWEN, {}, tokenizer_size(tokenizer))
    assert keyed(found)["pre"] == expected
    assert outline(tmp_path, QWEN).pre == expected
    oracle = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = tuple(text for i, text in enumerate(TEXTS) if (name, i) not in ENGINE_DIFFERS)
    ours = engine_tokens(write_gguf(tmp_path / "v.gguf", found), texts)
    assert ours == [oracle.encode(text, add_special_tokens=False).ids for text in texts]


def test_pocket_is_recognised_and_splits_as_its_own_tokenizer(pocket: Path, tmp_path: Path) -> None:
    with open_model(pocket) as model:
        found = [entry for entry in model.metadata if entry.key.startswith("tokenizer.")]
        assert (model.info.tokenizer, model.info.pre_tokenizer) == ("gpt2", "qwen2")
    values = keyed(found)
    assert values["pre"] == "qwen2"
    assert values["eos_token_id"] == 2 and values["padding_token_id"] == 0 and "bos_token_id" not in values
    assert values["add_bos_token"] is False
    oracle = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    expected = [oracle.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert engine_tokens(write_gguf(tmp_path / "v.gguf", found), TEXTS) == expected


def test_unknown_splitting_is_refused_with_the_nearest_named(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(QWEN2_REGEX.replace(r"\p{N}|", r"\p{N}{1,2}|"))
    folder_with(tmp_path, tokenizer)
    with pytest.raises(QuenchError) as caught:
        entries(tmp_path, QWEN, {}, tokenizer_size(tokenizer))
    assert caught.value.code == "unknown_pre_tokenizer"
    assert "'qwen2'" in caught.value.detail or "'smaug-bpe'" in caught.value.detail
    assert caught.value.choices and all(name in caught.value.hint for name in caught.value.choices)
    seen = outline(tmp_path, QWEN)
    assert not seen.problems and any("not known" in note and "choose" in note for note in seen.notes)


def test_a_known_fingerprint_wins_over_the_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure says qwen2; a sum in the table says otherwise and decides."""
    tokenizer = bpe_tokenizer()
    folder_with(tmp_path, tokenizer)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(CHECK_TEXT).ids
    monkeypatch.setitem(FINGERPRINTS, sha256(str(ids).encode()).hexdigest(), "deepseek-r1-qwen")
    assert keyed(entries(tmp_path, QWEN, {}, tokenizer_size(tokenizer)))["pre"] == "deepseek-r1-qwen"


def test_the_table_of_fingerprints() -> None:
    assert sha256(CHECK_TEXT.encode()).hexdigest() == CHECK_TEXT_SUM
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in FINGERPRINTS)
    assert {"llama-bpe", "qwen2", "gpt-2", "smollm", "tekken", "deepseek-llm", "qwen35"} <= set(FINGERPRINTS.values())


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_engine_knows_every_name(name: str, tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer()
    folder_with(tmp_path, tokenizer)
    found = entries(tmp_path, QWEN, {}, tokenizer_size(tokenizer))
    found = [MetaEntry(e.key, name, e.type) if e.key == "tokenizer.ggml.pre" else e for e in found]
    assert len(engine_tokens(write_gguf(tmp_path / "v.gguf", found), ("the",))) == 1


def test_token_types_padding_and_declared_tokens(tmp_path: Path) -> None:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = bpe_tokenizer(
        extra=(
            {"content": "<tool_call>", "special": False, **plain},
            {"content": "<|looks|>", "special": False, **plain},
            {"content": "▁▁", "special": False, **plain},
        )
    )
    size = tokenizer_size(tokenizer)
    declared = {str(size): {"content": "<later>", "special": True}, str(size + 1): {"content": "x y", "special": False}}
    folder_with(tmp_path, tokenizer, added_tokens_decoder=declared)
    values = keyed(entries(tmp_path, QWEN, {}, size + 5))
    types, tokens = values["token_type"], values["tokens"]
    by_text = dict(zip(tokens, types, strict=True))
    assert len(tokens) == size + 5
    assert by_text["Ġthe"] == NORMAL
    assert by_text["<|im_end|>"] == CONTROL and by_text["<later>"] == CONTROL
    assert by_text["<|looks|>"] == CONTROL
    assert by_text["<tool_call>"] == USER_DEFINED and by_text["x y"] == USER_DEFINED
    assert by_text["  "] == USER_DEFINED
    assert tokens[-1] == f"[PAD{size + 4}]" and types[-3:] == [UNUSED] * 3


@pytest.mark.parametrize("pairs", [True, False])
def test_merges_in_both_forms(pairs: bool, tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(pairs=pairs)
    folder_with(tmp_path, tokenizer)
    merges = keyed(entries(tmp_path, QWEN, {}, tokenizer_size(tokenizer)))["merges"]
    assert merges[:3] == ["Ġ t", "Ġt h", "Ġth e"]
    assert len(merges) == len(tokenizer["model"]["merges"])


def template(*parts: str) -> list[dict[str, Any]]:
    return [
        {"Sequence": {"id": part, "type_id": 0}} if part in "AB" else {"SpecialToken": {"id": part, "type_id": 0}}
        for part in parts
    ]


SPECIALS: dict[str, tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # post_processor, tokenizer_config.json, config.json -> keys
    "names": (
        None,
        {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}},
        {},
        {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "config only": (
        None,
        {},
        {"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0},
        {"bos_token_id": 1, "padding_token_id": 0},
    ),
    "names win": (None, {"eos_token": "<|im_end|>"}, {"eos_token_id": 0}, {"eos_token_id": 2}),
    "flags": (
        None,
        {"add_bos_token": True, "add_eos_token": False},
        {},
        {"add_bos_token": True, "add_eos_token": False},
    ),
    "byte level": (
        {"type": "ByteLevel"},
        {"add_bos_token": True},
        {},
        {"add_bos_token": False, "add_eos_token": False},
    ),
    "template begins": (
        {
            "type": "TemplateProcessing",
            "single": template("<|im_start|>", "A"),
            "pair": template("<|im_start|>", "A", "B"),
        },
        {"bos_token": "<|im_start|>"},
        {},
        {"bos_token_id": 1, "add_bos_token": True},
    ),
    "template ends": (
        {"type": "TemplateProcessing", "single": template("A", "<|endoftext|>"), "pair": []},
        {"eos_token": "<|im_end|>"},
        {},
        {"eos_token_id": 0, "eot_token_id": 2, "add_eos_token": True},
    ),
    "class for beginning": (
        None,
        {"cls_token": "<|im_start|>", "sep_token": "<|im_end|>"},
        {},
        {"bos_token_id": 1, "eos_token_id": 2, "seperator_token_id": 2},
    ),
    "minus one": (None, {}, {"pad_token_id": -1, "eos_token_id": 2}, {"eos_token_id": 2}),
    "out of range": (None, {}, {"pad_token_id": 10**9}, {}),
}

# The released gguf package does not look at a lone ByteLevel step yet (its successor does), and fails on -1.
ORACLE_SILENT = {"byte level", "minus one"}


@pytest.mark.parametrize("name", SPECIALS)
def test_special_tokens_and_flags(name: str, tmp_path: Path) -> None:
    processor, tokenizer_config, config, expected = SPECIALS[name]
    tokenizer = bpe_tokenizer()
    # Numbers as in the table: the three special tokens first.
    specials = {token["content"]: i for i, token in enumerate(tokenizer["added_tokens"])}
    tokenizer["model"]["vocab"] = {t: i + 3 for t, i in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        token["id"] = specials[token["content"]]
    if processor and processor["type"] == "TemplateProcessing":
        processor = processor | {
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in specials.items()}
        }
    tokenizer["post_processor"] = processor and {"add_prefix_space": True, "trim_offsets": True} | processor
    folder_with(tmp_path, tokenizer, **tokenizer_config)
    values = keyed(entries(tmp_path, QWEN, config, tokenizer_size(tokenizer)))
    known = {key: value for key, value in values.items() if key.endswith(("_token_id", "_token"))}
    assert known == expected
    if name in ORACLE_SILENT:
        return
    # gguf-py's reader of the same files is the oracle.
    write_json(tmp_path / "config.json", config)
    special = gguf.SpecialVocab(tmp_path, n_vocab=tokenizer_size(tokenizer))
    names = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
    ids = {f"{names.get(k, k)}_token_id": v for k, v in special.special_token_ids.items() if k != "cls"}
    flags = {f"add_{k}_token": v for k, v in special.add_special_token.items()}
    assert known == ids | flags


def test_structure_without_flags_does_not_gain_a_first_token(tmp_path: Path) -> None:
    """llama-bpe would add one by default; this tokenizer does not."""
    tokenizer = bpe_tokenizer(LLAMA3_REGEX, ignore_merges=True)
    folder_with(tmp_path, tokenizer, bos_token="<|im_start|>")
    values = keyed(entries(tmp_path, FAMILY, {}, tokenizer_size(tokenizer)))
    assert values["pre"] == "llama-bpe" and values["add_bos_token"] is False


def test_chat_templates_from_every_place(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer()
    size = tokenizer_size(tokenizer)
    folder_with(tmp_path, tokenizer, chat_template="{{ a }}")
    assert keyed(entries(tmp_path, QWEN, {}, size))["chat_template"] == "{{ a }}"
    folder_with(tmp_path, tokenizer)
    (tmp_path / "chat_template.jinja").write_text("{{ ümlaut }}", encoding="utf-8")
    assert keyed(entries(tmp_path, QWEN, {}, size))["chat_template"] == "{{ ümlaut }}"
    (tmp_path / "chat_template.jinja").unlink()
    write_json(tmp_path / "chat_template.json", {"chat_template": "{{ c }}"})
    assert keyed(entries(tmp_path, QWEN, {}, size))["chat_template"] == "{{ c }}"
    choices = [{"name": "default", "template": "D"}, {"name": "tool use!", "template": "T"}, {"name": 3}]
    folder_with(tmp_path, tokenizer, chat_template=choices)
    values = keyed(entries(tmp_path, QWEN, {}, size))
    assert values["chat_template"] == "D" and values["chat_template.tool_use_"] == "T"
    assert values["chat_templates"] == ["tool_use_"]
    assert outline(tmp_path, QWEN).chat_template == "D"


@pytest.fixture(scope="module")
def spm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece BPE model trained on a few of our own sentences."""
    folder = tmp_path_factory.mktemp("spm")
    text = folder / "text.txt"
    sentence = "the quick brown fox jumps over the lazy dog and then it sleeps for 12345 hours under an old tree"
    words = sentence.split()
    lines = [" ".join(words[i % 7 :: 1 + i % 3]) + f" number {i * 37}" for i in range(200)]
    text.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=360, model_type="bpe", byte_fallback=True,
        user_defined_symbols=["<user>"], unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
    )  # fmt: skip
    return folder


SPM_TEXTS = ("the quick brown fox", "Hello wörld 😀", "  two  spaces\nand a line", "fox12 oak tree 99", "the the the")


def test_sentencepiece_pieces_equal_the_package(spm_folder: Path, tmp_path: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm_folder / "tokenizer.model"))
    size = processor.vocab_size()
    (tmp_path / "tokenizer.model").write_bytes((spm_folder / "tokenizer.model").read_bytes())
    write_json(tmp_path / "added_tokens.json", {"<extra>": size, "beyond": size + 100})
    declared = {"1": {"content": "<s>", "special": True}, str(size + 1): {"content": "▁tool", "special": False}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": declared, "add_prefix_space": True})
    values = keyed(entries(tmp_path, FAMILY, {"bos_token_id": 1, "eos_token_id": 2}, size + 4))
    assert values["model"] == "llama" and values["pre"] == "default" and values["add_space_prefix"] is True
    for i in range(size):
        if i == 1:
            continue
        assert values["tokens"][i] == processor.id_to_piece(i)
        assert values["scores"][i] == processor.get_score(i)
        kind = (
            UNKNOWN if processor.is_unknown(i) else CONTROL if processor.is_control(i)
            else BYTE if processor.is_byte(i) else NORMAL
        )  # fmt: skip
        assert values["token_type"][i] == kind
    assert values["tokens"][size:] == ["<extra>", " tool", f"[PAD{size + 2}]", f"[PAD{size + 3}]"]
    assert values["token_type"][size:] == [USER_DEFINED, USER_DEFINED, UNUSED, UNUSED]
    assert values["token_type"][1] == CONTROL and values["scores"][size:] == [-1000.0, -1000.0, -10000.0, -10000.0]
    assert (values["bos_token_id"], values["eos_token_id"]) == (1, 2)


def test_sentencepiece_tokens_in_the_engine(spm_folder: Path, tmp_path: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm_folder / "tokenizer.model"))
    found = entries(spm_folder, FAMILY, {"bos_token_id": 1, "eos_token_id": 2}, processor.vocab_size())
    ours = engine_tokens(write_gguf(tmp_path / "v.gguf", found), SPM_TEXTS)
    assert ours == [processor.encode(text) for text in SPM_TEXTS]


def as_tokenizer_json(processor: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """The tokenizer.json that stands for a SentencePiece BPE model: merges in the order of the scores they make."""
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    numbers = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for number, piece in enumerate(pieces):
        if processor.is_byte(number) or processor.is_control(number) or processor.is_unknown(number):
            continue
        ways = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in numbers and piece[k:] in numbers]
        merges += [(-processor.get_score(number), numbers[a], numbers[b], [a, b]) for a, b in ways]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], **plain} for i in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": numbers,
            "merges": [merge[-1] for merge in sorted(merges)],
        },
    }


def test_sentencepiece_as_tokenizer_json_splits_the_same_in_the_engine(spm_folder: Path, tmp_path: Path) -> None:
    """The scores are not in this file; they are recovered from the order of the merges."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm_folder / "tokenizer.model"))
    tokenizer = as_tokenizer_json(processor)
    folder_with(tmp_path, tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    found = entries(tmp_path, FAMILY, {}, processor.vocab_size() + 3)
    values = keyed(found)
    assert values["model"] == "llama" and values["token_type"][:3] == [UNKNOWN, CONTROL, CONTROL]
    assert (values["bos_token_id"], values["eos_token_id"], values["unknown_token_id"]) == (1, 2, 0)
    merged = [i for i in range(processor.vocab_size()) if processor.get_score(i) < 0 and values["scores"][i] > -1000]
    assert len(merged) > 40
    by_model = sorted(merged, key=processor.get_score)
    assert sorted(merged, key=lambda i: values["scores"][i]) == by_model, "merges apply in the model's own order"
    texts = SPM_TEXTS
    oracle = Tokenizer.from_str(json.dumps(tokenizer))
    ours = engine_tokens(write_gguf(tmp_path / "v.gguf", found), texts)
    assert ours == [oracle.encode(text, add_special_tokens=False).ids for text in texts]


def test_habits_of_the_llama_class(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer(None)
    folder_with(tmp_path, tokenizer, add_bos_token=True)
    code_llama = keyed(entries(tmp_path, FAMILY, {}, 32016))
    assert code_llama["eot_token_id"] == 32010
    assert keyed(entries(tmp_path, FAMILY, {}, 49152))["add_bos_token"] is False
    assert keyed(entries(tmp_path, FAMILY, {}, 50000))["add_bos_token"] is True


def test_a_foreign_tokenizer_model_beside_tokenizer_json_is_passed_over(tmp_path: Path) -> None:
    """Llama 3 folders may hold a tiktoken file under SentencePiece's name."""
    tokenizer = bpe_tokenizer(LLAMA3_REGEX, ignore_merges=True)
    folder_with(tmp_path, tokenizer)
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    assert keyed(entries(tmp_path, FAMILY, {}, tokenizer_size(tokenizer)))["model"] == "gpt2"


def test_the_outline_of_a_large_vocabulary_is_quick(tmp_path: Path) -> None:
    """What the library shows must not wait for 150,000 tokens to be loaded."""
    import time

    tokenizer = bpe_tokenizer()
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"token{i}": 1000 + i for i in range(150_000)}
    folder_with(tmp_path, tokenizer)
    files = TokenizerFiles(tmp_path)
    assert files.outline.model.type == "BPE"
    start = time.thread_time()
    assert outline(tmp_path, QWEN).pre == "qwen2"
    assert time.thread_time() - start < 0.3
