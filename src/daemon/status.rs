//! What `lidfs status` tells. `docs/status.md` describes the JSON form.
//!
//! Invariant: within one [`SCHEMA`] fields are added, never renamed, retyped or removed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::gc::{GcFigures, RekeyFigures};

/// Version of the JSON form.
pub const SCHEMA: u32 = 1;

/// How a mount stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the daemon.
    pub version: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The daemon's process id.
    pub pid: u32,
    /// Seconds since it mounted.
    pub uptime_seconds: u64,
    /// Whether writes are refused: asked for, or taken over by another writer.
    pub read_only: bool,
    /// The volume.
    pub volume: VolumeStatus,
    /// What packs of content take up in the bucket.
    #[serde(default)]
    pub space: SpaceStatus,
    /// Whether what is written can be stored.
    pub health: HealthStatus,
    /// How far a rekey is.
    #[serde(default)]
    pub rekey: RekeyFigures,
    /// What is on its way to the bucket.
    pub write: WriteStatus,
    /// What was asked of the store since the mount.
    pub store: StoreStatus,
    /// Blocks answered from memory or disk since the mount.
    pub cache: CacheStatus,
    /// What an owner should know, one sentence each.
    pub warnings: Vec<String>,
}

/// The volume that is mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Where it lies.
    pub url: String,
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// Number of the last group known to be in the bucket.
    pub commit: u64,
    /// How long ago this mount last committed; `None` before its first.
    pub commit_age_ms: Option<u64>,
    /// Whether this machine knew the volume before the mount, so that a
    /// bucket rolled back would have been noticed.
    pub pinned: bool,
    /// Files, directories and other inodes in use.
    pub inodes: u64,
    /// Bytes of content in use.
    pub bytes: u64,
}

/// What packs of content take up in the bucket, as of the last commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// Packs in use.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Part of those bytes that no file shows any more; compaction brings it back.
    pub dead_bytes: u64,
    /// Packs that no file needs any more and that are kept for readers that are behind.
    pub freed_packs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// What was given back since the mount.
    pub collected: GcFigures,
}

/// Whether what is written can be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// In one word.
    pub state: HealthState,
    /// For how long it is failing.
    pub failing_seconds: Option<u64>,
    /// Why it is not `ok`.
    pub message: Option<String>,
}

/// Health in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// What is written is stored.
    Ok,
    /// The store does not take what is written, or serves no request; tried again and again.
    Failing,
    /// Another writer has the volume; nothing more is stored.
    Fenced,
}

impl HealthState {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Fenced => "fenced",
        }
    }
}

/// What is on its way to the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteStatus {
    /// Bytes written and not yet in the bucket.
    pub dirty_bytes: u64,
    /// Part of them that is being uploaded now.
    pub uploading_bytes: u64,
    /// Age of the oldest change whose commit has not begun; `None` when there is none.
    pub oldest_change_ms: Option<u64>,
    /// Files that lost bytes which the kernel had taken over from a program.
    #[serde(default)]
    pub lost_files: u64,
}

/// What was asked of the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Requests by operation.
    pub requests: RequestCounts,
    /// Bytes by direction.
    pub bytes: ByteCounts,
    /// Requests that failed.
    pub errors: u64,
    /// What the requests would cost at a list price ([`RequestCounts::cost_usd`]), in US dollars;
    /// `None` where the volume is not in S3.
    #[serde(default)]
    pub cost_usd: Option<f64>,
}

/// Requests by operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCounts {
    /// Reads of objects or ranges of them.
    pub get: u64,
    /// Writes of objects or parts of them.
    pub put: u64,
    /// Questions for an object's size.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Requests that delete objects.
    pub delete: u64,
    /// Copies made by the store itself.
    pub copy: u64,
}

/// List price of Amazon S3 Standard in us-east-1, in dollars for one request that writes or lists
/// (aws.amazon.com/s3/pricing).
const WRITE_USD: f64 = 0.005 / 1000.0;
/// The same for one that reads. Deleting is free.
const READ_USD: f64 = 0.0004 / 1000.0;

impl RequestCounts {
    /// An estimate: the requests at that list price. Storage and traffic are not in it.
    // Exact up to 2^53 requests.
    #[allow(clippy::cast_precision_loss)]
    pub fn cost_usd(&self) -> f64 {
        let (writes, reads) = (self.put + self.list + self.copy, self.get + self.head);
        writes as f64 * WRITE_USD + reads as f64 * READ_USD
    }
}

/// Bytes by direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteCounts {
    /// To the store.
    pub up: u64,
    /// From the store.
    pub down: u64,
}

/// Blocks that needed no request, and others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Blocks found.
    pub hits: u64,
    /// Blocks fetched.
    pub misses: u64,
    /// Of those fetched, found in the disk cache.
    pub disk_hits: u64,
    /// Bytes of memory in use.
    pub memory_bytes: u64,
    /// Bytes of disk in use.
    pub disk_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cost_what_the_price_list_says() {
        let counts =
            RequestCounts { put: 1000, list: 500, copy: 500, get: 9000, head: 1000, delete: 7000 };
        assert!((counts.cost_usd() - (0.010 + 0.004)).abs() < 1e-12);
        assert!(RequestCounts::default().cost_usd() < 1e-12);
    }
}
