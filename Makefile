# Everything a newcomer needs: make demo, make up. Only Python (3.11 or newer), git and make are needed.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
DEV_STAMP := $(VENV)/.complete-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PORT ?= 3000

.PHONY: help install install-dev demo up up-demo test test-quick test-nightly test-ui test-wheel wheel screenshots lint lock clean

help:
	@echo "make demo     archive two made-up projects end to end, without any account"
	@echo "make up       run the platform: database, UI on 127.0.0.1:$(PORT), daemon"
	@echo "make up-demo  the same over the demo's data"
	@echo "make install  make .venv, with bin/lse"
	@echo "make install-dev  add the development tools to it"
	@echo "make wheel    build dist/langsmith_archive-*.whl"
	@echo "make test     lint, types and tests"
	@echo "make test-quick  the quick tests alone"
	@echo "make test-nightly  failing system calls, odd documents and hostile values, with all cases"
	@echo "make test-ui  the UI in a real browser, and the README in a fresh clone; needs Chromium (Debian: apt-get install chromium)"
	@echo "make test-wheel  the wheel in an empty environment; needs the package index"

install: $(STAMP)

# What runs; no development tools.
$(STAMP): requirements.lock pyproject.toml tools/find-python
	@python=$$(tools/find-python) && rm -rf $(VENV) && echo "installing into $(VENV) with $$python …" && "$$python" -m venv $(VENV)
	@$(PIP) --no-deps --require-hashes -r requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

install-dev: $(DEV_STAMP)

$(DEV_STAMP): $(STAMP) requirements-dev.lock
	@echo "installing the development tools into $(VENV) …"
	@$(PIP) --no-deps --require-hashes -r requirements-dev.lock
	@touch $(DEV_STAMP)

demo: install
	@$(BIN)/lse demo

up: install
	@$(BIN)/lse up --port $(PORT)

up-demo: install
	@test -e .lse-demo/projects.toml || $(BIN)/lse demo
	@$(BIN)/lse demo --up --port $(PORT)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

# The tests without the marker `slow`: under a minute on 2 cores.
test-quick: install-dev
	$(BIN)/pytest -m "not slow"

# The tests that try only a part of their cases in `make test`, and new documents each time.
test-nightly: install-dev
	LSE_TEST_NIGHTLY=1 $(BIN)/pytest tests/faults tests/cli/test_hostile_input.py

# Installs the wheel into an empty virtual environment, and runs it outside of the checkout.
test-wheel: install-dev
	$(BIN)/pytest -o addopts=-q tests/wheel

test-ui: install-dev
	$(BIN)/pytest -o addopts=-q tests/ui

# The pictures of the documentation, by the same test.
screenshots: install-dev
	LSE_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/pytest -o addopts=-q tests/ui

# Pins every dependency with its hashes, for all platforms and Python versions.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate
lock: install-dev
	$(LOCK) --extra lake --group pyproject.toml:build pyproject.toml -o requirements.lock
	$(LOCK) --group pyproject.toml:dev --constraint requirements.lock -o requirements-dev.lock

wheel: install
	@$(BIN)/hatchling build -t wheel -d dist

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
