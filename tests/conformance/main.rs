//! Connect's own conformance suite: its clients call a service behind the layers that serve Connect and gRPC-Web.
//!
//! `cargo test --test conformance` builds the suite's runner with Go, and runs it. Without Go, it prints what it leaves out. The runner
//! starts this program again, as the server under test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod messages;
mod service;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use prost::Message;
use toggled::config::Limits;
use tokio::net::TcpListener;

use messages::{ServerRequest, ServerResponse};
use service::{Conformance, NAME};

/// The runner, which has the suite in it.
const RUNNER: &str = "connectrpc.com/conformance/cmd/connectconformance";
const MODULE: &str = "connectrpc.com/conformance";
const VERSION: &str = "v1.0.7";

/// The argument that makes this program the server under test; the file with the suite's descriptors follows.
const SERVE: &str = "--serve-with";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, serve, descriptors] = &*arguments
        && serve == SERVE
    {
        serve_suite(Path::new(descriptors));
        return ExitCode::SUCCESS;
    }
    if Command::new("go").arg("version").output().is_err() {
        println!("no Go: Connect's conformance suite is left out");
        return ExitCode::SUCCESS;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    std::fs::create_dir_all(&folder).unwrap();
    let (runner, descriptors) = (install(&folder), describe(&folder));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new(runner)
        .args(["--mode", "server", "--conf"])
        .arg(root.join("tests/conformance/config.yaml"))
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([Path::new(SERVE), &descriptors])
        .status()
        .unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Builds the runner, unless it is there.
fn install(folder: &Path) -> PathBuf {
    let programs = folder.join(VERSION);
    let runner = programs.join("connectconformance");
    if !runner.exists() {
        run(Command::new("go").args(["install", &format!("{RUNNER}@{VERSION}")]).env("GOBIN", &programs));
    }
    runner
}

/// Compiles the suite's .proto files, which are in its module.
fn describe(folder: &Path) -> PathBuf {
    let module = format!("{MODULE}@{VERSION}");
    let downloaded = run(Command::new("go").args(["mod", "download", "-json", &module]).current_dir(folder));
    let downloaded: serde_json::Value = serde_json::from_slice(&downloaded).unwrap();
    let protos = Path::new(downloaded["Dir"].as_str().unwrap()).join("proto");
    let descriptors = folder.join("descriptors.bin");
    let protoc = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/bin/protoc");
    run(Command::new(std::env::var_os("PROTOC").unwrap_or(protoc.into()))
        .arg("--include_imports")
        .arg("--proto_path")
        .arg(&protos)
        .arg("--descriptor_set_out")
        .arg(&descriptors)
        .arg("connectrpc/conformance/v1/service.proto"));
    descriptors
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Reads from standard input what to serve, and writes the address.
fn serve_suite(descriptors: &Path) {
    let descriptors = std::fs::read(descriptors).unwrap();
    let mut length = [0; 4];
    std::io::stdin().read_exact(&mut length).unwrap();
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    std::io::stdin().read_exact(&mut request).unwrap();
    let request = ServerRequest::decode(&*request).unwrap();
    let mut limits = defaults();
    let max_bytes = match request.message_receive_limit {
        0 => 4 << 20,
        limit => limit as usize,
    };
    limits.fixed.max_public_request_bytes = max_bytes;
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let response = ServerResponse { host: address.ip().to_string(), port: address.port().into() }.encode_to_vec();
        let length = u32::try_from(response.len()).unwrap().to_be_bytes();
        std::io::stdout().write_all(&[&length, &*response].concat()).unwrap();
        std::io::stdout().flush().unwrap();
        let service = Conformance { max_bytes };
        toggled::api::serve_for_conformance(listener, (&descriptors, NAME), service, &limits).await.unwrap();
    });
}

/// The default limits, without the environment.
fn defaults() -> Limits {
    use clap::FromArgMatches;
    let command = Limits::augment_args(clap::Command::new("toggled")).mut_args(|argument| argument.env(None::<&str>));
    Limits::from_arg_matches(&command.get_matches_from(["toggled"])).unwrap()
}
