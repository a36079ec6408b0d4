"""The engine's threads, ours on Linux: the usual runtime's numbers, right under stress, idle when nothing is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kernels
from app.engine import waiting

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "kernels" / "src" / "threads" / "openmp.c"
COMPILER = shutil.which("gcc")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the engine's threads are ours on Linux only")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no gcc on this machine, which builds for OpenMP")

ANSWER = """
import hashlib, json, sys
from app.engine import native, waiting
from app.engine.model import Model
from app.protocol import LoadOptions
digest = hashlib.sha256()
with Model.load(sys.argv[1], LoadOptions(context=256, threads=3)) as model:
    prompt = model.prompt_tokens("The capital of France is Paris. " * 8)
    digest.update(model.window_logits(prompt, 0).tobytes())
    model.forget()
    model.set_threads(3, 2)
    model.advance_all(prompt[:40])
    tokens = [model.likeliest()]
    while len(tokens) < 32:
        model.advance_all(tokens[-1:])
        digest.update(native.logits(model.native_context, 1, model.vocabulary).tobytes())
        tokens.append(model.likeliest())
print(json.dumps({"threads": waiting.used(), "tokens": tokens, "logits": digest.hexdigest()}))
"""

STRESS = """
import ctypes, json, os, sys, time
ours, stressed, other = sys.argv[1:4]
if ours:
    ctypes.CDLL(ours, mode=ctypes.RTLD_GLOBAL)
served, foreign = ctypes.CDLL(stressed), ctypes.CDLL(other)
for library in (served, foreign):
    library.shared_loop.restype = ctypes.c_int64
    library.shared_loop.argtypes = [ctypes.c_int64, ctypes.c_uint]
def threads():
    return len(os.listdir("/proc/self/task"))
found = {"errors": [served.stress(200, 4, 7), served.stress_together(3, 60, 5), served.nested(3)]}
found["threads"] = threads()
found["foreign"] = [foreign.stress(20, 3, 5), foreign.nested(2), foreign.shared_loop(1000, 3)]
begin = time.process_time()
time.sleep(0.5)  # what is asked is what happens meanwhile
found["idle"] = time.process_time() - begin
child = os.fork()
if child == 0:
    os._exit(served.stress(20, 3, 5))
found["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""


def run(program: str, *arguments: str, **environment: str) -> dict[str, object]:
    """The JSON that a program prints which nobody told how threads are to wait, but by ``environment``."""
    plain = {key: value for key, value in os.environ.items() if key not in waiting.HEEDED}
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False, env={**plain, **environment}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    found: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    return found


def compile_c(output: Path, *sources_and_options: str | Path) -> Path:
    assert COMPILER is not None
    subprocess.run([COMPILER, "-g", *map(str, sources_and_options), "-o", str(output)], check=True, timeout=240)
    return output


def test_the_numbers_are_those_of_the_usual_runtime(pocket_gguf: Callable[[str], Path]) -> None:
    path = str(pocket_gguf("Q8_0"))
    ours, usual = run(ANSWER, path), run(ANSWER, path, OMP_WAIT_POLICY="passive")
    assert (ours.pop("threads"), usual.pop("threads")) == ("ours", "the runtime's, for OMP_WAIT_POLICY is set")
    assert ours == usual


@needs_compiler
def test_regions_meet_and_end_whole_beside_a_busy_core_and_leave_it_when_idle(tmp_path: Path) -> None:
    library = kernels.threads_file()
    assert library is not None
    stress = HERE / "threads_stress.c"
    files = [
        str(compile_c(tmp_path / name, stress, "-O1", "-fopenmp", "-shared", "-fPIC"))
        for name in ("libggml-cpu-stress.so", "libother.so")
    ]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as beside:
        try:
            found = run(STRESS, str(library), *files, OMP_WAIT_POLICY="passive")
        finally:
            beside.kill()
    assert found["errors"] == [0, 0, 0]
    assert found["foreign"] == [0, 0, 499500]  # shared loops are libgomp's, and each piece is done once
    assert 4 <= int(str(found["threads"])) <= 1 + 3 * 4  # teams are kept and lent, as many as ran at a time
    assert float(str(found["idle"])) < 0.05
    assert found["child"] == 0


@pytest.mark.slow
@needs_compiler
def test_the_thread_sanitizer_finds_nothing(tmp_path: Path) -> None:
    sanitized = ("-O1", "-fsanitize=thread")
    try:
        program = compile_c(tmp_path / "stress", HERE / "threads_tsan.c", *sanitized, "-ldl")
    except subprocess.CalledProcessError:
        pytest.skip("gcc has no thread sanitizer here")
    ours = compile_c(tmp_path / "libquench_threads.so", SOURCE, *sanitized, "-std=c11", "-shared", "-fPIC")
    stress = tmp_path / "libggml-cpu-stress.so"
    compile_c(stress, HERE / "threads_stress.c", *sanitized, "-fopenmp", "-shared", "-fPIC")
    result = subprocess.run([program, ours, stress], check=False, capture_output=True, text=True, timeout=280)
    assert result.stdout == "errors 0\n" and "WARNING" not in result.stderr, result.stderr[:4000]
    assert result.returncode == 0


def test_an_engine_that_needs_more_of_openmp_gets_all_of_it(tmp_path: Path) -> None:
    program = "import json; from app.engine import waiting; print(json.dumps({'used': waiting.used()}))"
    graphs = tmp_path / "libggml-cpu-some.so"
    graphs.write_bytes(b"\x7fELF\0GOMP_parallel\0omp_get_thread_num\0_comp_iter\0GOMP_4.0\0")
    assert run(program, LLAMA_CPP_LIB_PATH=str(tmp_path))["used"] == "ours"
    graphs.write_bytes(graphs.read_bytes() + b"GOMP_loop_end\0")
    assert run(program, LLAMA_CPP_LIB_PATH=str(tmp_path))["used"] == "the runtime's, for the engine needs GOMP_loop_end"
    assert run(program, GOMP_SPINCOUNT="7")["used"] == "the runtime's, for GOMP_SPINCOUNT is set"
