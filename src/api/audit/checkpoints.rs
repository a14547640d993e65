//! GetAuditCheckpoint and ListAuditCheckpoints: signed statements of the log's hash at a revision.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use crate::api::convert::time;
use crate::api::errors::{log_corrupt, status};
use crate::api::paging::PageRequest;
use crate::api::pb;
use crate::api::validate::RequestValidator;
use crate::checkpoint::{Checkpoint, Note, SigningKey, VerifierKey};
use crate::domain::error::Error;
use crate::domain::filter::Range;
use crate::domain::state::Head;
use crate::domain::text::Malformed;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::{Hash, Revision};
use crate::store::{Store, StoredCheckpoint};
use crate::telemetry::errors;

/// Parses stored verifier keys. A key that cannot be parsed is left out, and reported once.
#[derive(Default)]
pub(super) struct VerifierKeyParser {
    reported: Mutex<HashSet<String>>,
}

impl VerifierKeyParser {
    /// The valid keys, in their order.
    fn valid_keys(&self, stored: Vec<(String, Timestamp)>) -> Vec<pb::CheckpointKey> {
        let key = |(text, added_at): (String, Timestamp)| match VerifierKey::parse(&text) {
            Ok(key) => {
                let added_at = Some(time(added_at));
                Some(pb::CheckpointKey { key_id: key.id().to_string(), verifier_key: text, added_at })
            }
            Err(error) => {
                let problem =
                    format!("a row of checkpoint_keys is not a verifier key and is left out: {error}: {text:?}");
                if self.reported.lock().unwrap_or_else(PoisonError::into_inner).insert(text) {
                    errors::report_internal_error(&problem);
                }
                None
            }
        };
        stored.into_iter().filter_map(key).collect()
    }
}

/// Signs checkpoints on request.
pub(super) struct CheckpointSigner {
    pub key: Arc<SigningKey>,
    pub clock: Arc<dyn Clock>,
}

impl CheckpointSigner {
    /// Signs the log's hash at a revision, or at the head.
    pub async fn checkpoint(
        &self,
        store: &dyn Store,
        key_parser: &VerifierKeyParser,
        revision: Option<Revision>,
    ) -> Result<pb::GetAuditCheckpointResponse, Status> {
        let head = store.head().await?;
        let revision = revision.unwrap_or(head.revision);
        let hash = hash_at(store, &head, revision).await?;
        let now = self.clock.now();
        let note = self.key.sign(Checkpoint { log_id: head.log_id, revision, hash, time: now });
        // A restored backup may be older than the key, and a signature must be verifiable.
        let ours = self.key.verifier(head.log_id).to_string();
        let mut stored = store.checkpoint_keys().await?;
        if !stored.iter().any(|(key, _)| *key == ours) {
            store.add_checkpoint_key(&ours, now).await?;
            stored.push((ours, now));
        }
        let (checkpoint, keys) = (Some((&Arc::new(note)).into()), key_parser.valid_keys(stored));
        Ok(pb::GetAuditCheckpointResponse { checkpoint, keys })
    }
}

/// The hash at a kept revision, or at the floor.
async fn hash_at(store: &dyn Store, head: &Head, asked: Revision) -> Result<Hash, Status> {
    if asked > head.revision {
        return Err(Error::CursorInFuture { asked, head: head.revision }.into());
    }
    if asked == head.revision {
        return Ok(head.hash);
    }
    let found = if asked > head.floor { store.entry_at(asked).await? } else { None };
    if let Some((_, hash)) = found {
        return Ok(hash);
    }
    // The entry was trimmed, perhaps just now; or an older backup was restored.
    let head = store.head().await?;
    if asked > head.revision {
        return Err(Error::CursorInFuture { asked, head: head.revision }.into());
    }
    if asked == head.floor {
        return Ok(head.floor_hash);
    }
    if asked < head.floor {
        return Err(Error::CursorTooOld { asked, oldest: head.floor + 1 }.into());
    }
    Err(log_corrupt(asked, &format!("there is no entry at revision {asked}")))
}

/// ListAuditCheckpoints, parsed.
pub(super) struct CheckpointList {
    paging: PageRequest<Revision>,
    from: Revision,
}

impl CheckpointList {
    pub fn parse(request: &pb::ListAuditCheckpointsRequest) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let from = validator.at_least("from_revision", 0, request.from_revision).unwrap_or_default();
        let after = |text: &str| text.parse().map_err(|_| Malformed("must be a revision"));
        let scope = format!("checkpoints {from}");
        let paging = PageRequest::parse(&mut validator, request.page_size, &request.page_token, scope, after);
        validator.finish(paging.map(|paging| Self { paging, from }))
    }

    pub async fn page(
        self,
        store: &dyn Store,
        key_parser: &VerifierKeyParser,
    ) -> Result<pb::ListAuditCheckpointsResponse, Status> {
        let first = self.paging.after.map_or(self.from, |after| after.saturating_add(1).max(self.from));
        let range = Range { first, last: Revision::MAX };
        let stored = store.checkpoints(range, self.paging.read_limit()).await?;
        let notes = stored.iter().map(note).collect::<Result<Vec<_>, _>>()?;
        let (checkpoints, next_page_token) =
            self.paging.page(notes.iter(), |note| note.checkpoint.revision.to_string());
        let keys = key_parser.valid_keys(store.checkpoint_keys().await?);
        Ok(pb::ListAuditCheckpointsResponse { checkpoints, next_page_token, keys })
    }
}

fn note(stored: &StoredCheckpoint) -> Result<Arc<Note>, Status> {
    let revision = stored.revision;
    let corrupt = |problem: &str| {
        errors::report_internal_error(&format!("the checkpoint of revision {revision} is damaged: {problem}"));
        status(Error::CheckpointCorrupt { revision })
    };
    let note = Note::parse(&stored.note).map_err(|error| corrupt(&error.to_string()))?;
    if note.checkpoint.revision != revision {
        return Err(corrupt("its signed text names another revision"));
    }
    Ok(Arc::new(note))
}
