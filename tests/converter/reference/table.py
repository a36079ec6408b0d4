"""The README's table of architectures, made from recorded comparisons (``tests/golden/architecture_verdicts.json``).

python -m tests.converter.reference --record [NAME ...]   compares, records and writes the table
python -m tests.converter.reference.table                 writes the table from what is recorded
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.converter.reference.models import MODELS

RECORDED = Path(__file__).parents[2] / "golden" / "architecture_verdicts.json"
README = Path(__file__).parents[3] / "README.md"
BEGIN = "<!-- architectures: python -m tests.converter.reference.table -->"
END = "<!-- end of architectures -->"
HEADER = (
    "| architecture | models | equal | logits, F32 | F16 | BF16 | transformers in BF16 | but |",
    "|---|---|---|---|---|---|---|---|",
)


def recorded() -> dict[str, dict[str, Any]]:
    """What comparisons found, by the model's name: ``family``, ``problems``, ``distance`` and ``own`` (see
    ``compare.Verdict``)."""
    found: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.is_file() else {}
    return found


def record(facts: dict[str, dict[str, Any]]) -> None:
    """Writes what was found, a model a line, in the order of the models, without those that are no more."""
    lines = [f"{json.dumps(name)}: {json.dumps(facts[name])}" for name in MODELS if name in facts]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def table() -> list[str]:
    """The lines of the table: a family each, in the order of the models."""
    families: dict[str, list[str]] = {}
    facts = recorded()
    for name in MODELS:
        if name in facts:
            families.setdefault(facts[name]["family"], []).append(name)
    return [*HEADER, *(_row(family, names, facts) for family, names in families.items())]


def _row(family: str, names: list[str], facts: dict[str, dict[str, Any]]) -> str:
    problems = [problem for name in names for problem in facts[name]["problems"]]
    compared = [name for name in names if not MODELS[name].refused]
    equal = "no" if problems else "yes" if compared else "-"
    agreeing = [facts[name] for name in names if not MODELS[name].engine]
    far = [_farthest([each["distance"] for each in agreeing], kind) for kind in ("f32", "f16", "bf16")]
    far.append(_farthest([each["own"] for each in agreeing], "bf16"))
    return f"| {family} | {len(names)} | {equal} | {' | '.join(far)} | {'; '.join([*problems, *_exceptions(names)])} |"


def _farthest(distances: list[dict[str, float]], kind: str) -> str:
    found = [each[kind] for each in distances if kind in each]
    if not found:
        return "-"
    return f"{100 * max(found):.2g} %" if max(found) >= 1e-5 else "< 0.001 %"


def _exceptions(names: list[str]) -> list[str]:
    """What is not equal on purpose, and which logits are not, each with its reason once."""
    found: dict[str, None] = {}
    for name in names:
        model = MODELS[name]
        for pattern, reason in model.allowed.items():
            found[reason if pattern == "order" else f"`{pattern}`: {reason}"] = None
        refused = "llama.cpp's converter refuses it, so that logits alone are compared" if model.refused else ""
        apart = f"logits are not compared: {model.engine}" if model.engine else ""
        for reason in filter(None, (refused, apart, model.sensitive)):
            found[f"{name}: {reason}"] = None
    return list(found)


def written(text: str) -> str:
    """A README with the table as it should be. ``ValueError`` if it has no place for it."""
    begin, end = text.index(BEGIN), text.index(END)
    return text[:begin] + "\n".join([BEGIN, "", *table(), "", ""]) + text[end:]


def main() -> None:
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
