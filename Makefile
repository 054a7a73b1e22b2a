# What a newcomer types. `make` alone prints this list; .ci/run calls `make check test`.

CARGO ?= cargo
HOLDFAST_DEPS ?= $(CURDIR)/.deps
export HOLDFAST_DEPS

# One feature set for everything that is built here, so that nothing is compiled twice.
ALL := --workspace --all-features
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
DENY := $(HOLDFAST_DEPS)/bin/cargo-deny

.DEFAULT_GOAL := help
.PHONY: help deps build test soak bench check fmt clippy doc deny

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install the servers and tools that the tests run against (root, for system packages)
	@scripts/deps all

build: ## build everything, all features
	$(CARGO) build $(ALL)

test: ## install what is missing, then run all tests (as root: those with real volumes too)
	@scripts/deps test
	$(CARGO) build $(ALL) --bins
	HOLDFAST_BIN="$(TARGET)/debug/holdfast" $(CARGO) test $(ALL)

soak: ## the long fault runs (tests marked #[ignore]), in release mode
	@scripts/deps test
	$(CARGO) build --release $(ALL) --bins
	HOLDFAST_BIN="$(TARGET)/release/holdfast" $(CARGO) test --release -p holdfast-tests --all-features -- --ignored --test-threads=1 --nocapture
	$(CARGO) test --release -p holdfast-writer-api --all-features --test decoder -- --ignored --nocapture

bench: ## ratios against restic and bare ioctls, as root; prints and writes docs/benchmarks.md
	@scripts/deps test
	$(CARGO) build --release $(ALL) --bins
	HOLDFAST_BIN="$(TARGET)/release/holdfast" $(CARGO) bench $(ALL) --bench ratios -- --write "$(CURDIR)/docs/benchmarks.md"

check: fmt clippy doc deny ## format, lints, documentation, licences and sources

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy $(ALL) --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(ALL) --no-deps --document-private-items

# Advisories need the network and change under our feet: `cargo deny check advisories` is run by hand before a release.
deny:
	@scripts/deps check
	$(DENY) --locked --all-features check licenses bans sources
