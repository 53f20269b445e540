# What a person does here. `make help` lists it; nothing is needed beforehand but Python 3.11 or later.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint pytest test-grafana chaos chaos-mutants bench up down clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Choose another Python with `make demo PYTHON=/path/to/python`.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## Start a local stack, train real models, show what was stored (KEEP=1 leaves the stack up)
	@$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

test: lint pytest ## Run every check and every test

lint: $(INSTALLED) ## Check the code: style, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(INSTALLED)
	@bash tests/install-tools.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-grafana: $(INSTALLED) ## Open each dashboard in a real Grafana (PULSETRAIN_GRAFANA_HOME says where one is)
	@bash tests/install-tools.sh
	$(BIN)/python -m pytest tests/grafana -rs

chaos: $(INSTALLED) ## Kill everything at every moment for 10 minutes and more, and count (SEED=n repeats one)
	$(BIN)/python -m tests.chaos $(foreach seed,$(SEED),--seed $(seed)) $(CHAOS)

chaos-mutants: $(INSTALLED) ## Put bugs in on purpose, and see that the tests notice each
	$(BIN)/python -m tests.chaos.mutants

bench: $(INSTALLED) ## Measure speed and memory, and print the figures with the machine
	$(BIN)/python -m tests.bench

up: $(INSTALLED) ## Start a local stack that stays up
	$(BIN)/pulsetrain up --detach

down: ## Stop the local stack
	$(BIN)/pulsetrain down

clean: ## Remove what was built, the caches and the state of the demo (.venv stays)
	@if [ -d .demo ] && [ -x $(BIN)/pulsetrain ]; then PULSETRAIN_HOME=.demo/home $(BIN)/pulsetrain down; fi
	rm -rf .demo report.html build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +

# Everything is installed into .venv once, and again when pyproject.toml changes.
$(INSTALLED): pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "Python 3.11 or later is needed, and $(if $(PYTHON),$(PYTHON) is older or does not run,none was found);" >&2; \
		echo "install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@echo "installing into $(VENV) (the first time it downloads about 700 MB, most of it the ClickHouse engine)"
	@if command -v uv >/dev/null; then \
		[ -x $(BIN)/python ] || uv venv --quiet --python "$(PYTHON)" $(VENV); \
		uv pip install --python $(BIN)/python -e '.[all]' --group dev --group demo; \
	else \
		[ -x $(BIN)/pip ] || "$(PYTHON)" -m venv $(VENV) || { \
			echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
		$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'; \
		$(BIN)/python -m pip install -e '.[all]' --group dev --group demo; \
	fi
	@touch $@
