//! The layers of the house: which part may know which.

use std::fs;
use std::path::{Path, PathBuf};

/// The parts of `src`, from the lowest layer up. Each may name those of the layers below its own, and no others.
const LAYERS: [&[&str]; 7] = [
    &["domain", "telemetry"],
    &["store", "auth", "checkpoint", "tls", "verify"],
    &["mirror", "config"],
    &["committer"],
    &["bootstrap", "api"],
    &["server"],
    &["cli"],
];

/// Crates that one part alone may name, or one folder of it.
const CRATES: [(&str, &str); 20] = [
    ("sqlx", "store"),
    ("tonic", "api cli/remote"),
    ("prost", "api"),
    ("clap", "cli config"),
    ("sd_notify", "cli"),
    ("tokio_rustls", "tls"),
    ("x509_parser", "tls"),
    ("jsonwebtoken", "auth"),
    ("reqwest", "auth telemetry"),
    ("ring", "auth checkpoint telemetry tls"),
    ("rustls", "auth checkpoint telemetry tls"),
    ("axum", "telemetry"),
    ("hyper_util", "telemetry"),
    ("metrics_exporter_prometheus", "telemetry"),
    ("metrics_process", "telemetry"),
    ("opentelemetry", "telemetry"),
    ("opentelemetry_otlp", "telemetry"),
    ("opentelemetry_sdk", "telemetry"),
    ("sentry", "config telemetry"),
    ("tracing_opentelemetry", "telemetry"),
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else {
        found.push(path.to_owned());
    }
}

/// Whether code, comments apart, names a module or crate.
fn names(line: &str, part: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(part).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + part.len()..].chars().next();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !word(before) && !word(after)
    })
}

/// What a file of a part must not name; the file is told by its path in `src`.
fn forbidden(layer: usize, part: &str, file: &Path) -> Vec<String> {
    let above = LAYERS[layer..].iter().flat_map(|parts| parts.iter()).filter(|other| **other != part);
    let crates =
        CRATES.iter().filter(|(_, owner)| !owner.split(' ').any(|owner| file.with_extension("").starts_with(owner)));
    let mut names: Vec<String> = above.map(|other| format!("crate::{other}")).collect();
    names.extend(crates.map(|(name, _)| (*name).to_owned()));
    if part == "domain" {
        names.extend(["tokio", "SystemTime"].map(str::to_owned));
    }
    names
}

#[test]
fn no_part_knows_what_lies_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = Vec::new();
    for (layer, parts) in LAYERS.iter().enumerate() {
        for part in *parts {
            let folder = src.join(part);
            let mut files = Vec::new();
            sources(&if folder.is_dir() { folder } else { src.join(format!("{part}.rs")) }, &mut files);
            for file in &files {
                let text = fs::read_to_string(file).unwrap();
                for (number, line) in text.lines().enumerate() {
                    for name in forbidden(layer, part, file.strip_prefix(&src).unwrap()) {
                        assert!(!names(line, &name), "{}:{}: {name} in {part}", file.display(), number + 1);
                    }
                }
            }
            seen.extend(files);
        }
    }
    let mut all = Vec::new();
    sources(&src, &mut all);
    all.retain(|file| !seen.contains(file) && !file.ends_with("lib.rs") && !file.ends_with("main.rs"));
    assert_eq!(all, Vec::<PathBuf>::new(), "every part has its layer");
}

#[test]
fn a_forbidden_import_would_be_found() {
    assert!(names("use sqlx::Row;", "sqlx"));
    assert!(names("    let pool: sqlx::PgPool = todo;", "sqlx"));
    assert!(!names("// sqlx is below", "sqlx"));
    assert!(!names("use prost_types::Timestamp;", "prost"));
}
