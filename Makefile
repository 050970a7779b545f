# README's two commands are `make demo` and `make test`; both install what is missing first.

# Panics and errors are read by people: no backtrace unless asked for.
export RUST_BACKTRACE ?= 0

# A registry that fails is asked more often than cargo does by itself.
export CARGO_NET_RETRY ?= 10

SHELL := /bin/bash

.PHONY: help setup build demo test lint proofs prove soak bench fuzz clean

help:
	@echo "make setup   install what the build and the worlds need (Debian packages, as root)"
	@echo "make demo    build, bring up a two-node mesh in network namespaces, show it, remove it"
	@echo "make test    everything CI runs"
	@echo "make prove   live connections through enrolment, restarts, swaps and repairs, and neighbours"
	@echo "             of attacked pods: target/prove/report.json"
	@echo "make soak    MINUTES=10 SEED=1 of mixed load with all of these: target/soak/report.json"
	@echo "make bench   direct, relays, culvert, its rivals, in one run: target/bench/report.json and"
	@echo "             docs/performance.md; QUICK=1 for a few minutes; then our waypoint beside Envoy"
	@echo "make fuzz    SECONDS=60 of each fuzz target"

setup:
	@./setup.sh

build: setup
	cargo build --release --locked -p cli -p control-plane -p ztunnel -p waypoint -p cni-plugin -p benches

demo: build
	target/release/culvert demo

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null || { \
	echo "fuzz/Cargo.lock is behind: (cd fuzz && cargo metadata >/dev/null), and commit it" >&2; \
	exit 1; }

# The scenarios start the programs, so these are built before any test runs; with all targets, so
# that crates have the features that tests ask of them, and are built once.
# Which tests failed, and why, is said again at the end: a page of CI shows the last lines alone.
test: lint
	cargo build --workspace --all-targets --locked
	@mkdir -p target; cargo test --workspace --locked --no-fail-fast 2>&1 | tee target/test.log; \
	status=$${PIPESTATUS[0]}; [ $$status = 0 ] || { \
	echo; echo "what failed:"; \
	awk '/^ +Running /{where=$$0} /^$$|^test .* ok( \(.*\))?$$|^(test result|failures|----|stack backtrace|note):?/{next} \
	/^test .*FAILED|could not be made/{if (where != said) print where; said=where; print; more=2; next} \
	/^thread .*panicked/{print; more=3; next} /^error|process didn.t exit/{print; more=0} more-->0' \
	target/test.log | tail -n 60; \
	exit $$status; }

# The proofs bring a load generator of their own.
proofs: build
	cargo build --release --locked -p scenarios --bins

prove: proofs
	target/release/prove prove

MINUTES ?= 10
SEED ?= 1
soak: proofs
	target/release/prove soak --minutes $(MINUTES) --seed $(SEED)

# QUICK=1: direct, baseline and culvert on what a change of the data path is judged by.
bench: build
	target/release/benches $(if $(QUICK),--quick,--write-docs docs/performance.md)
	target/release/benches waypoint $(if $(QUICK),--rounds 1 --only requests --only paced --only memory --only lookup,--write-docs docs/performance.md)

SECONDS ?= 60
fuzz: setup
	fuzz/run.sh $(SECONDS)

clean:
	-target/release/culvert demo --down
	cargo clean
