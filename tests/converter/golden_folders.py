"""Model folders that are the same on every machine: what ours and llama.cpp's converter are compared on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.converter.folders import LLAMA3_REGEX, bpe_tokenizer, tokenizer_size, write_folder, write_json

SENTENCEPIECE = Path(__file__).parent.parent / "data" / "tiny-sentencepiece.model"
SENTENCEPIECE_SIZE = 400
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def _configured(folder: Path, **config: Any) -> None:
    write_json(folder / "tokenizer_config.json", config)


def _llama3(folder: Path) -> None:
    specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
    tokenizer = bpe_tokenizer(LLAMA3_REGEX, specials=specials, ignore_merges=True, extra=({"content": "  ", **_PLAIN},))
    size = tokenizer_size(tokenizer)
    begin = {"SpecialToken": {"id": specials[0], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {
                "type": "TemplateProcessing",
                "single": [begin, first],
                "pair": [begin, first, begin, second],
                "special_tokens": {specials[0]: {"id": specials[0], "ids": [size - 4], "tokens": [specials[0]]}},
            },
        ],
    }
    write_folder(folder, "llama", vocab_size=size + 5)
    write_json(folder / "tokenizer.json", tokenizer)
    _configured(
        folder, bos_token=specials[0], eos_token=specials[2], tokenizer_class="PreTrainedTokenizerFast",
        chat_template="{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    )  # fmt: skip
    sampling = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": [1, 2]}
    write_json(folder / "generation_config.json", sampling)
    card = (
        "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\ntags:\n- chat\npipeline_tag: text-generation\n---\n# Tiny\n"
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _llama_sentencepiece(folder: Path) -> None:
    write_folder(
        folder, "llama", vocab_size=416, rope_scaling=None, rope_theta=10000.0, bos_token_id=1, eos_token_id=2,
        attention_bias=True, dtype="F16",
    )  # fmt: skip
    shutil.copy(SENTENCEPIECE, folder / "tokenizer.model")
    write_json(folder / "added_tokens.json", {"<pad>": 400, "hello▁x": 401})
    declared = {
        "0": {"content": "<unk>", "special": True},
        "1": {"content": "<s>", "special": True},
        "2": {"content": "</s>", "special": True},
        "402": {"content": "▁extra", "special": False},
        "403": {"content": "<|control|>", "special": False},
    }
    _configured(
        folder, bos_token={"content": "<s>"}, eos_token="</s>", unk_token="<unk>", add_bos_token=True,
        add_eos_token=False, tokenizer_class="LlamaTokenizer", add_prefix_space=False, added_tokens_decoder=declared,
    )  # fmt: skip


def _mistral(folder: Path) -> None:
    write_folder(folder, "mistral", vocab_size=SENTENCEPIECE_SIZE, shards=3, num_key_value_heads=1)
    shutil.copy(SENTENCEPIECE, folder / "tokenizer.model")
    templates = [{"name": "default", "template": "A{{ x }}"}, {"name": "tool use", "template": "B"}]
    _configured(
        folder, bos_token="<s>", eos_token="</s>", add_bos_token=True, add_eos_token=False,
        tokenizer_class="LlamaTokenizer", chat_template=templates,
    )  # fmt: skip


def _qwen2(folder: Path) -> None:
    tokenizer = bpe_tokenizer(extra=({"content": "<tool_call>", **_PLAIN},), pairs=False)
    write_folder(folder, "qwen2", vocab_size=tokenizer_size(tokenizer) + 9)
    write_json(folder / "tokenizer.json", tokenizer)
    declared = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokenizer["added_tokens"]}
    _configured(
        folder, bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>", add_bos_token=False,
        tokenizer_class="Qwen2Tokenizer", chat_template="x", added_tokens_decoder=declared,
    )  # fmt: skip


def _qwen3(folder: Path) -> None:
    tokenizer = bpe_tokenizer()
    write_folder(
        folder, "qwen3", vocab_size=tokenizer_size(tokenizer), num_key_value_heads=4, dtype="F32", bos_token_id=256,
        eos_token_id=257,
    )  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    _configured(folder, eos_token="<|im_end|>", pad_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast")
    (folder / "chat_template.jinja").write_text("jinja {{ messages }}", encoding="utf-8")


def _qwen3_sentencepiece(folder: Path) -> None:
    write_folder(folder, "qwen3", vocab_size=410, head_dim=16, tie_word_embeddings=False)
    shutil.copy(SENTENCEPIECE, folder / "tokenizer.model")
    _configured(folder, eos_token="</s>", tokenizer_class="LlamaTokenizer")


def _llama_gpt2(folder: Path) -> None:
    tokenizer = bpe_tokenizer(None)
    write_folder(
        folder, "llama", vocab_size=tokenizer_size(tokenizer), rope_scaling={"type": "linear", "factor": 2.0},
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    _configured(
        folder, eos_token="<|im_end|>", tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
    )  # fmt: skip


# Folder name (it becomes part of the metadata) -> what writes it.
FOLDERS: dict[str, Callable[[Path], None]] = {
    "Tiny-Llama-3.2-1B-Instruct": _llama3,
    "llama-spm-7b": _llama_sentencepiece,
    "mistral 7B v0.3": _mistral,
    "Qwen2.5-0.5B-Instruct": _qwen2,
    "Qwen3-4B-128k": _qwen3,
    "qwen3-spm": _qwen3_sentencepiece,
    "org--smol-360M-chat-v1.2": _llama_gpt2,
}
