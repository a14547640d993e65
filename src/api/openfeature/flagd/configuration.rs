//! All flags as flagd's JSON, built once for each change and shared by all clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::api::openfeature;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::mirror::Mirror;

/// The minimum time between two builds. A build walks all flags, and streams ask at different moments: during steady flips, each
/// stream would otherwise cause a build of its own.
const MIN_BUILD_INTERVAL: Duration = Duration::from_millis(100);

/// All flags that are not archived, as JSON.
pub(super) struct Configuration {
    /// Grows with each build.
    pub number: u64,
    /// The JSON, sorted by key.
    pub json: String,
    /// The flag that changed last. While it is the same, no flag has changed. A revision would not do: after a restore, the same
    /// revision may stand for another change.
    last_changed: Option<Arc<Flag>>,
    built: Instant,
}

/// Builds configurations and keeps the latest.
pub(super) struct ConfigurationCache {
    mirror: Arc<Mirror>,
    /// Locked during a build, so that other callers wait for it instead of building their own.
    latest: Mutex<Option<Arc<Configuration>>>,
}

impl ConfigurationCache {
    /// Configurations of the flags in `mirror`.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror, latest: Mutex::new(None) }
    }

    /// The current configuration.
    pub async fn current(&self) -> Result<Arc<Configuration>, Error> {
        let mut latest = self.latest.lock().await;
        if let Some(latest) = &*latest {
            let same = self.mirror.read(|state| state.last_changed_flag() == latest.last_changed.as_ref());
            if same.ok_or(Error::DatabaseUnavailable)? {
                return Ok(Arc::clone(latest));
            }
            sleep_until(latest.built + MIN_BUILD_INTERVAL).await;
        }
        let read = self.mirror.read(|state| (state.last_changed_flag().cloned(), openfeature::all(state)));
        let (last_changed, flags) = read.ok_or(Error::DatabaseUnavailable)?;
        let number = latest.as_ref().map_or(1, |latest| latest.number + 1);
        let current = Arc::new(Configuration { number, json: json(&flags), last_changed, built: Instant::now() });
        *latest = Some(Arc::clone(&current));
        Ok(current)
    }
}

/// A flag that is off has `state: ENABLED` too. For `DISABLED`, clients return their caller's default, and a kill switch would not
/// work.
fn json(flags: &[Arc<Flag>]) -> String {
    let mut json = String::with_capacity(128 * (flags.len() + 1));
    json.push_str(r#"{"flags":{"#);
    for (index, flag) in flags.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        // Keys hold no character that JSON escapes.
        json.push('"');
        json.push_str(flag.key.as_str());
        json.push_str(r#"":{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":""#);
        json.push_str(openfeature::variant(flag));
        json.push_str(r#""}"#);
    }
    json.push_str("}}");
    json
}
