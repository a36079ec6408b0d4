"""Writes ``pocket_logits.npz``: what transformers says about Pocket, in float32, as an oracle that is not ours.

Run it by hand in an environment with torch and transformers (they are no dependency of Quench):

    python tests/golden/make_pocket_logits.py [MODEL_FOLDER]

The file holds, for prompt ``i``: ``tokens_i`` int32 (length,), ``positions_i`` int32 (n,) and ``logits_i`` float32
(n, vocabulary), the next-token logits after each of these positions. ``prompts`` are the texts, special tokens
written out as in a chat. ``made_with`` names the versions.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

PROMPTS = {
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n": 4,
    "<|im_start|>user\nCalculate 12 x 5.<|im_end|>\n<|im_start|>assistant\n12 x 5 =": 4,
    "Once upon a time, in an empty house, there lived a clever bear. One day the bear met Sam, who had lost": 4,
    "Grüße aus Köln: 你好, naïve café — 😀! def f(x):\n    return x + 1\n": 4,
}
"""Text -> how many positions are kept, spread evenly and ending with the last."""


def main() -> None:
    here = Path(__file__).resolve().parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent.parent / "resources" / "pocket"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    made_with = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
    arrays: dict[str, np.ndarray] = {"prompts": np.array(list(PROMPTS)), "made_with": np.array(made_with)}
    for index, (prompt, count) in enumerate(PROMPTS.items()):
        tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].numpy()
        positions = np.unique(np.linspace(0, len(tokens) - 1, count).round().astype(np.int32))
        arrays[f"tokens_{index}"] = np.array(tokens, np.int32)
        arrays[f"positions_{index}"] = positions
        arrays[f"logits_{index}"] = logits[positions].astype(np.float32)
    np.savez_compressed(here / "pocket_logits.npz", **arrays)


if __name__ == "__main__":
    main()
