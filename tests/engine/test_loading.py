"""Files that are not what they should be: words, never a hang. What our own look at the header lets through is met in a
worker, as in real life."""

from __future__ import annotations

import struct

import msgspec
import pytest

import converter
from app.child import Child
from app.engine.loading import check_file
from app.engine.model import Model
from app.protocol import ChatMessage, Load, Loaded, LoadOptions, Sampling
from converter.spec import QuenchError
from tests.converter.test_families import make
from tests.workers.small import small_worker


def load_in_worker(path):
    """The error that a person sees after asking a worker for ``path``, or None if it loaded."""
    with Child("chat") as process:
        process.send(Load(str(path), LoadOptions(threads=1)))
        for event in process.events():
            if isinstance(event, Loaded):
                return None
        return process.wait(60).error


@pytest.fixture(scope="module")
def data(pocket_gguf):
    return pocket_gguf("Q8_0").read_bytes()


def replaced(data, key, old, new):
    """``data`` with the bytes ``old`` right after the metadata key ``key`` replaced."""
    at = data.index(key.encode()) + len(key)
    assert data[at : at + len(old)] == old
    return data[:at] + new + data[at + len(new) :]


U32 = struct.pack("<I", 4)
HEADERS = {
    "empty": lambda data: b"",
    "four bytes": lambda data: data[:4],
    "header cut": lambda data: data[:40],
    "vocabulary cut": lambda data: data[:20_000],
    "half": lambda data: data[: len(data) // 2],
    "last byte": lambda data: data[:-1],
    "another magic": lambda data: b"GGML" + data[4:],
    "version 99": lambda data: data[:4] + struct.pack("<I", 99) + data[8:],
    "absurd number of tensors": lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:],
    "no layers": lambda data: replaced(data, "llama.block_count", U32, U32 + struct.pack("<I", 0)),
    "too many layers": lambda data: replaced(data, "llama.block_count", U32, U32 + struct.pack("<I", 1 << 30)),
    "negative epsilon": lambda data: replaced(
        data, "llama.attention.layer_norm_rms_epsilon", struct.pack("<I", 6), struct.pack("<If", 6, -1.0)
    ),
}
"""What the header shows before the engine has read a byte."""
DAMAGES = {
    "no tensors": lambda data: data[:8] + struct.pack("<Q", 0) + data[16:],
    "no heads": lambda data: replaced(data, "llama.attention.head_count", U32, U32 + struct.pack("<I", 0)),
    "a tensor under another name": lambda data: data.replace(b"output_norm.weight", b"output_nrom.weight"),
    "half": HEADERS["half"],
    "no layers": HEADERS["no layers"],
}


@pytest.fixture
def damaged(tmp_path):
    return tmp_path / "damaged ü.gguf"


def said_in_words(error):
    return bool(error.title and error.hint and error.detail) and error.exit_status == 3


@pytest.mark.parametrize("name", HEADERS)
def test_a_damaged_header_is_refused_in_words(name, data, damaged):
    damaged.write_bytes(HEADERS[name](data))
    with pytest.raises(QuenchError) as caught:
        check_file(str(damaged))
    assert said_in_words(caught.value)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_an_error_in_words(name, data, damaged):
    damaged.write_bytes(DAMAGES[name](data))
    error = load_in_worker(damaged)
    assert error is not None
    assert said_in_words(error)
    # Known damage costs not even the worker; unknown damage may, and is a verdict then.
    assert error.code != "engine_died"


def test_damage_that_kills_the_engine_is_a_verdict(data, tmp_path):
    """Without our own look at the header the engine meets a model of no layers, and stops itself."""
    path = tmp_path / "damaged.gguf"
    path.write_bytes(DAMAGES["no layers"](data))
    worker = small_worker(
        tmp_path,
        """
        from app.engine import dry, loading
        from app.workers import chat
        dry.check_file = loading.check_file = lambda path: None
        dry._tensors = lambda path: []
        chat.serve(connection)
        """,
    )
    with Child("chat", worker) as process:
        process.send(Load(str(path), LoadOptions(threads=1)))
        assert not [event for event in process.events() if isinstance(event, Loaded)]
        error = process.wait(60).error
    assert error.code == "engine_died"
    assert "SIG" in error.detail
    assert error.hint


@pytest.mark.parametrize(
    ("key", "value"), [("tokenizer.ggml.eos_token_id", 999_999), ("llama.context_length", 0)], ids=["eos", "context"]
)
def test_numbers_that_do_no_harm_are_lived_with(data, tmp_path, key, value):
    path = tmp_path / "odd.gguf"
    path.write_bytes(replaced(data, key, U32, U32 + struct.pack("<I", value)))
    with Model.load(str(path), LoadOptions(threads=1)) as model:
        tokens = model.prompt_tokens(model.render([ChatMessage("user", "What is the capital of France?")]))
        steps = model.generate(tokens, Sampling(temperature=0, max_tokens=10))
        assert "".join(step.text for step in steps).startswith("The capital of France is Paris")
        assert model.context >= 1024


def test_the_engine_says_why(data, tmp_path):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(DAMAGES["a tensor under another name"](data))
    error = load_in_worker(path)
    assert error.code == "load_failed"
    assert "output_norm.weight" in error.detail


def test_an_unknown_architecture_is_named(data, tmp_path):
    path = tmp_path / "strange.gguf"
    length = struct.pack("<IQ", 8, 5)
    changed = replaced(data, "general.architecture", length + b"llama", length + b"krill")
    path.write_bytes(changed.replace(b"llama.", b"krill."))
    error = load_in_worker(path)
    assert error.code == "unsupported_architecture"
    assert "krill" in error.detail


def test_names_with_spaces_and_other_letters_load(data, tmp_path):
    folder = tmp_path / "mes modèles 模型"
    folder.mkdir()
    path = folder / "ein Bär 😀.gguf"
    path.write_bytes(data)
    assert load_in_worker(path) is None


def test_what_is_no_file_is_refused(tmp_path):
    for path, code in ((tmp_path, "load_failed"), (tmp_path / "nothing.gguf", "not_found")):
        with pytest.raises(QuenchError) as caught:
            check_file(str(path))
        assert caught.value.code == code


def test_a_context_beyond_learned_places_is_refused_and_full_where_they_end(tmp_path):
    """The engine ends its process at a token without a place; contexts come in steps that may be longer."""
    source = make(tmp_path / "gpt-2", "gpt-2", {"transformer.wpe.weight": [64, 256]}, n_positions=64, n_ctx=64)
    file = tmp_path / "gpt-2.gguf"
    converter.convert(converter.ConversionSpec(str(source), str(file), ("F32",), check=False))
    options = LoadOptions(threads=1)
    with Model.load(str(file), options) as model:
        assert model.context == 64
        prompt = model.tokenize("a", special=False, add_special=False) * 50
        stats = list(model.generate(prompt[:50], Sampling(max_tokens=200, temperature=0.0)))[-1].stats
        assert stats is not None and (stats.stop == "context" or stats.tokens < 14)
        with pytest.raises(QuenchError) as caught:
            list(model.generate(prompt[:1] * 64, Sampling(max_tokens=2)))
        assert caught.value.code == "context_full"
    for bad in (65, 4096):
        with pytest.raises(QuenchError, match="cannot have such a long context") as caught:
            Model.load(str(file), msgspec.structs.replace(options, context=bad))
        assert caught.value.code == "bad_options" and "64" in caught.value.hint
