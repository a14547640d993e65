//! Phrases that the project's texts avoid, so that they do not return. `CONTRIBUTING.md` has the rules behind them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The phrases, in lower case, and what to write instead.
const AVOIDED: [(&str, &str); 22] = [
    ("whoever", "name the person or thing: the caller, a client, the operator"),
    ("whomever", "name the person or thing"),
    ("those who", "name them: callers, clients, watchers"),
    ("somebody", "name the person: a caller, another user"),
    ("anybody", "any caller, anyone on the network"),
    ("what became of", "the outcome of"),
    ("what came of", "the outcome of, the result of"),
    ("is told", "is logged, reported, returned or notified"),
    ("are told", "are logged, reported, returned or notified"),
    ("told of", "reported, logged"),
    ("gone on with", "resumed, continued"),
    ("goes on from", "continues"),
    ("trying on", "retrying"),
    ("in doubt could not be learnt", "outcome unknown"),
    ("be learnt", "be determined"),
    ("lets them in", "authenticates, reactivates, grants access"),
    ("shut out", "deactivated, locked out"),
    ("turned away", "refused, rejected"),
    ("as many as there may be", "up to the limit"),
    ("at the soonest", "at the earliest, no sooner than"),
    ("not to be had", "not available"),
    ("word of each", "a notification of each"),
];

/// Files that quote the phrases, or were not written here.
const EXCEPTIONS: [&str; 3] = ["tests/it/wording.rs", "CONTRIBUTING.md", "LICENSE"];

/// Lock files and data are not prose.
const SKIPPED_ENDINGS: [&str; 6] = [".lock", "package-lock.json", ".svg", ".png", "results.json", ".crt"];

fn tracked_files() -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new("git").args(["ls-files"]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).unwrap();
    let is_prose =
        |file: &&str| !EXCEPTIONS.contains(file) && !SKIPPED_ENDINGS.iter().any(|ending| file.ends_with(ending));
    files.lines().filter(is_prose).map(str::to_owned).collect()
}

/// The avoided phrases in a text, each with its line. A phrase counts only as whole words.
fn avoided_in(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    let lower = text.to_lowercase();
    for (index, line) in lower.lines().enumerate() {
        for (phrase, _) in AVOIDED {
            let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
            let whole = |at: usize| {
                !is_word(line[..at].chars().next_back()) && !is_word(line[at + phrase.len()..].chars().next())
            };
            if line.match_indices(phrase).any(|(at, _)| whole(at)) {
                found.push((index + 1, phrase));
            }
        }
    }
    found
}

#[test]
fn tracked_texts_avoid_roundabout_phrases() {
    let files = tracked_files();
    assert!(files.len() > 100, "{files:?}");
    let mut report = String::new();
    for file in files {
        // Binary files are not prose.
        let Ok(text) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)) else { continue };
        for (line, phrase) in avoided_in(&text) {
            let instead = AVOIDED.iter().find(|(avoided, _)| *avoided == phrase).map(|(_, instead)| *instead).unwrap();
            report += &format!("{file}:{line}: \"{phrase}\": write instead: {instead}\n");
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn avoided_phrase_is_found_as_whole_words() {
    assert_eq!(avoided_in("fine\n/// Whoever asks.\n"), [(2, "whoever")]);
    assert_eq!(avoided_in("the metadata and anybodyelse"), []);
}
