# make dev    a virtual environment with everything that development needs
# make lint   style and types
# make test   every test: needs a package index, podman, skopeo, umoci and mmdebstrap
# make quick  the tests that need none of these
# make docs   writes the --help blocks anew, and checks the documents

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_OPTIONS ?=
# The tests of a file share what is costly to start, and run in one process. Files come in the order of their names, so
# that the quick ones, the unit tests, come last. By itself, xdist takes files of few tests last, and some of these are
# the longest. With one process more than there are cores, all take a sixth less time, and tests with limits of
# time have less room.
PROCESSES ?= auto
PYTEST := $(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: dev lint format test quick docs benchmark clean

dev: $(VENV)/.made

# The group is passed by file name, which pip knows how to read since 25.1.
$(VENV)/.made: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[server]' --group dev
	touch $@

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests benchmarks tools

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: dev
	$(PYTEST) $(PYTEST_OPTIONS)

quick: dev
	$(PYTEST) -m 'not online and not container' $(PYTEST_OPTIONS)

docs: dev
	MLENV_REWRITE_DOCS=1 $(BIN)/pytest --quiet tests/test_docs.py

benchmark: dev
	$(BIN)/python -m benchmarks build
	$(BIN)/python -m benchmarks start

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
