//! When tokens were last used: recorded in memory on every call, saved to the database from time to time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{PoisonError, RwLock};

use hashbrown::HashMap;
use uuid::Uuid;

use crate::domain::time::Timestamp;

/// When each token was last used on this server, since its start.
#[derive(Default)]
pub struct LastUsed(RwLock<HashMap<Uuid, TokenUse>>);

/// Times in microseconds since 1970.
struct TokenUse {
    at: AtomicI64,
    saved: AtomicI64,
}

impl LastUsed {
    /// Records a use of a token. After the first use this takes only a read lock.
    pub fn record(&self, token: Uuid, now: Timestamp) {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = uses.get(&token) {
            used.at.fetch_max(now.micros(), Ordering::Relaxed);
            return;
        }
        drop(uses);
        let mut uses = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let first = || TokenUse { at: AtomicI64::new(now.micros()), saved: AtomicI64::new(Timestamp::MIN.micros()) };
        uses.entry(token).or_insert_with(first).at.fetch_max(now.micros(), Ordering::Relaxed);
    }

    /// When a token was last used on this server.
    pub fn get(&self, token: Uuid) -> Option<Timestamp> {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        uses.get(&token).map(|used| Timestamp::from_micros(used.at.load(Ordering::Relaxed)))
    }

    /// The uses that have not been saved yet.
    pub fn unsaved(&self) -> Vec<(Uuid, Timestamp)> {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        uses.iter()
            .filter_map(|(id, used)| {
                let at = used.at.load(Ordering::Relaxed);
                (at > used.saved.load(Ordering::Relaxed)).then(|| (*id, Timestamp::from_micros(at)))
            })
            .collect()
    }

    /// Marks these uses as saved.
    pub fn mark_saved(&self, saved: &[(Uuid, Timestamp)]) {
        let uses = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for (id, at) in saved {
            if let Some(used) = uses.get(id) {
                used.saved.fetch_max(at.micros(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_use_is_not_saved_again_before_next_use() {
        let (token, uses) = (Uuid::from_u128(1), LastUsed::default());
        let [early, late] = [10, 20].map(Timestamp::from_micros);
        uses.record(token, late);
        uses.record(token, early);
        assert_eq!(uses.get(token), Some(late));
        let unsaved = uses.unsaved();
        assert_eq!(unsaved, [(token, late)]);
        // A use while the previous one is being saved is not lost.
        let later = Timestamp::from_micros(30);
        uses.record(token, later);
        uses.mark_saved(&unsaved);
        assert_eq!(uses.unsaved(), [(token, later)]);
        uses.mark_saved(&[(token, later)]);
        assert_eq!(uses.unsaved(), []);
        assert_eq!(uses.get(Uuid::from_u128(2)), None);
    }
}
