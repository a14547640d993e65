//! `flag export`: it writes all flags, and its files can be imported.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tempfile::TempDir;
use toggled::api::pb::flagd::sync::v1::FetchAllFlagsRequest;
use toggled::api::pb::*;

use super::import::flags;
use super::{Shell, server};
use crate::support::Client;

/// Flags of every kind, with texts that each format must escape.
pub async fn odd_flags(admin: &mut Client) {
    for (key, name, description, on, archived) in [
        ("plain", "Plain", "", false, false),
        ("Quoted.1", "\"quoted\", and more", "two\nlines\r\nand a , comma", true, false),
        ("unicode", "Neue Kasse ✓ \u{202e}", "'; DROP TABLE audit_logs; -- \u{1}\u{7f}\u{85}", true, false),
        ("old", "=1+1", " spaces ", true, true),
        ("older", "null", "\\\"", false, true),
    ] {
        let status = if on { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled };
        let request = CreateFeatureFlagRequest {
            key: key.into(),
            name: name.into(),
            description: description.into(),
            status: status.into(),
            reason: description.into(),
            request_id: Some(format!("r-{key}")),
            ..Default::default()
        };
        admin.toggle.create_feature_flag(request).await.unwrap();
        if archived {
            admin.archive(key).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_flags_are_the_same_after_import() {
    let (full, _database) = server().await;
    let shell = Shell::new(full.address);
    let mut admin = full.admin().await;
    odd_flags(&mut admin).await;
    let original = flags(&mut admin).await;
    let revision = admin.log().await.len();
    let folder = TempDir::new().unwrap();
    for (format, option) in [("ndjson", &[][..]), ("csv", &[]), ("csv", &["--raw-cells"]), ("flagd", &[])] {
        let path = folder.path().join(format).display().to_string();
        fs::write(&path, "old content").unwrap();
        let export = ["flag", "export", "--format", format, "--archived"];
        let (code, out, error) = shell.run(&[&export[..], &["--output-file", &path], option].concat()).await;
        assert_eq!((code, out.as_str()), (0, ""), "{error}");
        assert!(error.starts_with(&format!("5 flags at revision {revision} of log ")), "{error}");
        let text = fs::read_to_string(&path).unwrap();

        let import = [&["flag", "import", "--yes", &path][..], option].concat();
        assert!(shell.succeeds(&import).await.ends_with("nothing to do\n"), "{format}");
        let (empty, _database) = server().await;
        let shell_of_empty = Shell::new(empty.address);
        shell_of_empty.succeeds(&import).await;
        let mut imported = flags(&mut empty.admin().await).await;
        if format == "flagd" {
            for (key, fields) in &mut imported {
                assert_eq!((fields.0.as_str(), fields.1.as_str()), (key.as_str(), ""));
                (fields.0, fields.1) = (original[key].0.clone(), original[key].1.clone());
            }
        }
        assert_eq!(imported, original, "{format}: {text}");
        let keys: Vec<_> = original.keys().filter_map(|key| text.find(key)).collect();
        assert!(keys.len() == 5 && keys.is_sorted(), "sorted by key: {text}");
    }
    let files: BTreeSet<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["csv", "flagd", "ndjson"].map(Into::into).into(), "no temporary file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_csv_runs_nothing_in_a_spreadsheet() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    odd_flags(&mut server.admin().await).await;
    let name = async |options: &[&str]| {
        let (_, out, _) = shell.run(&[&["flag", "export", "--archived", "--format", "csv"], options].concat()).await;
        let mut rows = csv::Reader::from_reader(out.as_bytes()).into_records().map(Result::unwrap);
        rows.find(|row| &row[0] == "old").unwrap()[2].to_owned()
    };
    assert_eq!((&*name(&[]).await, &*name(&["--raw-cells"]).await), ("'=1+1", "=1+1"));
    assert!(shell.fails(&["flag", "export", "--raw-cells"], 2).await.contains("--format csv"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_equals_list_and_what_flagd_is_sent() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let (_, out, _) = shell.run(&["flag", "export", "--format", "csv"]).await;
    assert_eq!(out, "key,environment,name,description,status,archived\n");
    odd_flags(&mut admin).await;
    let (_, out, _) = shell.run(&["flag", "export"]).await;
    assert_eq!(out, shell.succeeds(&["flag", "list", "--output", "json"]).await, "without archived ones");
    let (_, all, _) = shell.run(&["flag", "export", "--archived"]).await;
    assert_eq!(all, shell.succeeds(&["flag", "list", "--archived", "--output", "json"]).await);
    let (_, flagd, _) = shell.run(&["flag", "export", "--archived", "--format", "flagd"]).await;
    let flagd: Value = serde_json::from_str(&flagd).unwrap();
    let served = admin.sync.fetch_all_flags(FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    let served: Value = serde_json::from_str(&served.flag_configuration).unwrap();
    assert_eq!(flagd["flags"], served["flags"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwritable_file_is_a_usage_error() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    for path in ["/nowhere/at/all", "/dev/null", "/"] {
        let error = shell.fails(&["flag", "export", "--output-file", path], 2).await;
        assert!(error.contains(path), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_file_keeps_its_permissions() {
    let (server, _database) = server().await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("flags");
    fs::write(&path, "").unwrap();
    for mode in [0o600, 0o640] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Shell::new(server.address).run(&["flag", "export", "--output-file", path.to_str().unwrap()]).await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
    }
}
