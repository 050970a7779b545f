# README's two commands are `make demo` and `make test`; both install what is missing first.

# Panics and errors are read by people: no backtrace unless asked for.
export RUST_BACKTRACE ?= 0

.PHONY: help setup build demo test lint bench fuzz clean

help:
	@echo "make setup   install what the build and the worlds need (Debian packages, as root)"
	@echo "make demo    build, bring up a two-node mesh in network namespaces, show it, remove it"
	@echo "make test    everything CI runs"
	@echo "make bench   direct against through the mesh, in one run: target/bench/report.json"
	@echo "make fuzz    SECONDS=60 of each fuzz target"

setup:
	@./setup.sh

build: setup
	cargo build --release --locked -p cli -p control-plane -p ztunnel -p cni-plugin

demo: build
	target/release/culvert demo

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# The scenarios start the programs, so these are built before any test runs.
test: lint
	cargo build --workspace --locked
	cargo test --workspace --locked

bench: build
	cargo run --release --locked -p benches

SECONDS ?= 60
fuzz: setup
	fuzz/run.sh $(SECONDS)

clean:
	-target/release/culvert demo --down
	cargo clean
