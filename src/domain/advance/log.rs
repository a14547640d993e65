//! The rules of trimming the audit log.

use super::draft::{Draft, Entity, Values};
use super::{Object, Outcome, Proposal, TrimLog};
use crate::domain::audit::{Action, EntityType, LogStart};
use crate::domain::error::Error;

pub(super) fn trim(draft: &mut Draft<'_>, proposal: &Proposal, trim: &TrimLog) -> Result<Outcome, Error> {
    draft.check_generation(trim.generation)?;
    let head = *draft.head();
    if trim.through > head.revision {
        return Err(Error::CursorInFuture { asked: trim.through, head: head.revision });
    }
    if trim.through <= head.floor {
        return Err(Error::CursorTooOld { asked: trim.through, oldest: head.floor + 1 });
    }
    if trim.found_hash != Some(trim.hash) {
        return Err(Error::LogMismatch("through_hash"));
    }
    let entity = Entity {
        entity_type: EntityType::Log,
        id: Some(head.log_id),
        key: head.log_id.to_string().into(),
        name: "audit log".into(),
        environment: None,
        previous_revision: None,
    };
    let old = LogStart { floor: head.floor, hash: head.floor_hash };
    let new = LogStart { floor: trim.through, hash: trim.hash };
    let values = Values { old: Some(old.to_json().into()), new: Some(new.to_json().into()) };
    let stamp = draft.next_stamp(&proposal.actor);
    let entry = draft.write_entry(proposal, stamp, Action::LogTrimmed, entity, values);
    draft.raise_floor(trim.through, trim.hash);
    Ok((Object::Log(trim.through + 1), Some(entry)))
}
