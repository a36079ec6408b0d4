"""Embeddings of small random encoders against llama-cpp-python's high-level API and against numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import converter
from app.child import Child
from app.engine.embedding import Embedder
from app.protocol import Failed, Load, Loaded, LoadOptions, Stop
from app.serving.messages import Embed, Embedded
from app.similarity import as_csv, cosines, lines, pairs, unpack
from converter.spec import QuenchError
from tests.converter.test_families import make
from tests.hub.program import quench, quench_words

TEXTS = ("a bear in the snow", "bears and lamps", "the cat sat on the mat", "lamp", "a bear in the snow")
EXACT = LoadOptions(threads=1, flash_attention="off")
POOLINGS = {"mean": 1, "cls": 2, "lasttoken": 3}


def build(folder: Path, name: str, pooling: str = "mean", **changes: Any) -> Path:
    """A small random encoder as a GGUF file in 32 bits."""
    source = make(folder / "source", name, **changes)
    modules = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]
    (source / "modules.json").write_text(json.dumps(modules))
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    target = folder / f"{name}-{pooling}-F32.gguf"
    converter.convert(converter.ConversionSpec(str(source), str(target), ("F32",)))
    return target


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def library_says() -> Iterator[Callable[[Path], npt.NDArray[np.float64]]]:
    """Vectors of ``TEXTS`` by llama-cpp-python's own high-level class."""
    from llama_cpp import Llama

    def ask(path: Path) -> npt.NDArray[np.float64]:
        model = Llama(str(path), embedding=True, n_ctx=64, verbose=False, n_threads=1)
        try:
            answer = model.create_embedding(list(TEXTS))
            vectors = np.array([entry["embedding"] for entry in answer["data"]], np.float64)
        finally:
            model.close()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    yield ask


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("bert", "mean"), ("bert", "cls"), ("bert", "lasttoken"), ("nomic-bert", "mean"), ("roberta", "cls")],
)
def test_vectors_are_the_librarys(
    tmp_path: Path, library_says: Callable[[Path], npt.NDArray[np.float64]], name: str, pooling: str
) -> None:
    path = build(tmp_path, name, pooling)
    with Embedder.load(str(path), EXACT) as model:
        assert model.pooling == POOLINGS[pooling]
        made = model.embed(TEXTS)
    with Embedder.load(str(path)) as quick:
        assert np.allclose(quick.embed(TEXTS).vectors, made.vectors, atol=2e-3)
    assert made.vectors.shape == (len(TEXTS), model.width)
    assert np.allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(made.vectors, library_says(path), atol=2e-5)
    assert np.array_equal(made.vectors[0], made.vectors[4])
    assert not np.allclose(made.vectors[0], made.vectors[1], atol=1e-3)


def test_vectors_are_those_of_the_formula(bert: Path) -> None:
    """BERT in numpy from the folder's own weights and tokenizer (Devlin et al. 2018), then the mean over all tokens."""
    from tokenizers import Tokenizer

    folder = bert.parent / "source"
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    weights = _weights(folder / "model.safetensors")
    text = TEXTS[0]
    expected = _bert(weights, config, tokenizer.encode(text).ids)
    with Embedder.load(str(bert), EXACT) as model:
        found = model.embed([text])
    assert found.tokens == (len(tokenizer.encode(text).ids),)
    assert np.allclose(found.vectors[0], expected / np.linalg.norm(expected), atol=3e-4)  # a table of GELU in 16 bits


def _weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a safetensors file in 32 bits."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            raw = data[8 + size + begin : 8 + size + end]
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
            found[name.removeprefix("bert.")] = values.reshape(entry["shape"])
    return found


def _bert(weights: dict[str, Any], config: dict[str, Any], ids: list[int]) -> npt.NDArray[np.float64]:
    def linear(name: str, x: Any) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    from math import erf

    gelu = np.vectorize(lambda value: 0.5 * value * (1 + erf(value / 2**0.5)))
    front = "embeddings."
    x = weights[f"{front}word_embeddings.weight"][ids].astype(np.float64)
    x = (
        x
        + weights[f"{front}position_embeddings.weight"][: len(ids)]
        + weights[f"{front}token_type_embeddings.weight"][0]
    )
    x = norm(f"{front}LayerNorm", x)
    heads = config["num_attention_heads"]
    for layer in range(config["num_hidden_layers"]):
        base = f"encoder.layer.{layer}."
        parts = [linear(f"{base}attention.self.{part}", x) for part in ("query", "key", "value")]
        q, k, v = (part.reshape(len(ids), heads, -1).transpose(1, 0, 2) for part in parts)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(f"{base}attention.output.LayerNorm", x + linear(f"{base}attention.output.dense", mixed))
        inner = gelu(linear(f"{base}intermediate.dense", x))
        x = norm(f"{base}output.LayerNorm", x + linear(f"{base}output.dense", inner))
    mean: npt.NDArray[np.float64] = x.mean(0)
    return mean


def test_what_is_too_long_is_cut_and_said(bert: Path) -> None:
    with Embedder.load(str(bert), LoadOptions(context=8, threads=1)) as model:
        made = model.embed(["lamp", "bear " * 500])
        assert made.cut == (1,) and made.tokens[1] == 8
        assert np.isfinite(made.vectors).all()
        with pytest.raises(QuenchError) as caught:
            model.embed(["lamp", "  "])
        assert caught.value.code == "empty_text" and "Text 2" in caught.value.detail


def test_a_model_that_writes_makes_no_vectors(pocket_gguf: Callable[[str], Path], bert: Path) -> None:
    with pytest.raises(QuenchError) as caught:
        Embedder.load(str(pocket_gguf("Q8_0")))
    assert caught.value.code == "not_embedding"
    with Child("chat") as chat:
        chat.send(Load(str(bert)))
        assert [event.code for event in chat.events() if isinstance(event, Failed)] == ["not_generative"]


def test_the_worker(bert: Path) -> None:
    with Child("embed") as child:
        child.send(Load(str(bert)))
        for number, texts in ((1, TEXTS), (2, ("", "x")), (3, TEXTS[:2])):
            child.send(Embed(number, texts))
        child.send(Stop(9))
        got = [event for event in _first(child, 4) if not isinstance(event, Loaded)]
        assert [type(event) for event in got] == [Embedded, Failed, Embedded]
        assert got[1].request == 2 and got[1].code == "empty_text"
        assert unpack(got[0].vectors, got[0].width).shape == (5, got[0].width)


def _first(child: Child, count: int) -> list[Any]:
    wanted = (Loaded, Embedded, Failed)
    found: list[Any] = []
    for event in child.events():
        if isinstance(event, wanted):
            found.append(event)
        if len(found) == count:
            break
    return found


def test_similarity_of_lines() -> None:
    assert lines(" a \n\n b\r\n") == ("a", "b")
    for text, code in (("\n \n", "no_texts"), ("x\n" * 501, "too_many_texts")):
        with pytest.raises(QuenchError) as caught:
            lines(text)
        assert caught.value.code == code
    table = cosines(np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32))
    assert np.allclose(table, [[1, 0, 0.6], [0, 1, 0.8], [0.6, 0.8, 1]], atol=1e-6)
    assert [pair[1:] for pair in pairs(table)] == [(1, 2), (0, 2), (0, 1)]
    assert as_csv(["a", 'b,"c'], table[:2, :2]).splitlines()[0] == ',a,"b,""c"'


def test_the_command(bert: Path, tmp_path: Path, pocket_gguf: Callable[[str], Path]) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    status, data, err = quench("embed", str(bert), "--text", str(file))
    assert status == 0, (data, err)
    assert data["texts"] == list(TEXTS) and data["cut"] == []
    with Embedder.load(str(bert), LoadOptions(threads=1)) as model:
        expected = cosines(model.embed(TEXTS).vectors)
    assert np.allclose(data["similarity"], expected, atol=1e-5)
    assert data["similarity"][0][4] == 1.0
    status, out, _ = quench_words("embed", str(bert), "--text", str(file))
    assert status == 0 and "1.0000" in out and TEXTS[0] in out
    assert quench("embed", str(pocket_gguf("Q8_0")), "--text", str(file))[1]["error"]["code"] == "not_embedding"
    file.write_bytes(b"\xff\xfe")
    assert quench("embed", str(bert), "--text", str(file))[1]["error"]["code"] == "bad_texts"


def test_it_is_served(bert: Path) -> None:
    import openai

    from tests.remote.test_serving import begin

    running = begin(bert)
    try:
        with openai.OpenAI(base_url=running.url, api_key="none", max_retries=0) as client:
            plain = client.embeddings.create(model="x", input=list(TEXTS), encoding_format="float")
            packed = client.embeddings.create(model="x", input=list(TEXTS))  # base64 on the wire
            assert plain.usage.prompt_tokens > len(TEXTS)
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="x", messages=[{"role": "user", "content": "x"}])
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model="x", input=["x", ""])
        vectors = np.array([entry.embedding for entry in plain.data])
        assert np.allclose(vectors, [entry.embedding for entry in packed.data], atol=1e-7)
        with Embedder.load(str(bert), LoadOptions(threads=1)) as model:
            assert np.allclose(vectors, model.embed(TEXTS).vectors, atol=1e-5)
    finally:
        running.process.kill()
        running.process.communicate()
