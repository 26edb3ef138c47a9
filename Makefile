# SPDX-License-Identifier: Apache-2.0
# Targets that work in a fresh clone with nothing but git, make and python3: each sets up what it needs.

PREFIX ?= /usr/local
DESTDIR ?=
PYTHON ?=
GPU ?=
ONLY ?=
TORCH ?=

venv := .venv/bin
sources := pyproject.toml setup.py tools/install/setup $(shell find ffi -type f -not -path '*/__pycache__/*')

.PHONY: help demo test test-all bench qualify install uninstall clean

help:
	@echo 'make demo [GPU=1]          three tenants and one fault, with stock MPS and with mpsafe'
	@echo 'make test                  style, types, unit and software-GPU tests'
	@echo 'make test-all              the same, then soaks, all driver branches, a debug kernel, and a clean Debian 12 root'
	@echo 'make bench [ONLY=name] [GPU=1]  measure; rows go to build/bench/NAME.json'
	@echo 'make qualify [PYTHON=...]  the checks that need a real GPU'
	@echo 'make install, uninstall    on a systemd host; PREFIX and DESTDIR are honoured'
	@echo 'make .venv/ready           only the development install, .venv/bin/mpsafe'
	@echo 'make .venv/dev             the same with the tools of the tests'
	@echo 'make .venv/torch [TORCH=...]  the same with torch and transformers, for the tests of mpsafe.tensors'

.venv/ready: $(sources)
	@PYTHON='$(PYTHON)' tools/install/setup run
	@touch $@

.venv/dev: $(sources)
	@PYTHON='$(PYTHON)' tools/install/setup dev
	@touch .venv/ready $@

.venv/torch: $(sources)
	@PYTHON='$(PYTHON)' TORCH='$(TORCH)' tools/install/setup torch
	@touch .venv/ready .venv/dev $@

demo: .venv/ready
	$(venv)/mpsafe demo $(if $(GPU),--gpu)

test: .venv/dev
	timeout -k 1m 40m $(venv)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-all: test
	timeout 40m $(venv)/python -m tools.soak rounds
	timeout 15m $(venv)/python -m tools.soak kills
	timeout 15m $(venv)/python -m tools.soak kills --control real
	timeout 5m $(venv)/python -m tools.soak flood
	timeout 90m $(venv)/python -m tools.soak takeovers
	MPSAFE_CORE_EXAMPLES=3000 MPSAFE_CORE_FUZZ_SECONDS=240 MPSAFE_CORE_THREADS_MS=120000 \
		timeout 40m $(venv)/python -m pytest -n0 -o timeout=1800 tests/test_core.py
	MPSAFE_ALL=1 timeout 15m $(venv)/python -m pytest -n0 -o timeout=900 tests/test_vault_model.py
	MPSAFE_ALL=1 timeout -k 1m 120m $(venv)/python -m pytest -n0 -o timeout=3600 tests/vm
	MPSAFE_ALL=1 timeout -k 1m 90m $(venv)/python -m pytest -n0 -o timeout=3600 \
		tests/test_driver_compile.py tests/end2end/test_driver_install.py
	timeout 15m tools/fresh-root demo
	timeout 30m tools/fresh-root test

bench: .venv/ready
	$(venv)/python -m tools.bench $(if $(GPU),--gpu) $(ONLY)

ifeq ($(PYTHON),)
qualify: .venv/ready
	$(venv)/python -m tools.qualify
else
qualify:
	PYTHONPATH=daemon:. $(PYTHON) -m tools.qualify
endif

# Two may want the wheel at once: the second one waits, looks again, and has it.
build/wheels: .venv/ready $(shell find daemon -name '*.py' -o -name '*.toml')
	@mkdir -p build
	@flock build/wheels.lock $(MAKE) --no-print-directory build/wheels/.built

build/wheels/.built: .venv/ready $(shell find daemon -name '*.py' -o -name '*.toml')
	rm -rf build/wheels build/lib* build/bdist*
	$(venv)/python -m pip wheel -qq --use-pep517 --wheel-dir build/wheels .
	touch $@

install: build/wheels
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' tools/install/install

uninstall:
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' tools/install/uninstall

clean:
	rm -rf .venv build dist daemon/mpsafe.egg-info daemon/mpsafe/soft/lib daemon/mpsafe/cuda/_cuda.py daemon/mpsafed/driver/_uapi.c \
		daemon/mpsafe/experts/_core.c ffi/experts/*.o daemon/mpsafe/operators/simulator/_core.c ffi/operators/*.o
	find daemon tests tools ffi -name __pycache__ -prune -exec rm -rf {} +
	find daemon -name '_*.so' -delete
