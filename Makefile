# Every target works as the first command in a fresh clone: the virtual environment is made on the way.
# Another interpreter: make test PYTHON=/path/to/python3.12

VENV  := .venv
BIN   := $(VENV)/bin
PIP   := $(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements/constraints.txt
READY := $(VENV)/ready
INPUT := pyproject.toml requirements/constraints.txt requirements/torch.txt

.DEFAULT_GOAL := help
.PHONY: help run test test-all lint docs bench nano clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY)  ## train a small model on real text, report, talk to it
	@$(BIN)/tandem quickstart

test: $(VENV)/ready-hf  ## the fast suite
	@$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/ready-hf  ## everything
	@$(BIN)/python -m pytest

lint: $(VENV)/ready-hf  ## ruff, types, the table of rooms
	@$(BIN)/ruff check --no-cache  # a cached verdict outlives a module that moved
	@$(BIN)/ruff format --check --no-cache
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

docs: $(VENV)/ready-docs  ## the documentation site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site/index.html"

bench: $(VENV)/ready-bench  ## Tandem beside transformers and, if installed, llama.cpp
	@$(BIN)/tandem bench train
	@$(BIN)/tandem bench decode
	@$(BIN)/tandem bench peers

nano: $(READY)  ## make the bundled checkpoint again
	@$(BIN)/tandem quickstart --run-dir runs/nano --bundle

clean:  ## remove what make made; runs/ and downloaded corpora stay
	@rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is the last thing written, so a broken installation is started over and a changed pin only updates.
$(READY): $(INPUT)
	@begin=$$(date +%s); \
	for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python) none; do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; \
	done; \
	if [ $$python = none ]; then \
	  echo "make: found no Python 3.11 or newer$(PYTHON:%= at %); name one: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	fresh=; [ -f $@ ] || fresh=--clear; rm -f $@; \
	echo "installing into $(VENV) with $$($$python --version); the first time takes a few minutes ..."; \
	$$python -m venv $$fresh $(VENV) >/dev/null \
	  || { echo "make: $$python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }; \
	$(PIP) -r requirements/torch.txt && $(PIP) -e '.[dev,data]' || exit 1; \
	touch $@; \
	echo "installed in $$(( $$(date +%s) - begin )) s"

$(VENV)/ready-docs: $(READY)
	@$(PIP) -e '.[docs]' && touch $@

# Tests compare released models with transformers, and run what is built on it; types of its wrapper are checked.
$(VENV)/ready-hf: $(READY)
	@$(PIP) -e '.[hf,eval,tune]' && touch $@

$(VENV)/ready-bench: $(READY)
	@$(PIP) -e '.[bench]' && touch $@
