//! The command line as a client of a server: the real program against a real server. Whole outputs are compared with the
//! files in `snapshots`; `INSTA_UPDATE=always cargo test` rewrites them.

mod audit;
mod audit_export;
mod audit_trim;
mod audit_verify;
mod checkpoint;
mod connection;
mod copy;
mod environments;
mod export;
mod failures;
mod flags;
mod hostile_server;
mod import;
mod import_repeat;
mod streams;
pub mod terminal;
mod timeouts;

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

/// Compares an output with a snapshot. Ids, times, addresses and folders differ from run to run: they are replaced, with
/// values of the same width where columns follow.
macro_rules! assert_output {
    ($name:expr, $output:expr) => {{
        let output: String = $output;
        $crate::cli::redactions().bind(|| insta::assert_snapshot!($name, output));
    }};
}
pub(crate) use assert_output;

fn redactions() -> insta::Settings {
    let mut settings = insta::Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cli/snapshots"));
    for (pattern, replacement) in [
        // Times since these tests were written, and not those in imported files. Zeros at the end are left out.
        (r"20(2[6-9]|[3-9]\d)-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z", "2026-01-31T12:00:00.000000Z"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "00000000-0000-7000-8000-000000000000"),
        (r"(127\.0\.0\.1|localhost):\d+", "$1:50051"),
        (r"\S*/\.tmp\w{6}", "/tmp/folder"),
        (concat!(env!("CARGO_MANIFEST_DIR"), "/"), ""),
    ] {
        settings.add_filter(pattern, replacement);
    }
    settings
}

/// The command line with the settings of one caller.
pub struct Shell {
    settings: Vec<(&'static str, String)>,
}

impl Shell {
    /// The administrator, at the server of this address.
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

    /// Runs a command: its exit code, standard output and standard error.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = invoke(arguments, &self.settings()).await;
        let [out, error] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        for text in [&out, &error] {
            let secrets = self.settings.iter().filter(|(name, token)| *name == "TOGGLED_TOKEN" && !token.is_empty());
            assert!(secrets.clone().all(|(_, token)| !text.contains(token.as_str())), "{arguments:?}: {text}");
            // CSV is printed unescaped.
            let raw = arguments.contains(&"csv");
            let plain = |c: char| match c {
                '\n' => true,
                '\t' => raw || arguments[0] == "completions",
                '\u{1b}' => false,
                c => raw || !c.is_control(),
            };
            assert!(text.chars().all(plain), "no colors and no progress bar: {arguments:?}: {text:?}");
        }
        (status.code().unwrap(), out, error)
    }

    /// Runs commands one after the other: what a terminal would show, with the exit codes of failures.
    pub async fn transcript(&self, commands: &[&[&str]]) -> String {
        let mut text = String::new();
        for arguments in commands {
            let (code, out, error) = self.run(arguments).await;
            let code = if code == 0 { String::new() } else { format!("[exit code {code}]\n") };
            text += &format!("$ toggled {}\n{out}{error}{code}\n", arguments.join(" ").replace('\n', "\\n"));
        }
        text
    }

    /// The standard output of a command that succeeds, and prints nothing else.
    pub async fn succeeds(&self, arguments: &[&str]) -> String {
        let (code, out, error) = self.run(arguments).await;
        assert_eq!((code, error.as_str()), (0, ""), "{arguments:?}: {out}");
        out
    }

    /// The rows of a printed table as columns, without the header.
    pub async fn rows(&self, arguments: &[&str]) -> Vec<Vec<String>> {
        let cells =
            |line: &str| line.split("  ").map(|cell| cell.trim().to_owned()).filter(|c| !c.is_empty()).collect();
        self.succeeds(arguments).await.lines().skip(1).map(cells).collect()
    }

    /// The JSON objects that a command prints.
    pub async fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.succeeds(&[arguments, &["--output", "json"]].concat()).await;
        out.lines().map(object).collect()
    }

    /// The only JSON object that a command prints.
    pub async fn object(&self, arguments: &[&str]) -> Value {
        let [object] = <[Value; 1]>::try_from(self.objects(arguments).await).unwrap();
        object
    }

    /// The error line of a command that fails with this exit code.
    pub async fn fails(&self, arguments: &[&str], code: i32) -> String {
        let (status, out, error) = self.run(arguments).await;
        assert_eq!((status, out.as_str(), error.lines().count()), (code, "", 1), "{arguments:?}: {error}");
        error
    }

    /// Starts a command that runs until it is stopped.
    pub fn start(&self, arguments: &[&str]) -> Running {
        let folder = TempDir::new().unwrap();
        let mut command = program(folder.path());
        command.args(arguments).envs(self.settings()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap()).lines();
        let errors = BufReader::new(process.stderr.take().unwrap()).lines();
        Running { process, out, errors, _folder: folder }
    }
}

fn object(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap();
    assert!(value.is_object(), "{line}");
    value
}

/// A command that is running.
pub struct Running {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
    _folder: TempDir,
}

impl Running {
    /// The next line of standard output.
    pub async fn line(&mut self) -> String {
        with_timeout("a line", self.out.next_line()).await.unwrap().expect("the command ended")
    }

    /// The next line of standard output, as JSON.
    pub async fn object(&mut self) -> Value {
        object(&self.line().await)
    }

    /// The next line of standard error.
    pub async fn error_line(&mut self) -> String {
        with_timeout("an error line", self.errors.next_line()).await.unwrap().expect("the command ended")
    }

    pub async fn signal(&self, signal: &str) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
    }

    /// Waits for its end: the exit code, and the remaining lines of standard output and standard error.
    pub async fn wait(mut self) -> (i32, Vec<String>, Vec<String>) {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        while let Some(line) = with_timeout("the rest of the output", self.out.next_line()).await.unwrap() {
            out.push(line);
        }
        while let Some(line) = with_timeout("the rest of the errors", self.errors.next_line()).await.unwrap() {
            errors.push(line);
        }
        (with_timeout("the command to end", self.process.wait()).await.unwrap().code().unwrap(), out, errors)
    }

    /// Whether a signal ended it.
    pub async fn was_killed(mut self) -> bool {
        with_timeout("the command to end", self.process.wait()).await.unwrap().code().is_none()
    }

    /// Closes the pipe that it writes to.
    pub fn close_output(self) -> Child {
        self.process
    }

    /// Stops it as Ctrl-C does, which is a success: the remaining lines of standard output.
    pub async fn interrupt(self) -> Vec<String> {
        self.signal("-INT").await;
        let (code, out, _) = self.wait().await;
        assert_eq!(code, 0);
        out
    }
}
