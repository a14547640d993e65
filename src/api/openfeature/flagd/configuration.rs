//! All flags as one JSON text, built once a change however many ask for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::api::openfeature;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::mirror::Mirror;

/// One is built no sooner than this after the one before. It takes a look at every flag, and streams ask at different
/// moments: while flags are flipped all the time, each would have one built for itself.
const PACE: Duration = Duration::from_millis(100);

/// All flags that are not archived.
pub(super) struct Configuration {
    /// Tells it from those before it.
    pub number: u64,
    /// The JSON, sorted by key.
    pub json: String,
    /// The flag that changed last, if there is any. As long as that is the same, nothing has changed since. A revision
    /// would not tell: in a log that was restored from a backup, the same one may stand for another change.
    newest: Option<Arc<Flag>>,
    built: Instant,
}

/// Keeps the latest configuration.
pub(super) struct Configurations {
    mirror: Arc<Mirror>,
    /// Locked while one is built: the others wait for it, and do not build their own.
    latest: Mutex<Option<Arc<Configuration>>>,
}

impl Configurations {
    /// Configurations of this mirror.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror, latest: Mutex::new(None) }
    }

    /// The configuration as of now.
    pub async fn current(&self) -> Result<Arc<Configuration>, Error> {
        let mut latest = self.latest.lock().await;
        if let Some(latest) = &*latest {
            let same = self.mirror.read(|state| state.newest_flag() == latest.newest.as_ref());
            if same.ok_or(Error::DatabaseUnavailable)? {
                return Ok(Arc::clone(latest));
            }
            sleep_until(latest.built + PACE).await;
        }
        let read = self.mirror.read(|state| (state.newest_flag().cloned(), openfeature::all(state)));
        let (newest, flags) = read.ok_or(Error::DatabaseUnavailable)?;
        let number = latest.as_ref().map_or(1, |latest| latest.number + 1);
        let current = Arc::new(Configuration { number, json: json(&flags), newest, built: Instant::now() });
        *latest = Some(Arc::clone(&current));
        Ok(current)
    }
}

/// Flags that are off are `ENABLED` too: of a disabled one, clients return what their caller gave as a default.
fn json(flags: &[Arc<Flag>]) -> String {
    let mut json = String::with_capacity(128 * (flags.len() + 1));
    json.push_str(r#"{"flags":{"#);
    for (index, flag) in flags.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        // No character that a key may have needs to be escaped.
        json.push('"');
        json.push_str(flag.key.as_str());
        json.push_str(r#"":{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":""#);
        json.push_str(openfeature::variant(flag));
        json.push_str(r#""}"#);
    }
    json.push_str("}}");
    json
}
