//! `flag import`: every format, what is refused, and that a repeated import changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use toggled::api::pb::*;
use tokio::io::AsyncWriteExt;

use super::{Shell, assert_output, server};
use crate::support::{Client, TOKEN, program, with_timeout};

pub fn fixture(name: &str) -> String {
    format!("{}/tests/it/cli/import/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A file in the folder, which is removed with it.
pub fn file(folder: &TempDir, content: impl AsRef<[u8]>) -> String {
    let path = folder.path().join("flags");
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// What an import can set: name, description, whether it is enabled, whether it is archived.
pub type FlagFields = (String, String, bool, bool);

/// All flags of a server.
pub async fn flags(admin: &mut Client) -> BTreeMap<String, FlagFields> {
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

fn expected(flags: [(&str, &str, &str, bool, bool); 4]) -> BTreeMap<String, FlagFields> {
    let fields = |(key, name, description, on, archived): (&str, &str, &str, _, _)| {
        (key.to_owned(), (name.to_owned(), description.to_owned(), on, archived))
    };
    flags.into_iter().map(fields).collect()
}

/// Imports a file twice into a new server, after a dry run: the output of the dry run, and the flags on the server.
async fn import(arguments: &[&str]) -> (String, BTreeMap<String, FlagFields>) {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let before = admin.log().await.len();
    let import = [&["flag", "import", "--yes"], arguments].concat();

    let preview = shell.transcript(&[&[&import[..], &["--dry-run"]].concat()[..]]).await;
    let mut dry = shell.objects(&[&import[..], &["--dry-run"]].concat()).await;
    assert_eq!(admin.log().await.len(), before, "a dry run changes nothing");
    assert_eq!(dry.last().unwrap()["summary"]["create"], 4, "{dry:?}");

    let real = shell.objects(&[&import[..], &["--reason", "moving in"]].concat()).await;
    assert_eq!(dry.last_mut().unwrap().as_object_mut().unwrap().remove("dry_run"), Some(true.into()));
    assert_eq!(real[..dry.len()], dry, "the import does what the dry run has shown");
    let log = admin.log().await;
    let changes = &log[before..];
    assert_eq!(real[dry.len()..], [json!({"changed": changes.len()})]);
    assert!(changes.iter().all(|entry| entry.reason() == "moving in" && entry.request_id.is_some()));

    let imported = flags(&mut admin).await;
    let again = shell.objects(&import).await;
    assert_eq!(again[again.len() - 2]["summary"]["unchanged"], 4, "{again:?}");
    assert_eq!(again.last().unwrap(), &json!({"changed": 0}));
    assert!(shell.succeeds(&import).await.ends_with("nothing to do\n"));
    assert_eq!(admin.log().await.len(), log.len(), "a repeat changes nothing");
    (preview, imported)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn csv_and_ndjson_import_everything() {
    let flags = expected([
        ("checkout", "New checkout", "The one that\r\nOlga, Ann and \"the others\" built", true, false),
        ("dark-mode", "Dark mode", "", false, false),
        ("old", "Old thing", "", false, true),
        ("search.v2", "search.v2", "Better search", true, false),
    ]);
    for (name, format) in [("flags.csv", "csv"), ("flags.ndjson", "ndjson")] {
        let (preview, imported) = import(&[&fixture(name)]).await;
        assert_output!(format!("import_{format}"), preview);
        assert_eq!(imported, flags, "{name}");
        assert_eq!(import(&[&fixture(name), "--format", format]).await.1, flags, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flagd_imports_boolean_flags_and_reports_rest() {
    let expected = expected([
        ("checkout", "checkout", "", true, false),
        ("dark-mode", "dark-mode", "", false, false),
        ("old", "old", "", false, true),
        ("search.v2", "search.v2", "", true, false),
    ]);
    let (preview, flags) = import(&[&fixture("flagd.json"), "--from-environment", "shop", "-e", "default"]).await;
    assert_output!("import_flagd", preview);
    assert_eq!(flags, expected);
    assert_eq!(import(&[&fixture("flagd.yaml"), "--from-environment", "shop", "-e", "default"]).await.1, expected);
    let folder = TempDir::new().unwrap();
    let (preview, flags) = import(&[&file(&folder, flagd_list()), "--from-environment", "shop", "-e", "default"]).await;
    assert_output!("import_flagd_list", preview);
    assert_eq!(flags, expected);
}

/// The flags of flagd.json as a list.
fn flagd_list() -> String {
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(fixture("flagd.json")).unwrap()).unwrap();
    let flags = file["flags"].as_object().unwrap().iter().map(|(key, flag)| {
        let mut flag = flag.clone();
        flag["key"] = key.as_str().into();
        flag
    });
    file["flags"] = flags.collect();
    file.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unleash_imports_status_if_same_for_all_users() {
    // In the newer export, `search.v2` depends on `checkout`.
    for (name, arguments, is_search_on) in [
        ("unleash-state", &["--from-environment", "production", "-e", "default"][..], true),
        ("unleash-environment", &["--from-environment", "production", "-e", "default"], false),
    ] {
        let flags = expected([
            ("checkout", "checkout", "The new checkout", true, false),
            ("dark-mode", "dark-mode", "", false, false),
            ("old", "old", "", false, true),
            ("search.v2", "search.v2", "Better search", is_search_on, false),
        ]);
        let file = fixture(&format!("{name}.json"));
        let (preview, imported) = import(&[&[&*file][..], arguments].concat()).await;
        assert_output!(format!("import_{}", name.replace('-', "_")), preview);
        assert_eq!(imported, flags, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_with_any_error_changes_nothing() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let before = admin.log().await.len();
    let folder = TempDir::new().unwrap();
    let unleash = std::fs::read(fixture("unleash-state.json")).unwrap();
    let many_errors = format!("key\n{}", (0..25).map(|n| format!("b@d-{n}\n")).collect::<String>());
    let mut outputs = String::new();
    for (name, content, arguments) in [
        ("errors", format!("key,description\ngood,\nb@d,\na,{}\ngood,\n", "n".repeat(2_001)).into_bytes(), &[][..]),
        ("many-errors", many_errors.into_bytes(), &[]),
        ("unknown-column", b"key,colour\na,red\n".to_vec(), &[]),
        ("one-error", b"key\nb@d\n".to_vec(), &[]),
        ("unknown-format", b"hello".to_vec(), &[]),
        ("empty", Vec::new(), &[]),
        ("not-utf-8", b"key\n\xff\n".to_vec(), &[]),
        ("other-format", b"key\na\n".to_vec(), &["--format", "flagd"]),
        ("without-environments", b"key\na\n".to_vec(), &["--from-environment", "production"]),
        ("duplicate-key", b"{\"flags\":{\"a\":{\"state\":\"ENABLED\",\"state\":\"DISABLED\"}}}".to_vec(), &[]),
        ("wrong-case", b"{\"flags\":{\"a\":{\"State\":\"ENABLED\"}}}".to_vec(), &[]),
        ("duplicate-in-yaml", b"flags:\n  a: {state: ENABLED}\n  a: {state: DISABLED}\n".to_vec(), &[]),
        ("two-documents", b"flags: {}\n---\nflags: {}\n".to_vec(), &[]),
        ("bomb", bomb().into_bytes(), &[]),
        (
            "too-deep",
            format!("{{\"flags\":{{}},\"metadata\":{}", "[".repeat(1_000)).into_bytes(),
            &["--format", "flagd"],
        ),
        ("flipt", b"version: '1.5'\nflags:\n- key: a\n  enabled: true\n".to_vec(), &[]),
        ("raw-cells-of-json", b"{\"flags\":{}}".to_vec(), &["--raw-cells"]),
        ("several-environments", unleash.clone(), &["--environment", "default"]),
        ("another-environment", b"key,environment\na,production\n".to_vec(), &["--environment", "default"]),
        ("unknown-environment", unleash, &["--from-environment", "staging"]),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let import = [&["flag", "import", "--yes", path.to_str().unwrap()][..], arguments].concat();
        let (code, out, _) = shell.run(&import).await;
        assert_eq!((code, out.as_str()), (2, ""), "{name}");
        outputs += &shell.transcript(&[&import[..]]).await;
    }
    assert_output!("import_errors", outputs);
    let large = folder.path().join("large");
    std::fs::File::create(&large).unwrap().set_len(64 * 1024 * 1024 + 1).unwrap();
    assert!(shell.fails(&["flag", "import", "--yes", large.to_str().unwrap()], 2).await.contains("64 MiB"));
    assert!(shell.fails(&["flag", "import", "--yes", "/nowhere"], 2).await.contains("/nowhere"));
    assert_eq!(admin.log().await.len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_changes_only_what_the_file_mentions() {
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
    assert_output!("import_preview", shell.transcript(&[&["flag", "import", "--yes", &path, "--dry-run"]]).await);
    shell.succeeds(&["flag", "import", "--yes", &path]).await;
    let on_server = flags(&mut admin).await;
    let flag = |key: &str| (on_server[key].0.as_str(), on_server[key].2, on_server[key].3);
    assert_eq!(flag("back"), ("Flag back", false, false));
    assert_eq!(flag("both"), ("Flag both", true, true));
    assert_eq!(flag("edited"), ("New", false, false));
    assert_eq!(flag("flipped"), ("Flag flipped", true, false));
    assert_eq!(flag("gone"), ("Flag gone", false, true));
    assert_eq!(flag("kept"), ("Flag kept", false, false));
    assert_eq!(flag("stays"), ("Flag stays", false, true));
    assert!(shell.succeeds(&["flag", "import", "--yes", &path]).await.ends_with("nothing to do\n"));
}

/// A YAML file that its aliases would make 3^40 times as large.
fn bomb() -> String {
    let repeated = (1..=40).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1));
    format!("flags: {{}}\na0: &a0 [x]\n{}", repeated.collect::<String>())
}

/// Runs the program with this on standard input.
async fn run_with_input(arguments: &[&str], address: impl ToString, input: &str) -> std::process::Output {
    let mut command = program(Path::new("/"));
    command.args(arguments).env("TOGGLED_ADDR", address.to_string()).env("TOGGLED_TOKEN", TOKEN);
    output_with_input(command, input).await
}

/// Runs a command with this on standard input.
pub async fn output_with_input(mut command: tokio::process::Command, input: &str) -> std::process::Output {
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    with_timeout("the program to end", process.wait_with_output()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_is_imported() {
    let (server, _database) = server().await;
    let output = run_with_input(&["flag", "import", "--yes", "-"], server.address, "key\na\n").await;
    assert!(output.status.success(), "{output:?}");
    let output = run_with_input(&["flag", "import", "--yes", "-"], server.address, "key\n-\n").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("toggled: standard input: line 2: key must"));
    assert_eq!(flags(&mut server.admin().await).await.len(), 1);
}
