//! The feature flag.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Revision;
use super::audit::Entry;
use super::text::{Description, EnvironmentKey, FlagKey, Name};
use super::time::Timestamp;

/// The status of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

impl Status {
    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }

    /// The inverse of [`Status::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "enabled" => Some(Self::Enabled),
            "disabled" => Some(Self::Disabled),
            _ => None,
        }
    }

    /// The opposite status.
    pub fn flipped(self) -> Self {
        match self {
            Self::Enabled => Self::Disabled,
            Self::Disabled => Self::Enabled,
        }
    }
}

/// A feature flag. The fields are declared in alphabetical order, since serde keeps it: the JSON of a flag has sorted keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// What the flag is for; may be empty.
    pub description: Description,
    /// The environment that the flag belongs to. Set at creation, never changed. The flags of an environment share this text.
    pub environment: EnvironmentKey,
    /// Set at creation, never changed.
    pub id: Uuid,
    /// The key that code reads the flag by: unique in its environment, never changed or reused.
    pub key: FlagKey,
    /// The last flip; `None` if the status is that of the creation.
    pub last_flip: Option<Arc<LastFlip>>,
    /// A name for people.
    pub name: Name,
    /// The revision that last changed the flag.
    pub revision: Revision,
    /// The status.
    pub status: Status,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The e-mail address of the user who last changed it, or the service's name.
    pub updated_by: Arc<str>,
}

/// The last flip of a flag: why it has its status. Like [`Flag`], in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFlip {
    /// The entry of the flip.
    pub audit_log_id: Uuid,
    /// The e-mail address of the user who flipped the flag, or the service's name.
    pub by: Arc<str>,
    /// The reason that the caller gave. The flags of one batch share this text.
    pub reason: Option<Arc<str>>,
    /// The revision of the flip.
    pub revision: Revision,
    /// When it was made.
    pub time: Timestamp,
}

impl LastFlip {
    /// The flip that an entry records.
    pub fn from_entry(entry: &Entry) -> Self {
        Self {
            audit_log_id: entry.id,
            by: Arc::clone(&entry.user_email),
            reason: entry.reason.clone(),
            revision: entry.revision,
            time: entry.timestamp,
        }
    }
}

impl Flag {
    /// The flag as the audit log stores it: JSON with sorted keys.
    pub fn to_json(&self) -> String {
        json(self)
    }

    /// The inverse of [`Flag::to_json`]; `None` for any other text. Ignores fields that a later version may add.
    pub fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

#[cfg(test)]
impl Flag {
    /// A flag of the environment `default` for a test: off, and last changed at this revision. The same key has the same id.
    pub fn sample(key: &str, revision: Revision) -> Self {
        let default = EnvironmentKey::default_environment();
        Self { environment: default.clone(), ..Self::sample_in(default.as_str(), key, revision) }
    }

    /// As [`Flag::sample`], in another environment. The same environment and key have the same id.
    pub fn sample_in(environment: &str, key: &str, revision: Revision) -> Self {
        let id = environment
            .bytes()
            .chain(key.bytes())
            .fold(1_u128, |id, byte| id.wrapping_mul(257).wrapping_add(byte.into()));
        Self {
            environment: EnvironmentKey::parse(environment).unwrap(),
            id: Uuid::from_u128(id),
            key: FlagKey::parse(key).unwrap(),
            name: Name::parse(key).unwrap(),
            description: Description::parse("").unwrap(),
            status: Status::Disabled,
            revision,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            updated_by: "ann@example.com".into(),
            archived_at: None,
            last_flip: None,
        }
    }
}

#[cfg(test)]
impl LastFlip {
    /// A flip at this revision for a test.
    pub fn sample(revision: Revision) -> Arc<Self> {
        let audit_log_id = Uuid::from_u128(revision.unsigned_abs().into());
        let time = Timestamp::from_micros(revision);
        Arc::new(Self { audit_log_id, by: "ann@example.com".into(), reason: Some("because".into()), revision, time })
    }
}

/// JSON text of plain fields.
pub(super) fn json(fields: &impl Serialize) -> String {
    // Structs of strings, numbers and options of them have no way to fail.
    serde_json::to_string(fields).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_survives_its_json() {
        let flag = Flag {
            name: Name::parse("The \"new\" checkout \u{2713}").unwrap(),
            description: Description::parse("two\nlines").unwrap(),
            status: Status::Enabled,
            created_at: Timestamp::MIN,
            updated_at: Timestamp::from_micros(1_700_000_000_123_457),
            updated_by: "cli@host".into(),
            archived_at: Some(Timestamp::MAX),
            last_flip: Some(LastFlip::sample(i64::MAX)),
            ..Flag::sample("checkout", i64::MAX)
        };
        assert_eq!(Flag::from_json(&flag.to_json()), Some(flag.clone()));
        let plain = Flag::sample("a.b-C_1", 1);
        assert_eq!(Flag::from_json(&plain.to_json()), Some(plain));
        let json = flag.to_json();
        for (good, bad) in [
            ("checkout", " "),
            ("enabled", "on"),
            ("9999-", "x"),
            ("0001-", "x"),
            ("\"key\"", "\"kee\""),
            ("\"default\"", "\"-\""),
        ] {
            assert_eq!(Flag::from_json(&json.replace(good, bad)), None, "{bad}");
        }
        assert_eq!(Flag::from_json(&json.replacen('{', "{\"later\":1,", 1)), Some(flag));
    }

    /// There may be a million flags. The allocator hands out 128, 160 or 192 bytes.
    #[test]
    fn flag_with_its_counters_takes_160_bytes() {
        assert!(2 * size_of::<usize>() + size_of::<Flag>() <= 160);
        assert!(2 * size_of::<usize>() + size_of::<LastFlip>() <= 80);
    }

    #[test]
    fn flag_json_has_all_fields_in_sorted_order() {
        let flag = Flag {
            id: Uuid::nil(),
            name: Name::parse("The \"new\" checkout").unwrap(),
            status: Status::Enabled,
            created_at: Timestamp::from_micros(1),
            updated_at: Timestamp::from_micros(2_000_000),
            ..Flag::sample("checkout", 7)
        };
        assert_eq!(
            flag.to_json(),
            r#"{"archived_at":null,"created_at":"1970-01-01T00:00:00.000001Z","description":"","#.to_owned()
                + r#""environment":"default","id":"00000000-0000-0000-0000-000000000000","key":"checkout","last_flip":null,"#
                + r#""name":"The \"new\" checkout","#
                + r#""revision":7,"status":"enabled","updated_at":"1970-01-01T00:00:02Z","updated_by":"ann@example.com"}"#
        );
        let flipped = Flag { last_flip: Some(LastFlip::sample(1)), ..flag };
        let last_flip = r#""last_flip":{"audit_log_id":"00000000-0000-0000-0000-000000000001","by":"ann@example.com","#
            .to_owned()
            + r#""reason":"because","revision":1,"time":"1970-01-01T00:00:00.000001Z"},"#;
        assert!(flipped.to_json().contains(&last_flip), "{}", flipped.to_json());
    }
}
