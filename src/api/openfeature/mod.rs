//! What a flag is to OpenFeature's clients, whichever of its protocols they speak: a boolean that is the same for
//! everybody. An archived flag is as good as none.

pub(super) mod flagd;
pub(super) mod ofrep;

use std::sync::Arc;

use crate::domain::error::Error;
use crate::domain::flag::{Flag, Status};
use crate::domain::state::{FlagRef, State};
use crate::domain::text::FlagKey;
use crate::mirror::Mirror;

/// Why a value is what it is: it is the same for everybody, and clients may remember it until they are told that the flag
/// has changed.
pub(super) const REASON: &str = "STATIC";

/// As much of a key that is none as an error repeats, in characters.
const ECHO: usize = 128;

/// Whether a flag is on.
pub(super) fn value(flag: &Flag) -> bool {
    flag.status == Status::Enabled
}

/// The name that the value is known by.
pub(super) fn variant(flag: &Flag) -> &'static str {
    if value(flag) { "on" } else { "off" }
}

/// The flag with this key. What can be no key is the key of none.
pub(super) fn find(mirror: &Mirror, key: &str) -> Result<Arc<Flag>, Error> {
    let not_found = || Error::FlagNotFound(key.chars().take(ECHO).collect());
    let named = FlagRef::Key(FlagKey::parse(key).map_err(|_| not_found())?);
    let flag = mirror.read(|state| state.flag(&named).cloned()).ok_or(Error::DatabaseUnavailable)?;
    flag.filter(|flag| flag.archived_at.is_none()).ok_or_else(not_found)
}

/// All flags, sorted by key. Shared, not copied: what is made of them is made when the mirror may move again.
pub(super) fn all(state: &State) -> Vec<Arc<Flag>> {
    state.flags("", None).filter(|flag| flag.archived_at.is_none()).cloned().collect()
}
