# Two commands for a bare machine with Python 3.11+, pip and make:  make quickstart   make test
# Each sets up .venv in this folder the first time and reuses it afterwards.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN ?= runs/quickstart

.PHONY: help quickstart test check format benchmark clean
help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

quickstart: .venv/.installed  ## train, evaluate, generate and report on text that Python carries
	$(BIN)/llmjax train configs/quickstart.py --run-dir $(RUN)
	$(BIN)/llmjax evaluate $(RUN)
	$(BIN)/llmjax generate $(RUN) --prompt "The for statement is used to" --prompt "Return a new list containing"
	$(BIN)/llmjax report $(RUN)

test: .venv/.installed-dev  ## run the test suite (8 virtual CPU devices)
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.installed-dev  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.installed-dev  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: .venv/.installed-benchmark  ## our training step against PyTorch's, on this CPU
	$(BIN)/python -m benchmarks.train

clean:  ## remove the environment; runs/ stays
	rm -rf .venv

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("llmjax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/.installed

.venv/.installed-benchmark: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[benchmark]'
	touch $@ .venv/.installed
