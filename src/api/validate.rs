//! Fields of a request into the types that the rules work with: parsed once, here, and every fault told at once.

use std::sync::Arc;

use uuid::Uuid;

use super::pb;
use crate::domain::access::{Account, Permission, Permissions};
use crate::domain::error::{Error, Violation};
use crate::domain::filter::Filter;
use crate::domain::flag::Status;
use crate::domain::state::FlagRef;
use crate::domain::text::{FlagKey, Malformed, Name};
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

/// Faults that are remembered of one request.
const MOST_KEPT: usize = 100;

/// The faults that have been found so far. A field that is at fault is `None`; [`Fields::finish`] sees to it that nobody
/// takes that for absent.
#[derive(Default)]
pub(super) struct Fields {
    violations: Vec<Violation>,
    /// What every field's path begins with: `items[3].`, for one.
    prefix: String,
}

/// A flag named by id or key: each request has a type of its own for it.
pub(super) enum Named {
    Id(String),
    Key(String),
}

macro_rules! named {
    ($($module:ident),* $(,)?) => {
        $(impl From<pb::$module::Flag> for Named {
            fn from(flag: pb::$module::Flag) -> Self {
                match flag {
                    pb::$module::Flag::Id(id) => Self::Id(id),
                    pb::$module::Flag::Key(key) => Self::Key(key),
                }
            }
        })*
    };
}

named!(
    toggle_feature_flag_request,
    enable_feature_flag_request,
    disable_feature_flag_request,
    batch_set_item,
    update_feature_flag_request,
    archive_feature_flag_request,
    unarchive_feature_flag_request,
    get_feature_flag_request,
);

/// Which end of a period a time is: what lies between two microseconds is held to the inside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    From,
    To,
}

impl Fields {
    /// What was made of the fields, if there was no fault in any.
    pub fn finish<T>(self, made: Option<T>) -> Result<T, Error> {
        match made {
            Some(made) if self.violations.is_empty() => Ok(made),
            _ => Err(Error::Invalid(self.violations)),
        }
    }

    /// Runs `parse` with every path beginning with `prefix`.
    pub fn within<T>(&mut self, prefix: String, parse: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.prefix, prefix);
        let parsed = parse(self);
        self.prefix = outer;
        parsed
    }

    pub fn violate<T>(&mut self, field: &str, rule: impl Into<String>) -> Option<T> {
        // Far more than are ever shown: a request full of faults must not cost more than one without.
        if self.violations.len() < MOST_KEPT {
            self.violations.push(Violation { field: format!("{}{field}", self.prefix), rule: rule.into() });
        }
        None
    }

    pub fn parse<T>(&mut self, field: &str, text: &str, parse: fn(&str) -> Result<T, Malformed>) -> Option<T> {
        parse(text).map_or_else(|rule| self.violate(field, rule.0), Some)
    }

    pub fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        let parsed = Uuid::try_parse(text).ok();
        parsed.or_else(|| self.violate(field, "must be a UUID: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
    }

    pub fn flag(&mut self, flag: Option<impl Into<Named>>) -> Option<FlagRef> {
        match flag.map(Into::into) {
            Some(Named::Id(id)) => self.uuid("id", &id).map(FlagRef::Id),
            Some(Named::Key(key)) => self.parse("key", &key, FlagKey::parse).map(FlagRef::Key),
            None => self.violate("flag", "must be named by id or by key"),
        }
    }

    /// A status that may be absent.
    pub fn status(&mut self, field: &str, status: i32) -> Option<Status> {
        match pb::FeatureFlagStatus::try_from(status) {
            Ok(pb::FeatureFlagStatus::Enabled) => Some(Status::Enabled),
            Ok(pb::FeatureFlagStatus::Disabled) => Some(Status::Disabled),
            Ok(pb::FeatureFlagStatus::Unspecified) => None,
            Err(_) => self.violate(field, "must be FEATURE_FLAG_STATUS_ENABLED or FEATURE_FLAG_STATUS_DISABLED"),
        }
    }

    pub fn at_least(&mut self, field: &str, least: i64, value: Option<Revision>) -> Option<Revision> {
        value.filter(|v| *v < least).map_or(value, |_| self.violate(field, format!("must be at least {least}")))
    }

    /// The hash that a client has seen at its cursor, which must be there then.
    pub fn after_hash(&mut self, after_revision: Option<Revision>, hash: Option<Vec<u8>>) -> Option<Hash> {
        let parsed = Hash::try_from(hash?).map_or_else(|_| self.violate("after_hash", "must be 32 bytes"), Some);
        if parsed.is_some() && after_revision.is_none() {
            self.violate::<()>("after_hash", "must be given together with after_revision");
        }
        parsed
    }

    pub fn between(&mut self, field: &str, least: i32, most: i32, value: i32) -> Option<i32> {
        if (least..=most).contains(&value) {
            Some(value)
        } else {
            self.violate(field, format!("must be {least} to {most}"))
        }
    }

    pub fn permissions(&mut self, field: &str, names: &[String]) -> Option<Permissions> {
        let parsed: Vec<_> = names.iter().map(|name| Permission::parse(name)).collect();
        let permissions = parsed.iter().flatten().copied().collect();
        match parsed.iter().position(Option::is_none) {
            None => Some(permissions),
            Some(index) => {
                let all = Permissions::all().names().join(", ");
                self.violate(&format!("{field}[{index}]"), format!("must be one of {all}"))
            }
        }
    }

    /// An account of the single sign-on, which both fields name or neither.
    pub fn account(&mut self, issuer: Option<&str>, subject: Option<&str>) -> Option<Account> {
        match (issuer, subject) {
            (None, None) => None,
            (Some(issuer), Some(subject)) => {
                let issuer = self.parse("issuer", issuer, Name::parse);
                let subject = self.parse("subject", subject, Name::parse);
                Some(Account { issuer: issuer?.shared(), subject: subject?.shared() })
            }
            (Some(_), None) => self.violate("subject", "must be given together with issuer"),
            (None, Some(_)) => self.violate("issuer", "must be given together with subject"),
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
            self.violate(field, "must be a time from 0001-01-01T00:00:00Z to 9999-12-30T22:00:00Z")
        }
    }

    fn known<T>(&mut self, field: &str, text: Option<&str>, parse: fn(&str) -> Option<T>, rule: String) -> Option<T> {
        let text = text?;
        parse(text).or_else(|| self.violate(field, rule))
    }

    /// The filters that ListAuditLogs and StreamAuditLogs share.
    pub fn filter(
        &mut self,
        user_id: Option<&str>,
        user_email: Option<&str>,
        entity_type: Option<&str>,
        entity_id: Option<&str>,
        action_type: Option<&str>,
    ) -> Filter {
        use crate::domain::audit::{Action, EntityType};
        let list = |names: Vec<&str>| format!("must be one of {}", names.join(", "));
        let entity_types = list(EntityType::ALL.iter().map(|t| t.as_str()).collect());
        let actions = list(Action::ALL.iter().map(|a| a.as_str()).collect());
        Filter {
            user_id: user_id.and_then(|id| self.uuid("user_id", id)),
            user_email: user_email.and_then(|email| self.email(email)),
            entity_type: self.known("entity_type", entity_type, EntityType::parse, entity_types),
            entity_id: entity_id.and_then(|id| self.uuid("entity_id", id)),
            action: self.known("action_type", action_type, Action::parse, actions),
        }
    }

    /// An address to look for: those that the service itself appears under are in the log too.
    fn email(&mut self, text: &str) -> Option<Arc<str>> {
        let valid = text.contains('@') && text.chars().count() <= 254 && !text.contains('\0');
        if valid { Some(text.to_lowercase().into()) } else { self.violate("user_email", "must be an e-mail address") }
    }
}
