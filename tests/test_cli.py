"""The headless contract, through the program itself: keys, exit statuses, one JSON object on stdout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer

from app import journals, paths
from converter import journal
from tests.converter.folders import join, safetensors
from tests.lora_files import pairs, write_adapter
from tests.quantized import SCHEMES, write_pocket

ROOT = Path(__file__).resolve().parent.parent
Pocket = Callable[[str], Path]


def quench(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def quench_json(*arguments: str | Path) -> Any:
    """The JSON object of a command that must succeed; stdout must hold nothing else."""
    result = quench(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def quench_error(status: int, *arguments: str | Path) -> dict[str, str]:
    """The error object of a command that must fail with ``status``."""
    result = quench(*arguments, "--json")
    assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
    data = json.loads(result.stdout)
    assert list(data) == ["error"]
    assert set(data["error"]) == {"code", "title", "detail", "hint"}
    assert "Traceback" not in result.stderr
    error: dict[str, str] = data["error"]
    return error


def test_inspect_tells_what_a_quantized_folder_lost(tmp_path: Path) -> None:
    folder = write_pocket(tmp_path / "packed", SCHEMES["NF4"])
    done = quench("inspect", folder)
    assert done.returncode == 0
    assert "note" in done.stdout and "bitsandbytes 4-bit: what that rounding lost stays lost" in done.stdout
    assert "42 x bitsandbytes 4-bit" in done.stdout


def test_inspect_compares_two_models_tensor_by_tensor(pocket_gguf: Pocket) -> None:
    a, b = pocket_gguf("F16"), pocket_gguf("Q8_0")
    data = quench_json("inspect", a, "--against", b)
    assert set(data) == {"first", "second", "keys_same", "tensors", "bytes", "seconds", "notes", "metadata"}
    assert (data["first"], data["second"]) == (str(a), str(b))
    changed = {entry["key"]: entry for entry in data["metadata"]}
    assert changed["general.file_type"]["first"] == {"type": "UINT32", "items": 1, "value": 1}
    tensors = {entry["name"]: entry for entry in data["tensors"]}
    assert len(tensors) == 56
    assert tensors["output_norm.weight"]["change"] == "same"
    told = tensors["blk.0.attn_q.weight"]
    assert (told["first_type"], told["second_type"], told["change"]) == ("F16", "Q8_0", "different")
    assert 0 < told["relative"] < 0.01
    shown = quench("inspect", a, "--against", b).stdout
    assert "blk.0.attn_q.weight" in shown and "F16 -> Q8_0" in shown and "56 tensors: 13 with the same bytes" in shown


def test_inspect_splits_a_text_and_renders_a_prompt(pocket: Path, pocket_gguf: Pocket) -> None:
    library = Tokenizer.from_file(str(pocket / "tokenizer.json"))
    for path in (pocket, pocket_gguf("Q8_0")):
        data = quench_json("inspect", path, "--tokens", "Hé <|im_end|>", "--prompt", "Why?")
        assert [token["id"] for token in data["tokens"]] == library.encode("Hé <|im_end|>").ids
        assert b"".join(bytes.fromhex(token["bytes"]) for token in data["tokens"]).decode() == "Hé <|im_end|>"
        prompt = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        assert data["prompt"]["text"] == prompt
        assert data["prompt"]["tokens"] == len(library.encode(prompt).ids)
        assert data["prompt"]["special"] == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
        assert data["kind"] in ("hf", "gguf")
    shown = quench("inspect", pocket, "--tokens", "Hé").stdout
    assert "tokens" in shown and "'H'" in shown


def test_inspect_refuses_a_template_without_an_end(pocket: Path, tmp_path: Path) -> None:
    folder = tmp_path / "endless"
    shutil.copytree(pocket, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert quench_error(3, "inspect", folder, "--prompt", "Why?")["code"] == "template_limit"


def test_inspect_refuses_what_cannot_be_compared(pocket_gguf: Pocket, tmp_path: Path) -> None:
    assert quench_error(3, "inspect", pocket_gguf("Q8_0"), "--against", tmp_path / "no.gguf")["code"] == "not_found"
    assert quench_error(2, "inspect", pocket_gguf("Q8_0"), "--against", "x", "--tokenizer-check")["code"] == "usage"


def test_inspect_tells_what_a_folder_is(pocket: Path) -> None:
    data = quench_json("inspect", pocket)
    assert data["kind"] == "hf"
    assert data["architecture"] == "llama"
    assert data["parameters"] == 5_246_208
    assert data["layers"] == 6
    assert data["context_length"] == 1024
    assert data["vocabulary"] == 2048
    assert data["pre_tokenizer"] == "qwen2"
    assert data["types"] == {"BF16": 56}
    assert sum(tensor["bytes"] for tensor in data["tensors"]) == 2 * 5_246_208
    assert data["problems"] == []
    assert {"tokenizer", "bytes", "metadata"} <= set(data)


def test_refined_files_have_the_size_and_less_error(pocket: Path, tmp_path: Path) -> None:
    command = ("convert", pocket, "--type", "Q4_K_M", "-o")
    exact = quench_json(*command, tmp_path / "exact.gguf")["outputs"][0]
    refined = quench_json(*command, tmp_path / "refined.gguf", "--refined")["outputs"][0]
    assert refined["bytes"] == exact["bytes"] and refined["tensors"] == exact["tensors"]
    quantized = [name for name, kind in exact["tensors"].items() if kind in {"Q4_K", "Q6_K"}]
    assert len(quantized) == 43
    assert all(refined["error"][name] < exact["error"][name] for name in quantized)


def test_convert_makes_several_files_in_one_pass(pocket: Path, tmp_path: Path) -> None:
    out = tmp_path / "näme with spaces"
    data = quench_json("convert", pocket, "-o", out, "--type", "Q8_0,Q4_K_M")
    assert [output["type"] for output in data["outputs"]] == ["Q8_0", "Q4_K_M"]
    assert sorted(path.name for path in out.iterdir()) == ["pocket-Q4_K_M.gguf", "pocket-Q8_0.gguf"]
    for output in data["outputs"]:
        assert Path(output["path"]).stat().st_size == output["bytes"]
        assert output["tensors"]["token_embd.weight"] in ("Q8_0", "Q6_K")
        assert output["error"]["token_embd.weight"] > 0
    assert 8 < data["outputs"][0]["bpw"] < 9
    assert 4 < data["outputs"][1]["bpw"] < 5
    source = (pocket / "model.safetensors").stat().st_size
    assert 0.9 * source < data["read_bytes"] < 1.1 * source
    assert data["seconds"] > 0 and data["peak_rss"] > 0 and data["kernels"]


def test_a_dry_run_knows_the_exact_size_and_writes_nothing(pocket: Path, tmp_path: Path) -> None:
    target = tmp_path / "p.gguf"
    plan = quench_json("convert", pocket, "-o", target, "--type", "Q3_K_M", "--dry-run")
    assert list(tmp_path.glob("*.gguf*")) == []
    made = quench_json("convert", pocket, "-o", target, "--type", "Q3_K_M")
    assert plan["outputs"][0]["bytes"] == made["outputs"][0]["bytes"] == target.stat().st_size
    assert plan["outputs"][0]["tensors"] == made["outputs"][0]["tensors"]


def test_a_dry_run_tells_everything_that_is_known_before(pocket: Path, tmp_path: Path) -> None:
    arguments = ["convert", pocket, "-o", tmp_path / "p.gguf", "--type", "Q4_K_M", "--dry-run", "--split-size", "1M"]
    arguments += ["--tensor-type", "ffn_down=Q6_K", "--tensor-type", "ffn_dwon=Q8_0", "--prune-layers", "1,3-4"]
    arguments += ["--override-kv", "general.name=str:Small"]
    plan = quench_json(*arguments)
    (output,) = plan["outputs"]
    assert len(output["files"]) > 1 and output["path"] == output["files"][0]
    assert [(rule["matches"], rule["wins"]) for rule in output["rules"]] == [(3, 3), (0, 0)]
    assert plan["warnings"] == ["The rule ffn_dwon=Q8_0 matches no tensor."]
    assert output["reasons"]["blk.0.ffn_down.weight"] == "a tensor rule"
    assert "blk.3.attn_q.weight" not in output["tensors"]
    assert 0 < plan["seconds"] < 60
    assert plan["disk_needed"] == output["bytes"] < plan["disk_free"]
    assert plan["memory_needed"] > 1 << 20
    text = quench(*arguments).stdout
    for part in ("needs", "of disk", "of memory", "about", "ffn_dwon=Q8_0", "matches no tensor", "decides"):
        assert part in text
    assert list(tmp_path.glob("*.gguf*")) == []


def test_a_split_pruned_renamed_copy_reaches_the_files(pocket_gguf: Pocket, tmp_path: Path) -> None:
    arguments = (
        "--type",
        "copy",
        "--split-size",
        "1M",
        "--prune-layers",
        "0",
        "--override-kv",
        "general.name=str:Small",
    )
    made = quench_json("convert", pocket_gguf("Q4_K_M"), "-o", tmp_path / "p.gguf", *arguments)
    (output,) = made["outputs"]
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == [Path(path).name for path in output["files"]]
    assert set(output["relative_error"].values()) == {0.0}
    again = quench_json("inspect", output["files"][1])
    assert (again["metadata"]["general.name"], again["layers"], again["problems"]) == ("Small", 5, [])


def test_tensor_rules_reach_the_file(pocket: Path, tmp_path: Path) -> None:
    arguments = ("--type", "Q4_K_M", "--tensor-type", r"ffn_down=Q6_K", "--output-type", "Q8_0")
    data = quench_json("convert", pocket, "-o", tmp_path / "p.gguf", *arguments)
    tensors = data["outputs"][0]["tensors"]
    assert {kind for name, kind in tensors.items() if "ffn_down" in name} == {"Q6_K"}


def test_an_adapter_is_merged_and_one_that_does_not_fit_is_refused(pocket: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.mlp.down_proj"
    shapes = {f"{name}.lora_A.weight": (2, 768), f"{name}.lora_B.weight": (256, 2)}
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    (adapter / "adapter_model.safetensors").write_bytes(join(*safetensors(_ones(shapes), "F32")))
    made = quench_json("convert", pocket, "-o", tmp_path / "a.gguf", "--type", "Q8_0", "--lora", adapter)
    plain = quench_json("convert", pocket, "-o", tmp_path / "b.gguf", "--type", "Q8_0")
    changed = made["outputs"][0]["error"], plain["outputs"][0]["error"]
    assert [name for name, error in changed[0].items() if error != changed[1][name]] == ["blk.0.ffn_down.weight"]
    (adapter / "adapter_model.safetensors").write_bytes(
        join(*safetensors(_ones({name.replace("down", "side"): shape for name, shape in shapes.items()}), "F32"))
    )
    error = quench_error(3, "convert", pocket, "-o", tmp_path / "c.gguf", "--type", "Q8_0", "--lora", adapter)
    assert error["code"] == "adapter_mismatch" and "side_proj" in error["detail"]


def _ones(shapes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_chat_answers(pocket_gguf: Pocket) -> None:
    arguments = ("-p", "What is the capital of France?", "--temperature", "0", "--max-tokens", "24")
    data = quench_json("chat", pocket_gguf("Q8_0"), *arguments)
    assert "Paris" in data["text"]
    assert data["stop"] == "end"
    assert 0 < data["tokens"] <= 24
    assert data["tokens_per_second"] > 0 and data["first_token"] > 0
    assert data["memory"]["anonymous"] > 1 << 20
    plain = quench("chat", pocket_gguf("Q8_0"), *arguments)
    assert plain.stdout.strip() == data["text"].strip()


def test_a_chat_says_what_it_would_take_and_loads_nothing(pocket_gguf: Pocket) -> None:
    model = pocket_gguf("Q8_0")
    plan = quench_json("chat", model, "--dry-run", "--context", "2048", "--kv", "q8_0")["plan"]
    assert (plan["context"], plan["kv_type"], plan["architecture"]) == (2048, "q8_0", "llama")
    assert plan["kv"] == pytest.approx(2048 * 6 * 2 * 128 * 34 / 32, rel=0.01)
    assert plan["total"] == sum(plan[part] for part in ("weights", "repacked", "kv", "compute", "process"))
    assert plan["fits"] == (plan["total"] <= plan["available"])


def test_a_chat_answers_with_an_adapter_and_a_small_context(pocket_gguf: Pocket, tmp_path: Path) -> None:
    model = pocket_gguf("Q8_0")
    adapter = write_adapter(tmp_path / "a.gguf", pairs(str(model), ("blk.0.attn_q.weight",)))
    told = quench_json("chat", model, "-p", "What is the capital of France?", "--temperature", "0", "--context", "512",
                       "--overflow", "shift", "--lora", f"{adapter}=0.01")  # fmt: skip
    assert told["text"] == "The capital of France is Paris."
    assert (told["context"], told["left_out"]) == (512, 0)
    assert told["plan"]["total"] > told["memory"]["weights"]
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"garbage" * 30)
    assert quench_error(3, "chat", model, "-p", "Hello", "--lora", garbage)["code"] == "not_gguf"
    assert quench_error(2, "chat", model, "-p", "Hello", "--lora", f"{adapter}=much")["code"] == "usage"


def test_chat_is_held_to_a_schema_or_a_grammar(pocket_gguf: Pocket, tmp_path: Path) -> None:
    model = pocket_gguf("Q8_0")
    schema, grammar = tmp_path / "schema.json", tmp_path / "answer.gbnf"
    schema.write_text('{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}')
    grammar.write_text('root ::= "It is " [A-Z] [a-z]{4} "." " So be it."')
    question = ("chat", model, "-p", "What is the capital of France?")
    data = quench_json(*question, "--schema", schema, "--temperature", "1.4", "--probabilities")
    assert json.loads(data["text"]) == {"city": "Paris"} or json.loads(data["text"]) == {"city": "Rome"}
    assert "".join(each["text"] for each in data["probabilities"]) == data["text"]
    assert set(data["probabilities"][0]["top"][0]) == {"text", "probability"}
    again = quench_json(*question, "--schema", schema, "--temperature", "1.4", "--seed", str(data["seed"]))
    assert again["text"] == data["text"]
    assert "probabilities" not in again
    held = quench_json(*question, "--grammar", grammar, "--temperature", "0", "--stop", " So", "--stop", "never")
    assert re.fullmatch("It is [A-Z][a-z]{4}[.]", held["text"])
    assert (held["stop"], held["seed"]) == ("stop_string", -1)


def test_a_constraint_that_cannot_be_used_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    bad, binary = tmp_path / "bad", tmp_path / "binary"
    bad.write_text('{"not": {}}')
    binary.write_bytes(b"\xff\xfe")
    question = ("chat", tmp_path / "no-model.gguf", "-p", "x")
    for option, file, code in (
        ("--schema", bad, "bad_schema"),
        ("--grammar", bad, "bad_grammar"),
        ("--schema", binary, "unreadable"),
        ("--grammar", tmp_path / "nothing", "unreadable"),
        ("--grammar", tmp_path, "unreadable"),
    ):
        assert quench_error(3, *question, option, file)["code"] == code
    assert quench_error(2, *question, "--schema", bad, "--grammar", bad)["code"] == "usage"


def test_a_terminal_chat_remembers_what_was_said(pocket_gguf: Pocket) -> None:
    command = [sys.executable, "-m", "app", "chat", str(pocket_gguf("Q8_0")), "--temperature", "0"]
    questions = "What is the capital of France?\nWhat is 2 plus 2?\n\n"
    result = subprocess.run(
        command, check=False, cwd=ROOT, input=questions, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout and "4" in result.stdout


@pytest.mark.slow
def test_quality_orders_the_files_as_their_bits_do(pocket_gguf: Pocket, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    files = [pocket_gguf(name) for name in ("BF16", "Q8_0", "Q2_K")]
    text = ROOT / "tests" / "data" / "heldout-technical.txt"
    data = quench_json("quality", *files, "--text", f"prose,{text}", "--chunks", "2", "--report", report)
    high, low = data["candidates"]
    assert 0 < high["kld"]["mean"]["value"] < low["kld"]["mean"]["value"]
    assert high["top1"]["value"] > low["top1"]["value"]
    assert set(data["reference"]["perplexity"]) == {"value", "error"}
    assert set(low["slices"]) == {"prose", "heldout-technical"}
    assert data["tokens"] == 4 * 255
    for key in ("path", "bytes", "perplexity", "ln_ratio", "rms_dp", "tasks", "tokens_per_second", "verdict", "reason"):
        assert key in low
    assert {"mean", "error", "median", "p95", "p99", "p99_9", "max"} <= set(low["kld"])
    assert "Q2_K" in report.read_text()

    (series,) = quench_json("quality", "--history", files[2])["history"]
    assert (series["path"], series["type"], series["texts"]) == (str(files[2]), "Q2_K", ["prose", "heldout-technical"])
    (result,) = series["results"]
    assert result["kld"] == low["kld"]["mean"] and result["change"] is None and result["program"] and result["engine"]
    assert quench("quality", "--history").stdout.count("against Pocket-BF16.gguf: prose, heldout-technical") == 2


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_quality_run_that_was_interrupted_goes_on_with_the_same_command(pocket_gguf: Pocket) -> None:
    files = [str(pocket_gguf(name)) for name in ("BF16", "Q8_0", "Q2_K")]
    command = [sys.executable, "-m", "app", "quality", *files, "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not any(journals.read(path).pieces for path in journals.folder().iterdir()):
        assert process.poll() is None, "it was done before it had noted anything"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    error = json.loads(out)["error"]
    assert error["code"] == "interrupted" and error["hint"].startswith("The same command goes on at ")
    again = quench_json("quality", *files)
    assert again["notes"][0].startswith("Went on from an interrupted run")
    assert quench_json("quality", *files, "--chunks", "2")["notes"] == []


def test_bench_measures_speed_and_memory(pocket_gguf: Pocket) -> None:
    sizes = ("--prompt", "64", "--generate", "16", "--depth", "0,128", "--repeat", "2")
    data = quench_json("bench", pocket_gguf("Q4_K_M"), *sizes)
    (model,) = data["models"]
    assert {point["depth"] for point in model["prompt"]} == {0, 128}
    for point in (*model["prompt"], *model["generate"]):
        speed = point["tokens_per_second"]
        assert 0 < speed["p10"] <= speed["median"] <= speed["p90"]
    assert model["load_warm"] > 0 and model["first_token"] > 0
    assert model["memory"]["weights"] > 1 << 20 and model["memory"]["kv"] > 0 and model["memory"]["peak"] > 0
    line = model["roofline"]
    expected = line["bytes_per_token"] / line["bandwidth"]
    assert line["fraction"] == pytest.approx(expected * model["generate"][0]["tokens_per_second"]["median"], rel=0.5)


def test_compare_finds_where_answers_part(pocket_gguf: Pocket) -> None:
    files = [pocket_gguf(name) for name in ("BF16", "Q8_0", "Q2_K")]
    data = quench_json("compare", *files, "-p", "Tell me a story about a fox.", "--max-tokens", "48")
    reference, high, low = data["columns"]
    assert reference["text"].strip()
    assert (reference["kld"], reference["first_divergence"]) == (0, -1)
    assert 0 <= high["kld"] < low["kld"]
    assert 0 < low["top1"] <= 1
    assert low["tokens_per_second"] > 0 and low["memory"]["anonymous"] > 0


def test_kernels_are_listed_and_pass_their_selftest() -> None:
    data = quench_json("kernels", "selftest")
    assert "reference" in data["backends"]
    assert data["active"] in data["backends"]
    assert data["cpu"]
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"} <= {entry["type"] for entry in data["results"]}
    assert all(entry["passed"] for entry in data["results"])


def test_a_wrong_name_of_kernels_is_an_error_in_words(
    pocket: Path, pocket_gguf: Pocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pocket_gguf("Q8_0"), pocket_gguf("Q2_K")
    monkeypatch.setenv("QUENCH_KERNELS", "cray")
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("kernels", "list"),
        ("kernels", "selftest"),
        ("kernels", "bench"),
        ("convert", pocket, "--type", "Q4_K_M", "-o", tmp_path / "x.gguf"),
        ("quality", *files),
    )
    for command in commands:
        error = quench_error(2, *command)
        assert error["code"] == "unknown_backend", command
        assert "cray" in error["detail"] and "reference" in error["detail"]
    assert list(tmp_path.glob("x.gguf*")) == []


def test_the_library_keeps_what_was_added(pocket_gguf: Pocket, tmp_path: Path) -> None:
    copy = tmp_path / "mödel.gguf"
    shutil.copy(pocket_gguf("Q2_K"), copy)
    added = quench_json("library", "add", copy)
    (listed,) = added_by_hand(added)
    assert (listed["path"], listed["type"], listed["base"]) == (str(copy), "Q2_K", "Pocket")
    assert quench_json("library", "verify")["bytes"] > copy.stat().st_size
    status = copy.stat()
    with copy.open("r+b") as file:  # one bit of the weights; the date stays
        file.seek(status.st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = quench("library", "verify", "--json")
    assert done.returncode == 3
    (listed,) = added_by_hand(json.loads(done.stdout))
    assert "date has not" in listed["problems"][0]
    copy.write_bytes(copy.read_bytes()[:1000])
    (listed,) = added_by_hand(quench_json("library", "list"))
    assert listed["state"] == "broken"
    assert listed["problems"]
    assert added_by_hand(quench_json("library", "remove", copy)) == []
    assert copy.exists()


def test_guesses_ahead_are_told_and_leave_the_answer_alone(pocket_gguf: Pocket, tmp_path: Path) -> None:
    model, draft = pocket_gguf("Q8_0"), pocket_gguf("Q2_K")
    asked = ("-p", "What is the capital of France?", "--temperature", "0", "--threads", "1", "--max-tokens", "24")
    plain = quench_json("chat", model, *asked)
    assert "ahead" not in plain
    for who in ("lookup", str(draft)):
        answer = quench_json("chat", model, *asked, "--draft", who)
        assert answer["text"] == plain["text"]
        assert set(answer["ahead"]) == {"guessed", "right", "gain", "hoped"}
        assert 0 <= answer["ahead"]["right"] <= answer["ahead"]["guessed"]
    assert quench_error(3, "chat", model, *asked, "--draft", tmp_path / "none.gguf")["code"] == "not_found"
    error = quench_error(2, "chat", model, *asked, "--draft", "lookup", "--probabilities")
    assert error["code"] == "usage" and "--probabilities" in error["detail"]


def test_a_model_in_a_place_that_is_scanned_can_be_taken_off_the_list(pocket_gguf: Pocket) -> None:
    found = paths.models() / "found.gguf"
    shutil.copy(pocket_gguf("Q2_K"), found)
    assert [model["path"] for model in added_by_hand(quench_json("library", "list"))] == [str(found)]
    assert added_by_hand(quench_json("library", "remove", found)) == []
    assert added_by_hand(quench_json("library", "list")) == []
    assert [model["path"] for model in added_by_hand(quench_json("library", "add", found))] == [str(found)]


def added_by_hand(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The models of a listing without the bundled one, which is always there."""
    (pocket,) = [model for model in data["models"] if model["place"] == "bundled"]
    assert pocket["base"] == "Pocket"
    return [model for model in data["models"] if model["place"] != "bundled"]


def test_the_bundled_model_stays_in_the_library_by_whatever_path(pocket: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pocket, target_is_directory=True)
    for path in (pocket, link, pocket / "model.safetensors"):
        assert quench_error(3, "library", "remove", path)["code"] == "bundled"
    assert added_by_hand(quench_json("library", "list")) == []


@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (2, ("convert", "POCKET", "-o", "x.gguf", "--type", "Q9_Z")),
        (2, ("convert", "POCKET", "-o", "x.gguf", "--type", "IQ2_XS")),
        (2, ("convert", "POCKET", "-o", "x.gguf", "--type", "Q8_0", "--split-size", "huge")),
        (2, ("convert", "POCKET", "-o", "x.gguf", "--type", "Q8_0", "--prune-layers", "first")),
        (2, ("convert", "POCKET", "-o", "x.gguf", "--type", "Q8_0", "--override-kv", "key")),
        (2, ("convert", "POCKET", "--type", "Q8_0")),
        (2, ("convert", "POCKET", "-o", "x.gguf", "--type", "Q8_0", "--tensor-type", "nonsense")),
        (2, ("dance",)),
        (2, ("bench", "POCKET", "--repeat", "-1")),
        (3, ("inspect", "missing")),
        (3, ("inspect", "EMPTY")),
        (3, ("chat", "missing.gguf", "-p", "x")),
        (3, ("chat", "TEXT", "-p", "x")),
        (3, ("quality", "TEXT", "TEXT")),
        (3, ("quality", "missing.gguf", "missing.gguf")),
        (3, ("compare", "TEXT", "TEXT", "-p", "x")),
        (3, ("bench", "TEXT")),
        (3, ("library", "add", "TEXT")),
        (2, ("library", "add")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_bad_input_has_its_status_and_words(
    status: int, arguments: tuple[str, ...], pocket: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("this is not a model")
    places = {"POCKET": str(pocket), "EMPTY": str(tmp_path / "empty"), "TEXT": str(tmp_path / "text.gguf")}
    words = [places.get(word, word) for word in arguments]
    words = [str(tmp_path / word) if word == "x.gguf" else word for word in words]
    error = quench_error(status, *words)
    assert error["title"][-1] in ".?"
    assert not list(tmp_path.glob("x.gguf*"))


def test_no_space_is_said_before_any_work(pocket: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system needs root and mount")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False).returncode != 0:
        pytest.skip("this system does not let root mount a file system")
    try:
        error = quench_error(4, "convert", pocket, "-o", small / "p.gguf", "--type", "Q8_0")
        assert error["code"] == "no_space"
        plan = quench_json("convert", pocket, "-o", small / "p.gguf", "--type", "Q8_0", "--dry-run")
        (warning,) = plan["warnings"]
        for words in (error["detail"], warning):
            assert f"{plan['disk_needed']:,}" in words and f"{plan['disk_free']:,}" in words
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_killed_engine_is_status_5(pocket_gguf: Pocket, endless_gguf: Path) -> None:
    command = [sys.executable, "-m", "app", "quality", str(pocket_gguf("BF16")), str(endless_gguf), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # the first progress line: the worker is at work
    (worker,) = psutil.Process(process.pid).children()
    worker.kill()
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 5
    assert json.loads(out)["error"]["code"] == "engine_died"


@pytest.mark.skipif(os.name != "posix", reason="signals are of Unix")
def test_a_conversion_that_loses_its_file_is_status_5_and_can_be_resumed(
    long_model: Path, slow_kernels: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "app", "convert", str(long_model), "-o", str(tmp_path / "out"), "--json"]
    command += ["--type", "Q2_K,Q3_K_M,Q4_K_M,Q5_K_M,Q6_K,Q8_0,F32", "--threads", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not any(journal.read(path) for path in tmp_path.glob("out/*.jrnl")):
        assert process.poll() is None, "it was done before it had noted anything"
    (worker,) = psutil.Process(process.pid).children()
    worker.send_signal(signal.SIGBUS)  # what the system sends when a mapped file has lost its end
    out, _ = process.communicate(timeout=300)
    error = json.loads(out)["error"]
    assert process.returncode == 5
    assert error["code"] == "engine_died" and "cut short" in error["title"] and "SIGBUS" in error["detail"]
    left = sorted(path.suffix for path in (tmp_path / "out").iterdir())
    assert left == [".jrnl", *[".part"] * 7]
    assert "resuming goes on at" in error["hint"]
    slow_kernels.undo()
    again = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Going on at" in again.stderr
    assert sorted(str(path) for path in (tmp_path / "out").iterdir()) == sorted(
        output["path"] for output in json.loads(again.stdout)["outputs"]
    )


def test_a_source_that_is_cut_is_status_3(pocket: Path, tmp_path: Path) -> None:
    """Cut before it is opened; the same after opening is in tests/converter/test_mapping.py."""
    folder = tmp_path / "model"
    shutil.copytree(pocket, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5_000_000)
    error = quench_error(3, "convert", folder, "-o", tmp_path / "x.gguf", "--type", "Q8_0")
    assert error["code"] == "truncated"
    assert not list(tmp_path.glob("x.gguf*"))


def test_ctrl_c_is_status_130_and_leaves_no_worker(pocket_gguf: Pocket, endless_gguf: Path) -> None:
    command = [sys.executable, "-m", "app", "quality", str(pocket_gguf("BF16")), str(endless_gguf), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    (worker,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert not worker.is_running()


def test_a_command_needs_no_qt(pocket: Path) -> None:
    program = (
        "import sys; sys.modules['PySide6'] = None\n"
        "from app.__main__ import main; sys.exit(main(['inspect', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", program, str(pocket)]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
