# `make demo` and `make test` work in a fresh clone with nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-long check lint docs docs-check runtime wheel matrix clean

demo: $(VENV)/.installed  ## train on the embedded example and write a report
	$(BIN)/mixfit demo

TESTS := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed-dev  ## run the tests, in as many processes as there are cores
	$(TESTS)

test-long: $(VENV)/.installed-dev  ## run the tests that make test leaves out: more data, seeds and processes
	$(TESTS) -m long

check: lint test  ## everything that CI runs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

RUNTIME := onnxruntime-web-1.30.0.tgz
runtime:  ## put onnxruntime-web into the package, for mixfit export --to html: a wheel built after it holds it, too (npm)
	mkdir -p build src/mixfit/export/onnxruntime_web
	npm pack --silent --pack-destination build onnxruntime-web@1.30.0
	tar -xzf build/$(RUNTIME) -C src/mixfit/export/onnxruntime_web --strip-components 2 $(addprefix package/dist/,ort.wasm.min.js ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm)

wheel: | $(BIN)/python  ## build the wheel, and use it in an empty environment (minutes)
	$(BIN)/python -m benchmarks.check_wheel --keep dist

matrix: | $(BIN)/python  ## every Python here, with the lowest and the newest dependencies (many minutes, 6 GB each)
	$(BIN)/python -m benchmarks.check_matrix

docs: $(VENV)/.installed-docs  ## build the site in build/site, with real reports and the outputs of the notebooks
	$(BIN)/python docs/site/build.py

docs-check: $(VENV)/.installed-docs  ## build the site as strictly, without running its examples (seconds)
	$(BIN)/python docs/site/build.py --check

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mixfit needs Python 3.11 or newer; set PYTHON=..., as in: make PYTHON=python3.12 demo"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) runs build
