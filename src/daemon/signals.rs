//! The signals that end a mount.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for any of them.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Whether one has come.
    heard: bool,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            heard: false,
        })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        };
        self.heard = true;
        name
    }

    /// Waits for the second one of all: the first only asks for an end, which may be under way already.
    pub(super) async fn second(&mut self) {
        if !self.heard {
            let name = self.next().await;
            tracing::info!(signal = name, "already ending; a second signal gives up");
        }
        self.next().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal as Number, getpid, kill_process};

    use super::*;

    /// Signals reach the whole process, so all about them is one test.
    #[tokio::test]
    async fn the_first_signal_never_counts_as_the_second() {
        let sent = Arc::new(AtomicU32::new(0));
        let mut signals = Signals::new().unwrap();
        let mut seen = signal(SignalKind::hangup()).unwrap();
        let counted = Arc::clone(&sent);
        let waiting = tokio::spawn(async move {
            signals.second().await;
            (counted.load(Ordering::SeqCst), signals)
        });
        for number in [1, 2] {
            sent.store(number, Ordering::SeqCst);
            kill_process(getpid(), Number::HUP).unwrap();
            seen.recv().await;
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        let (sent_by_then, mut signals) = waiting.await.unwrap();
        assert_eq!(sent_by_then, 2);
        kill_process(getpid(), Number::HUP).unwrap();
        signals.second().await;
    }
}
