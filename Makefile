# `make help` lists the commands. Each makes .venv when there is none.

VENV := .venv
BIN := $(VENV)/bin
OUT ?= benchmarks/results
JOBS ?= 2
MODELS ?= unet dit video
DEMO_PROMPT ?= a large red circle above a small blue square on a green background

# Keeps this folder off sys.path: `kernels/` would pass for PyPI's package of that name.
export PYTHONSAFEPATH := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test host-tests check lint types bench bench-full bench-peers self-test gpu kernels-all \
    coverage calibrations export-coverage export-real-size compat clean

help:  ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' $(MAKEFILE_LIST) | expand -t 16

setup:  ## Make .venv, or bring it up to date
	@.ci/venv $(VENV)

demo: setup  ## Draw a picture, stock and accelerated side by side, and report what was done
	@mkdir -p outputs
	$(BIN)/sdaccel generate "$(DEMO_PROMPT)" --compare --output outputs/demo.png

# A file's tests stay together, since they share what is slow to make.
test: setup  ## Run the tests, in JOBS processes of one thread each
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile

# Named by a pattern, since some of diffusers' other schedulers have a test file too.
host-tests: setup  ## Run diffusers' own scheduler tests with the stand-ins; DIFFUSERS=FOLDER is its source
	cd $(DIFFUSERS) && PYTHONPATH=$(CURDIR)/tests/helpers $(CURDIR)/$(BIN)/pytest --quiet \
	    -p stand_ins_for_stock -W ignore -k "DDIMScheduler or DDPMScheduler or DPMSolverMultistepScheduler \
	    or Euler or Heun or LCM or TCD or UniPC" tests/schedulers

check: lint types test  ## The whole gate: format, lint, types, tests

lint: setup  ## Check the format and the style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# mypy knows a package by its place in the tree, so it gets the tree that is installed, as links.
types: setup  ## Check the types
	@rm -rf build/typed && mkdir -p build/typed/sdaccel
	@ln -s $(CURDIR)/sdaccel/* $(CURDIR)/kernels $(CURDIR)/pipelines $(CURDIR)/benchmarks build/typed/sdaccel/
	cd build/typed && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
	    --cache-dir $(CURDIR)/.mypy_cache -p sdaccel

bench: setup  ## Measure every workload, scaled down, in 20 minutes: rows in benchmarks/results/, and a page
	@$(call measure,--workload all --quick)

bench-full: setup  ## Measure Stable Diffusion 1.5 at its real size, and an embedded model, the same way
	@$(BIN)/python -m pip install --quiet --quiet "$$(grep ^openvino requirements/peers.txt)" || \
	    echo "OpenVINO could not be installed: its rows will say that it was skipped."
	@$(call measure,)

measure = mkdir -p outputs; $(BIN)/python -m sdaccel.benchmarks $(1); measured=$$?; \
	$(BIN)/sdaccel bench report benchmarks/results -o outputs/report.html && exit $$measured

bench-peers:  ## Measure beside every peer that pip has, in an environment of its own
	@.ci/venv $(VENV)-peers -r requirements/peers.txt
	$(VENV)-peers/bin/python -m sdaccel.benchmarks --peers --workload shapes-unet shapes-dit

self-test: setup  ## Put the harness to the test: does it see what it must, and nothing else?
	$(BIN)/python -m sdaccel.benchmarks self-test

gpu:  ## With a GPU at hand: tests, ladder, kernels; OUT=FOLDER takes the rows, BUDGET_S=N seconds
	@BUDGET_S="$(BUDGET_S)" .ci/gpu $(OUT)

kernels-all: setup  ## Compile every kernel for every chip, with no GPU needed, into a table
	$(BIN)/python -W ignore -m sdaccel.kernels.ahead --output benchmarks/results/kernels-ahead-of-time.md

coverage: setup  ## Fuse a tiny instance of every model family, compare with stock, into a table
	$(BIN)/python -W ignore -m sdaccel.benchmarks coverage --output benchmarks/results/fuse-coverage.md

calibrations: setup  ## Measure which steps of the embedded models step_cache and guidance may skip; MODELS=video: of one
	for model in $(MODELS); do $(BIN)/sdaccel calibrate --model shapes-$$model -n 8 --batch 8 \
	    -o sdaccel/passes/calibrations/shapes-$$model.json || exit; done

export-coverage: setup  ## Export a tiny instance of the model families as ONNX, compare, into a table
	$(BIN)/python -W ignore -m sdaccel.benchmarks export-coverage --output benchmarks/results/export-coverage.md

export-real-size: setup  ## Export SD 1.5's UNet and VAE at their real size, compare, into a table
	$(BIN)/python -W ignore -m sdaccel.benchmarks export-real-size --output benchmarks/results/export-real-size.md

compat:  ## Run the tests with the oldest and the newest Python, torch and diffusers
	@.ci/compat

clean:  ## Remove what was built, .venv included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache outputs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
