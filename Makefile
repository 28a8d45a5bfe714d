# make figures | test | book | hashes | lab | bench | clean. The first of them makes .venv and installs into it; needs Python 3.11+.
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
# Compiled once: without its bytecode every kernel, worker and command would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help figures test book hashes lab bench clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,2s/^# //p' Makefile

# All notebooks headless, in order: figures/, and executed copies in data/runs/<run>/notebooks/.
figures: $(INSTALLED)
	$(IN_VENV) notebooks/run.py --preset "$(PRESET)" \
		$(if $(CORPUS),--corpus "$(CORPUS)") $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)") \
		$(if $(PAIRED),-p paired_ratio "$(PAIRED)")

# All tests, a file at a time on each of up to four cores, and beside them every notebook on preset ci, in a folder of
# its own that starts empty; their output comes last.
test: $(INSTALLED)
	rm -rf data/test-runs && mkdir -p data/test-runs
	LGDEA_PRESET=ci LGDEA_RUNS=data/test-runs OMP_NUM_THREADS=1 $(IN_VENV) -m pytest --nbmake \
		--nbmake-kernel=python3 --nbmake-timeout=900 notebooks > data/test-runs/notebooks.log 2>&1 & notebooks=$$!; \
	OMP_WAIT_POLICY=passive $(IN_VENV) -m pytest -p no:nbmake -n auto --maxprocesses 4 --dist loadfile --durations 60 --durations-min 3; tests=$$?; \
	wait $$notebooks || tests=$$?; cat data/test-runs/notebooks.log; exit $$tests

# docs/ and the executed notebooks of a run as a book, in data/book/: of RUN, else of lgdea-demo-0 as `make figures`
# leaves it, else of a run of preset ci.
# What they show of a corpus stays in data/: the copies are beside the pages only while these are built.
book: BOOK_RUN = $(or $(RUN),$(if $(wildcard data/runs/lgdea-demo-0/notebooks/07*),lgdea-demo-0,lgdea-ci-0))
book: $(INSTALLED)
	test -d data/runs/$(BOOK_RUN)/notebooks || LGDEA_RUNS=data/runs $(IN_VENV) notebooks/run.py --preset ci --run $(BOOK_RUN)
	rm -rf docs/notebooks/run data/book
	cp -r data/runs/$(BOOK_RUN)/notebooks docs/notebooks/run
	$(IN_VENV) -m sphinx -W --keep-going -q -b html docs data/book; status=$$?; rm -rf docs/notebooks/run; exit $$status
	@echo "data/book/index.html"

# sha256 of what preset ci trains (five methods), measures and extracts, against the committed ones: code that was only
# moved leaves them alone. They are of an AMD EPYC without bfloat16 units, so of float32, one thread: elsewhere compare two
# checkouts.
hashes: $(INSTALLED)
	rm -rf data/hash-runs
	set -e; for method in lgdea clip gloria asg medklip; do \
		numbers=01,02,03,04; if [ $$method = lgdea ]; then numbers=$$numbers,05; fi; \
		LGDEA_RUNS=data/hash-runs OMP_NUM_THREADS=1 $(IN_VENV) notebooks/run.py --preset ci --run $$method \
			-p method $$method --notebooks $$numbers; done
	cd data/hash-runs && sha256sum */model/model.safetensors lgdea/metrics.json lgdea/evidence.parquet | tee hashes.sha256
	cd data/hash-runs && sha256sum -c ../../tests/hashes.sha256

# JupyterLab on working copies of the notebooks in data/lab/: what it saves never comes near git.
lab: $(INSTALLED)
	$(IN_VENV) notebooks/lab.py

# Speed beside a plain way or a peer: benchmarks/results.csv.
bench: $(INSTALLED)
	$(IN_VENV) -m pip install --disable-pip-version-check -q -r benchmarks/requirements.txt -c constraints.txt
	$(IN_VENV) benchmarks/results.py

# What make and the tools made; runs and corpora in data/ stay.
clean:
	rm -rf $(VENV) data/test-runs data/hash-runs data/book docs/notebooks/run build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -f figures/*.png figures/*.pdf figures/tables/.*.lock
	find lgdea_core tests notebooks benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(IN_VENV) -m pip install --disable-pip-version-check --no-deps -e .
	touch $@
