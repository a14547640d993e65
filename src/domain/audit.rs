//! The audit entry: one change, never altered once written.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Hash;
use super::Revision;
use super::flag::json;
use super::hex::{hex_digits, parse_hex};
use super::time::Timestamp;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire and in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The inverse of `as_str`.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names! {
    /// The action of an entry.
    Action {
        /// A flag was enabled, by whichever method.
        ToggleEnabled = "toggle_enabled",
        /// A flag was disabled, by whichever method.
        ToggleDisabled = "toggle_disabled",
        /// A flag was created.
        FlagCreated = "flag_created",
        /// A flag's name or description was changed.
        FlagUpdated = "flag_updated",
        /// A flag was archived.
        FlagArchived = "flag_archived",
        /// A flag was unarchived.
        FlagUnarchived = "flag_unarchived",
        /// A user was created.
        UserCreated = "user_created",
        /// A user's permissions or account were changed, or the user was reactivated.
        UserUpdated = "user_updated",
        /// A user was deactivated.
        UserDeactivated = "user_deactivated",
        /// A token was created.
        TokenCreated = "token_created",
        /// A token was revoked.
        TokenRevoked = "token_revoked",
        /// An environment was created.
        EnvironmentCreated = "environment_created",
        /// An environment's name, description or settings were changed.
        EnvironmentUpdated = "environment_updated",
        /// An environment was archived.
        EnvironmentArchived = "environment_archived",
        /// An environment was unarchived.
        EnvironmentUnarchived = "environment_unarchived",
        /// A change was refused for lack of a permission.
        AccessDenied = "access_denied",
        /// The oldest part of the log was trimmed: it can no longer be read, and is deleted later.
        LogTrimmed = "log_trimmed",
    }
}

impl Action {
    /// Whether the action is a flip.
    pub fn is_flip(self) -> bool {
        matches!(self, Self::ToggleEnabled | Self::ToggleDisabled)
    }
}

names! {
    /// The type of object that an entry is about.
    EntityType {
        /// A flag.
        FeatureFlag = "feature_flag",
        /// A user.
        User = "user",
        /// A token.
        ApiToken = "api_token",
        /// An environment.
        Environment = "environment",
        /// The audit log itself.
        Log = "log",
    }
}

/// An audit entry. `docs/audit-proof.md` specifies its hash. An absent optional text is `None`, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Set by the server.
    pub id: Uuid,
    /// The position in the log.
    pub revision: Revision,
    /// The date of the change: `created_at`, or later, so that it is never before the previous entry nor at a closed time.
    pub timestamp: Timestamp,
    /// The user who made the change. `None` for the service itself, and in an `access_denied` entry of a single sign-on caller
    /// who is not a user yet.
    pub user_id: Option<Uuid>,
    /// The user's e-mail address at the time, or the service's name. For a caller who is not a user yet, the address in their
    /// token, or [`UNNAMED_SIGN_ON`](super::text::UNNAMED_SIGN_ON) if it is another user's.
    pub user_email: Arc<str>,
    /// The API token that authenticated the call; `None` for other credentials.
    pub token_id: Option<Uuid>,
    /// The action.
    pub action: Action,
    /// The type of the object.
    pub entity_type: EntityType,
    /// The object's id; `None` in an `access_denied` entry about no existing object.
    pub entity_id: Option<Uuid>,
    /// The object's key: a flag's or environment's key, a user's e-mail address, a token's id, the log's id. Without an existing object, the name
    /// in the request; empty if it named none, or several.
    pub entity_key: Arc<str>,
    /// The object's name at the time. Without an existing object, the same text as `entity_key`.
    pub entity_name: Arc<str>,
    /// The value before the change. For a flip, the status. For a trim, the [`LogStart`] as JSON. For any other action, the object as
    /// JSON. `None` for a creation and in an `access_denied` entry.
    pub old_value: Option<Arc<str>>,
    /// The value after the change, in the same form. In an `access_denied` entry, details of the refusal as JSON.
    pub new_value: Option<Arc<str>>,
    /// The reason that the caller gave.
    pub reason: Option<Arc<str>>,
    /// The caller's `request_id`.
    pub request_id: Option<Arc<str>>,
    /// The method.
    pub method: Arc<str>,
    /// The peer's address and port.
    pub peer: Option<Arc<str>>,
    /// The client's `user-agent`.
    pub user_agent: Option<Arc<str>>,
    /// The object's revision before the change.
    pub previous_entity_revision: Option<Revision>,
    /// The entry that this one reverts.
    pub reverts: Option<Uuid>,
    /// The key of the environment that the entry is about: that of the flag, or the environment itself. In an `access_denied` entry, that of
    /// the object. `None` for users, tokens and the log.
    pub environment: Option<Arc<str>>,
    /// The version of the encoding that `hash` covers.
    pub hash_version: u8,
    /// The hash of this entry and the previous hash.
    pub hash: Hash,
    /// When the change was decided, by the clock of PostgreSQL or, with SQLite, of the machine. It may be set back. Not covered by
    /// the hash.
    pub created_at: Timestamp,
}

/// Where a trimmed log starts: after the entry at `floor`, which had this hash. The old and new value of a `log_trimmed`
/// entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStart {
    /// The last revision that was trimmed; 0 if none was.
    pub floor: Revision,
    /// The hash of the entry there.
    pub hash: Hash,
}

/// [`LogStart`] as JSON.
#[derive(Serialize, Deserialize)]
struct LogStartJson {
    floor: Revision,
    hash: String,
}

impl LogStart {
    /// `{"floor":5,"hash":"..."}`, the hash in 64 hexadecimal digits.
    pub fn to_json(self) -> String {
        json(&LogStartJson { floor: self.floor, hash: hex_digits(&self.hash) })
    }

    /// The inverse of `to_json`; `None` for any other text.
    pub fn from_json(text: &str) -> Option<Self> {
        let LogStartJson { floor, hash } = serde_json::from_str(text).ok()?;
        Some(Self { floor, hash: parse_hex(&hash)? })
    }
}

impl Entry {
    /// The approximate size of the entry in bytes, in memory or as a message: its texts, and a little more than all else.
    pub fn size(&self) -> usize {
        const ALL_ELSE: usize = 400;
        let optional = [&self.old_value, &self.new_value, &self.reason, &self.request_id, &self.peer, &self.user_agent];
        let optional = optional.into_iter().chain([&self.environment]).flatten().map(|text| text.len()).sum::<usize>();
        let required = [&self.user_email, &self.entity_key, &self.entity_name, &self.method].map(|text| text.len());
        ALL_ELSE + optional + required.into_iter().sum::<usize>()
    }

    /// The start of the log that this entry set, if it is a `log_trimmed` entry.
    pub fn log_start(&self) -> Option<LogStart> {
        let text = self.new_value.as_deref().filter(|_| self.action == Action::LogTrimmed)?;
        LogStart::from_json(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_start_survives_its_json() {
        let start = LogStart { floor: 5, hash: [171; 32] };
        let text = format!("{{\"floor\":5,\"hash\":\"{}\"}}", "ab".repeat(32));
        assert_eq!(start.to_json(), text);
        assert_eq!(LogStart::from_json(&text), Some(start));
        for wrong in ["", "{}", "{\"floor\":5}", &text.replacen("ab", "a", 1), &text.replacen('5', "\"5\"", 1)] {
            assert_eq!(LogStart::from_json(wrong), None, "{wrong}");
        }
    }
}
