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

/// The command lacks what the log has at the requested revision.
pub(super) fn parse(request: &pb::TrimAuditLogsRequest, validator: &mut RequestValidator) -> Option<Command> {
    let through = validator.at_least("through_revision", 1, Some(request.through_revision));
    let hash = Hash::try_from(request.through_hash.as_slice());
    let hash = hash.map_or_else(|_| validator.reject("through_hash", "must be 32 bytes"), Some);
    Some(Command::TrimLog(TrimLog { through: through?, hash: hash?, found_hash: None, generation: 0 }))
}
