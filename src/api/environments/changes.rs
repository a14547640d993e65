//! Requests that change environments, as commands, and their responses.

use crate::api::change::change;
use crate::api::pb;
use crate::api::validate::RequestValidator;
use crate::domain::advance::{Answer, Command, EnvironmentUpdate, NewEnvironment, Object};
use crate::domain::text::{Description, EnvironmentKey, Name};

macro_rules! environment_change {
    ($request:ident => $response:ident) => {
        change!($request => $response, answer => pb::$response {
            environment: environment(answer),
            audit_log: answer.entry.as_deref().map(Into::into),
            revision: answer.revision,
        });
    };
}

environment_change!(CreateEnvironmentRequest => CreateEnvironmentResponse);
environment_change!(UpdateEnvironmentRequest => UpdateEnvironmentResponse);
environment_change!(ArchiveEnvironmentRequest => ArchiveEnvironmentResponse);
environment_change!(UnarchiveEnvironmentRequest => UnarchiveEnvironmentResponse);

fn environment(answer: &Answer) -> Option<pb::Environment> {
    match &answer.object {
        Object::Environment(environment) => Some(environment.into()),
        _ => None,
    }
}

pub(super) fn create(request: &pb::CreateEnvironmentRequest, validator: &mut RequestValidator) -> Option<Command> {
    let key = validator.parse("key", &request.key, EnvironmentKey::parse);
    let name = validator.parse("name", &request.name, Name::parse);
    let description = validator.parse("description", &request.description, Description::parse);
    let require_reason = request.require_reason;
    Some(Command::CreateEnvironment(NewEnvironment {
        key: key?,
        name: name?,
        description: description?,
        require_reason,
    }))
}

pub(super) fn update(request: &pb::UpdateEnvironmentRequest, validator: &mut RequestValidator) -> Option<Command> {
    let fields = [
        ("name", !request.name.is_empty()),
        ("description", !request.description.is_empty()),
        ("require_reason", request.require_reason),
    ];
    let [has_name, has_description, has_rule] = validator.update_mask(request.update_mask.as_ref(), fields);
    let environment = validator.named_environment(request.environment.clone());
    let name = has_name.then(|| validator.parse("name", &request.name, Name::parse)).flatten();
    let description =
        has_description.then(|| validator.parse("description", &request.description, Description::parse)).flatten();
    let require_reason = has_rule.then_some(request.require_reason);
    let expected_revision = validator.expected_revision(request.expected_revision);
    let environment = environment?;
    Some(Command::UpdateEnvironment(EnvironmentUpdate {
        environment,
        name,
        description,
        require_reason,
        expected_revision,
    }))
}

pub(super) fn archive(request: &pb::ArchiveEnvironmentRequest, validator: &mut RequestValidator) -> Option<Command> {
    let environment = validator.named_environment(request.environment.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetEnvironmentArchived { environment: environment?, archived: true, expected_revision })
}

pub(super) fn unarchive(
    request: &pb::UnarchiveEnvironmentRequest,
    validator: &mut RequestValidator,
) -> Option<Command> {
    let environment = validator.named_environment(request.environment.clone());
    let expected_revision = validator.expected_revision(request.expected_revision);
    Some(Command::SetEnvironmentArchived { environment: environment?, archived: false, expected_revision })
}
