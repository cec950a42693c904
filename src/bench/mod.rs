//! How fast a store and a mount are, measured as they are used, and which settings that speaks for.
//!
//! ```text
//! plan (what it costs) --> store:  small PUT GET HEAD one by one | PUT, GET by requests at once
//!                     '--> mount:  write, fsync | read | small files | fsyncs
//!                                        |
//!                                     report --> advice
//! ```
//!
//! It stands above `daemon`, because a mount is measured from outside, like by any program, and needs the
//! control socket for what only the daemon knows. The store is the one that a mount has, retries and all.
//!
//! Invariant: what is measured is removed again, however it ends. Objects lie under fresh names below
//! [`PROBE_DIR`](crate::store::probe::PROBE_DIR), which nothing of a volume reads, files in a fresh hidden
//! directory. Bytes are random, because a store or the volume may compress. Memory is one object and little
//! more, whatever is moved.

mod advice;
mod error;
mod mount;
mod noise;
mod plan;
mod report;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use advice::advise;
pub use error::{BenchError, Place};
pub use mount::measure_mount;
pub use plan::{CONCURRENCY, MountPlan, SIZE_MIN, StorePlan};
pub use report::{
    Advice, Latency, MountSpeed, ReadBack, Report, SCHEMA, SmallFiles, StoreLatency, StoreSpeed,
    StoreThroughput, Throughput, WriteThrough,
};
pub use store::measure_store;

/// Asks a measurement to end early: what is under way is finished, then what was written is removed.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on nothing new is begun.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether that was asked.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who is told which step has begun.
pub type Progress<'a> = dyn Fn(&str) + Send + Sync + 'a;
