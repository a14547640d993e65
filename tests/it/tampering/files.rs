//! What is done to a file that was exported.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases, program, with_timeout};

/// Verifies a file; its status and what it says.
async fn verify_file(path: &str, arguments: &[&str]) -> (i32, String) {
    let (code, out, told) =
        Shell::anonymous("127.0.0.1:1").run(&[&["audit", "verify", "--file", path], arguments].concat()).await;
    (code, if code == 0 { out } else { told })
}

on_both_databases! {
    async fn what_is_done_to_a_file_is_found(backend: Backend) {
        let victim = Victim::new(backend).await;
        let (entries, server) = (victim.entries().await, Server::start(&victim.database).await);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log").display().to_string();
        let (code, ..) = Shell::new(server.address).run(&["audit", "export", "--output-file", &path]).await;
        assert_eq!(code, 0);
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let at = FULL as usize - 1;
        let line = lines[at];
        let log = victim.store().await.head().await.unwrap().log_id.to_string();
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
            assert_ne!(altered, line, "{from} is in it");
            let told = verify_file(&file(&folder, "altered", &whole.replace(line, &altered)), &[]).await;
            assert_found(&altered, &told, FULL, "altered");
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
            let told = verify_file(&file(&folder, what, &joined(lines)), &arguments).await;
            assert_found(what, &told, revision, kind);
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
            let (code, told) = verify_file(&file(&folder, "before", &with(before)), &["--since", &kept]).await;
            assert_eq!(code, 0, "what is before is of no interest: {told}");
        }
        let (code, told) = verify_file(&path, &["--since", &kept]).await;
        assert!(code == 0 && told.contains(&format!(", revisions {}..{} ", FULL + 1, entries.len())), "{told}");
        let wrong = kept.replacen(&FULL.to_string(), &(FULL + 1).to_string(), 1);
        assert_found("wrong", &verify_file(&path, &["--since", &wrong]).await, FULL + 1, "forked");
        let (code, told) = verify_file(&path, &["--until", &until]).await;
        let last = entries.len();
        assert_eq!((code, told), (0, format!("intact: entries {last}, revisions 1..{last} of log {log}, at {until}\n")));

        // Whoever writes into a pipe may go on for ever.
        let mut command = program(folder.path());
        command.args(["audit", "verify", "--file", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut pipe = process.stdin.take().unwrap();
        pipe.write_all(with(at).as_bytes()).await.unwrap();
        let output = with_timeout("the program to end", process.wait_with_output()).await.unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_found("pipe", &(output.status.code().unwrap(), told), FULL, "altered");
        drop(pipe);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_exported_file_is_told_from_one_that_was_altered() {
    let folder = TempDir::new().unwrap();
    for (name, text, words) in [("empty", "", "no entry"), ("text", "hello\n", "line 1"), ("json", "{}\n", "line 1")] {
        let (code, told) = verify_file(&file(&folder, name, text), &[]).await;
        assert!(code == 2 && told.contains(words), "{name}: {code} {told}");
    }
    let (code, told) = verify_file("/nowhere/log", &[]).await;
    assert!(code == 2 && told.contains("/nowhere/log"), "{code} {told}");
    for checkpoint in ["7:abc", "nowhere", "x"] {
        let (code, told) = verify_file("log", &["--since", checkpoint]).await;
        assert!(code == 2 && told.contains("--since"), "{code} {told}");
    }
    let (_, told) = verify_file("log", &["--since", "7:abc"]).await;
    assert!(told.contains("not REVISION:HASH"), "{told}");
    let hash = "0".repeat(64);
    let (code, told) = verify_file("log", &["--since", &format!("7:{hash}"), "--until", &format!("6:{hash}")]).await;
    assert!(code == 2 && told.contains("--since is after --until"), "{code} {told}");
    let (code, told) = verify_file("log", &["--public-key", "x"]).await;
    assert!(code == 2 && told.contains("verifier key"), "{code} {told}");
}
