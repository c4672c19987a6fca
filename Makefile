.DEFAULT_GOAL := help
.PHONY: help setup demo down test faults check docs bench images update newest clean
SHELL := /bin/bash

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# What scripts/setup decided about images; read when a recipe runs, as setup may just have written it.
base = $$(sed -n 's/^BASE_IMAGE=//p' compose/.env 2>/dev/null)
with_base = base="$(base)"; export BASE_IMAGE="$${BASE_IMAGE:-$$base}"; [ -n "$$BASE_IMAGE" ] || unset BASE_IMAGE;

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## whatever is missing on this machine: .venv, Docker, Compose, images
	@scripts/setup

demo: setup ## bookinfo in the mesh
	@$(with_base) dockermesh up -f samples/bookinfo/compose.yaml

down: ## removes the demo and the mesh, with their volumes
	@$(with_base) dockermesh down -f samples/bookinfo/compose.yaml -v

test: setup ## every layer of tests; TESTS="tests/unit -k name" runs some, ENGINE=sid on Debian's newest engine
	@scripts/setup sshd
	@$(with_base) scripts/test $(TESTS)

faults: ## breaks a running mesh in every way, and counts failed requests; SIZE=ci takes two minutes, K=consul runs some, O=json
	@scripts/setup venv consul
	@python tests/faults/run.py --size "$(or $(SIZE),full)" -k "$(K)" -o "$(or $(O),table)"

check: ## ruff, mypy, import contracts
	@scripts/setup venv
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

docs: ## the documentation's site, in build/docs; a broken link fails
	@scripts/setup venv
	@sphinx-build -W --keep-going -q -b html docs build/docs && echo "build/docs/index.html"

bench: setup ## measures, side by side in one run
	@$(with_base) for run in bench/*/run.py; do python "$$run" || exit 1; done

images: ## the images of the mesh; PUSH=registry/prefix pushes them, too
	@scripts/setup venv engine compose images
	@$(with_base) [ -z "$(PUSH)" ] || dockermesh images push "$(PUSH)"

update: ## renews the lock files: the newest of everything in range
	@scripts/setup venv
	@scripts/update

newest: ## unit, golden and property tests with the newest of everything; tells, and never fails
	@scripts/setup venv
	@scripts/newest

clean: ## removes what was built and downloaded; containers and images stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis compose/.env samples/bookinfo/.env
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
