//! `toggled audit checkpoint`: a signed statement of what the log is, to keep elsewhere.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::output::{self, Format, Output};
use crate::cli::remote::Caller;
use crate::cli::{EXIT_FAILURE, Failure, file};
use crate::domain::Revision;
use crate::grpc::pb::{AuditCheckpoint, GetAuditCheckpointRequest, GetAuditCheckpointResponse};

/// Arguments of `toggled audit checkpoint`.
#[derive(Args)]
pub(super) struct Checkpoint {
    /// What the log was at this revision, which must still be kept; the end of the log without it
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<Revision>,
    /// The file to write the checkpoint to, which must not exist yet; standard output without it
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

/// What is told to scripts.
#[derive(Serialize)]
struct Shape<'a> {
    log_id: &'a str,
    revision: Revision,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    key_id: &'a str,
    signature: String,
    note: &'a str,
    verifier_keys: Vec<&'a str>,
}

impl Checkpoint {
    pub async fn run(self) -> Result<(), Failure> {
        if let Some(path) = self.output_file.as_deref().filter(|path| path.exists()) {
            return Err(taken(path));
        }
        let remote = self.caller.connect().await?;
        let request = GetAuditCheckpointRequest { revision: self.revision };
        let get = remote.retrying(request, async |clients, request| clients.audit.get_audit_checkpoint(request).await);
        let answer = get.await?;
        let Some(checkpoint) = &answer.checkpoint else {
            return Err(Failure { code: EXIT_FAILURE, line: "the server sent no checkpoint".to_owned() });
        };
        if let Some(path) = &self.output_file {
            write(path, &checkpoint.note)?;
            let AuditCheckpoint { revision, log_id, key_id, .. } = checkpoint;
            output::note(&format!("revision {revision} of log {log_id}, signed by the key {key_id}"));
        }
        match self.output.output {
            Format::Json => output::line(&output::json(&shape(checkpoint, &answer))?),
            Format::Table if self.output_file.is_none() => output::file(checkpoint.note.as_bytes()),
            Format::Table => Ok(()),
        }
    }
}

fn shape<'a>(checkpoint: &'a AuditCheckpoint, answer: &'a GetAuditCheckpointResponse) -> Shape<'a> {
    Shape {
        log_id: &checkpoint.log_id,
        revision: checkpoint.revision,
        hash: output::hex(&checkpoint.hash),
        time: output::time(checkpoint.time.as_ref()),
        key_id: &checkpoint.key_id,
        signature: output::hex(&checkpoint.signature),
        note: &checkpoint.note,
        verifier_keys: answer.keys.iter().map(|key| key.verifier_key.as_str()).collect(),
    }
}

/// Writes a new file; where that fails there is none.
fn write(path: &Path, note: &str) -> Result<(), Failure> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken(path)),
        file => file.map_err(|error| file::failed(&path.display().to_string(), &error))?,
    };
    let written = file.write_all(note.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| file::sync_folder(path)).map_err(|error| {
        let _ = fs::remove_file(path);
        file::failed(&path.display().to_string(), &error)
    })
}

/// A checkpoint is kept for good: none takes the place of another.
fn taken(path: &Path) -> Failure {
    Failure::usage(format!("--output-file {}: it exists already; name another", path.display()))
}
