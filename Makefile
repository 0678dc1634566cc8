# Two commands: `make book` builds the book, `make test` checks it and the package. `make help` lists the rest.
PY     ?= python3
PRESET ?= $(or $(CAMLIB_PRESET),quick)
V      := .venv
B      := $(V)/bin
HTML   := _build/html

export CAMLIB_PRESET := $(PRESET)
# uv does not compile to bytecode by itself, and every notebook's kernel would compile torch again.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV
# A kernel called python3 in the user's home must not take the place of ours.
export JUPYTER_PREFER_ENV_PATH := 1
# Tests and notebooks run as several processes; one thread each is fastest, and repeatable.
SINGLE := OMP_NUM_THREADS=1
COMPILE := $(B)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header

.NOTPARALLEL:
.PHONY: help setup book execute html test lint format unit pages course test-page test-oracles test-course test-versions test-ray bench lock address version clean

help:
	@echo 'make book          set up, execute the notebooks, build the HTML'
	@echo 'make test          lint, unit tests, notebooks, HTML, checks of the pages'
	@echo 'make test-page     checks of every page in a browser (Chromium; CHROMIUM=/path/to/it)'
	@echo 'make test-oracles  comparisons with other libraries (installs them)'
	@echo 'make course        add the grader of the course kit (python -m course)'
	@echo 'make test-course   the course kit, with its grader'
	@echo 'make test-versions the wheel with the oldest declared versions, and with those Colab ships'
	@echo 'make test-ray      a plan on a local Ray cluster (installs Ray)'
	@echo 'make bench         speed and memory, as ratios'
	@echo 'make format        format the code, strip outputs from the notebooks'
	@echo 'make lock          compile requirements*.txt anew'
	@echo 'make address URL=https://github.com/…   write the public address wherever it is needed'
	@echo 'make version VERSION=0.2.0   the same of the version, before its tag is made'
	@echo 'make clean         remove what was built, keep .venv'
	@echo 'PRESET=quick|short|paper chooses sizes and lengths; PY=python3.12 the Python of .venv'

setup: $(V)/.done
$(V)/.done: requirements.txt pyproject.toml
	@$(PY) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make setup PY=python3.12")'
	test -x $(B)/python || $(PY) -m venv $(V)
	$(B)/python -m pip install -q --disable-pip-version-check "$$(grep '^uv==' requirements.txt)"
	$(B)/uv pip sync -q --python $(B)/python requirements.txt
	$(B)/uv pip install -q --python $(B)/python --no-deps --editable .
	touch $@

# The HTML is built from a copy of book/ whose notebooks are executed; only what changed is executed again.
execute: setup
	$(SINGLE) $(B)/python book/_tools/execute.py build/$(PRESET)

html: execute
	rm -rf _build
	$(B)/jupyter-book build build/$(PRESET)/book --config _config.yml --path-output . -W --keep-going -q

book: html
	@echo "The book is built. Open $(CURDIR)/$(HTML)/index.html"

test: lint unit html pages

lint: setup
	$(B)/ruff check
	$(B)/ruff format --check
	find book -name '*.ipynb' -exec $(B)/nbstripout --verify --keep-id --extra-keys "metadata.language_info cell.metadata.execution" {} +

format: setup
	$(B)/ruff check --fix
	$(B)/ruff format
	find book -name '*.ipynb' -exec $(B)/nbstripout --keep-id --extra-keys "metadata.language_info cell.metadata.execution" {} +

unit: setup
	$(SINGLE) $(B)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

pages: setup
	$(B)/python -m pytest tests/pages

test-page: html
	$(B)/python -m pytest -n auto --maxprocesses 4 tests/browser

test-oracles: $(V)/.oracles
	$(SINGLE) $(B)/python -m pytest tests/oracles
$(V)/.oracles: $(V)/.done requirements-oracles.txt
	$(B)/uv pip install -q --python $(B)/python --no-deps -r requirements-oracles.txt
	touch $@

course: $(V)/.course
$(V)/.course: $(V)/.done requirements-course.txt
	$(B)/uv pip install -q --python $(B)/python --no-deps -r requirements-course.txt
	touch $@

test-course: course
	$(SINGLE) $(B)/python -m pytest tests/grader

# Each environment takes some 6 GB below build/versions while it is used.
test-versions: setup
	$(B)/python tests/versions.py oldest colab

test-ray: $(V)/.ray
	$(SINGLE) $(B)/python -m pytest tests/cluster
$(V)/.ray: $(V)/.done requirements-ray.txt
	$(B)/uv pip install -q --python $(B)/python --no-deps -r requirements-ray.txt
	touch $@

bench: setup
	@set -e; for f in $(filter-out benchmarks/timing.py,$(wildcard benchmarks/*.py)); do echo "== $$f"; $(B)/python $$f; done

lock: setup
	$(COMPILE) pyproject.toml --group dev --group book --group page -o requirements.txt
	$(COMPILE) --constraint requirements.txt --group oracles -o requirements-oracles.txt
	$(COMPILE) --constraint requirements.txt --group course -o requirements-course.txt
	$(COMPILE) --constraint requirements.txt pyproject.toml --extra ray -o requirements-ray.txt

address: setup
	$(B)/python book/_tools/address.py address "$(URL)"

version: setup
	$(B)/python book/_tools/address.py version "$(VERSION)"

clean:
	rm -rf build _build
