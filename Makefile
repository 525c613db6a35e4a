# SPDX-License-Identifier: GPL-2.0
#
# Everything is built and tested inside the lab, a Debian root with the stock
# kernel's own compilers (scripts/lab/). Kbuild describes the module itself.
# `make module KDIR=/lib/modules/$(uname -r)/build` builds it for another
# Rust-enabled kernel with the tools of this machine.

IN_ROOT := scripts/in-root
LAB     := scripts/lab/setup.sh
KCC     := x86_64-linux-gnu-gcc-14
KDIR    ?=
RUN     ?= login
SOAK_MINUTES ?= 75
BUILD   := build

.DEFAULT_GOAL := all
.PHONY: help all lab lab-debian lab-debug lab-selftests conformance crates module tool deb run shell check test test-host test-guest \
	test-system test-full soak module-debug clean bench

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo 'Variables: RVMM_LAB (where the lab lies, default ~/.cache/rvmm), KDIR (another kernel for `make module`),'
	@echo '           RUN=login|debian (guest of `make run`), JOBS (tests at a time), ONLY (names of system tests),'
	@echo '           HOSTS=amd,intel,… (emulated hosts of the system tests; default all, see docs/lab-intel.md),'
	@echo '           SOAK_MINUTES (of the loops of `make soak`; default 75: 30 for soak-fuzz, 15 for each of three)'

all: module tool ## build the module and the tool

lab: ## set up the lab: root, kernel, images (once; 5-20 min)
	@$(LAB) all

lab-debian: ## also make the Debian guest image (for test-full and RUN=debian)
	@$(LAB) debian

lab-debug: ## also build the debug kernel (for soak; 25 min more on two cores)
	@$(LAB) debug

lab-selftests: ## also build KVM's own selftests (for test and conformance; 3 min more on two cores)
	@$(LAB) selftests

crates: ## fetch the module's crates into third/
	@$(LAB) build
	@$(IN_ROOT) scripts/fetch-crates.sh

ifeq ($(KDIR),)
module: crates ## build rvmm.ko for the lab's stock kernel
	@$(IN_ROOT) make --no-print-directory -C /lab/obj M=/src/rvmm CC=$(KCC) modules
else
module:
	@scripts/fetch-crates.sh
	@$(MAKE) -C $(KDIR) M=$(CURDIR) modules
endif

module-debug: crates ## build build/debug/rvmm.ko for the lab's debug kernel
	@$(LAB) debug
	@$(IN_ROOT) scripts/build-debug

tool: ## build the static programs build/rvmm-run, build/rvmmctl, build/abi-tests and build/fuzz-ioctl
	@$(LAB) build
	@$(IN_ROOT) scripts/build-tool

deb: module tool ## build Debian packages in build/deb: the tools, the module for DKMS, the module for the lab's kernel
	@$(LAB) packages
	@$(IN_ROOT) scripts/check-deb

run: module tool ## boot a guest to its login prompt on this terminal (in the emulated host if need be)
	@$(LAB) $(if $(filter debian,$(RUN)),debian,all)
	@scripts/run-guest $(RUN)

shell: module tool ## a shell in the emulated host, with rvmm.ko and rvmm-run at hand
	@$(LAB) all
	@scripts/run-host --tty --timeout 0 -- sh

check: module tool ## rustfmt, clippy, check-unsafe, check-panics, check-faults, check-mitigations, check-frames
	@scripts/run-tests check

test-host: ## unit and property tests of the pure code and the tool, and the share of lines that they enter
	@$(LAB) build
	@scripts/run-tests host

test-guest: module tool ## small guests in the emulated host
	@$(LAB) debian
	@scripts/run-tests guest

test-system: module tool ## life cycle, Linux guests, several VMs in the emulated host
	@$(LAB) all
	@$(LAB) selftests
	@scripts/run-tests system

test: module tool ## all of the above
	@$(LAB) debian
	@$(LAB) selftests
	@scripts/run-tests check host run guest system

test-full: module tool ## all, and more of them on more emulated hosts (Intel old and new, AMD with 4-level paging)
	@$(LAB) debian
	@$(LAB) selftests
	@scripts/run-tests check host run guest system full

soak: module-debug tool ## all on the debug kernel, faults injected, loops, SOAK_MINUTES of them
	@scripts/run-tests --hosts=amd-debug --minutes=$(SOAK_MINUTES) guest system full soak

bench: module tool ## count instructions of rvmm's and KVM's paths; writes docs/bench
	@$(LAB) all
	@scripts/bench

conformance: module tool ## KVM's own selftests on stock KVM and on rvmm, on AMD and Intel; writes docs/conformance.md
	@$(LAB) selftests
	@scripts/conformance --hosts $(or $(HOSTS),amd,intel)

clean: ## remove build products from the checkout (the lab stays)
	@find . -path ./.git -prune -o \( -name '*.o' -o -name '*.ko' -o -name '*.mod' -o -name '*.mod.c' \
		-o -name '.*.cmd' -o -name '*.rmeta' -o -name '*.d' -o -name modules.order \
		-o -name Module.symvers \) -type f -print0 | xargs -0 rm -f
	@rm -rf $(BUILD) third
