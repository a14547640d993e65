//! `flag import`: each format, what it refuses, and that it is safe to repeat.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use toggled::api::pb::*;
use tokio::io::AsyncWriteExt;

use super::{Shell, server};
use crate::support::{Client, TOKEN, program, with_timeout};

fn fixture(name: &str) -> String {
    format!("{}/tests/it/cli/import/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A file for a test, which is gone with the folder.
pub fn file(folder: &TempDir, content: impl AsRef<[u8]>) -> String {
    let path = folder.path().join("flags");
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// What an import can bring: name, description, whether it is on, whether it is archived.
pub type Told = (String, String, bool, bool);

/// All flags of a server.
pub async fn flags(admin: &mut Client) -> BTreeMap<String, Told> {
    let request = ListFeatureFlagsRequest { page_size: 1_000, include_archived: true, ..Default::default() };
    let mut flags = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = ListFeatureFlagsRequest { page_token, ..request.clone() };
        let page = admin.toggle.list_feature_flags(request).await.unwrap().into_inner();
        flags.extend(page.feature_flags.into_iter().map(|flag| {
            let on = flag.status() == FeatureFlagStatus::Enabled;
            (flag.key, (flag.name, flag.description, on, flag.archived_at.is_some()))
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return flags;
        }
    }
}

fn expected(flags: [(&str, &str, &str, bool, bool); 4]) -> BTreeMap<String, Told> {
    let told = |(key, name, description, on, archived): (&str, &str, &str, _, _)| {
        (key.to_owned(), (name.to_owned(), description.to_owned(), on, archived))
    };
    flags.into_iter().map(told).collect()
}

/// Imports twice into a new server, after a dry run: what it says of what it cannot carry, and the flags that are there.
async fn imported(arguments: &[&str]) -> (Vec<(String, String)>, BTreeMap<String, Told>) {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let before = admin.log().await.len();
    let import = [&["flag", "import"], arguments].concat();

    let mut dry = shell.objects(&[&import[..], &["--dry-run"]].concat()).await;
    assert_eq!(admin.log().await.len(), before, "a dry run changes nothing");
    assert_eq!(dry.last().unwrap()["summary"]["create"], 4, "{dry:?}");

    let told = shell.objects(&[&import[..], &["--reason", "moving in"]].concat()).await;
    assert_eq!(dry.last_mut().unwrap().as_object_mut().unwrap().remove("dry_run"), Some(true.into()));
    assert_eq!(told[..dry.len()], dry, "it does what it said it would");
    let log = admin.log().await;
    let changes = &log[before..];
    assert_eq!(told[dry.len()..], [json!({"changed": changes.len()})]);
    assert!(changes.iter().all(|entry| entry.reason() == "moving in" && entry.request_id.is_some()));

    let there = flags(&mut admin).await;
    let again = shell.objects(&import).await;
    assert_eq!(again[again.len() - 2]["summary"]["unchanged"], 4, "{again:?}");
    assert_eq!(again.last().unwrap(), &json!({"changed": 0}));
    assert!(shell.says(&import).await.ends_with("nothing to do\n"));
    assert_eq!(admin.log().await.len(), log.len(), "a repeat changes nothing");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lost = dry.iter().filter(|line| line["change"] == "not_carried");
    (lost.map(|line| (text(&line["key"]), text(&line["what"]))).collect(), there)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_and_ndjson_carry_everything() {
    let flags = expected([
        ("checkout", "New checkout", "The one that\r\nOlga, Ann and \"the others\" built", true, false),
        ("dark-mode", "Dark mode", "", false, false),
        ("old", "Old thing", "", false, true),
        ("search.v2", "search.v2", "Better search", true, false),
    ]);
    for (name, format) in [("flags.csv", "csv"), ("flags.ndjson", "ndjson")] {
        assert_eq!(imported(&[&fixture(name)]).await, (Vec::new(), flags.clone()), "{name}");
        assert_eq!(imported(&[&fixture(name), "--format", format]).await.1, flags, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_flagd_boolean_flags_are_carried_and_the_rest_is_told() {
    let (lost, flags) = imported(&[&fixture("flagd.json")]).await;
    assert_eq!(
        flags,
        expected([
            ("checkout", "checkout", "", true, false),
            ("dark-mode", "dark-mode", "", false, false),
            ("old", "old", "", false, true),
            ("search.v2", "search.v2", "", true, false),
        ])
    );
    let of: Vec<_> = lost.iter().map(|(of, what)| (of.as_str(), what.split([':', ';']).next().unwrap())).collect();
    let expected = [
        ("the file", "$evaluators"),
        ("the file", "metadata"),
        ("dark-mode", "targeting"),
        ("button-colour", "the flag"),
        ("page-size", "the flag"),
    ];
    assert_eq!(of, expected);
    assert!(lost[2].1.ends_with("; metadata"), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_unleash_what_is_on_for_everybody_is_carried_and_the_rest_is_told() {
    let flags = expected([
        ("checkout", "checkout", "The new checkout", true, false),
        ("dark-mode", "dark-mode", "", false, false),
        ("old", "old", "", false, true),
        ("search.v2", "search.v2", "Better search", true, false),
    ]);
    let (lost, there) = imported(&[&fixture("unleash-state.json"), "--environment", "production"]).await;
    assert_eq!(there, flags);
    let told: Vec<_> = lost.iter().map(|(of, what)| (of.as_str(), what.as_str())).collect();
    let partly = "that it is on for some only (flexibleRollout): its status is left alone";
    assert_eq!(
        told,
        [
            ("the file", "strategies: 1"),
            ("checkout", "tags: 1; its type, release"),
            ("dark-mode", &*format!("{partly}; that it is stale; its type, experiment")),
            ("old", "its type, kill-switch"),
            ("search.v2", "impression data; its type, release; its project, search"),
        ]
    );
    let (lost, there) = imported(&[&fixture("unleash-environment.json")]).await;
    assert_eq!(there, flags);
    let told: Vec<_> = lost.iter().map(|(of, what)| (of.as_str(), what.as_str())).collect();
    assert_eq!(
        told,
        [
            ("the file", "segments: 1"),
            ("the file", "context fields: 1"),
            ("checkout", "its type, release"),
            ("dark-mode", &*format!("{partly}; variants: 1; its type, experiment")),
            ("old", "its type, operational"),
            ("search.v2", "tags: 1; dependencies on other flags: 1; its type, release"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_anything_wrong_in_it_changes_nothing() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let before = admin.log().await.len();
    let folder = TempDir::new().unwrap();
    let long = "n".repeat(2_001);
    let csv = format!("key,description\ngood,\nb@d,\na,{long}\ngood,\n");
    let (code, out, told) = shell.run(&["flag", "import", &file(&folder, csv)]).await;
    assert_eq!((code, out.as_str()), (2, ""));
    let lines: Vec<_> = told.lines().map(|line| line.split("flags: ").nth(1).unwrap()).collect();
    let begin =
        ["line 3: key must", "line 4: description must", "line 5: the key \"good\" was at line 2", "3 faults; nothing"];
    assert!(lines.len() == 4 && lines.iter().zip(begin).all(|(line, begin)| line.starts_with(begin)), "{told}");

    let csv = format!("key\n{}", (0..25).map(|n| format!("b@d-{n}\n")).collect::<String>());
    let (code, _, told) = shell.run(&["flag", "import", &file(&folder, csv)]).await;
    assert!(code == 2 && told.lines().count() == 21, "{told}");
    assert!(told.ends_with(": and 5 more; 25 faults; nothing was imported\n"), "{told}");

    let unleash = std::fs::read(fixture("unleash-state.json")).unwrap();
    for (content, arguments, expected) in [
        (b"key,colour\na,red\n".to_vec(), &[][..], "colour"),
        (b"key\nb@d\n".to_vec(), &[], "line 2: key must"),
        (b"hello".to_vec(), &[], "neither CSV"),
        (Vec::new(), &[], "it is empty; --format ndjson"),
        (b"key\n\xff\n".to_vec(), &[], "not UTF-8"),
        (b"key\na\n".to_vec(), &["--format", "flagd"], "no flag definition"),
        (b"key\na\n".to_vec(), &["--environment", "production"], "--environment"),
        (unleash.clone(), &[], "--environment, out of development, production"),
        (unleash, &["--environment", "staging"], "only development, production"),
    ] {
        let path = file(&folder, &content);
        let told = shell.fails(&[&["flag", "import", &path], arguments].concat(), 2).await;
        assert!(told.contains(expected), "{}: {told}", String::from_utf8_lossy(&content));
    }
    let large = folder.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    assert!(shell.fails(&["flag", "import", large.to_str().unwrap()], 2).await.contains("64 MiB"));
    assert!(shell.fails(&["flag", "import", "/nowhere"], 2).await.contains("/nowhere"));
    assert_eq!(admin.log().await.len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_are_changed_where_the_file_says_so_and_nowhere_else() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    for key in ["back", "both", "edited", "flipped", "gone", "kept", "stays"] {
        admin.create(key).await;
    }
    for key in ["back", "both", "stays"] {
        admin.archive(key).await;
    }
    let folder = TempDir::new().unwrap();
    let text =
        "key,name,status,archived\nback,,,false\nboth,,on,true\nedited,New,,\nflipped,,on,\ngone,,,true\nstays,,on,\n";
    let path = file(&folder, text);
    let rows = shell.rows(&["flag", "import", &path, "--dry-run"]).await;
    let told: Vec<_> = rows.iter().filter(|row| row.len() > 1).map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let steps = [
        ("unarchive", "back"),
        ("unarchive", "both"),
        ("enable", "both"),
        ("archive", "both"),
        ("update", "edited"),
        ("enable", "flipped"),
        ("archive", "gone"),
        ("not carried", "stays"),
    ];
    assert_eq!(told, steps);
    assert_eq!(rows[4][2], "name \"Flag edited\" -> \"New\"");
    assert_eq!(
        rows.last().unwrap()[..],
        [
            "1 to update, 2 to enable, 2 to archive, 2 to unarchive, 1 unchanged, 1 only on the server, left alone, 1 not carried"
        ]
    );
    shell.says(&["flag", "import", &path]).await;
    let there = flags(&mut admin).await;
    let flag = |key: &str| (there[key].0.as_str(), there[key].2, there[key].3);
    assert_eq!(flag("back"), ("Flag back", false, false));
    assert_eq!(flag("both"), ("Flag both", true, true));
    assert_eq!(flag("edited"), ("New", false, false));
    assert_eq!(flag("flipped"), ("Flag flipped", true, false));
    assert_eq!(flag("gone"), ("Flag gone", false, true));
    assert_eq!(flag("kept"), ("Flag kept", false, false));
    assert_eq!(flag("stays"), ("Flag stays", false, true));
    assert!(shell.says(&["flag", "import", &path]).await.ends_with("nothing to do\n"));
}

/// Runs it with this on standard input.
async fn given(arguments: &[&str], address: impl ToString, input: &str) -> std::process::Output {
    let mut command = program(Path::new("/"));
    command.args(arguments).env("TOGGLED_ADDR", address.to_string()).env("TOGGLED_TOKEN", TOKEN);
    fed(command, input).await
}

/// What comes of a program that is given this.
pub async fn fed(mut command: tokio::process::Command, input: &str) -> std::process::Output {
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    with_timeout("the program to end", process.wait_with_output()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_may_come_by_standard_input() {
    let (server, _database) = server().await;
    let output = given(&["flag", "import", "-"], server.address, "key\na\n").await;
    assert!(output.status.success(), "{output:?}");
    let output = given(&["flag", "import", "-"], server.address, "key\n-\n").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("toggled: standard input: line 2: key must"));
    assert_eq!(flags(&mut server.admin().await).await.len(), 1);
}
