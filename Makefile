# make demo    the whole road on the bundled model: convert, measure, chat, report, screenshots
# make test    the tests (20 minutes on two cores of a first-generation EPYC)
# make test-all  the same with the slow oracles
# make fuzz    arbitrary bytes into the kernels, FUZZ_SECONDS=60 a target
# make lint    ruff, mypy, import contracts      make run         opens the window
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FUZZ_SECONDS ?= 60
# Whole files to a process, so that what a file builds for its tests is built once, the longest first (tests/conftest.py
# knows them). One process more than there are cores: tests wait for others a third of their time.
TEST_PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Hundreds of processes are started: their sources are compiled once, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all fuzz lint run setup clean clean-env

setup:
	@$(PYTHON) packaging/develop.py $(VENV) --tests

demo: setup
	@$(BIN)/quench demo --out demo

run: setup
	@$(BIN)/quench

test: setup
	@$(PYTEST) -m "not slow"

test-all: setup
	@$(PYTEST)

fuzz: setup
	@$(BIN)/python -m tests.kernels.fuzz $(FUZZ_SECONDS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean:
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

clean-env: clean
	rm -rf $(VENV)
