"""Builds of the kernels that several tests share: one with sanitizers, one for arm64."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.native import ARM_COMPILER, QUICK_SANITIZERS, QUICKLY_BUILT, RUNNABLE, build
from tests.once import made_once


@pytest.fixture(scope="session")
def sanitized_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        return build(folder, f"-DQUENCH_SANITIZE={QUICK_SANITIZERS}", RUNNABLE, *QUICKLY_BUILT)

    return made_once(tmp_path_factory, "sanitized", make)


@pytest.fixture(scope="session")
def arm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> Path:
        compiler = f"-DCMAKE_C_COMPILER={ARM_COMPILER}"
        return build(folder, compiler, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")

    return made_once(tmp_path_factory, "arm64", make)
