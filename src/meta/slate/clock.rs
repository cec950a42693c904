//! The clock that SlateDB runs on: wall time that never goes back.
//!
//! SlateDB stamps rows and names of tables with wall time and stops its writer
//! for good when a stamp is older than the last one stored, as after a clock was
//! set back or when the last writer's machine was ahead of ours. Here time stands still
//! instead until the wall clock has caught up.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use slatedb_common::{DefaultSystemClock, SystemClock, SystemClockTicker};

/// Wall clock in whole milliseconds, never below what it returned or was given.
#[derive(Debug, Default)]
pub(super) struct ForwardClock {
    highest_ms: AtomicI64,
    wall: DefaultSystemClock,
}

impl ForwardClock {
    /// Time is at least `floor_ms` from now on.
    pub(super) fn raise(&self, floor_ms: i64) {
        self.highest_ms.fetch_max(floor_ms, Ordering::Relaxed);
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
        self.wall.sleep(duration)
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
