"""Builds of the kernels that several tests share: one with sanitizers, one for arm64."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.native import ARM_COMPILER, QUICK_SANITIZERS, build


@pytest.fixture(scope="session")
def sanitized_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("sanitized"), f"-DQUENCH_SANITIZE={QUICK_SANITIZERS}")


@pytest.fixture(scope="session")
def arm_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm64")
    return build(folder, f"-DCMAKE_C_COMPILER={ARM_COMPILER}", "-DCMAKE_SYSTEM_NAME=Linux",
                 "-DCMAKE_SYSTEM_PROCESSOR=aarch64")  # fmt: skip
