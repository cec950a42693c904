//! The newest version of its header that an open volume has seen.

use std::sync::{Arc, Mutex, PoisonError};

/// A header older than this does not count, however authentic. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Floor(Arc<Mutex<u64>>);

impl Floor {
    pub(super) fn new(version: u64) -> Self {
        Self(Arc::new(Mutex::new(version)))
    }

    /// Does `take` with a header of this version, unless a newer one was seen; whether it did. Nobody else
    /// takes one meanwhile, so keys never go back to those of an older header.
    pub(super) fn pass(&self, version: u64, take: impl FnOnce()) -> bool {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if version < *newest {
            return false;
        }
        take();
        *newest = version;
        true
    }
}
