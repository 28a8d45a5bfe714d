# make figures | test | lab | bench | clean. The first of them makes .venv and installs into it; needs Python 3.11+.
# A real corpus: make figures CORPUS=openi DATA=/path/to/corpora PAIRED=0.05   (DATA: one sub-folder per corpus)

PRESET ?= demo
CORPUS ?=
DATA ?=
PAIRED ?=
RUN ?=
# The pinned versions were chosen on 3.11, so that one comes first.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

VENV := .venv
INSTALLED := $(VENV)/.installed
IN_VENV := $(VENV)/bin/python

.PHONY: help figures test lab bench clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,2s/^# //p' Makefile

# All notebooks headless, in order: figures/, and executed copies in data/runs/<run>/notebooks/.
figures: $(INSTALLED)
	$(IN_VENV) notebooks/run.py --preset "$(PRESET)" \
		$(if $(CORPUS),--corpus "$(CORPUS)") $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)") \
		$(if $(PAIRED),-p paired_ratio "$(PAIRED)")

# All tests, a file at a time on each of up to four cores, then every notebook on preset ci, in a folder of its own
# that starts empty.
test: $(INSTALLED)
	$(IN_VENV) -m pytest -n auto --maxprocesses 4 --dist loadfile
	rm -rf data/test-runs
	LGDEA_PRESET=ci LGDEA_RUNS=data/test-runs $(IN_VENV) -m pytest --nbmake --nbmake-kernel=python3 \
		--nbmake-timeout=600 notebooks

lab: $(INSTALLED)
	$(VENV)/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks

bench: $(INSTALLED)
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(IN_VENV) "$$script"; done

# What make and the tools made; runs and corpora in data/ stay.
clean:
	rm -rf $(VENV) data/test-runs *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -f figures/*.png figures/*.pdf figures/tables/.*.lock
	find lgdea_core tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(IN_VENV) -m pip install --disable-pip-version-check --no-deps -e .
	touch $@
