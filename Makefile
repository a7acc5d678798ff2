# Everything a developer or a first visitor needs; `make help` lists it. Every target sets up what it needs by itself.

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
PYTHON := $(BIN)/python
READY := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format bench screenshots cmake-list clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv and install what the other targets need (they call it)

# An interpreter that is listed but broken or too old is passed over: only one that answers counts.
$(READY): pyproject.toml constraints.txt
	@works='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(PYTHON) -c "$$works" 2>/dev/null || ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in python3.12 python3.11 python3 python py; do \
	    if "$$python" -c "$$works" 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Python 3.11 or later was not found. Install it (Debian: apt-get install python3 python3-venv)." >&2; exit 1; \
	  fi; \
	  echo "Making .venv with $$("$$found" --version)"; \
	  if ! "$$found" -m venv --clear .venv; then \
	    echo "$$found cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2; exit 1; \
	  fi; \
	fi
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev,host]"
	@touch $@

demo: $(READY) ## Train three ways on a small cohort and compare them; real volumes by DATA=FOLDER
	$(BIN)/semisamplus demo $(if $(DATA),--data "$(DATA)")

test: $(READY) ## Run every test
	$(PYTHON) -m pytest

test-fast: $(READY) ## Run the tests that take no longer than a few seconds
	$(PYTHON) -m pytest -m "not slow"

lint: $(READY) ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Measure what the benchmarks in Testing/benchmarks measure
	@set -e; for file in Testing/benchmarks/bench_*.py; do echo "== $$file"; $(PYTHON) "$$file"; done

screenshots: $(READY) ## Make the pictures of docs/images from the panel and the views of the test host
	$(PYTHON) Testing/screenshots.py

cmake-list: $(READY) ## Write the list of files that the Slicer extension packages
	$(PYTHON) Testing/cmake_list.py

clean: ## Remove caches and what was built; .venv and runs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache semisamplus.egg-info
	find SemiSAMPlus SemiSAMPlusLib Testing docs -name __pycache__ -type d -prune -exec rm -rf {} +
