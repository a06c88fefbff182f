# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` are all a newcomer needs (as root); each does its own set-up.

.PHONY: help setup check test quick demo bench-cri bench-wake bench-migrate conformance kubelet crictl clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## packages, virtual environment, native library, BPF objects
	@scripts/setup

check: setup ## formatting, lint, types, generated stubs
	@scripts/check

test: setup ## everything that is tested, on real nodes; 30 to 40 minutes; RUN_SLOW=1 for all
	@scripts/test

quick: setup ## the tests that need neither Docker nor a node image
	@scripts/test quick

demo: setup ## a pod started through podferry on a real node
	@scripts/in-testbed -m tests.demo

bench-cri: setup ## what podferry costs on the CRI path; QUICK=1 for a short run
	@scripts/in-testbed -m tests.bench.cri

bench-wake: setup ## what sleep and wake cost; QUICK=1 for a short run
	@scripts/in-testbed -m tests.bench.wake

bench-migrate: setup ## what a move costs, beside CRIU alone; QUICK=1 for a short run
	@scripts/in-testbed -m tests.bench.migrate

conformance: setup ## critest direct and through podferry; CRITEST=/path/to/critest, MONITOR=1
	@scripts/in-testbed -m tests.conformance critest --critest "$(CRITEST)" $(if $(MONITOR),--monitor)

kubelet: setup ## a real kubelet on podferry's socket; KUBELET=/path/to/kubelet
	@scripts/in-testbed -m tests.conformance kubelet --kubelet "$(KUBELET)"

crictl: setup ## crictl's streams and events through podferry; CRICTL=/path/to/crictl
	@scripts/in-testbed -m tests.conformance crictl --crictl "$(CRICTL)"

clean: ## build results, virtual environment, node images, engine
	@scripts/in-testbed -m tests.testbed clean --images || true
	rm -rf build .venv *.egg-info
