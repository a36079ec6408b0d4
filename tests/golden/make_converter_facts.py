"""Records what llama.cpp's convert_hf_to_gguf.py makes of our test folders (and Pocket) in converter_facts.json.

Run once, in an environment of its own that has torch, transformers, sentencepiece and numpy, from the repository:

    python -m tests.golden.make_converter_facts PATH_TO_LLAMA_CPP

Recorded with llama.cpp as bundled by llama-cpp-python 0.3.36, torch 2.13.0 and transformers 5.23.0. The converter
refuses pre-tokenizers whose fingerprint it does not know, as those of all these small vocabularies are; that one key
is replaced by "?" here, and everything else is recorded as it stands.
"""

from __future__ import annotations

import json
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

LONG = 24


def digest(values: list[Any]) -> str:
    """A short stand-in for a long list."""
    return sha256(json.dumps(values, ensure_ascii=False).encode()).hexdigest()


def facts(path: Path) -> dict[str, Any]:
    """Keys and tensors of a GGUF file in JSON's types; long lists and tensors as sums."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    keys = {}
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.file_type", "general.quantization_version"):
            value = field.contents()
            if isinstance(value, list) and len(value) > LONG:
                value = {"length": len(value), "sha256": digest(value)}
            keys[key] = [[kind.name for kind in field.types[:2]], value]
    tensors = []
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        data = np.ascontiguousarray(tensor.data, np.float32)
        values: Any = sha256(data.tobytes()).hexdigest()
        if tensor.name == "rope_freqs.weight":  # computed with powers: the last bit depends on the library
            values = [float(v) for v in data.ravel()]
        tensors.append([tensor.name, shape, values])
    return {"keys": keys, "tensors": tensors}


def main() -> None:
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    import conversion.base
    import convert_hf_to_gguf

    from resources import path as resource
    from tests.converter.golden_folders import FOLDERS

    known = conversion.base.TextModel.get_vocab_base_pre

    def named_or_not(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError:
            return "?"

    conversion.base.TextModel.get_vocab_base_pre = named_or_not
    recorded = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in (*FOLDERS, "pocket"):
            folder, output = Path(scratch) / name, Path(scratch) / "out.gguf"
            if name == "pocket":
                folder = resource("pocket")
            else:
                folder.mkdir()
                FOLDERS[name](folder)
            sys.argv = ["convert", str(folder), "--outfile", str(output), "--outtype", "f32"]
            convert_hf_to_gguf.main()
            recorded[name] = facts(output)
    target = Path(__file__).parent / "converter_facts.json"
    lines = (f"{json.dumps(name)}: {json.dumps(found, ensure_ascii=False)}" for name, found in recorded.items())
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
