"""Makes a checkout ready to run: a virtual environment, Qt's system libraries, the engine and our kernels.

Run by the Makefile with any Python from 3.11 to 3.13; needs nothing beyond the standard library. Each step says what
it does and is skipped when a stamp shows that its inputs have not changed.

Usage: develop.py VENV [--tests]
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Debian's package for each shared library that Qt opens at run time.
QT_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libgomp.so.1": "libgomp1",
}

# A virtual screen, and the mouse and keyboard on it.
TEST_PROGRAMS = {"Xvfb": "xvfb", "xdotool": "xdotool"}

# What some tests of the kernels need: an arm64 compiler with its C library (36 MB) and an emulator (12 MB), a memory
# checker (14 MB), AVX-512's instructions in portable C (7 MB), and a clang with libFuzzer (14 MB, 48 MB where there is
# no LLVM yet).
TEST_TOOLS = {
    "aarch64-linux-gnu-gcc": ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    "qemu-aarch64": ("qemu-user",),
    "valgrind": ("valgrind",),
    "/usr/include/simde/x86/avx512.h": ("libsimde-dev",),
}
CLANGS = ("clang", *(f"clang-{version}" for version in range(14, 26)))

# llama.cpp's shared libraries only: what its tools share, its multimodal library, tools, server and tests are not used.
# With the backend that computes on other machines: two source files; nothing is connected to until it is asked for. Not
# over InfiniBand, whatever library for that happens to be installed.
ENGINE_CMAKE = (
    "-DGGML_RPC=ON",
    "-DGGML_RPC_RDMA=OFF",
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={ROOT / 'packaging' / 'engine.cmake'}",
)


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def fail(text: str) -> None:
    raise SystemExit(f"error: {text}")


def missing_libraries() -> list[str]:
    """Debian packages whose library the loader does not find."""
    missing = []
    for library, package in QT_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing.append(package)
    return missing


def become_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def apt_update() -> None:
    subprocess.run([*become_root(), "apt-get", "update", "-q"], check=False, stdout=subprocess.DEVNULL)


def apt_install(packages: list[str]) -> bool:
    """Whether apt installed the packages; its lists are fetched if it does not know them."""
    say(f"installing system packages: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [*become_root(), "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if subprocess.run(install, check=False, env=environment, capture_output=True).returncode == 0:
        return True
    apt_update()
    return subprocess.run(install, check=False, env=environment).returncode == 0


def install_system_packages(tests: bool) -> None:
    """Qt's libraries, a font, and for the tests a virtual screen; through apt where there is one."""
    if not sys.platform.startswith("linux"):
        return
    wanted = missing_libraries()
    if not any(Path("/usr/share/fonts").rglob("*.[to]tf")):
        wanted.append("fonts-dejavu-core")
    if tests:
        wanted += [package for program, package in TEST_PROGRAMS.items() if shutil.which(program) is None]
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        fail(f"Qt needs system libraries that are missing; Debian calls them: {' '.join(wanted)}")
    if not apt_install(wanted):
        fail(f"could not install: {' '.join(wanted)}. Install them by hand and run this again.")


def clang_packages() -> list[str]:
    """Debian's clang with its sanitizers and libFuzzer: "clang" depends on "clang-14", which goes with its own."""
    for turn in range(2):
        depends = subprocess.run(["apt-cache", "depends", "clang"], check=False, capture_output=True, text=True).stdout
        version = re.search(r"Depends: clang-(\d+)", depends)
        if version:
            return [f"clang-{version[1]}", f"libclang-rt-{version[1]}-dev"]
        if turn == 0:
            apt_update()
    return ["clang"]


def install_test_tools(stamp: Path) -> None:
    """Tools without which some tests are skipped, in words. Tried once: ``stamp`` remembers what could not be had."""
    if shutil.which("apt-get") is None or shutil.which("apt-cache") is None or platform.machine() != "x86_64":
        return
    tools = [tool for tool in TEST_TOOLS if shutil.which(tool) is None and not Path(tool).is_file()]
    if not any(shutil.which(name) for name in CLANGS):
        tools.append("clang")
    key = " ".join(tools)
    if not tools or (stamp.exists() and stamp.read_text() == key):
        return
    packages = [package for tool in tools for package in TEST_TOOLS.get(tool) or clang_packages()]
    if not apt_install(packages):
        say(f"going on without {', '.join(tools)}: the tests that need them are skipped")
        stamp.write_text(key)


def fingerprint(*patterns: str) -> str:
    """SHA-256 over the contents of the files that match."""
    digest = hashlib.sha256(sys.version.encode())
    for pattern in patterns:
        for file in sorted(ROOT.glob(pattern)):
            if file.is_file():
                digest.update(str(file.relative_to(ROOT)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def run_step(stamp: Path, key: str, text: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run ``command`` unless ``stamp`` says that it succeeded with the same ``key``."""
    if stamp.exists() and stamp.read_text() == key:
        return
    say(text)
    start = time.monotonic()
    step = subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **(environment or {})})
    if step.returncode != 0:
        fail(f"this step failed: {text}")
    stamp.write_text(key)
    say(f"done in {time.monotonic() - start:.0f} s")


def cache_of(pip: list[str], cmake: str) -> list[str]:
    """Options for a cache of engines that were built with these arguments.

    pip knows a wheel by its name alone: from its usual cache would come an engine that was built with others.
    """
    cache = subprocess.run([*pip, "cache", "dir"], check=False, capture_output=True, text=True)
    if cache.returncode != 0:
        return ["--no-cache-dir"]
    key = hashlib.sha256(cmake.replace(str(ROOT), "").encode()).hexdigest()[:16]
    return ["--cache-dir", str(Path(cache.stdout.strip()) / "quench-engine" / key)]


def install_libraries(folder: Path, pip: list[str]) -> None:
    """The engine, built from its sources, and meanwhile everything else that pyproject.toml asks for."""
    import tomllib  # main has refused an older Python, which does not have it

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["lint"],
    ]
    engine = next(line for line in wanted if line.startswith("llama-cpp-python=="))
    others = [line for line in wanted if not line.startswith(("llama-cpp-python", "quench"))]
    cmake = os.environ.get("CMAKE_ARGS", shlex.join(ENGINE_CMAKE))
    stamp, key = folder / ".engine", f"{engine} {cmake}"
    if stamp.exists() and stamp.read_text() == key:
        return
    say(f"building {engine} from source: one to ten minutes, once")
    start = time.monotonic()
    environment = {**os.environ, "CMAKE_ARGS": cmake, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 2)}
    wheels = folder / ".wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    build = [*pip, "wheel", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-w", str(wheels), engine]
    build += cache_of(pip, cmake)
    with subprocess.Popen(build, cwd=ROOT, env=environment) as building:
        rest = subprocess.run([*pip, "install", "-q", *others], check=False, cwd=ROOT)
        if building.wait() != 0:
            fail("the engine could not be built")
    if rest.returncode != 0:
        fail("the libraries could not be installed")
    made = [str(wheel) for wheel in wheels.glob("llama_cpp_python-*.whl")]
    # Then by force: one that was built with other arguments has the same name and version, and would stay.
    for how in ([], ["--force-reinstall", "--no-deps"]):
        if subprocess.run([*pip, "install", "-q", *how, *made], check=False, cwd=ROOT).returncode != 0:
            fail("the engine could not be installed")
    shutil.rmtree(wheels)
    stamp.write_text(key)
    say(f"done in {time.monotonic() - start:.0f} s")


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    tests = "--tests" in sys.argv
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        fail(f"Quench needs Python 3.11 to 3.13; this is {sys.version.split()[0]}. Use: make PYTHON=python3.12 ...")
    if shutil.which("cc") is None and shutil.which("gcc") is None and shutil.which("clang") is None:
        fail("a C and C++ compiler is needed (Debian: build-essential; macOS: xcode-select --install)")
    install_system_packages(tests)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        say(f"making a virtual environment in {folder.name}")
        venv.create(folder, with_pip=True, upgrade_deps=True)
    if tests:
        install_test_tools(folder / ".test-tools")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    install_libraries(folder, pip)
    run_step(
        folder / ".project",
        fingerprint("pyproject.toml", "kernels/CMakeLists.txt", "kernels/src/**/*", "kernels/include/**/*"),
        "installing Quench, its libraries and its kernels",
        [*pip, "install", "-q", "-e", ".[test,lint]"],
    )


if __name__ == "__main__":
    main()
