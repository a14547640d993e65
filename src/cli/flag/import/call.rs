//! The single changes.

use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::remote::{Remote, request_id};
use crate::domain::Revision;

use super::plan::{Edit, Edits, New};

/// Which flag to change, and why.
pub(super) struct To<'a> {
    pub remote: &'a Remote,
    pub key: &'a str,
    /// What it must be at; of one that is to be created there is none.
    pub revision: Option<Revision>,
    pub reason: &'a str,
}

impl To<'_> {
    pub async fn create(self, new: &New) -> Result<Option<FeatureFlag>, Failure> {
        let request = CreateFeatureFlagRequest {
            key: self.key.to_owned(),
            name: new.name.clone(),
            description: new.description.clone(),
            status: FeatureFlagStatus::from(new.status).into(),
            reason: self.reason.to_owned(),
            request_id: request_id(),
            validate_only: false,
        };
        let call = self.remote.retrying(request, async |to, request| to.toggle.create_feature_flag(request).await);
        Ok(call.await?.feature_flag)
    }

    pub async fn update(self, edits: &Edits) -> Result<Option<FeatureFlag>, Failure> {
        let edited = [("name", &edits.name), ("description", &edits.description)];
        let edited = edited.iter().filter(|(_, edit)| edit.is_some());
        let new = |edit: &Option<Edit>| edit.as_ref().map(|edit| edit.new.clone()).unwrap_or_default();
        let request = UpdateFeatureFlagRequest {
            flag: Some(update_feature_flag_request::Flag::Key(self.key.to_owned())),
            name: new(&edits.name),
            description: new(&edits.description),
            update_mask: Some(prost_types::FieldMask { paths: edited.map(|(field, _)| (*field).to_owned()).collect() }),
            reason: self.reason.to_owned(),
            request_id: request_id(),
            validate_only: false,
            expected_revision: self.revision,
        };
        let call = self.remote.retrying(request, async |to, request| to.toggle.update_feature_flag(request).await);
        Ok(call.await?.feature_flag)
    }

    pub async fn archive(self) -> Result<Option<FeatureFlag>, Failure> {
        let request = ArchiveFeatureFlagRequest {
            flag: Some(archive_feature_flag_request::Flag::Key(self.key.to_owned())),
            reason: self.reason.to_owned(),
            request_id: request_id(),
            validate_only: false,
            expected_revision: self.revision,
        };
        let call = self.remote.retrying(request, async |to, request| to.toggle.archive_feature_flag(request).await);
        Ok(call.await?.feature_flag)
    }

    pub async fn unarchive(self) -> Result<Option<FeatureFlag>, Failure> {
        let request = UnarchiveFeatureFlagRequest {
            flag: Some(unarchive_feature_flag_request::Flag::Key(self.key.to_owned())),
            reason: self.reason.to_owned(),
            request_id: request_id(),
            validate_only: false,
            expected_revision: self.revision,
        };
        let call = self.remote.retrying(request, async |to, request| to.toggle.unarchive_feature_flag(request).await);
        Ok(call.await?.feature_flag)
    }
}
