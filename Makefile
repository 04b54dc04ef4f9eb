# `make demo` and `make test` do everything, set-up included. `make help` lists the rest.
VENV ?= .venv
BIN := $(VENV)/bin
# Words for Snakemake, e.g. SNAKEMAKE_ARGS="--cores 8 --resources gpu=4"; `dvc repro` reads them too. By default as many
# jobs run at once as the cores and the memory hold that this process may use (profiles/default).
SNAKEMAKE_ARGS ?=
# Tests at once: a core and 2 GB each.
CORES ?= $(shell $(BIN)/python -c "from identity_mappings.records import machine; \
  print(max(1, min(machine.count_cores(), machine.count_memory() // 2_000_000_000)))")
READY ?= $(VENV)/.ready
# A container's user may have no home to write to, and no name: uv, Snakemake and DVC ask for both.
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/.snakemake/home
endif
export USER ?= user
# Hundreds of processes import the sources: Python keeps them compiled, also where the environment forbids it.
unexport PYTHONDONTWRITEBYTECODE
# On a terminal the default profile shows bars; elsewhere Snakemake's log is cut down to what is done and what failed.
BRIEF = $$(test -t 2 -a "$$TERM" != dumb || echo --quiet host reason rules)

.DEFAULT_GOAL := help
.PHONY: help env demo overnight weekend test bench gpu-check lint lock reproduce

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

env: $(READY)  ## build .venv from requirements.lock

$(READY): requirements.lock pyproject.toml workflow/scripts/make-env.sh
	@sh workflow/scripts/make-env.sh $(VENV)
	@touch $@

demo: $(READY)  ## Tables 1 to 3 and the figures on embedded data: results/demo/
	@echo "demo: trains the networks of Tables 1 to 3, and a few of ImageNet, shortened, on handwritten digits and a small set"
	@echo "demo: what each run does, in another terminal: $(BIN)/identity-mappings status --scale demo --watch"
	@$(BIN)/python workflow/scripts/unlock.py
	@$(BIN)/snakemake $(BRIEF) $(SNAKEMAKE_ARGS) -- demo || \
	  { $(BIN)/identity-mappings status --scale demo; false; }
	@$(BIN)/identity-mappings diff --scale demo
	@echo "demo: open results/demo/report.html in a browser: every number opens the way back to its run"

overnight: $(READY)  ## the tables on real images at half resolution, a night on a laptop: results/overnight/
weekend: $(READY)  ## thirteen networks on these images, ten times as long, a weekend on a laptop: results/weekend/
overnight weekend:
	@$(BIN)/identity-mappings status --scale $@ | sed -n '/^$@: /,$$p'  # what it trains, and how long that will take here
	@echo "$@: rerun to resume after an interruption; what runs: $(BIN)/identity-mappings status --scale $@ --watch"
	@$(BIN)/python workflow/scripts/unlock.py
	@$(BIN)/snakemake --config scale=$@ $(BRIEF) $(SNAKEMAKE_ARGS) || \
	  { $(BIN)/identity-mappings status --scale $@; false; }
	@echo "$@: results/$@/README.md says what it shows"

# One worker more than cores: the tests of Slurm mostly wait.
test: $(READY)  ## the tests
	@$(BIN)/python -m compileall -q src  # before the tests copy them
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $$(($(CORES) + 1)) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(READY)  ## speed against other implementations: results/bench/, docs/speed.md; options: BENCH_ARGS="--help"
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

gpu-check: $(READY)  ## the first hour on a GPU, in a quarter of one: gpu-check.txt; docs/gpus.md
	@sh workflow/scripts/gpu-check.sh $(BIN) 2>&1 | tee gpu-check.txt
	@tail -n 1 gpu-check.txt | grep -q "everything passed"

lint: $(READY)  ## lint, format and graph checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/snakemake --dry-run --quiet --cores 1 all demo tables figures
	$(BIN)/identity-mappings audit
	$(BIN)/identity-mappings audit --scale overnight
	$(BIN)/identity-mappings audit --scale weekend

lock: $(READY)  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --all-extras pyproject.toml --output-file requirements.lock

reproduce: $(READY)  ## the whole graph, as `dvc repro` calls it
	@mkdir -p results/runs results/signals
	$(BIN)/snakemake $(SNAKEMAKE_ARGS)
