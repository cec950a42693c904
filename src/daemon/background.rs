//! How a mount moves to the background: the parent stays until it answers.
//!
//! ```text
//! parent: fork ----------------- wait on the pipe ------------- print, exit with the code
//! child:        open, probe, lock, mount --- leave terminal ---^ serve ... end
//! ```
//!
//! The pipe carries one line of JSON and is then closed. The child keeps the
//! terminal until it has mounted, so that it can ask for a passphrase and warn.
//! Invariant: when the parent ends, no descriptor of its caller is left open.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};

use serde::{Deserialize, Serialize};

use super::system::{self, Forked};

/// Longest message through the pipe in bytes.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;

/// What the parent learns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Exit code for the parent.
    pub exit: u8,
    /// What to print: on standard output after success, else on standard error.
    pub text: String,
}

/// Where this process goes on after [`detach`].
pub enum Side {
    /// The caller's process: print the answer and end.
    Parent(Result<Answer, String>),
    /// The process that will serve the mount.
    Child(Starting),
}

/// A mount that has not answered yet, and who waits for it.
#[derive(Debug)]
pub struct Starting {
    parent: Option<PipeWriter>,
}

impl Starting {
    /// For a mount that stays in the foreground: nobody waits.
    pub fn foreground() -> Self {
        Self { parent: None }
    }

    /// Whether this mount stays in the foreground.
    pub fn is_foreground(&self) -> bool {
        self.parent.is_none()
    }

    /// The mount answers: leaves the terminal and lets the parent end.
    ///
    /// # Errors
    /// The terminal could not be left; the parent then sees this process end.
    pub fn mounted(&mut self, text: &str) -> io::Result<()> {
        let Some(pipe) = self.parent.take() else { return Ok(()) };
        system::leave_terminal()?;
        // A parent that was killed meanwhile is no reason to give the mount up.
        let _ = send(pipe, &Answer { exit: 0, text: text.to_owned() });
        Ok(())
    }

    /// The mount failed; `false` when nobody waits, so that the caller must print it.
    pub fn failed(self, exit: u8, text: &str) -> bool {
        self.parent.is_some_and(|pipe| send(pipe, &Answer { exit, text: text.to_owned() }).is_ok())
    }
}

/// Forks; only for a process of one thread.
///
/// In the child every inherited descriptor but the standard ones and `keep` is closed.
///
/// # Errors
/// Neither pipe nor process could be made.
pub fn detach(keep: &[RawFd]) -> io::Result<Side> {
    let (reader, writer) = io::pipe()?;
    match system::fork()? {
        Forked::Parent(child) => {
            drop(writer);
            let answer = receive(reader);
            Ok(Side::Parent(answer.ok_or_else(|| {
                let end = system::wait_for(child);
                format!("the mount process ended before it had mounted ({end}); run it with --foreground to see why")
            })))
        }
        Forked::Child => {
            drop(reader);
            let mut keep = keep.to_vec();
            keep.push(writer.as_raw_fd());
            system::close_inherited(&keep);
            Ok(Side::Child(Starting { parent: Some(writer) }))
        }
    }
}

fn send(mut pipe: PipeWriter, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    pipe.write_all(&line)
}

/// The answer, or `None` when the other side ended without one.
fn receive(pipe: PipeReader) -> Option<Answer> {
    let mut line = Vec::new();
    pipe.take(MESSAGE_BYTES_MAX).read_to_end(&mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> (PipeReader, Starting) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Starting { parent: Some(writer) })
    }

    #[test]
    fn a_failure_reaches_the_parent_with_its_code_and_text() {
        let (reader, starting) = channel();
        assert!(starting.failed(11, "locked by \"host\"\nsince 3 s"));
        let answer = receive(reader).unwrap();
        assert_eq!(answer, Answer { exit: 11, text: "locked by \"host\"\nsince 3 s".to_owned() });
    }

    #[test]
    fn a_child_that_dies_silently_gives_no_answer() {
        let (reader, starting) = channel();
        drop(starting);
        assert_eq!(receive(reader), None);
    }

    #[test]
    fn a_parent_that_is_gone_leaves_the_message_to_the_caller() {
        let (reader, starting) = channel();
        drop(reader);
        assert!(!starting.failed(1, "x"));
        assert!(!Starting::foreground().failed(1, "x"));
    }
}
