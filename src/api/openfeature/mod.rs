//! Flags for OpenFeature's clients, by flagd's protocols and OFREP. The rules that all of them share: a flag is a boolean, the same for
//! every caller; an archived flag does not exist.

pub(super) mod flagd;
pub(super) mod ofrep;

use std::sync::Arc;

use crate::domain::error::Error;
use crate::domain::flag::{Flag, Status};
use crate::domain::state::{EnvironmentScope, FlagRef, State};
use crate::domain::text::{EnvironmentKey, FlagKey};
use crate::mirror::Mirror;

/// The reason of every value. STATIC means: the same for every caller, and cacheable until a change event.
pub(super) const REASON: &str = "STATIC";

/// How much of an unknown key an error message repeats, in characters.
const MAX_ECHO: usize = 128;

/// The flag's value.
pub(super) fn value(flag: &Flag) -> bool {
    flag.status == Status::Enabled
}

/// The name of the flag's value.
pub(super) fn variant(flag: &Flag) -> &'static str {
    if value(flag) { "on" } else { "off" }
}

/// The flag with this key. A malformed key is the key of no flag.
pub(super) fn find(mirror: &Mirror, key: &str) -> Result<Arc<Flag>, Error> {
    let not_found = || Error::FlagNotFound(key.chars().take(MAX_ECHO).collect());
    let named = FlagRef::key(FlagKey::parse(key).map_err(|_| not_found())?);
    let flag = mirror.read(|state| state.flag(&named).cloned()).ok_or(Error::DatabaseUnavailable)?;
    flag.filter(|flag| flag.archived_at.is_none()).ok_or_else(not_found)
}

/// The environment that all clients read.
pub(super) fn default_environment() -> EnvironmentScope {
    EnvironmentScope::One(EnvironmentKey::default_environment().clone())
}

/// All flags of the environment `default`, sorted by key. They are shared, so that the caller can encode them after releasing the mirror.
pub(super) fn all(state: &State) -> Vec<Arc<Flag>> {
    state.flags(&default_environment(), "", None).filter(|flag| flag.archived_at.is_none()).cloned().collect()
}
