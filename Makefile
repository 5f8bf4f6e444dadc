# Everything a newcomer needs: make demo, make up. Only Python (3.11 or newer), git and make are needed.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
PORT ?= 3000

.PHONY: help install demo up up-demo test test-quick test-ui screenshots lint lock clean

help:
	@echo "make demo     archive two made-up projects end to end, without any account"
	@echo "make up       run the platform: database, UI on 127.0.0.1:$(PORT), daemon"
	@echo "make up-demo  the same over the demo's data"
	@echo "make install  make .venv, with bin/lse"
	@echo "make test     lint, types and tests"
	@echo "make test-quick  the quick tests alone"
	@echo "make test-ui  the UI in a real browser; needs Chromium (Debian: apt-get install chromium)"

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml tools/find-python
	@python=$$(tools/find-python) && rm -rf $(VENV) && echo "installing into $(VENV) with $$python …" && "$$python" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install
	@$(BIN)/lse demo

up: install
	@$(BIN)/lse up --port $(PORT)

up-demo: install
	@test -e .lse-demo/projects.toml || $(BIN)/lse demo
	@$(BIN)/lse demo --up --port $(PORT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

# The tests without the marker `slow`: under a minute on 2 cores.
test-quick: install
	$(BIN)/pytest -m "not slow"

test-ui: install
	$(BIN)/pytest -o addopts=-q tests/ui

# The pictures of the documentation, by the same test.
screenshots: install
	LSE_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/pytest -o addopts=-q tests/ui

# Pins every dependency with its hashes, for all platforms and Python versions.
lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --group pyproject.toml:dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
