# Everything a newcomer needs: `make demo` and `make test` set up their own .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-all check bench docs lock clean field-wheel

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements.lock
	@command -v uv >/dev/null || $(PYTHON) -m uv --version >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --user uv \
	  || { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv; }
	@uv=$$(command -v uv || ([ -x .uv/bin/uv ] && echo .uv/bin/uv) || echo "$(PYTHON) -m uv"); set -e; \
	  [ -x $(BIN)/python ] || $$uv venv --quiet --python $(PYTHON) .venv; \
	  echo "installing the locked dependencies into .venv"; \
	  $$uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock; \
	  $$uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/boxatlas demo

# Up to four test files at a time, each with one thread.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --dist loadfile \
  -n $$($(BIN)/python -c "import os; print(min(os.cpu_count() or 1, 4))")

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	$(BIN)/python -m benchmarks

# The site, into site/: figures are drawn by the code as it stands.
docs: setup
	$(BIN)/python -m docs.make

lock:
	$$(command -v uv || echo "$(PYTHON) -m uv") pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --all-extras --group dev pyproject.toml -o requirements.lock

# The second distribution: the field's weights and what was measured of them, into dist/.
field-wheel:
	$$(command -v uv || echo "$(PYTHON) -m uv") build --quiet --wheel --out-dir dist field

clean:
	rm -rf .venv .uv .pytest_cache .ruff_cache .hypothesis dist build site
