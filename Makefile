# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# The CPU build is enough for the tests; name another torch to test on a GPU.
TORCH ?= torch==2.13.0

.PHONY: venv demo test test-backends check lint clean

venv: .venv/installed
demo: .venv/installed
	$(BIN)/ptycho demo -o demo
test: .venv/installed-test
	$(BIN)/python -m pytest
test-backends: .venv/installed-backends
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -m "not one_backend"
	KERAS_BACKEND=jax $(BIN)/python -m pytest -m "not one_backend"
	KERAS_BACKEND=torch $(BIN)/python -m pytest -m "not one_backend"
lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
check: lint test

.venv/bin/python:
	$(PYTHON) -m venv .venv
.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@
.venv/installed-test: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ .venv/installed
.venv/installed-backends: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,jax,torch]'
	touch $@
clean:
	rm -rf .venv demo
