//! How SlateDB is set up here: bounded, quiet when idle, one compaction at a time.
//!
//! Idle cost is the reason for most intervals: each poll is a request or two.
//! A writer learns of its successor at once from its next flush, so polling the
//! manifest is only for what nobody asked for.

use std::time::Duration;

use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, DbReaderOptions, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, ReadOptions, ScanOptions, Settings,
};
use tokio::runtime::Handle;

/// Options of the SlateDB engine.
#[derive(Debug, Clone)]
pub struct SlateOptions {
    /// Bytes of decoded table blocks, indexes and filters kept in memory.
    pub block_cache_bytes: u64,
    /// How often a follower looks for news.
    pub follow_interval: Duration,
    /// Whether the store does conditional overwrites (If-Match). Local directories do not.
    pub conditional_overwrites: bool,
    /// Whether the store creates only where nothing is (If-None-Match). Where it does not, it is looked first,
    /// by one after the other: that holds for the tasks of this process and for no other machine.
    pub conditional_creates: bool,
    /// Where compaction runs, and garbage collection with it.
    pub background: Handle,
    pub(super) bounds: Bounds,
}

/// What the tests make smaller to reach every limit.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// Size at which the table in memory is written out.
    pub(super) table_bytes: usize,
    /// Fresh tables in the bucket before writing out waits for compaction; it merges no
    /// fewer than four, so with less it would wait for ever.
    pub(super) tables_max: usize,
    /// Unflushed bytes in memory before `apply` waits.
    pub(super) unflushed_bytes_max: usize,
    /// How often a dirty memory table is written out, which bounds the replay at mount.
    pub(super) table_interval: Duration,
    /// Flushes after which it is written out early, for the same reason.
    pub(super) table_flushes: u64,
    /// How often the compactor looks for work.
    pub(super) compaction_poll: Duration,
    /// After so long without a sign of life what a killed mount was merging is taken on by the next one.
    pub(super) worker_dead: Duration,
    /// Bytes of tables that are fetched before anybody asks for them.
    pub(super) ahead_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            table_bytes: 16 << 20,
            tables_max: 64,
            unflushed_bytes_max: 96 << 20,
            table_interval: Duration::from_mins(1),
            table_flushes: 512,
            compaction_poll: COMPACTION_POLL,
            worker_dead: Duration::from_secs(20),
            ahead_bytes: super::ahead::TABLES_BYTES_MAX,
        }
    }
}

impl SlateOptions {
    /// Defaults; compaction runs on `background`, everything else on the runtime that opens.
    pub fn new(background: Handle) -> Self {
        Self {
            block_cache_bytes: 64 << 20,
            follow_interval: Duration::from_secs(10),
            conditional_overwrites: true,
            conditional_creates: true,
            background,
            bounds: Bounds::default(),
        }
    }

    /// Tables are written and merged all the time: for tests of what happens meanwhile.
    #[cfg(test)]
    pub(crate) fn busy(mut self) -> Self {
        self.bounds = Bounds {
            table_bytes: 64 << 10,
            tables_max: 8,
            table_interval: Duration::from_millis(300),
            table_flushes: 6,
            compaction_poll: Duration::from_millis(400),
            ..Bounds::default()
        };
        self
    }
}

/// How often the writer looks at the manifest unasked, and not before; each flush of a table looks too. Two
/// requests. Longer than the compactor sleeps, so that waking that wakes nothing else.
pub(super) const MANIFEST_POLL: Duration = Duration::from_mins(10);
/// How often the compactor and its worker look for work unasked; six requests in all. Where tables pile up
/// they are woken (`catch_up`).
pub(super) const COMPACTION_POLL: Duration = Duration::from_mins(6);
/// Tables that have not been merged, below which the compactor would find nothing to do.
pub(super) const COMPACTION_TABLES_MIN: usize = 4;
/// A sign of life, while something is being merged; two requests.
const WORKER_HEARTBEAT: Duration = Duration::from_secs(5);
/// Garbage collection: a handful of LISTs each time.
pub(super) const GC_INTERVAL: Duration = Duration::from_hours(1);
/// How long a mount has the line for itself before what happens in the background begins.
pub(super) const GC_START: Duration = Duration::from_mins(1);
/// With so many manifests that it may delete it begins at once: mounts shorter than that would never get rid of any.
pub(super) const GC_MANIFESTS_MAX: usize = 128;
/// Tables and manifests stay a day after they were made: longer than any clock is off. For followers see `reader`.
pub(super) const TABLE_AGE_MIN: Duration = Duration::from_hours(24);
/// Log objects stay an hour after they were written out as tables, for followers that replay them.
const LOG_AGE_MIN: Duration = Duration::from_hours(1);
/// Largest table that compaction writes.
const COMPACTED_TABLE_BYTES: usize = 64 << 20;
/// Read-ahead of one compaction input; up to 8 inputs are open at a time.
const COMPACTION_READ_BYTES: usize = 1 << 20;
/// Longest read-ahead of a scan, per table.
const SCAN_READ_BYTES_MAX: usize = 1 << 20;
/// A scan that reads so far ahead streams.
const SCAN_STREAM_BYTES: usize = 256 << 10;
/// What a record of a scan is taken to weigh when sizing its read-ahead.
const SCAN_RECORD_BYTES: usize = 128;
/// Rows from which on a table gets a filter. Most tables here are small, and each one without a filter is read by every lookup.
const FILTER_KEYS_MIN: u32 = 16;

pub(super) fn settings(options: &SlateOptions) -> Settings {
    let bounds = &options.bounds;
    Settings {
        flush_interval: None,
        manifest_poll_interval: MANIFEST_POLL,
        min_filter_keys: FILTER_KEYS_MIN,
        max_unflushed_bytes: bounds.unflushed_bytes_max,
        l0_sst_size_bytes: bounds.table_bytes,
        l0_max_ssts: bounds.tables_max,
        l0_max_ssts_per_key: bounds.tables_max,
        l0_flush_parallelism: 1,
        // The builder for compaction and its runtime is given separately.
        compactor_options: None,
        garbage_collector_options: Some(garbage_collection(options)),
        // An outage is waited out, however long: giving up would stop the writer for good.
        object_store_max_retries: None,
        ..Settings::default()
    }
}

pub(super) fn compaction(options: &SlateOptions) -> CompactorOptions {
    CompactorOptions {
        poll_interval: options.bounds.compaction_poll,
        max_concurrent_compactions: 1,
        worker_heartbeat_timeout: options.bounds.worker_dead,
        worker: Some(CompactionWorkerOptions {
            heartbeat_interval: WORKER_HEARTBEAT,
            max_concurrent_compactions: 1,
            compactions_poll_interval: options.bounds.compaction_poll,
            max_sst_size: COMPACTED_TABLE_BYTES,
            max_fetch_tasks: 2,
            bytes_to_fetch: COMPACTION_READ_BYTES,
            max_subcompactions: 1,
            min_filter_keys: FILTER_KEYS_MIN,
            ..CompactionWorkerOptions::default()
        }),
        ..CompactorOptions::default()
    }
}

fn garbage_collection(options: &SlateOptions) -> GarbageCollectorOptions {
    let older_than = |min_age| {
        Some(GarbageCollectorDirectoryOptions {
            interval: Some(GC_INTERVAL),
            min_age,
            dry_run: false,
        })
    };
    GarbageCollectorOptions {
        manifest_options: older_than(TABLE_AGE_MIN),
        compactions_options: older_than(TABLE_AGE_MIN),
        compacted_options: older_than(TABLE_AGE_MIN),
        wal_options: older_than(LOG_AGE_MIN),
        // A deleted fence would let a suspended old writer acknowledge a lost flush.
        wal_fence_options: None,
        // There are no clones.
        detach_options: None,
        boundary_files_enabled: options.conditional_overwrites,
        ..GarbageCollectorOptions::default()
    }
}

pub(super) fn reader(options: &SlateOptions) -> DbReaderOptions {
    DbReaderOptions {
        manifest_poll_interval: options.follow_interval,
        max_memtable_bytes: options.bounds.table_bytes as u64,
        ..DbReaderOptions::default()
    }
}

pub(super) fn point_read() -> ReadOptions {
    ReadOptions::default()
}

/// A scan for few records reads little ahead; a long one streams.
pub(super) fn scan(limit: usize) -> ScanOptions {
    let wanted = limit.saturating_mul(SCAN_RECORD_BYTES).clamp(1, SCAN_READ_BYTES_MAX);
    let tasks = if wanted >= SCAN_STREAM_BYTES { 4 } else { 1 };
    ScanOptions::new()
        .with_read_ahead_bytes(wanted)
        .with_max_fetch_tasks(tasks)
        .with_cache_blocks(true)
}
