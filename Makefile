# Two commands need no other: `make demo` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check lock docs clean

setup: $(STAMP)

# pip before 24 drops some extras' dependencies, so the newest one installs the rest.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/relearnd demo

test: check

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

# Resolve the newest versions that pyproject.toml allows.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --output-file requirements.lock \
		--python-version 3.11 --generate-hashes --no-annotate --no-header --quiet

# The pages that are generated from the code; a test keeps them equal.
docs: setup
	$(BIN)/python -m daemon.reference configuration > docs/configuration.md
	$(BIN)/python -m daemon.reference metrics > docs/metrics.md

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
