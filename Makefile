# `make` sets itself up: stock venv and pip, tested versions, everything inside this folder.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# As given, whatever characters are in it.
override ARCHIVE := $(value ARCHIVE)
export ARCHIVE
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup run photos ladder results benchmark growth notebooks test test-slow torture lint clean

help:  ## this list
	@echo "catsdogs: image classification from a small labelled set of photographs"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY)  ## make .venv and install everything (the other targets do so by themselves)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Expected Python 3.11 or later, found ' + sys.version.split()[0])"
	@echo "Installing TensorFlow and other packages into .venv: a few minutes, 3 GB."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[weights,demo,tensorboard,test]'
	@touch $@

run: $(READY)  ## the complete ladder at a small setting, on sketches if there are no photographs
	@test -e data/dogs-vs-cats/manifest.json || test -e data/sketches/manifest.json || \
		 $(BIN)/python scripts/prepare_data.py --sketches --train 600 --validation 300 --test 600
	@$(BIN)/python benchmarks/ladder.py small

photos: $(READY)  ## prepare the photographs; ARCHIVE=path for a zip file you have already
	$(BIN)/python scripts/prepare_data.py $${ARCHIVE:+--archive "$$ARCHIVE"}

ladder: $(READY)  ## the runs behind the results table, on the photographs (hours; resumes)
	$(BIN)/python benchmarks/ladder.py full --data-dir data/dogs-vs-cats

results: $(READY)  ## add the runs on the photographs to results/, update tables and figures
	$(BIN)/python benchmarks/results.py runs/dogs-vs-cats/*/

benchmark: $(READY)  ## time the machine, the textbook's code and every stage (most of an hour)
	$(BIN)/python benchmarks/benchmark.py --output results/benchmark.json

growth: $(READY)  ## time and memory from 1,000 to 25,000 sketches (half an hour)
	$(BIN)/python benchmarks/growth.py --output results/growth.json

notebooks: $(READY)  ## run the notebooks and save their output
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-slow: $(READY)  ## the other tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

torture: $(READY)  ## many more interruptions, full disks and damaged files than the tests inject
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --torture=results/torture.json

lint: $(READY)  ## ruff, and import-linter for the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

clean:  ## remove .venv; data/ and runs/ stay
	rm -rf .venv
