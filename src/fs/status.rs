//! What a mounted file system tells of itself.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::core::Mode;
use super::system::Inner;
use super::{FileSystem, FsError, Outcome, Usage};
use crate::base::ErrorKind;
use crate::format::Space;

/// Bytes that a volume is said to hold: S3 sets no bound, but programs want a number.
const CAPACITY_BYTES: u64 = 1 << 50;

/// Inodes that a volume is said to hold.
const CAPACITY_INODES: u64 = 1 << 40;

/// How commits fare.
#[derive(Debug, Default)]
pub(super) struct Health {
    failing: Option<(Instant, String)>,
    last_commit: Option<Instant>,
}

/// Whether the mount does what it promises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum FsHealth {
    /// Commits succeed.
    Ok,
    /// The store does not take what is to be committed; it is tried again and again.
    Failing {
        /// For how long.
        seconds: u64,
        /// The last error.
        message: String,
    },
    /// A newer writer holds the volume; nothing more is stored.
    Fenced,
}

/// A mounted file system's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FsStatus {
    /// Whether the mount does what it promises.
    pub health: FsHealth,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Bytes of content and metadata that are not in the bucket.
    pub dirty_bytes: u64,
    /// Bytes of packs under way.
    pub uploading_bytes: u64,
    /// Age of the oldest change that no commit has begun with, in milliseconds.
    pub oldest_change_ms: Option<u64>,
    /// Files that lost bytes which the kernel had taken over from a program.
    pub lost_files: u64,
    /// Number of the last group in the bucket.
    pub last_commit: u64,
    /// How long ago this mount last committed, in milliseconds.
    pub last_commit_age_ms: Option<u64>,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes of committed content, holes not counted.
    pub bytes: u64,
    /// What packs take up.
    pub space: Space,
}

impl Inner {
    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        // What it holds is valid at every moment.
        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A commit succeeded.
    pub fn succeeded(&self) {
        let mut health = self.health();
        if health.failing.take().is_some() {
            tracing::info!("the store takes data again");
        }
        health.last_commit = Some(Instant::now());
    }

    /// What fails at present.
    pub fn last_failure(&self) -> Option<String> {
        self.health().failing.as_ref().map(|(_, message)| message.clone())
    }

    /// Somebody waited for the store until the deadline. If a commit is under way, it is what
    /// does not come to an end; its success ends this.
    pub fn waited_in_vain(&self, error: &FsError) {
        // Under the lock, so that the end of that commit comes after it.
        let core = self.lock();
        if core.committing.is_some() && self.last_failure().is_none() {
            self.failed(error);
        }
    }

    /// A step of a commit failed and will be tried again.
    pub fn failed(&self, error: &FsError) {
        let mut health = self.health();
        let since = health.failing.take().map_or_else(Instant::now, |(since, _)| since);
        tracing::warn!("not stored yet, trying again: {error}");
        health.failing = Some((since, error.to_string()));
    }
}

impl FileSystem {
    /// How the file system is.
    pub fn status(&self) -> FsStatus {
        let ms = |age: Duration| age.as_millis() as u64;
        let uploading_bytes = self.inner.uploader.stats().in_flight_bytes;
        let (failing, last_commit_age_ms) = {
            let health = self.inner.health();
            (health.failing.clone(), health.last_commit.map(|at| ms(at.elapsed())))
        };
        let core = self.inner.lock();
        let ended = core.ended.as_ref().map(|error| (error.kind(), error.to_string()));
        let health = match (ended, failing) {
            (Some((ErrorKind::Conflict, _)), _) => FsHealth::Fenced,
            (Some((_, message)), _) => FsHealth::Failing { seconds: 0, message },
            (None, Some((since, message))) => {
                FsHealth::Failing { seconds: since.elapsed().as_secs(), message }
            }
            (None, None) => FsHealth::Ok,
        };
        FsStatus {
            health,
            read_only: core.mode != Mode::ReadWrite,
            dirty_bytes: core.dirty_bytes(),
            uploading_bytes,
            oldest_change_ms: core.open.began.map(|began| ms(began.elapsed())),
            lost_files: core.lost_files().count() as u64,
            last_commit: core.committed.0,
            last_commit_age_ms,
            inodes: core.counters.inodes,
            bytes: core.counters.bytes,
            space: core.counters.space,
        }
    }

    /// A change is committed after this long at the latest, if the store takes it.
    pub fn commit_interval(&self) -> Duration {
        self.inner.config.commit_interval
    }

    /// Sizes for `statfs`.
    pub fn statfs(&self) -> Outcome<Usage> {
        let core = self.inner.lock();
        let bytes_total = core.fixed.quota_bytes.unwrap_or(CAPACITY_BYTES).max(core.counters.bytes);
        Outcome::Ready(Ok(Usage {
            block_bytes: core.fixed.block_size.bytes() as u32,
            bytes_total,
            bytes_used: core.used_bytes().min(bytes_total),
            inodes_total: CAPACITY_INODES,
            inodes_used: core.counters.inodes,
        }))
    }
}
