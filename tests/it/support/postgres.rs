//! A real PostgreSQL. All tests share one cluster, with a database for each test. A test that damages the cluster starts
//! one of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use super::with_timeout;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// A running cluster, stopped and deleted on drop.
pub struct Cluster {
    port: u16,
    replies: Lines<BufReader<ChildStdout>>,
    /// `cluster.sh`. It reads commands from standard input, and stops the cluster when that is closed.
    process: Child,
}

/// The cluster that all tests share.
async fn shared() -> &'static Cluster {
    // Without fsync, commits survive crashes of servers and connections. Only a power failure could lose them.
    CLUSTER.get_or_init(|| Cluster::start("-c fsync=off")).await
}

/// Creates an empty database and returns its URL.
pub async fn new_database() -> String {
    shared().await.new_database().await
}

/// Waits until a database has no connections, copies it, and returns the URL of the copy.
pub async fn copy(original: &str) -> String {
    let copy = new_name();
    wait_for_connections(original, "TRUE", 0).await;
    administer(&[format!("CREATE DATABASE {copy} TEMPLATE {}", name(original))]).await;
    original.replace(name(original), &copy)
}

/// Waits until a database has no connections, and replaces it with a copy.
pub async fn replace(url: &str, copy: &str) {
    let (original, copy) = (name(url), name(copy));
    wait_for_connections(url, "TRUE", 0).await;
    administer(&[format!("DROP DATABASE {original}"), format!("ALTER DATABASE {copy} RENAME TO {original}")]).await;
}

/// Terminates all server connections to a database.
pub async fn end_connections(url: &str) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'toggled'";
    administer(&[format!("{end} AND datname = '{}'", name(url))]).await;
}

fn new_name() -> String {
    format!("test_{}", uuid::Uuid::now_v7().simple())
}

async fn admin_connection() -> PgConnection {
    shared().await.admin_connection().await
}

async fn administer(statements: &[String]) {
    let mut admin = admin_connection().await;
    for statement in statements {
        admin.execute(sqlx::AssertSqlSafe(statement.as_str())).await.unwrap();
    }
    admin.close().await.unwrap();
}

/// Waits until exactly `count` connections to a database match a condition on `pg_stat_activity`.
pub async fn wait_for_connections(url: &str, condition: &'static str, count: i64) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND {condition}");
    let mut admin = admin_connection().await;
    with_timeout(&format!("{count} connections with {condition}"), async {
        loop {
            let query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql.as_str()));
            if query.bind(name(url)).fetch_one(&mut admin).await.unwrap() == count {
                return;
            }
        }
    })
    .await;
    admin.close().await.unwrap();
}

/// A lock on the head of a PostgreSQL log, so that nothing can be appended. Released on drop.
pub struct LockedHead {
    url: String,
    _holder: PgConnection,
}

impl LockedHead {
    pub async fn lock(url: &str) -> Self {
        let mut holder = PgConnection::connect(url).await.unwrap();
        holder.execute("BEGIN; SELECT * FROM log_head FOR UPDATE").await.unwrap();
        Self { url: url.to_owned(), _holder: holder }
    }

    /// Waits until a session waits for the lock. Then the committer is writing a batch, and later changes queue.
    pub async fn wait_for_waiter(&self) {
        self.wait_for_waiters(1).await;
    }

    /// Waits until exactly `count` sessions wait for the lock.
    pub async fn wait_for_waiters(&self, count: i64) {
        wait_for_connections(&self.url, "wait_event_type = 'Lock'", count).await;
    }
}

/// Changes a setting of a whole cluster. Existing sessions reload it.
pub async fn alter_system(admin: &mut PgConnection, change: &str) {
    admin.execute(sqlx::AssertSqlSafe(format!("ALTER SYSTEM {change}"))).await.unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
}

fn name(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

fn url(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

impl Cluster {
    /// Starts a cluster with extra server options, such as `-c fsync=off`.
    pub async fn start(options: &str) -> Self {
        Self::launch(options, None).await
    }

    /// Starts a cluster whose write-ahead log lies in `folder`, which must be writable by all users.
    pub async fn start_with_wal_in(options: &str, folder: &Path) -> Self {
        Self::launch(options, Some(folder)).await
    }

    async fn launch(options: &str, wal_folder: Option<&Path>) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/cluster.sh");
        // Another process may take the port before PostgreSQL binds it, so try several.
        for _ in 0..5 {
            let port = free_port();
            let mut process = Command::new("sh")
                .arg(script)
                .arg(programs())
                .arg(port.to_string())
                .env("CLUSTER_OPTIONS", options)
                .envs(wal_folder.map(|folder| ("CLUSTER_LOG_FOLDER", folder)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut replies = BufReader::new(process.stdout.take().unwrap()).lines();
            if replies.next_line().await.unwrap().as_deref() == Some("ready") {
                return Self { port, replies, process };
            }
        }
        panic!("PostgreSQL does not start; see its output above");
    }

    /// The address that the cluster listens on.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Whether the cluster runs as another user than this process.
    pub fn runs_as_other_user(&self) -> bool {
        // `cluster.sh` switches the user when it runs as root.
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    }

    /// Creates an empty database in this cluster and returns its URL.
    pub async fn new_database(&self) -> String {
        let (name, mut admin) = (new_name(), self.admin_connection().await);
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        url(self.port, &name)
    }

    /// A superuser's connection.
    pub async fn admin_connection(&self) -> PgConnection {
        PgConnection::connect(&url(self.port, "postgres")).await.unwrap()
    }

    /// Runs a command of `cluster.sh`, which lists them.
    pub async fn command(&mut self, command: &str) {
        self.process.stdin.as_mut().unwrap().write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let reply = with_timeout(command, self.replies.next_line()).await.unwrap();
        assert_eq!(reply.as_deref(), Some("done"), "{command}");
    }
}

/// A port that is currently free.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The folder with the programs of the newest installed PostgreSQL server.
fn programs() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("initdb").exists())
        .collect();
    versions.sort();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists())
    };
    versions
        .pop()
        .map(|(_, folder)| folder)
        .or_else(on_path)
        .expect("PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)")
}
