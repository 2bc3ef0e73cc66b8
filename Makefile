# Every target sets up .venv by itself when it is missing; versions are those of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= demo
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread per process: the work is spread over processes.
export OMP_NUM_THREADS := 1

.PHONY: demo test soak lint bench ui

demo: $(VENV)/core
	$(BIN)/dpclip demo --store $(STORE)

test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2

soak: $(VENV)/dev
	$(BIN)/python -m pytest tests/soak -m soak

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks.step_time
	$(BIN)/python -m benchmarks.peak_memory
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.randomness
	$(BIN)/python -m benchmarks.audit_coverage
	$(BIN)/python -m benchmarks.self_test
	$(BIN)/python -m benchmarks.shadow_models

ui: $(VENV)/core
	$(BIN)/dpclip ui --store $(STORE)

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(INSTALL) -e .[dev,speech,translation]
	touch $@
