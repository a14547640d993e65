//! What clients and dashboards depend on: names and numbers in the .proto files, JSON names, and metrics. A change of these is a change of
//! the contract, and has to show in `tests/it/contract/*.txt`, which `make docs` writes.

use std::fmt::Write;
use std::path::Path;

use prost_reflect::{DescriptorPool, EnumDescriptor, Kind, MessageDescriptor, ServiceDescriptor};
use toggled::api::pb;
use toggled::telemetry::metrics;

/// The packages that are ours.
const PACKAGES: [&str; 4] = ["toggled.v1", "flagd.evaluation.v1", "flagd.evaluation.v2", "flagd.sync.v1"];

fn type_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(values) => values.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn describe_service(text: &mut String, service: &ServiceDescriptor) {
    writeln!(text, "service {}", service.full_name()).unwrap();
    for method in service.methods() {
        let stream = |is_streaming| if is_streaming { "stream " } else { "" };
        let (input, output) = (method.input(), method.output());
        writeln!(
            text,
            "  {}({}{}) returns ({}{})",
            method.name(),
            stream(method.is_client_streaming()),
            input.full_name(),
            stream(method.is_server_streaming()),
            output.full_name()
        )
        .unwrap();
    }
}

fn describe_message(text: &mut String, message: &MessageDescriptor) {
    writeln!(text, "message {}", message.full_name()).unwrap();
    for field in message.fields() {
        let (cardinality, kind) = (field.cardinality(), type_name(&field.kind()));
        let presence = if field.supports_presence() { "with presence" } else { "without presence" };
        let (number, name, json) = (field.number(), field.name(), field.json_name());
        writeln!(text, "  {number} {name} ({json}): {cardinality:?} {kind}, {presence}").unwrap();
    }
}

fn describe_enum(text: &mut String, values: &EnumDescriptor) {
    writeln!(text, "enum {}", values.full_name()).unwrap();
    for value in values.values() {
        writeln!(text, "  {} {}", value.number(), value.name()).unwrap();
    }
}

/// Compares with the committed text; writes it instead when documents are written.
fn assert_unchanged(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/contract").join(file);
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let changed = diff(&committed, actual).join("\n");
    assert!(committed == actual, "{file} differs; if that is intended, run make docs:\n{changed}");
}

/// Lines that only one of two texts has.
fn diff(old: &str, new: &str) -> Vec<String> {
    let missing = old.lines().filter(|line| !new.lines().any(|other| other == *line)).map(|line| format!("- {line}"));
    let added = new.lines().filter(|line| !old.lines().any(|other| other == *line)).map(|line| format!("+ {line}"));
    missing.chain(added).collect()
}

#[test]
fn wire_contract_is_unchanged() {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let is_ours = |package: &str| PACKAGES.contains(&package);
    let mut text = String::new();
    pool.services().filter(|s| is_ours(s.package_name())).for_each(|s| describe_service(&mut text, &s));
    pool.all_messages().filter(|m| is_ours(m.package_name())).for_each(|m| describe_message(&mut text, &m));
    pool.all_enums().filter(|e| is_ours(e.package_name())).for_each(|e| describe_enum(&mut text, &e));
    assert_unchanged("descriptors.txt", &text);
}

/// Go starts no program with two copies of a file. So clients are generated from `proto/toggled` alone, beside a provider with flagd's files.
#[test]
fn api_imports_no_file_that_providers_bring() {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    for file in pool.files().filter(|file| file.package_name() == "toggled.v1") {
        for import in file.dependencies() {
            let is_own = import.name().starts_with("toggled/v1/");
            assert!(is_own || import.name().starts_with("google/protobuf/"), "{}: {}", file.name(), import.name());
        }
    }
}

#[test]
fn metrics_are_unchanged() {
    let mut text = String::new();
    for metric in metrics::ALL {
        writeln!(text, "{metric}").unwrap();
    }
    assert_unchanged("metrics.txt", &text);
}
