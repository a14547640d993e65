//! Fields of a request, parsed into domain types. All violations of a request are collected and reported at once.

use std::sync::Arc;

use uuid::Uuid;

use super::pb;
use crate::domain::access::{Account, Permissions, ScopedPermission};
use crate::domain::audit::{Action, EntityType};
use crate::domain::error::{Error, Violation};
use crate::domain::filter::{Filter, KeyFilter};
use crate::domain::flag::Status;
use crate::domain::state::{EnvironmentRef, EnvironmentScope, FlagRef};
use crate::domain::text::{EnvironmentKey, FlagKey, Malformed, Name};
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

/// Violations kept of one request. A request full of violations must not cost more than a valid one.
const MAX_VIOLATIONS: usize = 100;

/// Collects violations. An invalid field parses to `None`, like an absent one; [`RequestValidator::finish`] then fails.
#[derive(Default)]
pub(super) struct RequestValidator {
    violations: Vec<Violation>,
    /// Prefix of every field's path, such as `items[3].`.
    prefix: String,
}

/// An object named by id or key. Generated code has a separate type for each request.
pub(super) enum Selector {
    Id(String),
    Key(String),
}

/// The field of a request that names a flag.
pub(super) trait NamesFlag {
    fn is_by_key(&self) -> bool;
}

macro_rules! selector {
    ($object:ident: $($module:ident),* $(,)?) => {
        $(impl From<pb::$module::$object> for Selector {
            fn from(named: pb::$module::$object) -> Self {
                match named {
                    pb::$module::$object::Id(id) => Self::Id(id),
                    pb::$module::$object::Key(key) => Self::Key(key),
                }
            }
        })*
    };
}

macro_rules! flag_selector {
    ($($module:ident),* $(,)?) => {
        selector!(Flag: $($module),*);

        $(impl NamesFlag for pb::$module::Flag {
            fn is_by_key(&self) -> bool {
                matches!(self, Self::Key(_))
            }
        })*
    };
}

flag_selector!(
    toggle_feature_flag_request,
    enable_feature_flag_request,
    disable_feature_flag_request,
    batch_set_item,
    update_feature_flag_request,
    archive_feature_flag_request,
    unarchive_feature_flag_request,
    get_feature_flag_request,
);

selector!(
    Environment: update_environment_request,
    archive_environment_request,
    unarchive_environment_request,
    get_environment_request,
);

/// Which end of a period a time is. Times between two microseconds are rounded towards the inside of the period.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    From,
    To,
}

impl RequestValidator {
    /// The parsed value, if there were no violations.
    pub fn finish<T>(self, parsed: Option<T>) -> Result<T, Error> {
        match parsed {
            Some(parsed) if self.violations.is_empty() => Ok(parsed),
            _ => Err(Error::Invalid(self.violations)),
        }
    }

    /// Runs `parse` with `prefix` before every path.
    pub fn within<T>(&mut self, prefix: String, parse: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.prefix, prefix);
        let parsed = parse(self);
        self.prefix = outer;
        parsed
    }

    /// Records a violation. Returns `None` for the field's value.
    pub fn reject<T>(&mut self, field: &str, rule: impl Into<String>) -> Option<T> {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(Violation { field: format!("{}{field}", self.prefix), rule: rule.into() });
        }
        None
    }

    pub fn parse<T>(&mut self, field: &str, text: &str, parse: fn(&str) -> Result<T, Malformed>) -> Option<T> {
        parse(text).map_or_else(|rule| self.reject(field, rule.0), Some)
    }

    pub fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        let parsed = Uuid::try_parse(text).ok();
        parsed.or_else(|| self.reject(field, "must be a UUID: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
    }

    pub fn flag(&mut self, flag: Option<impl Into<Selector>>, environment: Option<&str>) -> Option<FlagRef> {
        let environment = self.environment(environment);
        match flag.map(Into::into) {
            Some(Selector::Id(id)) => self.uuid("id", &id).map(|id| FlagRef::Id(environment, id)),
            Some(Selector::Key(key)) => {
                self.parse("key", &key, FlagKey::parse).map(|key| FlagRef::Key(environment, key))
            }
            None => self.reject("flag", "must be named by id or by key"),
        }
    }

    /// The environment that a request is about.
    pub fn named_environment(&mut self, environment: Option<impl Into<Selector>>) -> Option<EnvironmentRef> {
        match environment.map(Into::into) {
            Some(Selector::Id(id)) => self.uuid("id", &id).map(EnvironmentRef::Id),
            Some(Selector::Key(key)) => self.parse("key", &key, EnvironmentKey::parse).map(EnvironmentRef::Key),
            None => self.reject("environment", "must be named by id or by key"),
        }
    }

    /// The key of an environment, if one is named.
    pub fn environment(&mut self, environment: Option<&str>) -> Option<EnvironmentKey> {
        environment.and_then(|key| self.parse("environment", key, EnvironmentKey::parse))
    }

    /// The environments of a list, watch or stream: those that the request names, or else the caller's own.
    pub fn environments(
        &mut self,
        environment: Option<&str>,
        own: Option<&EnvironmentKey>,
    ) -> Option<EnvironmentScope> {
        match environment {
            Some(text) => self.parse("environment", text, EnvironmentScope::parse),
            None => own.cloned().map(EnvironmentScope::One),
        }
    }

    /// An optional status.
    pub fn status(&mut self, field: &str, status: i32) -> Option<Status> {
        match pb::FeatureFlagStatus::try_from(status) {
            Ok(pb::FeatureFlagStatus::Enabled) => Some(Status::Enabled),
            Ok(pb::FeatureFlagStatus::Disabled) => Some(Status::Disabled),
            Ok(pb::FeatureFlagStatus::Unspecified) => None,
            Err(_) => self.reject(field, "must be FEATURE_FLAG_STATUS_ENABLED or FEATURE_FLAG_STATUS_DISABLED"),
        }
    }

    pub fn at_least(&mut self, field: &str, least: i64, value: Option<Revision>) -> Option<Revision> {
        value.filter(|v| *v < least).map_or(value, |_| self.reject(field, format!("must be at least {least}")))
    }

    /// Which of these fields an update changes: those that its mask names or, without one, those that have a value.
    pub fn update_mask<const N: usize>(
        &mut self,
        mask: Option<&prost_types::FieldMask>,
        fields: [(&str, bool); N],
    ) -> [bool; N] {
        let mask = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
        for (index, path) in mask.iter().enumerate() {
            if !fields.iter().any(|(name, _)| path == name) {
                let names = fields.map(|(name, _)| format!("'{name}'"));
                self.reject::<()>(&format!("update_mask.paths[{index}]"), format!("must be {}", any_of(&names)));
            }
        }
        let is_set = |(name, has_value): (&str, bool)| {
            if mask.is_empty() { has_value } else { mask.iter().any(|path| path == name) }
        };
        let changed = fields.map(is_set);
        if mask.is_empty() && !changed.contains(&true) {
            let names = any_of(&fields.map(|(name, _)| name));
            self.reject::<()>("update_mask", format!("must name what to change, unless {names} is given"));
        }
        changed
    }

    /// `expected_revision`: at least 1 if given.
    pub fn expected_revision(&mut self, value: Option<Revision>) -> Option<Revision> {
        self.at_least("expected_revision", 1, value)
    }

    /// The hash at the client's cursor; it requires a cursor.
    pub fn after_hash(&mut self, after_revision: Option<Revision>, hash: Option<Vec<u8>>) -> Option<Hash> {
        let parsed = Hash::try_from(hash?).map_or_else(|_| self.reject("after_hash", "must be 32 bytes"), Some);
        if parsed.is_some() && after_revision.is_none() {
            self.reject::<()>("after_hash", "must be given together with after_revision");
        }
        parsed
    }

    pub fn between(&mut self, field: &str, least: i32, most: i32, value: i32) -> Option<i32> {
        if (least..=most).contains(&value) {
            Some(value)
        } else {
            let rule = match most {
                i32::MAX => format!("must be at least {least}"),
                most => format!("must be {least} to {most}, a fixed limit"),
            };
            self.reject(field, rule)
        }
    }

    pub fn permissions(&mut self, field: &str, names: &[String]) -> Option<Permissions> {
        let parse = |(index, name): (usize, &String)| ScopedPermission::parse(name).map_err(|rule| (index, rule));
        match names.iter().enumerate().map(parse).collect() {
            Ok(permissions) => Some(permissions),
            Err((index, rule)) => self.reject(&format!("{field}[{index}]"), rule.to_string()),
        }
    }

    /// A single sign-on account, named by both fields or by neither.
    pub fn account(&mut self, issuer: Option<&str>, subject: Option<&str>) -> Option<Account> {
        match (issuer, subject) {
            (None, None) => None,
            (Some(issuer), Some(subject)) => {
                let issuer = self.parse("issuer", issuer, Name::parse);
                let subject = self.parse("subject", subject, Name::parse);
                Some(Account { issuer: issuer?.shared(), subject: subject?.shared() })
            }
            (Some(_), None) => self.reject("subject", "must be given together with issuer"),
            (None, Some(_)) => self.reject("issuer", "must be given together with subject"),
        }
    }

    pub fn time(&mut self, field: &str, edge: Edge, time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
        let time = time?;
        let nanos = i64::from(time.nanos);
        let micros = match edge {
            Edge::From => (nanos + 999) / 1_000,
            Edge::To => nanos / 1_000,
        };
        let valid = (Timestamp::MIN.micros()..=Timestamp::MAX.micros())
            .contains(&time.seconds.saturating_mul(1_000_000))
            && (0..1_000_000_000).contains(&nanos);
        if valid {
            Some(Timestamp::from_micros(time.seconds * 1_000_000 + micros))
        } else {
            self.reject(field, "must be a time from 0001-01-01T00:00:00Z and before 9999-12-30T22:00:00Z")
        }
    }

    fn one_of<T>(&mut self, field: &str, text: Option<&str>, parse: fn(&str) -> Option<T>, rule: String) -> Option<T> {
        let text = text?;
        parse(text).or_else(|| self.reject(field, rule))
    }

    /// The filters that ListAuditLogs and StreamAuditLogs share, without the environment, which depends on the caller.
    pub fn filter(&mut self, fields: &FilterFields<'_>) -> Filter {
        let entity_types = one_of(EntityType::ALL.iter().map(|t| t.as_str()));
        Filter {
            user_id: fields.user_id.and_then(|id| self.uuid("user_id", id)),
            user_email: fields.user_email.and_then(|email| self.email(email)),
            entity_type: self.one_of("entity_type", fields.entity_type, EntityType::parse, entity_types),
            entity_id: fields.entity_id.and_then(|id| self.uuid("entity_id", id)),
            key: self.key_filter(fields.entity_key, fields.key_prefix),
            actions: self.actions(fields.action_type, fields.action_types),
            without_reason: fields.without_reason,
            environment: None,
        }
    }

    fn key_filter(&mut self, entity_key: Option<&str>, key_prefix: Option<&str>) -> Option<KeyFilter> {
        if entity_key.is_some() && key_prefix.is_some() {
            return self.reject("key_prefix", "must not be given together with entity_key");
        }
        let (field, text) = entity_key.map(|key| ("entity_key", key)).or(key_prefix.map(|key| ("key_prefix", key)))?;
        if text.is_empty() || text.len() > MAX_KEY_BYTES || text.contains('\0') {
            return self.reject(field, format!("must be 1 to {MAX_KEY_BYTES} bytes, none of them U+0000"));
        }
        let text = Arc::from(text);
        Some(if entity_key.is_some() { KeyFilter::Exact(text) } else { KeyFilter::Prefix(text) })
    }

    /// The actions to filter by, each once.
    fn actions(&mut self, one: Option<&str>, several: &[String]) -> Vec<Action> {
        let names = || one_of(Action::ALL.iter().map(|action| action.as_str()));
        if one.is_some() && !several.is_empty() {
            self.reject::<()>("action_types", "must not be given together with action_type");
            return Vec::new();
        }
        if several.len() > MAX_ACTIONS {
            self.reject::<()>("action_types", format!("must be at most {MAX_ACTIONS} actions, a fixed limit"));
            return Vec::new();
        }
        let one = one.map(|name| ("action_type".to_owned(), name));
        let several = several.iter().enumerate().map(|(index, name)| (format!("action_types[{index}]"), name.as_str()));
        let mut actions = Vec::new();
        for (field, name) in one.into_iter().chain(several) {
            if let Some(action) = self.one_of(&field, Some(name), Action::parse, names()) {
                actions.push(action);
            }
        }
        actions.sort_unstable_by_key(|action| action.as_str());
        actions.dedup();
        actions
    }

    /// An address to filter by. Unlike a user's address it may be one of the service's own names, which the log contains.
    fn email(&mut self, text: &str) -> Option<Arc<str>> {
        let valid = text.contains('@') && text.chars().count() <= 254 && !text.contains('\0');
        if valid {
            Some(text.to_ascii_lowercase().into())
        } else {
            self.reject("user_email", "must be an e-mail address")
        }
    }
}

/// The filters of ListAuditLogs and StreamAuditLogs, as a request has them.
pub(super) struct FilterFields<'r> {
    pub user_id: Option<&'r str>,
    pub user_email: Option<&'r str>,
    pub entity_type: Option<&'r str>,
    pub entity_id: Option<&'r str>,
    pub entity_key: Option<&'r str>,
    pub key_prefix: Option<&'r str>,
    pub action_type: Option<&'r str>,
    pub action_types: &'r [String],
    pub without_reason: bool,
}

/// The longest key to filter by. An e-mail address is the longest key of an object: 254 characters.
const MAX_KEY_BYTES: usize = 1_024;

/// The most actions to filter by. There are fewer.
const MAX_ACTIONS: usize = 32;

fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    format!("must be one of {}", names.collect::<Vec<_>>().join(", "))
}

/// `a, b or c`.
fn any_of(names: &[impl AsRef<str>]) -> String {
    let mut text = String::new();
    for (index, name) in names.iter().enumerate() {
        text += match index {
            0 => "",
            _ if index + 1 == names.len() => " or ",
            _ => ", ",
        };
        text += name.as_ref();
    }
    text
}
