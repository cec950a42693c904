//! Compaction sooner than its usual time, when tables pile up.
//!
//! Each mount leaves a table or two, and the compactor looks for work so seldom that short mounts
//! never come to merge any. With too many tables the engine writes no more: opening and flushing would
//! then wait for the compactor's next look. So it is woken as soon as there are many.

use std::sync::Arc;
use std::time::Duration;

use slatedb::{Db, DbStatus};
use tokio::sync::watch;

use super::clock::ForwardClock;
use super::settings::SlateOptions;

/// Between two calls: merging takes a few steps, each with its own look.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// After many of them, when a large merge takes its time or the store is away.
const PAUSE_MAX: Duration = Duration::from_secs(64);
/// So many calls come quickly one after another: longer than a killed worker counts as alive.
const CALLS_QUICK: u32 = 15;
/// The compactor does not merge fewer than four tables; a few more are no trouble.
const TABLES_MANY_MIN: usize = 8;

/// Watches over an open database until it is closed.
pub(super) fn start(db: &Db, clock: Arc<ForwardClock>, options: &SlateOptions) {
    let tables_max = options.bounds.tables_max;
    let many = (tables_max / 4).max(TABLES_MANY_MIN).min(tables_max);
    options.background.spawn(run(db.subscribe(), clock, many));
}

async fn run(mut status: watch::Receiver<DbStatus>, clock: Arc<ForwardClock>, many: usize) {
    let mut calls = 0_u32;
    loop {
        let tables = {
            let status = status.borrow_and_update();
            if status.close_reason.is_some() {
                return;
            }
            status.current_manifest.l0().len()
        };
        if tables < many {
            calls = 0;
            if status.changed().await.is_err() {
                return;
            }
            continue;
        }
        clock.wake_compaction();
        calls += 1;
        let slower = calls.saturating_sub(CALLS_QUICK).min(16);
        tokio::time::sleep(PAUSE_MIN.saturating_mul(1 << slower).min(PAUSE_MAX)).await;
    }
}
