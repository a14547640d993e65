//! Replay of stored answers to retried requests.

use std::collections::HashMap;

use uuid::Uuid;

use super::proposals::{PendingProposal, Reply};
use super::{Committer, READ_TIMEOUT, Unwritten, answer, reject_all};
use crate::domain::advance::{Decision, Proposal, RequestOwner, Step, StoredRequest};
use crate::domain::error::Error;
use crate::domain::text::RequestId;
use crate::store::{StoreError, with_timeout};

/// Stored requests, by user and `request_id`.
type StoredRequests = HashMap<(Uuid, RequestId), StoredRequest>;

impl Committer {
    /// Answers proposals that wrote nothing. A retry by an authenticated caller gets its first answer, whatever the decision would be
    /// now.
    pub(super) async fn answer_unwritten(&mut self, unwritten: Vec<Unwritten>) {
        let keys = unwritten.iter().filter_map(|unwritten| request_key(&unwritten.pending.proposal, unwritten.owner));
        let stored = match self.stored_requests(keys.collect()).await {
            Ok(stored) => stored,
            Err(error) => {
                let error = self.outage.not_written(error);
                return reject_all(unwritten.into_iter().map(|unwritten| unwritten.pending).collect(), &error);
            }
        };
        for Unwritten { pending, decision, owner } in unwritten {
            let result = match (replayed(&stored, &pending.proposal, owner), decision) {
                (_, Decision::Rejected(Error::Unauthenticated)) => Err(Error::Unauthenticated),
                (Some(result), _) => result,
                (None, Decision::Rejected(error)) => Err(error),
                (None, Decision::Accepted(answer)) => Ok(Reply::Answer(answer)),
                (None, Decision::Replayed(response)) => Ok(Reply::Replayed(response)),
            };
            answer(pending, result);
        }
    }

    /// Answers the proposals of a batch whose requests are stored, and leaves the others in it.
    ///
    /// A proposal moves to `deferred` if its caller is tied to the request's user only by an earlier proposal of the batch. That one is
    /// not written yet; once it is, the stored answer may be the caller's. A retry whose caller is no longer authenticated stays in the
    /// batch, and is rejected when the batch is decided again.
    pub(super) async fn replay(
        &self,
        batch: &mut Vec<PendingProposal>,
        deferred: &mut Vec<PendingProposal>,
        step: &Step,
    ) -> Result<(), StoreError> {
        let keys = batch.iter().zip(&step.owners).filter_map(|(pending, owner)| request_key(&pending.proposal, *owner));
        let stored = self.stored_requests(keys.collect()).await?;
        let decided = std::mem::take(batch).into_iter().zip(&step.decisions).zip(&step.owners);
        for ((pending, decision), owner) in decided {
            match (replayed(&stored, &pending.proposal, *owner), decision) {
                (None, _) | (_, Decision::Rejected(Error::Unauthenticated)) => batch.push(pending),
                (Some(_), _) if !owner.is_some_and(|owner| owner.is_known_at_base) => deferred.push(pending),
                (Some(result), _) => answer(pending, result),
            }
        }
        Ok(())
    }

    /// The stored requests among these.
    async fn stored_requests(&self, keys: Vec<(Uuid, RequestId)>) -> Result<StoredRequests, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let stored = with_timeout(READ_TIMEOUT, self.store.requests(&keys)).await?;
        if !stored.is_empty() {
            with_timeout(READ_TIMEOUT, self.store.confirm_durable()).await?;
        }
        Ok(stored.into_iter().map(|r| ((r.user_id, r.request_id.clone()), r)).collect())
    }
}

/// The key of a proposal's request: its user, as [`advance`](crate::domain::advance::advance) found, and its `request_id`.
/// A replay must look for the same key as the append, or it would not find the request that the append found.
fn request_key(proposal: &Proposal, owner: Option<RequestOwner>) -> Option<(Uuid, RequestId)> {
    Some((owner?.user_id, proposal.request.as_ref()?.id.clone()))
}

/// The answer to a proposal whose request is stored.
fn replayed(stored: &StoredRequests, proposal: &Proposal, owner: Option<RequestOwner>) -> Option<Result<Reply, Error>> {
    let request = proposal.request.as_ref()?;
    let stored = stored.get(&request_key(proposal, owner)?)?;
    Some(if stored.digest == request.digest {
        Ok(Reply::Replayed(stored.response.clone()))
    } else {
        Err(Error::RequestIdReused)
    })
}
