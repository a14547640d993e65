//! Requests that change flags: parsed into commands, and answered.

use std::collections::HashSet;

use crate::api::change::change;
use crate::api::pb;
use crate::api::validate::RequestValidator;
use crate::domain::advance::{Answer, BatchResult, Command, NewFlag, Object, SetStatus};
use crate::domain::flag::Status;
use crate::domain::state::EnvironmentChoice;
use crate::domain::text::{Description, FlagKey, Name};

/// The most flags in one batch.
const MAX_ITEMS: usize = 1_000;

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
    let result = |r: &BatchResult| pb::BatchSetResult {
        id: r.flag.id.to_string(),
        key: r.flag.key.to_string(),
        status: pb::FeatureFlagStatus::from(r.flag.status).into(),
        revision: r.flag.revision,
        audit_log_id: r.entry_id.map(|id| id.to_string()),
        changed: r.changed,
    };
    results.iter().map(result).collect()
}

pub(super) fn toggle(request: &pb::ToggleFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::Toggle { flag: flag?, expected_revision })
}

pub(super) fn enable(request: &pb::EnableFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetStatus(SetStatus { flag: flag?, status: Status::Enabled, expected_revision }))
}

pub(super) fn disable(request: &pb::DisableFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetStatus(SetStatus { flag: flag?, status: Status::Disabled, expected_revision }))
}

pub(super) fn create(request: &pb::CreateFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let key = validator.parse("key", &request.key, FlagKey::parse);
    let name = validator.parse("name", &request.name, Name::parse);
    let description = validator.parse("description", &request.description, Description::parse);
    let status = validator.status("status", request.status).unwrap_or(Status::Disabled);
    let environment = EnvironmentChoice::Unnamed;
    Some(Command::CreateFlag(NewFlag { environment, key: key?, name: name?, description: description?, status }))
}

pub(super) fn archive(request: &pb::ArchiveFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetArchived { flag: flag?, archived: true, expected_revision })
}

pub(super) fn unarchive(
    request: &pb::UnarchiveFeatureFlagRequest,
    validator: &mut RequestValidator,
) -> Option<Command> {
    let flag = validator.flag(request.flag.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetArchived { flag: flag?, archived: false, expected_revision })
}

pub(super) fn batch_set(
    request: &pb::BatchSetFeatureFlagsRequest,
    validator: &mut RequestValidator,
) -> Option<Command> {
    if request.items.is_empty() || request.items.len() > MAX_ITEMS {
        return validator.reject("items", format!("must have 1 to {MAX_ITEMS} items, a fixed limit"));
    }
    let mut seen = HashSet::new();
    let items = request.items.iter().enumerate().map(|(index, item)| {
        validator.within(format!("items[{index}]."), |validator| {
            let flag = validator.flag(item.flag.clone());
            if flag.as_ref().is_some_and(|flag| !seen.insert(flag.clone())) {
                validator.reject::<()>("flag", "must not name a flag that another item names");
            }
            if item.status == 0 {
                validator.reject::<()>("status", "is required");
            }
            let status = validator.status("status", item.status);
            let expected_revision = validator.expected_revision(item.expected_revision);
            Some(SetStatus { flag: flag?, status: status?, expected_revision })
        })
    });
    // All items are parsed before any is dropped, so that the error names every violation.
    let items: Vec<_> = items.collect();
    Some(Command::BatchSet(items.into_iter().collect::<Option<_>>()?))
}

pub(super) fn update(request: &pb::UpdateFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let mask = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
    for (index, path) in mask.iter().enumerate() {
        if path != "name" && path != "description" {
            validator.reject::<()>(&format!("update_mask.paths[{index}]"), "must be 'name' or 'description'");
        }
    }
    let is_set =
        |path: &str, value: &str| if mask.is_empty() { !value.is_empty() } else { mask.iter().any(|p| p == path) };
    let (has_name, has_description) = (is_set("name", &request.name), is_set("description", &request.description));
    if mask.is_empty() && !has_name && !has_description {
        validator.reject::<()>("update_mask", "must name what to change, unless name or description is given");
    }
    let flag = validator.flag(request.flag.clone());
    let name = has_name.then(|| validator.parse("name", &request.name, Name::parse)).flatten();
    let description =
        has_description.then(|| validator.parse("description", &request.description, Description::parse)).flatten();
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::UpdateFlag { flag: flag?, name, description, expected_revision })
}
