//! Backups that are taken while the flags are being flipped, by the very commands that docs/operations.md tells, and
//! what a server says that is started on one.

mod chain;
mod running;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tempfile::TempDir;
use toggled::api::pb::*;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::support::{Backend, Client, Database, Server, on_both_databases, reason_of, with_timeout};

const FLAGS: [&str; 4] = ["a", "b", "c", "d"];

/// Flips that do not stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// The last revision that was answered.
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

    /// Waits for so many more flips, and says where the log is then.
    async fn go_on(&self, flips: i64) -> i64 {
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

/// The commands below a heading of docs/operations.md.
fn documented(heading: &str) -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let (_, section) = text.split_once(&format!("\n### {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Runs what is documented, with the machine's folders moved into `folder`. Gives what systemd was told meanwhile, each
/// time with how the SQLite file began at that moment.
async fn run(heading: &str, folder: &Path, url: &str) -> Vec<String> {
    let place = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let commands =
        documented(heading).replace("/var/lib/toggled", &place("lib")).replace("/var/backups", &place("backups"));
    // There is no user of its own here, and no service: the test stops and starts the server itself.
    let commands = commands.replace("install -d -o toggled ", "install -d ");
    let (file, told) = (place("lib/toggled.db"), place("told"));
    let script = format!(
        "systemctl() {{ echo \"$* $(head -c 6 '{file}')\" >>'{told}'; }}\n\
         runuser() {{ [ \"$1 $2 $3\" = '-u toggled --' ] && shift 3 && \"$@\"; }}\n{commands}"
    );
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).env("TOGGLED_DATABASE_URL", url);
    let done = with_timeout(heading, command.output()).await.unwrap();
    assert!(done.status.success(), "{script}\n{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read_to_string(told).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A server's database, the folder that stands for the machine's, and what is documented for its kind.
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
        let told = run(self.headings[0], self.folder.path(), &self.url).await;
        assert!(told.is_empty(), "the server goes on meanwhile: {told:?}");
    }

    /// What a backup that was taken here is when it is put into a fresh place.
    async fn restored(&self) -> Self {
        let fresh = Self::new(self.database.backend).await;
        let backups = Path::new("backups");
        std::fs::remove_dir_all(fresh.folder.path().join(backups)).unwrap();
        std::fs::rename(self.folder.path().join(backups), fresh.folder.path().join(backups)).unwrap();
        if fresh.database.backend == Backend::Postgres {
            run(fresh.headings[1], fresh.folder.path(), &fresh.url).await;
            return fresh;
        }
        // In the place of one that is broken, and of what belongs to it.
        let lib = fresh.folder.path().join("lib");
        for name in ["toggled.db", "toggled.db-wal", "toggled.db-shm"] {
            std::fs::write(lib.join(name), "broken").unwrap();
        }
        let told = run(fresh.headings[1], fresh.folder.path(), &fresh.url).await;
        assert_eq!(told, ["stop toggled broken", "start toggled SQLite"], "the file is replaced in between");
        assert!(!lib.join("toggled.db-wal").exists() && !lib.join("toggled.db-shm").exists());
        fresh
    }
}

/// What is told to somebody who says that they have seen more than there is: everywhere where that can be said.
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
    async fn a_backup_taken_under_load_comes_up_whole_and_tells_who_has_seen_more(backend: Backend) {
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
        let before = load.go_on(200).await;
        site.back_up().await;
        load.go_on(50).await;
        load.stop().await;
        let original = admin.log().await;
        assert!(server.terminate().await.success());

        let restored = site.restored().await;
        let server = restored.start().await;
        let mut admin = server.admin().await;
        let log = admin.log().await;
        assert!((before..original.len() as i64).contains(&(log.len() as i64)), "{} of {}", log.len(), original.len());
        assert_eq!(log, original[..log.len()], "what was there when it was taken, and nothing else");
        chain::assert_whole(&mut admin, &log).await;

        // Somebody has seen an entry that was lost.
        let seen = original.last().unwrap();
        for told in refusals(&mut admin, seen.revision, None).await {
            assert_eq!((told.code(), reason_of(&told).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"), "{told}");
        }
        for told in refusals(&mut admin, seen.revision, Some(&seen.hash)).await {
            assert_eq!((told.code(), reason_of(&told).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"), "{told}");
        }
        while admin.flip("a").await.revision <= seen.revision {}
        for told in refusals(&mut admin, seen.revision, Some(&seen.hash)).await {
            assert_eq!((told.code(), reason_of(&told).as_str()), (Code::FailedPrecondition, "LOG_MISMATCH"), "{told}");
        }

        // Who has seen no more than what is there goes on from it, and the log is whole across the seam.
        let kept = log.last().unwrap();
        let request = StreamAuditLogsRequest {
            after_revision: Some(kept.revision),
            after_hash: Some(kept.hash.clone()),
            ..Default::default()
        };
        let mut rest = admin.audit.stream_audit_logs(request).await.unwrap().into_inner();
        assert_eq!(rest.message().await.unwrap().unwrap().items[0].revision, kept.revision + 1);
        let grown = admin.log().await;
        chain::assert_whole(&mut admin, &grown).await;
    }
}
