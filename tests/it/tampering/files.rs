//! Manipulations of an exported file.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases, program, with_timeout};

/// Verifies a file. Returns the exit code and the output.
async fn verify_file(path: &str, arguments: &[&str]) -> (i32, String) {
    let (code, out, output_text) =
        Shell::anonymous("127.0.0.1:1").run(&[&["audit", "verify", "--file", path], arguments].concat()).await;
    (code, if code == 0 { out } else { output_text })
}

on_both_databases! {
    async fn altered_file_is_detected(backend: Backend) {
        let tampered = TamperedLog::new(backend).await;
        let (entries, server) = (tampered.entries().await, Server::start(&tampered.database).await);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log").display().to_string();
        let (code, ..) = Shell::new(server.address).run(&["audit", "export", "--output-file", &path]).await;
        assert_eq!(code, 0);
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let at = FULL as usize - 1;
        let line = lines[at];
        let log = tampered.store().await.head().await.unwrap().log_id.to_string();
        let nil = uuid::Uuid::nil().to_string();
        for (from, to) in [
            ("DROP TABLE", "drop table"),
            ("ToggleFeatureFlag", "Toggle"),
            ("\"action_type\":\"toggle_", "\"action_type\":\"Toggle_"),
            ("\"hash\":\"", "\"hash\":\"0"),
            ("\"user_agent\":\"", "\"user_agent\":\"\",\"x\":\""),
            ("\"log_id\":\"", "\"log_id\":\"1"),
            (&log, &nil),
            ("{", "["),
        ] {
            let altered = line.replacen(from, to, 1);
            assert_ne!(altered, line, "{from} is missing in the line");
            let output_text = verify_file(&file(&folder, "altered", &whole.replace(line, &altered)), &[]).await;
            assert_found(&altered, &output_text, FULL, "altered");
        }
        let joined = |lines: &[&str]| format!("{}\n", lines.join("\n"));
        let mut missing = lines.clone();
        missing.remove(at);
        let (mut swapped, mut apart) = (lines.clone(), lines.clone());
        swapped.swap(at, at + 1);
        apart.swap(at, at + 9);
        let doubled = [&lines[..=at], &lines[at..]].concat();
        let until = plain(entries.last().unwrap());
        for (what, lines, revision, kind, arguments) in [
            ("missing", &missing[..], FULL, "missing", vec![]),
            ("first", &lines[1..], 1, "missing", vec![]),
            ("swapped", &swapped, FULL, "reordered", vec![]),
            ("apart", &apart, FULL, "reordered", vec![]),
            ("doubled", &doubled, FULL, "inserted", vec![]),
            ("cut", &lines[..=at], FULL + 1, "truncated", vec!["--until", &until]),
        ] {
            let output_text = verify_file(&file(&folder, what, &joined(lines)), &arguments).await;
            assert_found(what, &output_text, revision, kind);
        }
        let kept = plain(&entries[at]);
        let beyond = format!("{}:{}", entries.len() + 5, "0".repeat(64));
        for arguments in [&["--since", &beyond][..], &["--since", &beyond, "--until", &beyond]] {
            assert_found("beyond", &verify_file(&path, arguments).await, entries.len() as i64 + 1, "truncated");
        }
        let garbled = |at: usize| lines[at].replacen("\"hash\":\"", "\"hash\":\"0", 1);
        let with = |at: usize| whole.replace(lines[at], &garbled(at));
        let later = joined(&lines[at + 2..]);
        let first = with(at).lines().skip(at).map(|line| format!("{line}\n")).collect::<String>();
        for (what, text, arguments, revision, kind) in [
            ("later", &later, &["--since", &kept][..], FULL + 1, "missing"),
            ("garbled behind", &with(at + 1), &["--since", &kept], FULL + 1, "altered"),
            ("garbled first", &with(0), &[], 1, "altered"),
            ("garbled first of the rest", &first, &[], FULL, "altered"),
        ] {
            assert_found(what, &verify_file(&file(&folder, "garbled", text), arguments).await, revision, kind);
        }
        for before in [0, 2, at] {
            let (code, output_text) = verify_file(&file(&folder, "before", &with(before)), &["--since", &kept]).await;
            assert_eq!(code, 0, "an entry before the range was checked: {output_text}");
        }
        let (code, output_text) = verify_file(&path, &["--since", &kept]).await;
        assert!(code == 0 && output_text.contains(&format!(", revisions {}..{} ", FULL + 1, entries.len())), "{output_text}");
        let wrong = kept.replacen(&FULL.to_string(), &(FULL + 1).to_string(), 1);
        assert_found("wrong", &verify_file(&path, &["--since", &wrong]).await, FULL + 1, "forked");
        let (code, output_text) = verify_file(&path, &["--until", &until]).await;
        let last = entries.len();
        assert_eq!((code, output_text), (0, format!("intact: entries {last}, revisions 1..{last} of log {log}, at {until}\n")));

        // A pipe may never end, so an altered entry is reported at once.
        let mut command = program(folder.path());
        command.args(["audit", "verify", "--file", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut pipe = process.stdin.take().unwrap();
        pipe.write_all(with(at).as_bytes()).await.unwrap();
        let output = with_timeout("the program to end", process.wait_with_output()).await.unwrap();
        let output_text = String::from_utf8(output.stderr).unwrap();
        assert_found("pipe", &(output.status.code().unwrap(), output_text), FULL, "altered");
        drop(pipe);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_file_is_a_usage_error() {
    let folder = TempDir::new().unwrap();
    for (name, text, words) in [("empty", "", "no entry"), ("text", "hello\n", "line 1"), ("json", "{}\n", "line 1")] {
        let (code, output_text) = verify_file(&file(&folder, name, text), &[]).await;
        assert!(code == 2 && output_text.contains(words), "{name}: {code} {output_text}");
    }
    let (code, output_text) = verify_file("/nowhere/log", &[]).await;
    assert!(code == 2 && output_text.contains("/nowhere/log"), "{code} {output_text}");
    for checkpoint in ["7:abc", "nowhere", "x"] {
        let (code, output_text) = verify_file("log", &["--since", checkpoint]).await;
        assert!(code == 2 && output_text.contains("--since"), "{code} {output_text}");
    }
    let (_, output_text) = verify_file("log", &["--since", "7:abc"]).await;
    assert!(output_text.contains("not REVISION:HASH"), "{output_text}");
    let hash = "0".repeat(64);
    let (code, output_text) =
        verify_file("log", &["--since", &format!("7:{hash}"), "--until", &format!("6:{hash}")]).await;
    assert!(code == 2 && output_text.contains("--since is after --until"), "{code} {output_text}");
    let (code, output_text) = verify_file("log", &["--public-key", "x"]).await;
    assert!(code == 2 && output_text.contains("verifier key"), "{code} {output_text}");
}
