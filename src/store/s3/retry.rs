//! One request, tried until it succeeds, is refused for good, or its time is up.

use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tokio::time::{Instant, sleep, timeout};

use super::Inner;
use super::errors::Failure;
use crate::store::object_store;
use crate::store::{StoreError, StoreFault};

/// Attempts at one request. The deadline normally comes first.
const ATTEMPTS_MAX: u32 = 64;
/// How long one attempt may wait for its answer, besides the time to send the body.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
/// Waits between attempts are random, up to a ceiling that doubles from here ...
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// ... to here.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The slowest upload that is not taken for a stalled one.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// How a request ended.
pub(super) struct Outcome<T> {
    pub result: Result<T, Failure>,
    pub attempts: u32,
    /// An attempt before the last may have been carried out though its answer was lost.
    pub is_ambiguous: bool,
}

impl<T> Outcome<T> {
    /// For requests that may be repeated freely.
    pub fn into_result(self, store: &Inner, key: &str) -> object_store::Result<T> {
        self.result.map_err(|failure| {
            failure.into_error(store, key, self.attempts).into_object_store("S3", key)
        })
    }
}

/// Runs `send` until it succeeds, is refused for good, or `deadline` is over. `bytes_up` is the
/// size of its body, which gets time of its own.
pub(super) async fn run<T, E, F, Fut>(store: &Inner, bytes_up: u64, mut send: F) -> Outcome<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let body_time = Duration::from_secs(bytes_up / UPLOAD_BYTES_PER_SECOND_MIN);
    let end = Instant::now() + store.deadline + body_time;
    let mut attempts = 0;
    let mut is_ambiguous = false;
    loop {
        attempts += 1;
        let left = end.saturating_duration_since(Instant::now());
        let limit = left.min(ATTEMPT_TIMEOUT + body_time);
        let failure = match timeout(limit, send()).await {
            Ok(Ok(value)) => return Outcome { result: Ok(value), attempts, is_ambiguous },
            Ok(Err(error)) => Failure::from_sdk(error),
            Err(_) => Failure::timed_out(limit.as_secs()),
        };
        let wait = backoff(attempts);
        if !failure.is_passing || attempts == ATTEMPTS_MAX || Instant::now() + wait >= end {
            return Outcome { result: Err(failure), attempts, is_ambiguous };
        }
        tracing::debug!(attempts, ?wait, ?failure, "request to the store is tried again");
        is_ambiguous |= failure.is_ambiguous;
        sleep(wait).await;
    }
}

/// Full jitter: clients that failed together do not come back together.
pub(super) fn backoff(attempts: u32) -> Duration {
    let ceiling = BACKOFF_MIN.saturating_mul(1 << attempts.min(16)).min(BACKOFF_MAX);
    // Without randomness from the system there is no jitter, which is only impolite.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// An answer that contradicts itself or the request.
pub(super) fn malformed(store: &Inner, key: &str, said: &str) -> object_store::Error {
    let text = format!("s3://{}/{key}: {} answers {said}", store.bucket, store.place);
    StoreError::new(StoreFault::Malformed, text).into_object_store("S3", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_but_never_past_their_bound() {
        for attempts in 0..100 {
            assert!(backoff(attempts) <= BACKOFF_MAX);
        }
    }
}
