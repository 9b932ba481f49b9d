PYTHON ?= python3
BIN := .venv/bin
DEMO := engines/built/nano
SOURCES := $(shell find sparsesam_deploy export/recipes -type f -not -name '*.pyc')

.PHONY: demo test lint docs gpu-check clean

demo: .venv/demo
	$(BIN)/sparsesam-export build --model nano --builder tensorrt-rtx --overlay --output $(DEMO)
	@echo "picture: $(DEMO)/overlay.png"

# Memory of large tensors is kept for the next ones: a fifth of the time would go into asking the kernel for it again.
test: .venv/dev
	MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824 OMP_NUM_THREADS=1 \
		$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/: a dead link, a missing anchor or a page that no menu has is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Every check and benchmark that needs a GPU; short tables last, JSON and a plot in docs/results/, named after the GPU.
gpu-check: .venv/dev
	$(BIN)/python -m checks.gpu_check

clean:
	rm -rf .venv engines/built site

.venv/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

.venv/demo: .venv/pip pyproject.toml $(SOURCES)
	test -e .venv/dev || $(BIN)/pip install --quiet '.[all-cpu]'
	touch $@

.venv/dev: .venv/pip pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv/docs: .venv/pip pyproject.toml
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@
