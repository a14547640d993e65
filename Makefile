# `make test` checks everything, by way of the targets behind it; what takes longer, or another compiler, is asked for by name.
.NOTPARALLEL:
.PHONY: test tools setup lint unit clients packaging faults fuzz coverage deny docs bench bench-quick build-times clean

# Most tests wait for most of their time: for a server, a timer, a database.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

# What flagd's provider for Rust is compiled with.
export PROTOC ?= $(CURDIR)/tests/clients/bin/protoc

# Sets up and runs everything.
test: setup lint unit clients packaging

# Installs what is missing besides Rust: Debian packages on the machine, the other clients' tools in .tools.
tools:
	tests/setup.sh packages
	tests/setup.sh tools

# The same, and compiles the tests: downloading and compiling do not wait for each other.
setup:
	tests/setup.sh packages
	tests/setup.sh tools & tools=$$!; cargo test --locked --no-run; compiled=$$?; wait $$tools && exit $$compiled

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	.tools/node_modules/.bin/buf lint

# The program's own tests, written in Rust: unit, store conformance, integration, and faults in their short form.
unit: setup
	cargo test --locked

# Clients that were not written here, against the real server: Python, buf curl, OpenFeature's providers, and what README
# shows of them.
clients: setup
	cargo test --locked --package read_flag
	.tools/venv/bin/python -B -m pytest tests/clients/python
	node --test tests/clients/node/*.test.mjs

# What it is installed and watched with: the image's stages, systemd's unit, Kubernetes' manifests, dashboard and alerts.
packaging: setup
	.tools/venv/bin/python -B -m pytest tests/packaging

# Faults in their long form: each of them many times, one after the other. A table tells what came of them.
faults: tools
	TOGGLED_FAULTS=long cargo test --locked --test faults

# How many lines of src the tests in Rust go through, file by file; fails below 90 %. It takes a build of its own. Servers are
# killed in most tests, so they count in a file that they share with the others, from their start on.
coverage: tools
	rustup component add llvm-tools
	cargo install --quiet --locked --root .tools cargo-llvm-cov@0.9.1
	LLVM_PROFILE_FILE_NAME='toggled-%8m%c.profraw' RUSTFLAGS='-C llvm-args=-runtime-counter-relocation' \
	  PATH="$(CURDIR)/.tools/bin:$$PATH" cargo llvm-cov --locked --fail-under-lines 90 \
	  --ignore-filename-regex '(^|/)(tests|benches)(/|\.rs)'

# Inputs that are grown towards what they have not reached yet, so many seconds for each target. Takes a nightly compiler.
# No sanitizer: there is no unsafe code to watch, and without it is several times as fast.
SECONDS_EACH ?= 60
fuzz:
	cargo install --quiet --locked --root .tools cargo-fuzz@0.13.2
	set -e; export PATH="$(CURDIR)/.tools/bin:$$PATH"; targets=$$(cargo fuzz list); for target in $$targets; do \
	  cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(SECONDS_EACH) -timeout=30; \
	done

# Which dependencies there are, from where, and under which licences, held to deny.toml.
deny:
	cargo install --quiet --locked --root .tools cargo-deny@0.20.2
	PATH="$(CURDIR)/.tools/bin:$$PATH" cargo deny --locked check bans licenses sources

# Writes what of the documents is made from the code: docs/api.md, and the settings in docs/operations.md.
docs:
	TOGGLED_WRITE_DOCS=1 cargo test --locked --test it -- docs::generated_ contract::

# What the service does beside what this machine can do, in turns, in less than 15 minutes; writes docs/benchmarks.
bench:
	tests/setup.sh bench
	cargo bench --locked --bench limits

# The same with less of everything, in about two minutes; writes nothing.
bench-quick:
	tests/setup.sh bench
	cargo bench --locked --bench limits -- quick

# How long the program takes to compile: from nothing, with a report of what takes how long, and to be checked after a change.
build-times: export CARGO_TARGET_DIR = target/build-times
build-times: SHELL = bash
build-times:
	rm -rf $$CARGO_TARGET_DIR
	cargo fetch --locked
	time cargo build --release --locked --quiet --timings
	cargo check --locked --quiet
	touch src/domain/mod.rs
	time cargo check --locked --quiet

clean:
	cargo clean
	rm -rf .tools
