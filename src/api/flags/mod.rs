//! ToggleService: flags.

mod list;
mod past;
mod watch;

use std::collections::HashSet;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::api::call::Call;
use crate::api::change::{Changes, change};
use crate::api::errors::status;
use crate::api::pb;
use crate::api::pb::toggle_service_server::ToggleService;
use crate::api::reader::Reads;
use crate::api::validate::Fields;
use list::List;
use past::AsOf;
use watch::{PACE, Watch};

use crate::domain::Revision;
use crate::domain::advance::{Answer, Command, NewFlag, Object, Revert, SetStatus};
use crate::domain::error::Error;
use crate::domain::flag::Status as FlagStatus;
use crate::domain::state::{FlagRef, State};
use crate::domain::text::{Description, FlagKey, Name};
pub use past::Past;

/// Flags in one batch at the most.
const MOST_ITEMS: usize = 1_000;

/// ToggleService.
pub struct Toggle {
    changes: Changes,
    reads: Reads,
    past: Past,
}

macro_rules! flag_change {
    ($request:ident => $response:ident) => {
        change!($request => $response, answer => pb::$response {
            feature_flag: flag(answer),
            audit_log: answer.entry.as_deref().map(Into::into),
            revision: answer.revision,
        });
    };
}

flag_change!(ToggleFeatureFlagRequest => ToggleFeatureFlagResponse);
flag_change!(EnableFeatureFlagRequest => EnableFeatureFlagResponse);
flag_change!(DisableFeatureFlagRequest => DisableFeatureFlagResponse);
flag_change!(RevertFeatureFlagRequest => RevertFeatureFlagResponse);
flag_change!(CreateFeatureFlagRequest => CreateFeatureFlagResponse);
flag_change!(UpdateFeatureFlagRequest => UpdateFeatureFlagResponse);
flag_change!(ArchiveFeatureFlagRequest => ArchiveFeatureFlagResponse);
flag_change!(UnarchiveFeatureFlagRequest => UnarchiveFeatureFlagResponse);
change!(BatchSetFeatureFlagsRequest => BatchSetFeatureFlagsResponse, answer => pb::BatchSetFeatureFlagsResponse {
    results: results(answer),
    revision: answer.revision,
});

fn flag(answer: &Answer) -> Option<pb::FeatureFlag> {
    match &answer.object {
        Object::Flag(flag) => Some(flag.into()),
        _ => None,
    }
}

fn results(answer: &Answer) -> Vec<pb::BatchSetResult> {
    let Object::Batch(results) = &answer.object else { return Vec::new() };
    let result = |r: &crate::domain::advance::BatchResult| pb::BatchSetResult {
        id: r.flag.id.to_string(),
        key: r.flag.key.to_string(),
        status: pb::FeatureFlagStatus::from(r.flag.status).into(),
        revision: r.flag.revision,
        audit_log_id: r.entry_id.map(|id| id.to_string()),
        changed: r.changed,
    };
    results.iter().map(result).collect()
}

impl Toggle {
    /// The service on these parts.
    pub fn new(changes: Changes, reads: Reads, past: Past) -> Self {
        Self { changes, reads, past }
    }
}

fn set_status(
    fields: &mut Fields,
    flag: Option<FlagRef>,
    expected_revision: Option<Revision>,
    status: FlagStatus,
) -> Option<Command> {
    let expected_revision = fields.at_least("expected_revision", 1, expected_revision);
    Some(Command::SetStatus(SetStatus { flag: flag?, status, expected_revision }))
}

fn set_archived(
    fields: &mut Fields,
    flag: Option<FlagRef>,
    expected_revision: Option<Revision>,
    archived: bool,
) -> Option<Command> {
    let expected_revision = fields.at_least("expected_revision", 1, expected_revision);
    Some(Command::SetArchived { flag: flag?, archived, expected_revision })
}

fn batch(request: &pb::BatchSetFeatureFlagsRequest, fields: &mut Fields) -> Option<Command> {
    if request.items.is_empty() || request.items.len() > MOST_ITEMS {
        return fields.violate("items", format!("must be 1 to {MOST_ITEMS}"));
    }
    let mut seen = HashSet::new();
    let items = request.items.iter().enumerate().map(|(index, item)| {
        fields.within(format!("items[{index}]."), |fields| {
            let flag = fields.flag(item.flag.clone());
            if flag.as_ref().is_some_and(|flag| !seen.insert(flag.clone())) {
                fields.violate::<()>("flag", "must not name a flag that another item names");
            }
            if item.status == 0 {
                fields.violate::<()>("status", "is required");
            }
            let status = fields.status("status", item.status);
            let expected_revision = fields.at_least("expected_revision", 1, item.expected_revision);
            Some(SetStatus { flag: flag?, status: status?, expected_revision })
        })
    });
    // Every item is looked at, so that every fault is told.
    let items: Vec<_> = items.collect();
    Some(Command::BatchSet(items.into_iter().collect::<Option<_>>()?))
}

fn update(request: &pb::UpdateFeatureFlagRequest, fields: &mut Fields) -> Option<Command> {
    let mask = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    for (index, path) in mask.iter().enumerate() {
        if path != "name" && path != "description" {
            fields.violate::<()>(&format!("update_mask.paths[{index}]"), "must be 'name' or 'description'");
        }
    }
    let wanted =
        |path: &str, value: &str| if mask.is_empty() { !value.is_empty() } else { mask.iter().any(|p| p == path) };
    let (has_name, has_description) = (wanted("name", &request.name), wanted("description", &request.description));
    if mask.is_empty() && !has_name && !has_description {
        fields.violate::<()>("update_mask", "must name what to change, unless name or description is given");
    }
    let flag = fields.flag(request.flag.clone());
    let name = has_name.then(|| fields.parse("name", &request.name, Name::parse)).flatten();
    let description =
        has_description.then(|| fields.parse("description", &request.description, Description::parse)).flatten();
    let expected_revision = fields.at_least("expected_revision", 1, request.expected_revision);
    Some(Command::UpdateFlag { flag: flag?, name, description, expected_revision })
}

#[tonic::async_trait]
impl ToggleService for Toggle {
    async fn toggle_feature_flag(
        &self,
        request: Request<pb::ToggleFeatureFlagRequest>,
    ) -> Result<Response<pb::ToggleFeatureFlagResponse>, Status> {
        let parse = |request: &pb::ToggleFeatureFlagRequest, fields: &mut Fields| {
            let flag = fields.flag(request.flag.clone());
            let expected_revision = fields.at_least("expected_revision", 1, request.expected_revision);
            Some(Command::Toggle { flag: flag?, expected_revision })
        };
        self.changes.make(request, parse).await
    }

    async fn enable_feature_flag(
        &self,
        request: Request<pb::EnableFeatureFlagRequest>,
    ) -> Result<Response<pb::EnableFeatureFlagResponse>, Status> {
        let parse = |request: &pb::EnableFeatureFlagRequest, fields: &mut Fields| {
            let flag = fields.flag(request.flag.clone());
            set_status(fields, flag, request.expected_revision, FlagStatus::Enabled)
        };
        self.changes.make(request, parse).await
    }

    async fn disable_feature_flag(
        &self,
        request: Request<pb::DisableFeatureFlagRequest>,
    ) -> Result<Response<pb::DisableFeatureFlagResponse>, Status> {
        let parse = |request: &pb::DisableFeatureFlagRequest, fields: &mut Fields| {
            let flag = fields.flag(request.flag.clone());
            set_status(fields, flag, request.expected_revision, FlagStatus::Disabled)
        };
        self.changes.make(request, parse).await
    }

    async fn batch_set_feature_flags(
        &self,
        request: Request<pb::BatchSetFeatureFlagsRequest>,
    ) -> Result<Response<pb::BatchSetFeatureFlagsResponse>, Status> {
        self.changes.make(request, batch).await
    }

    async fn create_feature_flag(
        &self,
        request: Request<pb::CreateFeatureFlagRequest>,
    ) -> Result<Response<pb::CreateFeatureFlagResponse>, Status> {
        let parse = |request: &pb::CreateFeatureFlagRequest, fields: &mut Fields| {
            let key = fields.parse("key", &request.key, FlagKey::parse);
            let name = fields.parse("name", &request.name, Name::parse);
            let description = fields.parse("description", &request.description, Description::parse);
            let status = fields.status("status", request.status).unwrap_or(FlagStatus::Disabled);
            Some(Command::CreateFlag(NewFlag { key: key?, name: name?, description: description?, status }))
        };
        self.changes.make(request, parse).await
    }

    async fn update_feature_flag(
        &self,
        request: Request<pb::UpdateFeatureFlagRequest>,
    ) -> Result<Response<pb::UpdateFeatureFlagResponse>, Status> {
        self.changes.make(request, update).await
    }

    async fn archive_feature_flag(
        &self,
        request: Request<pb::ArchiveFeatureFlagRequest>,
    ) -> Result<Response<pb::ArchiveFeatureFlagResponse>, Status> {
        let parse = |request: &pb::ArchiveFeatureFlagRequest, fields: &mut Fields| {
            let flag = fields.flag(request.flag.clone());
            set_archived(fields, flag, request.expected_revision, true)
        };
        self.changes.make(request, parse).await
    }

    async fn unarchive_feature_flag(
        &self,
        request: Request<pb::UnarchiveFeatureFlagRequest>,
    ) -> Result<Response<pb::UnarchiveFeatureFlagResponse>, Status> {
        let parse = |request: &pb::UnarchiveFeatureFlagRequest, fields: &mut Fields| {
            let flag = fields.flag(request.flag.clone());
            set_archived(fields, flag, request.expected_revision, false)
        };
        self.changes.make(request, parse).await
    }

    async fn revert_feature_flag(
        &self,
        request: Request<pb::RevertFeatureFlagRequest>,
    ) -> Result<Response<pb::RevertFeatureFlagResponse>, Status> {
        // Asked before: what is read next may be of a later log, but not of an earlier one.
        let log = self.reads.read(State::log)?;
        // Whether it is there and will do is decided with the rest: a retry may come when it is gone.
        let entry = match Uuid::try_parse(&request.get_ref().audit_log_id) {
            Ok(id) => self.reads.entry(id).await?.map(Box::new),
            Err(_) => None,
        };
        let parse = |request: &pb::RevertFeatureFlagRequest, fields: &mut Fields| {
            let id = fields.uuid("audit_log_id", &request.audit_log_id);
            let expected_revision = fields.at_least("expected_revision", 1, request.expected_revision);
            Some(Command::Revert(Revert { id: id?, entry, log, expected_revision }))
        };
        self.changes.make(request, parse).await
    }

    async fn get_feature_flag(
        &self,
        request: Request<pb::GetFeatureFlagRequest>,
    ) -> Result<Response<pb::GetFeatureFlagResponse>, Status> {
        let deadline = Call::of(&request).map_err(status)?.deadline;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let flag = fields.flag(request.flag);
        let min_revision = fields.at_least("min_revision", 0, request.min_revision);
        let as_of = AsOf::parse(&mut fields, request.as_of_revision, request.as_of_time, min_revision);
        let flag = fields.finish(flag).map_err(status)?;
        self.reads.fresh(min_revision, deadline).await?;
        if let Some(as_of) = as_of {
            let at = self.past.anchor(as_of, deadline).await?;
            return self.past.flag(&flag, at).await.map(Response::new);
        }
        let (found, revision) = self.reads.read(|state| (state.flag(&flag).cloned(), state.head().revision))?;
        let found = found.ok_or_else(|| status(Error::FlagNotFound(flag.to_string())))?;
        Ok(Response::new(pb::GetFeatureFlagResponse { feature_flag: Some((&found).into()), revision }))
    }

    async fn list_feature_flags(
        &self,
        request: Request<pb::ListFeatureFlagsRequest>,
    ) -> Result<Response<pb::ListFeatureFlagsResponse>, Status> {
        let deadline = Call::of(&request).map_err(status)?.deadline;
        let list = List::parse(request.into_inner()).map_err(status)?;
        self.reads.fresh(list.min_revision, deadline).await?;
        if let Some(as_of) = list.as_of {
            let at = self.past.anchor(as_of, deadline).await?;
            return self.past.list(&list, at).await.map(Response::new);
        }
        self.reads.read(|state| list.page(state)).map(Response::new)
    }

    type WatchFeatureFlagsStream = watch::Messages;

    async fn watch_feature_flags(
        &self,
        request: Request<pb::WatchFeatureFlagsRequest>,
    ) -> Result<Response<watch::Messages>, Status> {
        let deadline = Call::of(&request).map_err(status)?.deadline;
        let mut watch = Watch::parse(request.into_inner()).map_err(status)?;
        let feed = self.reads.feed(watch.keys.take(), PACE);
        self.reads.fresh(watch.after, deadline).await?;
        watch.check(&self.reads).await?;
        Ok(Response::new(watch.messages(feed)))
    }
}
