//! Disks that fill up and are freed again. Mounting a small file system needs root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::{AssertSqlSafe, Executor};
use tempfile::TempDir;
use toggled::api::pb::CreateFeatureFlagRequest;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use uuid::Uuid;

use crate::load::{Load, in_default};
use crate::moved_file::wait_for_health;
use crate::support::{Backend, Client, Cluster, Database, Server, TOKEN, reason_of, with_timeout};
use crate::{FaultReport, RunLength};

/// The reason why these faults are skipped.
const NO_DISK: &str = "mounting a small file system needs root";

/// A file system in memory, unmounted on drop.
struct Disk(TempDir);

impl Disk {
    /// Returns `None` if mounting is not permitted.
    fn new(mib: usize) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let size = format!("size={mib}m,mode=1777");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "toggled-faults", text(folder.path())]);
        mounted.then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the free space with a file, and returns its path.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        let mut part = 1 << 20;
        while part > 0 {
            match file.write_all(&vec![1; part]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => part /= 2,
                Err(error) => panic!("{error}"),
            }
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // With `--lazy`, processes that still have files open keep the file system until they exit.
        run("umount", &["--lazy", text(self.path())]);
    }
}

/// Runs a program; returns whether it succeeded.
fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Creates a flag that the comparison ignores.
async fn create_ignored_flag(server: &Server) -> Result<(), Status> {
    let mut client = Client::connect(server.address, Some(TOKEN)).await;
    let key = format!("ignored-{}", Uuid::now_v7().simple());
    let request =
        CreateFeatureFlagRequest { key, name: "ignored".into(), environment: in_default(), ..Default::default() };
    client.toggle.create_feature_flag(request).await.map(drop)
}

/// Fills the disk until a change is refused, checks the reason, and frees the space again.
async fn fill_once(disk: &Disk, server: &Server) {
    let ballast = disk.fill();
    let refused = with_timeout("a change to be refused", async {
        loop {
            if let Err(refused) = create_ignored_flag(server).await {
                return refused;
            }
        }
    })
    .await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    wait_for_health(server, ServingStatus::NotServing).await;
    fs::remove_file(ballast).unwrap();
    // Without any change that shows that there is space again.
    wait_for_health(server, ServingStatus::Serving).await;
}

/// Fills the disk several times; the load must recover each time. Returns the number of rounds.
async fn fill_repeatedly(disk: &Disk, server: &Server, load: &Load, length: RunLength) -> usize {
    let rounds = length.rounds(2, 10);
    for _ in 0..rounds {
        load.wait_for_some_flips().await;
        fill_once(disk, server).await;
        load.wait_for_flips(50).await;
    }
    rounds
}

pub async fn sqlite(length: RunLength) -> FaultReport {
    let Some(disk) = Disk::new(64) else { return FaultReport::skipped(NO_DISK) };
    let database = Database::from_url(&format!("sqlite://{}/toggled.db", disk.path().display()), Backend::Sqlite);
    let server = Server::start(&database).await;
    let load = Load::start(&[server.address]).await;
    let rounds = fill_repeatedly(&disk, &server, &load, length).await;
    FaultReport::new(rounds, load.finish(&database.url).await)
}

/// The disk of the tables is full; the disk of the write-ahead log is not.
pub async fn tables(length: RunLength) -> FaultReport {
    let Some(disk) = Disk::new(64) else { return FaultReport::skipped(NO_DISK) };
    let cluster = Cluster::start("").await;
    let url = cluster.new_database().await;
    let name = url.rsplit_once('/').unwrap().1;
    let mut admin = cluster.admin_connection().await;
    let folder = disk.path().join("tables");
    fs::create_dir(&folder).unwrap();
    assert!(!cluster.runs_as_other_user() || run("chown", &["postgres", text(&folder)]));
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", folder.display());
    admin.execute(AssertSqlSafe(tablespace)).await.unwrap();
    admin.execute(AssertSqlSafe(format!("ALTER DATABASE {name} SET TABLESPACE small"))).await.unwrap();
    let server = Server::start(&Database::from_url(&url, Backend::Postgres)).await;
    let load = Load::start(&[server.address]).await;
    let rounds = fill_repeatedly(&disk, &server, &load, length).await;
    FaultReport::new(rounds, load.finish(&url).await)
}

/// PostgreSQL exits when it cannot write its log. The operator has to free space and start it again.
pub async fn write_ahead_log(length: RunLength) -> FaultReport {
    let Some(disk) = Disk::new(128) else { return FaultReport::skipped(NO_DISK) };
    let mut cluster = Cluster::start_with_wal_in("-c wal_recycle=off", disk.path()).await;
    let database = Database::from_url(&cluster.new_database().await, Backend::Postgres);
    let server = Server::start(&database).await;
    let load = Load::start(&[server.address]).await;
    let rounds = length.rounds(1, 5);
    for _ in 0..rounds {
        load.wait_for_some_flips().await;
        let mut admin = cluster.admin_connection().await;
        let ballast = disk.fill();
        // This ends the current segment. There is no space for the next one.
        let _ = admin.execute("SELECT pg_switch_wal()").await;
        cluster.command("await-end").await;
        let refused = with_timeout("an answer", create_ignored_flag(&server)).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        fs::remove_file(ballast).unwrap();
        cluster.command("start").await;
        load.wait_for_flips(50).await;
    }
    FaultReport::new(rounds, load.finish(&database.url).await)
}
