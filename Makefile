# `make test` runs all checks. Targets that take longer, or need another compiler, run only by name.
.PHONY: test tools setup lint unit faults-short clients packaging faults fuzz coverage deny docs bench bench-quick build-times clean

# Tests mostly wait for a server, a timer or a database, so run more of them than there are cores.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

# The compilation of flagd's provider for Rust needs protoc.
export PROTOC ?= $(CURDIR)/tests/clients/bin/protoc

# Installs what is missing, and runs all checks. The tests run three groups at a time, since most of them wait; each group's output is
# printed when it ends. Clippy runs before them: in a folder of its own it could run beside them, but would compile SQLite, procedural macros
# and build scripts once more.
test: lint
	$(MAKE) --jobs=3 --output-sync=target unit clients faults-short packaging

# Installs what the tests need besides Rust: Debian packages on the machine, and the other clients' tools in .tools.
tools:
	tests/setup.sh packages
	tests/setup.sh tools

# The same, and compiles the tests meanwhile.
setup:
	tests/setup.sh packages
	tests/setup.sh tools & tools=$$!; cargo test --locked --no-run; compiled=$$?; wait $$tools && exit $$compiled
	cargo build --locked --package read_flag --package flags --bins --test openfeature

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	.tools/node_modules/.bin/buf lint

# The tests in Rust: unit, store conformance, integration.
unit: setup
	cargo test --locked --lib --bins --test it

# The short form of the faults.
faults-short: setup
	cargo test --locked --test faults

# Third-party clients against the real server: Python, buf curl, grpcurl, OpenFeature's providers, README's programs, every program of
# examples/, and Connect's conformance suite. Without Go or Maven, their part is left out; with REQUIRE_CLIENTS=all, that fails.
clients: setup
	cargo test --locked --package read_flag --package flags --test openfeature
	cargo test --locked --test conformance
	.tools/venv/bin/python -B -m pytest tests/clients/python
	node --test tests/clients/node/*.test.mjs

# Checks packaging/: the image's stages, the systemd unit, the Kubernetes manifests, the dashboard and the alerts.
packaging: setup
	.tools/venv/bin/python -B -m pytest tests/packaging

# The long form of the faults: each many times, one after the other. Prints a table of the results.
faults: tools
	TOGGLED_FAULTS=long cargo test --locked --test faults

# Line coverage of src by the tests in Rust, for each file; fails below 90 %. It needs a build of its own. Most tests kill their
# servers, so each server counts in a shared, memory-mapped file from its start.
coverage: tools
	rustup component add llvm-tools
	cargo install --quiet --locked --root .tools cargo-llvm-cov@0.9.1
	LLVM_PROFILE_FILE_NAME='toggled-%8m%c.profraw' RUSTFLAGS='-C llvm-args=-runtime-counter-relocation' \
	  PATH="$(CURDIR)/.tools/bin:$$PATH" cargo llvm-cov --locked --fail-under-lines 90 \
	  --ignore-filename-regex '(^|/)(tests|benches)(/|\.rs)'

# Coverage-guided fuzzing, SECONDS_EACH seconds for each target. Needs a nightly compiler. There is no unsafe code, so it runs without
# a sanitizer, several times as fast.
SECONDS_EACH ?= 60
fuzz:
	cargo install --quiet --locked --root .tools cargo-fuzz@0.13.2
	set -e; export PATH="$(CURDIR)/.tools/bin:$$PATH"; targets=$$(cargo fuzz list); for target in $$targets; do \
	  cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(SECONDS_EACH) -timeout=30; \
	done

# Checks the dependencies, their sources and licences against deny.toml.
deny:
	cargo install --quiet --locked --root .tools cargo-deny@0.20.2
	PATH="$(CURDIR)/.tools/bin:$$PATH" cargo deny --locked check bans licenses sources

# Writes the generated documents: docs/api.md, the settings in docs/configuration.md, and the picture in README.
docs:
	WRITE_DOCS=1 cargo test --locked --test it -- generated_ contract::

# Measures the service against what this machine can do, in less than 15 minutes, and writes docs/benchmarks.
bench: BENCH_SIZE =
bench bench-quick:
	tests/setup.sh bench
	cargo bench --profile dist --locked --bench limits -- $(BENCH_SIZE) $(BENCH_BUILDS)

# Measures less of everything, in about two minutes, and writes no files.
bench-quick: BENCH_SIZE = quick

# BEFORE=/path/to/toggled compares flips and reads of this source with another build instead, in turns in the same run, and
# fails below 0.97 of its rate. RELEASE=/path/to/toggled also measures this source built with the release profile.
# PROGRAM=/path/to/toggled measures that program instead of the one that Cargo builds here.
BENCH_BUILDS = $(if $(PROGRAM),--program $(PROGRAM)) $(if $(BEFORE),--before $(BEFORE)) $(if $(RELEASE),--release $(RELEASE))

# Build times: a clean release build, with a report by crate, and a check after a change.
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
