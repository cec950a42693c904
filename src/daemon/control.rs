//! The control socket: what `status`, `flush` and `umount` say to a daemon.
//!
//! ```text
//! client                         daemon
//!   {"command":"flush"}\n  --->
//!                          <---  {"done":null}\n     when everything is in the bucket
//! ```
//!
//! One line of JSON each way, then the connection is closed. The socket stands
//! in a directory of mode 0700, so who can connect may also command.
//! Bounds: [`CONNECTIONS_MAX`] at once, [`REQUEST_BYTES_MAX`] in a request.

use std::future::Future;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::status::Status;
use crate::gc::GcFigures;

/// Most connections served at once; further ones wait in the listener's queue.
const CONNECTIONS_MAX: usize = 16;
/// Longest request in bytes.
const REQUEST_BYTES_MAX: u64 = 4096;
/// Longest answer that a client reads in bytes.
const RESPONSE_BYTES_MAX: u64 = 1 << 20;
/// How long a client may take to send its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// What a daemon is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How things stand.
    Status,
    /// Store everything written so far.
    Flush,
    /// Store everything, unmount, end.
    Unmount,
    /// Give back space that nothing needs, as [`GcPolicy`](crate::gc::GcPolicy) says.
    Collect {
        /// Keep packs that were freed less than this long ago; `None`: as the mount's configuration says.
        keep_seconds: Option<u64>,
        /// Write packs anew of which less than this many percent is live.
        compact_below: u8,
    },
    /// Begin to seal everything anew with a new key, or go on with it, as
    /// [`RekeyPolicy`](crate::gc::RekeyPolicy) says. How far it is, the status tells.
    Rekey {
        /// Most bytes a second; `None`: as the mount's configuration says.
        rate: Option<u64>,
        /// As for a collection.
        keep_seconds: Option<u64>,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// It was done.
    Done,
    /// How things stand.
    Status(Box<Status>),
    /// What was given back.
    Collected(GcFigures),
    /// It was not done.
    Failed {
        /// Why, and what to do next.
        message: String,
        /// The mount is in use.
        busy: bool,
    },
}

/// Answers requests on `socket` until dropped.
///
/// # Errors
/// The socket could not be made.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves connections until dropped, each in a task of its own.
#[derive(Debug)]
pub struct Server {
    slots: Arc<Semaphore>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts to answer.
    pub fn start<F, A>(listener: UnixListener, answer: F) -> Self
    where
        F: Fn(Request) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = tokio::spawn(accept(listener, answer, Arc::clone(&slots)));
        Self { slots, accepting }
    }

    /// Takes no more connections and waits until those there are have their answers.
    pub async fn drain(self, time: Duration) {
        self.accepting.abort();
        let all = self.slots.acquire_many(CONNECTIONS_MAX as u32);
        // Who does not read its answer in time goes without.
        let _ = tokio::time::timeout(time, all).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept<F, A>(listener: UnixListener, answer: F, slots: Arc<Semaphore>)
where
    F: Fn(Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    // A client that went away needs no answer.
                    let _ = serve_one(stream, answer).await;
                    drop(slot);
                });
            }
            // Out of descriptors, for one: wait rather than spin.
            Err(error) => {
                tracing::warn!(%error, "control socket: no connection accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one<F, A>(stream: tokio::net::UnixStream, answer: F) -> io::Result<()>
where
    F: Fn(Request) -> A,
    A: Future<Output = Response>,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_DEADLINE, reader.read_line(&mut line)).await??;
    if line.is_empty() {
        // A client that only wanted to know whether anybody listens.
        return Ok(());
    }
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(request).await,
        Err(error) => Response::Failed {
            message: format!(
                "request not understood ({error}): use the lidfs of the same version as the daemon"
            ),
            busy: false,
        },
    };
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// Asks the daemon at `socket`; waits for `timeout` at most, or as long as it takes.
///
/// # Errors
/// `TimedOut` after `timeout`; `UnexpectedEof` when the daemon ended without an answer.
pub fn ask(socket: &Path, request: Request, timeout: Option<Duration>) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    // Zero would be refused; it stands for the shortest wait there is.
    stream.set_read_timeout(timeout.map(|time| time.max(Duration::from_millis(1))))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(RESPONSE_BYTES_MAX)).read_line(&mut answer).map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            io::Error::from(io::ErrorKind::TimedOut)
        } else {
            error
        }
    })?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the daemon ended without an answer",
        ));
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(request: Request) -> Response {
        match request {
            Request::Status => std::future::pending().await,
            Request::Flush | Request::Rekey { .. } => Response::Done,
            Request::Unmount => Response::Failed { message: "in use".to_owned(), busy: true },
            Request::Collect { .. } => Response::Collected(GcFigures::default()),
        }
    }

    async fn asked(request: Request, timeout: Option<Duration>) -> io::Result<Response> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = listen(&socket).unwrap();
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let server = Server::start(listener, answer);
        let response = tokio::task::spawn_blocking(move || ask(&socket, request, timeout)).await;
        drop(server);
        response.unwrap()
    }

    #[tokio::test]
    async fn requests_get_their_answers() {
        assert_eq!(asked(Request::Flush, None).await.unwrap(), Response::Done);
        let failed = Response::Failed { message: "in use".to_owned(), busy: true };
        assert_eq!(asked(Request::Unmount, None).await.unwrap(), failed);
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_answer_costs_the_timeout_only() {
        for timeout in [Duration::from_millis(20), Duration::ZERO] {
            let error = asked(Request::Status, Some(timeout)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{timeout:?}");
        }
    }

    #[tokio::test]
    async fn a_line_that_is_no_request_is_refused_and_the_next_one_served() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let server = Server::start(listen(&socket).unwrap(), answer);
        let client = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"{\"command\":\"explode\"}\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            (text, ask(&socket, Request::Flush, None).unwrap())
        });
        let (text, next) = client.await.unwrap();
        drop(server);
        assert!(text.contains("not understood"), "{text}");
        assert_eq!(next, Response::Done);
    }
}
