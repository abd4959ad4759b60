# SPDX-License-Identifier: Apache-2.0
# make help lists the targets. Only generate, fmt, check, test and bench need more than Go;
# what they need is installed by apt when it is missing (as root).

SHELL   := /bin/bash
GO      ?= go
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)
ARGS    ?= watch
BENCH   ?= .
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
export CGO_ENABLED := 0

# Pinned: the committed objects in bpf/ come from this clang.
CLANG_PACKAGES := clang-19 llvm-19 clang-format-19 libbpf-dev linux-libc-dev

.PHONY: help run build generate lint fmt test vmtest kernels 2msl lab collector check bench microbench clean tools benchtools

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

run: build ## build and stream (ARGS="watch -o json" for another command)
	$(SUDO) bin/afterfin $(ARGS)

build: ## bin/afterfin, static, without clang
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/afterfin ./cmd/afterfin

test: ## all tests, as root: against this kernel, then the kernel tests in guests with others (25 minutes)
	$(GO) test -count=1 -timeout 20m -parallel 6 $(if $(SUDO),-exec 'sudo env "PATH=$(PATH)"') ./... # built as the user, run as root; most of them wait
	$(GO) run ./vmtest

vmtest: ## the second half of test (KERNELS=6.12,6.1 picks, ARGS= are its flags)
	$(GO) run ./vmtest $(if $(filter command\ line,$(origin ARGS)),$(ARGS))

kernels: ## build three small kernels: HZ=100, HZ=1000, and TIME_WAIT of 15 s (25 minutes)
	vmtest/linux/build

2msl: kernels ## measure how long TIME_WAIT lasts on all of them: docs/2msl.md and its picture
	$(GO) run ./vmtest --document 2msl

lab: build ## try what is said about TIME_WAIT and CLOSE_WAIT on this machine and on all kernels: docs/lab.md (4 minutes)
	$(SUDO) bin/afterfin lab all -o json >bin/lab.json
	$(GO) run ./vmtest --document lab --host bin/lab.json

collector: ## what serve pushes, through an outage, to a real OpenTelemetry Collector, which is built once (2 minutes, the first time 6)
	$(GO) test -tags collector -count=1 -timeout 30m -v -run Collector $(if $(SUDO),-exec 'sudo env "PATH=$(PATH)"') ./internal/programs

check: tools lint ## lint, and the committed objects against their source
	@$(MAKE) --no-print-directory generate
	@git diff --exit-code --stat -- bpf || { echo "error: bpf/ is not what its source gives: commit the result of make generate"; exit 1; }
	clang-format-19 --dry-run --Werror bpf/*.c bpf/*.h

generate: tools ## compile bpf/ again
	cd bpf && $(GO) generate ./...

lint: ## go vet, gofmt, staticcheck
	$(GO) vet -tags collector ./...
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "error: make fmt"; exit 1; }
	$(GO) tool staticcheck -tags collector ./...

fmt: tools ## format Go and C
	gofmt -w .
	clang-format-19 -i bpf/*.c bpf/*.h

bench: build benchtools ## what tracing costs, beside tcpstates, tcplife, bpftrace, perf and ss: docs/performance.md (20 minutes, a quiet machine)
	$(GO) build -o bin/bench ./cmd/bench
	$(SUDO) bin/bench -write docs/performance.md $(if $(filter command\ line,$(origin ARGS)),$(ARGS))

microbench: ## ns for each run of a BPF program, decoded event, table entry, written row and look (BENCH=Apply picks)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem $(if $(SUDO),-exec sudo) ./internal/...

clean: ## remove what build made
	rm -rf bin

tools:
	@dpkg -s $(CLANG_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(CLANG_PACKAGES) >/dev/null; }

# The rivals.
BENCH_PACKAGES := libbpf-tools bpftrace linux-perf iproute2
benchtools:
	@dpkg -s $(BENCH_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BENCH_PACKAGES) >/dev/null; }
