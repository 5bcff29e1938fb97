# `make run` and `make test` do everything from a fresh clone; `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
STUDY ?= quick
# The first interpreter that really is one of the Pythons we run on.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell \
	$(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(p))))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
RUN := $(BIN)/catdog-search

# What has to hold on every backend: networks, augmentation, training, and one whole way.
BACKEND_TESTS := tests/test_models.py tests/test_training.py \
	tests/test_training_execution.py tests/test_resnet50.py tests/test_end_to_end.py \
	tests/test_neither.py tests/test_promotion.py
SPELLED := README.md CONTRIBUTING.md CHANGELOG.md docs catdog_search tests studies \
	benchmarks/*.py Makefile pyproject.toml
# What meets other people's interfaces: the command line, stores, samplers, networks, figures.
LOWEST_TESTS := tests/test_cli.py tests/test_studies.py tests/test_space.py tests/test_tracking.py \
	tests/test_tracking_figures.py tests/test_search_coordinator.py tests/test_search_sampler.py \
	tests/test_search_storage.py tests/test_data_dataset.py tests/test_models.py
# A minute and a half of one core: what trains nothing and starts no study. COVERED_TESTS=tests: all.
COVERED_TESTS := $(foreach name,text space studies retry sqlite web outside cli data_labels \
	data_sources data_dataset data_manifest data_splits data_discovery data_label_file \
	data_decode,tests/test_$(name).py)
BENCHES := input step xla trial search scale device levers cli memory features calibration
DATA ?=
WEIGHTS ?=

.PHONY: help setup run test test-backends test-jax test-torch test-lowest coverage lint typecheck \
	layers docs docs-check unit ui serve promote bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The stamps are what keeps a second `make` from installing again.
$(VENV)/.installed-run: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into $(VENV) with $(PYTHON); this takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[tf,onnx,serve,tuner]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-run
	$(PIP) --editable '.[tf,onnx,serve,tuner,dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-run
	$(PIP) --editable '.[tf,onnx,serve,tuner,bench]'
	@touch $@

$(VENV)/.installed-e2e: $(VENV)/.installed-dev
	$(PIP) --editable '.[tf,onnx,serve,tuner,dev,e2e]'
	@touch $@

setup: $(VENV)/.installed-run ## Make .venv and install

run: setup ## Run a study, STUDY=quick by default: drawn pictures, no GPU
	$(RUN) run --study $(STUDY)

test: lint typecheck layers docs-check unit ## Lint, types, layers, documents and tests

lint: $(VENV)/.installed-dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy

layers: $(VENV)/.installed-dev ## import-linter
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed-dev ## Write docs/cli.md from the commands
	$(BIN)/python docs/cli_reference.py

docs-check: $(VENV)/.installed-dev ## What README, CONTRIBUTING and docs/ claim, and how it is spelled
	$(BIN)/python docs/check_docs.py
	$(BIN)/codespell $(SPELLED)

# Most of what the tests wait for are processes that start: three at a time fill two cores.
unit: $(VENV)/.installed-dev ## pytest
	$(BIN)/pytest --numprocesses 3 --dist worksteal

# Environments of their own, without TensorFlow: an import of it would not go unnoticed.
.venv-%/.installed: pyproject.toml constraints.txt
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --editable '.[$*,onnx,tuner,dev]'
	@touch $@

test-backends: test-jax test-torch ## The training tests on JAX and PyTorch, each in its own .venv

test-jax: .venv-jax/.installed ## The training tests on JAX
	KERAS_BACKEND=jax .venv-jax/bin/pytest --numprocesses 3 --dist worksteal $(BACKEND_TESTS)

test-torch: .venv-torch/.installed ## The training tests on PyTorch
	KERAS_BACKEND=torch .venv-torch/bin/pytest --numprocesses 3 --dist worksteal $(BACKEND_TESTS)

# What an old version warns of, next to newer ones, is not what is tried here.
test-lowest: .venv-lowest/.installed ## The tests around training on the lowest versions that pyproject.toml allows
	.venv-lowest/bin/pytest -W default::DeprecationWarning --numprocesses 3 --dist worksteal \
		$(LOWEST_TESTS)

.venv-lowest/.installed: pyproject.toml constraints.txt tests/lowest.py
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint .venv-lowest/lowest.txt --editable '.[tf,onnx,serve,tuner]' pytest pytest-xdist
	@touch $@

.PHONY: test-e2e
test-e2e: $(VENV)/.installed-e2e ## The page in a real Chromium: a person's way, at desktop and phone size
	$(BIN)/pytest tests/e2e

coverage: $(VENV)/.installed-dev ## How much of the code the quick part of the tests runs
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(COVERED_TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/.installed-bench ## All benchmarks in turn; DATA=photos.zip, WEIGHTS=FILE for ResNet50's
	@for name in $(BENCHES); do \
		test $$name = features && more='$(if $(WEIGHTS),--weights $(WEIGHTS))' || more=; \
		echo "== $$name"; \
		$(BIN)/python benchmarks/$$name.py $(if $(DATA),--data $(DATA)) $$more || exit 1; \
	done

ui: setup ## MLflow's user interface
	$(RUN) ui

serve: setup ## Answer photos over HTTP with the champion
	$(RUN) serve

promote: setup ## Find the champion of STUDY: finalists, one look at test, gates
	$(RUN) promote --study $(STUDY)

clean: ## Remove what was built and installed; the state in mlruns/ stays
	rm -rf $(VENV) .venv-jax .venv-torch .venv-lowest build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './mlruns/*' -prune -exec rm -rf {} +
