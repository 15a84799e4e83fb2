# make test: the test suite. make demo: the main job on the embedded model. make bench: timings, and how often intervals hold. make
# mutants: 40 small faults in the code, and how many of them the tests catch (an hour or more). Each sets up .venv by itself.
PYTHON ?= python3
VESTIGE = .venv/bin/vestige
export TOKENIZERS_PARALLELISM = false

.PHONY: test demo bench mutants lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

test: .venv/installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -q tests

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
	.venv/bin/python -m benchmarks.coverage --out results/bench/coverage.md

mutants: .venv/installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m benchmarks.mutants --count 40 --out results/mutants.json

lint: .venv/installed
	.venv/bin/ruff check .
