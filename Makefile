# Every target sets up .venv by itself; the stamp makes that free when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NEXT := .venv-next
SITE := python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
UV := $(shell command -v uv 2>/dev/null)
ROUNDS ?=

export LITELLM_LOCAL_MODEL_COST_MAP = True

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-next lint format bench docs clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt
ifdef UV
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[dev]'
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
endif
	@touch $@

demo: $(STAMP) ## Real requests through LangChain and LiteLLM, against local providers
	$(BIN)/llmkit demo

test: $(STAMP) lint ## Lint, types and tests with coverage
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term --cov-fail-under=95

test-all: $(STAMP) ## The same on every Python from 3.11 that is installed
	$(BIN)/nox --session tests

# its own packages come first, all others are those of $(VENV)
$(NEXT)/.installed: $(STAMP) constraints-next.txt
	rm -rf $(NEXT)
	$(BIN)/python -m venv --without-pip $(NEXT)
	echo "import site; site.addsitedir('$$($(BIN)/$(SITE))')" > "$$($(NEXT)/bin/$(SITE))/below.pth"
ifdef UV
	$(UV) pip install --quiet --python $(NEXT)/bin/python --no-deps --requirement constraints-next.txt
else
	$(BIN)/python -m pip --python $(NEXT)/bin/python install --quiet --disable-pip-version-check --no-deps --requirement constraints-next.txt
endif
	@touch $@

test-next: $(NEXT)/.installed ## The integrations' tests on the newest LangChain and LiteLLM
	$(NEXT)/bin/python -m pytest -n 2 tests/integrations/langchain tests/integrations/litellm

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]' || true
	@touch $@

bench: $(VENV)/.bench ## Ours and the peers, interleaved, with ratios
	@for bench in benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench $(ROUNDS) || exit 1; done

docs: $(STAMP) ## The documentation as a site, in site/
	$(BIN)/mkdocs build --strict

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(NEXT) .nox site dist build .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
