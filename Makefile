# make demo    the whole road on the bundled model: convert, measure, chat, report, screenshots
# make test    the tests (a few minutes)         make test-all    with the slow oracles
# make fuzz    arbitrary bytes into the kernels, FUZZ_SECONDS=60 a target
# make lint    ruff, mypy, import contracts      make run         opens the window
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FUZZ_SECONDS ?= 60

.PHONY: demo test test-all fuzz lint run setup clean clean-env

setup:
	@$(PYTHON) packaging/develop.py $(VENV) --tests

demo: setup
	@$(BIN)/quench demo --out demo

run: setup
	@$(BIN)/quench

test: setup
	@$(BIN)/python -m pytest -m "not slow"

test-all: setup
	@$(BIN)/python -m pytest

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
