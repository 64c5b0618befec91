# The menu: make help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONSAFEPATH := 1

.DEFAULT_GOAL := help
.PHONY: help install bench tables perf test test-fast test-slurm format lint types check dist clean perf-gpu

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"mmbench needs Python 3.11 or 3.12; found {v[0]}.{v[1]}; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

install: $(VENV)/.installed ## make .venv and install mmbench into it

bench: install ## run the embedded benchmark and write its tables
	$(BIN)/mmbench run --methods all --datasets embedded --seeds 3
	$(MAKE) --no-print-directory tables

tables: install ## write the tables from records alone
	$(BIN)/mmbench report

test: $(VENV)/.tested lint types ## run everything: lint, types, all tests on the CPU
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(VENV)/.tested ## run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow and not install and not slurm"

test-slurm: $(VENV)/.tested ## run the tests on a private SLURM cluster (root; installs Debian's SLURM)
	$(BIN)/python -m pytest -m slurm

PERF := --into docs/performance.md
perf: $(VENV)/.tested ## measure speed on this CPU into docs/performance.md (half an hour, machine idle)
	$(BIN)/python benchmarks/step_time.py --device cpu --batch 64 --methods targets --steps 1 --warmup 1 --rounds 12 --added $(PERF)
	$(BIN)/python benchmarks/step_time.py --device cpu --batch 8 --warmup 1 --rounds 6 $(PERF)
	$(BIN)/python benchmarks/cell_overhead.py --rounds 9 $(PERF)
	$(BIN)/python benchmarks/grid_busy.py $(PERF)
	$(BIN)/python benchmarks/side_by_side.py --device cpu --workers 1,2 --rounds 3 $(PERF)
	$(BIN)/python benchmarks/side_by_side.py --device cpu --workers 1,2 --rounds 3 --cells 2 --epochs 1 --encoder image=resnet18 --encoder audio=resnet18 $(PERF)
	$(BIN)/python benchmarks/options.py --device cpu --rounds 5 $(PERF)
	$(BIN)/python benchmarks/memory.py --device cpu --batch 2,8 $(PERF)

# What matters most comes first, as a GPU may be at hand for minutes only.
PERF_GPU := "step_profile.py" \
	"epoch_time.py --methods concat,iprm --compile" \
	"step_time.py --precision bf16 --methods targets --compile" \
	"epoch_time.py --methods all --samples 640" \
	"options.py --rounds 3" \
	"memory.py --batch 16,64 --methods concat,iprm,mmpareto,agm" \
	"side_by_side.py --workers 1,2,4,8 --rounds 2" \
	"side_by_side.py --workers 1,2,4,8 --rounds 1 --encoder image=resnet18 --encoder audio=resnet18"
perf-gpu: $(VENV)/.tested ## measure speed on a GPU into docs/performance.md; one that fails does not stop the rest
	@failed=; for each in $(PERF_GPU); do \
		echo "benchmarks/$$each"; \
		$(BIN)/python benchmarks/$$each --device cuda $(PERF) || failed="$$failed  $$each\n"; \
	done; \
	test -z "$$failed" || { printf "failed:\n$$failed" >&2; exit 1; }

format: $(VENV)/.tested ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.tested ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested ## check types
	$(BIN)/mypy mmbench
	$(BIN)/mypy methods datasets benchmarks tools

check: test ## what a reviewer runs

dist: $(VENV)/.tested ## build the wheel
	$(BIN)/python -m build --wheel

clean: ## remove the environment and build files, not results
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
