//! `toggled audit checkpoint`: a signed checkpoint of the log, to keep elsewhere.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use crate::api::pb::{AuditCheckpoint, GetAuditCheckpointRequest, GetAuditCheckpointResponse};
use crate::checkpoint::{Note, VerifierKey};
use crate::cli::output::{self, OutputFormat, OutputOptions};
use crate::cli::remote::ConnectionOptions;
use crate::cli::{EXIT_FAILURE, Failure, file};
use crate::domain::Revision;

/// Arguments of `toggled audit checkpoint`.
#[derive(Args)]
pub(super) struct CheckpointArgs {
    /// The revision of the checkpoint, which must not be trimmed. Default: the end of the log
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<Revision>,
    /// Write the checkpoint to this file, which must not exist. Default: standard output
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// The JSON object.
#[derive(Serialize)]
struct CheckpointJson<'a> {
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

impl CheckpointArgs {
    pub async fn run(self) -> Result<(), Failure> {
        if let Some(path) = self.output_file.as_deref().filter(|path| path.exists()) {
            return Err(exists(path));
        }
        let client = self.connection.connect().await?;
        let request = GetAuditCheckpointRequest { revision: self.revision };
        let get = client.call(request, async |clients, request| clients.audit.get_audit_checkpoint(request).await);
        let answer = get.await?;
        let (checkpoint, _) = verified_checkpoint(&answer, self.revision)?;
        if let Some(path) = &self.output_file {
            write(path, &checkpoint.note)?;
            let AuditCheckpoint { revision, log_id, key_id, .. } = checkpoint;
            output::print_note(&format!("revision {revision} of log {log_id}, signed by the key {key_id}"));
        }
        match self.output.format {
            OutputFormat::Json => output::print_line(&output::to_json(&checkpoint_json(checkpoint, &answer))?),
            OutputFormat::Table if self.output_file.is_none() => output::print_bytes(checkpoint.note.as_bytes()),
            OutputFormat::Table => Ok(()),
        }
    }
}

/// Verifies the checkpoint of an answer: its note is signed by a listed key, for the answer's log and the requested revision,
/// and agrees with the fields beside it.
pub(super) fn verified_checkpoint(
    answer: &GetAuditCheckpointResponse,
    revision: Option<Revision>,
) -> Result<(&AuditCheckpoint, Arc<Note>), Failure> {
    let invalid = |problem: String| Failure {
        code: EXIT_FAILURE,
        message: format!("invalid checkpoint from the server: {problem}"),
    };
    let checkpoint = answer.checkpoint.as_ref().ok_or_else(|| invalid("it is missing".to_owned()))?;
    let log_id = Uuid::try_parse(&checkpoint.log_id).map_err(|_| invalid("log_id is not a UUID".to_owned()))?;
    let keys: Vec<_> = answer.keys.iter().filter_map(|key| VerifierKey::parse(&key.verifier_key).ok()).collect();
    let note = Note::parse_verified(log_id, revision.unwrap_or(checkpoint.revision), &checkpoint.note, &keys);
    let note = note.map_err(|misfit| invalid(misfit.to_string()))?;
    let note = Arc::new(note);
    let differing = differing_fields(checkpoint, &(&note).into());
    if !differing.is_empty() {
        return Err(invalid(format!("fields differ from its signed text: {}", differing.join(", "))));
    }
    Ok((checkpoint, note))
}

/// The names of the fields that differ from the note.
fn differing_fields(sent: &AuditCheckpoint, note: &AuditCheckpoint) -> Vec<&'static str> {
    let fields = [
        ("log_id", sent.log_id == note.log_id),
        ("revision", sent.revision == note.revision),
        ("hash", sent.hash == note.hash),
        ("time", sent.time == note.time),
        ("key_id", sent.key_id == note.key_id),
        ("signature", sent.signature == note.signature),
    ];
    fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

fn checkpoint_json<'a>(checkpoint: &'a AuditCheckpoint, answer: &'a GetAuditCheckpointResponse) -> CheckpointJson<'a> {
    CheckpointJson {
        log_id: &checkpoint.log_id,
        revision: checkpoint.revision,
        hash: hex::encode(&checkpoint.hash),
        time: output::time(checkpoint.time.as_ref()),
        key_id: &checkpoint.key_id,
        signature: hex::encode(&checkpoint.signature),
        note: &checkpoint.note,
        verifier_keys: answer.keys.iter().map(|key| key.verifier_key.as_str()).collect(),
    }
}

/// Writes a new file; removes it if that fails.
fn write(path: &Path, note: &str) -> Result<(), Failure> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists(path)),
        file => file.map_err(|error| file::io_failure(&path.display().to_string(), &error))?,
    };
    let written = file.write_all(note.as_bytes()).and_then(|()| file.sync_all());
    written.and_then(|()| file::sync_parent_folder(path)).map_err(|error| {
        let _ = fs::remove_file(path);
        file::io_failure(&path.display().to_string(), &error)
    })
}

/// A checkpoint file is never overwritten.
fn exists(path: &Path) -> Failure {
    Failure::usage(format!("--output-file {}: the file exists already; name another", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pb::CheckpointKey;
    use crate::checkpoint::{self, SigningKey};
    use crate::domain::time::Timestamp;

    const LOG: Uuid = Uuid::from_u128(7);

    fn answer(key: &SigningKey, listed: &SigningKey) -> GetAuditCheckpointResponse {
        let of = checkpoint::Checkpoint { log_id: LOG, revision: 3, hash: [1; 32], time: Timestamp::default() };
        let checkpoint = AuditCheckpoint::from(&Arc::new(key.sign(of)));
        let key = CheckpointKey { verifier_key: listed.verifier(LOG).to_string(), ..Default::default() };
        GetAuditCheckpointResponse { checkpoint: Some(checkpoint), keys: vec![key] }
    }

    #[test]
    fn checkpoint_that_was_not_requested_is_refused() {
        let [key, other] = [(), ()].map(|()| SigningKey::generate().unwrap());
        let good = answer(&key, &key);
        assert!(verified_checkpoint(&good, None).is_ok() && verified_checkpoint(&good, Some(3)).is_ok());
        let problem = |answer: &GetAuditCheckpointResponse, revision| {
            verified_checkpoint(answer, revision).map(drop).unwrap_err().message
        };
        assert!(problem(&good, Some(4)).contains("signed for revision 3"));
        assert!(problem(&answer(&key, &other), None).contains("not signed by any of the known keys"));
        assert!(problem(&GetAuditCheckpointResponse::default(), None).contains("it is missing"));
        type Alteration = (&'static str, fn(&mut AuditCheckpoint));
        let alterations: [Alteration; 9] = [
            ("does not match the checkpoint", |checkpoint| {
                checkpoint.note = checkpoint.note.replacen("\n3\n", "\n4\n", 1)
            }),
            ("not a signed checkpoint", |checkpoint| checkpoint.note.clear()),
            ("for revision 3 of log", |checkpoint| checkpoint.revision = 4),
            ("for revision 3 of log", |checkpoint| checkpoint.log_id = Uuid::nil().to_string()),
            ("log_id is not a UUID", |checkpoint| checkpoint.log_id = "x".to_owned()),
            ("differ from its signed text: hash", |checkpoint| checkpoint.hash = vec![2; 32]),
            ("differ from its signed text: time", |checkpoint| checkpoint.time = None),
            ("differ from its signed text: key_id", |checkpoint| checkpoint.key_id.clear()),
            ("differ from its signed text: signature", |checkpoint| checkpoint.signature[9] ^= 1),
        ];
        for (what, alter) in alterations {
            let mut bad = good.clone();
            alter(bad.checkpoint.as_mut().unwrap());
            let problem = problem(&bad, None);
            assert!(problem.starts_with("invalid checkpoint from the server: ") && problem.contains(what), "{problem}");
        }
        // The revision field is compared with the note as well.
        let mut bad = good.clone();
        bad.checkpoint.as_mut().unwrap().revision = 4;
        assert!(problem(&bad, Some(3)).ends_with("differ from its signed text: revision"));
    }
}
