//! All flags of an environment as flagd's JSON, built once for each change and shared by all clients.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prost::bytes::{BufMut, BytesMut};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::api::errors::{ApiError, Limit, LimitReached};
use crate::api::middleware::limits::{SharedBytes, SharedMessage};
use crate::api::openfeature::{self, Metadata};
use crate::domain::access::Directory;
use crate::domain::error::Error;
use crate::domain::flag::{Flag, Status};
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::EnvironmentKey;
use crate::mirror::{Mirror, Position};

/// The minimum time between two builds for an environment. A build walks all flags, and streams ask at different moments: during steady flips, each
/// stream would otherwise cause a build of its own.
const MIN_BUILD_INTERVAL: Duration = Duration::from_millis(100);

/// All flags of an environment, as JSON.
pub(super) struct Configuration {
    /// Grows with each build for the environment; 0 before it exists.
    pub number: u64,
    /// The JSON, sorted by key.
    json: SharedBytes,
    /// The state that it was built from.
    position: Position,
    /// The flag that changed last. While it is the same, no flag has changed. A revision would not do: after a restore, the same
    /// revision may stand for another change.
    last_changed: Option<Arc<Flag>>,
    built: Instant,
}

impl Configuration {
    /// The tag of the field `flag_configuration` in every message, which holds the JSON: number 1, with a length.
    const TAG: u8 = 1 << 3 | 2;

    /// A message of these encoded fields and the JSON.
    ///
    /// # Errors
    /// When it is larger than `max`, in bytes.
    pub fn message(&self, fields: &[u8], max: usize) -> Result<SharedMessage, ApiError> {
        let json = self.json.len();
        let length = fields.len() + 1 + prost::length_delimiter_len(json) + json;
        let found = u64::try_from(length).ok();
        let too_large = || ApiError::from(LimitReached { found, ..Limit::FlagSetSize.reached(max) });
        let framed = u32::try_from(length).ok().filter(|_| length <= max).ok_or_else(too_large)?;
        let mut head = BytesMut::with_capacity(32 + fields.len());
        // Not compressed.
        head.put_u8(0);
        head.put_u32(framed);
        head.put_slice(fields);
        head.put_u8(Self::TAG);
        prost::encode_length_delimiter(json, &mut head).map_err(Error::internal)?;
        Ok(SharedMessage { head: head.freeze(), shared: self.json.clone() })
    }
}

/// Builds configurations and keeps the latest of each environment.
pub(super) struct ConfigurationCache {
    mirror: Arc<Mirror>,
    /// Only environments that exist have an entry, or have existed in an earlier log. Callers may select any other, and would fill the
    /// memory.
    environments: std::sync::Mutex<HashMap<EnvironmentKey, LatestConfiguration>>,
}

/// The latest configuration of an environment. Locked during a build, so that other callers wait for it instead of building their own.
type LatestConfiguration = Arc<Mutex<Option<Arc<Configuration>>>>;

impl ConfigurationCache {
    /// Configurations of the flags in `mirror`.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror, environments: std::sync::Mutex::default() }
    }

    /// A configuration of an environment that includes all changes up to `needed`. Not always the current one: while flags change all the
    /// time, a build that serves one caller only would make the others wait for theirs, one after the other.
    pub async fn including(&self, environment: &EnvironmentKey, needed: Position) -> Result<Arc<Configuration>, Error> {
        // Without an environment there is nothing to share.
        let Some(latest) = self.latest(environment)? else { return self.build(environment, 0) };
        let mut latest = latest.lock().await;
        if let Some(latest) = &*latest {
            let scope = EnvironmentScope::One(environment.clone());
            let is_current = |state: &State| {
                let is_same = state.last_changed_flag(&scope) == latest.last_changed.as_ref();
                is_same || latest.position.includes(needed) && latest.position.generation == state.generation()
            };
            if self.mirror.read(is_current).ok_or(Error::DatabaseUnavailable)? {
                return Ok(Arc::clone(latest));
            }
            sleep_until(latest.built + MIN_BUILD_INTERVAL).await;
        }
        let number = latest.as_ref().map_or(1, |latest| latest.number + 1);
        let current = self.build(environment, number)?;
        *latest = Some(Arc::clone(&current));
        Ok(current)
    }

    /// The latest configuration of an environment; `None` before it exists.
    fn latest(&self, environment: &EnvironmentKey) -> Result<Option<LatestConfiguration>, Error> {
        let exists = self.mirror.read(|state| state.has_environment(environment)).ok_or(Error::DatabaseUnavailable)?;
        let mut environments = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        match environments.get(environment) {
            Some(latest) => Ok(Some(Arc::clone(latest))),
            None => Ok(exists.then(|| Arc::clone(environments.entry(environment.clone()).or_default()))),
        }
    }

    /// The number of environments with an entry.
    #[cfg(test)]
    pub fn environments(&self) -> usize {
        self.environments.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn build(&self, environment: &EnvironmentKey, number: u64) -> Result<Arc<Configuration>, Error> {
        let scope = EnvironmentScope::One(environment.clone());
        let read = |state: &State| {
            let last_changed = state.last_changed_flag(&scope).cloned();
            (Position::of(state), last_changed, Metadata::of(state, environment), openfeature::all(state, &scope))
        };
        let (position, last_changed, metadata, flags) = self.mirror.read(read).ok_or(Error::DatabaseUnavailable)?;
        let json = SharedBytes::new(json(&flags, &metadata)?);
        Ok(Arc::new(Configuration { number, json, position, last_changed, built: Instant::now() }))
    }
}

/// A flag that is off has `state: ENABLED` too. For `DISABLED`, clients return their caller's default, and a kill switch would not
/// work. An archived flag has it, beside the variant that it had.
fn json(flags: &[Arc<Flag>], metadata: &Metadata<'_>) -> Result<String, Error> {
    let mut json = String::with_capacity(128 * (flags.len() + 1));
    json.push_str(r#"{"flags":{"#);
    for (index, flag) in flags.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        // Keys hold no character that JSON escapes.
        json.push('"');
        json.push_str(flag.key.as_str());
        json.push_str(r#"":{"state":""#);
        json.push_str(if flag.archived_at.is_some() { "DISABLED" } else { "ENABLED" });
        json.push_str(r#"","variants":{"on":true,"off":false},"defaultVariant":""#);
        json.push_str(openfeature::variant(flag.status == Status::Enabled));
        json.push_str(r#""}"#);
    }
    json.push_str(r#"},"metadata":"#);
    json.push_str(&serde_json::to_string(metadata).map_err(Error::internal)?);
    json.push('}');
    Ok(json)
}
