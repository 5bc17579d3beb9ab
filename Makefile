# The two commands of the README, and what CI runs. Everything happens in a virtual environment of its own.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: demo test lint clean clean-cache

demo: $(VENV)/.train  ## train LeNet on handwritten digits; leaves pictures and parameters in demo/
	mkdir -p demo
	$(RUN)/pytensor-convnet train --model lenet --data digits --shift 2 --epochs 8 \
		--save demo/lenet-digits.npz --plots demo

test: $(VENV)/.test  ## run the whole suite, or with TESTS=... what pytest is to run
	$(RUN)/python -m pytest $(TESTS)

lint: $(VENV)/.test  ## ruff and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean-cache:  ## forget compiled kernels
	find src -name '*.nb[ic]' -delete

clean: clean-cache
	rm -rf $(VENV) demo build *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
