//! All flags at one revision. Pages of a listing may each be of another revision, so a watch is read instead.

use std::collections::BTreeMap;

use indicatif::ProgressBar;
use tonic::{Response, Status};

use super::ApiClient;
use crate::api::pb::{FeatureFlag, WatchFeatureFlagsRequest};
use crate::cli::Failure;
use crate::domain::Revision;

/// All flags of an environment, or of all, including archived ones.
pub(in crate::cli) struct FlagSnapshot {
    /// Sorted by environment and key.
    pub flags: Vec<FeatureFlag>,
    /// The revision that the flags are at.
    pub revision: Revision,
    /// The log that the revision belongs to.
    pub log_id: String,
}

impl ApiClient {
    /// Reads all flags from a watch, up to the first message with `caught_up`. The environment is as in a request: absent, a key, or
    /// `-` for all.
    pub async fn all_flags(
        &self,
        environment: Option<String>,
        progress: &ProgressBar,
    ) -> Result<FlagSnapshot, Failure> {
        let request = WatchFeatureFlagsRequest { environment, ..Default::default() };
        let read = self.call(request, async |clients, mut request| {
            // The deadline of a call would end the stream.
            request.metadata_mut().remove("grpc-timeout");
            let mut stream = clients.toggle.watch_feature_flags(request).await?.into_inner();
            let mut by_name = BTreeMap::new();
            while let Some(message) = stream.message().await? {
                // A flag that changes during the read is sent again.
                let named = |flag: FeatureFlag| ((flag.environment.clone(), flag.key.clone()), flag);
                by_name.extend(message.feature_flags.into_iter().map(named));
                progress.set_position(by_name.len() as u64);
                if message.caught_up {
                    let (revision, log_id) = (message.revision, message.log_id);
                    let flags = by_name.into_values().collect();
                    return Ok(Response::new(FlagSnapshot { flags, revision, log_id }));
                }
            }
            Err(Status::unavailable("the server ended the stream before it had sent all flags"))
        });
        let flags = read.await;
        progress.finish_and_clear();
        flags
    }
}
