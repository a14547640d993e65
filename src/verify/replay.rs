//! What the log says that every flag, user and token is, and whether that is what they are.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Fault, Problem};
use crate::domain::Revision;
use crate::domain::access::Directory;
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::state::{FlagRef, State};
use crate::domain::time::Timestamp;

/// What the log says of an object.
struct Object {
    kind: EntityType,
    key: Arc<str>,
    /// Its last change.
    revision: Revision,
    timestamp: Timestamp,
    by: Arc<str>,
    /// All of it, when an entry last said so.
    whole: Option<Arc<str>>,
    /// The status that it was flipped to since.
    status: Option<&'static str>,
}

/// The log, object by object. Takes memory for every object, and none for an entry.
pub struct Replay {
    /// What comes after this revision.
    after: Revision,
    objects: HashMap<Uuid, Object>,
}

impl Replay {
    /// Knows nothing of what comes up to this revision.
    pub fn behind(after: Revision) -> Self {
        Self { after, objects: HashMap::new() }
    }

    /// Takes the next entry.
    pub fn take(&mut self, entry: &Entry) {
        use Action::{AccessDenied, LogTrimmed, ToggleDisabled, ToggleEnabled};
        let Some(id) = entry.entity_id else { return };
        let (whole, status) = match entry.action {
            AccessDenied | LogTrimmed => return,
            ToggleEnabled => (None, Some("enabled")),
            ToggleDisabled => (None, Some("disabled")),
            _ => (entry.new_value.clone(), None),
        };
        let whole = whole.or_else(|| self.objects.get_mut(&id).and_then(|before| before.whole.take()));
        let object = Object {
            kind: entry.entity_type,
            key: entry.entity_key.clone(),
            revision: entry.revision,
            timestamp: entry.timestamp,
            by: entry.user_email.clone(),
            whole,
            status,
        };
        self.objects.insert(id, object);
    }

    /// Compares it with what there is, at the same revision.
    ///
    /// # Errors
    /// Of the objects that are not as the log says the one that changed first.
    pub fn compare(&self, state: &State) -> Result<(), Fault> {
        let differing = self.objects.iter().filter_map(|(id, object)| self.difference(*id, object, state));
        differing.chain(self.unknown(state)).min_by_key(|fault| fault.revision).map_or(Ok(()), Err)
    }

    fn difference(&self, id: Uuid, object: &Object, state: &State) -> Option<Fault> {
        let actual = match object.kind {
            EntityType::FeatureFlag => state.flag(&FlagRef::Id(id)).map(|flag| flag.to_json()),
            EntityType::User => state.user(id).map(|user| user.to_json()),
            EntityType::ApiToken => state.token(id).map(|token| token.to_json()),
            EntityType::Log => return None,
        };
        let (kind, key) = (object.kind.as_str(), &object.key);
        let words = match actual.as_deref().map(serde_json::from_str::<Map<String, Value>>) {
            Some(Ok(actual)) => {
                let differs = |(name, said): &(String, Value)| actual.get(name) != Some(said);
                let (name, said) = object.said().into_iter().find(differs)?;
                let is = actual.get(&name).unwrap_or(&Value::Null);
                format!("{kind} {key}: {name} is {is}, and the log says {said}")
            }
            _ => format!("{kind} {key} is in the log, and has no row"),
        };
        Some(Fault { revision: object.revision, problem: Problem::State(words) })
    }

    /// A row that says nothing that one could does not fit the last entry of its object, if there is one.
    pub fn unreadable(&self, row: &str, problem: &impl ToString) -> Fault {
        let object = row.parse().ok().and_then(|id: Uuid| self.objects.get(&id));
        let revision = object.map_or(self.after, |object| object.revision);
        Fault { revision, problem: Problem::State(problem.to_string()) }
    }

    /// How many rows could not be compared, since they last changed before what was taken.
    pub fn older(&self, state: &State) -> usize {
        self.unspoken(state).filter(|(revision, ..)| self.is_older(*revision)).count()
    }

    /// Rows that no entry speaks of, and should.
    fn unknown<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Fault> + 'a {
        let unknown = self.unspoken(state).filter(|(revision, ..)| !self.is_older(*revision));
        unknown.map(|(revision, kind, key)| {
            let problem = Problem::State(format!("{kind} {key} has a row, and there is no entry of it"));
            Fault { revision, problem }
        })
    }

    /// Rows that no entry that was taken speaks of: their revision, kind and key.
    fn unspoken<'a>(&'a self, state: &'a State) -> impl Iterator<Item = (Revision, &'static str, String)> + 'a {
        let flags = state.flags("", None).map(|flag| (flag.id, flag.revision, "feature_flag", flag.key.to_string()));
        let users = state.users(None).map(|user| (user.id, user.revision, "user", user.email.to_string()));
        let tokens = state.tokens().map(|token| (token.id, token.revision, "api_token", token.id.to_string()));
        let rows = flags.chain(users).chain(tokens);
        rows.filter(|(id, ..)| !self.objects.contains_key(id)).map(|(_, revision, kind, key)| (revision, kind, key))
    }

    /// Whether an entry of this revision came before what was taken. None ever had one below 1.
    fn is_older(&self, revision: Revision) -> bool {
        (1..=self.after).contains(&revision)
    }
}

impl Object {
    /// All that the log says of it: in a log that was trimmed that may be only what its last flip did.
    fn said(&self) -> Map<String, Value> {
        let whole = self.whole.as_deref().and_then(|whole| serde_json::from_str(whole).ok());
        let mut said: Map<String, Value> = whole.unwrap_or_default();
        said.insert("revision".to_owned(), json!(self.revision));
        if let Some(status) = self.status {
            said.insert("status".to_owned(), json!(status));
            said.insert("updated_at".to_owned(), json!(self.timestamp.to_string()));
            said.insert("updated_by".to_owned(), json!(&*self.by));
        }
        said
    }
}
