//! Data keys by epoch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::SecretKey;
use crate::base::Epoch;

/// The key that seals the objects of one epoch.
#[derive(Debug, Clone)]
pub struct DataKey {
    /// Which epoch; written in the clear into every object's header.
    pub epoch: Epoch,
    /// The key itself; it seals nothing directly, every object derives its own from it.
    pub key: SecretKey,
}

/// Every data key of a volume. A clone shares the same keys, also when they are [replaced](Self::replace).
#[derive(Clone)]
pub struct DataKeys(Arc<RwLock<Keys>>);

#[derive(Clone)]
struct Keys {
    current: DataKey,
    by_epoch: BTreeMap<Epoch, DataKey>,
}

impl DataKeys {
    /// `current` seals what is new; it and the `older` ones open what is there.
    pub fn new(current: DataKey, older: Vec<DataKey>) -> Self {
        let by_epoch =
            older.into_iter().chain([current.clone()]).map(|key| (key.epoch, key)).collect();
        Self(Arc::new(RwLock::new(Keys { current, by_epoch })))
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        // What it holds is valid at every moment.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the keys of `other`, for every clone.
    pub fn replace(&self, other: &Self) {
        let keys = other.keys().clone();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The key for new objects.
    pub fn current(&self) -> DataKey {
        self.keys().current.clone()
    }

    /// All epochs, the current one last.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.keys().by_epoch.keys().copied().collect()
    }

    /// The key of one epoch, if the volume has it.
    pub fn get(&self, epoch: Epoch) -> Option<DataKey> {
        self.keys().by_epoch.get(&epoch).cloned()
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeys").field("epochs", &self.epochs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_epoch_and_the_current_one_wins() {
        let key =
            |epoch, byte| DataKey { epoch: Epoch(epoch), key: SecretKey::from_bytes([byte; 32]) };
        let keys = DataKeys::new(key(3, 3), vec![key(1, 1), key(3, 9)]);
        assert_eq!(keys.current().epoch, Epoch(3));
        assert_eq!(keys.get(Epoch(3)).unwrap().key.expose(), &[3; 32]);
        assert_eq!(keys.get(Epoch(1)).unwrap().key.expose(), &[1; 32]);
        assert!(keys.get(Epoch(2)).is_none());
        assert!(!format!("{keys:?}").contains("[3"));
    }

    #[test]
    fn replaced_keys_are_seen_by_every_clone() {
        let key = |epoch| DataKey { epoch: Epoch(epoch), key: SecretKey::from_bytes([7; 32]) };
        let keys = DataKeys::new(key(1), Vec::new());
        let clone = keys.clone();
        keys.replace(&DataKeys::new(key(2), vec![key(1)]));
        assert_eq!((clone.current().epoch, clone.epochs()), (Epoch(2), vec![Epoch(1), Epoch(2)]));
        keys.replace(&DataKeys::new(key(2), Vec::new()));
        assert!(clone.get(Epoch(1)).is_none());
    }
}
