# Every verb sets up what it needs; the second time that takes no time. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
FILE ?= manifests/samples/01-sensors/pipeline.yaml
ARGS ?=
REGISTRY ?=
VENV := .venv
BIN := $(VENV)/bin
PROJECTS := . services/producer services/processor services/sink cli operator
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --progress-bar off

.PHONY: help
help: ## List the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: run
run: .setup/run ## Run a Pipeline on this machine: make run [FILE=pipeline.yaml] [ARGS="--records 100000"]
	@$(BIN)/forebay run $(FILE) $(ARGS)

.PHONY: test
test: .setup/dev ## Run all tests that need no cluster, against a real Kafka and PostgreSQL
	@$(BIN)/python -m pytest -n 3 --dist loadfile tests/unit tests/kafka

.PHONY: unit
unit: .setup/dev ## Run the tests without IO
	@$(BIN)/python -m pytest tests/unit

.PHONY: faults
faults: .setup/dev ## Injure the processor for real (kill -9, stopped brokers, full disks ...): the set of 10 minutes
	@$(BIN)/python -m pytest -n 2 --dist load --maxschedchunk 1 tests/faults -m "not long"

.PHONY: faults-all
faults-all: .setup/dev ## All faults, long cases at full length
	@$(BIN)/python -m pytest -n 4 --dist load --maxschedchunk 1 tests/faults

.PHONY: bench
bench: .setup/dev ## Measure the processor beside the client's floor, a naive loop, Quix Streams and Kafka Streams
	@$(BIN)/python benchmarks/run.py

.PHONY: bench-quick
bench-quick: .setup/dev ## The first table of it, in a few minutes
	@$(BIN)/python benchmarks/run.py --quick

.PHONY: simulate
simulate: .setup/simulate ## Compare scaling policies on the traces in benchmarks/traces: make simulate [ARGS="--plot DIR"]
	@$(BIN)/forebay simulate $(patsubst %,--trace %,$(sort $(wildcard benchmarks/traces/*.csv))) $(ARGS)

.PHONY: cluster
cluster: ## Start a local Kubernetes with kind, on Docker or Podman; prints its kubeconfig
	@$(PYTHON) hack/cluster/cluster.py up

.PHONY: cluster-down
cluster-down: ## Remove that cluster and every trace of it
	@$(PYTHON) hack/cluster/cluster.py down

.PHONY: node-image
node-image: ## Build kind's node image from Go modules and Debian packages (20 minutes, once)
	@$(PYTHON) hack/cluster/cluster.py node-image

.PHONY: images
images: .setup/dev ## Build the images and load them into the local cluster, or ARGS="--registry R --push"
	@$(BIN)/python hack/build_images.py $(ARGS)

.PHONY: charts
charts: .setup/dev ## Lint, render and check the charts (helm and kubeconform are built once, from Go modules)
	@PATH="$$($(PYTHON) hack/cluster/cluster.py tools):$$PATH" $(BIN)/python -m pytest tests/charts

# A cluster of your own reads the images from a registry: make images ARGS="--registry R --push", then make e2e REGISTRY=R.
IN_CLUSTER = eval "$$($(PYTHON) hack/cluster/cluster.py env)" && PATH="$$($(PYTHON) hack/cluster/cluster.py tools):$$PATH" && \
	surroundings="$$($(PYTHON) hack/cluster/cluster.py surroundings)" && \
	FOREBAY_SURROUNDINGS="$$surroundings" FOREBAY_REGISTRY=$(REGISTRY) $(BIN)/python -m pytest tests/cluster --durations 0

.PHONY: e2e
e2e: .setup/dev cluster $(if $(REGISTRY),,images) ## Install, kill, scale, upgrade the sensors pipeline in the cluster: the set of 15 minutes
	@$(IN_CLUSTER) -m "not long"

.PHONY: e2e-all
e2e-all: .setup/dev cluster $(if $(REGISTRY),,images) ## The same, and long cases at full length
	@$(IN_CLUSTER)

.PHONY: check
check: .setup/dev ## Lint, format, types, import layers, generated files
	@$(BIN)/ruff check --output-format concise . || { echo "mend: make format"; exit 1; }
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check . ; echo "mend: make format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python hack/generate.py --check

.PHONY: format
format: .setup/dev ## Format the code and mend what the linter can
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

.PHONY: generate
generate: .setup/dev ## Generate the CRD and the chart's schema from the models
	@$(BIN)/python hack/generate.py

.PHONY: lock
lock: .setup/dev ## Pin the dependencies of requirements/*.in anew, with hashes
	@$(INSTALL) uv
	@for set in cli simulate dev producer processor sink operator build reload bench; do $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate requirements/$$set.in -o requirements/$$set.txt; done

.PHONY: clean
clean: ## Remove the virtual environment and all caches in the clone; Kafka's cache outside it stays
	@rm -rf $(VENV) .setup .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment: made once, brought up to date when a pinned set or a project file changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "forebay needs Python 3.11 or newer; found: $$($(PYTHON) --version 2>&1). Name one: make PYTHON=python3.12"; exit 1; }
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is incomplete; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.setup/run: requirements/cli.txt $(PROJECTS:%=%/pyproject.toml) | $(BIN)/python
	@echo "installing pinned packages (once; about 150 MB)"
	@$(INSTALL) --require-hashes -r requirements/cli.txt
	@$(INSTALL) --no-deps --no-build-isolation $(PROJECTS:%=-e %)
	@$(BIN)/python -m forebay_cli.embedded_kafka install
	@mkdir -p .setup && touch $@

.setup/simulate: requirements/simulate.txt .setup/run
	@echo "installing pinned packages of the simulator (once; 35 MB)"
	@$(INSTALL) --require-hashes -r requirements/simulate.txt
	@mkdir -p .setup && touch $@

.setup/dev: requirements/dev.txt .setup/run
	@echo "installing pinned test tools (once)"
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@mkdir -p .setup && touch $@
