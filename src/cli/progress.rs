//! What a wait for the bucket shows on a terminal.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, target};
use crate::check::Progress;
use crate::daemon::{Entry, Request, Response};
use crate::gc::RekeyFigures;

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

/// How far a rekey is, on a terminal.
pub(super) struct RekeyBar(Option<ProgressBar>);

impl RekeyBar {
    /// Shows nothing where nobody looks.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            bar.set_style(
                ProgressStyle::with_template("{spinner} {bar:30} {bytes}/{total_bytes}, {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self(bar)
    }

    /// So far it is.
    pub(super) fn show(&self, figures: &RekeyFigures) {
        let Some(bar) = &self.0 else { return };
        bar.set_length(figures.bytes_done + figures.bytes_left);
        bar.set_position(figures.bytes_done);
        bar.set_message(figures.stage.name());
        bar.tick();
    }

    /// A line beside it.
    pub(super) fn say(&self, line: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes it away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// How far a scrub or a rewrite is, on a terminal.
pub(super) struct WorkBar(Option<ProgressBar>);

impl WorkBar {
    /// Shows nothing where nobody looks.
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left{msg}";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self(bar)
    }

    /// So far it is.
    pub(super) fn show(&self, progress: Progress) {
        let Some(bar) = &self.0 else { return };
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes);
        if progress.faulty > 0 {
            bar.set_message(format!(", {} objects with faults", progress.faulty));
        }
    }

    /// Takes it away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Which step is under way, on a terminal.
pub(super) struct StepLine(Option<ProgressBar>);

impl StepLine {
    /// Shows nothing where nobody looks.
    pub(super) fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(ProgressBar::new_spinner))
    }

    /// This one has begun.
    pub(super) fn show(&self, step: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(step.to_owned());
            bar.tick();
        }
    }

    /// Takes it away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
