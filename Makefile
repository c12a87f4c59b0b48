# `make` sets itself up: stock venv and pip, tested versions, nothing outside this folder.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# As it was given, whatever characters are in it.
override ARCHIVE := $(value ARCHIVE)
export ARCHIVE

.DEFAULT_GOAL := help
.PHONY: help setup run photos ladder results benchmark growth notebooks test torture lint clean

help:  ## this list
	@echo "catsdogs: image classification from a small labelled set of photographs"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY)  ## make .venv and install everything (the other targets do it by themselves)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed, this is ' + sys.version.split()[0] if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[weights,export,demo,tensorboard,test]'
	@touch $@

run: $(READY)  ## the whole ladder at a small setting, on drawings if there are no photographs
	@test -e data/dogs-vs-cats/manifest.json || test -e data/sketches/manifest.json || \
		 $(BIN)/python scripts/prepare_data.py --sketches
	$(BIN)/python benchmarks/run_ladder.py --small

photos: $(READY)  ## prepare the real photographs; ARCHIVE=path for a zip you have already
	$(BIN)/python scripts/prepare_data.py $${ARCHIVE:+--archive "$$ARCHIVE"}

ladder: $(READY)  ## the full runs on the photographs, as in the README's table (hours; resumes)
	$(BIN)/python benchmarks/run_ladder.py --data-dir data/dogs-vs-cats

results: $(READY)  ## put the runs on the photographs into results/ and the README's table
	$(BIN)/python benchmarks/update_results.py runs/dogs-vs-cats/*/

benchmark: $(READY)  ## the machine, the book's recipe and the stages, timed (most of an hour)
	$(BIN)/python benchmarks/run_benchmark.py --output results/benchmark.json

growth: $(READY)  ## time and memory from 1,000 to 25,000 drawings
	$(BIN)/python benchmarks/measure_growth.py --output results/growth.json

notebooks: $(READY)  ## run the notebooks and save what they show
	$(BIN)/python scripts/run_notebooks.py notebooks/*.ipynb

test: $(READY)  ## the tests, two files of them at a time
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

torture: $(READY)  ## kills, full disks, hostile files: far more of them than the tests inject
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --torture=results/torture.json

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove .venv; data/ and runs/ stay
	rm -rf .venv
