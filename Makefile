# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# The CPU build is enough for the tests; name another torch to test on a GPU.
TORCH ?= torch==2.13.0

# What is imported is compiled then, once: all of it would take a minute, most of it for nothing. Images of containers
# often set this variable; then each process would compile TensorFlow anew, which takes 15 s.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: venv demo test test-backends test-tensorflow test-jax test-torch test-ptychi test-interop check audit lint docs notebooks clean wheel paper results

venv: .venv/installed
demo: .venv/installed
	$(BIN)/ptycho demo -o demo
# Most of the time goes into tracing and compiling, which one core does: processes side by side, about 2 GB each.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
test: .venv/installed-test
	$(PYTEST)
# The tests of physics, layers, losses and training, which must agree on every backend.
REFINE := $(addprefix tests/refinement/test_,unknowns.py minibatch.py batches.py priors.py)
NUMERICAL := tests/physics tests/network $(REFINE) tests/compat tests/training/test_train.py tests/test_backends.py tests/test_model_factory.py tests/test_devices.py::test_devices_that_are_not_there_are_missed
test-backends: test-tensorflow test-jax test-torch
# PyTorch's threads wait for each other by spinning: those of two processes on two cores took ten times as long.
test-torch test-ptychi: export OMP_NUM_THREADS = 1
test-tensorflow test-jax test-torch: test-%: .venv/installed-backends
	KERAS_BACKEND=$* $(PYTEST) $(NUMERICAL)
# pty-chi computes with PyTorch; `make test` leaves its tests out where only the test extra is installed.
test-ptychi: .venv/installed-backends
	$(PYTEST) tests/reconstruction/test_ptychi.py tests/pipelines/test_compare.py
# Other programs themselves, for the files that they write, without what their windows need.
test-interop: .venv/installed-test
	$(PIP) 'scikit-learn>=1.3' 'tqdm>=4.65' httpx 'pydantic-ai-slim[openai]>=1,<3' colorcet watchdog -e '.[test,microscopy]'
	$(PIP) '$(TORCH)' onnxscript onnxruntime
	$(PIP) 'hyperspy>=2.5' napari npe2 'libertem>=0.16'
	$(PIP) --no-deps 'ptychodus==1.7.0' 'ptylab==0.3.7'
	$(PIP) --no-deps 'py4DSTEM==0.14.18' colorspacious dill mpire gdown pylops scikit-optimize pyaml ncempy beautifulsoup4 soupsieve joblib
	$(PYTEST) tests/formats/test_interop.py tests/compat/test_ptychodus.py tests/interop tests/output/test_onnx_network.py tests/reconstruction/test_other_programs.py
# The pages of docs/ as a site, in site/; a broken link is an error.
docs: .venv/installed-docs
	$(BIN)/mkdocs build --strict --quiet
# The notebooks of docs/ run anew, with PTYCHO_DATA for the measured one, and their pictures kept.
notebooks: .venv/installed-docs
	$(BIN)/python docs/notebooks.py
lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
check: lint test
# The numbers of docs/results.md anew, those that are stale: hours; what was done is not done again.
results: .venv/installed-backends
	PATH="$(abspath $(BIN)):$$PATH" python benchmarks/results.py run
# The paper as a page; needs pandoc (apt-get install pandoc).
paper:
	pandoc paper/paper.md --resource-path paper --citeproc --standalone --fail-if-warnings -o paper/paper.html
# What is released: a wheel and an archive, their descriptions and contents, and the wheel where nothing else is; CI has
# a shorter DEMO.
wheel: .venv/bin/python
	$(PIP) build twine
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m zipfile -l dist/*.whl | grep -c 'ptycho/pretrained/.*keras' | grep -qx 2
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	mkdir -p .venv-wheel/try
	unset PYTHONPATH && cd .venv-wheel/try && ../bin/ptycho --version && ../bin/ptycho demo -o demo $(DEMO)
# Known vulnerabilities of what is installed; asks PyPI, and fails where it cannot.
audit: .venv/installed
	$(PIP) pip-audit
	$(BIN)/pip-audit --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv
.venv/installed: pyproject.toml | .venv/bin/python
	$(PIP) -e .
	touch $@
.venv/installed-test: pyproject.toml | .venv/bin/python
	$(PIP) -e '.[test]'
	touch $@ .venv/installed
.venv/installed-docs: .venv/installed
	$(PIP) -e '.[docs]'
	touch $@
# PyTorch first and named again: the CPU build then satisfies whatever asks for torch, pty-chi's torchvision too.
.venv/installed-backends: .venv/installed-test
	$(PIP) '$(TORCH)'
	$(PIP) '$(TORCH)' -e '.[test,jax,torch,ptychi]'
	touch $@
clean:
	rm -rf .venv .venv-wheel demo dist site
