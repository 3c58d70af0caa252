# `make run` starts the service, `make test` runs the tests, `make check` is what CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# faiss-gpu where an NVIDIA driver answers, faiss-cpu elsewhere; override with EXTRA=cpu or EXTRA=gpu.
EXTRA ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# Tests run in as many processes as there are cores, at most 4 (each takes up to 1 GB), of one
# thread each: together they then use every core, and none waits for another.
WORKERS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); [ $$cores -gt 4 ] && echo 4 || echo $$cores)
TEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: run test check format clean

run: $(VENV)/.installed-$(EXTRA)
	$(BIN)/cooc serve

test: $(VENV)/.installed-$(EXTRA)-dev
	$(TEST)

check: $(VENV)/.installed-$(EXTRA)-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m tests.audit
	$(TEST)

format: $(VENV)/.installed-$(EXTRA)-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; run 'make PYTHON=python3.12 $(MAKECMDGOALS)' with yours"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-$(EXTRA): pyproject.toml | $(VENV)/bin/pip
	@echo "installing into $(VENV) ($(EXTRA)); this takes a minute the first time"
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRA)]'
	@touch $@

$(VENV)/.installed-$(EXTRA)-dev: pyproject.toml | $(VENV)/bin/pip
	@echo "installing into $(VENV) ($(EXTRA), dev); this takes a minute the first time"
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),dev]'
	@touch $@ $(VENV)/.installed-$(EXTRA)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
