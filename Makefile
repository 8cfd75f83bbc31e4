# One door to everything: `make` alone lists what there is. Each target brings what it needs first.
#   V=1 shows the output of long steps as it comes; ARGS goes to the program that a target starts.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export PATH := $(PATH):/usr/local/sbin:/usr/sbin
export FOUNDRY_SOLC := $(CURDIR)/script/solc
export FOUNDRY_OFFLINE := true

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Foundry's programs come with the npm packages where there is a build for the platform, else from the machine.
foundry = $(firstword $(wildcard $(CURDIR)/node_modules/@foundry-rs/$(1)-*/bin/$(1)) $(1))

##@ Use
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: rust node_modules/.ready .venv/.ready dotenv ## bring compilers, packages, a broker and clients, as far as missing
	@script/setup broker
	@script/setup postgres

# Where the tests were built before, theirs is the choice of features: another one would be built anew.
demo: rust node_modules/.ready dotenv ## a whole local site and a told tour of it; ARGS=--once ends after the tour
	@script/setup broker wanted
	@script/step "building" cargo build --locked --workspace --bins $(if $(CI),--tests)
	@exec $(TARGET)/debug/flytrap demo $(ARGS)

##@ Check
test: setup ## every test: contracts, crates, end to end
	@script/test contracts crates end-to-end

test-sol: node_modules/.ready dotenv ## the contracts' tests
	@script/test contracts

invariants-deep: node_modules/.ready dotenv ## the contracts' invariants over 500 games of 500 acts for each suite (an hour)
	@FOUNDRY_PROFILE=deep $(call foundry,forge) test --match-path 'test-sol/*.invariants.t.sol' --match-test invariant_AllAtOnce $(ARGS)

test-rust: rust node_modules/.ready dotenv ## the crates' tests
	@script/setup postgres
	@script/test crates

e2e: setup ## end to end: real node, real broker, clients that others wrote; BROKER=rabbitmq|ejabberd|hivemq|moquette|aedes|mosquitto|all
	@$(if $(BROKER),script/setup brokers $(BROKER),true)
	@BROKER="$(BROKER)" script/test $(if $(BROKER),brokers,end-to-end)

kill-loop: setup ## kill a gateway under load N times (200), judge from the chain what became of what it had stored; SEED=
	@script/step "building" cargo test --locked --package flytrap-gateway --test end_to_end --no-run
	@KILLS=$(or $(N),200) $(if $(SEED),SEED=$(SEED)) cargo test --locked --quiet --package flytrap-gateway --test end_to_end -- --ignored --exact --nocapture \
		kill_loop::killed_as_often_as_asked_it_puts_what_it_had_stored_on_chain_exactly_once

node-away: setup ## take the node away for N seconds (3600) under load: is everything recorded anchored once when it is back?
	@script/step "building" cargo test --locked --package flytrap-gateway --test end_to_end --no-run
	@SECONDS_AWAY=$(or $(N),3600) cargo test --locked --quiet --package flytrap-gateway --test end_to_end -- --ignored --exact --nocapture \
		node_away::what_happens_in_as_many_seconds_as_asked_is_anchored_once

simulate: rust ## the session machine against a naive model: N=1000000 steps, or SEED=7 to play one history again
	@N="$(N)" SEED="$(SEED)" FROM="$(FROM)" exec cargo test --locked --quiet --package flytrap-gateway --test simulation -- --nocapture

verify-mutations: rust ## change an exported file at random: is every change found? N=1000 changes, SEED=n for the same again
	@N="$(or $(N),1000)" $(if $(SEED),SEED="$(SEED)") exec cargo test --locked --quiet --package flytrap-record --lib export::mutations -- --nocapture

conformance: setup ## packet sequences with and without the gateway; VECTORS=folder adds those of Mosquitto's own tests
	@VECTORS="$(VECTORS)" exec cargo test --locked --quiet --package flytrap-gateway --test end_to_end conformance:: -- --nocapture $(if $(VECTORS),--include-ignored)

fuzz: rust ## look for octets that break a promise: TARGET=frame|packet|topic|token|machine|proxy|websocket|smoke|all TIME=seconds of each
	@script/setup fuzzing
	@script/fuzz $(or $(TARGET),all) $(or $(TIME),60)

lint: rust node_modules/.ready dotenv .venv-slither/.ready ## formats, warnings, generated interfaces, requirements
	@script/lint

gas: node_modules/.ready dotenv ## what each call costs; writes the kept figures anew
	@rm -rf test-sol/gas
	@script/step "measuring" env FORGE_SNAPSHOT_CHECK=false $(call foundry,forge) test --match-contract GasTest
	@script/gas

coverage-sol: node_modules/.ready dotenv ## every line and branch of the contracts is reached by their tests, or it fails
	@script/step "contracts" $(call foundry,forge) build
	@script/coverage-sol

mutants-sol: node_modules/.ready dotenv ## break the contracts one line at a time: do the tests notice? (an hour; ARGS="--sample 100")
	@script/mutants-sol $(ARGS)

analyse-sol: node_modules/.ready dotenv .venv-slither/.ready ## what slither finds in the contracts
	@script/analyse-sol

bench-path: setup ## what one forwarded PUBLISH costs, and the gateway beside HAProxy
	@script/setup measuring
	@script/step "building" cargo build --locked --release --package flytrap-gateway --package flytrap-bench --bins
	@exec $(TARGET)/release/bench-path $(ARGS)

eval: setup ## what the gateway costs beside broker, HAProxy and nginx: one page; ARGS="--full --only trips,idle --soak 1h"
	@script/setup measuring
	@script/step "building" cargo build --locked --release --package flytrap-gateway --package flytrap-eval --bins
	@exec $(TARGET)/release/flytrap-eval eval $(ARGS)

shadow: setup ## random traffic and changes on chain, every packet judged by a second opinion; N=1000000 operations, SEED=...
	@script/step "building" cargo build --locked --release --package flytrap-gateway --package flytrap-eval --bins
	@exec $(TARGET)/release/flytrap-eval shadow $(if $(N),--operations $(N)) $(if $(SEED),--seed $(SEED)) $(ARGS)

attack: setup ## attacks on a plain broker and through the gateway; ARGS="--only A01,D --seconds 60"
	@script/step "building" cargo build --locked --release --package flytrap-gateway --package flytrap-eval --bins
	@exec $(TARGET)/release/flytrap-eval attack $(ARGS)

revocations: setup ## how long a right outlives the block that ends it, with 2,000 live sessions
	@script/step "building" cargo build --locked --release --package flytrap-gateway --package flytrap-eval --bins
	@exec $(TARGET)/release/flytrap-eval revocations $(ARGS)

forensics: setup ## hide a breach among a day's records and find it with an auditor's commands; N=1000000 records, SEED=...
	@script/step "building" cargo build --locked --release --package flytrap-gateway --package flytrap-cli --package flytrap-eval --bins
	@exec $(TARGET)/release/flytrap-eval forensics $(if $(N),--records $(N)) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench-mirror: rust ## memory, decisions, blocks, snapshot and replay at 10^2 to 10^7 grants; ARGS=1000000 for fewer
	@script/step "building" cargo build --locked --release --package flytrap-bench --bin bench-mirror
	@$(TARGET)/release/bench-mirror $(ARGS)
	@script/step "building" cargo build --locked --release --package flytrap-policy --example proofs
	@$(TARGET)/release/examples/proofs

bench-record: rust ## records a second that the store takes, each transaction synced; ARGS=FOLDER of the disk that is meant, or postgresql://...
	@script/step "building" cargo build --locked --release --package flytrap-bench --bin bench-record
	@exec $(TARGET)/release/bench-record $(ARGS)

simulate-chain: rust ## the follower against random forks and faults; N=1000 schedules, SEED=n runs one of them again
	@SCHEDULES=$(or $(N),1000) $(if $(SEED),SEED=$(SEED)) cargo test --locked --package flytrap-chain --lib simulation -- --nocapture

container: rust node_modules/.ready dotenv ## build the image and try it in a container (root, Debian or Ubuntu)
	@script/container-ci

##@ Work
build: rust ## the programs, for development
	@script/step "building" cargo build --locked --workspace --bins

abi: node_modules/.ready dotenv ## write the contracts' interfaces to abi/
	@script/step "contracts" $(call foundry,forge) build
	@script/abi

format: rust node_modules/.ready ## format Rust and Solidity
	@cargo fmt --all
	@$(call foundry,forge) fmt

deploy: node_modules/.ready dotenv ## put the contracts on a chain: RPC=URL ARGS="--account NAME"; again changes nothing
	@RPC="$(RPC)" script/deploy $(ARGS)

clean: ## remove what was built; packages stay
	@cargo clean --quiet
	@rm -rf out out-lint cache cache-lint broadcast

# Parts of setup, not listed.
rust:
	@script/setup rust

dotenv:
	@script/env.sh

node_modules/.ready: package.json package-lock.json script/setup
	@script/setup node

.venv/.ready: script/python-packages.txt
	@script/setup python

.venv-slither/.ready: script/slither-packages.txt
	@script/setup slither

.PHONY: help setup demo test test-sol test-rust e2e lint invariants-deep gas mutants-sol analyse-sol bench-path bench-mirror bench-record simulate-chain eval shadow attack revocations forensics container build abi format deploy clean rust dotenv kill-loop node-away coverage-sol simulate verify-mutations conformance fuzz
