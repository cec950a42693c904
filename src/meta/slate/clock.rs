//! The clock that SlateDB runs on: wall time that never goes back.
//!
//! SlateDB stamps rows and names of tables with wall time and stops its writer
//! for good when a stamp is older than the last one stored, as after a clock was
//! set back or when the last writer's machine was ahead of ours. Here time stands still
//! instead until the wall clock has caught up.
//!
//! It is also by its clock that the compactor can be woken, and that garbage collection can be kept from
//! beginning while a mount still opens: the engine has no other way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use slatedb_common::{DefaultSystemClock, SystemClock, SystemClockTicker};
use tokio::sync::Notify;

use super::settings::{COMPACTION_POLL, GC_INTERVAL, GC_START, MANIFEST_POLL};

/// Sleeps between these are those of the compactor and its worker between two looks for work, of
/// which the worker's vary by half. Shorter ones are heartbeats and pauses before another try, longer
/// ones those of garbage collection.
const COMPACTION_SLEEP_MIN: Duration = Duration::from_secs(11);
const COMPACTION_SLEEP_MAX: Duration = Duration::from_secs(COMPACTION_POLL.as_secs() * 3 / 2);

/// Wall clock in whole milliseconds, never below what it returned or was given.
#[derive(Debug)]
pub(super) struct ForwardClock {
    highest_ms: AtomicI64,
    wall: Arc<dyn SystemClock>,
    compaction: Notify,
    collection: LateClock,
}

impl Default for ForwardClock {
    fn default() -> Self {
        Self::over(Arc::new(DefaultSystemClock::new()))
    }
}

impl ForwardClock {
    /// A clock that goes as `wall` does.
    pub(super) fn over(wall: Arc<dyn SystemClock>) -> Self {
        let collection = LateClock { wall: Arc::clone(&wall), is_urgent: AtomicBool::new(false) };
        Self { highest_ms: AtomicI64::new(0), wall, compaction: Notify::new(), collection }
    }

    /// Time is at least `floor_ms` from now on.
    pub(super) fn raise(&self, floor_ms: i64) {
        self.highest_ms.fetch_max(floor_ms, Ordering::Relaxed);
    }

    /// The compactor and its worker look for work now.
    pub(super) fn wake_compaction(&self) {
        self.compaction.notify_waiters();
    }

    /// Garbage collection begins with the mount: there is much of it.
    pub(super) fn collect_at_once(&self) {
        self.collection.is_urgent.store(true, Ordering::Relaxed);
    }
}

impl SystemClock for ForwardClock {
    fn now(&self) -> DateTime<Utc> {
        let wall = self.wall.now();
        let wall_ms = wall.timestamp_millis();
        let highest_ms = self.highest_ms.fetch_max(wall_ms, Ordering::Relaxed).max(wall_ms);
        DateTime::from_timestamp_millis(highest_ms).unwrap_or(wall)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        if !(COMPACTION_SLEEP_MIN..=COMPACTION_SLEEP_MAX).contains(&duration) {
            return self.wall.sleep(duration);
        }
        Box::pin(async move {
            tokio::select! {
                () = self.wall.sleep(duration) => {}
                () = self.compaction.notified() => {}
            }
        })
    }

    fn ticker(&self, duration: Duration) -> SystemClockTicker<'_> {
        match duration {
            GC_INTERVAL | MANIFEST_POLL => self.collection.ticker(duration),
            _ => SystemClockTicker::new(self, duration),
        }
    }
}

/// By this one even the first tick is not at once.
#[derive(Debug)]
struct LateClock {
    wall: Arc<dyn SystemClock>,
    is_urgent: AtomicBool,
}

impl SystemClock for LateClock {
    fn now(&self) -> DateTime<Utc> {
        self.wall.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let is_urgent = self.is_urgent.load(Ordering::Relaxed);
        self.wall.sleep(if is_urgent { duration } else { duration.max(GC_START) })
    }

    fn ticker(&self, duration: Duration) -> SystemClockTicker<'_> {
        SystemClockTicker::new(self, duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_the_wall_clock_is_behind() {
        let clock = ForwardClock::default();
        let ahead_ms = clock.now().timestamp_millis() + 3_600_000;
        clock.raise(ahead_ms);
        assert_eq!(clock.now().timestamp_millis(), ahead_ms);
        clock.raise(ahead_ms - 1);
        assert_eq!(clock.now().timestamp_millis(), ahead_ms);
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_collection_begins_late_and_nothing_else_does() {
        let clock = ForwardClock::default();
        let first = async |interval| {
            let started = tokio::time::Instant::now();
            clock.ticker(interval).tick().await;
            started.elapsed()
        };
        assert_eq!(first(COMPACTION_POLL).await, Duration::ZERO);
        assert_eq!(first(MANIFEST_POLL).await, GC_START);
        assert_eq!(first(GC_INTERVAL).await, GC_START);
        clock.collect_at_once();
        assert_eq!(first(GC_INTERVAL).await, Duration::ZERO);
    }
}
