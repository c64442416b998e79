# Commands of the lab; `make` alone lists them. Everything runs in .venv, which `make setup` fills from environments/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo lab test check format bench faults screenshots relock audit

NOTEBOOK ?= notebooks/01_compare.ipynb
ARGS ?=
SEED ?= 1
COUNT ?= 20
# JupyterLab asks root to say that it is meant: in a container there is often nobody else.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

help: ## list these commands
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## install everything into .venv (nothing to do the second time)
	@bash environments/setup.sh

demo: setup ## launch real workers, compare aggregated with disaggregated, print the verdict
	@.venv/bin/labkit run "$(NOTEBOOK)" $(ARGS)

lab: setup ## open JupyterLab on the notebooks
	@LABKIT_RESULTS="$(CURDIR)/results" .venv/bin/jupyter lab --ServerApp.ip=127.0.0.1 $(AS_ROOT) notebooks $(ARGS)

test: check ## check, then every test, real workers included
	@.venv/bin/python -m pytest $(ARGS)

check: setup ## ruff, mypy --strict and the import rules
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup ## let ruff mend what it can
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: setup ## every benchmark of tests/bench/, tables to results/bench/: make bench ARGS="--install" adds the peers
	@for file in $$(grep -l '^def main' tests/bench/*.py | grep -v mock_server); do .venv/bin/python -m tests.bench.$$(basename $$file .py) $(ARGS); done

faults: setup ## hurt running experiments and judge what is left; docs/reliability.md: make faults SEED=3 COUNT=220
	@.venv/bin/python -m tests.faults --seed $(SEED) --count $(COUNT) $(ARGS)

screenshots: setup ## pictures of the live lab for docs/images, from a real run in JupyterLab and Chromium
	@.venv/bin/python docs/screenshots.py $(ARGS)

audit: setup ## known vulnerabilities of the locked versions; an open one needs a reason in environments/accepted.toml
	@.venv/bin/python environments/audit.py $(ARGS)

relock: setup ## resolve environments/*.in again (ARGS=--upgrade for newer versions)
	@bash environments/lock.sh $(ARGS)
