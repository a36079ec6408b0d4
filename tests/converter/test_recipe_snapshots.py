"""Types against the snapshots that llama.cpp keeps of its own choices for twelve published models.

The snapshots come with the pinned release's source archive and are read from there, never copied here. Set
``QUENCH_LLAMA_SDIST`` to an unpacked archive to save the download.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from converter.recipes import RECIPES, UNWRITTEN, types
from converter.sources.base import RecipeHints
from tests.sdist import unpack

ARCHITECTURES = {
    "deepseek-v3.1": "deepseek2",
    "gemma-3-4b-it": "gemma3",
    "glm-4.6v": "glm4moe",
    "gpt-oss-120b": "gpt-oss",
    "meta-llama-3.1-70b-instruct": "llama",
    "nvidia-nemotron-3-nano-30b-a3b": "nemotron_h_moe",
    "qwen3-0.6b": "qwen3",
    "qwen3-14b": "qwen3",
    "qwen3-coder-next": "qwen3next",
    "qwen3.5-397b-a17b": "qwen35moe",
    "qwen3.6-27b": "qwen35",
    "step-3.5-flash": "step35",
}

# Rows that do not hold whole blocks show in these sections, whose mix leaves almost everything at its base type:
# (section, listed type) to a row length of that kind.
WIDTHS = {("Q5_K_S", "Q5_1"): 32, ("Q5_K_S", "F16"): 1, ("Q6_K", "Q8_0"): 32, ("Q6_K", "F16"): 1}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    type: str = "F32"


@dataclass(frozen=True)
class Snapshot:
    """What a file says: the model's numbers, and for each recipe the tensors that differ from its base type."""

    hints: RecipeHints
    sections: dict[str, dict[str, str]]

    def tensors(self) -> list[Tensor]:
        """Every tensor that differs anywhere; only those advance the counters of the mixes."""
        names = dict.fromkeys(name for listed in self.sections.values() for name in listed)
        return [Tensor(name, (*self._leading(name), self._columns(name))) for name in names]

    @staticmethod
    def _leading(name: str) -> tuple[int, ...]:
        """Experts, and the projections of latent attention, have three dimensions."""
        return (8, 8) if any(part in name for part in ("_exps.", "attn_k_b.", "attn_v_b.")) else (8,)

    def _columns(self, name: str) -> int:
        found = [self.sections[section].get(name) == kind for section, kind in WIDTHS]
        plain = RecipeHints(self.hints.architecture, 1, 1, 1, 0)
        usual = dict(zip(("Q5_K_S", "Q6_K"), (self._usual(plain, name, r) for r in ("Q5_K_S", "Q6_K")), strict=True))
        odd = [
            width
            for ((section, kind), width), hit in zip(WIDTHS.items(), found, strict=True)
            if hit and usual[section] != kind
        ]
        return min(odd, default=256)

    def _usual(self, hints: RecipeHints, name: str, recipe: str) -> str:
        return types(hints, [Tensor(name, (8, 256))], RECIPES[recipe], kind="gguf")[0][0]


def read(path: Path) -> Snapshot:
    numbers: dict[str, int] = {}
    sections: dict[str, dict[str, str]] = {}
    listed: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# n_embd"):
            numbers = {key: int(value) for key, value in (item.split("=") for item in line[2:].split(", "))}
        elif line.startswith("["):
            listed = sections.setdefault(line[1:].split("]")[0], {})
        elif line and not line.startswith("#"):
            name, kind = line.rsplit(" ", 1)
            listed[name] = kind.upper()
    hints = RecipeHints(
        ARCHITECTURES[path.stem],
        numbers["n_layer"],
        numbers["n_head"],
        numbers["n_head_kv"],
        numbers.get("n_expert", 0),
    )
    return Snapshot(hints, sections)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("QUENCH_LLAMA_SDIST")
    folder = Path(given) if given else unpack(tmp_path_factory.mktemp("sdist"), "/tests/snapshots/")
    return folder / "vendor" / "llama.cpp" / "tests" / "snapshots"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_archive_holds_exactly_the_known_snapshots(snapshots: Path) -> None:
    assert {path.stem for path in snapshots.glob("*.schema")} == set(ARCHITECTURES)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_types_equal_the_snapshot(model: str, snapshots: Path) -> None:
    snapshot = read(snapshots / f"{model}.schema")
    tensors = snapshot.tensors()
    assert tensors
    for name, listed in snapshot.sections.items():
        recipe = {**RECIPES, **UNWRITTEN}.get(name)
        if recipe is None or name in {"F32", "F16", "BF16"}:
            assert name in {"F32", "F16", "BF16", "NVFP4"}, f"{name} is a recipe that nobody knows"
            continue
        chosen = types(snapshot.hints, tensors, recipe, kind="gguf")
        found = {tensor.name: kind for tensor, (kind, _) in zip(tensors, chosen, strict=True)}
        wanted = {tensor.name: listed.get(tensor.name, recipe.base) for tensor in tensors}
        assert found == wanted, name
