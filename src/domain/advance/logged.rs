//! How a changed object is written: flags, environments, users and tokens alike.

use std::sync::Arc;

use super::Proposal;
use super::draft::{ChangeStamp, Draft, Entity, Values};
use crate::domain::Revision;
use crate::domain::access::{Token, User};
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::environment::Environment;
use crate::domain::flag::Flag;

/// An object whose changes the log records.
pub(super) trait Logged: Sized {
    /// The object as entries name it.
    fn entity(&self) -> Entity;
    /// The revision of its last change.
    fn revision(&self) -> Revision;
    /// What the entry of this action records of it.
    fn value(&self, action: Action) -> Arc<str>;
    /// The object with the revision of a change and, as far as it has them, the time and the actor.
    fn stamped(self, stamp: &ChangeStamp) -> Self;
    /// Makes this the object's current form within the batch.
    fn put(self, draft: &mut Draft<'_>) -> Arc<Self>;
}

/// Writes a new object, which has the stamp already.
pub(super) fn create<T: Logged>(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    stamp: ChangeStamp,
    action: Action,
    new: T,
) -> (Arc<T>, Arc<Entry>) {
    let values = Values { old: None, new: Some(new.value(action)) };
    let entity = new.entity();
    let new = new.put(draft);
    (new, draft.write_entry(proposal, stamp, action, entity, values))
}

/// Writes an object as it is after a change, and dates it.
pub(super) fn edit<T: Logged>(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    stamp: ChangeStamp,
    action: Action,
    before: &T,
    after: T,
) -> (Arc<T>, Arc<Entry>) {
    let after = after.stamped(&stamp);
    let values = Values { old: Some(before.value(action)), new: Some(after.value(action)) };
    let entity = Entity { previous_revision: Some(before.revision()), ..after.entity() };
    let after = after.put(draft);
    (after, draft.write_entry(proposal, stamp, action, entity, values))
}

impl Logged for Flag {
    fn entity(&self) -> Entity {
        Entity {
            entity_type: EntityType::FeatureFlag,
            id: Some(self.id),
            key: self.key.shared(),
            name: self.name.shared(),
            environment: Some(self.environment.shared()),
            previous_revision: None,
        }
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn value(&self, action: Action) -> Arc<str> {
        if action.is_flip() { self.status.as_str().into() } else { self.to_json().into() }
    }

    fn stamped(self, stamp: &ChangeStamp) -> Self {
        let updated_by = Arc::clone(&stamp.changed_by);
        Self { revision: stamp.revision, updated_at: stamp.timestamp, updated_by, ..self }
    }

    fn put(self, draft: &mut Draft<'_>) -> Arc<Self> {
        draft.put_flag(self)
    }
}

impl Logged for Environment {
    fn entity(&self) -> Entity {
        Entity {
            entity_type: EntityType::Environment,
            id: Some(self.id),
            key: self.key.shared(),
            name: self.name.shared(),
            environment: Some(self.key.shared()),
            previous_revision: None,
        }
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn value(&self, _: Action) -> Arc<str> {
        self.to_json().into()
    }

    fn stamped(self, stamp: &ChangeStamp) -> Self {
        let updated_by = Arc::clone(&stamp.changed_by);
        Self { revision: stamp.revision, updated_at: stamp.timestamp, updated_by, ..self }
    }

    fn put(self, draft: &mut Draft<'_>) -> Arc<Self> {
        draft.put_environment(self)
    }
}

impl Logged for User {
    fn entity(&self) -> Entity {
        Entity {
            entity_type: EntityType::User,
            id: Some(self.id),
            key: self.email.shared(),
            name: self.email.shared(),
            environment: None,
            previous_revision: None,
        }
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn value(&self, _: Action) -> Arc<str> {
        self.to_json().into()
    }

    fn stamped(self, stamp: &ChangeStamp) -> Self {
        Self { revision: stamp.revision, updated_at: stamp.timestamp, ..self }
    }

    fn put(self, draft: &mut Draft<'_>) -> Arc<Self> {
        draft.put_user(self)
    }
}

impl Logged for Token {
    fn entity(&self) -> Entity {
        Entity {
            entity_type: EntityType::ApiToken,
            id: Some(self.id),
            key: self.id.to_string().into(),
            name: self.name.shared(),
            environment: None,
            previous_revision: None,
        }
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn value(&self, _: Action) -> Arc<str> {
        self.to_json().into()
    }

    fn stamped(self, stamp: &ChangeStamp) -> Self {
        Self { revision: stamp.revision, ..self }
    }

    fn put(self, draft: &mut Draft<'_>) -> Arc<Self> {
        draft.put_token(self)
    }
}
