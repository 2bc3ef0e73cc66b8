# Every target sets up .venv by itself when it is missing; versions are those of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= demo
VIEW ?= runs/view
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One thread per process: the work is spread over processes.
export OMP_NUM_THREADS := 1

.PHONY: demo test soak lint bench ui chromium screenshot

demo: $(VENV)/core
	$(BIN)/dpclip demo --store $(STORE)

test: $(VENV)/dev chromium
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
	$(BIN)/python -m benchmarks.bucketing
	$(BIN)/python -m benchmarks.randomness
	$(BIN)/python -m benchmarks.audit_coverage
	$(BIN)/python -m benchmarks.self_test
	$(BIN)/python -m benchmarks.shadow_models

ui: $(VENV)/core
	$(BIN)/dpclip ui --store $(STORE)

# The picture of MLflow in the README, of 21 runs.
screenshot: $(VENV)/dev chromium
	$(BIN)/dpclip audit --task digits --grouping none,sample,microbatch:4,core:8 --noise 0,1 --seeds 3 --store $(VIEW)
	$(BIN)/python -m benchmarks.view $(VIEW) reports/published/compare/view.png

# Debian's, where that asks for no password; without one, tests that need a browser are skipped.
chromium:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi; \
	run=$$( [ "$$(id -u)" = 0 ] && echo env || echo sudo -n ); \
	command -v apt-get >/dev/null && $$run true 2>/dev/null \
	&& $$run apt-get update -qq \
	&& $$run DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver \
	|| echo "Chromium was not installed: tests that need a browser are skipped."

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(INSTALL) -e .[dev,speech,translation]
	touch $@
