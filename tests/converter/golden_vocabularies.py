"""Tokenizer folders that are the same on every machine: what ours and llama.cpp's converter are compared on.

Each is for one way in which a family's vocabulary is read. The small ones are written by hand, so that no trainer of
another version makes them differently; tiny-unigram.model is a SentencePiece Unigram model of 180 tokens with a map of
eight characters.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.vocabulary.model_file import read_model
from tests.converter.folders import bpe_tokenizer, tokenizer_size, write_json
from tests.converter.vocab_folders import NFC, Pieces, byte_level, sentencepiece_model, sequence

DATA = Path(__file__).parent.parent / "data"
SENTENCEPIECE, UNIGRAM = DATA / "tiny-sentencepiece.model", DATA / "tiny-unigram.model"
_SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_PLAIN = _SPECIAL | {"special": False}


@dataclass(frozen=True)
class Case:
    """``write`` fills the folder with tokenizer files and gives the number of the model's tokens; ``config`` is what
    config.json holds beside it and ``architectures``. ``family`` is the name in ``Family.vocabulary``."""

    architecture: str
    family: str
    write: Callable[[Path], int]
    config: dict[str, Any] = field(default_factory=dict)
    # Keys that are ours for a reason, each with the reason.
    ours: dict[str, str] = field(default_factory=dict)
    # The pre-tokenizer; the other converter does not know those of vocabularies that it has not met.
    splits: str = "gpt-2"


def write_case(name: str, folder: Path) -> int:
    """The folder of a case, with config.json; returns the number of tokens."""
    case = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    size = case.write(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = {"architectures": [case.architecture], **sizes, "vocab_size": size, **case.config}
    write_json(folder / "config.json", config)
    return size


def _configured(folder: Path, **config: Any) -> None:
    write_json(folder / "tokenizer_config.json", config)


def bert_words() -> list[str]:
    """A WordPiece vocabulary: five special tokens, letters, some words and continuations."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    words = [
        "the",
        "fox",
        "sleep",
        "##ing",
        "##er",
        "under",
        "tree",
        "##一",
        "一",
        "我",
        "é",
        "##é",
        "[unused1]",
    ]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters[:36]), *words]


def _bert_json(folder: Path) -> int:
    words = bert_words()
    numbers = {word: number for number, word in enumerate(words)}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": words[i], **_SPECIAL} for i in range(5)]
        + [{"id": len(words), "content": "[later]", **_PLAIN}],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, first, sep],
            "pair": [cls, first, sep, second, sep],
            "special_tokens": {n: {"id": n, "ids": [numbers[n]], "tokens": [n]} for n in ("[CLS]", "[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": numbers,
        },
    }  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    _configured(folder, tokenizer_class="BertTokenizer", mask_token="[MASK]", do_lower_case=True, **names)
    return len(words) + 3


def _bert_text(folder: Path) -> int:
    (folder / "vocab.txt").write_text("\n".join(bert_words()) + "\n", encoding="utf-8")
    _configured(folder, tokenizer_class="BertTokenizer", do_lower_case=True)
    return len(bert_words())


def _gpt2_files(folder: Path) -> int:
    tokenizer = bpe_tokenizer(None, specials=("<|endoftext|>",))
    vocab = tokenizer["model"]["vocab"] | {"<|endoftext|>": len(tokenizer["model"]["vocab"])}
    write_json(folder / "vocab.json", vocab)
    merges = "\n".join(" ".join(pair) for pair in tokenizer["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    _configured(folder, tokenizer_class="GPT2Tokenizer")
    return len(vocab)


def _roberta(folder: Path) -> int:
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = bpe_tokenizer(None, specials=specials)
    numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["post_processor"] = {
        "type": "RobertaProcessing", "sep": ["</s>", numbers["</s>"]], "cls": ["<s>", numbers["<s>"]],
        "trim_offsets": True, "add_prefix_space": False,
    }  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    names = ("bos", "pad", "eos", "unk", "mask")
    named = {f"{key}_token": token for key, token in zip(names, specials, strict=True)}
    _configured(folder, tokenizer_class="RobertaTokenizer", cls_token="<s>", sep_token="</s>", **named)
    return tokenizer_size(tokenizer)


def _byte_level(specials: tuple[str, ...], **changes: Any) -> Callable[[Path], int]:
    def write(folder: Path) -> int:
        tokenizer = bpe_tokenizer(None, specials=specials)
        config = dict(changes)
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            if part in config:
                tokenizer[part] = config.pop(part)
        write_json(folder / "tokenizer.json", tokenizer)
        _configured(folder, **config)
        return tokenizer_size(tokenizer) + 2

    return write


def _sentencepiece(extra: int = 16, added: bool = True, **config: Any) -> Callable[[Path], int]:
    """tiny-sentencepiece.model (400 tokens) with tokens added by name and by number."""

    def write(folder: Path) -> int:
        shutil.copy(SENTENCEPIECE, folder / "tokenizer.model")
        declared = {
            "0": {"content": "<unk>", **_SPECIAL},
            "1": {"content": "<s>", **_SPECIAL},
            "2": {"content": "</s>", **_SPECIAL},
            "402": {"content": "<|im_end|>", **_SPECIAL},
            "403": {"content": "▁extra▁word", **_PLAIN},
            "404": {"content": "<|user|>", **_PLAIN},
        }
        if added:
            write_json(folder / "added_tokens.json", {"<pad>": 400, "hello▁x": 401})
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
        _configured(folder, **(named | {"added_tokens_decoder": declared} | config))
        return 400 + extra

    return write


def _internlm2(folder: Path) -> int:
    pieces: list[tuple[str, float, int]] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [("\0", -1.0, 1), ("▁the", -2.0, 1), ("th", -3.0, 1), ("▁", -4.0, 1), ("t", -5.0, 1), ("h", -6.0, 1)]
    pieces += [("e", -7.0, 1), ("[UNUSED_TOKEN_141]", -8.0, 4), ("[UNUSED_TOKEN_145]", -9.0, 4)]
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    end = len(pieces) - 1
    declared = {"2": {"content": "</s>", **_SPECIAL}, str(end): {"content": "<|im_end|>", **_SPECIAL}}
    _configured(folder, tokenizer_class="InternLM2Tokenizer", added_tokens_decoder=declared, eos_token="</s>")
    return len(pieces)


def _t5(folder: Path) -> int:
    shutil.copy(UNIGRAM, folder / "spiece.model")
    write_json(folder / "added_tokens.json", {"<extra_id_0>": 181})
    _configured(folder, tokenizer_class="T5Tokenizer", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    return 184


def _fairseq_pieces() -> Pieces:
    model = read_model(UNIGRAM.read_bytes())
    return [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((p.text, p.score, 1) for p in model.pieces[4:])]


def _xlm_roberta_model(folder: Path) -> int:
    pieces = _fairseq_pieces()
    charsmap = read_model(UNIGRAM.read_bytes()).charsmap
    data = sentencepiece_model(pieces, model_type=1, charsmap=charsmap, squeeze=True)
    (folder / "sentencepiece.bpe.model").write_bytes(data)
    _configured(folder, tokenizer_class="XLMRobertaTokenizer", bos_token="<s>", eos_token="</s>")
    return len(pieces) + 2


def _xlm_roberta_json(folder: Path) -> int:
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    vocab = [*((token, 0.0) for token in specials), *((t, s) for t, s, _ in _fairseq_pieces()[3:]), ("<mask>", 0.0)]
    numbers = {token: number for number, (token, _) in enumerate(vocab)}
    charsmap = base64.b64encode(read_model(UNIGRAM.read_bytes()).charsmap).decode()
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": numbers[t], "content": t, **_SPECIAL} for t in (*specials, "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": sequence({"type": "WhitespaceSplit"}, spaces),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {t: {"id": t, "ids": [numbers[t]], "tokens": [t]} for t in ("<s>", "</s>")},
        },
        "decoder": spaces,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>"}
    _configured(
        folder, tokenizer_class="XLMRobertaTokenizer", sep_token="</s>", mask_token="<mask>",
        clean_up_tokenization_spaces=True, **names,
    )  # fmt: skip
    return len(vocab)


def tekken_file(count: int = 300) -> dict[str, Any]:
    """A tekken.json of the kind that lists its special tokens: 256 bytes and what pairs of letters make of them."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes([first, second]) for first in b"etaoinshr " for second in b"etaoinshrd"]
    tokens += [b"the", b" the", b"ther", b"\xe6\x88", b"\xe6\x88\x91"]
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(raw).decode(), "token_str": raw.decode("utf-8", "replace")}
        for rank, raw in enumerate(tokens)
    ]
    specials = (
        "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
        "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
    )  # fmt: skip
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) + 24,
            "default_num_special_tokens": 24,
            "version": "v7",
        },
        "vocab": vocab,
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(specials)],
    }


def _tekken(folder: Path) -> int:
    found = tekken_file()
    write_json(folder / "tekken.json", found)
    return int(found["config"]["default_vocab_size"])


def _templates(folder: Path) -> int:
    size = _byte_level(("<|endoftext|>", "<|im_end|>"), tokenizer_class="Qwen2Tokenizer", eos_token="<|im_end|>")(
        folder
    )
    (folder / "chat_template.jinja").write_text("main {{ messages }}", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool use.jinja").write_text("tools {{ tools }}", encoding="utf-8")
    return size


_BERT_IDS = [f"tokenizer.ggml.{name}_token_id" for name in ("unknown", "bos", "seperator", "mask")]
_WRONG = "the other converter leaves it to the engine, which takes a number that is not this vocabulary's"
_BERT_OURS = dict.fromkeys(_BERT_IDS, _WRONG)
_GLM_TOKENS = ("<|endoftext|>", "[gMASK]", "<|user|>", "<|observation|>")
_LAYERS = {"num_layers": 2, "multi_query_group_num": 2, "ffn_hidden_size": 128, "padded_vocab_size": 282}
CASES: dict[str, Case] = {
    "bert": Case(
        "BertModel", "bert", _bert_json, {"model_type": "bert", "type_vocab_size": 3}, splits="default"
    ),
    "bert-vocab.txt": Case("BertModel", "bert", _bert_text, {"model_type": "bert"}, _BERT_OURS, splits="default"),
    "roberta": Case("RobertaModel", "roberta", _roberta, {"model_type": "roberta", "type_vocab_size": 1}),
    "xlm-roberta-model": Case(
        "XLMRobertaModel", "xlm-roberta", _xlm_roberta_model,
        {"model_type": "xlm-roberta", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
        {"tokenizer.ggml.unknown_token_id": _WRONG},
    ),
    "xlm-roberta-json": Case(
        "XLMRobertaModel", "xlm-roberta", _xlm_roberta_json,
        {"model_type": "xlm-roberta", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
    ),
    "t5": Case("T5ForConditionalGeneration", "t5", _t5, {"model_type": "t5", "eos_token_id": 1, "pad_token_id": 0}),
    "gpt2-files": Case("GPT2LMHeadModel", "bpe", _gpt2_files, {
        "model_type": "gpt2", "n_layer": 2, "n_ctx": 64, "n_embd": 64, "n_head": 4, "bos_token_id": 277,
    }),
    "gpt-neox": Case("GPTNeoXForCausalLM", "bpe", _byte_level(
        ("<|endoftext|>", "<|padding|>"), normalizer=NFC, tokenizer_class="GPTNeoXTokenizer",
        bos_token="<|endoftext|>", eos_token="<|endoftext|>",
    ), {"model_type": "gpt_neox"}),
    "command-r": Case("CohereForCausalLM", "bpe", _byte_level(
        ("<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"), normalizer=NFC, add_bos_token=True, add_eos_token=False,
        pre_tokenizer=sequence({"type": "Digits", "individual_digits": True}, byte_level()), bos_token="<BOS_TOKEN>",
        eos_token="<|END_OF_TURN_TOKEN|>", pad_token="<PAD>", tokenizer_class="PreTrainedTokenizerFast",
    ), {"model_type": "cohere"}, splits="smollm"),
    "glm4": Case("Glm4ForCausalLM", "glm4", _byte_level(_GLM_TOKENS), {"model_type": "glm4"}),
    "glm4-moe": Case("Glm4MoeForCausalLM", "glm", _byte_level(_GLM_TOKENS), {"model_type": "glm4_moe"}),
    "chatglm": Case("GlmForCausalLM", "chatglm", _byte_level(_GLM_TOKENS), {"model_type": "glm"} | _LAYERS,
        {"tokenizer.ggml.add_bos_token": "the other converter writes it with the architecture's keys"}),
    "templates": Case("Qwen2ForCausalLM", "qwen", _templates, {"model_type": "qwen2"}),
    "gemma": Case("GemmaForCausalLM", "gemma", _sentencepiece(), {"model_type": "gemma", "head_dim": 16}),
    "gemma2": Case("Gemma2ForCausalLM", "gemma2", _sentencepiece(), {"model_type": "gemma2", "head_dim": 16}),
    "phi3": Case("Phi3ForCausalLM", "phi3", _sentencepiece(), {"model_type": "phi3", "bos_token_id": 1}),
    "phi4": Case("Phi3ForCausalLM", "phi3", _byte_level(
        ("<|endoftext|>", "<|im_end|>"), tokenizer_class="GPT2Tokenizer", eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
    ), {"model_type": "phi3"}),
    "internlm2": Case(
        "InternLM2ForCausalLM", "internlm2", _internlm2,
        {"model_type": "internlm2", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    ),
    "internlm3": Case(
        "InternLM3ForCausalLM", "internlm3", _sentencepiece(add_prefix_space=False),
        {"model_type": "internlm3", "bos_token_id": 1, "eos_token_id": 2},
    ),
    "nemotron": Case("NemotronForCausalLM", "nemotron", _sentencepiece(), {"model_type": "nemotron"}),
    "baichuan": Case("BaichuanForCausalLM", "sentencepiece", _sentencepiece(), {"model_type": "baichuan"}),
    "ernie": Case(
        "Ernie4_5ForCausalLM", "ernie", _sentencepiece(add_prefix_space=False), {"model_type": "ernie4_5"}
    ),
    "codellama": Case("LlamaForCausalLM", "llama", _sentencepiece(extra=32016 - 400), {"model_type": "llama"}),
    "tekken": Case(
        "MistralForCausalLM", "llama", _tekken, {"model_type": "mistral"},
        {"tokenizer.chat_template": "the other converter brings a template of its own"},
    ),
}  # fmt: skip
