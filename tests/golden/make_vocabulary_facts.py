"""Records what llama.cpp's convert_hf_to_gguf.py writes of our tokenizer folders in vocabulary_facts.json.

Run once, in an environment of its own that has torch, transformers, sentencepiece, mistral-common, msgspec and numpy,
from the repository:

    python -m tests.golden.make_vocabulary_facts PATH_TO_LLAMA_CPP

Recorded with llama.cpp as bundled by llama-cpp-python 0.3.36, transformers 5.24.0 and mistral-common 1.13.1. Only the
vocabulary's part of the converter runs; the folders hold no weights. It refuses pre-tokenizers whose fingerprint it
does not know: that one key is replaced by "?" here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.golden.make_converter_facts import LONG, digest


def facts(writer: Any) -> dict[str, Any]:
    """The vocabulary's keys of a converter's writer: GGUF types and value; long lists as sums."""
    import numpy as np

    found = {}
    for key, value in writer.kv_data[0].items():
        if not key.startswith("tokenizer."):
            continue
        types, data = [value.type.name], value.value
        if value.type.name == "ARRAY":
            items = list(data)
            kind = "UINT8" if isinstance(data, bytes) else value.sub_type and value.sub_type.name
            if kind is None:
                first = items[0]
                kind = "STRING" if isinstance(first, str | bytes) else "INT32" if isinstance(first, int) else "FLOAT32"
            items = [item.decode() if isinstance(item, bytes) else item for item in items]
            data = [float(np.float32(item)) for item in items] if kind == "FLOAT32" else [*map(_plain, items)]
            types.append(kind)
            if len(data) > LONG:
                data = {"length": len(data), "sha256": digest(data)}
        found[key] = [types, data]
    return found


def _plain(item: Any) -> Any:
    return int(item) if isinstance(item, int) else item


def main() -> None:
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    import conversion
    import conversion.base
    import gguf

    from tests.converter.folders import join, safetensors
    from tests.converter.golden_vocabularies import CASES, write_case

    known = conversion.base.TextModel.get_vocab_base_pre

    def named_or_not(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return "?"

    conversion.base.TextModel.get_vocab_base_pre = named_or_not
    recorded: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            folder = Path(scratch) / name
            write_case(name, folder)
            (folder / "model.safetensors").write_bytes(join(*safetensors({})))
            kind = conversion.get_model_class(case.architecture)
            model = kind(folder, gguf.LlamaFileType.ALL_F32, Path(scratch) / "out.gguf")
            model.set_vocab()
            recorded[name] = facts(model.gguf_writer)
            print(name, len(recorded[name]), file=sys.stderr)
    target = Path(__file__).parent / "vocabulary_facts.json"
    lines = (f"{json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}" for name, found in recorded.items())
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
