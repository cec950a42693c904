//! Data keys by epoch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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

/// Every data key of a volume. A clone shares the same keys.
#[derive(Clone)]
pub struct DataKeys(Arc<Keys>);

struct Keys {
    current: DataKey,
    by_epoch: BTreeMap<Epoch, DataKey>,
}

impl DataKeys {
    /// `current` seals what is new; it and the `older` ones open what is there.
    pub fn new(current: DataKey, older: Vec<DataKey>) -> Self {
        let by_epoch =
            older.into_iter().chain([current.clone()]).map(|key| (key.epoch, key)).collect();
        Self(Arc::new(Keys { current, by_epoch }))
    }

    /// The key for new objects.
    pub fn current(&self) -> DataKey {
        self.0.current.clone()
    }

    /// The key of one epoch, if the volume has it.
    pub fn get(&self, epoch: Epoch) -> Option<DataKey> {
        self.0.by_epoch.get(&epoch).cloned()
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeys")
            .field("current", &self.0.current.epoch)
            .field("epochs", &self.0.by_epoch.keys())
            .finish()
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
}
