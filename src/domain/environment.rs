//! The environment: a set of flags with its own readers, such as `staging`.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::Revision;
use super::flag::json;
use super::text::{Description, EnvironmentKey, Name};
use super::time::Timestamp;

/// The most environments, archived ones included.
pub const MAX_ENVIRONMENTS: usize = 1_000;

/// An environment. The fields are declared in alphabetical order, since serde keeps it: the JSON of an environment has sorted keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// What the environment is for; may be empty.
    pub description: Description,
    /// Set at creation, never changed.
    pub id: Uuid,
    /// The key that requests and permissions name the environment by: unique, never changed or reused.
    pub key: EnvironmentKey,
    /// A name for people.
    pub name: Name,
    /// Whether each flip of a flag must have a reason.
    pub require_reason: bool,
    /// The revision that last changed the environment.
    pub revision: Revision,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The e-mail address of the user who last changed it, or the service's name.
    pub updated_by: Arc<str>,
}

impl Environment {
    /// The environment as the audit log stores it: JSON with sorted keys.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

#[cfg(test)]
impl Environment {
    /// An environment for a test. The same key has the same id.
    pub fn sample(key: &str) -> Self {
        let id = key.bytes().fold(1_u128, |id, byte| id.wrapping_mul(257).wrapping_add(byte.into()));
        Self {
            archived_at: None,
            created_at: Timestamp::default(),
            description: Description::parse("").unwrap(),
            id: Uuid::from_u128(id),
            key: EnvironmentKey::parse(key).unwrap(),
            name: Name::parse(key).unwrap(),
            require_reason: false,
            revision: 0,
            updated_at: Timestamp::default(),
            updated_by: "ann@example.com".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_json_has_all_fields_in_sorted_order() {
        let environment = Environment {
            archived_at: None,
            created_at: Timestamp::from_micros(1),
            description: Description::parse("two\nlines").unwrap(),
            id: Uuid::nil(),
            key: EnvironmentKey::parse("staging").unwrap(),
            name: Name::parse("Staging").unwrap(),
            require_reason: true,
            revision: 7,
            updated_at: Timestamp::from_micros(2_000_000),
            updated_by: "ann@example.com".into(),
        };
        assert_eq!(
            environment.to_json(),
            r#"{"archived_at":null,"created_at":"1970-01-01T00:00:00.000001Z","description":"two\nlines","#.to_owned()
                + r#""id":"00000000-0000-0000-0000-000000000000","key":"staging","name":"Staging","require_reason":true,"#
                + r#""revision":7,"updated_at":"1970-01-01T00:00:02Z","updated_by":"ann@example.com"}"#
        );
    }
}
