//! The flags, environments, users and tokens as the log describes them, compared with their rows.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Fault, Problem};
use crate::domain::Revision;
use crate::domain::access::Directory;
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::flag::LastFlip;
use crate::domain::state::{EnvironmentRef, FlagRef, State};

/// An object as the log describes it.
struct Object {
    kind: EntityType,
    key: Arc<str>,
    /// The revision of its last change.
    revision: Revision,
    /// The environment that its last entry is about.
    environment: Option<Arc<str>>,
    /// All its fields as JSON, from the last entry that has them. A flip records only the status.
    fields: Option<Arc<str>>,
    /// The status it was flipped to since, and that flip.
    flip: Option<(&'static str, LastFlip)>,
}

/// Replays a log into the objects that it describes. Memory grows with the number of objects, not of entries.
pub struct Replay {
    /// The entries up to this revision are not replayed.
    after: Revision,
    objects: HashMap<Uuid, Object>,
}

impl Replay {
    /// Starts with the entry after this revision.
    pub fn after(after: Revision) -> Self {
        Self { after, objects: HashMap::new() }
    }

    /// Replays the next entry.
    pub fn push(&mut self, entry: &Entry) {
        use Action::{AccessDenied, LogTrimmed, ToggleDisabled, ToggleEnabled};
        let Some(id) = entry.entity_id else { return };
        let (fields, flip) = match entry.action {
            AccessDenied | LogTrimmed => return,
            ToggleEnabled => (None, Some(("enabled", LastFlip::from_entry(entry)))),
            ToggleDisabled => (None, Some(("disabled", LastFlip::from_entry(entry)))),
            _ => (entry.new_value.clone(), None),
        };
        let fields = fields.or_else(|| self.objects.get_mut(&id).and_then(|before| before.fields.take()));
        let object = Object {
            kind: entry.entity_type,
            key: entry.entity_key.clone(),
            revision: entry.revision,
            environment: entry.environment.clone(),
            fields,
            flip,
        };
        self.objects.insert(id, object);
    }

    /// Compares the objects with the rows at the same revision.
    ///
    /// # Errors
    /// The difference with the lowest revision.
    pub fn compare(&self, state: &State) -> Result<(), Fault> {
        let differing = self.objects.iter().filter_map(|(id, object)| self.difference(*id, object, state));
        differing.chain(self.unlogged(state)).min_by_key(|fault| fault.revision).map_or(Ok(()), Err)
    }

    fn difference(&self, id: Uuid, object: &Object, state: &State) -> Option<Fault> {
        let actual = match object.kind {
            EntityType::FeatureFlag => state.flag(&FlagRef::id(id)).map(|flag| flag.to_json()),
            EntityType::Environment => state.environment(&EnvironmentRef::Id(id)).map(|found| found.to_json()),
            EntityType::User => state.user(id).map(|user| user.to_json()),
            EntityType::ApiToken => state.token(id).map(|token| token.to_json()),
            EntityType::Log => return None,
        };
        let (kind, key) = (object.kind.as_str(), &object.key);
        let problem = match actual.as_deref().map(serde_json::from_str::<Map<String, Value>>) {
            Some(Ok(row)) => match object.differing_field(&row) {
                Some((name, logged)) => {
                    let stored = row.get(&name).unwrap_or(&Value::Null);
                    format!("{kind} {key}: {name} is {stored}, but {logged} in the log")
                }
                None => {
                    let (stored, logged) = object.differing_environment(&row)?;
                    format!("{kind} {key}: its environment is {stored}, but {logged} in its last entry")
                }
            },
            _ => format!("{kind} {key} is in the log but has no row"),
        };
        Some(Fault { revision: object.revision, problem: Problem::State(problem) })
    }

    /// The fault of a row that cannot be read: at the last entry of its object, if there is one.
    pub fn unreadable_row(&self, row: &str, problem: &impl ToString) -> Fault {
        let object = row.parse().ok().and_then(|id: Uuid| self.objects.get(&id));
        let revision = object.map_or(self.after, |object| object.revision);
        Fault { revision, problem: Problem::State(problem.to_string()) }
    }

    /// The number of rows that were not compared: their last change comes before the replayed entries.
    pub fn uncompared_rows(&self, state: &State) -> usize {
        self.rows_without_entry(state).filter(|(revision, ..)| self.is_older(*revision)).count()
    }

    /// The faults of rows that should have an entry and have none.
    fn unlogged<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Fault> + 'a {
        let unlogged = self.rows_without_entry(state).filter(|(revision, ..)| !self.is_older(*revision));
        unlogged.map(|(revision, kind, key)| {
            let problem = Problem::State(format!("{kind} {key} has a row but no entry in the log"));
            Fault { revision, problem }
        })
    }

    /// The revision, kind and key of each row without a replayed entry.
    fn rows_without_entry<'a>(
        &'a self,
        state: &'a State,
    ) -> impl Iterator<Item = (Revision, &'static str, String)> + 'a {
        let flags = state.all_flags().map(|flag| (flag.id, flag.revision, "feature_flag", flag.key.to_string()));
        let environments = state.environments(None);
        let environments = environments.map(|found| (found.id, found.revision, "environment", found.key.to_string()));
        let users = state.users(None).map(|user| (user.id, user.revision, "user", user.email.to_string()));
        let tokens = state.tokens().map(|token| (token.id, token.revision, "api_token", token.id.to_string()));
        let rows = flags.chain(environments).chain(users).chain(tokens);
        rows.filter(|(id, ..)| !self.objects.contains_key(id)).map(|(_, revision, kind, key)| (revision, kind, key))
    }

    /// Whether an entry of this revision comes before the replayed ones. No entry has a revision below 1.
    fn is_older(&self, revision: Revision) -> bool {
        (1..=self.after).contains(&revision)
    }
}

/// The environment that entries about an object carry, by its row.
fn environment_of(kind: EntityType, row: &Map<String, Value>) -> Option<&Value> {
    match kind {
        EntityType::FeatureFlag => row.get("environment"),
        EntityType::Environment => row.get("key"),
        EntityType::User | EntityType::ApiToken | EntityType::Log => None,
    }
}

impl Object {
    /// The first field that has another value in the row, with the value in the log.
    fn differing_field(&self, row: &Map<String, Value>) -> Option<(String, Value)> {
        self.logged_fields().into_iter().find(|(name, logged)| row.get(name) != Some(logged))
    }

    /// The environment of the row and that of the last entry, if they differ. The fields of a flip do not name it.
    fn differing_environment(&self, row: &Map<String, Value>) -> Option<(Value, Value)> {
        let stored = environment_of(self.kind, row).cloned().unwrap_or_default();
        let logged = json!(self.environment);
        (stored != logged).then_some((stored, logged))
    }

    /// The fields as the log records them. In a trimmed log this may be only what the last flip changed.
    fn logged_fields(&self) -> Map<String, Value> {
        let fields = self.fields.as_deref().and_then(|fields| serde_json::from_str(fields).ok());
        let mut fields: Map<String, Value> = fields.unwrap_or_default();
        fields.insert("revision".to_owned(), json!(self.revision));
        if let Some((status, last_flip)) = &self.flip {
            fields.insert("status".to_owned(), json!(status));
            fields.insert("last_flip".to_owned(), json!(last_flip));
            fields.insert("updated_at".to_owned(), json!(last_flip.time));
            fields.insert("updated_by".to_owned(), json!(last_flip.by));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flag::Flag;
    use crate::domain::hash::GENESIS;
    use crate::domain::state::Delta;

    /// In a trimmed log a flip may be the only entry of a flag. Its values do not say where the flag belongs.
    #[test]
    fn flip_shows_the_environment_of_its_flag() {
        let last_flip =
            Arc::new(LastFlip { reason: None, audit_log_id: Uuid::nil(), ..LastFlip::clone(&LastFlip::sample(7)) });
        let (updated_at, updated_by) = (last_flip.time, Arc::clone(&last_flip.by));
        let flag = Flag { updated_at, updated_by, last_flip: Some(last_flip), ..Flag::sample_in("staging", "a", 7) };
        let flag = Arc::new(flag);
        let mut state = State::empty(Uuid::nil());
        let delta = Delta { flags: vec![Arc::clone(&flag)], ..Delta::default() };
        state.apply(*state.head(), &delta);
        let flip = |environment: Option<&str>| Entry {
            id: Uuid::nil(),
            revision: 7,
            timestamp: flag.updated_at,
            user_id: None,
            user_email: Arc::clone(&flag.updated_by),
            token_id: None,
            action: Action::ToggleDisabled,
            entity_type: EntityType::FeatureFlag,
            entity_id: Some(flag.id),
            entity_key: flag.key.shared(),
            entity_name: flag.name.shared(),
            old_value: Some("enabled".into()),
            new_value: Some("disabled".into()),
            reason: None,
            request_id: None,
            method: "".into(),
            peer: None,
            user_agent: None,
            previous_entity_revision: None,
            reverts: None,
            environment: environment.map(Arc::from),
            hash_version: 1,
            hash: GENESIS,
            created_at: flag.updated_at,
        };
        for (environment, is_fault) in [(Some("staging"), false), (Some("production"), true), (None, true)] {
            let mut replay = Replay::after(6);
            replay.push(&flip(environment));
            let compared = replay.compare(&state).map_err(|fault| (fault.revision, fault.problem.to_string()));
            let found = compared.err().filter(|(_, problem)| problem.contains("its environment is \"staging\""));
            assert_eq!(found.is_some(), is_fault, "{environment:?}");
        }
    }
}
