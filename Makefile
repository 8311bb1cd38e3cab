# Two commands for a new machine: 'make demo' and 'make test'.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WHEEL := build/wheel

.PHONY: demo test test-slow test-timed speed ray-test slurm-test slurm-packages lint format types wheel unit docs clean

demo: $(INSTALLED)
	$(BIN)/bench run --method mclstexp,shuffled,coordinates,mean,depth --dataset demo --preset quick
	@echo "Compare the runs in MLflow's pages with: $(BIN)/bench ui"

# Types and the wheel are checked on the core that tests leave idle while they wait.
test: lint
	$(MAKE) --no-print-directory --jobs=2 unit types wheel

# A failed install leaves no marker behind, so that the next call tries again.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Imports are checked where methods and datasets are part of the package: in the wheel.
lint: $(INSTALLED) $(WHEEL)/.built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build && PYTHONPATH=wheel ../$(BIN)/lint-imports ../pyproject.toml --no-cache

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What a user installs, outside the checkout: the folder mapping is real only in the wheel.
$(WHEEL)/.built: $(INSTALLED) $(shell find bench methods datasets -name '*.py' -o -name '*.yaml' -o -name '*.jinja' -o -name '*.gmt') pyproject.toml
	rm -rf build && mkdir -p build
	$(BIN)/python -m build --wheel --no-isolation --outdir build/dist . > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	$(BIN)/python -m pip install --quiet --no-deps --target $(WHEEL) build/dist/*.whl
	touch $@

types: $(WHEEL)/.built
	MYPYPATH=$(WHEEL) $(BIN)/mypy --package bench

wheel: $(WHEEL)/.built
	cd build && PYTHONPATH=wheel ../$(BIN)/python -c "import bench, pathlib; assert pathlib.Path(bench.__file__).resolve().is_relative_to(pathlib.Path('wheel').resolve()), bench.__file__"
	@cd build && export PYTHONPATH=wheel SPOTBENCH_CACHE=cache && { ../$(BIN)/python -m bench list && \
	    ../$(BIN)/python -m bench run --method mean,depth --dataset demo --tracking none --results results; \
	} > wheel-run.log 2>&1 || { cat wheel-run.log; exit 1; }
	@echo "The wheel lists its methods and runs on the embedded data."

# Sources are compiled once, not by each of the processes that tests start.
COMPILE := $(BIN)/python -m compileall -q bench methods datasets

# A worker a core and one more, as tests wait for processes of their own for a fifth of the time;
# each on one thread: threads that wait for one another cost more than they give.
WORKERS ?= $(shell expr $$($(PYTHON) -c 'import os; print(os.cpu_count())') + 1)
unit: $(INSTALLED)
	$(COMPILE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not timed" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)
	$(COMPILE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Needs root for the packages; without them these tests are skipped.
slurm-test: $(INSTALLED) slurm-packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/execute/test_slurm*.py tests/tune/test_slurm*.py

slurm-packages:
	command -v sbatch || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes slurm-wlm munge; }

test-timed: $(INSTALLED)
	$(BIN)/python -m pytest -m timed

# Harness against hardware: make speed ARGS="--method stnet"; ARGS=--help lists the options.
ARGS ?=
speed: $(INSTALLED)
	@$(BIN)/python -m benchmarks.speed $(ARGS)

# Ray is large and needed by few, so that it is installed for its tests alone.
ray-test: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/execute/test_ray*.py tests/execute/test_parcels.py

# Links, references and examples of the pages are checked too: a warning is an error.
$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

clean:
	rm -rf docs/_build docs/_generated docs/reference/generated build .pytest_cache .mypy_cache .ruff_cache .hypothesis
