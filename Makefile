# make demo · make test: each sets up everything it needs by itself. All else: make help.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Where a proxy intercepts TLS, its authority is in the host's store, or pip has been told of it; uv looks at neither.
SSL_CERT_FILE ?= $(firstword $(PIP_CERT) $(wildcard /etc/ssl/certs/ca-certificates.crt))
ifneq ($(SSL_CERT_FILE),)
export SSL_CERT_FILE
endif
export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
UV := $(BIN)/python -m uv --quiet
# A hundred processes are started here; without this each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint fuzz bench clean system-parts

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.runtime ## an emulated farm, a broker, the daemon and a grid operator; no root. ARGS="--help" shows more
	@$(BIN)/curtaild demo $(ARGS)

test: $(VENV)/.development system-parts ## every test. ARGS="tests/core -k ramp" chooses
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10 --durations-min=1 $(ARGS)

lint: $(VENV)/.development ## ruff, mypy --strict, the floors between modules
	@failed=0; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/lint-imports --no-logo || failed=1; \
	exit $$failed

fuzz: $(VENV)/.development ## every decoder of the wire, guided by coverage. ARGS="--seconds 300" says for how long
	@cd tests && ../$(BIN)/python -m fuzz $(ARGS)

bench: $(VENV)/.development ## each figure beside its bar, floor and peer, in one table. ARGS="--help" shows more
	@$(UV) sync --locked --group bench --inexact || echo "pyasic-rs cannot be installed: the table goes without it" >&2
	@$(BIN)/python -m bench $(ARGS)

clean: ## remove what these commands have made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist

system-parts:
	@.ci/system-parts || echo "The tests that need what could not be installed are skipped." >&2

# Installs what uv.lock names. --inexact: `make demo` takes nothing away that `make test` has installed.
$(VENV)/.runtime: $(VENV)/.uv pyproject.toml uv.lock
	@echo "Installing curtaild in $(VENV)" >&2
	@$(UV) sync --locked --no-dev --inexact
	@touch $@

$(VENV)/.development: $(VENV)/.uv pyproject.toml uv.lock
	@echo "Installing curtaild and its tests' tools in $(VENV)" >&2
	@$(UV) sync --locked --compile-bytecode
	@touch $@ $(VENV)/.runtime

$(VENV)/.uv: .ci/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "curtaild needs Python 3.11 or \
	newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing). Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: \
	apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/uv.txt
	@touch $@
