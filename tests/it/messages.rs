//! Every text that a user reads, side by side: the help of all commands, and the messages in the source. A reader of the snapshots
//! sees at once which one does not say what failed and what to do next. `INSTA_UPDATE=always cargo test --test it -- messages`
//! rewrites them.

use std::fs;
use std::path::{Path, PathBuf};

/// A text with fewer words is a name or a part of one.
const MIN_WORDS: usize = 3;

/// Words of SQL, in capitals. Texts with one of them are statements.
const SQL: [&str; 13] = [
    "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "PRAGMA", "WHERE", "FROM", "ORDER", "AND", "LOCK", "BEGIN", "SET",
];

fn assert_listed(name: &str, text: String) {
    let mut settings = insta::Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/messages"));
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn help_of_all_commands_is_listed() {
    let mut program = toggled::cli::command();
    program.build();
    assert_listed("help", help(&mut program));
}

fn help(command: &mut clap::Command) -> String {
    let page = command.render_long_help();
    let mut text = format!("# {}\n\n{page}\n", command.get_bin_name().unwrap_or("toggled"));
    for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
        text += &help(inner);
    }
    text
}

#[test]
fn messages_in_the_source_are_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for file in rust_files(&root.join("src")) {
        let source = fs::read_to_string(&file).unwrap();
        let messages: Vec<_> = literals(&source).into_iter().filter(|text| is_message(text)).collect();
        if !messages.is_empty() {
            text += &format!("# {}\n{}\n\n", file.strip_prefix(root).unwrap().display(), messages.join("\n"));
        }
    }
    assert_listed("messages", text);
}

/// The files of a folder and those below it, in order; without files of tests.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files
}

fn is_message(text: &str) -> bool {
    let words = || text.split(|c: char| !c.is_alphanumeric() && c != '_');
    text.split_whitespace().count() >= MIN_WORDS && !words().any(|word| SQL.contains(&word))
}

/// The string literals of a source file up to its tests, with continued lines joined. Reasons of lint exceptions are left out.
fn literals(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let before = &rest[..at];
        let after = &rest[at + 1..];
        rest = match &rest[at..=at] {
            "/" if after.starts_with('/') => after.split_once('\n').map_or("", |(_, rest)| rest),
            "/" => after,
            "'" => after_character(after),
            _ => {
                let hashes = before.len() - before.trim_end_matches('#').len();
                let is_raw = before.trim_end_matches('#').ends_with('r');
                let (text, rest) = if is_raw { raw_string(after, hashes) } else { string(after) };
                if !before.ends_with("reason = ") {
                    found.push(text);
                }
                rest
            }
        };
    }
    found
}

/// What follows a character literal, or the `'` of a lifetime.
fn after_character(after: &str) -> &str {
    let mut characters = after.chars();
    match (characters.next(), characters.next()) {
        (Some('\\'), Some(escaped)) => {
            let rest = &after[1 + escaped.len_utf8()..];
            rest.split_once('\'').map_or("", |(_, rest)| rest)
        }
        (Some(one), Some('\'')) => &after[one.len_utf8() + 1..],
        _ => after,
    }
}

/// The content of a string after its opening quote, and what follows it.
fn string(after: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = after.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (text, &after[at + 1..]),
            '\\' => match characters.next() {
                Some((_, '\n')) => while characters.next_if(|(_, next)| next.is_whitespace()).is_some() {},
                Some((_, escaped)) => text.extend(['\\', escaped]),
                None => break,
            },
            other => text.push(other),
        }
    }
    (text, "")
}

fn raw_string(after: &str, hashes: usize) -> (String, &str) {
    let end = format!("\"{}", "#".repeat(hashes));
    after.split_once(&end).map_or((after.to_owned(), ""), |(text, rest)| (text.to_owned(), rest))
}

#[test]
fn string_literals_are_found() {
    let source = r###"
        // "a comment"
        fn a<'a>(x: &'a str) { say("one \"two\" three"); let quote = '"'; let escape = '\''; }
        #[expect(lint, reason = "not a message")]
        say("continued \
             here"); say(r#"raw "text""#);
        #[cfg(test)]
        say("in a test");
    "###;
    assert_eq!(literals(source), [r#"one \"two\" three"#, "continued here", r#"raw "text""#]);
}
