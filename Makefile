# On a fresh machine git, make and Python 3.11 or later are enough: each target sets itself up in
# .venv. Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

export KERAS_BACKEND ?= tensorflow
export TF_CPP_MIN_LOG_LEVEL ?= 2

# PyTorch is the oracle of some tests, not a dependency: its default build for Linux brings
# gigabytes of CUDA. The suffix +cpu, which the public index never holds, takes a CPU build where pip
# is configured to find one. The build for macOS has no CUDA.
TORCH := torch==2.13.0$(if $(filter Darwin,$(shell uname -s)),,+cpu)

.NOTPARALLEL:
.PHONY: help demo test backends fuzz lint readme docs clean

# Tests of what is the same on all backends, with the random cases of a short run.
PORTABLE := ops groups edge_cases tracing torch_compile triton several_kernels contract layers blocks normalization models graph_edit twins quantize
on_backend = KERAS_BACKEND=$(1) TRITON_INTERPRET=1 SEPCONV_TEST_CONFIGURATIONS=10 $(BIN)/python -m pytest --numprocesses 2 \
	--dist worksteal --timeout 600 $(PORTABLE:%=tests/test_%.py)

help:  ## show the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1:	/p' Makefile

demo: .venv/.examples  ## train twins on images, sounds, texts and volumes; demo/report.html
	$(BIN)/python -m examples.demo

test: .venv/.torch  ## run the tests and the examples in the docstrings, on TensorFlow
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --timeout 600 --doctest-modules sepconv_layers tests

# JAX compiles for longer than it computes: without optimizing, whole, and nothing twice.
backends: .venv/.torch  ## run the tests of operators, layers, blocks and models on JAX and PyTorch
	cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && \
		JAX_COMPILATION_CACHE_DIR=$$cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
		JAX_DISABLE_MOST_OPTIMIZATIONS=1 XLA_FLAGS="$(XLA_FLAGS) --xla_cpu_parallel_codegen_split_count=1" \
		$(call on_backend,jax)
	! $(BIN)/python -c 'import torch' 2>/dev/null || $(call on_backend,torch)

fuzz: .venv/.torch  ## try thousands of random cases, in ten minutes; KERAS_BACKEND=jax or torch too
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest --numprocesses 2 --timeout 1800 tests/fuzz

lint: .venv/.dev  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

readme: .venv/.dev  ## make the tables of the READMEs again, from the records in results
	$(BIN)/python -m benchmarks.readme

docs: .venv/.docs  ## build the guides and the reference of all public names: site/index.html
	$(BIN)/python docs/draw_blocks.py
	$(BIN)/mkdocs build

clean:  ## remove the environment, caches and everything that the other targets wrote
	rm -rf .venv build dist demo site .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each marker is named after the extra that it stands for.
.venv/.examples .venv/.docs .venv/.dev: .venv/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, found " + sys.version.split()[0] + "; name another with PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[$*]'
	touch $@

.venv/.torch: .venv/.dev
	$(BIN)/python -m pip install --quiet --no-compile '$(TORCH)' 2>/dev/null \
		|| echo 'pip finds no CPU build of PyTorch: tests that compare with PyTorch are skipped.'
	touch $@
