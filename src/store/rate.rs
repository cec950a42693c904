//! A bound on bytes a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Nanoseconds in a second.
const NANOS: u128 = 1_000_000_000;

/// Lets so many bytes a second pass: for work in the background that must not take the whole line.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: Option<u64>,
    /// When the next bytes may pass.
    next: Mutex<Instant>,
}

impl Rate {
    /// Without a bound everything passes at once.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, next: Mutex::new(Instant::now()) }
    }

    /// Returns when `bytes` may pass.
    pub async fn wait(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*next).max(Instant::now());
            let nanos = u128::from(bytes) * NANOS / u128::from(rate.max(1));
            *next = turn + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            turn
        };
        sleep_until(turn).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_no_faster_than_they_may() {
        let (rate, began) = (Rate::new(Some(1000)), Instant::now());
        for _ in 0..5 {
            rate.wait(500).await;
        }
        assert_eq!(began.elapsed().as_secs(), 2);
        Rate::new(None).wait(u64::MAX).await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
