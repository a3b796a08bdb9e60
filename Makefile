# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
#
# Everything runs in .venv, which the first target that needs it sets up; only Python (3.11 or newer) and make are assumed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST_ARGS ?=

BUNDLE := bundles/miadmark
RUN := $(abspath $(BIN))/python -m monai.bundle run --bundle_root . --config_file
EVALUATE := $(RUN) "['configs/networks.yaml','configs/evaluate.yaml']"

.DEFAULT_GOAL := help
.PHONY: help setup venv demo test lint format types unit train results clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup venv: $(STAMP) ## make .venv with everything in it, at the versions of constraints.txt

# torch goes first and by its exact version, so that nothing else chooses one; hatchling is installed rather than
# fetched by build isolation, because constraints do not reach an isolated build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) hatchling
	$(PIP) --no-build-isolation -e '.[dev,demo,heldout]'
	touch $@

demo: $(STAMP) ## protect and restore real images, with a picture of it
	$(BIN)/python -m monai_miadmark.demo

test: lint types unit ## everything that must pass before a change lands

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff write the format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy
	$(BIN)/mypy

# One thread each: the tests' networks are tiny, and threads that wait for each other on a busy machine take minutes.
unit: $(STAMP) ## pytest; PYTEST_ARGS="-k record" for a part
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

train: $(STAMP) ## train classifiers and generator anew (hours; images in MIADMARK_DATA or ../shared/data)
	cd $(BUNDLE) && for name in resnet densenet plain seresnext; do \
	  $(RUN) "['configs/networks.yaml','configs/train_surrogate.yaml']" --architecture $$name || exit 1; done
	cd $(BUNDLE) && $(RUN) "['configs/networks.yaml','configs/train_surrogate.yaml','configs/pretrained.yaml']"
	cd $(BUNDLE) && $(RUN) "['configs/networks.yaml','configs/train.yaml']"
	cd $(BUNDLE)/models && sha256sum *.pt > SHA256SUMS

results: $(STAMP) ## measure on the val images what docs/results.md reports (long)
	cd $(BUNDLE) && $(EVALUATE)
	cd $(BUNDLE) && $(EVALUATE) --preset subtle
	cd $(BUNDLE) && $(EVALUATE) --style invisible --limit 20
	cd $(BUNDLE) && $(EVALUATE) --region_budget 0 --limit 20 --stem eval/brain_mri_val_standard_visible_hard
	cd $(BUNDLE) && $(EVALUATE) --preset strong --limit 10

clean: ## remove .venv and all that tools left
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
