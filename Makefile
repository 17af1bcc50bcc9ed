# make quickstart    installs into .venv, runs the quickstart sweep, prints its tables
# make test          lint, types and tests, in the same .venv
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint types tests install

quickstart: install
	$(BIN)/python runner.py sweeps/quickstart.yaml

test: lint types tests

install: $(VENV)/.installed

# The constraints pin what CI ran; leave them out (make install CONSTRAINTS=) to take newer releases.
CONSTRAINTS ?= --constraint constraints.txt
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV): torch and what it needs take some minutes and about 6 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy experiments wsol/metrics wsol/key_reads.py runner.py

tests: install
	$(BIN)/python -m pytest -m "not slow and not gpu"
