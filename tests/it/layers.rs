//! The layers of `src`: which module may import which, and which crates.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src`, from the lowest layer up. A module may import only from layers below its own.
const LAYERS: [&[&str]; 8] = [
    &["visible"],
    &["domain", "telemetry"],
    &["store", "auth", "checkpoint", "tls"],
    &["mirror", "config", "verify"],
    &["committer"],
    &["bootstrap", "api"],
    &["server"],
    &["cli"],
];

/// Crates that only the given modules or folders may import.
const CRATES: [(&str, &str); 25] = [
    ("sqlx", "store"),
    ("tonic", "api cli/remote"),
    ("prost", "api"),
    ("clap", "cli config"),
    ("strsim", "config"),
    ("toml", "config"),
    ("sd_notify", "cli"),
    ("tokio_rustls", "tls"),
    ("x509_parser", "tls"),
    ("jsonwebtoken", "auth"),
    ("reqwest", "auth telemetry"),
    ("ring", "auth checkpoint telemetry tls"),
    ("rustls", "auth checkpoint store telemetry tls"),
    ("axum", "telemetry"),
    ("hyper", "api"),
    ("hyper_util", "api cli telemetry"),
    ("metrics_exporter_prometheus", "telemetry"),
    ("metrics_process", "telemetry"),
    ("opentelemetry", "telemetry"),
    ("opentelemetry_otlp", "telemetry"),
    ("opentelemetry_sdk", "telemetry"),
    ("sentry", "telemetry"),
    ("tracing_opentelemetry", "telemetry"),
    ("unicode_properties", "visible"),
    ("unicode_security", "domain visible"),
];

fn collect_sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect_sources(&entry.unwrap().path(), found);
        }
    } else {
        found.push(path.to_owned());
    }
}

/// Whether a line names a module or crate outside of comments.
fn names(line: &str, part: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(part).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + part.len()..].chars().next();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !word(before) && !word(after)
    })
}

/// What a file must not name. `file` is its path in `src`.
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
fn modules_import_only_from_lower_layers() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = Vec::new();
    for (layer, parts) in LAYERS.iter().enumerate() {
        for part in *parts {
            let folder = src.join(part);
            let mut files = Vec::new();
            collect_sources(&if folder.is_dir() { folder } else { src.join(format!("{part}.rs")) }, &mut files);
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
    collect_sources(&src, &mut all);
    all.retain(|file| !seen.contains(file) && !file.ends_with("lib.rs") && !file.ends_with("main.rs"));
    assert_eq!(all, Vec::<PathBuf>::new(), "every file belongs to a layer");
}

#[test]
fn forbidden_imports_are_found() {
    assert!(names("use sqlx::Row;", "sqlx"));
    assert!(names("    let pool: sqlx::PgPool = todo;", "sqlx"));
    assert!(!names("// sqlx in a comment", "sqlx"));
    assert!(!names("use prost_types::Timestamp;", "prost"));
}
