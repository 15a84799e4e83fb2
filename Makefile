# make test: all tests (25 minutes on two cores at most). make test-fast: those that are quick (3 minutes). make lint: style and types.
# make contracts: the contract tests of all plugins with three seeds.
# make demo: the main job on the embedded model. make bench: timings, and how often intervals hold. make mutants: 40 small faults in the
# code, and how many of them the tests catch (an hour or more). Each sets up .venv by itself.
PYTHON ?= python3
VESTIGE = .venv/bin/vestige
export TOKENIZERS_PARALLELISM = false

.PHONY: test test-fast test-slow contracts demo bench mutants lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

# One test process per core, one thread each; the tests of a file stay together, since they share what was expensive to make.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(WORKERS) --dist loadfile tests

test: .venv/installed
	$(PYTEST)

test-fast: .venv/installed
	$(PYTEST) -m "not slow"

# Every plugin on a tiny model of every family, with three seeds (make test: one seed).
contracts: .venv/installed
	VESTIGE_SEEDS=3 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(WORKERS) tests/test_contracts.py

test-slow: .venv/installed
	$(PYTEST) -m slow --durations=40

# Two workers with half of the cores each: on two cores 14 % faster at drawing than one worker with both.
HALF = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$(( cores > 1 ? cores / 2 : 1 )))
DEMO = HF_HUB_OFFLINE=1 $(VESTIGE) run experiment=demo runtime.stale=recompute runtime.threads=$(HALF)

demo: .venv/installed
	$(DEMO) concept=dog & dog=$$!; $(DEMO) concept=pixel_art; style=$$?; wait $$dog && exit $$style
	$(VESTIGE) table
	$(VESTIGE) gallery

bench: .venv/installed
	.venv/bin/python -m benchmarks.closed_form
	.venv/bin/python -m benchmarks.attack_batching
	.venv/bin/python -m benchmarks.memory --out results/bench/memory.md
	.venv/bin/python -m benchmarks.files --out results/bench/files.md
	.venv/bin/python -m benchmarks.coverage --out results/bench/coverage.md
	.venv/bin/python -m benchmarks.numerics

mutants: .venv/installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m benchmarks.mutants --count 40 --out results/mutants.json

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
