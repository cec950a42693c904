//! What a wait for the bucket shows on a terminal.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, target};
use crate::daemon::{Entry, Request, Response};

/// How often the daemon is asked how far it is.
const INTERVAL: Duration = Duration::from_millis(250);

/// Sends `request` and shows how much is still dirty until it is answered.
///
/// # Errors
/// Those of the request.
pub(super) fn ask_with_progress(
    entry: &Entry,
    request: Request,
    timeout: Option<Duration>,
) -> Result<Response, Failure> {
    if !std::io::stderr().is_terminal() {
        return target::ask(entry, request, timeout);
    }
    let waiting = {
        let entry = entry.clone();
        thread::spawn(move || target::ask(&entry, request, timeout))
    };
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{spinner} {bar:30} {bytes}/{total_bytes} in the bucket")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut most = 0;
    while !waiting.is_finished() {
        if let Ok(status) = target::status(entry) {
            most = most.max(status.write.dirty_bytes);
            bar.set_length(most);
            bar.set_position(most - status.write.dirty_bytes);
        }
        bar.tick();
        thread::sleep(INTERVAL);
    }
    bar.finish_and_clear();
    waiting.join().unwrap_or_else(|_| {
        Err(Failure::new(super::Exit::Failure, "the wait for the daemon broke; see `lidfs status`"))
    })
}
