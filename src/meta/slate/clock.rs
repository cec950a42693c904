//! The clock that SlateDB runs on: wall time that never goes back.
//!
//! SlateDB stamps rows and names of tables with wall time and stops its writer
//! for good when a stamp is older than the last one stored, as after a clock was
//! set back or when the last writer's machine was ahead of ours. Here time stands still
//! instead until the wall clock has caught up.
//!
//! It is also by its clock that the compactor can be woken: the engine has no other way.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use slatedb_common::{DefaultSystemClock, SystemClock, SystemClockTicker};
use tokio::sync::Notify;

/// Sleeps between these are those of the compactor and its worker between two looks for work, of
/// which the worker's vary by half. Shorter ones are heartbeats and pauses before another try, longer
/// ones those of garbage collection.
const COMPACTION_SLEEP_MIN: Duration = Duration::from_secs(11);
const COMPACTION_SLEEP_MAX: Duration =
    Duration::from_secs(super::settings::COMPACTION_POLL.as_secs() * 3 / 2);

/// Wall clock in whole milliseconds, never below what it returned or was given.
#[derive(Debug, Default)]
pub(super) struct ForwardClock {
    highest_ms: AtomicI64,
    wall: DefaultSystemClock,
    compaction: Notify,
}

impl ForwardClock {
    /// Time is at least `floor_ms` from now on.
    pub(super) fn raise(&self, floor_ms: i64) {
        self.highest_ms.fetch_max(floor_ms, Ordering::Relaxed);
    }

    /// The compactor and its worker look for work now.
    pub(super) fn wake_compaction(&self) {
        self.compaction.notify_waiters();
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
}
