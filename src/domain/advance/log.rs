//! The rules of the log itself.

use serde::Serialize;

use super::draft::{Draft, Subject, Values};
use super::{Object, Outcome, Proposal, TrimLog};
use crate::domain::audit::{Action, EntityType};
use crate::domain::error::Error;
use crate::domain::flag::json;
use crate::domain::{Hash, Revision};

/// Where the log begins, as its entry tells it: behind this revision, whose entry had this hash.
fn beginning(floor: Revision, hash: &Hash) -> String {
    #[derive(Serialize)]
    struct Fields {
        floor: Revision,
        hash: String,
    }
    json(&Fields { floor, hash: hash.iter().map(|byte| format!("{byte:02x}")).collect() })
}

pub(super) fn trim(draft: &mut Draft<'_>, proposal: &Proposal, trim: &TrimLog) -> Result<Outcome, Error> {
    let head = *draft.head();
    if trim.through > head.revision {
        return Err(Error::CursorInFuture { asked: trim.through, head: head.revision });
    }
    if trim.through <= head.floor {
        return Err(Error::CursorTooOld { asked: trim.through, oldest: head.floor + 1 });
    }
    if trim.there != Some(trim.hash) {
        return Err(Error::LogMismatch("through_hash"));
    }
    let subject = Subject {
        entity_type: EntityType::Log,
        id: Some(head.log_id),
        key: head.log_id.to_string().into(),
        name: "audit log".into(),
        previous_revision: None,
    };
    let values = Values {
        old: Some(beginning(head.floor, &head.floor_hash).into()),
        new: Some(beginning(trim.through, &trim.hash).into()),
    };
    let place = draft.place(&proposal.actor);
    let entry = draft.log(proposal, place, Action::LogTrimmed, subject, values);
    draft.raise_floor(trim.through, trim.hash);
    Ok((Object::Log(trim.through + 1), Some(entry)))
}
