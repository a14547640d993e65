//! The file that keeps what is to be removed: read back from disk and verified, entry by entry.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use uuid::Uuid;

use crate::cli::audit::export::unhex;
use crate::cli::{EXIT_FAILURE, Failure, file};
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::hash::GENESIS;
use crate::domain::time::Timestamp;
use crate::domain::verify::Chain;
use crate::domain::{Hash, Revision};

/// Where the log begins: behind the entry at a revision, which had this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beginning {
    pub floor: Revision,
    pub hash: Hash,
}

/// What was found in a file in which every hash is right.
pub(super) struct Archive {
    /// Where its last entry stands; none where it holds none.
    pub chain: Option<Chain>,
    /// The hash of the entry that was looked for.
    pub wanted: Option<Hash>,
}

/// Verifies the first `bytes` of a file, which are complete lines, and looks for the entry at a revision. The file begins
/// where the log does, or with the first entry that there ever was.
pub(super) fn verify(path: &Path, bytes: u64, log: Beginning, wanted: Revision) -> Result<Archive, Failure> {
    let name = path.display().to_string();
    let opened = File::open(path).map_err(|error| file::failed(&name, &error))?;
    let mut lines = BufReader::new(opened).take(bytes);
    let mut archive = Archive { chain: None, wanted: None };
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(|error| file::failed(&name, &error))? == 0 {
            return Ok(archive);
        }
        let (log_id, entry) = read(&line).map_err(|problem| failed(format!("{name}: {problem}")))?;
        let chain = match &mut archive.chain {
            Some(chain) => chain,
            none => none.insert(begin(&name, log_id, entry.revision, log)?),
        };
        chain.take(&entry).map_err(|fault| failed(format!("{name}: {fault}")))?;
        if entry.revision == wanted {
            archive.wanted = Some(entry.hash);
        }
    }
}

fn begin(name: &str, log_id: Uuid, first: Revision, log: Beginning) -> Result<Chain, Failure> {
    match first {
        first if first == log.floor + 1 => Ok(Chain::behind(log_id, log.floor, log.hash)),
        1 => Ok(Chain::behind(log_id, 0, GENESIS)),
        first => Err(Failure::usage(format!(
            "{name}: it begins with revision {first}, and the log with {}: entries between are missing in it, or nothing \
             tells the hash before it; name another file",
            log.floor + 1
        ))),
    }
}

pub(super) fn failed(line: String) -> Failure {
    Failure { code: EXIT_FAILURE, line }
}

/// A line, as `audit export` writes it.
#[derive(Deserialize)]
struct Line {
    log_id: Uuid,
    id: Uuid,
    revision: Revision,
    timestamp: String,
    user_id: Option<Uuid>,
    user_email: String,
    token_id: Option<Uuid>,
    action_type: String,
    entity_type: String,
    entity_id: Option<Uuid>,
    entity_key: String,
    entity_name: String,
    old_value: Option<String>,
    new_value: Option<String>,
    reason: Option<String>,
    request_id: Option<String>,
    method: String,
    peer: Option<String>,
    user_agent: Option<String>,
    previous_entity_revision: Option<Revision>,
    reverts: Option<Uuid>,
    hash_version: u8,
    hash: String,
    created_at: String,
}

fn read(line: &[u8]) -> Result<(Uuid, Entry), String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| format!("a line is no entry: {error}"))?;
    let revision = line.revision;
    let wrong = |field| move || format!("revision {revision}: {field} is not valid");
    let entry = Entry {
        id: line.id,
        revision,
        timestamp: time(&line.timestamp).ok_or_else(wrong("timestamp"))?,
        user_id: line.user_id,
        user_email: line.user_email.into(),
        token_id: line.token_id,
        action: Action::parse(&line.action_type).ok_or_else(wrong("action_type"))?,
        entity_type: EntityType::parse(&line.entity_type).ok_or_else(wrong("entity_type"))?,
        entity_id: line.entity_id,
        entity_key: line.entity_key.into(),
        entity_name: line.entity_name.into(),
        old_value: line.old_value.map(Into::into),
        new_value: line.new_value.map(Into::into),
        reason: line.reason.map(Into::into),
        request_id: line.request_id.map(Into::into),
        method: line.method.into(),
        peer: line.peer.map(Into::into),
        user_agent: line.user_agent.map(Into::into),
        previous_entity_revision: line.previous_entity_revision,
        reverts: line.reverts,
        hash_version: line.hash_version,
        hash: unhex(&line.hash).ok_or_else(wrong("hash"))?,
        created_at: time(&line.created_at).ok_or_else(wrong("created_at"))?,
    };
    Ok((line.log_id, entry))
}

fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_micros(time.as_microsecond()))
}
