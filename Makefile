# SPDX-License-Identifier: GPL-3.0-or-later
# make demo   builds a small guest disk with a real Debian kernel and runs domward on it
# make test   lint, types and all tests
# Each does its own set-up, on Debian 12 or 13 with nothing but the base system, as root or with sudo.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
MARKERS ?= not xen and not bench
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := domward.protocol domward.supervisor domward.helpers
# As root through sudo, the tests still must know that they run under CI, and where to keep what they download.
AS_ROOT := $(SUDO) env $(if $(CI),CI=$(CI)) $(if $(DOMWARD_CACHE),DOMWARD_CACHE=$(DOMWARD_CACHE)) $(if $(DOMWARD_XENLAB),DOMWARD_XENLAB=$(DOMWARD_XENLAB))

.NOTPARALLEL:
.PHONY: trace help demo test check lint types man-check bench xen deb rpm set-up-demo set-up-test clean

help:
	@sed -n '3,5s/^# //p' Makefile
	@echo 'make lint   ruff, mypy and the man pages; make bench   the speed table; make xen   the main job under a real Xen'
	@echo 'make deb    the Debian package, in build/deb; make rpm   the RPM, in build/rpm'
	@echo 'make clean  removes what was built'

demo: set-up-demo $(BIN)/domward
	@$(AS_ROOT) $(BIN)/python packaging/demo.py

test: set-up-test lint
	@$(AS_ROOT) $(BIN)/coverage erase
	@$(AS_ROOT) $(BIN)/coverage run -m pytest -q -m "$(MARKERS)" $(PYTEST_ARGS)

lint: set-up-test $(BIN)/.dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy $(foreach package,$(PACKAGES),-p $(package)) | sed '/^Success/d'; exit $${PIPESTATUS[0]}
	@packaging/man/check

bench: set-up-test $(BIN)/.dev
	@$(AS_ROOT) $(BIN)/python -m pytest -q -s -m bench tests/bench $(PYTEST_ARGS)

xen: set-up-test $(BIN)/.dev
	@packaging/install-dependencies lab
	@$(AS_ROOT) $(BIN)/python -m pytest -q -m xen tests/xen $(PYTEST_ARGS)

deb:
	@packaging/install-dependencies deb
	@packaging/build-deb

rpm:
	@packaging/install-dependencies rpm
	@packaging/build-rpm

# Each launcher goes on under strace: some ten times slower. These go through what helpers do; of programs, only
# tests/system/test_program_policy_in_use.py goes through all, with a trace of its own.
TRACED := $(addprefix tests/system/test_,program_pygrub.py program_runs.py program_disks.py bootloader_operation.py \
  cli_interactive.py reader_disks.py reader_file_systems.py row_23_28_ptys.py row_27_datacopier.py)
trace: set-up-test $(BIN)/.dev
	@$(AS_ROOT) $(BIN)/python -m pytest -q --trace-calls $(TRACED) $(PYTEST_ARGS)

set-up-demo:
	@packaging/install-dependencies demo

set-up-test:
	@packaging/install-dependencies test

# An editable install: the program of this very tree, with its dependencies, in a virtual environment of its own.
$(BIN)/domward: pyproject.toml
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --use-pep517 --editable .
	@touch $@

$(BIN)/.dev: pyproject.toml $(BIN)/domward
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --use-pep517 --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
