//! What the file system can be told.

use std::time::Duration;

use super::packing::PACKS_IN_FLIGHT_MAX;
use crate::base::MIB;
use crate::data::PACK_BYTES_MAX;

/// Least memory for records: an operation needs all of its records at once.
const RECORD_CACHE_BYTES_MIN: u64 = 4 * MIB;

/// Settings of a mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsConfig {
    /// A change is committed after this long at the latest, if the store takes it.
    pub commit_interval: Duration,
    /// Bytes that may wait to be committed: content up to four fifths, the rest is for small changes. Writers wait when there are more.
    pub dirty_bytes_max: u64,
    /// Bytes of content that the volume may hold; without it as many as the store takes.
    pub quota_bytes: Option<u64>,
    /// Content of one pack in bytes, before compression.
    pub pack_bytes: u64,
    /// Packs on their way at once, from 1 to [`PACKS_IN_FLIGHT_MAX`].
    pub packs_in_flight: usize,
    /// How long an operation waits while nothing reaches the store, before it fails.
    pub deadline: Duration,
    /// Memory for committed metadata records in bytes.
    pub record_cache_bytes: u64,
}

impl Default for FsConfig {
    fn default() -> Self {
        Self {
            commit_interval: Duration::from_secs(5),
            dirty_bytes_max: 128 * MIB,
            quota_bytes: None,
            pack_bytes: 16 * MIB,
            packs_in_flight: PACKS_IN_FLIGHT_MAX,
            deadline: Duration::from_mins(2),
            record_cache_bytes: 32 * MIB,
        }
    }
}

impl FsConfig {
    /// What is wrong with these settings, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(MIB..=PACK_BYTES_MAX).contains(&self.pack_bytes) {
            return Err("pack_size must be between 1 MiB and 64 MiB".into());
        }
        if self.dirty_bytes_max < 2 * self.pack_bytes {
            return Err("dirty_max must be at least twice pack_size".into());
        }
        if !(1..=PACKS_IN_FLIGHT_MAX).contains(&self.packs_in_flight) {
            return Err(format!("packs on their way must be between 1 and {PACKS_IN_FLIGHT_MAX}"));
        }
        if self.commit_interval.is_zero() || self.deadline.is_zero() {
            return Err("commit_interval and deadline must be longer than zero".into());
        }
        if self.record_cache_bytes < RECORD_CACHE_BYTES_MIN {
            return Err("the record cache must have at least 4 MiB".into());
        }
        Ok(())
    }
}
