# Every target works as the first command in a fresh clone: it makes .venv and installs moopt
# there, once. `make TARGET SYSTEM=1` uses python3 as it is and installs nothing (a machine with
# torch and no network). `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Two OpenMP threads on two shared cores are many times slower than one.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

PYTHON ?= python3
ARGS ?=
BASE ?=
VENV := .venv
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
KERNELS_INSTALLED := $(VENV)/.installed-kernels

ifdef SYSTEM
PY := $(PYTHON)
SETUP := system-packages
BENCH_SETUP := system-packages
KERNELS_SETUP := system-packages
else
PY := $(VENV)/bin/python
SETUP := $(INSTALLED)
BENCH_SETUP := $(BENCH_INSTALLED)
KERNELS_SETUP := $(KERNELS_INSTALLED)
endif

# What SYSTEM=1 must find: for the tests, which skip what else is missing, and for the example.
NEEDED := torch numpy pytest
EXAMPLE := torch numpy transformers tokenizers tyro rich matplotlib rouge_score scipy

PYTEST = $(PY) -m pytest
# xdist is optional, so that SYSTEM=1 needs nothing but torch and pytest.
WORKERS = $(shell $(PY) -c "import xdist" 2>/dev/null && echo "-n 2")

.PHONY: help demo full test test-kernels cpu-kernels check coverage docs bench clean python-version system-packages

help:
	@echo "make demo      forget chosen facts in a small language model, and keep the rest (minutes)"
	@echo "make full      the same with every method and five seeds (an hour)"
	@echo "make test      all tests                    (ARGS=... is handed to pytest)"
	@echo "make test-kernels  the Triton kernels, in its interpreter where there is no GPU"
	@echo "make cpu-kernels  compile the kernels for long rows in host memory (a C++ compiler)"
	@echo "make check     ruff, mypy, documentation with warnings as errors, doctests"
	@echo "make coverage  all tests with the coverage of moopt/"
	@echo "make docs      the documentation, in docs/_build/html/index.html"
	@echo "make bench     the benchmarks in ten minutes, beside TorchJD (ARGS=--full: longer)"
	@echo "make bench BASE=REV  the same cases with the library of another revision"
	@echo "make clean     remove .venv, caches and built documentation (runs/ stays)"
	@echo "Add SYSTEM=1 to use python3 as it is and install nothing."

demo full: NEEDED := $(EXAMPLE)
demo: $(SETUP)
	@$(PY) -m examples.llm_unlearning.run --preset demo $(ARGS)

full: $(SETUP)
	@$(PY) -m examples.llm_unlearning.run --preset full $(ARGS)

test: $(SETUP)
	@$(PYTEST) $(WORKERS) $(ARGS)

test-kernels: NEEDED := torch numpy pytest hypothesis triton
test-kernels: $(KERNELS_SETUP)
	@TRITON_INTERPRET=$(shell $(PY) -c "import torch; print(int(not torch.cuda.is_available()))") \
	    $(PYTEST) tests/kernels/fused tests/benchmarks/test_gpu.py $(WORKERS) $(ARGS)

cpu-kernels: $(SETUP)
	@$(PY) -m moopt.kernels.native

check: $(SETUP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	$(PYTEST) -q --doctest-modules moopt

coverage: $(SETUP)
	@$(PYTEST) $(WORKERS) --cov=moopt --cov-report=term-missing $(ARGS)

docs: $(SETUP)
	@$(PY) -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(BENCH_SETUP)
	@$(PY) -m benchmarks$(if $(BASE),.against $(BASE)) $(ARGS)

clean:
	rm -f moopt/kernels/native/*.so
	rm -rf $(VENV) docs/_build build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	rm -rf .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python-version:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	  echo "moopt needs Python 3.11 or newer, but \`$(PYTHON)\` answers: $$($(PYTHON) -V 2>&1 | tail -n 1)." \
	    "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }

system-packages: python-version
	@missing=$$($(PYTHON) -c "import importlib.util as u, sys; \
	  print(*(name for name in sys.argv[1:] if not u.find_spec(name)))" $(NEEDED)); \
	[ -z "$$missing" ] || { \
	  echo "SYSTEM=1 installs nothing, and \`$(PYTHON)\` lacks: $$missing. Leave SYSTEM=1 out, or name" \
	    "an interpreter that has them: make $(MAKECMDGOALS) SYSTEM=1 PYTHON=/path/to/python" >&2; exit 1; }

# $(VENV)/.installing marks an unfinished environment: an interrupted one is made anew, because
# half-installed packages can look complete to pip. The stamp appears only after a success.
$(INSTALLED): pyproject.toml constraints.txt | python-version
	@if [ -e $(VENV)/.installing ] || ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); mkdir $(VENV); touch $(VENV)/.installing; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	@echo "moopt: installing into $(VENV) (once, one to three minutes) ..."
	@touch $(VENV)/.installing
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
	    -c constraints.txt -e ".[dev]" || { \
	  echo "moopt: the installation failed (see above). Without a network, on a machine that has" \
	    "torch: make $(MAKECMDGOALS) SYSTEM=1" >&2; exit 1; }
	@rm -f $(VENV)/.installing
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	@echo "moopt: installing the peer library that the benchmarks compare with ..."
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
	    -c constraints.txt -e ".[dev,bench]"
	@touch $@

$(KERNELS_INSTALLED): $(INSTALLED)
	@echo "moopt: installing triton, which a CPU build of torch comes without ..."
	@$(VENV)/bin/python -m pip install -qq --no-compile --disable-pip-version-check \
	    -c constraints.txt -e ".[dev,kernels]"
	@touch $@
