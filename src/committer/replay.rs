//! Requests that were made before: whoever retries one is answered as the first time.

use std::collections::HashMap;

use uuid::Uuid;

use super::proposals::{Reply, Waiting};
use super::{Committer, READ_PATIENCE, answer, refuse, unavailable};
use crate::domain::advance::{Actor, Proposal, Step, StoredRequest, Verdict};
use crate::domain::error::Error;
use crate::domain::text::RequestId;
use crate::mirror::Mirror;
use crate::store::{StoreError, in_time};

impl Committer {
    /// Answers proposals that wrote nothing. A retry that is let in is answered as the first time, whatever
    /// would be said to it today.
    pub(super) async fn settle_unwritten(&self, unwritten: Vec<(Waiting, Verdict)>) {
        let stored = match self.stored(unwritten.iter().map(|(waiting, _)| waiting)).await {
            Ok(stored) => stored,
            Err(error) => {
                return refuse(unwritten.into_iter().map(|(w, _)| w).collect(), &unavailable(&error));
            }
        };
        for (waiting, verdict) in unwritten {
            let result = match (replayed(&self.mirror, &stored, &waiting.proposal), verdict) {
                (_, Verdict::Rejected(Error::Unauthenticated)) => Err(Error::Unauthenticated),
                (Some(result), _) => result,
                (None, Verdict::Rejected(error)) => Err(error),
                (None, Verdict::Accepted(answer)) => Ok(Reply::Answer(answer)),
                (None, Verdict::Replayed(response)) => Ok(Reply::Replayed(response)),
            };
            answer(waiting, result);
        }
    }

    /// Answers those of a batch whose requests are stored, and leaves the others in it.
    pub(super) async fn replay(&self, batch: &mut Vec<Waiting>, step: &Step) -> Result<(), StoreError> {
        let stored = self.stored(batch.iter()).await?;
        for (waiting, verdict) in std::mem::take(batch).into_iter().zip(&step.verdicts) {
            match (replayed(&self.mirror, &stored, &waiting.proposal), verdict) {
                (None, _) | (_, Verdict::Rejected(Error::Unauthenticated)) => batch.push(waiting),
                (Some(result), _) => answer(waiting, result),
            }
        }
        Ok(())
    }

    /// The stored requests that some proposals name.
    async fn stored<'a>(
        &self,
        waiting: impl Iterator<Item = &'a Waiting>,
    ) -> Result<HashMap<(Uuid, RequestId), StoredRequest>, StoreError> {
        let keys: Vec<_> = waiting.filter_map(|w| request_key(&self.mirror, &w.proposal)).collect();
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let stored = in_time(READ_PATIENCE, self.store.requests(&keys)).await?;
        if !stored.is_empty() {
            in_time(READ_PATIENCE, self.store.secure()).await?;
        }
        Ok(stored.into_iter().map(|r| ((r.user_id, r.request_id.clone()), r)).collect())
    }
}

/// Whose request a proposal is, and what they call it.
fn request_key(mirror: &Mirror, proposal: &Proposal) -> Option<(Uuid, RequestId)> {
    let Actor::Caller { credential, .. } = &proposal.actor else { return None };
    let request = proposal.request.as_ref()?;
    let user_id = mirror.read(|state| credential.user_id(state))??;
    Some((user_id, request.id.clone()))
}

/// What to say to a proposal whose request is stored.
fn replayed(
    mirror: &Mirror,
    stored: &HashMap<(Uuid, RequestId), StoredRequest>,
    proposal: &Proposal,
) -> Option<Result<Reply, Error>> {
    let request = proposal.request.as_ref()?;
    let stored = stored.get(&request_key(mirror, proposal)?)?;
    Some(if stored.digest == request.digest {
        Ok(Reply::Replayed(stored.response.clone()))
    } else {
        Err(Error::RequestIdReused)
    })
}
