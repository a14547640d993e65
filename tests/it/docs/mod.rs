//! Generated documents are up to date, and links between documents work. `make docs` regenerates the documents.

mod api;
mod limits;
mod links;
mod markdown;
mod pages;
mod pasted;
mod session;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};

/// If this variable is set, outdated documents are rewritten instead of failing the test.
const WRITE_VARIABLE: &str = "WRITE_DOCS";

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(document: &str) -> String {
    fs::read_to_string(path(document)).unwrap_or_default()
}

/// Checks that a document has the expected text, or rewrites it if [`WRITE_VARIABLE`] is set.
fn assert_current(document: &str, expected: &str) {
    if read(document) == expected {
        return;
    }
    assert!(std::env::var_os(WRITE_VARIABLE).is_some(), "{document} is out of date; run `make docs`");
    fs::write(path(document), expected).unwrap();
}

/// Replaces the text between the markers of a given name.
fn with_part(text: &str, name: &str, part: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: written by make docs -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no line {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no line {end}"));
    format!("{before}{begin}{part}{end}{after}")
}

#[test]
fn generated_api_reference_is_current() {
    assert_current("docs/api.md", &api::reference());
}

#[test]
fn generated_settings_are_current() {
    let page = read("docs/configuration.md");
    let page = with_part(&page, "settings", &settings::tables());
    assert_current("docs/configuration.md", &with_part(&page, "limits", &limits::table()));
}

#[test]
fn documented_configuration_file_is_valid() {
    let page = read("docs/configuration.md");
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("toggled.toml");
    fs::write(&path, rest.split_once("```").unwrap().0).unwrap();
    let program = toggled::cli::command();
    toggled::config::ConfigFile::read(&path, program.find_subcommand("serve").unwrap()).unwrap();
}

/// The Markdown files in the root and in docs/.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "docs/"] {
        for entry in fs::read_dir(path(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                found.push(format!("{folder}{name}"));
            }
        }
    }
    found.sort();
    assert!(found.len() > 15, "{found:?}");
    found
}

#[test]
fn links_between_documents_have_targets() {
    for document in documents() {
        for link in links::links(&read(&document)) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path(&document) } else { path(&document).parent().unwrap().join(file) };
            assert!(target.exists(), "{document}: {link}");
            let anchors = || links::anchors(&fs::read_to_string(&target).unwrap());
            assert!(anchor.is_empty() || anchors().iter().any(|known| known == anchor), "{document}: {link}");
        }
    }
}

/// Only the first of two equal headings could be linked to.
#[test]
fn headings_are_unique() {
    for document in documents().iter().filter(|document| *document != "CHANGELOG.md") {
        let mut anchors = links::anchors(&read(document));
        let count = anchors.len();
        anchors.sort();
        anchors.dedup();
        assert!(anchors.len() == count, "{document}");
    }
}
