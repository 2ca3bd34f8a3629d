# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs; the second time is quick.
.PHONY: crash soak docs mutants oidc migration demo test check lint unit bench setup gateway proto lock snapshots clean help
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONWARNINGS :=
export PYTHONDONTWRITEBYTECODE :=  # compiled modules are what makes hundreds of process starts quick
UNIT := tests/unit tests/machines tests/store tests/engine

help: ## this list
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## .venv, exactly as requirements.lock says
	@tools/setup.sh

gateway: ## the real gateway, from npm, into .cache/gateway
	@tools/gateway.sh

oidc: ## an OpenID provider, from npm, into .cache/oidc: the tests of login sign in at it
	@tools/oidc.sh

demo: setup gateway ## from nothing to a real gateway that answers an MCP client, and back
	@$(PY) -m tools.demo

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

unit: setup
	@tools/postgres.sh
	$(PY) -m pytest -q -n 2 -m "not long" $(UNIT)

check: lint unit ## lint, types, import rules, unit tests: under two minutes

test: setup gateway oidc lint ## everything, on the real parts; a third worker, for many tests wait for a lease or a gateway
	@tools/chromium.sh
	@tools/postgres.sh
	@tools/shells.sh
	$(PY) -m pytest -q -n 3 --dist loadgroup --durations=8

crash: setup gateway ## kill -9 at every fault point, on both databases: docs/crash.md
	MCPG_TEST_CRASH=all $(PY) -m pytest -q -n 2 --durations=8 tests/crash

soak: setup gateway ## five hundred operations against control planes that are killed, frozen and cut off
	$(PY) -m tools.soak
	$(PY) -m tools.soak --database postgres --replicas 3

bench: setup gateway ## ratios against references of the same run, as a table and JSON lines
	@tools/postgres.sh
	$(PY) -m benchmarks

proto: setup ## generate mcpg/agent/pb from protos/
	@tools/proto.sh

migration: setup ## a migration from the changed models
	@mkdir -p .cache
	$(PY) -m tortoise -c mcpg.store.config.DEVELOP makemigrations

lock: ## resolve requirements.lock anew from pyproject.toml
	@test -x .venv/bin/uv || { python3 -m venv .venv && .venv/bin/pip install -q uv; }
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --group dev pyproject.toml -o requirements.lock

snapshots: setup ## write snapshots/ anew; read the diff
	$(PY) -m pytest -q -n 2 --snapshot-update

docs: setup ## docs/cli.md and docs/cli-schema.json from the command table
	$(PY) -m tools.cli_docs
	$(PY) -m tools.crash_doc

mutants: setup ## docs/checker.md: what the model checker finds without each move, guard and rule; a minute
	$(PY) -m tools.checker_docs

clean: ## remove what make made
	rm -rf .venv .cache build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
