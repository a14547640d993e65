//! All flags at one revision, which no pages can tell.

use std::collections::BTreeMap;

use indicatif::ProgressBar;
use tonic::{Response, Status};

use super::Remote;
use crate::api::pb::{FeatureFlag, WatchFeatureFlagsRequest};
use crate::cli::Failure;
use crate::domain::Revision;

/// All flags of a server, archived ones too.
pub(in crate::cli) struct Flags {
    pub by_key: BTreeMap<String, FeatureFlag>,
    /// The revision that this is true at, ...
    pub revision: Revision,
    /// ... of which log.
    pub log_id: String,
}

impl Remote {
    /// Reads all flags: a watch until it has told everything.
    pub async fn all_flags(&self, bar: &ProgressBar) -> Result<Flags, Failure> {
        let read = self.retrying(WatchFeatureFlagsRequest::default(), async |clients, mut request| {
            // It goes for a call that has one answer.
            request.metadata_mut().remove("grpc-timeout");
            let mut stream = clients.toggle.watch_feature_flags(request).await?.into_inner();
            let mut by_key = BTreeMap::new();
            while let Some(message) = stream.message().await? {
                // One that changed meanwhile comes again.
                by_key.extend(message.feature_flags.into_iter().map(|flag| (flag.key.clone(), flag)));
                bar.set_position(by_key.len() as u64);
                if message.caught_up {
                    let (revision, log_id) = (message.revision, message.log_id);
                    return Ok(Response::new(Flags { by_key, revision, log_id }));
                }
            }
            Err(Status::unavailable("the server ended the stream before it had told all flags"))
        });
        let flags = read.await;
        bar.finish_and_clear();
        flags
    }
}
