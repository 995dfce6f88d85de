# Two commands matter: `make run` serves a relay, `make test` runs every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# How many processes run tests at the same time. Most tests wait for programs they have started.
JOBS ?= 2
STAMP := $(VENV)/.installed
GENERATED := app/orly/pb/.generated
LOCK := packaging/requirements.lock
BUILD_LOCK := packaging/build.lock
COMPILE := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options --output-file -

.PHONY: setup run launcher test lint types unit bench docs proto lock image interop clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(STAMP) $(GENERATED) ## make .venv with the project and its tools in it

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

$(GENERATED): $(STAMP) $(shell find proto -mindepth 1)
	$(BIN)/python setup.py -q build_proto
	@touch $(GENERATED)

run: setup ## serve the relay on port 3334
	@$(BIN)/orly

launcher: setup ## the same, as several processes
	@$(BIN)/orly-launcher

test: lint types unit ## every check: format, lint, types, all tests

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/pytest --numprocesses $(JOBS)

bench: setup ## compare with other relays; takes a few minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m tests.bench $(BENCH)

docs: setup ## write docs/settings.md and the README table from the settings table
	$(BIN)/python -m orly.cli.docs

proto: $(STAMP) ## generate app/orly/pb from proto/
	$(BIN)/python setup.py -q build_proto
	@touch $(GENERATED)

lock: $(STAMP) ## write packaging/*.lock: what the relay runs on and is built with, with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-tools>=7.6'
	@echo '# Everything the relay runs on, with hashes. Written by `make lock`; do not edit.' >$(LOCK).new
	$(COMPILE) pyproject.toml >>$(LOCK).new
	@echo '# What the wheel is built with, with hashes. Written by `make lock`; do not edit.' >$(BUILD_LOCK).new
	$(COMPILE) --only-build-deps --all-build-deps --allow-unsafe pyproject.toml >>$(BUILD_LOCK).new
	@mv $(LOCK).new $(LOCK) && mv $(BUILD_LOCK).new $(BUILD_LOCK)

image: ## build the container image
	docker build -t orly . \
	  --build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
	  --build-arg REVISION="$$(git rev-parse HEAD)" --build-arg CREATED="$$(date -u +%FT%TZ)"

interop: ## sync with strfry in containers and compare; needs `make image`
	docker compose -f compose/interop.yml up --exit-code-from runner; code=$$?; \
	  docker compose -f compose/interop.yml down --volumes; exit $$code

clean: ## remove what setup and the tests made
	rm -rf $(VENV) build dist app/*.egg-info app/orly/pb .mypy_cache .ruff_cache .hypothesis
