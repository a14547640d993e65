//! The layers of the house: which part may know which.

use std::fs;
use std::path::{Path, PathBuf};

/// Parts of `src`, each with the parts that it must not name. Imports go downwards only: cli, server, then grpc, then
/// bootstrap, committer, mirror and auth, then store, then domain.
const FORBIDDEN: [(&str, &[&str]); 8] = [
    (
        "domain",
        &[
            "crate::store",
            "crate::mirror",
            "crate::committer",
            "crate::auth",
            "crate::grpc",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::bootstrap",
            "sqlx",
            "tonic",
            "prost",
            "tokio",
            "SystemTime",
        ],
    ),
    (
        "store",
        &[
            "crate::mirror",
            "crate::committer",
            "crate::auth",
            "crate::grpc",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::bootstrap",
            "tonic",
            "prost",
        ],
    ),
    (
        "mirror.rs",
        &[
            "crate::committer",
            "crate::auth",
            "crate::grpc",
            "crate::server",
            "crate::cli",
            "crate::config",
            "sqlx",
            "tonic",
            "prost",
        ],
    ),
    (
        "committer.rs",
        &["crate::auth", "crate::grpc", "crate::server", "crate::cli", "crate::config", "sqlx", "tonic", "prost"],
    ),
    (
        "auth",
        &[
            "crate::store",
            "crate::committer",
            "crate::grpc",
            "crate::server",
            "crate::cli",
            "crate::config",
            "sqlx",
            "tonic",
        ],
    ),
    ("grpc", &["crate::server", "crate::cli", "crate::config", "crate::bootstrap", "sqlx"]),
    ("server.rs", &["crate::cli", "sqlx", "tonic"]),
    ("cli", &["sqlx", "tonic"]),
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

#[test]
fn no_part_knows_what_lies_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (part, forbidden) in FORBIDDEN {
        let mut files = Vec::new();
        sources(&src.join(part), &mut files);
        assert!(!files.is_empty(), "{part}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                for name in forbidden {
                    assert!(!names(line, name), "{}:{}: {name} in {part}", file.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn a_forbidden_import_would_be_found() {
    assert!(names("use sqlx::Row;", "sqlx"));
    assert!(names("    let pool: sqlx::PgPool = todo;", "sqlx"));
    assert!(!names("// sqlx is below", "sqlx"));
    assert!(!names("use prost_types::Timestamp;", "prost"));
}
