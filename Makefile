# Slipway. `make` or `make help` lists the targets; each does the set-up it needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# The first Python that really starts (a version manager's shim may not) and is new enough.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
# A GPU user or one who wants the CPU build from PyTorch's own index overrides these two; see README.
TORCH ?= torch==2.13.0
PIP_ARGS ?=
DEMO ?=
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.PHONY: help setup demo test test-slow check bench fix clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "error: Python 3.11 or newer is needed; set it with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 6; }
	@echo "making a virtual environment with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 6; }

$(VENV)/.train: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing $(TORCH) …"
	@$(PIP) "$(TORCH)"
	@echo "installing Slipway and what fine-tuning needs …"
	@$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "installing what the tests need …"
	@$(PIP) -e '.[train,dev]'
	@touch $@

setup: $(VENV)/.dev ## make the virtual environment with all extras

demo: $(VENV)/.train ## the whole path once, ending in a chat (DEMO="--quick" for options)
	@$(BIN)/slipway demo $(DEMO)

JS := tests/contract/js

# The official JavaScript clients; their tests are skipped with a reason where there is no Node.js.
$(JS)/node_modules: $(JS)/package-lock.json
	@if command -v npm >/dev/null; then npm ci --prefix $(JS) --silent --no-audit --no-fund && touch $@; \
	else echo "npm is missing: the JavaScript clients will not be tried (apt-get install nodejs npm)"; fi

test: $(VENV)/.dev $(JS)/node_modules ## run the tests (the default tier)
	@$(BIN)/python -m pytest -m "not slow"

$(VENV)/.slow: $(VENV)/.dev
	@echo "installing what the slow tests need …"
	@$(PIP) -e '.[train,dev,ray]'
	@touch $@

test-slow: $(VENV)/.slow $(JS)/node_modules ## run the slow tests too
	@$(BIN)/python -m pytest

check: $(VENV)/.dev ## formatting, lint, types
	@$(BIN)/ruff format --check src tests benchmarks
	@$(BIN)/ruff check src tests benchmarks
	@$(BIN)/mypy

fix: $(VENV)/.dev ## format and repair what can be repaired
	@$(BIN)/ruff format src tests benchmarks
	@$(BIN)/ruff check --fix src tests benchmarks

bench: $(VENV)/.dev ## run the benchmarks, one after the other
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove the virtual environment and caches (not SLIPWAY_HOME)
	rm -rf $(VENV) $(JS)/node_modules .mypy_cache .ruff_cache .pytest_cache build
