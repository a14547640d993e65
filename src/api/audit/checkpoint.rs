//! GetAuditCheckpoint and ListAuditCheckpoints: signed statements of what the log was.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use crate::api::convert::time;
use crate::api::errors::{log_corrupt, read_failed, status};
use crate::api::paging::Paging;
use crate::api::pb;
use crate::api::validate::Fields;
use crate::checkpoint::{Checkpoint, Note, SigningKey, VerifierKey};
use crate::domain::error::Error;
use crate::domain::filter::Range;
use crate::domain::state::Head;
use crate::domain::text::Malformed;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::{Hash, Revision};
use crate::store::{Store, StoredCheckpoint};
use crate::telemetry::errors;

/// The keys that have signed. One that cannot be read is left out, and told of in the server's log, once.
#[derive(Default)]
pub(super) struct Keys {
    told: Mutex<HashSet<String>>,
}

impl Keys {
    /// As the wire has them, in their order.
    fn readable(&self, stored: Vec<(String, Timestamp)>) -> Vec<pb::CheckpointKey> {
        let key = |(text, added_at): (String, Timestamp)| match VerifierKey::parse(&text) {
            Ok(key) => {
                let added_at = Some(time(added_at));
                Some(pb::CheckpointKey { key_id: key.id().to_string(), verifier_key: text, added_at })
            }
            Err(error) => {
                let problem = format!("a row of checkpoint_keys is left out: {error}: {text:?}");
                if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(text) {
                    errors::internal(&problem);
                }
                None
            }
        };
        stored.into_iter().filter_map(key).collect()
    }
}

/// Who signs, and by which clock.
pub(super) struct Signer {
    pub key: Arc<SigningKey>,
    pub clock: Arc<dyn Clock>,
}

impl Signer {
    /// Signs what the log was at a revision, or is now.
    pub async fn checkpoint(
        &self,
        store: &dyn Store,
        keys: &Keys,
        revision: Option<Revision>,
    ) -> Result<pb::GetAuditCheckpointResponse, Status> {
        let head = store.head().await.map_err(read_failed)?;
        let revision = revision.unwrap_or(head.revision);
        let hash = hash_at(store, &head, revision).await?;
        let now = self.clock.now();
        let note = self.key.sign(Checkpoint { log_id: head.log_id, revision, hash, time: now });
        // A backup may have been restored that is older than the key: what is signed must be verifiable.
        let ours = self.key.verifier(head.log_id).to_string();
        let mut stored = store.checkpoint_keys().await.map_err(read_failed)?;
        if !stored.iter().any(|(key, _)| *key == ours) {
            store.add_checkpoint_key(&ours, now).await.map_err(read_failed)?;
            stored.push((ours, now));
        }
        let (checkpoint, keys) = (Some((&Arc::new(note)).into()), keys.readable(stored));
        Ok(pb::GetAuditCheckpointResponse { checkpoint, keys })
    }
}

/// The hash at a revision that is kept, or that the first one that is follows.
async fn hash_at(store: &dyn Store, head: &Head, asked: Revision) -> Result<Hash, Status> {
    if asked > head.revision {
        return Err(status(Error::CursorInFuture { asked, head: head.revision }));
    }
    if asked == head.revision {
        return Ok(head.hash);
    }
    let there = if asked > head.floor { store.entry_at(asked).await.map_err(read_failed)? } else { None };
    if let Some((_, hash)) = there {
        return Ok(hash);
    }
    // It is not kept, be it since a moment ago; or the log is an older one since.
    let head = store.head().await.map_err(read_failed)?;
    if asked > head.revision {
        return Err(status(Error::CursorInFuture { asked, head: head.revision }));
    }
    if asked == head.floor {
        return Ok(head.floor_hash);
    }
    if asked < head.floor {
        return Err(status(Error::CursorTooOld { asked, oldest: head.floor + 1 }));
    }
    Err(log_corrupt(asked, &format!("there is no entry at revision {asked}")))
}

/// ListAuditCheckpoints, parsed.
pub(super) struct List {
    paging: Paging<Revision>,
    from: Revision,
}

impl List {
    pub fn parse(request: &pb::ListAuditCheckpointsRequest) -> Result<Self, Error> {
        let mut fields = Fields::default();
        let from = fields.at_least("from_revision", 0, request.from_revision).unwrap_or_default();
        let after = |text: &str| text.parse().map_err(|_| Malformed("must be a revision"));
        let scope = format!("checkpoints {from}");
        let paging = Paging::parse(&mut fields, request.page_size, &request.page_token, scope, after);
        fields.finish(paging.map(|paging| Self { paging, from }))
    }

    pub async fn page(self, store: &dyn Store, keys: &Keys) -> Result<pb::ListAuditCheckpointsResponse, Status> {
        let first = self.paging.after.map_or(self.from, |after| after.saturating_add(1).max(self.from));
        let range = Range { first, last: Revision::MAX };
        let stored = store.checkpoints(range, self.paging.wanted()).await.map_err(read_failed)?;
        let notes = stored.iter().map(note).collect::<Result<Vec<_>, _>>()?;
        let (checkpoints, next_page_token) =
            self.paging.page(notes.iter(), |note| note.checkpoint.revision.to_string());
        let keys = keys.readable(store.checkpoint_keys().await.map_err(read_failed)?);
        Ok(pb::ListAuditCheckpointsResponse { checkpoints, next_page_token, keys })
    }
}

fn note(stored: &StoredCheckpoint) -> Result<Arc<Note>, Status> {
    let revision = stored.revision;
    let corrupt = |what: &str| {
        errors::internal(&format!("the checkpoint of revision {revision}: {what}"));
        status(Error::CheckpointCorrupt { revision })
    };
    let note = Note::parse(&stored.note).map_err(|error| corrupt(&error.to_string()))?;
    if note.checkpoint.revision != revision {
        return Err(corrupt("it speaks of another revision"));
    }
    Ok(Arc::new(note))
}
