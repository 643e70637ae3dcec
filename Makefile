# Two commands are enough: `make demo` shows tagger at work, `make test` proves it.
# Everything lives in .venv; the stamps in there make a second call quick. Needs Python 3.11 or newer.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Each test worker starts its own S3 server, so more than 4 gain little.
TEST_WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -lt 4 ] && echo $$n || echo 4)
PYTEST := $(BIN)/pytest -q --durations=10

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench docs screenshots soak constraints clean

help:  ## Say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.setup  ## Make the environment in .venv

demo: $(VENV)/.setup  ## Tag sample photos and say where the results are
	@$(BIN)/tagger demo

# Tests that start a Ray cluster need the cores for themselves, so they run after the others, one by one.
test: $(VENV)/.test  ## Run every test but the soak
	@status=0; \
	$(PYTEST) -n $(TEST_WORKERS) --dist loadgroup -m "not ray and not soak" $(ARGS) || status=$$?; \
	$(PYTEST) -m "ray and not soak" $(ARGS) || { code=$$?; [ $$code -eq 5 ] || status=$$code; }; \
	exit $$status

check: $(VENV)/.dev  ## Lint, formatting, types, and which folder imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test  ## Measure the speed against the limit and against peers
	$(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.setup  ## Write the CLI reference
	$(BIN)/python -m tagger.cli.reference > docs/cli.md

screenshots: $(VENV)/.test  ## Make the pictures of docs/marketing.md with the browser tests
	@mkdir -p .cache/screenshots
	PAGE_SCREENSHOTS=$(CURDIR)/.cache/screenshots $(PYTEST) tests/browser/test_browser_products.py -k "accessible and wide"
	$(BIN)/python tests/browser/pictures_of_docs.py .cache/screenshots docs/images

soak: $(VENV)/.test  ## Run the long tests
	$(PYTEST) -m soak --timeout 7200 $(ARGS)

constraints: $(VENV)/.dev $(VENV)/.test  ## Write the installed versions to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
		| grep -E '^[A-Za-z0-9._-]+==[^+]+$$' | LC_ALL=C sort -f; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt

clean:  ## Remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "tagger needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -1);" \
			"name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3-venv first" >&2; \
		exit 2; }
	@touch $@

$(VENV)/.setup: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing tagger into $(VENV) (about 2 minutes and 7 GB the first time)" >&2
	@$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.setup
	@echo "installing what the tests need" >&2
	@$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.setup
	@echo "installing what the checks need" >&2
	@$(PIP) -e '.[dev]'
	@touch $@
