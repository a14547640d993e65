//! Parses a line of an exported file directly into an entry, without a JSON value in between: a large file has millions of lines.

use std::fmt;
use std::sync::Arc;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::hex::parse_hex;
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

/// The JSON of one line. A field without a value is left out.
#[derive(Deserialize)]
struct LineJson {
    log_id: Uuid,
    id: Uuid,
    revision: Revision,
    timestamp: Parsed<Timestamp>,
    user_id: Option<Uuid>,
    user_email: Parsed<Arc<str>>,
    token_id: Option<Uuid>,
    action_type: Parsed<Action>,
    entity_type: Parsed<EntityType>,
    entity_id: Option<Uuid>,
    entity_key: Parsed<Arc<str>>,
    entity_name: Parsed<Arc<str>>,
    old_value: Option<Parsed<Arc<str>>>,
    new_value: Option<Parsed<Arc<str>>>,
    reason: Option<Parsed<Arc<str>>>,
    request_id: Option<Parsed<Arc<str>>>,
    method: Parsed<Arc<str>>,
    peer: Option<Parsed<Arc<str>>>,
    user_agent: Option<Parsed<Arc<str>>>,
    previous_entity_revision: Option<Revision>,
    reverts: Option<Uuid>,
    environment: Option<Parsed<Arc<str>>>,
    hash_version: u8,
    hash: Parsed<Hash>,
}

/// The log id and the entry of a line; `None` for a line that is no valid entry. `created_at` is not read, since no hash
/// covers it.
pub(super) fn parse_entry(line: &[u8]) -> Option<(Uuid, Entry)> {
    // Checks UTF-8 once for the whole line, not for each text.
    let line: LineJson = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
    let text = |text: Option<Parsed<Arc<str>>>| text.map(|text| text.0);
    let entry = Entry {
        id: line.id,
        revision: line.revision,
        timestamp: line.timestamp.0,
        user_id: line.user_id,
        user_email: line.user_email.0,
        token_id: line.token_id,
        action: line.action_type.0,
        entity_type: line.entity_type.0,
        entity_id: line.entity_id,
        entity_key: line.entity_key.0,
        entity_name: line.entity_name.0,
        old_value: text(line.old_value),
        new_value: text(line.new_value),
        reason: text(line.reason),
        request_id: text(line.request_id),
        method: line.method.0,
        peer: text(line.peer),
        user_agent: text(line.user_agent),
        previous_entity_revision: line.previous_entity_revision,
        reverts: line.reverts,
        environment: text(line.environment),
        hash_version: line.hash_version,
        hash: line.hash.0,
        created_at: line.timestamp.0,
    };
    Some((line.log_id, entry))
}

/// A value parsed from a JSON string without copying the string first.
struct Parsed<T>(T);

trait FromText: Sized {
    fn from_text(text: &str) -> Option<Self>;
}

impl FromText for Arc<str> {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl FromText for Action {
    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl FromText for EntityType {
    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl FromText for Hash {
    fn from_text(text: &str) -> Option<Self> {
        parse_hex(text)
    }
}

/// A whole number of microseconds, the precision of the log.
impl FromText for Timestamp {
    fn from_text(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.parse().ok()?;
        (time.subsec_nanosecond() % 1_000 == 0).then(|| Self::from_micros(time.as_microsecond()))
    }
}

impl<'de, T: FromText> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(std::marker::PhantomData<T>);

        impl<T: FromText> Visitor<'_> for Text<T> {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text as audit export writes it")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Parsed<T>, E> {
                T::from_text(text).map(Parsed).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}
