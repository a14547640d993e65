//! Runs the changes on the real service. Each change is also validated first and retried afterwards.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use toggled::api::pb::*;
use tonic::{Code, Response};
use uuid::Uuid;

use super::reference::{Flag, LastFlip, LogEntry, Model, User, reason};
use super::{Answer, ENVIRONMENTS, Expected, Op, Refusal};
use crate::support::{Client, Server, reason_of};

/// The permission that users are granted.
const PERMISSION: &str = "view_feature_flags";

/// The service as one sequence sees it. A key of its own separates it from other sequences.
pub struct Service {
    admin: Client,
    prefix: String,
    users: BTreeMap<usize, String>,
    tokens: Vec<String>,
    /// The ids of the written entries.
    entries: Vec<String>,
    start_revision: i64,
}

/// The ids of the entries that a change wrote, or its error.
type EntryIds = Result<Vec<String>, Refusal>;

/// Validates a change, makes it, retries it with the same `request_id`, and reuses the `request_id` for another request.
/// Only the second call may change anything.
macro_rules! change_once {
    ($service:ident.$client:ident.$method:ident($request:expr), |$answer:ident| $ids:expr) => {{
        let mut request = $request;
        request.request_id = Some(Uuid::now_v7().to_string());
        let (mut validation, mut another) = (request.clone(), request.clone());
        (validation.validate_only, another.reason) = (true, "another".to_owned());
        let mut answers: Vec<EntryIds> = Vec::new();
        for request in [validation, request.clone(), request, another] {
            let answer = $service.admin.$client.$method(request).await.map(Response::into_inner);
            answers.push(answer.map(|$answer| $ids).map_err(|status| (status.code(), reason_of(&status))));
        }
        assert_eq!(answers[0].as_ref().err(), answers[1].as_ref().err(), "validation predicts the error");
        assert_eq!(answers[1], answers[2], "a retry gets the same answer");
        let reused = (Code::FailedPrecondition, "REQUEST_ID_REUSED".to_owned());
        assert_eq!(answers[3], Err(answers[1].as_ref().err().cloned().unwrap_or(reused)));
        answers.swap_remove(1)
    }};
}

/// The id of the answer's entry, if there is one.
macro_rules! entry {
    ($answer:ident) => {
        $answer.audit_log.into_iter().map(|entry| entry.id).collect()
    };
}

/// The flag reference of any request type, by key.
macro_rules! key {
    ($request:ident, $key:expr) => {
        Some($request::Flag::Key($key))
    };
}

fn status(on: bool) -> FeatureFlagStatus {
    if on { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled }
}

fn permissions(permitted: bool) -> Vec<String> {
    permitted.then(|| PERMISSION.to_owned()).into_iter().collect()
}

impl Service {
    pub async fn new(server: &Server) -> Self {
        let (mut admin, prefix) = (server.admin().await, Uuid::now_v7().simple().to_string());
        let list = admin.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await;
        let start_revision = list.unwrap().into_inner().revision;
        Self { admin, prefix, users: BTreeMap::new(), tokens: Vec::new(), entries: Vec::new(), start_revision }
    }

    /// The model of the state before the first change.
    pub async fn model(&mut self) -> Model {
        let oldest = self.admin.log().await[0].revision;
        Model::new(self.start_revision, oldest - 1)
    }

    pub async fn apply(&mut self, op: &Op, before: &Model) -> Answer {
        let ids = match *op {
            Op::Batch { ref items } => self.batch(items, reason(before.head).unwrap_or_default()).await,
            Op::BatchCreate { ref items } => self.batch_create(items).await,
            Op::CreateUser { .. } | Op::Grant { .. } | Op::Deactivate { .. } => self.change_user(op).await,
            Op::CreateToken { .. } | Op::Revoke { .. } => self.change_token(op).await,
            Op::Trim { keep } => self.trim(before.head - keep).await,
            _ => self.change_flag(op, before).await,
        }?;
        self.entries.extend_from_slice(&ids);
        Ok(ids.len())
    }

    async fn change_flag(&mut self, op: &Op, before: &Model) -> EntryIds {
        let reason = reason(before.head).unwrap_or_default();
        let at = |flag, expected| match (expected, before.flags.get(flag)) {
            (Expected::Unset, _) => None,
            (Expected::Current, flag) => Some(flag.map_or(1, |flag| flag.revision)),
            (Expected::Other, flag) => Some(flag.map_or(1, |flag| flag.revision + 1)),
        };
        match *op {
            Op::CreateFlag { flag, on } => {
                let status = status(on).into();
                let (key, name, environment) = (self.prefix.clone(), "new".into(), environment(flag));
                let request = CreateFeatureFlagRequest { key, name, status, environment, ..Default::default() };
                change_once!(self.toggle.create_feature_flag(request), |answer| entry!(answer))
            }
            Op::Toggle { ref flag, expected } => {
                let (environment, expected_revision) = (environment(*flag), at(flag, expected));
                let flag = key!(toggle_feature_flag_request, self.prefix.clone());
                let request =
                    ToggleFeatureFlagRequest { flag, environment, expected_revision, reason, ..Default::default() };
                change_once!(self.toggle.toggle_feature_flag(request), |answer| entry!(answer))
            }
            Op::Set { ref flag, on: true, expected } => {
                let (environment, expected_revision) = (environment(*flag), at(flag, expected));
                let flag = key!(enable_feature_flag_request, self.prefix.clone());
                let request =
                    EnableFeatureFlagRequest { flag, environment, expected_revision, reason, ..Default::default() };
                change_once!(self.toggle.enable_feature_flag(request), |answer| entry!(answer))
            }
            Op::Set { ref flag, on: false, expected } => {
                let (environment, expected_revision) = (environment(*flag), at(flag, expected));
                let flag = key!(disable_feature_flag_request, self.prefix.clone());
                let request =
                    DisableFeatureFlagRequest { flag, environment, expected_revision, reason, ..Default::default() };
                change_once!(self.toggle.disable_feature_flag(request), |answer| entry!(answer))
            }
            Op::Rename { ref flag, name, expected } => {
                let (environment, expected_revision) = (environment(*flag), at(flag, expected));
                let flag = key!(update_feature_flag_request, self.prefix.clone());
                let (name, update_mask) = (format!("name {name}"), Some(FieldMask { paths: vec!["name".into()] }));
                let request = UpdateFeatureFlagRequest {
                    flag,
                    name,
                    update_mask,
                    environment,
                    expected_revision,
                    ..Default::default()
                };
                change_once!(self.toggle.update_feature_flag(request), |answer| entry!(answer))
            }
            Op::Archive { ref flag, archived: true, expected } => {
                let (environment, expected_revision) = (environment(*flag), at(flag, expected));
                let flag = key!(archive_feature_flag_request, self.prefix.clone());
                let request = ArchiveFeatureFlagRequest { flag, environment, expected_revision, ..Default::default() };
                change_once!(self.toggle.archive_feature_flag(request), |answer| entry!(answer))
            }
            Op::Archive { ref flag, archived: false, expected } => {
                let (environment, expected_revision) = (environment(*flag), at(flag, expected));
                let flag = key!(unarchive_feature_flag_request, self.prefix.clone());
                let request =
                    UnarchiveFeatureFlagRequest { flag, environment, expected_revision, ..Default::default() };
                change_once!(self.toggle.unarchive_feature_flag(request), |answer| entry!(answer))
            }
            Op::Revert { entry } => {
                let audit_log_id = self.entries.get(entry).cloned().unwrap_or_else(|| Uuid::now_v7().to_string());
                let request = RevertFeatureFlagRequest { audit_log_id, reason, ..Default::default() };
                change_once!(self.toggle.revert_feature_flag(request), |answer| entry!(answer))
            }
            _ => unreachable!("{op:?} is not about one flag"),
        }
    }

    async fn batch(&mut self, items: &[(usize, bool)], reason: String) -> EntryIds {
        let item = |(flag, on): &(usize, bool)| BatchSetItem {
            flag: key!(batch_set_item, self.prefix.clone()),
            status: status(*on).into(),
            environment: environment(*flag),
            ..Default::default()
        };
        let request =
            BatchSetFeatureFlagsRequest { items: items.iter().map(item).collect(), reason, ..Default::default() };
        change_once!(self.toggle.batch_set_feature_flags(request), |answer| {
            answer.results.into_iter().filter_map(|result| result.audit_log_id).collect()
        })
    }

    async fn batch_create(&mut self, items: &[(usize, bool)]) -> EntryIds {
        let item = |(flag, on): &(usize, bool)| BatchCreateItem {
            key: self.prefix.clone(),
            name: "new".into(),
            status: status(*on).into(),
            environment: environment(*flag),
            ..Default::default()
        };
        let request = BatchCreateFeatureFlagsRequest { items: items.iter().map(item).collect(), ..Default::default() };
        change_once!(self.toggle.batch_create_feature_flags(request), |answer| {
            answer.results.into_iter().filter_map(|result| result.audit_log_id).collect()
        })
    }

    async fn change_user(&mut self, op: &Op) -> EntryIds {
        let id = |user| self.users.get(user).cloned().unwrap_or_else(|| Uuid::now_v7().to_string());
        match *op {
            Op::CreateUser { user } => {
                let request = CreateUserRequest { email: self.email(user), ..Default::default() };
                let mut id = None;
                let result = change_once!(self.access.create_user(request), |answer| {
                    id = answer.user.map(|user| user.id);
                    entry!(answer)
                });
                self.users.extend(id.map(|id| (user, id)));
                result
            }
            Op::Grant { ref user, permitted, reactivate } => {
                let (id, permissions) = (id(user), permissions(permitted));
                let request = UpdateUserRequest { id, permissions, reactivate, ..Default::default() };
                change_once!(self.access.update_user(request), |answer| entry!(answer))
            }
            Op::Deactivate { ref user } => {
                let request = DeactivateUserRequest { id: id(user), ..Default::default() };
                change_once!(self.access.deactivate_user(request), |answer| entry!(answer))
            }
            _ => unreachable!("{op:?} is not about a user"),
        }
    }

    async fn change_token(&mut self, op: &Op) -> EntryIds {
        match *op {
            Op::CreateToken { ref user } => {
                let user_id = self.users.get(user).cloned().unwrap_or_else(|| Uuid::now_v7().to_string());
                let request = CreateTokenRequest { user_id, name: "a token".into(), ..Default::default() };
                let mut id = None;
                let result = change_once!(self.access.create_token(request), |answer| {
                    id = answer.token.map(|token| token.id);
                    entry!(answer)
                });
                self.tokens.extend(id);
                result
            }
            Op::Revoke { token } => {
                let id = self.tokens.get(token).cloned().unwrap_or_else(|| Uuid::now_v7().to_string());
                let request = RevokeTokenRequest { id, ..Default::default() };
                change_once!(self.access.revoke_token(request), |answer| entry!(answer))
            }
            _ => unreachable!("{op:?} is not about a token"),
        }
    }

    async fn trim(&mut self, through_revision: i64) -> EntryIds {
        let through = self.admin.log().await.into_iter().find(|entry| entry.revision == through_revision);
        let through_hash = through.map_or(vec![0; 32], |entry| entry.hash);
        let request = TrimAuditLogsRequest { through_revision, through_hash, ..Default::default() };
        change_once!(self.audit.trim_audit_logs(request), |answer| entry!(answer))
    }

    /// The key of all flags of this sequence.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn email(&self, user: usize) -> String {
        format!("{user}@{}.example.com", self.prefix)
    }

    /// The flags of this sequence.
    pub async fn flags(&mut self) -> BTreeMap<usize, Flag> {
        let request = ListFeatureFlagsRequest {
            key_prefix: self.prefix.clone(),
            include_archived: true,
            environment: Some("-".to_owned()),
            ..Default::default()
        };
        let flags = self.admin.toggle.list_feature_flags(request).await.unwrap().into_inner().feature_flags;
        let flag = |flag: FeatureFlag| {
            let (on, archived) = (flag.status() == FeatureFlagStatus::Enabled, flag.archived_at.is_some());
            let last_flip = flag.last_flip.map(|flip| LastFlip { revision: flip.revision, reason: flip.reason });
            (number(&flag.environment), Flag { on, archived, name: flag.name, revision: flag.revision, last_flip })
        };
        flags.into_iter().map(flag).collect()
    }

    /// The users of this sequence.
    pub async fn users(&mut self) -> BTreeMap<usize, User> {
        let mut users = BTreeMap::new();
        for (number, id) in &self.users {
            let request = GetUserRequest { id: id.clone(), ..Default::default() };
            let user = self.admin.access.get_user(request).await.unwrap().into_inner().user.unwrap();
            let (active, permitted) = (user.deactivated_at.is_none(), !user.permissions.is_empty());
            users.insert(*number, User { active, permitted, revision: user.revision });
        }
        users
    }

    /// The entries of this sequence that are still in the log.
    pub async fn entries(&mut self) -> Vec<LogEntry> {
        let log = self.admin.log().await.into_iter().filter(|entry| entry.revision > self.start_revision);
        let log_entry = |entry: AuditLog| {
            let entity = match &*entry.entity_type {
                "feature_flag" => number(entry.environment()),
                "user" => entry.entity_key.split('@').next().unwrap().parse().unwrap(),
                "api_token" => self.tokens.iter().position(|id| *id == entry.entity_key).unwrap(),
                _ => 0,
            };
            LogEntry { revision: entry.revision, action: entry.action_type, entity }
        };
        log.map(log_entry).collect()
    }
}

/// The environment of a flag.
fn environment(flag: usize) -> Option<String> {
    Some(ENVIRONMENTS[flag].to_owned())
}

/// The flag that is in this environment.
fn number(environment: &str) -> usize {
    ENVIRONMENTS.iter().position(|key| *key == environment).unwrap()
}
