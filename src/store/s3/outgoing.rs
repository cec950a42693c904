//! The body of a request on its way out, so that a connection that takes no more of it is noticed.
//!
//! ```text
//!   body |####|####|....|....|  --slice by slice-->  connection, kernel  -->  server
//!                  ^ handed over so far, and when
//! ```
//!
//! A body in one piece would be handed over at once, and from then on a slow connection and a dead
//! one look alike. (The SDK's own protection against stalled streams looks at the same place, and
//! so sees nothing of such a body.) The body is cut only after the SDK has signed and summed it:
//! what it makes of a body depends on its being in one piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// Bytes handed over at a time.
const SLICE: usize = 64 << 10;
/// How long a connection may take none of a body. The kernel asks for more only when a third of
/// its buffer is free, which at the slowest rate takes 21 s.
const STALL: Duration = Duration::from_secs(30);
/// How long the answer to the first attempt may take once the body is at the server, and by how much
/// longer that of each later one. A request that got lost costs little, and a server that is slow to
/// everybody is still waited for.
const ANSWER_TIME_STEP: Duration = Duration::from_secs(7);
/// No answer may take longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// The slowest upload that is not taken for a stalled one.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Bytes that may lie in buffers of this machine, handed over but not sent: what Linux gives one
/// connection at most unless told otherwise (`tcp_wmem`).
const BUFFERED_BYTES_MAX: u64 = 4 << 20;

/// How long the answer to the attempt of this number (from 1) may take.
pub(super) fn answer_time(attempt: u32) -> Duration {
    ANSWER_TIME_STEP.saturating_mul(attempt).min(ANSWER_TIME_MAX)
}

/// How long `bytes` may take on their way.
pub(super) fn sending_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
}

/// The body of one attempt at a request. A clone is the same one.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    body: Bytes,
    answer_time: Duration,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    handed_over: usize,
    at: Instant,
}

impl Outgoing {
    /// An attempt that begins now, the first or a later one.
    pub fn new(body: Bytes, attempt: u32) -> Self {
        let progress = Progress { handed_over: 0, at: Instant::now() };
        let answer_time = answer_time(attempt);
        Self { body, answer_time, progress: Arc::new(Mutex::new(progress)) }
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to give the attempt up, unless more of the body is taken or the answer comes by then.
    pub fn patience(&self) -> Instant {
        let Progress { handed_over, at } = self.progress();
        if handed_over < self.body.len() {
            return at + STALL;
        }
        at + self.answer_time + sending_time(BUFFERED_BYTES_MAX.min(handed_over as u64))
    }

    /// How far it came, for a message about an attempt that took `waited`.
    pub fn describe(&self, waited: Duration) -> String {
        let (handed_over, len) = (self.progress().handed_over, self.body.len());
        let waited = waited.as_secs();
        if handed_over < len {
            format!("the upload stands still at {handed_over} of {len} bytes after {waited} s")
        } else {
            format!("no answer within {waited} s")
        }
    }

    /// For tests: lets the connection take more, if there is more.
    #[cfg(test)]
    pub fn take_slice(&self) -> bool {
        self.next_slice().is_some()
    }

    fn next_slice(&self) -> Option<Bytes> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let start = progress.handed_over;
        let end = self.body.len().min(start + SLICE);
        *progress = Progress { handed_over: end, at: Instant::now() };
        (start < end).then(|| self.body.slice(start..end))
    }
}

impl Intercept for Outgoing {
    fn name(&self) -> &'static str {
        "Outgoing"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.request_mut().body_mut();
        // Whatever else the SDK may have made of it stays as it is.
        if body.bytes() == Some(&self.body[..]) {
            *body = SdkBody::from_body_1_x(Slices(self.clone()));
        }
        Ok(())
    }
}

/// The body as the connection takes it.
struct Slices(Outgoing);

impl Slices {
    fn left(&self) -> usize {
        self.0.body.len() - self.0.progress().handed_over
    }
}

impl Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next_slice().map(|slice| Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_the_body_and_say_how_much_is_left() {
        let len = 2 * SLICE + 5;
        let body: Bytes = (0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        let slices = Slices(Outgoing::new(body.clone(), 1));
        let mut joined = Vec::new();
        while !slices.is_end_stream() {
            assert_eq!(slices.size_hint().exact(), Some((len - joined.len()) as u64));
            joined.extend_from_slice(&slices.0.next_slice().unwrap());
        }
        assert_eq!(joined, body);
        assert_eq!(slices.0.next_slice(), None);
    }

    #[test]
    fn patience_grows_with_what_is_handed_over_and_not_with_the_whole_body() {
        let outgoing = Outgoing::new(vec![0; 16 << 20].into(), 1);
        let patience = |outgoing: &Outgoing| outgoing.patience() - outgoing.progress().at;
        assert_eq!(patience(&outgoing), STALL);
        assert!(outgoing.describe(STALL).contains("0 of 16777216 bytes after 30 s"));
        while outgoing.next_slice().is_some() {
            assert!(patience(&outgoing) <= ANSWER_TIME_STEP + sending_time(BUFFERED_BYTES_MAX));
        }
        assert_eq!(patience(&outgoing), ANSWER_TIME_STEP + Duration::from_secs(64));
        assert_eq!(outgoing.describe(Duration::from_secs(71)), "no answer within 71 s");
        let times = [1, 2, 3, 64].map(|attempt| patience(&Outgoing::new(Bytes::new(), attempt)));
        assert_eq!(times.map(|time| time.as_secs()), [7, 14, 20, 20]);
    }
}
