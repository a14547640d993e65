//! TrimAuditLogs: removes the oldest part of the log, with an entry that records it.

use crate::api::change::change;
use crate::api::pb;
use crate::api::validate::RequestValidator;
use crate::domain::Hash;
use crate::domain::advance::{Answer, Command, Object, TrimLog};

change!(TrimAuditLogsRequest => TrimAuditLogsResponse, answer => pb::TrimAuditLogsResponse {
    oldest_revision: oldest(answer),
    audit_log: answer.entry.as_deref().map(Into::into),
    revision: answer.revision,
});

fn oldest(answer: &Answer) -> i64 {
    match answer.object {
        Object::Log(oldest) => oldest,
        _ => 0,
    }
}

/// `found` is the hash of the entry at the requested revision, if the log of `generation` has that entry.
pub(super) fn parse(
    request: &pb::TrimAuditLogsRequest,
    validator: &mut RequestValidator,
    found: Option<Hash>,
    generation: u64,
) -> Option<Command> {
    let through = validator.at_least("through_revision", 1, Some(request.through_revision));
    let hash = Hash::try_from(request.through_hash.as_slice());
    let hash = hash.map_or_else(|_| validator.reject("through_hash", "must be 32 bytes"), Some);
    Some(Command::TrimLog(TrimLog { through: through?, hash: hash?, found_hash: found, generation }))
}
