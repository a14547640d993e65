# Everything that is checked here runs with `make test`; the other targets are its parts.
.NOTPARALLEL:
.PHONY: test setup lint unit clients packaging docs bench-quick clean

# Most tests wait for most of their time: for a server, a timer, a database.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

# What flagd's provider for Rust is compiled with.
export PROTOC ?= $(CURDIR)/tests/clients/bin/protoc

# Sets up and runs everything.
test: setup lint unit clients packaging

# Installs what is missing besides Rust: Debian packages on the machine, the other clients' tools in .tools.
setup:
	tests/setup.sh test

lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	.tools/node_modules/.bin/buf lint

# The program's own tests, written in Rust: unit, store conformance, integration.
unit: setup
	cargo test --locked

# Clients that were not written here, against the real server: Python, buf curl, OpenFeature's providers, and what README
# shows of them.
clients: setup
	cargo test --locked --no-run --quiet
	cargo test --locked --package read_flag
	.tools/venv/bin/python -B -m pytest tests/clients/python
	node --test tests/clients/node/*.test.mjs

# What it is installed and watched with: the image's stages, systemd's unit, Kubernetes' manifests, dashboard and alerts.
packaging: setup
	cargo test --locked --no-run --quiet
	.tools/venv/bin/python -B -m pytest tests/packaging

# Writes what of the documents is made from the code: docs/api.md, and the settings in docs/operations.md.
docs:
	TOGGLED_WRITE_DOCS=1 cargo test --locked --test it -- docs::the_

# Two ratios: flips against pgbench, reads against a bare tonic server; how soon 1,000 watchers have a flip; and how fast
# an exported log is verified.
bench-quick:
	tests/setup.sh bench
	cargo bench --locked --bench quick

clean:
	cargo clean
	rm -rf .tools
