# make test: the test suite. make demo: the main job on the embedded model. make bench: timings. Each sets up .venv by itself.
PYTHON ?= python3
VESTIGE = .venv/bin/vestige
export TOKENIZERS_PARALLELISM = false

.PHONY: test demo bench lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

test: .venv/installed
	HF_HUB_OFFLINE=1 .venv/bin/python -m pytest -q tests

demo: .venv/installed
	HF_HUB_OFFLINE=1 $(VESTIGE) run experiment=demo runtime.stale=recompute
	$(VESTIGE) table
	$(VESTIGE) gallery

bench: .venv/installed
	.venv/bin/python -m benchmarks.closed_form
	.venv/bin/python -m benchmarks.attack_batching

lint: .venv/installed
	.venv/bin/ruff check .
