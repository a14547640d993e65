//! Flags for OpenFeature's clients, by flagd's protocols and OFREP. The rules that all of them share: a request is about one environment;
//! a flag is a boolean, the same for every caller; an archived flag is disabled.

mod environment;
pub(super) mod flagd;
pub(super) mod ofrep;

use std::sync::Arc;

use prost_types::Struct;
use serde::{Serialize, Serializer};

use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::flag::{Flag, Status};
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::{EnvironmentKey, FlagKey};
use crate::mirror::Mirror;
use environment::{SELECTOR_HEADER, environment};

/// How much of an unknown key an error message repeats, in characters.
const MAX_ECHO: usize = 128;

/// What a flag resolves to, for every caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    Value(bool),
    /// The flag is archived: clients return the default that their caller has passed.
    Disabled,
}

impl Resolution {
    fn of(flag: &Flag) -> Self {
        if flag.archived_at.is_some() { Self::Disabled } else { Self::Value(flag.status == Status::Enabled) }
    }

    /// STATIC means: the same for every caller, and cacheable until a change event.
    fn reason(self) -> &'static str {
        match self {
            Self::Value(_) => "STATIC",
            Self::Disabled => "DISABLED",
        }
    }

    fn value(self) -> Option<bool> {
        match self {
            Self::Value(value) => Some(value),
            Self::Disabled => None,
        }
    }

    fn variant(self) -> Option<&'static str> {
        self.value().map(variant)
    }
}

/// The name of a value.
fn variant(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// The environment's flag with this key, and what is said of it. A malformed key is the key of no flag.
fn find<'e>(mirror: &Mirror, environment: &'e EnvironmentKey, key: &str) -> Result<(Arc<Flag>, Metadata<'e>), Error> {
    let not_found = || Error::FlagNotFound(key.chars().take(MAX_ECHO).collect());
    let key = FlagKey::parse(key).map_err(|_| not_found())?;
    let read = |state: &State| {
        state.flag_in(environment, &key).map(|flag| (Arc::clone(flag), Metadata::of(state, environment)))
    };
    mirror.read(read).ok_or(Error::DatabaseUnavailable)?.ok_or_else(not_found)
}

/// All flags of an environment, archived ones too, sorted by key. They are shared, so that the caller can encode them after releasing the
/// mirror.
fn all(state: &State, scope: &EnvironmentScope) -> Vec<Arc<Flag>> {
    state.flags(scope, "", None).cloned().collect()
}

/// What answers say of the environment, under the names that OpenFeature's telemetry knows.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    /// The environment's key.
    flag_set_id: &'a EnvironmentKey,
    /// The revision that last changed one of the environment's flags; 0 without flags. A text, as flagd's schema has it.
    #[serde(serialize_with = "text")]
    version: Revision,
}

impl<'a> Metadata<'a> {
    /// Of the flags in `state`.
    fn of(state: &State, environment: &'a EnvironmentKey) -> Self {
        let last_changed = state.last_changed_flag(&EnvironmentScope::One(environment.clone()));
        Self { flag_set_id: environment, version: last_changed.map_or(0, |flag| flag.revision) }
    }
}

impl From<Metadata<'_>> for Struct {
    fn from(Metadata { flag_set_id, version }: Metadata<'_>) -> Self {
        let fields = [("flagSetId", flag_set_id.to_string()), ("version", version.to_string())];
        Self { fields: fields.map(|(name, text)| (name.to_owned(), text.into())).into() }
    }
}

fn text<S: Serializer>(version: &Revision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}
