# Everything a newcomer needs: `make run` to serve, `make test` to check. Both set up their own Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA_DIR ?= ./data
# What looks at manifests is heavier than all that tests: an environment of its own, made by `make manifests` alone.
TOOLS ?= .venv-manifests
# Two workers for each of CI's two cores: tests of real processes wait for much of their time.
PYTEST_FLAGS ?= -n 4 --dist worksteal --durations 15

.DEFAULT_GOAL := help
.PHONY: help run test collected lint docs format bench crash crash-actions chaos soak gateways fuzz simulate image-test manifests observability setup setup-dev pin clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/run.stamp ## serve on 127.0.0.1:8080 with ./data as the store
	$(BIN)/governors serve --data-dir $(DATA_DIR)

# What pytest makes of the tests' asserts is made once, beside mypy, and not by each of its workers.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/dev.stamp ## lint, then every test that runs on this machine
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint collected
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

collected: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest -n 0 --collect-only -qq >$(VENV)/collected.txt || { cat $(VENV)/collected.txt; exit 1; }

lint: $(VENV)/dev.stamp ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/dev.stamp ## what is generated from the code in docs/, and the dashboards
	$(BIN)/governors machines > docs/machines.md
	$(BIN)/governors config schema > docs/schema/policies.json
	$(BIN)/python deploy/observability/dashboards.py

format: $(VENV)/dev.stamp ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## the benchmarks, each with its peer
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.append
	$(BIN)/python -m benchmarks.verify
	$(BIN)/python -m benchmarks.proofs
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.isolation
	$(BIN)/python -m benchmarks.rollback_power
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.valve_control
	$(BIN)/python -m benchmarks.detect_nab
	$(BIN)/python -m benchmarks.month_of_spend
	$(BIN)/python -m benchmarks.admission
	$(BIN)/python -m benchmarks.rollback_latency
	PYTHONPATH=tests $(BIN)/python -m benchmarks.cloud_cost
	$(BIN)/python -m benchmarks.pubsub
	$(BIN)/python -m benchmarks.pull_throughput

crash: $(VENV)/dev.stamp ## fifty times in a row killed under load; `make test` does it a dozen times
	CRASH_TEST_KILLS=50 $(BIN)/python -m pytest -n 0 --timeout 1200 tests/integration/test_crash.py

crash-actions: $(VENV)/dev.stamp ## ten thousand kills between any two steps of what actions are: CRASHES=10000
	PYTHONPATH=tests $(BIN)/python -m simulation.actions --seed $(SEED) --crashes $(CRASHES)
CRASHES ?= 10000

chaos: $(VENV)/dev.stamp ## real workers under load lose each other, the bucket, Pub/Sub and their lives: CHAOS_RATE=200
	CHAOS=all $(BIN)/python -m pytest -n 0 --timeout 1200 tests/chaos

soak: $(VENV)/dev.stamp ## an hour at 1,000 signals a second, and nothing grows: SOAK_S=600
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(SOAK_S) --json
SOAK_S ?= 3600

gateways: $(VENV)/dev.stamp ## NGINX and Envoy under load for half a minute; `make test` does it for seconds
	GATEWAY_LOAD_S=30 $(BIN)/python -m pytest -n 0 --timeout 1200 tests/integration/test_gateways.py

image-test: $(VENV)/dev.stamp ## build the Dockerfile with buildah on a stand-in base, and run what comes of it (as root)
	IMAGE_TEST=1 $(BIN)/python -m pytest -n 0 --timeout 1800 -s tests/deploy/test_image.py

manifests: $(VENV)/dev.stamp $(TOOLS)/stamp ## what is deployed, under kubernetes-validate --strict and checkov
	MANIFEST_TOOLS=$(TOOLS)/bin $(BIN)/python -m pytest -n 0 --timeout 600 tests/deploy/test_manifests.py tests/deploy/test_manifests_foreign.py
observability: $(VENV)/dev.stamp ## a real Prometheus scrapes three pods, and every panel has something to show
	OBSERVABILITY_TEST=1 $(BIN)/python -m pytest -n 0 --timeout 600 tests/deploy/test_observability.py tests/deploy/test_scraped.py

simulate: $(VENV)/dev.stamp ## simulated schedules, a million of writers, disks and stores: SEED=7 SCHEDULES=1000 CLUSTERS=50
	PYTHONPATH=tests $(BIN)/python -m simulation --seed $(SEED) --schedules $(SCHEDULES)
	PYTHONPATH=tests $(BIN)/python -m simulation --world cluster --seed $(SEED) --schedules $(CLUSTERS)
SEED ?= 1
SCHEDULES ?= 1000000
CLUSTERS ?= 20000

fuzz: $(VENV)/fuzz.stamp ## every decoder under a fuzzer, for FUZZ_S seconds
	PYTHONPATH=tests $(BIN)/python tests/fuzz/decoders.py .fuzz \
	  -max_total_time=$(FUZZ_S) -timeout=10 -rss_limit_mb=1024 -max_len=8192 -artifact_prefix=.fuzz/
FUZZ_S ?= 60

setup: $(VENV)/run.stamp ## the virtual environment that serves
setup-dev: $(VENV)/dev.stamp ## the virtual environment that tests

# What is locked, and nothing else. Compiled afterwards, on every core.
INSTALL := python -m pip install --quiet --no-compile --no-deps
COMPILE := python -m compileall -q -j 0

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) --require-hashes -r requirements/pip.txt

$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/$(INSTALL) --require-hashes -r requirements/run.txt
	$(BIN)/$(INSTALL) --editable .
	$(BIN)/$(COMPILE) $(VENV)/lib src
	touch $@

$(VENV)/dev.stamp: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/$(INSTALL) --require-hashes -r requirements/dev.txt
	$(BIN)/$(INSTALL) --editable .
	$(BIN)/$(COMPILE) $(VENV)/lib src
	touch $@ $(VENV)/run.stamp

$(VENV)/fuzz.stamp: requirements/fuzz.txt $(VENV)/dev.stamp
	$(BIN)/$(INSTALL) --require-hashes -r requirements/fuzz.txt
	touch $@

$(TOOLS)/stamp: requirements/manifests.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/$(INSTALL) --require-hashes -r requirements/pip.txt
	$(TOOLS)/bin/$(INSTALL) --require-hashes -r requirements/manifests.txt
	touch $@

pin: ## resolve the dependencies anew (needs uv)
	uv pip compile pyproject.toml --python-version 3.11 $(PIN_FLAGS) -o requirements/run.txt
	uv pip compile pyproject.toml --group dev --python-version 3.11 $(PIN_FLAGS) -o requirements/dev.txt
	uv pip compile --group pyproject.toml:build --python-version 3.11 $(PIN_FLAGS) -o requirements/build.txt
	uv pip compile --group pyproject.toml:pip --python-version 3.11 $(PIN_FLAGS) -o requirements/pip.txt
	uv pip compile --group pyproject.toml:manifests --python-version 3.11 $(PIN_FLAGS) -o requirements/manifests.txt
	uv pip compile --group pyproject.toml:fuzz --python-version 3.11 $(PIN_FLAGS) -o requirements/fuzz.txt
PIN_FLAGS := --upgrade --universal --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links

clean: ## remove what was built, keep the data
	rm -rf $(VENV) $(TOOLS) .image build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
