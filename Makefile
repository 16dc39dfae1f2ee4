# `make` alone lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Huge pages for glibc's memory, where the kernel gives them to who asks (docs/architecture.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-faults lint bench clean

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[demo,dev]'
	test -e .git || $(BIN)/dvc config --quiet --local core.no_scm true
	touch $@

setup: $(READY) ## make .venv and install everything into it

repro: setup ## run the whole line on the embedded data set: dvc repro
	dvc repro
	@echo && echo "Open report/index.html, or read report/report.md."

test: setup ## run the linters and all tests
	ruff check .
	mypy
	lint-imports
	pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

test-faults: setup ## damage stores and kill writers as often as docs/faults.md says, and write what came out there
	FAULTS=full pytest tests/faults

lint: setup ## what pre-commit runs
	ruff check .
	mypy
	lint-imports

bench: bench-loop bench-store bench-line bench-encodings bench-distill ## all benchmarks (VOC=<any VOC folder> for those that need one)

bench-%: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	python benchmarks/$*.py

clean: setup ## delete the work folders of finished stages (not the results)
	pipeline clean
