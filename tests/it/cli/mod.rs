//! The command line as a client of a server: the real program against the real one.

mod audit;
mod audit_export;
mod audit_trim;
mod audit_verify;
mod checkpoint;
mod connection;
mod export;
mod failures;
mod flags;
mod import;
mod import_again;
mod patience;
mod streams;
mod terminal;

use std::fmt::Display;
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::support::{Backend, Database, Server, TOKEN, invoke, program, with_timeout};

/// A server on a database of its own.
async fn server() -> (Server, Database) {
    let database = Database::new(Backend::Sqlite).await;
    (Server::start(&database).await, database)
}

/// Somebody at the command line of a server.
pub struct Shell {
    settings: Vec<(&'static str, String)>,
}

impl Shell {
    /// The administrator.
    pub fn new(address: impl Display) -> Self {
        Self::of(address, TOKEN)
    }

    pub fn of(address: impl Display, token: &str) -> Self {
        Self::anonymous(address).with("TOGGLED_TOKEN", token)
    }

    pub fn anonymous(address: impl Display) -> Self {
        Self { settings: vec![("TOGGLED_ADDR", address.to_string())] }
    }

    pub fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }

    fn settings(&self) -> Vec<(&'static str, &str)> {
        self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Its status and what it says on standard output and on standard error.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = invoke(arguments, &self.settings()).await;
        let [out, told] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        for text in [&out, &told] {
            let secrets = self.settings.iter().filter(|(name, token)| *name == "TOGGLED_TOKEN" && !token.is_empty());
            assert!(secrets.clone().all(|(_, token)| !text.contains(token.as_str())), "{arguments:?}: {text}");
            // CSV is just as it is.
            let raw = arguments.contains(&"csv");
            let plain = |c: char| match c {
                '\n' => true,
                '\t' => raw || arguments[0] == "completions",
                '\u{1b}' => false,
                c => raw || !c.is_control(),
            };
            assert!(text.chars().all(plain), "neither colours nor a progress bar: {arguments:?}: {text:?}");
        }
        (status.code().unwrap(), out, told)
    }

    /// What it says when it succeeds, which is all that it says.
    pub async fn says(&self, arguments: &[&str]) -> String {
        let (code, out, told) = self.run(arguments).await;
        assert_eq!((code, told.as_str()), (0, ""), "{arguments:?}: {out}");
        out
    }

    /// The rows of a table, below its head, by columns.
    pub async fn rows(&self, arguments: &[&str]) -> Vec<Vec<String>> {
        let cells =
            |line: &str| line.split("  ").map(|cell| cell.trim().to_owned()).filter(|c| !c.is_empty()).collect();
        self.says(arguments).await.lines().skip(1).map(cells).collect()
    }

    /// What it says to scripts: an object a line.
    pub async fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.says(&[arguments, &["--output", "json"]].concat()).await;
        out.lines().map(object).collect()
    }

    /// The same, where it is one.
    pub async fn object(&self, arguments: &[&str]) -> Value {
        let [object] = <[Value; 1]>::try_from(self.objects(arguments).await).unwrap();
        object
    }

    /// The one line that it complains with.
    pub async fn fails(&self, arguments: &[&str], code: i32) -> String {
        let (status, out, told) = self.run(arguments).await;
        assert_eq!((status, out.as_str(), told.lines().count()), (code, "", 1), "{arguments:?}: {told}");
        told
    }

    /// What goes on until it is asked to end.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let folder = TempDir::new().unwrap();
        let mut command = program(folder.path());
        command.args(arguments).envs(self.settings()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap()).lines();
        let told = BufReader::new(process.stderr.take().unwrap()).lines();
        Running { process, out, told, _folder: folder }
    }
}

fn object(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap();
    assert!(value.is_object(), "{line}");
    value
}

/// A command that goes on.
pub struct Running {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    told: Lines<BufReader<ChildStderr>>,
    _folder: TempDir,
}

impl Running {
    /// The next line that it says.
    pub async fn line(&mut self) -> String {
        with_timeout("a line", self.out.next_line()).await.unwrap().expect("it goes on")
    }

    /// The next line, to a script.
    pub async fn object(&mut self) -> Value {
        object(&self.line().await)
    }

    /// The next line of standard error.
    pub async fn complaint(&mut self) -> String {
        with_timeout("a complaint", self.told.next_line()).await.unwrap().expect("it goes on")
    }

    pub async fn signal(&self, signal: &str) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    /// Its status, and what else it has said.
    pub async fn ended(mut self) -> (i32, Vec<String>, Vec<String>) {
        let (mut out, mut told) = (Vec::new(), Vec::new());
        while let Some(line) = with_timeout("the last of its words", self.out.next_line()).await.unwrap() {
            out.push(line);
        }
        while let Some(line) = with_timeout("the last of its complaints", self.told.next_line()).await.unwrap() {
            told.push(line);
        }
        (with_timeout("the command to end", self.process.wait()).await.unwrap().code().unwrap(), out, told)
    }

    /// Whether a signal ended it.
    pub async fn killed(mut self) -> bool {
        with_timeout("the command to end", self.process.wait()).await.unwrap().code().is_none()
    }

    /// Closes the pipe that it writes to.
    pub fn stop_reading(self) -> Child {
        self.process
    }

    /// Ends it as Ctrl-C does, which is no failure.
    pub async fn interrupt(self) -> Vec<String> {
        self.signal("-INT").await;
        let (code, out, _) = self.ended().await;
        assert_eq!(code, 0);
        out
    }
}
