# `make demo` sets everything up and fits the built-in scene; `make test` sets everything up and runs the tests.

VENV := .venv
BIN := $(VENV)/bin
EXTRAS := mesh,metrics,video
ROOMS := app recon render uncertainty kernels datasets
NATIVE := $(wildcard kernels/native/*/*)

# Every pip below installs the tested versions, also the pip that `python -m build` starts.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# `datasets`, `app` and `build` in this folder must not shadow packages of those names.
export PYTHONSAFEPATH := 1

.PHONY: demo test install lint format wheel sanitize clean help
.NOTPARALLEL:

demo: install  ## set up, then make, fit and score the built-in scene
	$(BIN)/lumigraph demo

test: install  ## set up, then run the tests
	$(BIN)/pytest

install: $(VENV)/.installed  ## set up .venv with the lumigraph command

lint: install  ## check style, types, formatting and the native module's stub
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/clang-format --dry-run --Werror $(filter %.cpp %.h,$(NATIVE))
	git diff --exit-code -- kernels/_native.pyi

format: install  ## rewrite Python and C++ in the house's format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(filter %.cpp %.h,$(NATIVE))

wheel: install  ## build dist/: an sdist, and a wheel from that sdist
	rm -rf dist
	$(BIN)/python -m build

sanitize: install  ## test the kernels with sanitizers and with a build by Clang, apart from the usual build
	LUMIGRAPH_CLANG=1 .ci/system-packages
	.ci/sanitize

clean:  ## remove build products and caches, but neither .venv nor runs
	rm -rf build dist $(VENV)/.installed .pytest_cache .ruff_cache
	find $(ROOMS) tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile | expand -t 10

# The virtual environment, with the tools that build and check.
$(VENV)/.tools: pyproject.toml constraints.txt
	.ci/system-packages
	python=$$(.ci/python) && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

# Lumigraph itself, editable. The build tools stay in .venv, so that CMake rebuilds only changed files.
$(VENV)/.installed: $(VENV)/.tools kernels/CMakeLists.txt $(NATIVE)
	$(BIN)/python -m pip install --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@
