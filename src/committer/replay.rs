//! Replay of stored answers to retried requests.

use std::collections::HashMap;

use uuid::Uuid;

use super::proposals::{PendingProposal, Reply};
use super::{Committer, READ_TIMEOUT, answer, not_written, reject_all};
use crate::domain::advance::{Actor, Decision, Proposal, Step, StoredRequest};
use crate::domain::error::Error;
use crate::domain::text::RequestId;
use crate::mirror::Mirror;
use crate::store::{StoreError, with_timeout};

impl Committer {
    /// Answers proposals that wrote nothing. A retry by an authenticated caller gets its first answer, whatever the decision would be
    /// now.
    pub(super) async fn answer_unwritten(&self, unwritten: Vec<(PendingProposal, Decision)>) {
        let stored = match self.stored_requests(unwritten.iter().map(|(pending, _)| pending)).await {
            Ok(stored) => stored,
            Err(error) => {
                return reject_all(unwritten.into_iter().map(|(pending, _)| pending).collect(), &not_written(error));
            }
        };
        for (pending, decision) in unwritten {
            let result = match (replayed(&self.mirror, &stored, &pending.proposal), decision) {
                (_, Decision::Rejected(Error::Unauthenticated)) => Err(Error::Unauthenticated),
                (Some(result), _) => result,
                (None, Decision::Rejected(error)) => Err(error),
                (None, Decision::Accepted(answer)) => Ok(Reply::Answer(answer)),
                (None, Decision::Replayed(response)) => Ok(Reply::Replayed(response)),
            };
            answer(pending, result);
        }
    }

    /// Answers the proposals of a batch whose requests are stored, and leaves the others in it. A retry whose caller is no longer
    /// authenticated stays too, and is rejected when the batch is decided again.
    pub(super) async fn replay(&self, batch: &mut Vec<PendingProposal>, step: &Step) -> Result<(), StoreError> {
        let stored = self.stored_requests(batch.iter()).await?;
        for (pending, decision) in std::mem::take(batch).into_iter().zip(&step.decisions) {
            match (replayed(&self.mirror, &stored, &pending.proposal), decision) {
                (None, _) | (_, Decision::Rejected(Error::Unauthenticated)) => batch.push(pending),
                (Some(result), _) => answer(pending, result),
            }
        }
        Ok(())
    }

    /// The stored requests that these proposals may be retries of.
    async fn stored_requests<'a>(
        &self,
        pending: impl Iterator<Item = &'a PendingProposal>,
    ) -> Result<HashMap<(Uuid, RequestId), StoredRequest>, StoreError> {
        let keys: Vec<_> = pending.filter_map(|pending| request_key(&self.mirror, &pending.proposal)).collect();
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

/// The key of a proposal's request: its user and `request_id`.
fn request_key(mirror: &Mirror, proposal: &Proposal) -> Option<(Uuid, RequestId)> {
    let Actor::Caller { credential, .. } = &proposal.actor else { return None };
    let request = proposal.request.as_ref()?;
    let user_id = mirror.read(|state| credential.user_id(state))??;
    Some((user_id, request.id.clone()))
}

/// The answer to a proposal whose request is stored.
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
