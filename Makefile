# Everything from a clean machine with Python >= 3.11 and make:
#   make demo    set up .venv, run the main job on this host
#   make test    set up .venv, run the tests
#   make test-all    the same with PyTorch and ExecuTorch, and the tests that take minutes each

PYTHON ?= $(firstword $(foreach each,python3.13 python3.12 python3.11 python3,$(if $(shell $(each) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo yes),$(each))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TORCH := $(VENV)/installed-torch
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Two files at a time: a test mostly waits for its workers.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-exhaustive lint format clean bench validate

demo: $(STAMP)
	$(BIN)/enginepick demo

test: $(STAMP)
	$(PYTEST) -m "not exhaustive"

test-exhaustive: $(TORCH)
	$(PYTEST) -m exhaustive

test-all: test-exhaustive test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/startup.py

validate: $(STAMP)
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/traces.py results/traces
	$(BIN)/python benchmarks/validate.py results/traces/onnxruntime.jsonl
	$(BIN)/python benchmarks/native.py

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 with venv is needed (Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt 'pip>=25.1'
	$(PIP) -c constraints.txt -e '.[cpu,detection,tensorrt-rtx,litert]' --group dev
	$(PIP) --no-deps rapidocr==3.10.0
	$(PIP) --no-deps --ignore-requires-python onnx2tf==2.6.9
	@touch $(STAMP)

# Some 3 GB. Where an index has PyTorch for CUDA only, see docs/environments.md.
$(TORCH): $(STAMP)
	$(PIP) -c constraints.txt -e '.[executorch,litert-torch]'
	@touch $(TORCH)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
