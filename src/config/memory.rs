//! How the memory for content is divided among those who hold it: one figure to set instead of five.
//!
//! ```text
//! | cache, read-ahead 3/8 | dirty 1/4 | sealed packs on their way 1/8 | kernel's requests 1/16 | disk cache's queue 1/16 |
//! ```
//!
//! The rest is what the allocator needs to hold pieces of so many sizes.

use super::{Cache, Write};
use crate::base::MIB;
use crate::fs::PACKS_IN_FLIGHT_MAX;

/// Content of one request of the kernel.
const REQUEST_BYTES: u64 = MIB;
/// Requests of the kernel in the background: fewer would leave a line idle, and more fill none better.
const REQUESTS_MIN: u64 = 8;
const REQUESTS_MAX: u64 = 64;
/// Bytes that wait for the disk cache; more only hides that the disk is slower than the line.
const DISK_QUEUE_BYTES_MAX: u64 = 32 * MIB;

/// Who may hold how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Content in the clear, cached or read ahead, in bytes.
    pub cache_bytes: u64,
    /// Written and not yet in the bucket, in bytes.
    pub dirty_bytes: u64,
    /// Sealed packs on their way.
    pub packs_in_flight: usize,
    /// Requests in the background that the kernel may have under way.
    pub kernel_requests: u16,
    /// Sealed bytes that wait to be written to the disk cache.
    pub disk_queue_bytes: u64,
}

impl Shares {
    /// Of `cache.memory`. What a mount cannot do without is there however little it is.
    pub fn new(cache: &Cache, write: &Write) -> Self {
        let (memory, pack) = (cache.memory.0, write.pack_size.0.max(1));
        let packs = usize::try_from(memory / 8 / pack).unwrap_or(PACKS_IN_FLIGHT_MAX);
        let requests = (memory / 16 / REQUEST_BYTES).clamp(REQUESTS_MIN, REQUESTS_MAX);
        Self {
            cache_bytes: memory / 8 * 3,
            dirty_bytes: write.dirty_max.0.min((memory / 4).max(pack.saturating_mul(2))),
            packs_in_flight: packs.clamp(1, PACKS_IN_FLIGHT_MAX),
            kernel_requests: u16::try_from(requests).unwrap_or(u16::MAX),
            // A pack comes in one piece, which it shares with its upload.
            disk_queue_bytes: (memory / 16).min(DISK_QUEUE_BYTES_MAX).max(pack.saturating_add(MIB)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    fn shares(memory_mib: u64) -> Shares {
        Shares::new(
            &Cache { memory: Size(memory_mib * MIB), ..Cache::default() },
            &Write::default(),
        )
    }

    #[test]
    fn defaults_bound_nobody_else() {
        let all = Shares::new(&Cache::default(), &Write::default());
        assert_eq!(all.cache_bytes, 192 * MIB);
        assert_eq!(all.dirty_bytes, Write::default().dirty_max.0);
        assert_eq!(all.packs_in_flight, PACKS_IN_FLIGHT_MAX);
        assert_eq!(shares(100_000).kernel_requests, 64);
    }

    #[test]
    fn little_memory_is_shared_and_everybody_has_what_he_needs() {
        let few = shares(128);
        assert_eq!((few.cache_bytes, few.dirty_bytes), (48 * MIB, 32 * MIB));
        assert_eq!((few.packs_in_flight, few.kernel_requests), (1, 8));
        let none = shares(0);
        assert_eq!((none.dirty_bytes, none.packs_in_flight), (32 * MIB, 1));
        let mut config = crate::config::Config::default();
        config.cache.memory = Size(0);
        config.fs_config().check().unwrap();
    }
}
