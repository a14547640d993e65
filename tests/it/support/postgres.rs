//! A real PostgreSQL, started once for all tests, each of which has a database of its own; or a whole cluster for a test
//! that does it harm.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::{Connection, Executor, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use super::soon;

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// A running cluster; stopped and removed with this value.
pub struct Cluster {
    port: u16,
    answers: Lines<BufReader<ChildStdout>>,
    /// Its standard input is what keeps the cluster running, and takes orders.
    process: Child,
}

/// The one that tests share.
async fn shared() -> &'static Cluster {
    // What was committed outlives servers and connections all the same: only a loss of power could tell.
    CLUSTER.get_or_init(|| Cluster::start("-c fsync=off")).await
}

/// The URL of a new, empty database.
pub async fn new_database() -> String {
    shared().await.new_database().await
}

/// The URL of a copy of a database that has no connections.
pub async fn copy(of: &str) -> String {
    let copy = new_name();
    until_connected(of, "TRUE", 0).await;
    administer(&[format!("CREATE DATABASE {copy} TEMPLATE {}", name(of))]).await;
    of.replace(name(of), &copy)
}

/// Puts a copy in the place of a database that has no connections.
pub async fn replace(url: &str, by: &str) {
    let (original, copy) = (name(url), name(by));
    until_connected(url, "TRUE", 0).await;
    administer(&[format!("DROP DATABASE {original}"), format!("ALTER DATABASE {copy} RENAME TO {original}")]).await;
}

/// Ends what servers have connected to a database.
pub async fn end_connections(url: &str) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'toggled'";
    administer(&[format!("{end} AND datname = '{}'", name(url))]).await;
}

fn new_name() -> String {
    format!("test_{}", uuid::Uuid::now_v7().simple())
}

async fn administrator() -> PgConnection {
    shared().await.administrator().await
}

async fn administer(statements: &[String]) {
    let mut admin = administrator().await;
    for statement in statements {
        admin.execute(sqlx::AssertSqlSafe(statement.as_str())).await.unwrap();
    }
    admin.close().await.unwrap();
}

/// Waits until so many connections to a database are as `what` says.
pub async fn until_connected(url: &str, what: &'static str, count: i64) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND {what}");
    let mut admin = administrator().await;
    soon("other connections", async {
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

/// The head of a PostgreSQL log, held so that nothing can be appended; let go with this value.
pub struct HeldHead {
    url: String,
    _holder: PgConnection,
}

impl HeldHead {
    pub async fn hold(url: &str) -> Self {
        let mut holder = PgConnection::connect(url).await.unwrap();
        holder.execute("BEGIN; SELECT * FROM log_head FOR UPDATE").await.unwrap();
        Self { url: url.to_owned(), _holder: holder }
    }

    /// Waits until somebody waits for it: then a batch is being written, and what comes next queues.
    pub async fn until_wanted(&self) {
        self.until_wanted_by(1).await;
    }

    /// Waits until so many do.
    pub async fn until_wanted_by(&self, count: i64) {
        until_connected(&self.url, "wait_event_type = 'Lock'", count).await;
    }
}

/// Changes a setting of a whole cluster, for sessions that are there already too.
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
    /// One with these options of the server's.
    pub async fn start(options: &str) -> Self {
        Self::launch(options, None).await
    }

    /// One whose write-ahead log lies in this folder, where everybody may write.
    pub async fn start_writing_ahead_in(options: &str, folder: &Path) -> Self {
        Self::launch(options, Some(folder)).await
    }

    async fn launch(options: &str, log: Option<&Path>) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/cluster.sh");
        // A port that is free now may be taken a moment later: then the next one is tried.
        for _ in 0..5 {
            let port = free_port();
            let mut process = Command::new("sh")
                .arg(script)
                .arg(programs())
                .arg(port.to_string())
                .env("CLUSTER_OPTIONS", options)
                .envs(log.map(|folder| ("CLUSTER_LOG_FOLDER", folder)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut answers = BufReader::new(process.stdout.take().unwrap()).lines();
            if answers.next_line().await.unwrap().as_deref() == Some("ready") {
                return Self { port, answers, process };
            }
        }
        panic!("PostgreSQL does not start; what it says is above");
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Whether it runs as another user than this.
    pub fn is_others(&self) -> bool {
        // As the script decides it.
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    }

    /// The URL of a new, empty database in it.
    pub async fn new_database(&self) -> String {
        let (name, mut admin) = (new_name(), self.administrator().await);
        admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        url(self.port, &name)
    }

    /// A connection that may do everything.
    pub async fn administrator(&self) -> PgConnection {
        PgConnection::connect(&url(self.port, "postgres")).await.unwrap()
    }

    /// Has the script do something: see there.
    pub async fn order(&mut self, order: &str) {
        self.process.stdin.as_mut().unwrap().write_all(format!("{order}\n").as_bytes()).await.unwrap();
        let answer = soon(order, self.answers.next_line()).await.unwrap();
        assert_eq!(answer.as_deref(), Some("done"), "{order}");
    }
}

/// A port that nobody uses just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The folder of the newest server programs on this machine.
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
