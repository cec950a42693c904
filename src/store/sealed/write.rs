//! Writing: cuts what comes in into chunks and seals them, whole or in parts.
//!
//! ```text
//! parts of any length --> pending chunk (1 B to 16 KiB) --> sealed bytes --> parts of equal size below
//! ```
//!
//! A full chunk waits until more comes, because only the end tells which one is
//! the last.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::future;
use tokio::sync::oneshot;

use super::geometry::{CHUNK, sealed_len};
use super::reseal::Token;
use super::{INLINE_MAX, passing, seal_failed};
use crate::crypto::{SealError, Sealer};
use crate::store::object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

/// Seals one object from pieces of any length.
struct Pieces {
    sealer: Sealer,
    /// The chunk that is not sealed yet.
    pending: Vec<u8>,
    /// Header and sealed chunks, until they are sent on.
    sealed: Vec<u8>,
}

impl Pieces {
    fn new(sealer: Sealer, capacity: usize) -> Self {
        let mut sealed = Vec::with_capacity(capacity);
        sealed.extend_from_slice(sealer.header());
        Self { sealer, pending: Vec::new(), sealed }
    }

    fn push(&mut self, mut piece: &[u8]) -> Result<(), SealError> {
        let full = CHUNK as usize;
        if !self.pending.is_empty() {
            let (head, rest) = piece.split_at(piece.len().min(full - self.pending.len()));
            self.pending.extend_from_slice(head);
            piece = rest;
            if piece.is_empty() {
                return Ok(());
            }
            self.sealer.seal(&self.pending, false, &mut self.sealed)?;
            self.pending.clear();
        }
        while piece.len() > full {
            let (chunk, rest) = piece.split_at(full);
            self.sealer.seal(chunk, false, &mut self.sealed)?;
            piece = rest;
        }
        self.pending.extend_from_slice(piece);
        Ok(())
    }

    fn push_all(&mut self, payload: &PutPayload) -> Result<(), SealError> {
        payload.iter().try_for_each(|piece| self.push(piece))
    }

    fn finish(&mut self) -> Result<(), SealError> {
        self.sealer.seal(&self.pending, true, &mut self.sealed)
    }
}

/// The sealed bytes of a whole object.
pub(super) async fn seal_whole(sealer: Sealer, payload: PutPayload) -> Result<Vec<u8>> {
    let len = payload.content_length();
    let job = move || {
        let mut pieces = Pieces::new(sealer, sealed_len(len as u64) as usize);
        pieces.push_all(&payload)?;
        pieces.finish()?;
        Ok(pieces.sealed)
    };
    let sealed = if len > INLINE_MAX { tokio::task::spawn_blocking(job).await? } else { job() };
    sealed.map_err(seal_failed)
}

/// A multipart upload that seals.
///
/// Parts are queued in the order of the calls and sealed one at a time from the
/// head of the queue, whichever thread comes first: the caller may await them in
/// any order.
pub(super) struct SealedUpload(Arc<Shared>);

struct Shared {
    queue: Mutex<VecDeque<Queued>>,
    /// Locked while sealing, before `queue`; `None` once completed or aborted.
    state: Mutex<Option<State>>,
}

struct Queued {
    payload: PutPayload,
    sent: oneshot::Sender<Result<Vec<UploadPart>>>,
}

struct State {
    pieces: Pieces,
    /// Set when a part is missing below: nothing may follow it, and only aborting is left.
    broken: bool,
    inner: Box<dyn MultipartUpload>,
    /// Length of the parts sent on.
    part: usize,
    /// The upload's sign that it lasts.
    _under_way: Token,
}

impl SealedUpload {
    pub(super) fn new(
        sealer: Sealer,
        inner: Box<dyn MultipartUpload>,
        part: usize,
        under_way: Token,
    ) -> Self {
        let pieces = Pieces::new(sealer, 0);
        let state = State { pieces, broken: false, inner, part, _under_way: under_way };
        Self(Arc::new(Shared { queue: Mutex::default(), state: Mutex::new(Some(state)) }))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Queued>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals the part at the head of the queue. Each queued part has one call.
    fn seal_next(&self) {
        let mut state = self.state();
        let Some(Queued { payload, sent }) = self.queue().pop_front() else { return };
        let Some(state) = state.as_mut() else {
            // An upload that is over: dropping `sent` says so.
            return;
        };
        let parts = state.seal(&payload);
        state.broken |= parts.is_err();
        // A caller that waits no longer has dropped the parts with it.
        state.broken |= sent.send(parts).is_err();
    }
}

impl State {
    /// Seals `payload`; full parts go on to the store below.
    fn seal(&mut self, payload: &PutPayload) -> Result<Vec<UploadPart>> {
        if self.broken {
            return Err(over());
        }
        self.pieces.push_all(payload).map_err(seal_failed)?;
        let mut parts = Vec::new();
        while self.pieces.sealed.len() >= self.part {
            let rest = self.pieces.sealed.split_off(self.part);
            let part = std::mem::replace(&mut self.pieces.sealed, rest);
            parts.push(self.inner.put_part(part.into()));
        }
        Ok(parts)
    }

    /// Seals the last chunk and completes the upload below.
    async fn complete(&mut self) -> Result<PutResult> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(over());
        }
        self.pieces.finish().map_err(seal_failed)?;
        let last = std::mem::take(&mut self.pieces.sealed);
        self.inner.put_part(last.into()).await?;
        self.inner.complete().await
    }
}

#[async_trait]
impl MultipartUpload for SealedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (sent, receive) = oneshot::channel();
        let large = data.content_length() > INLINE_MAX;
        self.0.queue().push_back(Queued { payload: data, sent });
        if large {
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || shared.seal_next());
        } else {
            self.0.seal_next();
        }
        Box::pin(async move {
            let parts = receive.await.map_err(|_| over())??;
            future::try_join_all(parts).await.map(drop)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut state = self.0.state().take().ok_or_else(over)?;
        // A part that is still queued was never awaited: the object would have a hole.
        state.broken |= !self.0.queue().is_empty();
        let completed = state.complete().await;
        if completed.is_err() {
            // Kept for `abort`.
            *self.0.state() = Some(state);
        }
        completed
    }

    async fn abort(&mut self) -> Result<()> {
        let state = self.0.state().take();
        match state {
            Some(mut state) => state.inner.abort().await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for SealedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedUpload").finish_non_exhaustive()
    }
}

fn over() -> crate::store::object_store::Error {
    passing("this upload is over, or a part of it was never awaited; start a new one".to_owned())
}
