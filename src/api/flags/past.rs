//! Flags as they were: the state in memory says which there are, and the log what they were.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use super::list::{List, Place};
use crate::api::errors::{log_corrupt, read_failed, status};
use crate::api::pb;
use crate::api::reader::Reads;
use crate::api::validate::{Edge, Fields};
use crate::domain::Revision;
use crate::domain::error::{Error, Violation};
use crate::domain::flag::Flag;
use crate::domain::past::{NextChange, PastFlag, as_of};
use crate::domain::state::{FlagRef, Head, State};
use crate::domain::time::{Clock, Timestamp};
use crate::store::Store;

/// As many flags as the database is asked of at once.
const PART: usize = 1_000;

/// When in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsOf {
    /// At this revision.
    Revision(Revision),
    /// At the last revision at or before this time.
    Time(Timestamp),
}

impl AsOf {
    /// From the two fields that both requests have; absent for the present.
    pub fn parse(
        fields: &mut Fields,
        revision: Option<Revision>,
        time: Option<prost_types::Timestamp>,
        min_revision: Option<Revision>,
    ) -> Option<Self> {
        if revision.is_some() && time.is_some() {
            fields.violate::<()>("as_of_time", "must not be given together with as_of_revision");
        }
        if revision.zip(min_revision).is_some_and(|(revision, least)| least > revision) {
            fields.violate::<()>("min_revision", "must not be beyond as_of_revision");
        }
        let revision = fields.at_least("as_of_revision", 0, revision).map(Self::Revision);
        revision.or(fields.time("as_of_time", Edge::To, time).map(Self::Time))
    }
}

/// Reads the past.
pub struct Past {
    reads: Reads,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl Past {
    /// The past of the flags in `reads`, as the log in `store` tells it; what has passed, `clock` says.
    pub fn new(reads: Reads, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { reads, store, clock }
    }

    /// The revision that is meant. The state in memory has reached it then.
    pub(super) async fn anchor(&self, as_of: AsOf, deadline: Instant) -> Result<Revision, Status> {
        let at = match as_of {
            AsOf::Revision(revision) => revision,
            AsOf::Time(time) => self.until(time).await?,
        };
        self.reads.fresh(Some(at), deadline).await?;
        Ok(at)
    }

    /// The last revision at or before a time.
    async fn until(&self, time: Timestamp) -> Result<Revision, Status> {
        let now = self.clock.now();
        if time > now {
            let rule = format!("must have passed by this server's clock: it is {now} now");
            return Err(status(Error::Invalid(vec![Violation { field: "as_of_time".to_owned(), rule }])));
        }
        if let Some(revision) = self.store.last_until(time).await.map_err(read_failed)? {
            return Ok(revision);
        }
        match self.store.head().await.map_err(read_failed)?.floor {
            0 => Ok(0),
            floor => Err(status(Error::TimeTooOld { oldest: floor + 1 })),
        }
    }

    /// One flag as it was.
    pub(super) async fn flag(&self, flag: &FlagRef, at: Revision) -> Result<pb::GetFeatureFlagResponse, Status> {
        let (found, known) = self.reads.read(|state| (state.flag(flag).cloned(), *state.head()))?;
        let was = self.were(found.into_iter().collect(), &known, at).await?.pop();
        let was = was.ok_or_else(|| status(Error::FlagNotFound(flag.to_string())))?;
        Ok(pb::GetFeatureFlagResponse { feature_flag: Some((&was).into()), revision: at })
    }

    /// A page of flags as they were.
    pub(super) async fn list(&self, list: &List, at: Revision) -> Result<pb::ListFeatureFlagsResponse, Status> {
        // One more than the page holds tells whether there is a next.
        let (wanted, mut after) = (list.paging.size + 1, list.after().cloned());
        let (mut found, mut part_size) = (Vec::new(), wanted.min(PART));
        loop {
            let part = |state: &State| -> (Vec<_>, Head) {
                (state.flags(&list.prefix, after.as_ref()).take(part_size).cloned().collect(), *state.head())
            };
            let (part, known) = self.reads.read(part)?;
            let is_last = part.len() < part_size;
            after = part.last().map(|flag| flag.key.clone());
            let were = self.were(part, &known, at).await?;
            found.extend(were.into_iter().filter(|was| list.passes(&was.flag)));
            if is_last || found.len() >= wanted {
                break;
            }
            part_size = PART;
        }
        let (feature_flags, next_page_token) = list.paging.page(found.iter(), |was| Place::text(at, &was.flag.key));
        Ok(pb::ListFeatureFlagsResponse { feature_flags, next_page_token, revision: at })
    }

    /// What these flags, read at `known`, were: in their order, without those that were not there yet.
    async fn were(&self, flags: Vec<Arc<Flag>>, known: &Head, at: Revision) -> Result<Vec<Arc<PastFlag>>, Status> {
        let changed: Vec<Uuid> = flags.iter().filter(|flag| flag.revision > at).map(|flag| flag.id).collect();
        let next = self.store.next_changes(&changed, at).await.map_err(read_failed)?;
        // Asked afterwards: entries that were trimmed away meanwhile were not found.
        let head = self.store.head().await.map_err(read_failed)?;
        if at < head.floor {
            return Err(status(Error::CursorTooOld { asked: at, oldest: head.floor + 1 }));
        }
        // Or a backup was restored, of which the mirror has yet to learn: its flags and these entries have nothing to do
        // with each other.
        if !self.store.goes_on(&head, known).await.map_err(read_failed)? {
            return Err(status(Error::Stale));
        }
        let next: HashMap<Uuid, NextChange> = next.into_iter().map(|next| (next.flag_id, next)).collect();
        let were = flags.iter().filter_map(|flag| as_of(flag, at, next.get(&flag.id)).transpose());
        were.map(|was| was.map(Arc::new).map_err(corrupt)).collect()
    }
}

/// What a caller is told of an entry that does not tell what it should.
fn corrupt(revision: Revision) -> Status {
    log_corrupt(revision, &format!("the log does not tell at revision {revision} what a flag was before"))
}
