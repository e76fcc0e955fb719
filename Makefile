# Every target works from a fresh clone: .venv is made and filled when pyproject.toml is newer than it.
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= 2
SCHEME ?= masking

.DEFAULT_GOAL := help
.PHONY: help demo demo-inprocess demo-aml demo-vertical test test-full lint vectors bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 3; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,examples]'
	# One table in it is read; torch and lightning, which it would bring, are not needed for that.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'ISLP>=0.4'
	@touch $@

demo: $(READY) ## six hospitals and a coordinator as processes over mutual TLS, one is killed; SCHEME=masking, paillier, threshold-paillier or ckks
	$(BIN)/python -m examples.medical_imaging --scheme $(SCHEME)

demo-inprocess: $(READY) ## the same with all parties in one process, two hospitals lost
	$(BIN)/python -m examples.medical_imaging --in-process

demo-aml: $(READY) ## ten banks look for laundering together: alone, federated under Paillier, pooled; tables and pictures
	$(BIN)/python -m examples.aml

demo-vertical: $(READY) ## a bank and an insurer find shared customers, train and score on columns that neither shows; one is killed
	$(BIN)/python -m examples.vertical

test: lint ## lint, then the tests with reduced counts
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -m 'not full'

# Mutants are left to test_the_kill_matrix, which runs each of them and looks at what it patched.
test-full: $(READY) ## every count, notebooks, doc commands, the wheel in an environment of its own
	OMP_NUM_THREADS=1 SECAGG_FULL=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -k 'not _mutant or threat_model'

lint: $(READY) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

vectors: $(READY) ## regenerate tests/vectors
	$(BIN)/python -m tests.vectors.generate

bench: $(READY) ## measure this machine: start-up, the ten lines, then masking beside the limits of docs
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.ten_lines
	$(BIN)/python -m benchmarks.masking

clean: ## remove the environment, caches and builds
	rm -rf .venv build dist demo-output out .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
