.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK ?=

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: $(VENV)/.installed  ## .venv with everything pinned, and Kafka from Maven Central

$(VENV)/.installed: requirements/dev.txt pyproject.toml pom.xml
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
		uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements/dev.txt && \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . ; \
	else \
		$(PYTHON) -m venv $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . ; \
	fi
	$(BIN)/python -m stream.local.servers
	@touch $@

install-airflow: .venv-airflow/.installed  ## .venv-airflow: Airflow and what its tasks need, without Faust

.venv-airflow/.installed: requirements/airflow.txt pyproject.toml
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(@D) && \
		uv pip install --quiet --compile-bytecode --python $(@D)/bin/python -r $< && \
		uv pip install --quiet --python $(@D)/bin/python --no-deps --no-build-isolation --editable . ; \
	else \
		$(PYTHON) -m venv $(@D) && \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< && \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . ; \
	fi
	@touch $@

install-mlflow: .venv-mlflow/.installed  ## .venv-mlflow: the tracking server, 600 MB; a test then asks a real one

check: install  ## format, lint, types, import directions
	$(BIN)/ruff format --check stream dags tests examples bench docs deploy
	$(BIN)/ruff check stream dags tests examples bench docs deploy
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check install-airflow  ## everything: unit, contract, end to end and fault tests
	$(BIN)/python -m pytest

test-long: install install-airflow  ## what takes minutes each: Airflow killed in each stage, people who let models in or not
	$(BIN)/python -m pytest -m long

test-quick: install  ## what needs no server
	$(BIN)/python -m pytest -m "not integration and not faults and not airflow and not long"

demo: install install-airflow  ## the whole loop on a real Kafka, Redis and Airflow, here (4 minutes)
	$(BIN)/driftloop demo --airflow

demo-quick: install  ## stream the payments example through a real Kafka and Redis, without Airflow
	$(BIN)/driftloop demo

bench: install  ## figures, one JSON line each; QUICK=1 for a short run
	$(BIN)/python -m bench.run $(if $(QUICK),--quick)

bench-peers: install .venv-bench-quix/.installed .venv-bench-bytewax/.installed  ## beside Quix Streams and Bytewax (Python 3.11 or 3.12)
	$(BIN)/python -m bench.run --only peers $(if $(QUICK),--quick)

.venv-%/.installed: requirements/%.txt
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python $(PYTHON) $(@D) && \
		uv pip install --quiet --compile-bytecode --python $(@D)/bin/python -r $< ; \
	else \
		$(PYTHON) -m venv $(@D) && \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $< ; \
	fi
	@touch $@

dashboard: install  ## write deploy/grafana/dashboard.json anew
	$(BIN)/python deploy/grafana/make_dashboard.py

screenshots: install  ## docs/images/ anew, from a running stack; needs Chromium
	PYTHONPATH=. $(BIN)/python docs/screenshots.py

schemas: install  ## write schemas/ anew from stream/messages.py
	$(BIN)/python -m stream.contracts

reference: install schemas  ## write docs/reference/ anew from the code
	PYTHONPATH=. $(BIN)/python docs/make_reference.py

clean:  ## remove what was installed and what the local stack stored
	rm -rf $(VENV) .venv-airflow .venv-mlflow .venv-bench-quix .venv-bench-bytewax .driftloop

.PHONY: help install install-airflow install-mlflow check test test-quick test-long demo demo-quick bench bench-peers dashboard screenshots schemas reference clean
