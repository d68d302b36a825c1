# `make` lists the verbs. Each makes .venv when it is missing, from the package index alone.

PYTHON ?= python3
VENV ?= .venv
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
USE := $(VENV)/ready-to-use
WORK := $(VENV)/ready-to-work

.DEFAULT_GOAL := help
.PHONY: help demo test slow bench docs check format

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' Makefile

demo: $(USE) ## fill a sentence with two holes, five ways
	@$(BIN)/unmask fill "The ___ sat on the ___." -n 5

test: check ## check, then the tests that take seconds (under ten minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

slow: $(WORK) ## the tests that take minutes: kill and resume, built wheels, long comparisons
	$(BIN)/python -m pytest -q -m slow

bench: $(WORK) ## run benchmarks/*.py, each of which prints its table
	@for file in $(filter-out %/random_models.py, $(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python "$$file"; done

docs: $(WORK) ## write docs/help.md anew from the live --help, then run what README and docs show
	$(BIN)/python docs/write_help.py
	$(BIN)/python -m pytest -q tests/test_docs.py

check: $(WORK) ## format, lint, types, floors and the house test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(WORK) ## let ruff format and mend what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "unmask needs Python 3.11 or newer · $(PYTHON) is older or missing · try make PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV): the first time takes a few minutes"
	@$(PYTHON) -m venv $(VENV)

# Stamps: newer than what they were made from, so a second call does nothing.
$(USE): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[gguf]'
	@touch $@

$(WORK): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[train,dev]'
	@touch $(USE) $@
