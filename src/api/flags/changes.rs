//! Requests that change flags: parsed into commands, and answered.

use std::collections::HashSet;

use crate::api::change::change;
use crate::api::pb;
use crate::api::validate::{NamesFlag, RequestValidator};
use crate::domain::advance::{Answer, BatchResult, Command, NewFlag, Object, SetStatus};
use crate::domain::flag::Status;
use crate::domain::text::{Description, FlagKey, Name};

/// The most flags in one batch.
const MAX_ITEMS: usize = 1_000;

macro_rules! flag_change {
    ($request:ident => $response:ident) => {
        flag_change!($request => $response, request => by_key(request.flag.as_ref(), &mut request.environment));
    };
    ($request:ident => $response:ident, $named:ident => $environments:expr) => {
        change!($request => $response, $named => $environments, answer => pb::$response {
            feature_flag: flag(answer),
            audit_log: answer.entry.as_deref().map(Into::into),
            revision: answer.revision,
        });
    };
}

flag_change!(ToggleFeatureFlagRequest => ToggleFeatureFlagResponse);
flag_change!(EnableFeatureFlagRequest => EnableFeatureFlagResponse);
flag_change!(DisableFeatureFlagRequest => DisableFeatureFlagResponse);
flag_change!(RevertFeatureFlagRequest => RevertFeatureFlagResponse, _request => Vec::new());
flag_change!(CreateFeatureFlagRequest => CreateFeatureFlagResponse, request => vec![&mut request.environment]);
flag_change!(UpdateFeatureFlagRequest => UpdateFeatureFlagResponse);
flag_change!(ArchiveFeatureFlagRequest => ArchiveFeatureFlagResponse);
flag_change!(UnarchiveFeatureFlagRequest => UnarchiveFeatureFlagResponse);
change!(
    BatchSetFeatureFlagsRequest => BatchSetFeatureFlagsResponse,
    request => request.items.iter_mut().flat_map(|item| by_key(item.flag.as_ref(), &mut item.environment)).collect(),
    answer => pb::BatchSetFeatureFlagsResponse {
        results: batch(answer).iter().map(set_result).collect(),
        revision: answer.revision,
    }
);
change!(
    BatchCreateFeatureFlagsRequest => BatchCreateFeatureFlagsResponse,
    request => request.items.iter_mut().map(|item| &mut item.environment).collect(),
    answer => pb::BatchCreateFeatureFlagsResponse {
        results: batch(answer).iter().map(create_result).collect(),
        revision: answer.revision,
    }
);

/// The environment of a flag, if the flag is named by key.
fn by_key<'a>(flag: Option<&impl NamesFlag>, environment: &'a mut Option<String>) -> Vec<&'a mut Option<String>> {
    if flag.is_some_and(NamesFlag::is_by_key) { vec![environment] } else { Vec::new() }
}

fn flag(answer: &Answer) -> Option<pb::FeatureFlag> {
    match &answer.object {
        Object::Flag(flag) => Some(flag.into()),
        _ => None,
    }
}

fn batch(answer: &Answer) -> &[BatchResult] {
    match &answer.object {
        Object::Batch(results) => results,
        _ => &[],
    }
}

fn set_result(result: &BatchResult) -> pb::BatchSetResult {
    pb::BatchSetResult {
        id: result.flag.id.to_string(),
        key: result.flag.key.to_string(),
        environment: result.flag.environment.to_string(),
        status: pb::FeatureFlagStatus::from(result.flag.status).into(),
        revision: result.flag.revision,
        audit_log_id: result.entry_id.map(|id| id.to_string()),
        changed: result.changed,
    }
}

fn create_result(result: &BatchResult) -> pb::BatchCreateResult {
    pb::BatchCreateResult {
        id: result.flag.id.to_string(),
        key: result.flag.key.to_string(),
        environment: result.flag.environment.to_string(),
        status: pb::FeatureFlagStatus::from(result.flag.status).into(),
        revision: result.flag.revision,
        audit_log_id: result.entry_id.map(|id| id.to_string()),
    }
}

pub(super) fn toggle(request: &pb::ToggleFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone(), request.environment.as_deref());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::Toggle { flag: flag?, expected_revision })
}

pub(super) fn enable(request: &pb::EnableFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone(), request.environment.as_deref());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetStatus(SetStatus { flag: flag?, status: Status::Enabled, expected_revision }))
}

pub(super) fn disable(request: &pb::DisableFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone(), request.environment.as_deref());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetStatus(SetStatus { flag: flag?, status: Status::Disabled, expected_revision }))
}

pub(super) fn create(request: &pb::CreateFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let item = pb::BatchCreateItem {
        key: request.key.clone(),
        name: request.name.clone(),
        description: request.description.clone(),
        status: request.status,
        environment: request.environment.clone(),
    };
    new_flag(&item, validator).map(Command::CreateFlag)
}

pub(super) fn batch_create(
    request: &pb::BatchCreateFeatureFlagsRequest,
    validator: &mut RequestValidator,
) -> Option<Command> {
    if request.items.is_empty() || request.items.len() > MAX_ITEMS {
        return validator.reject("items", format!("must have 1 to {MAX_ITEMS} items, a fixed limit"));
    }
    let mut seen = HashSet::new();
    let items = request.items.iter().enumerate().map(|(index, item)| {
        validator.within(format!("items[{index}]."), |validator| {
            if !seen.insert((&item.environment, &item.key)) {
                return validator.reject("key", "must not name a flag that another item names");
            }
            new_flag(item, validator)
        })
    });
    // An invalid item does not end the iteration, so that the error names the others as well.
    let items: Vec<_> = items.collect();
    items.into_iter().collect::<Option<_>>().map(Command::BatchCreate)
}

fn new_flag(item: &pb::BatchCreateItem, validator: &mut RequestValidator) -> Option<NewFlag> {
    let environment = validator.environment(item.environment.as_deref());
    let key = validator.parse("key", &item.key, FlagKey::parse);
    let name = validator.parse("name", &item.name, Name::parse);
    let description = validator.parse("description", &item.description, Description::parse);
    let status = validator.status("status", item.status).unwrap_or(Status::Disabled);
    Some(NewFlag { environment, key: key?, name: name?, description: description?, status })
}

pub(super) fn archive(request: &pb::ArchiveFeatureFlagRequest, validator: &mut RequestValidator) -> Option<Command> {
    let flag = validator.flag(request.flag.clone(), request.environment.as_deref());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetArchived { flag: flag?, archived: true, expected_revision })
}

pub(super) fn unarchive(
    request: &pb::UnarchiveFeatureFlagRequest,
    validator: &mut RequestValidator,
) -> Option<Command> {
    let flag = validator.flag(request.flag.clone(), request.environment.as_deref());
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
            let flag = validator.flag(item.flag.clone(), item.environment.as_deref());
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
    let fields = [("name", !request.name.is_empty()), ("description", !request.description.is_empty())];
    let [has_name, has_description] = validator.update_mask(request.update_mask.as_ref(), fields);
    let flag = validator.flag(request.flag.clone(), request.environment.as_deref());
    let name = has_name.then(|| validator.parse("name", &request.name, Name::parse)).flatten();
    let description =
        has_description.then(|| validator.parse("description", &request.description, Description::parse)).flatten();
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::UpdateFlag { flag: flag?, name, description, expected_revision })
}
