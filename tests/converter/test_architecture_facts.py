"""Every architecture as llama.cpp's converter wrote it once (see ``reference.record``), without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import ConversionSpec, convert, open_model
from tests.converter.reference.compare import CLOSE, matches
from tests.converter.reference.models import MODELS
from tests.converter.reference.record import RECORDABLE, RECORDED, short_sum, write_recorded
from tests.converter.test_architectures_golden import comparable

FACTS: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FACTS)
def test_a_folder_becomes_what_llama_cpp_makes_of_it(name: str, tmp_path: Path) -> None:
    facts, allowed = FACTS[name], MODELS[name].allowed
    write_recorded(tmp_path / name, facts["vocabulary"], facts["config"], facts["shapes"])
    with open_model(tmp_path / name) as model:
        found = {entry.key: entry for entry in model.metadata if not entry.key.startswith("tokenizer.")}
        types = {key: [entry.type, *([entry.item_type] if entry.item_type else [])] for key, entry in found.items()}
        keys = {key: known for key, known in facts["keys"].items() if not matches(key, allowed)}
        assert {key: kinds for key, kinds in types.items() if not matches(key, allowed)} == {
            key: kinds for key, (kinds, _) in keys.items()
        }
        for key, (kinds, value) in keys.items():
            assert comparable(found[key].value, "FLOAT32" in kinds) == value, key
        tensors = [tensor for tensor in model.tensors if not matches(tensor.name, allowed)]
        expected_tensors = [known for known in facts["tensors"] if not matches(known[0], allowed)]
        names, known_names = [t.name for t in tensors], [known[0] for known in expected_tensors]
        if "order" in allowed:
            known_names.sort(key=names.index)
            expected_tensors.sort(key=lambda known: names.index(known[0]))
        assert names == known_names, "same tensors, same order"
        for tensor, (_, shape, expected) in zip(tensors, expected_tensors, strict=True):
            values = tensor.rows(0, tensor.n_rows)
            assert list(tensor.shape) == shape
            if matches(tensor.name, CLOSE):
                continue  # compared where the reference is at hand
            if isinstance(expected, list):
                np.testing.assert_allclose(values[0], expected, rtol=1e-6)
            else:
                assert short_sum(values.tobytes()) == expected, tensor.name


@pytest.mark.parametrize("name", FACTS)
def test_any_slabs_give_the_same_rows(name: str, tmp_path: Path) -> None:
    """A whole conversion in small slabs by several threads is the same file as in large ones by one."""
    facts = FACTS[name]
    folder = tmp_path / name
    write_recorded(folder, facts["vocabulary"], facts["config"], facts["shapes"])
    files = []
    for threads, memory in ((1, 0), (3, 48)):
        output = tmp_path / f"{threads}.gguf"
        convert(ConversionSpec(str(folder), str(output), ("Q4_K_M",), threads=threads, memory_mib=memory))
        files.append(output.read_bytes())
    assert files[0] == files[1]


def test_every_architecture_is_recorded() -> None:
    assert list(FACTS) == RECORDABLE
