//! When tokens were last used: noted in memory by every call, written down now and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use uuid::Uuid;

use crate::domain::time::Timestamp;

/// When each token was last used here, since this server was started.
#[derive(Default)]
pub struct LastUsed(RwLock<HashMap<Uuid, Use>>);

struct Use {
    at: AtomicI64,
    written: AtomicI64,
}

impl LastUsed {
    /// A token is used now. Costs no more than a look-up, but for the first time.
    pub fn note(&self, token: Uuid, now: Timestamp) {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = uses.get(&token) {
            used.at.fetch_max(now.micros(), Ordering::Relaxed);
            return;
        }
        drop(uses);
        let mut uses = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let first = || Use { at: AtomicI64::new(now.micros()), written: AtomicI64::new(Timestamp::MIN.micros()) };
        uses.entry(token).or_insert_with(first).at.fetch_max(now.micros(), Ordering::Relaxed);
    }

    /// When a token was last used here.
    pub fn of(&self, token: Uuid) -> Option<Timestamp> {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        uses.get(&token).map(|used| Timestamp::from_micros(used.at.load(Ordering::Relaxed)))
    }

    /// What is not written down yet.
    pub fn unwritten(&self) -> Vec<(Uuid, Timestamp)> {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        uses.iter()
            .filter_map(|(id, used)| {
                let at = used.at.load(Ordering::Relaxed);
                (at > used.written.load(Ordering::Relaxed)).then(|| (*id, Timestamp::from_micros(at)))
            })
            .collect()
    }

    /// These uses are written down.
    pub fn written(&self, written: &[(Uuid, Timestamp)]) {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (id, at) in written {
            if let Some(used) = uses.get(id) {
                used.written.fetch_max(at.micros(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_not_written_again_before_the_next_use() {
        let (token, uses) = (Uuid::from_u128(1), LastUsed::default());
        let [early, late] = [10, 20].map(Timestamp::from_micros);
        uses.note(token, late);
        uses.note(token, early);
        assert_eq!(uses.of(token), Some(late));
        let unwritten = uses.unwritten();
        assert_eq!(unwritten, [(token, late)]);
        // A use while it is being written is not lost.
        let later = Timestamp::from_micros(30);
        uses.note(token, later);
        uses.written(&unwritten);
        assert_eq!(uses.unwritten(), [(token, later)]);
        uses.written(&[(token, later)]);
        assert_eq!(uses.unwritten(), []);
        assert_eq!(uses.of(Uuid::from_u128(2)), None);
    }
}
