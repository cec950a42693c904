//! One request, tried until it succeeds, is refused for good, or its time is up.

use std::future::Future;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};

use super::Inner;
use super::errors::Failure;
use super::outgoing::{Outgoing, answer_time, sending_time};
use crate::store::object_store;
use crate::store::trouble::Traffic;
use crate::store::{StoreError, StoreFault};

/// Attempts at one request. The deadline normally comes first.
const ATTEMPTS_MAX: u32 = 64;
/// Waits between attempts are random, up to a ceiling that doubles from here ...
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// ... to here.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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

/// Runs `send`, a request without a body, until it succeeds, is refused for good, or the deadline
/// is over.
pub(super) async fn run<T, E, F, Fut>(store: &Inner, mut send: F) -> Outcome<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    repeat(store, Traffic::Others, &Bytes::new(), |_| send()).await
}

/// As [`run`], for a request with a body, which gets time of its own. Each attempt must watch its
/// body with the [`Outgoing`] that it is given.
pub(super) async fn upload<T, E, F, Fut>(store: &Inner, body: &Bytes, send: F) -> Outcome<T>
where
    F: FnMut(Outgoing) -> Fut,
    Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    repeat(store, Traffic::Uploads, body, send).await
}

async fn repeat<T, E, F, Fut>(
    store: &Inner,
    traffic: Traffic,
    body: &Bytes,
    mut send: F,
) -> Outcome<T>
where
    F: FnMut(Outgoing) -> Fut,
    Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let body_time = sending_time(body.len() as u64);
    let end = Instant::now() + store.deadline + body_time;
    let mut attempts = 0;
    let mut is_ambiguous = false;
    let mut last = None;
    loop {
        attempts += 1;
        let outgoing = Outgoing::new(body.clone(), attempts);
        let begun = Instant::now();
        let limit = end.min(begun + answer_time(attempts) + body_time);
        let failure = match attempt(Box::pin(send(outgoing.clone())), &outgoing, limit).await {
            Ok(Ok(value)) => {
                store.trouble.served(traffic);
                return Outcome { result: Ok(value), attempts, is_ambiguous };
            }
            Ok(Err(error)) => Failure::from_sdk(&error),
            // What went wrong before says more than how little time was left.
            Err(waited) => last
                .filter(|_| limit == end)
                .unwrap_or_else(|| Failure::timed_out(outgoing.describe(waited))),
        };
        if failure.fault.is_answer() {
            store.trouble.served(traffic);
        } else {
            store.trouble.failed(traffic, begun.into_std(), failure.describe(store, "", attempts));
        }
        let wait = backoff(attempts);
        if !failure.is_passing || attempts == ATTEMPTS_MAX || Instant::now() + wait >= end {
            return Outcome { result: Err(failure), attempts, is_ambiguous };
        }
        tracing::debug!(attempts, ?wait, ?failure, "request to the store is tried again");
        is_ambiguous |= failure.is_ambiguous;
        last = Some(failure);
        sleep(wait).await;
    }
}

/// Waits for an attempt while its body moves on, and until `limit` at most. The error is how long
/// that was.
async fn attempt<F: Future + Unpin>(
    mut send: F,
    outgoing: &Outgoing,
    limit: Instant,
) -> Result<F::Output, Duration> {
    let started = Instant::now();
    loop {
        let until = outgoing.patience().min(limit);
        if let Ok(output) = timeout_at(until, &mut send).await {
            return Ok(output);
        }
        if outgoing.patience().min(limit) <= until {
            return Err(started.elapsed());
        }
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

    const LONG: Duration = Duration::from_mins(5);

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stands_still_is_given_up_long_before_a_slow_one() {
        let outgoing = Outgoing::new(vec![0; 16 << 20].into(), 1);
        let never = std::future::pending::<()>();
        let waited = attempt(never, &outgoing, Instant::now() + LONG).await.unwrap_err();
        assert_eq!(waited.as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_moves_on_is_waited_for_until_the_limit() {
        let outgoing = Outgoing::new(vec![0; 16 << 20].into(), 1);
        let slow = Box::pin(async {
            while outgoing.take_slice() {
                sleep(Duration::from_secs(25)).await;
            }
        });
        let waited = attempt(slow, &outgoing, Instant::now() + LONG).await.unwrap_err();
        assert_eq!(waited, LONG);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_while_buffers_may_still_empty() {
        let outgoing = Outgoing::new(vec![0; 1 << 20].into(), 1);
        while outgoing.take_slice() {}
        let answer = Box::pin(sleep(Duration::from_secs(20)));
        attempt(answer, &outgoing, Instant::now() + LONG).await.unwrap();
        let never = std::future::pending::<()>();
        attempt(never, &outgoing, Instant::now() + LONG).await.unwrap_err();
    }
}
