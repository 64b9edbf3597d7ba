# Everything a fresh clone needs: `make install`, `make demo`, `make test`. All of it happens in .venv.

PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	2>/dev/null && command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compiled kernels are kept here between runs, so that only the first run pays for compiling them. They are kept by
# the state of all sources: numba does not notice that a constant in another file has changed.
export NUMBA_CACHE_DIR ?= $(CURDIR)/.cache/numba/$(shell cat pruning/*.py stream_app/*/*.py | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help install demo test check format lock bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## Create .venv with the locked dependencies and this package (again only when they change)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed: install it (Debian: python3 python3-venv)" \
		"or say make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) with $(PYTHON)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@# uv takes seconds where pip takes a minute; pip is the way out where uv cannot reach the package index.
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock \
		|| $(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## Run the whole system here: broker, Redis, a simulated shop, recommendations before and after
	$(BIN)/recs demo

test: install  ## Run all tests; those that need Kafka want Java 17 and Maven, and REQUIRE_KAFKA=1 insists on them
	$(BIN)/python -m pytest

check: install  ## Check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: install  ## Format the code and repair what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install  ## Resolve the dependencies anew into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
	@# The image gets the same versions without what only development and the demo need.
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --constraint requirements.lock --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links pyproject.toml -o deploy/requirements.lock

bench: install  ## Measure speed and memory; results go to benchmarks/results
	$(BIN)/python -m benchmarks speed --out benchmarks/results

clean:  ## Remove .venv, caches and build products
	rm -rf $(VENV) .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
