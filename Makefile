# run and test set up a fresh machine; the environment is rebuilt when it is older than its lock file.
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
.PHONY: run test check bench ui clean lock

run: .venv/installed
	@test -e data/raw.dvc || regraft use digits
	@regraft run

# Tests of one file run in one process: they share expensive fixtures. Tests that need the whole machine run last.
test: .venv/installed
	pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "not alone"
	pytest -m alone

check: .venv/installed
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest tests/test_house.py tests/test_graph.py

bench: .venv/installed
	python -m tests.bench

ui: .venv/installed
	@regraft ui

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/installed: requirements.lock requirements-dev.lock requirements-extras.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 14) else \
	  "regraft needs Python 3.11 to 3.13; this is %s. Name another: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes \
	  -r requirements.lock -r requirements-dev.lock -r requirements-extras.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

# Needs uv. Models depend on requirements.lock, so development tools and optional extras have lock files of their own.
LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock:
	$(LOCK) pyproject.toml -o requirements.lock
	$(LOCK) --group dev -c requirements.lock -o requirements-dev.lock
	$(LOCK) --no-deps --group extras -c requirements.lock -o requirements-extras.lock
