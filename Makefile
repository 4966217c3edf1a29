# Every target sets up .venv by itself. Nothing but Python 3.11 to 3.13, git and make has to be there.
#   make test PYTHON=/path/to/python3.12     with another Python than the first that fits
#   make test UV=1                           with uv instead of pip
#   make test UV=1 UV_TORCH_BACKEND=cpu      with PyTorch's CPU build (Linux: 4 GB less to download)

PROFILE ?= quick
LOCK ?= requirements.lock
MINUTES ?= 30
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

ifdef UV
PYTHON ?= uv run --no-project --python ">=3.11,<3.14" python
endif
# A name may exist and not run (pyenv's shims), so each is tried. python3 is the one to complain if none fits.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
  $$python tools/setup_venv.py --check >/dev/null 2>&1 && echo $$python && exit; done; echo python3)

.PHONY: help reproduce test bench gpu lint types lab classroom slides site lock clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   rerun the figures of notebooks/figures.yaml into results/ (PROFILE=quick)"
	@echo "make test        run the tests, a file at a time on each core (ARGS='-k capacity' to choose)"
	@echo "make bench       speed and memory against peers, in about 25 minutes (ARGS='--quick', '--list', '--only NAME')"
	@echo "make gpu         tests, benchmarks and runs of the profile paper on a GPU, for MINUTES=30; send back results/gpu/"
	@echo "make lint        ruff, mypy, and notebooks without outputs"
	@echo "make lab         open JupyterLab on notebooks/"
	@echo "make classroom   write the students' and the solved walkthrough into results/classroom/ (ARGS='--colab URL')"
	@echo "make slides      write the walkthrough as slides for a projector into results/slides/"
	@echo "make site        build the web site from what is committed into results/site/"
	@echo "make lock        write requirements.lock (ARGS='--upgrade-package torch==2.15.0' to move a pin)"
	@echo "make clean       remove .venv, .venv-clarena and caches; results/ and data/ stay"

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) tools/setup_venv.py --lock "$(LOCK)" $(if $(UV),--uv)

reproduce: .venv/.installed
	@$(BIN)/hatlab reproduce --profile $(PROFILE) $(ARGS)

test: .venv/.installed
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

bench: .venv/.installed
	@$(BIN)/python -m benchmarks $(ARGS)

gpu: .venv/.installed
	@$(BIN)/python tools/gpu.py --minutes $(MINUTES) $(ARGS)

lint: .venv/.installed types
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(if $(NOTEBOOKS),$(BIN)/python -m nbstripout --verify $(NOTEBOOKS))

types: .venv/.installed
	@$(BIN)/python -m mypy

lab: .venv/.installed
	@$(BIN)/python -m jupyterlab notebooks

classroom: .venv/.installed
	@$(BIN)/python tools/classroom.py $(ARGS)

slides: .venv/.installed
	@$(BIN)/python -m docs.slides $(ARGS)

site: .venv/.installed
	@$(BIN)/python -m docs $(ARGS)

# Not after an update of .venv: a range that the old pins do not fit would stop it.
lock: $(if $(wildcard $(BIN)/uv*),,.venv/.installed)
	@$(BIN)/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --output-file requirements.lock --quiet $(ARGS)

clean:
	rm -rf .venv .venv-clarena .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find hatlab tests tools benchmarks docs -name __pycache__ -exec rm -rf {} +
