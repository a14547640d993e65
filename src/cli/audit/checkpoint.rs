//! `toggled audit checkpoint`: a signed statement of what the log is, to keep elsewhere.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use uuid::Uuid;

use crate::api::pb::{AuditCheckpoint, GetAuditCheckpointRequest, GetAuditCheckpointResponse};
use crate::checkpoint::{Note, VerifierKey};
use crate::cli::output::{self, Format, Output};
use crate::cli::remote::Caller;
use crate::cli::{EXIT_FAILURE, Failure, file};
use crate::domain::Revision;

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
        let (checkpoint, _) = signed(&answer, self.revision)?;
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

/// What the server has signed, if it is what was asked for: a note of this revision (of any, without one), of the log that
/// the answer speaks of, signed by a key that the answer lists, which says nothing that is not in the fields beside it.
pub(super) fn signed(
    answer: &GetAuditCheckpointResponse,
    revision: Option<Revision>,
) -> Result<(&AuditCheckpoint, Arc<Note>), Failure> {
    let wrong = |what: String| Failure { code: EXIT_FAILURE, line: format!("what the server has signed: {what}") };
    let checkpoint = answer.checkpoint.as_ref().ok_or_else(|| wrong("there is no checkpoint".to_owned()))?;
    let log_id = Uuid::try_parse(&checkpoint.log_id).map_err(|_| wrong("its log_id is no UUID".to_owned()))?;
    let keys: Vec<_> = answer.keys.iter().filter_map(|key| VerifierKey::parse(&key.verifier_key).ok()).collect();
    let note = Note::of(log_id, revision.unwrap_or(checkpoint.revision), &checkpoint.note, &keys);
    let note = note.map_err(|misfit| wrong(misfit.to_string()))?;
    let note = Arc::new(note);
    let differing = differing(checkpoint, &(&note).into());
    if !differing.is_empty() {
        return Err(wrong(format!("the server says otherwise beside the note: {}", differing.join(", "))));
    }
    Ok((checkpoint, note))
}

/// The fields in which what is said differs from what the note says.
fn differing(said: &AuditCheckpoint, note: &AuditCheckpoint) -> Vec<&'static str> {
    let fields = [
        ("log_id", said.log_id == note.log_id),
        ("revision", said.revision == note.revision),
        ("hash", said.hash == note.hash),
        ("time", said.time == note.time),
        ("key_id", said.key_id == note.key_id),
        ("signature", said.signature == note.signature),
    ];
    fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
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
    fn what_a_server_sends_is_a_checkpoint_only_if_it_is_what_was_asked_for() {
        let [key, other] = [(), ()].map(|()| SigningKey::generate().unwrap());
        let good = answer(&key, &key);
        assert!(signed(&good, None).is_ok() && signed(&good, Some(3)).is_ok());
        let told = |answer: &GetAuditCheckpointResponse, revision| signed(answer, revision).map(drop).unwrap_err().line;
        assert!(told(&good, Some(4)).contains("it was signed for revision 3"));
        assert!(told(&answer(&key, &other), None).contains("none of the given keys"));
        assert!(told(&GetAuditCheckpointResponse::default(), None).contains("there is no checkpoint"));
        type Alteration = (&'static str, fn(&mut AuditCheckpoint));
        let alterations: [Alteration; 9] = [
            ("is not of this checkpoint", |checkpoint| checkpoint.note = checkpoint.note.replacen("\n3\n", "\n4\n", 1)),
            ("no signed checkpoint", |checkpoint| checkpoint.note.clear()),
            ("for revision 3 of log", |checkpoint| checkpoint.revision = 4),
            ("for revision 3 of log", |checkpoint| checkpoint.log_id = Uuid::nil().to_string()),
            ("log_id is no UUID", |checkpoint| checkpoint.log_id = "x".to_owned()),
            ("beside the note: hash", |checkpoint| checkpoint.hash = vec![2; 32]),
            ("beside the note: time", |checkpoint| checkpoint.time = None),
            ("beside the note: key_id", |checkpoint| checkpoint.key_id.clear()),
            ("beside the note: signature", |checkpoint| checkpoint.signature[9] ^= 1),
        ];
        for (what, alter) in alterations {
            let mut bad = good.clone();
            alter(bad.checkpoint.as_mut().unwrap());
            let told = told(&bad, None);
            assert!(told.starts_with("what the server has signed: ") && told.contains(what), "{told}");
        }
        // Whatever it is asked for: the revision is said beside the note too.
        let mut bad = good.clone();
        bad.checkpoint.as_mut().unwrap().revision = 4;
        assert!(told(&bad, Some(3)).ends_with("beside the note: revision"));
    }
}
