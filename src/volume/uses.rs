//! When this machine last opened a volume with each of its slots.
//!
//! ```text
//! <dir>/<name of the pin>.slots.json    { "lidfs_slots": 1, "location": "s3://...", "used": { "<slot id>": 1700000000 } }
//! ```
//!
//! It is kept here and not in the header, where each mount would cost a request more and a reader
//! would have to write. So it tells of one machine only. A courtesy: what cannot be read counts as
//! nothing, and the next use writes it anew.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

use super::pin::{FreshnessPins, PinError};
use crate::format::header::SlotId;

const USES_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsesFile {
    lidfs_slots: u32,
    location: String,
    /// Seconds since 1970 by slot id.
    used: BTreeMap<String, i64>,
}

/// Times of last use by slot, in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotUses(BTreeMap<String, i64>);

impl SlotUses {
    /// When this machine last used a slot.
    pub fn of(&self, slot: SlotId) -> Option<i64> {
        self.0.get(&slot.to_string()).copied()
    }
}

impl FreshnessPins {
    /// What is known of the slots of the volume at `location`.
    pub fn slot_uses(&self, location: &str) -> SlotUses {
        let read = || {
            let bytes = fs::read(self.path(location).with_extension("slots.json")).ok()?;
            let file: UsesFile = serde_json::from_slice(&bytes).ok()?;
            let is_ours = file.lidfs_slots == USES_VERSION && file.location == location;
            is_ours.then_some(SlotUses(file.used))
        };
        read().unwrap_or_default()
    }

    /// Remembers that `slot` was used at `time`; what is known of slots that are not among `slots` goes.
    ///
    /// # Errors
    /// [`PinError::Write`].
    pub fn record_use(
        &self,
        location: &str,
        (slot, time): (SlotId, i64),
        slots: &[SlotId],
    ) -> Result<(), PinError> {
        let _lock = self.lock()?;
        let mut used = self.slot_uses(location).0;
        used.retain(|id, _| slots.iter().any(|slot| slot.to_string() == *id));
        used.insert(slot.to_string(), time);
        let file = UsesFile { lidfs_slots: USES_VERSION, location: location.to_owned(), used };
        Self::store(&self.path(location).with_extension("slots.json"), &file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "s3://bucket/prefix";

    #[test]
    fn uses_are_kept_by_slot_and_forgotten_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let pins = FreshnessPins::new(dir.path());
        let (one, two) = (SlotId([1; 8]), SlotId([2; 8]));
        assert_eq!(pins.slot_uses(HERE), SlotUses::default());
        pins.record_use(HERE, (one, 7), &[one, two]).unwrap();
        pins.record_use(HERE, (two, 8), &[one, two]).unwrap();
        let uses = pins.slot_uses(HERE);
        assert_eq!((uses.of(one), uses.of(two)), (Some(7), Some(8)));
        assert_eq!(pins.slot_uses("s3://bucket/other"), SlotUses::default());
        pins.record_use(HERE, (two, 9), &[two]).unwrap();
        assert_eq!((pins.slot_uses(HERE).of(one), pins.slot_uses(HERE).of(two)), (None, Some(9)));
        // The pin beside it is another file.
        assert_eq!(pins.load(HERE).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_counts_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pins = FreshnessPins::new(dir.path());
        let slot = SlotId([1; 8]);
        fs::write(pins.path(HERE).with_extension("slots.json"), "{").unwrap();
        assert_eq!(pins.slot_uses(HERE).of(slot), None);
        pins.record_use(HERE, (slot, 7), &[slot]).unwrap();
        assert_eq!(pins.slot_uses(HERE).of(slot), Some(7));
    }
}
