# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Downloads are kept in VNUMA_CACHE, by default ~/.cache/kvm-vnuma. Logs are in build/logs.

PYTHON := /usr/bin/python3
RUN := $(PYTHON) tests/tools/run.py

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: bootstrap ## Partition the RFC's guest on a private libvirt that has the RFC's host
	@tests/tools/demo.sh

.PHONY: test
test: ## Lint, types, sanity, unit and integration tests (under 30 minutes)
	@tests/tools/bootstrap.sh chromium prometheus qemu-system-arm qemu-system-misc qemu-system-ppc
	@$(RUN) test

.PHONY: test-kvm
test-kvm: bootstrap ## Real placement on emulated 8-node and 4-node KVM hosts, and its evidence
	@$(RUN) molecule-kvm

.PHONY: test-migration
test-migration: bootstrap ## Guests that migrate live between unlike hosts, and faults on the way
	@$(RUN) migration

.PHONY: test-faults
test-faults: bootstrap ## Runs that are killed at random and at each step, while owners of guests act (an hour)
	@$(RUN) faults

.PHONY: test-migration-faults
test-migration-faults: bootstrap ## Migrations in which daemons and the module are killed at random (half an hour)
	@$(RUN) migration-faults

.PHONY: test-kvm-migration
test-kvm-migration: bootstrap ## A KVM guest that migrates between two emulated hosts, and comes back
	@$(RUN) molecule-kvm-migration

.PHONY: test-kvm-devices
test-kvm-devices: bootstrap ## Disks that an emulated host passes through, on their cells in a KVM guest's kernel
	@$(RUN) kvm-devices

.PHONY: test-daemons
test-daemons: bootstrap ## Partition four guests on each of 300 libvirt daemons that have just started
	@"$$($(RUN) --install)/bin/python" tests/lab/freshdaemons.py

.PHONY: test-devices
test-devices: ## Boot guests whose passed-through devices are on their cells, by emulated stand-ins
	@tests/tools/bootstrap.sh qemu-system-arm
	@$(RUN) devices

.PHONY: test-readme
test-readme: bootstrap ## Follow the README on a fresh Debian controller and host (five minutes)
	@$(RUN) readme

.PHONY: test-platforms
test-platforms: bootstrap ## Managed hosts of Debian 11 to sid and a modular libvirt (an hour)
	@$(PYTHON) tests/tools/platforms.py $(PLATFORMS)

.PHONY: test-boots
test-boots: bootstrap ## Boot 400 test guests, two at a time, and fail where one hangs
	@$(PYTHON) tests/lab/bootloop.py $(BOOTS)

.PHONY: check
check: bootstrap ## Lint, types and unit tests (under two minutes)
	@$(RUN) check

.PHONY: fuzz
fuzz: bootstrap ## Give the filters 10,000 definitions that no one would write (FUZZ="--seed N --count N")
	@PYTHONPATH=build/installed "$$($(RUN) --install)/bin/python" tests/lab/fuzz.py $(FUZZ)

.PHONY: test-books
test-books: bootstrap ## Judge the plans of 400 random hosts (BOOKS="--count N --refused --small")
	@PYTHONPATH=build/installed:tests/lab "$$($(RUN) --install)/bin/python" tests/lab/books.py $(BOOKS)

.PHONY: bench
bench: ## Measure against loops and the floor, all or PARTS="plan ..."; results in build/bench.md
	@tests/tools/bootstrap.sh virtinst
	@$(PYTHON) tests/bench/bench.py $(PARTS)

.PHONY: docs
docs: bootstrap ## The documentation site, in build/docs/html
	@$(RUN) docs

.PHONY: picture
picture: bootstrap ## The picture in the README, docs/picture.svg
	@"$$($(RUN) --install)/bin/python" tests/tools/picture.py

.PHONY: dist
dist: bootstrap ## The tarball, in build/dist
	@$(RUN) --install > /dev/null
	@ls build/dist/*.tar.gz

.PHONY: bootstrap
bootstrap: ## Install the Debian or Ubuntu packages that are missing
	@tests/tools/bootstrap.sh

.PHONY: clean
clean: ## Remove what was built; the cache of downloads stays
	rm -rf build
