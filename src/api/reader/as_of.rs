//! Flags as of a revision or time: the mirror says which flags exist, and the log what they were.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::Status;
use uuid::Uuid;

use super::StateReader;
use crate::api::errors::log_corrupt;
use crate::api::validate::{Edge, RequestValidator};
use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::history::{NextChange, PastFlag, flag_as_of};
use crate::domain::state::{Head, State};
use crate::domain::time::Timestamp;

/// A point in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum AsOf {
    /// At this revision.
    Revision(Revision),
    /// At the last revision at or before this time.
    Time(Timestamp),
}

impl AsOf {
    /// Parses `as_of_revision` and `as_of_time`; `None` means the present.
    pub fn parse(
        validator: &mut RequestValidator,
        revision: Option<Revision>,
        time: Option<prost_types::Timestamp>,
        min_revision: Option<Revision>,
    ) -> Option<Self> {
        if revision.is_some() && time.is_some() {
            validator.reject::<()>("as_of_time", "must not be given together with as_of_revision");
        }
        if revision.zip(min_revision).is_some_and(|(revision, least)| least > revision) {
            validator.reject::<()>("min_revision", "must not be beyond as_of_revision");
        }
        let revision = validator.at_least("as_of_revision", 0, revision).map(Self::Revision);
        revision.or(validator.time("as_of_time", Edge::To, time).map(Self::Time))
    }
}

impl StateReader {
    /// The revision that `as_of` means. The mirror has reached it when this returns.
    pub(in crate::api) async fn resolve(&self, as_of: AsOf) -> Result<Revision, Status> {
        let revision = match as_of {
            AsOf::Revision(revision) => revision,
            AsOf::Time(time) => self.last_revision_until(time).await?,
        };
        self.wait_for_revision(Some(revision)).await?;
        Ok(revision)
    }

    async fn last_revision_until(&self, time: Timestamp) -> Result<Revision, Status> {
        self.until_closed("as_of_time", time).await?;
        // Usually the time is that of the last entry or later.
        let last = |state: &State| {
            let head = state.head();
            (state.is_closed(time) && head.timestamp <= time).then_some(head.revision)
        };
        if let Some(revision) = self.read(last)? {
            return Ok(revision);
        }
        if let Some(revision) = self.store.last_until(time).await? {
            return Ok(revision);
        }
        match self.store.head().await?.floor {
            0 => Ok(0),
            floor => Err(Error::TimeTooOld { oldest: floor + 1 }.into()),
        }
    }

    /// What these flags, read from the state at `known`, were at `revision`: in the same order, without flags that did not
    /// exist yet.
    pub(in crate::api) async fn flags_as_of(
        &self,
        flags: Vec<Arc<Flag>>,
        known: &Head,
        revision: Revision,
    ) -> Result<Vec<Arc<PastFlag>>, Status> {
        let changed: Vec<Uuid> = flags.iter().filter(|flag| flag.revision > revision).map(|flag| flag.id).collect();
        let next = self.store.next_changes(&changed, revision).await?;
        // Read after the entries: if the log was trimmed meanwhile, some of them were not found.
        let head = self.store.head().await?;
        if revision < head.floor {
            return Err(Error::CursorTooOld { asked: revision, oldest: head.floor + 1 }.into());
        }
        // If a backup was restored that the mirror has not loaded yet, its flags do not belong to these entries.
        if !self.store.continues_from(&head, known).await? {
            return Err(Error::Stale.into());
        }
        let next: HashMap<Uuid, NextChange> = next.into_iter().map(|next| (next.flag_id, next)).collect();
        let past = flags.iter().filter_map(|flag| flag_as_of(flag, revision, next.get(&flag.id)).transpose());
        past.map(|flag| flag.map(Arc::new).map_err(damaged_entry)).collect()
    }
}

fn damaged_entry(revision: Revision) -> Status {
    log_corrupt(revision, &format!("the entry at revision {revision} does not say what its flag was before"))
}
