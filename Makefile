# What a developer does here. Needs python3 (3.11 or newer), make and git; the rest comes into .venv.
# `make` alone lists the targets.

PYTHON ?= python3
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
CYCLONEDX_VERSION := 7.5.0
BIN := .venv/bin
STAMP := .venv/.stamp
ARGS ?=

# The stamp holds the folder that .venv was made for: scripts in a copied or moved one name the old place.
ifneq ($(shell test -x $(BIN)/python && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# Without a home that can be written there is no place for caches.
ifeq ($(shell test -w "$$HOME" && echo yes),)
export UV_NO_CACHE := 1
export PIP_NO_CACHE_DIR := 1
endif

.DEFAULT_GOAL := help
.PHONY: help setup up test test-all check test-broker test-browser browser screenshots fuzz faults bench docs \
	readme golden lock audit format clean lint

help:
	@echo "make TARGET [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Make .venv from requirements.lock, and fetch Kafka's jars; the second time there is nothing to do
	@$(BIN)/python -c 'import sys; sys.excepthook = lambda _, error, __: print("make:", error, file=sys.stderr); \
		from candlewick.kafka import jars; jars.resolve()' || \
		echo "make: the rest is ready; the jars come with the first command that needs them" >&2

up: $(STAMP) ## Run everything on this machine; ARGS go to `candlewick up`, such as ARGS='--feed live'
	@exec $(BIN)/candlewick up $(ARGS)

test: lint ## Format, lint, types, and the tests, those on a real Kafka too, but for the slowest
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: lint ## All tests
	$(BIN)/python -m pytest $(ARGS)

check: lint ## Format, lint, types and the pure tests, in under a minute
	$(BIN)/python -m pytest -q -m "not broker and not browser" $(ARGS)

test-broker: $(STAMP) ## Only the tests that start a real Kafka
	$(BIN)/python -m pytest -m broker $(ARGS)

fuzz: $(STAMP) ## Ask the API ten minutes long for what its own description does and does not allow; FUZZ_SEED=42 repeats it
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/python -m pytest -s tests/clients/test_fuzz.py $(ARGS)

test-browser: $(STAMP) ## Only the tests of the dashboard, in a real Chromium
	$(BIN)/python -m pytest -m browser $(ARGS)

browser: ## Install a Chromium for the tests of the dashboard; where there is no apt, say what to do
	@for name in chromium chromium-browser google-chrome; do \
		if command -v $$name >/dev/null; then echo "make: $$name is there"; exit 0; fi; done; \
	if ! command -v apt-get >/dev/null; then \
		echo "make: install Chromium or Chrome as this system does it, or name one: CANDLEWICK_CHROMIUM=/its/path make test" >&2; \
		exit 1; fi; \
	if test "`id -u`" = 0; then sudo=; else sudo=sudo; fi; \
	$$sudo apt-get update -q && $$sudo apt-get install -q -y --no-install-recommends chromium fonts-inter

screenshots: $(STAMP) ## Make the README's pictures of the dashboard anew, in docs/
	SCREENSHOTS=1 $(BIN)/python -m pytest tests/browser/test_screenshots.py $(ARGS)

faults: $(STAMP) ## Do every failure to the pipeline, and count; ARGS='--only F14 --seed 42' repeats one
	$(BIN)/python -m faults $(ARGS)

bench: $(STAMP) ## Timings of this machine
	$(BIN)/python -m bench $(ARGS)

docs: $(STAMP) ## Build the documentation into build/site; ARGS=serve shows it on 127.0.0.1:8000 while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build --strict --quiet)

readme: $(STAMP) ## Rewrite the tables of settings (README.md) and of metrics (docs/operations.md) from the code
	$(BIN)/python tests/test_readme.py
	$(BIN)/python tests/test_operations.py

golden: $(STAMP) ## Rewrite the expected values of the golden frames, and the pictures; review the difference
	$(BIN)/python tests/producers/test_golden.py
	PYTHONPATH=tests $(BIN)/python tests/terminal/test_picture.py

lock: $(STAMP) ## Write requirements.lock anew; ARGS=--upgrade takes newer versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --custom-compile-command "make lock" --group dev $(ARGS) pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --custom-compile-command "make lock" --group clients $(ARGS) -o tests/clients/requirements.lock

# Both tools in environments of their own: what checks the lock must not change it. --strict, because a package of which
# the advisory service knows nothing is passed over otherwise, and all of them may be. The bill of materials needs nobody.
AUDITED := build/requirements.txt
audit: $(STAMP) ## Ask for advisories against what we ship, and write its bill of materials to build/sbom.json
	@mkdir -p build
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-annotate --no-header --constraints requirements.lock pyproject.toml -o $(AUDITED)
	@PYTHONWARNINGS=ignore $(BIN)/uv tool run --quiet --from cyclonedx-bom==$(CYCLONEDX_VERSION) cyclonedx-py \
		requirements --pyproject pyproject.toml --output-reproducible --of JSON -o build/sbom.json $(AUDITED)
	@echo "build/sbom.json: `grep -c '"purl":' build/sbom.json` packages"
	@$(BIN)/uv tool run --quiet --from pip-audit==$(PIP_AUDIT_VERSION) pip-audit --strict --disable-pip --require-hashes \
		--progress-spinner off -r $(AUDITED) >build/audit.txt 2>&1 && status=0 || status=$$?; \
	if grep -qE '^(No known|Found [0-9]+ known)' build/audit.txt; then cat build/audit.txt; else \
		echo "make: nothing is known of advisories, the service did not answer; build/audit.txt ends with:" >&2; \
		tail -1 build/audit.txt >&2; status=2; fi; \
	exit $$status

format: $(STAMP) ## Format the code, and mend what the linter can
	$(BIN)/ruff check --fix --exit-zero --quiet
	$(BIN)/ruff format

clean: ## Remove .venv and caches; data stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# --python: an activated environment of another project must not be the one that is changed.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: Candlewick needs Python 3.11 or newer, and $(PYTHON) is: `$(PYTHON) --version 2>&1`." >&2; \
		echo "make: name a newer one, as in: make PYTHON=python3.13 setup" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		package=`$(PYTHON) -c 'import sys; print("python3.%d-venv" % sys.version_info[1])'`; \
		echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install $$package" >&2; exit 1; }
	@echo "making .venv from requirements.lock"
	@set -e; \
	if ! test -x $(BIN)/python || ! test -x $(BIN)/uv || { test -e $(STAMP) && test "`cat $(STAMP)`" != "$(CURDIR)"; }; \
		then $(PYTHON) -m venv --clear .venv; fi; \
	rm -f $(STAMP); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $(STAMP)
