# Every target sets up .venv by itself. Nothing but Python 3.11 to 3.13, git and make has to be there.
#   make test PYTHON=/path/to/python3.12     with another Python than the first that fits
#   make test UV=1                           with uv instead of pip
#   make test UV=1 UV_TORCH_BACKEND=cpu      with PyTorch's CPU build (Linux: 4 GB less to download)
#   make test VENV=.venv-other               in another environment, made if it is not there

PROFILE ?= quick
LOCK ?= requirements.lock
MINUTES ?= 30
PYTHONS ?= python3.11 python3.12 python3.13
VENV ?= .venv
export VENV
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

ifdef UV
PYTHON ?= uv run --no-project --python ">=3.11,<3.14" python
endif
# A name may exist and not run (pyenv's shims), so each is tried. python3 is the one to complain if none fits.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
  $$python tools/setup_venv.py --check >/dev/null 2>&1 && echo $$python && exit; done; echo python3)

.PHONY: help reproduce test test-lowest test-matrix bench gpu lint types lab classroom slides playground site article lock clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   rerun the figures of notebooks/figures.yaml into results/ (PROFILE=quick)"
	@echo "make test        run the tests, a file at a time on each core (ARGS='-k capacity' to choose)"
	@echo "make test-lowest the tests with the lowest versions that pyproject.toml allows, on Python 3.11"
	@echo "make test-matrix make test with each of PYTHONS=\"$(PYTHONS)\" that is installed, then test-lowest"
	@echo "make bench       speed and memory against peers, in about 25 minutes (ARGS='--quick', '--list', '--only NAME')"
	@echo "make gpu         tests, benchmarks and runs of the profile paper on a GPU, for MINUTES=30; send back results/gpu/"
	@echo "make lint        ruff, mypy, and notebooks without outputs"
	@echo "make lab         open JupyterLab on notebooks/"
	@echo "make classroom   write the students' and the solved walkthrough into results/classroom/ (ARGS='--colab URL')"
	@echo "make slides      write the walkthrough as slides for a projector into results/slides/"
	@echo "make playground  write one page to try HAT in, results/playground/playground.html, which opens by double click"
	@echo "make site        build the web site from what is committed into results/site/"
	@echo "make article     write the reproduction report results/article/article.pdf from what is committed"
	@echo "make lock        write requirements.lock (ARGS='--upgrade-package torch==2.15.0' to move a pin)"
	@echo "make clean       remove .venv, .venv-* and caches; results/ and data/ stay"

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) tools/setup_venv.py --lock "$(LOCK)" $(if $(UV),--uv)

reproduce: $(VENV)/.installed
	@$(BIN)/hatlab reproduce --profile $(PROFILE) $(ARGS)

test: $(VENV)/.installed
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

# uv alone resolves to the lowest versions, and .venv has it.
test-lowest: $(VENV)/.installed
	@PATH="$(abspath $(BIN)):$$PATH" UV_RESOLUTION=lowest-direct \
	  $(MAKE) test VENV=.venv-lowest PYTHON=$(firstword $(PYTHONS)) UV=1 LOCK=

test-matrix: $(VENV)/.installed
	@failed=; for python in $(PYTHONS); do \
	  if $$python tools/setup_venv.py --check >/dev/null 2>&1; then \
	    $(MAKE) test VENV=.venv-$$(basename $$python) PYTHON=$$python || failed="$$failed $$python"; \
	  else echo "$$python is not installed: left out"; fi; \
	done; \
	$(MAKE) test-lowest || failed="$$failed lowest"; \
	if [ -n "$$failed" ]; then echo "failed with:$$failed"; exit 1; fi

bench: $(VENV)/.installed
	@$(BIN)/python -m benchmarks $(ARGS)

gpu: $(VENV)/.installed
	@$(BIN)/python tools/gpu.py --minutes $(MINUTES) $(ARGS)

lint: $(VENV)/.installed types
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(if $(NOTEBOOKS),$(BIN)/python -m nbstripout --verify $(NOTEBOOKS))

types: $(VENV)/.installed
	@$(BIN)/python -m mypy

lab: $(VENV)/.installed
	@$(BIN)/python -m jupyterlab notebooks

classroom: $(VENV)/.installed
	@$(BIN)/python tools/classroom.py $(ARGS)

slides: $(VENV)/.installed
	@$(BIN)/python -m docs.slides $(ARGS)

playground: $(VENV)/.installed
	@$(BIN)/python -m docs.playground $(ARGS)

site: $(VENV)/.installed
	@$(BIN)/python -m docs $(ARGS)

article: $(VENV)/.installed
	@$(BIN)/python tools/article.py

# Not after an update of .venv: a range that the old pins do not fit would stop it.
# Not mlflow and trackio: they hold Pillow and Arrow to older releases than those that draw the figures.
lock: $(if $(wildcard $(BIN)/uv*),,$(VENV)/.installed)
	@$(BIN)/python -m uv pip compile pyproject.toml --universal --python-version 3.11 \
	  $(foreach extra,notebooks docs dev notify tensorboard,--extra $(extra)) \
	  --output-file requirements.lock --quiet $(ARGS)

clean:
	rm -rf .venv .venv-* .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find hatlab tests tools benchmarks docs -name __pycache__ -exec rm -rf {} +
