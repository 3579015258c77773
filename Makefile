# Virga: the commands of the house. `make help` lists them. Re-running any of them is harmless.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
# Tests on real guests need root; without it they are left out of `make test`, and a line says so.
ROOT := $(filter 0,$(shell id -u))
FAST := not slow$(if $(ROOT),, and not real)

.PHONY: help setup dev demo up race sim test test-all bench conformance conformance-all conformance-guest demo-real guest lint types lock tempest real real-if-root clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with the virga command (installs python3-venv first where Debian lacks it)
	@tools/setup.sh runtime

dev: setup  ## setup, plus the test tools and the OpenStack clients
	@tools/setup.sh dev

demo: setup  ## a fresh cloud; 5 servers resized and reverted in 3 rounds, one revert drawn
	@$(BIN)/virga demo $(ARGS)

up: setup  ## a whole cloud on 127.0.0.1:8787 (Ctrl-C stops it); ARGS="--hosts 3"
	@$(BIN)/virga up $(ARGS)

race: setup  ## the founding race alone, with its odds
	@$(BIN)/virga race $(ARGS)

sim: setup  ## seeded histories of the whole cloud under virtual time
	@$(BIN)/virga sim $(ARGS)

lint: dev  ## style
	@$(BIN)/ruff check src tests tools bench

types: dev  ## strict types over src/virga
	@$(BIN)/mypy

test test-all: export PYTHONHASHSEED := 0

test: lint types tempest real-if-root  ## style, types and the fast tests, as root also on real guests (under 10 minutes on 2 cores)
	@$(BIN)/python -m pytest -m "$(FAST)" $(ARGS)

test-all: lint types tempest real guest  ## everything, also the slow tests and (as root) the ones on real guests
	@$(BIN)/python -m pytest -m "" $(ARGS)

bench: dev  ## measure this machine
	@$(BIN)/python bench/run.py $(ARGS)

tempest:  ## make .venv-tempest
	@tools/setup.sh tempest

conformance: setup tempest  ## the 227 interoperability tests of OpenStack; writes docs/conformance.md
	@tools/conformance/run --start --list interop --report docs/conformance.md $(ARGS)

conformance-all: setup tempest  ## every tempest API test that needs no block storage and no guest log-in
	@tools/conformance/run --start --list api --report docs/conformance-api.md $(ARGS)

conformance-guest: setup tempest real guest  ## the interoperability tests that log in to a guest, on real guests (root, libvirt)
	@tools/conformance/run --start --hypervisor libvirt --list guest --report docs/conformance-guest.md $(ARGS)

real-if-root: setup
ifeq ($(ROOT),0)
	@{ tools/setup.sh real && tools/guest/build >.make/guest.log; } || echo "test: the tests on real guests will be skipped"
else
	@echo "test: not root, so the tests on real guests are left out"
endif

real: setup  ## what real guests need: QEMU, libvirt and its binding, dnsmasq, nftables (root)
	@tools/setup.sh real

demo-real: real guest  ## the demo with real guests (root, libvirt)
	@$(BIN)/virga demo --hypervisor libvirt --virt-type qemu $(ARGS)

guest:  ## build the small guest image used with real guests
	@tools/guest/build $(if $(filter guest,$(MAKECMDGOALS)),$(ARGS))

lock:  ## resolve and pin every dependency again
	@tools/lock.sh

clean:  ## remove environments and caches (never a state folder)
	rm -rf .venv .venv-tempest .make .mypy_cache .ruff_cache .pytest_cache build dist
