//! All flags as one JSON text, built once a change however many ask for it.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::variant;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::mirror::Mirror;

/// All flags that are not archived.
pub(super) struct Configuration {
    /// Tells it from those before it.
    pub number: u64,
    /// The JSON, sorted by key.
    pub json: String,
    /// The flag that changed last, if there is any. As long as that is the very same object, nothing has changed since. A
    /// revision would not tell: in a log that was restored from a backup, the same one may stand for another change.
    newest: Option<Arc<Flag>>,
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
        let changed = self.mirror.read(|state| {
            let newest = state.flags_since(0).next_back();
            if latest.as_ref().is_some_and(|latest| same(latest.newest.as_ref(), newest)) {
                return None;
            }
            // Only collected here: while the state is read, it cannot move.
            let in_use = state.flags("", None).filter(|flag| flag.archived_at.is_none());
            Some((newest.cloned(), in_use.cloned().collect::<Vec<_>>()))
        });
        let current = match (changed.ok_or(Error::DatabaseUnavailable)?, &*latest) {
            (None, Some(latest)) => return Ok(Arc::clone(latest)),
            (None, None) => return Err(Error::Internal("no configuration, and none to build".to_owned())),
            (Some((newest, flags)), latest) => {
                let number = latest.as_ref().map_or(1, |latest| latest.number + 1);
                Arc::new(Configuration { number, json: json(&flags), newest })
            }
        };
        *latest = Some(Arc::clone(&current));
        Ok(current)
    }
}

fn same(one: Option<&Arc<Flag>>, other: Option<&Arc<Flag>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
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
        json.push_str(variant(flag.status));
        json.push_str(r#""}"#);
    }
    json.push_str("}}");
    json
}
