# `make demo` and `make test` do everything, set-up included. `make help` lists the rest.
VENV ?= .venv
BIN := $(VENV)/bin
CORES ?= 2
# Extra words for Snakemake, e.g. SNAKEMAKE_ARGS="--cores 8 --resources gpu=4"; `dvc repro` reads them too.
SNAKEMAKE_ARGS ?= --cores all
READY ?= $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help env demo test lint lock reproduce

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

env: $(READY)  ## build .venv from requirements.lock

$(READY): requirements.lock pyproject.toml workflow/scripts/make-env.sh
	@sh workflow/scripts/make-env.sh $(VENV)
	@touch $@

demo: $(READY)  ## Tables 1 to 3 and the figures on embedded data: results/demo/
	@echo "demo: trains the networks of Tables 1 to 3, and a few of ImageNet, shortened, on handwritten digits and a small set"
	@$(BIN)/snakemake --cores $(CORES) --quiet host reason rules -- demo
	@$(BIN)/identity-mappings diff --scale demo
	@echo "demo: open results/demo/report.html in a browser: every number opens the way back to its run"

test: $(READY)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(CORES) --dist loadfile $(PYTEST_ARGS)

lint: $(READY)  ## lint, format and graph checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/snakemake --dry-run --quiet --cores 1 all demo tables figures
	$(BIN)/identity-mappings audit

lock: $(READY)  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --all-extras pyproject.toml --output-file requirements.lock

reproduce: $(READY)  ## the whole graph, as `dvc repro` calls it
	@mkdir -p results/runs results/signals
	$(BIN)/snakemake $(SNAKEMAKE_ARGS)
