//! Disks that are full, and have room again. A small file system of their own takes root.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::{AssertSqlSafe, Executor};
use tempfile::TempDir;
use toggled::api::pb::CreateFeatureFlagRequest;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::load::Load;
use crate::support::{Backend, Client, Cluster, Database, Server, TOKEN, reason_of, with_timeout};
use crate::{Form, Outcome};

/// Why these are not injected where they cannot be.
const NO_DISK: &str = "a small file system of its own takes root";

/// A file system in memory, gone with this value.
struct Disk(TempDir);

impl Disk {
    /// None where that is not permitted.
    fn new(mib: usize) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let size = format!("size={mib}m,mode=1777");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "toggled-faults", text(folder.path())]);
        mounted.then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills what is left of it.
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
        // Whoever still has files open there keeps it until they have gone.
        run("umount", &["--lazy", text(self.path())]);
    }
}

/// Whether it could be done.
fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A change of a flag that is not among those whose every flip is accounted for.
async fn change(server: &Server) -> Result<(), Status> {
    let mut client = Client::connect(server.address, Some(TOKEN)).await;
    let key = format!("of-no-account-{}", Uuid::now_v7().simple());
    let request = CreateFeatureFlagRequest { key, name: "of no account".into(), ..Default::default() };
    client.toggle.create_feature_flag(request).await.map(drop)
}

/// Fills the disk until a change is refused, for the right reason, and makes room again.
async fn fill(disk: &Disk, server: &Server) {
    let ballast = disk.fill();
    let refused = with_timeout("a change to be refused", async {
        loop {
            if let Err(refused) = change(server).await {
                return refused;
            }
        }
    })
    .await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    fs::remove_file(ballast).unwrap();
}

/// Does so again and again, under a load that goes on each time; how often.
async fn fill_often(disk: &Disk, server: &Server, load: &Load, form: Form) -> usize {
    let times = form.times(2, 10);
    for _ in 0..times {
        load.a_while().await;
        fill(disk, server).await;
        load.some(50).await;
    }
    times
}

pub async fn sqlite(form: Form) -> Outcome {
    let Some(disk) = Disk::new(64) else { return Outcome::not_injected(NO_DISK) };
    let database = Database::from_url(&format!("sqlite://{}/toggled.db", disk.path().display()), Backend::Sqlite);
    let server = Server::start(&database).await;
    let load = Load::start(&[server.address]).await;
    let times = fill_often(&disk, &server, &load, form).await;
    Outcome::of(times, load.finish(&database.url).await)
}

/// The tables' disk is full, that of the write-ahead log is not.
pub async fn tables(form: Form) -> Outcome {
    let Some(disk) = Disk::new(64) else { return Outcome::not_injected(NO_DISK) };
    let cluster = Cluster::start("").await;
    let url = cluster.new_database().await;
    let name = url.rsplit_once('/').unwrap().1;
    let mut admin = cluster.admin_connection().await;
    let folder = disk.path().join("tables");
    fs::create_dir(&folder).unwrap();
    assert!(!cluster.runs_as_other_user() || run("chown", &["postgres", text(&folder)]));
    let place = format!("CREATE TABLESPACE small LOCATION '{}'", folder.display());
    admin.execute(AssertSqlSafe(place)).await.unwrap();
    admin.execute(AssertSqlSafe(format!("ALTER DATABASE {name} SET TABLESPACE small"))).await.unwrap();
    let server = Server::start(&Database::from_url(&url, Backend::Postgres)).await;
    let load = Load::start(&[server.address]).await;
    let times = fill_often(&disk, &server, &load, form).await;
    Outcome::of(times, load.finish(&url).await)
}

/// PostgreSQL stops when it cannot write ahead, and somebody has to make room and start it again.
pub async fn write_ahead_log(form: Form) -> Outcome {
    let Some(disk) = Disk::new(128) else { return Outcome::not_injected(NO_DISK) };
    let mut cluster = Cluster::start_with_wal_in("-c wal_recycle=off", disk.path()).await;
    let database = Database::from_url(&cluster.new_database().await, Backend::Postgres);
    let server = Server::start(&database).await;
    let load = Load::start(&[server.address]).await;
    let times = form.times(1, 5);
    for _ in 0..times {
        load.a_while().await;
        let mut admin = cluster.admin_connection().await;
        let ballast = disk.fill();
        // The part of it that was there already is done with; for the next one there is no room.
        let _ = admin.execute("SELECT pg_switch_wal()").await;
        cluster.command("await-end").await;
        let refused = with_timeout("an answer", change(&server)).await.expect_err("a change without a database");
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        fs::remove_file(ballast).unwrap();
        cluster.command("start").await;
        load.some(50).await;
    }
    Outcome::of(times, load.finish(&database.url).await)
}
