//! The documents that are written by a program are as it would write them now. `make docs` writes them.

mod api;
mod links;
mod markdown;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};

/// With this in the environment what is out of date is written, not refused.
const WRITE: &str = "TOGGLED_WRITE_DOCS";

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(document: &str) -> String {
    fs::read_to_string(path(document)).unwrap_or_default()
}

/// The document is this text, or becomes it.
fn assert_current(document: &str, wanted: &str) {
    if read(document) == wanted {
        return;
    }
    assert!(std::env::var_os(WRITE).is_some(), "{document} is out of date: make docs");
    fs::write(path(document), wanted).unwrap();
}

/// The text with `part` between the markers of this name.
fn with_part(text: &str, name: &str, part: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: written by make docs -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no line {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no line {end}"));
    format!("{before}{begin}{part}{end}{after}")
}

#[test]
fn the_reference_is_that_of_the_protocol() {
    assert_current("docs/api.md", &api::reference());
}

#[test]
fn the_settings_are_those_of_the_program() {
    let operations = read("docs/operations.md");
    assert_current("docs/operations.md", &with_part(&operations, "settings", &settings::tables()));
}

/// Whatever the documents point to is there.
#[test]
fn every_link_leads_somewhere() {
    for document in [
        "README.md",
        "SECURITY.md",
        "docs/api.md",
        "docs/operations.md",
        "docs/audit-proof.md",
        "docs/faults.md",
        "docs/performance.md",
    ] {
        for link in links::links(&read(document)) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path(document) } else { path(document).parent().unwrap().join(file) };
            assert!(target.exists(), "{document}: {link}");
            let anchors = || links::anchors(&fs::read_to_string(&target).unwrap());
            assert!(anchor.is_empty() || anchors().iter().any(|known| known == anchor), "{document}: {link}");
        }
    }
}

/// A heading that is there twice can be linked to only once.
#[test]
fn no_heading_is_there_twice() {
    for document in ["docs/api.md", "docs/operations.md"] {
        let mut anchors = links::anchors(&read(document));
        let count = anchors.len();
        anchors.sort();
        anchors.dedup();
        assert!(count > 10 && anchors.len() == count, "{document}");
    }
}
