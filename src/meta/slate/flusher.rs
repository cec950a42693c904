//! The one place that flushes: any number of callers, one flush in flight.
//!
//! SlateDB puts every flush call into its own log object, one after the other:
//! a hundred concurrent calls would wait for a hundred PUTs. So one task
//! flushes, and whoever came while it was busy shares the next flush.
//!
//! ```text
//!   flush() -> ticket 7 --+
//!   flush() -> ticket 8 --+--> task: db.flush() covers all tickets up to 8 --> both return
//! ```
//!
//! Invariant: a ticket is answered `Ok` only by a flush that began after it was
//! drawn. A caller that goes away changes nothing: the task goes on.

use slatedb::Db;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::meta::MetaError;
use crate::meta::slate::convert;

pub(super) struct Flusher {
    tickets: watch::Sender<u64>,
    done: watch::Receiver<Done>,
}

#[derive(Debug, Clone, Default)]
struct Done {
    /// Every ticket up to this one is durable.
    through: u64,
    /// Why no later ticket will be.
    failed: Option<MetaError>,
}

impl Flusher {
    /// Starts the task; it ends when the `Flusher` is dropped or a flush fails.
    pub(super) fn start(db: Db, runtime: &Handle) -> Self {
        let (tickets, queue) = watch::channel(0);
        let (answer, done) = watch::channel(Done::default());
        runtime.spawn(run(db, queue, answer));
        Self { tickets, done }
    }

    pub(super) async fn flush(&self) -> Result<(), MetaError> {
        const DOING: &str = "flushing the log";
        let mut ticket = 0;
        self.tickets.send_modify(|last| {
            *last += 1;
            ticket = *last;
        });
        let mut done = self.done.clone();
        let answer = done.wait_for(|done| done.through >= ticket || done.failed.is_some()).await;
        match answer {
            Ok(done) if done.through >= ticket => Ok(()),
            Ok(done) => Err(done.failed.clone().unwrap_or(MetaError::Closed { doing: DOING })),
            Err(_task_gone) => Err(MetaError::Closed { doing: DOING }),
        }
    }
}

/// The end of all flushes: an error that others may recover from is final here, because nothing
/// flushes again.
fn for_good(error: MetaError) -> MetaError {
    match error {
        MetaError::Unavailable { doing, source } | MetaError::Corrupt { doing, source } => {
            MetaError::Stopped { doing, source }
        }
        other => other,
    }
}

async fn run(db: Db, mut queue: watch::Receiver<u64>, answer: watch::Sender<Done>) {
    while queue.changed().await.is_ok() {
        let ticket = *queue.borrow_and_update();
        match db.flush().await {
            Ok(()) => answer.send_modify(|done| done.through = ticket),
            Err(error) => {
                let error = for_good(convert(&db, "flushing the log", error));
                answer.send_modify(|done| done.failed = Some(error));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn whatever_ends_flushing_is_final_and_a_newer_writer_stays_one() {
        let source = || Arc::new(std::io::Error::other("gone"));
        for error in [
            MetaError::Unavailable { doing: "flushing", source: source() },
            MetaError::Corrupt { doing: "flushing", source: source() },
            MetaError::Closed { doing: "flushing" },
        ] {
            assert!(for_good(error).is_final());
        }
        assert!(matches!(for_good(MetaError::Fenced), MetaError::Fenced));
    }
}
