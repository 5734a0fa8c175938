# The commands of this project. `make help` lists them.

CACHE          ?= $(or $(GREPTIME_CACHE),$(HOME)/.cache/greptimecluster)
# Outside of the checkout, so that a clean clone on a warm machine does not build the dependencies again.
export GREPTIME_CACHE   := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TERM_COLOR ?= never
# Only if it is given: each test has a count of its own, and so has `test-sim` below.
ifdef SEEDS
export GREPTIME_TEST_SEEDS ?= $(SEEDS)
endif
PROFILE  ?= ci
BIN      := $(CARGO_TARGET_DIR)/$(PROFILE)
LAB      := $(BIN)/greptime-lab
# One feature set for every command: asking for single packages would build shared dependencies again.
CARGO_ALL := --workspace --profile $(PROFILE)

# Each group of `make test` and the seconds that it may take on 2 cores, from cold caches. `scripts/test-group`
# enforces them. Warm, everything together takes a fraction.
BUDGETS := packages=300 build=3000 tools=1800 lint=900 unit=900 sim=600 chaos=300 lab=180 e2e=1200

budget = $(patsubst $(1)=%,%,$(filter $(1)=%,$(BUDGETS)))
group  = scripts/test-group $(1) $(call budget,$(1))

.DEFAULT_GOAL := help

.PHONY: help
help: ## Lists the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'

# ------------------------------------------------------------------------------------------------ for users

.PHONY: demo
demo: machine packages build tools ## A three-node Kubernetes on this machine, with a cluster under load; stays up to play with
	$(BIN)/greptime-demo

.PHONY: clean
clean: ## Removes everything that demo and tests made, but for the caches
	@if [ -x $(LAB) ]; then $(LAB) down; fi
	rm -rf reports

# ------------------------------------------------------------------------------------------- for developers

.PHONY: test
test: ## From formatting to a real Kubernetes; last line: N passed, N failed
	@rm -rf reports && mkdir -p reports
	@$(call group,packages) $(MAKE) --no-print-directory machine packages
	@$(call group,build) cargo build --locked $(CARGO_ALL) --bins --tests
	@$(call group,tools) $(LAB) tools
	@$(call group,lint) $(MAKE) --no-print-directory lint
	@$(call group,unit) cargo test --locked $(CARGO_ALL) --exclude greptime-e2e-cluster --bins --lib --tests --no-fail-fast
	@$(call group,sim) scripts/test-sim $(BIN)
	@$(call group,chaos) $(BIN)/greptime-chaos --node $(BIN)/greptime-node --etcd $(ETCD) --count 3 --rate 50 --fault $(SHORT_FAULTS)
	@$(call group,lab) env -u KUBECONFIG scripts/test-lab $(LAB)
	@$(call group,e2e) env -u KUBECONFIG scripts/in-laboratory $(BIN) greptime-e2e
	@scripts/test-summary $(foreach budget,$(BUDGETS),$(firstword $(subst =, ,$(budget))))

.PHONY: test-unit
test-unit: ## The tests that need no cluster; SEEDS=500 for so many seeds in each test that has seeds
	cargo test --locked $(CARGO_ALL) --exclude greptime-e2e-cluster --bins --lib --tests --no-fail-fast

.PHONY: test-e2e
test-e2e: build ## The scenarios on a real cluster: a laboratory on this machine, or that of KUBECONFIG
	scripts/in-laboratory $(BIN) greptime-e2e

.PHONY: test-long
test-long: build ## The full counts of everything that `test` runs in a short form
	PROPTEST_CASES=10000 GREPTIME_TEST_SEEDS=2000 GREPTIME_TEST_SERIES=1000000 GREPTIME_TEST_ROUNDS=10 \
		$(MAKE) --no-print-directory test-unit test-e2e

.PHONY: profile
profile: ## Where the server's processor time goes, as text: reports/profile.txt; needs perf
	cargo build --locked --workspace --profile dist --bin greptime-node --bin greptime-bench
	e2e/bench/profile.sh $(CARGO_TARGET_DIR)/dist reports/profile.txt

# HOSTS=4000 another number of hosts, QUICK=1 less of everything, SAVE=1 also into docs/benchmarks, BENCH_ARGS="…" any
# other argument of `greptime-bench run`. What the node exporter says is recorded once, for five minutes.
.PHONY: bench
bench: ## This database beside its peers, as whole processes, in release builds; QUICK=1 for a short run
	e2e/bench/install-peers.sh || true
	cargo build --locked --workspace --profile dist --bin greptime-node --bin greptime-bench
	test -e $(SCRAPES) || $(BENCH) record --to $(SCRAPES) --scrapes 600 --pause 500
	$(BENCH) run --hosts $(HOSTS) --scrapes $(SCRAPES) $(if $(QUICK),$(BENCH_QUICK),$(BENCH_FULL)) $(if $(SAVE),--save) $(BENCH_ARGS)

BENCH       := $(CARGO_TARGET_DIR)/dist/greptime-bench
SCRAPES     := $(CACHE)/bench/node-exporter.txt
HOSTS       ?= $(if $(QUICK),100,400)
BENCH_QUICK := --runs 5 --warm 0
BENCH_FULL  := --more-hosts 4000,10000 --memory --cold-files 10000

# KILLS=1000 how often kills and migrations happen, and by that the others, FAULTS=kill,stop some kinds only,
# LEADERS=1000 how many regions the victim of mass-kill leads, RESUME=1 goes on with the report that is there,
# CHAOS_ARGS="…" any other argument.
.PHONY: chaos
chaos: ## Faults on a cluster of plain processes, many times, in release builds: how long writes wait for each
	cargo build --locked --workspace --profile dist --bin greptime-node --bin greptime-chaos --bin greptime-lab
	$(DIST)/greptime-lab tools etcd
	$(DIST)/greptime-chaos --node $(DIST)/greptime-node --etcd $(ETCD) --count $(KILLS) --fault $(FAULTS) $(if $(LEADERS),--leaders $(LEADERS)) $(if $(RESUME),--resume) $(CHAOS_ARGS)

SHORT_FAULTS := kill,damaged-log,stop,metasrv-kill,partition,migrate
FAULTS ?= kill,stop,node-crash,partition,partition-one-way,partition-peers,partition-metasrv,slow-disk,metasrv-kill,metasrv-node-crash,damaged-log,etcd-kill,migrate,rolling-restart
DIST  := $(CARGO_TARGET_DIR)/dist
ETCD  := $(CACHE)/tools/bin/etcd
KILLS ?= 20

# COUNT=20 how often each, CHAOS_ARGS="--fault kill,stop" some kinds only.
.PHONY: chaos-cluster
chaos-cluster: build tools ## Faults on a real cluster, in a laboratory that comes and goes, COUNT times each
	env -u KUBECONFIG scripts/in-laboratory $(BIN) greptime-chaos-cluster --count $(COUNT) $(CHAOS_ARGS)

COUNT ?= 20

# HOURS=1000000 how many: half an hour of one core, shared by all that there are.
.PHONY: detector-hours
detector-hours: ## How often the failure detector takes the living for dead, in simulated hours of beats, losses and pauses
	cargo build --locked --workspace --profile dist --example heartbeat_hours
	$(DIST)/examples/heartbeat_hours $(HOURS)

HOURS ?= 1000000

# FROM=5000 other seeds, SIM_ARGS="…" any other argument: `--seed 17 --trace` shows one, `--each-is-missed` takes every
# rule away that seeds can show.
.PHONY: test-sim
test-sim: ## A whole cluster in simulated time, SEEDS times, each with other faults; numbers in reports/sim.json
	cargo build --locked $(CARGO_ALL) --bin greptime-sim
	$(BIN)/greptime-sim --seeds $(SEEDS) --from $(FROM) --report reports/sim.json $(SIM_ARGS)

SEEDS ?= 1000
FROM  ?= 0

.PHONY: lint
lint: ## Formatting, clippy, shell scripts, links and tables of the documents
	cargo fmt --all --check
	cargo clippy --locked $(CARGO_ALL) --bins --tests -- -D warnings
	for script in $$(grep -lE '^#!.*sh$$' e2e/kubernetes/*.sh e2e/bench/*.sh scripts/* manifests/*.sh .ci/run); do bash -n $$script || exit 1; done
	scripts/check-docs

.PHONY: generate
generate: build ## Writes the generated files: CRD and manifests
	scripts/generate $(BIN)

.PHONY: build
build: ## Builds the programs and the tests
	cargo build --locked $(CARGO_ALL) --bins --tests

.PHONY: machine
machine: ## Says what this machine lacks for the laboratory
	@e2e/kubernetes/check-machine.sh

.PHONY: packages
packages: ## Installs the Debian packages that are missing, the readers that our files are tested with, and Azurite
	e2e/kubernetes/install-packages.sh
	scripts/parquet-readers
	scripts/azurite

.PHONY: tools
tools: build
	$(LAB) tools

.PHONY: image
image: ## The images of operator and database, as OCI layouts in reports/images
	cargo build --locked $(CARGO_ALL) --bin greptime-operator --bin greptime-node --bin greptime-lab
	$(LAB) tools crane
	scripts/images $(BIN) reports/images
