//! TrimAuditLogs: the oldest part of the log removed, by an entry that says so.

use crate::api::change::change;
use crate::api::pb;
use crate::api::validate::Fields;
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

/// `there` is the hash of the entry at the revision that is asked for, if the log has it: which log, `log` says.
pub(super) fn parse(
    request: &pb::TrimAuditLogsRequest,
    fields: &mut Fields,
    there: Option<Hash>,
    log: u64,
) -> Option<Command> {
    let through = fields.at_least("through_revision", 1, Some(request.through_revision));
    let hash = Hash::try_from(request.through_hash.as_slice());
    let hash = hash.map_or_else(|_| fields.violate("through_hash", "must be 32 bytes"), Some);
    Some(Command::TrimLog(TrimLog { through: through?, hash: hash?, there, log }))
}
