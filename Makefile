# make demo   the whole job on simulated cells: an evaluation table, a UMAP picture, a counterfactual file
# make test   the tests, but for the slow ones
# make bench  every speed ratio beside its goal, as a table (BENCH_ARGS: benchmarks/README.md)
# Each makes its own environment and keeps it until pyproject.toml or constraints.txt changes.
#
# For developers: make test-all lint format types imports completions completions-check readme

PYTHON ?= python3.11
VENV ?= .venv
DEMO_VENV ?= .venv-demo
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test test-all bench dev lint format types imports completions completions-check readme clean

demo: $(DEMO_VENV)/.installed
	@rm -rf build/demo && mkdir -p build
	@$(DEMO_VENV)/bin/cellalign demo build/demo $(DEMO_ARGS)

test: $(VENV)/.installed
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal -q -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.installed
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal -q $(PYTEST_ARGS)

# Pass what to stand beside: make bench BENCH_ARGS="--before OLDER_CHECKOUT --peer PYTHON --write table.md"
bench: $(VENV)/.installed-dev
	@$(VENV)/bin/python benchmarks/bench.py $(BENCH_ARGS)

# Environments. The stamp is written last, so that an interrupted installation is done again.

ifneq ($(DEMO_VENV),$(VENV))
$(DEMO_VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making the environment $(DEMO_VENV) (once; this downloads torch)" >&2
	@$(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@
endif

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making the environment $(VENV) (once; this downloads torch)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@

dev: $(VENV)/.installed-dev

lint: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

types: $(VENV)/.installed-dev
	@$(VENV)/bin/mypy

imports: $(VENV)/.installed-dev
	@$(VENV)/bin/lint-imports

completions: $(VENV)/.installed
	@$(VENV)/bin/python -m cellalign.cli.completions completions

completions-check: $(VENV)/.installed
	@rm -rf build/completions && mkdir -p build
	@$(VENV)/bin/python -m cellalign.cli.completions build/completions
	@diff -ru completions build/completions || { echo "completions/ is not current: run make completions" >&2; exit 1; }

readme: $(VENV)/.installed
	@$(VENV)/bin/python .ci/readme.py README.md

clean:
	@rm -rf build dist .venv .venv-demo
