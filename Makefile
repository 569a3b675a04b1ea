# Everything a contributor or a newcomer needs. `make demo` works on a machine with Python >= 3.11, make and a compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1000
PYTEST := $(BIN)/python -m pytest

.PHONY: setup lock demo test check lint types sim bench bench-all docs clean

setup: $(VENV)/.done

# What a user needs: the package and what it imports.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@echo "The first time only: installing what linestop needs into $(VENV): some 50 packages; pip says how far it is."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# What a contributor needs besides.
$(VENV)/.done: $(VENV)/.runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

# Rewrites both locks. The extras stay: a pip before 24.1 wants `coverage[toml]` pinned under that very name.
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-strip-extras --no-emit-index-url
lock: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) --python-version 3.11 --extra otlp pyproject.toml --output-file requirements.lock
	$(LOCK) --python-version 3.11 --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock

demo: $(VENV)/.runtime
	$(BIN)/linestop demo

test: setup lint types
	$(PYTEST) tests

check: setup
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/pyright
	$(PYTEST) tests/schemas tests/actors tests/laws

lint: setup
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench

types: setup
	$(BIN)/mypy
	$(BIN)/pyright

sim: setup
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

# Ten minutes; `$(BIN)/python -m bench --help` lists what is measured, one by one.
bench: setup
	$(BIN)/python -m bench

# Every configuration, among them three replicas and 20,000 queued tasks: hours.
bench-all: setup
	$(BIN)/python -m bench --full

docs: setup
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
