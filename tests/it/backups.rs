//! Backups taken under load with the commands of docs/operations.md, and servers started on the restored data.

mod log_proof;
mod restored_while_running;

use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tempfile::TempDir;
use toggled::api::pb::*;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{Backend, Client, Database, Server, on_both_databases, reason_of, with_timeout};

const FLAGS: [&str; 4] = ["a", "b", "c", "d"];

/// Tasks that flip flags until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    /// The newest acknowledged revision.
    reached: Arc<AtomicI64>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(admin: &Client) -> Self {
        let (stop, reached) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let writers = FLAGS.map(|key| {
            let (mut client, stop, reached) = (admin.clone(), Arc::clone(&stop), Arc::clone(&reached));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    reached.fetch_max(client.flip(key).await.revision, Ordering::Relaxed);
                }
            })
        });
        Self { stop, reached, writers: writers.into() }
    }

    /// Waits for this many more flips, and returns the newest revision.
    async fn wait_for_flips(&self, flips: i64) -> i64 {
        let wanted = self.reached.load(Ordering::Relaxed) + flips;
        with_timeout("more flips", async {
            while self.reached.load(Ordering::Relaxed) < wanted {
                tokio::task::yield_now().await;
            }
        })
        .await;
        self.reached.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
    }
}

/// The commands under a heading of docs/operations.md.
fn documented(heading: &str) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let (_, section) = text
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("docs/operations.md has no heading {heading}"));
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Runs the documented commands, with the system's folders replaced by folders in `folder`. Returns the calls of
/// `systemctl`, each with the first bytes of the SQLite file at that moment.
async fn run_documented(heading: &str, folder: &Path, url: &str) -> Vec<String> {
    let (done, calls) = run_documented_after("", heading, folder, url).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    calls
}

/// The same after other commands. Like a shell that a person types into, it does not end at the first error.
async fn run_documented_after(before: &str, heading: &str, folder: &Path, url: &str) -> (Output, Vec<String>) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let commands =
        documented(heading).replace("/var/lib/toggled", &path("lib")).replace("/var/backups", &path("backups"));
    // There is no user `toggled` and no service here. The test stops and starts the server itself.
    let commands = commands.replace("install -d -o toggled ", "install -d ");
    let (file, calls) = (path("lib/toggled.db"), path("systemctl-calls"));
    let script = format!(
        "systemctl() {{ echo \"$* $(head -c 6 '{file}')\" >>'{calls}'; }}\n\
         runuser() {{ [ \"$1 $2 $3\" = '-u toggled --' ] && shift 3 && \"$@\"; }}\n{before}\n{commands}"
    );
    let mut command = Command::new("bash");
    command.args(["-uo", "pipefail", "-c", &script]).env("TOGGLED_DATABASE_URL", url);
    let done = with_timeout(heading, command.output()).await.unwrap();
    (done, std::fs::read_to_string(calls).unwrap_or_default().lines().map(str::to_owned).collect())
}

/// An installation: a database, a folder in place of the system's, and the headings for its database.
struct Site {
    database: Database,
    url: String,
    folder: TempDir,
    headings: [&'static str; 2],
}

impl Site {
    async fn new(backend: Backend) -> Self {
        let (database, folder) = (Database::new(backend).await, TempDir::new().unwrap());
        for name in ["lib", "backups"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let (url, headings) = match backend {
            Backend::Postgres => (database.url.clone(), ["Back up PostgreSQL", "Restore PostgreSQL"]),
            Backend::Sqlite => {
                let file = folder.path().join("lib/toggled.db");
                (format!("sqlite://{}", file.display()), ["Back up SQLite", "Restore SQLite"])
            }
        };
        Self { database, url, folder, headings }
    }

    async fn start(&self) -> Server {
        let mut server = Server::launch(&self.url, &[]).await;
        server.ready().await;
        server
    }

    async fn back_up(&self) {
        let calls = run_documented(self.headings[0], self.folder.path(), &self.url).await;
        assert!(calls.is_empty(), "a backup must not stop the server: {calls:?}");
    }

    /// Restores the backup into a new installation.
    async fn restored(&self) -> Self {
        let fresh = Self::new(self.database.backend).await;
        let backups = Path::new("backups");
        std::fs::remove_dir_all(fresh.folder.path().join(backups)).unwrap();
        std::fs::rename(self.folder.path().join(backups), fresh.folder.path().join(backups)).unwrap();
        if fresh.database.backend == Backend::Postgres {
            run_documented(fresh.headings[1], fresh.folder.path(), &fresh.url).await;
            return fresh;
        }
        // The backup replaces a broken database and its auxiliary files.
        let lib = fresh.folder.path().join("lib");
        for name in ["toggled.db", "toggled.db-wal", "toggled.db-shm"] {
            std::fs::write(lib.join(name), "broken").unwrap();
        }
        let calls = run_documented(fresh.headings[1], fresh.folder.path(), &fresh.url).await;
        assert_eq!(calls, ["stop toggled broken", "start toggled SQLite"], "the file is replaced in between");
        assert!(!lib.join("toggled.db-wal").exists() && !lib.join("toggled.db-shm").exists());
        fresh
    }
}

on_both_databases! {
    async fn failed_backup_leaves_no_finished_file(backend: Backend) {
        let site = Site::new(backend).await;
        // The disk is full: half of the file is written.
        let full = r#"sqlite3() { echo half >"$backup.part"; return 1; }; pg_dump() { sqlite3; }"#;
        let (done, _) = run_documented_after(full, site.headings[0], site.folder.path(), &site.url).await;
        assert!(!done.status.success(), "the failure is reported");
        let files = std::fs::read_dir(site.folder.path().join("backups/toggled")).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        assert!(files.len() == 1 && files[0].ends_with(".part"), "{files:?}");
    }
}

/// The server takes parameters in its URL that PostgreSQL's own programs refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_works_with_every_parameter_of_the_url() {
    let site = Site::new(Backend::Postgres).await;
    site.start().await;
    let separator = if site.url.contains('?') { '&' } else { '?' };
    let parameters = "options[search_path]=public&statement-cache-capacity=10&ssl-mode=disable&password=x\
                      &options%5Bstatement_timeout%5D=0&application_name=backup&options=-c%20work_mem=8MB";
    let url = format!("{}{separator}{parameters}", site.url);
    run_documented(site.headings[0], site.folder.path(), &url).await;
    let mut list = Command::new("bash");
    list.args(["-c", "pg_restore --list backups/toggled/*.dump"]).current_dir(site.folder.path());
    let list = list.output().await.unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("audit_logs"), "{}", String::from_utf8_lossy(&list.stderr));
}

/// The errors for a client whose cursor or `min_revision` is beyond the log, from every method that takes one.
async fn refusals(client: &mut Client, revision: i64, hash: Option<&[u8]>) -> Vec<Status> {
    let request = StreamAuditLogsRequest {
        after_revision: Some(revision),
        after_hash: hash.map(<[u8]>::to_vec),
        ..Default::default()
    };
    let mut refused = vec![client.audit.stream_audit_logs(request).await.unwrap_err()];
    let request = WatchFeatureFlagsRequest {
        after_revision: Some(revision),
        after_hash: hash.unwrap_or_default().to_vec(),
        ..Default::default()
    };
    refused.push(client.toggle.watch_feature_flags(request).await.unwrap_err());
    if hash.is_none() {
        let min_revision = Some(revision);
        let request = ListFeatureFlagsRequest { min_revision, ..Default::default() };
        refused.push(client.toggle.list_feature_flags(request).await.unwrap_err());
        let flag = Some(get_feature_flag_request::Flag::Key("a".into()));
        refused.push(
            client
                .toggle
                .get_feature_flag(GetFeatureFlagRequest { flag, min_revision, ..Default::default() })
                .await
                .unwrap_err(),
        );
        let request = ListAuditLogsRequest { min_revision, ..Default::default() };
        refused.push(client.audit.list_audit_logs(request).await.unwrap_err());
    }
    refused
}

on_both_databases! {
    async fn restored_backup_is_intact_and_refuses_lost_cursors(backend: Backend) {
        let site = Site::new(backend).await;
        let server = site.start().await;
        let mut admin = server.admin().await;
        for key in FLAGS {
            admin.create(key).await;
        }
        admin.new_user("ann@example.com", &["view_feature_flags"]).await;
        let audit_log_id = admin.flip("a").await.audit_log.unwrap().id;
        let revert = RevertFeatureFlagRequest { audit_log_id, ..Default::default() };
        admin.toggle.revert_feature_flag(revert).await.unwrap();
        let load = Load::start(&admin);
        let before = load.wait_for_flips(200).await;
        site.back_up().await;
        load.wait_for_flips(50).await;
        load.stop().await;
        let original = admin.log().await;
        assert!(server.terminate().await.success());

        let restored = site.restored().await;
        let server = restored.start().await;
        let mut admin = server.admin().await;
        let log = admin.log().await;
        assert!((before..original.len() as i64).contains(&(log.len() as i64)), "{} of {}", log.len(), original.len());
        assert_eq!(log, original[..log.len()], "the backup holds the log as of when it was taken");
        log_proof::assert_intact(&mut admin, &log).await;

        // A client has seen an entry that the backup lacks.
        let seen = original.last().unwrap();
        for error in refusals(&mut admin, seen.revision, None).await {
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"), "{error}");
        }
        for error in refusals(&mut admin, seen.revision, Some(&seen.hash)).await {
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"), "{error}");
        }
        while admin.flip("a").await.revision <= seen.revision {}
        for error in refusals(&mut admin, seen.revision, Some(&seen.hash)).await {
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::FailedPrecondition, "LOG_MISMATCH"), "{error}");
        }

        // A client that has seen only restored entries resumes, and the log stays intact across the restore.
        let kept = log.last().unwrap();
        let request = StreamAuditLogsRequest {
            after_revision: Some(kept.revision),
            after_hash: Some(kept.hash.clone()),
            ..Default::default()
        };
        let mut rest = admin.audit.stream_audit_logs(request).await.unwrap().into_inner();
        assert_eq!(rest.message().await.unwrap().unwrap().items[0].revision, kept.revision + 1);
        let grown = admin.log().await;
        log_proof::assert_intact(&mut admin, &grown).await;
    }
}
