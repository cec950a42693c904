//! From written bytes to packs: while a group fills, and what is left when it closes.
//!
//! A packer claims written bytes under the lock, seals and uploads them outside
//! it, and then puts the place in the bucket where the bytes were, wherever
//! they are still shown. Bytes overwritten meanwhile just find no taker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::FsError;
use super::commit::CommitError;
use super::core::{Core, Mode};
use super::group::Group;
use super::system::Inner;
use crate::base::sabotage::{Bug, seeded};
use crate::base::{BlockIndex, CommitNumber, ErrorKind, Inode, PackNumber, WriterEpoch};
use crate::data::{BuiltPack, Chunk, ChunkRef, Claim, DataError, Extents, Piece};
use crate::format::{Key, Place, page_of};

/// A group with no more written bytes than this, and no packs, keeps them in its
/// block maps: its commit costs one round trip.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// One page holds no more inline bytes than this.
const INLINE_PAGE_BYTES_MAX: u64 = 64 << 10;

/// With more pages than this holding inline bytes, groups are packed however small.
const INLINE_PAGES_MAX: usize = 256;

/// Pages whose inline bytes one commit moves into its packs.
const INLINE_PAGES_MOVED: usize = 64;

/// Packs on their way at once: each is in memory twice, as written and as sealed. Also the most
/// numbers of a writer that are absent below one that is in the bucket.
pub const PACKS_IN_FLIGHT_MAX: usize = 4;

/// Pauses before a pack is sent again, shortest and longest.
const RESEND_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESEND_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Pause after a pack could not be built.
const PAUSE: Duration = Duration::from_secs(1);

/// Claimed bytes and whose they are.
struct Claimed {
    inode: Inode,
    block: BlockIndex,
    claim: Claim,
}

impl Inner {
    /// Counter part of the next pack number.
    pub fn next_pack_counter(&self) -> u64 {
        self.next_pack.load(Ordering::Relaxed)
    }

    /// Packs the open group while it fills.
    pub async fn run_packer(self: Arc<Self>) {
        let mut closing = self.closing.subscribe();
        loop {
            tokio::select! {
                () = self.pack_wanted.notified() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            while let Some((number, claims)) = self.claim_from_open() {
                let inner = self.clone();
                self.supervise(async move {
                    if let Err(error) = inner.pack(number, claims).await {
                        inner.failed(&error);
                    }
                    inner.pack_wanted.notify_one();
                });
            }
        }
    }

    /// A full pack's worth of the open group, unless enough are on their way.
    fn claim_from_open(&self) -> Option<(CommitNumber, Vec<Claimed>)> {
        let mut core = self.lock();
        let group = &mut core.open;
        if group.unclaimed_bytes < self.config.pack_bytes
            || group.packs_in_flight >= self.config.packs_in_flight
        {
            return None;
        }
        let claims = claim(group, self.config.pack_bytes);
        group.packs_in_flight += 1;
        group.first_pack.get_or_insert(self.next_pack.load(Ordering::Relaxed));
        Some((group.number, claims))
    }

    /// Brings all written bytes of a closed group into the bucket or its block maps.
    pub async fn settle(&self, number: CommitNumber) -> Result<(), CommitError> {
        if self.inline(number).await? {
            return Ok(());
        }
        self.unpack_inline(number).await?;
        loop {
            let batches = self.claim_batches(number);
            if batches.is_empty() {
                return Ok(());
            }
            let packed =
                join_all(batches.into_iter().map(|claims| self.pack(number, claims))).await;
            packed.into_iter().collect::<Result<(), FsError>>()?;
        }
    }

    fn claim_batches(&self, number: CommitNumber) -> Vec<Vec<Claimed>> {
        let mut core = self.lock();
        let Some(group) = core.group_mut(number) else { return Vec::new() };
        let claims = |_| {
            let claims = claim(group, self.config.pack_bytes);
            group.packs_in_flight += usize::from(!claims.is_empty());
            claims
        };
        (0..self.config.packs_in_flight)
            .map(claims)
            .take_while(|claims| !claims.is_empty())
            .collect()
    }

    /// Seals and stores claimed bytes, however long the store takes: the number of a pack that may
    /// have reached the bucket is never given up, so that no gap among numbers hides an orphan.
    async fn pack(&self, number: CommitNumber, claims: Vec<Claimed>) -> Result<(), FsError> {
        // Never closed; if it were, packs would only be unbounded.
        let _turn = self.pack_turns.acquire().await.ok();
        let counter = self.next_pack.fetch_add(1, Ordering::Relaxed);
        let writer =
            if seeded(Bug::ForgetWriterInPackNumber) { WriterEpoch(1) } else { self.writer };
        let result = match PackNumber::new(writer, counter) {
            Some(pack) => self.build(number, pack, &claims).await,
            None => Err(no_pack_number()),
        };
        let result = match result {
            Ok(pack) => self.send(&pack).await.map(|()| pack),
            Err(error) => {
                // Before the bytes are free again: whoever waits for room asks for packs all the time.
                tokio::time::sleep(PAUSE).await;
                Err(error)
            }
        };
        if let Ok(pack) = &result {
            self.reader.keep_sealed(pack);
        }
        for (claimed, place) in claims.iter().zip(result.iter().flat_map(|pack| &pack.places)) {
            if let Some((chunk, _)) = ChunkRef::from_place(place) {
                self.reader.insert(chunk, claimed.claim.content());
            }
        }
        let mut core = self.lock();
        let result = match result {
            Ok(pack) => {
                self.note_movement();
                core.replace_claims(number, &claims, &pack);
                Ok(())
            }
            Err(error) => {
                core.release_claims(number, &claims);
                Err(error)
            }
        };
        if let Some(group) = core.group_mut(number) {
            group.packs_in_flight -= 1;
        }
        drop(core);
        self.room.notify_waiters();
        result
    }

    async fn build(
        &self,
        number: CommitNumber,
        pack: PackNumber,
        claims: &[Claimed],
    ) -> Result<BuiltPack, FsError> {
        let chunk = |claimed: &Claimed| Chunk {
            inode: claimed.inode,
            block: claimed.block,
            at: claimed.claim.at,
            content: claimed.claim.content(),
        };
        let chunks: Vec<_> = claims.iter().map(chunk).collect();
        let packs = self.packs.clone();
        let built = tokio::task::spawn_blocking(move || packs.build(pack, number, chunks)).await;
        let built = built.map_err(|error| FsError::io(&error, ErrorKind::Bug))?;
        built.map_err(|error| io(&error))
    }

    /// Stores a pack, the same bytes each time, however often the store does not take it; gives up
    /// only when nothing will be stored any more.
    async fn send(&self, pack: &BuiltPack) -> Result<(), FsError> {
        let mut pause = RESEND_PAUSE_MIN;
        if seeded(Bug::SkipPackBarrier) {
            let (uploader, pack) = (self.uploader.clone(), pack.clone());
            self.runtime.spawn(async move { uploader.put(&pack).await });
            return Ok(());
        }
        while let Err(error) = self.uploader.put(pack).await {
            if self.lock().mode == Mode::Ended {
                return Err(io(&error));
            }
            self.failed(&io(&error));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESEND_PAUSE_MAX);
        }
        Ok(())
    }

    /// Keeps a small group's bytes in its block maps; whether it did.
    async fn inline(&self, number: CommitNumber) -> Result<bool, CommitError> {
        let small = {
            let mut core = self.lock();
            let crowded = core.inline_pages.len() > INLINE_PAGES_MAX;
            core.group_mut(number).is_none_or(|group| {
                !crowded && group.packs_done == 0 && group.memory_bytes <= INLINE_BYTES_MAX
            })
        };
        if !small || !self.pages_have_room(number).await? {
            return Ok(false);
        }
        let mut core = self.lock();
        if let Some(group) = core.group_mut(number) {
            for (inode, block) in edited_blocks(group) {
                group.edit_if_edited(inode, block, inline_spans);
            }
        }
        Ok(true)
    }

    /// Whether no page would hold too many inline bytes.
    async fn pages_have_room(&self, number: CommitNumber) -> Result<bool, CommitError> {
        let mut sums: HashMap<(Inode, u64), u64> = HashMap::new();
        {
            let mut core = self.lock();
            let Some(group) = core.group_mut(number) else { return Ok(true) };
            for (inode, edits) in &group.files {
                for (block, extents) in edits.blocks() {
                    *sums.entry((*inode, page_of(block).0)).or_default() += extents.memory_bytes();
                }
            }
        }
        for ((inode, page), bytes) in sums {
            let stored = self.committed_page(inode, page).await?;
            let stored = stored.map_or(0, |page| page.inline_bytes());
            if bytes > 0 && stored + bytes > INLINE_PAGE_BYTES_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes inline bytes of earlier groups along into this group's packs.
    async fn unpack_inline(&self, number: CommitNumber) -> Result<(), CommitError> {
        let pages: Vec<_> = {
            let core = self.lock();
            core.inline_pages.iter().take(INLINE_PAGES_MOVED).copied().collect()
        };
        for (inode, page_number) in pages {
            let page = self.committed_page(inode, page_number).await?;
            let mut core = self.lock();
            let Some(page) = page else {
                core.inline_pages.remove(&(inode, page_number));
                continue;
            };
            let block_bytes = core.fixed.block_size.bytes() as u32;
            let Some(group) = core.group_mut(number) else { return Ok(()) };
            for (slot, fragments) in page.blocks() {
                let block = BlockIndex(page_number * crate::format::PAGE_BLOCKS + u64::from(slot));
                for fragment in fragments {
                    if let Place::Inline(bytes) = &fragment.place {
                        group.edit(inode, block, block_bytes, |e| e.fill(fragment.at, bytes));
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn io(error: &DataError) -> FsError {
    FsError::io(error, error.kind())
}

fn no_pack_number() -> FsError {
    let message = "pack numbers of this mount are used up: unmount and mount again".to_owned();
    FsError::Io { message, kind: ErrorKind::Full }
}

fn edited_blocks(group: &Group) -> Vec<(Inode, BlockIndex)> {
    let files = group.files.iter();
    files.flat_map(|(inode, edits)| edits.blocks().map(|(block, _)| (*inode, block))).collect()
}

fn inline_spans(extents: &mut Extents) {
    for span in extents.spans_mut() {
        if let Some(bytes) = span.memory() {
            // A copy of its own: the buffer may be larger than what is shown of it.
            span.piece = Piece::Stored(Place::Inline(Bytes::copy_from_slice(&bytes)));
        }
    }
}

/// Claims unclaimed bytes in the order of writing, up to `bytes_max` (one block more at most). They come out in the order
/// of files and of blocks in them: writes overtake each other on their way through the kernel, and
/// what lies side by side in a pack is read with one request.
fn claim(group: &mut Group, bytes_max: u64) -> Vec<Claimed> {
    let (mut claims, mut bytes) = (Vec::new(), 0);
    while bytes < bytes_max
        && let Some((inode, block)) = group.queue.pop_front()
    {
        group.edit_if_edited(inode, block, |extents| {
            for claim in extents.claim() {
                bytes += claim.content().len() as u64;
                claims.push(Claimed { inode, block, claim });
            }
        });
    }
    claims.sort_by_key(|claimed| (claimed.inode, claimed.block));
    claims
}

impl Core {
    /// Shows the place in the bucket wherever claimed bytes are still shown.
    fn replace_claims(&mut self, number: CommitNumber, claims: &[Claimed], pack: &BuiltPack) {
        let Some(group) = self.group_mut(number) else { return };
        for (claimed, place) in claims.iter().zip(&pack.places) {
            let replace = |extents: &mut Extents| extents.replace(&claimed.claim, place);
            group.edit_if_edited(claimed.inode, claimed.block, replace);
        }
        group.set(Key::pack(pack.number), Some(pack.record.encode().into()));
        group.packs_done += 1;
    }

    fn release_claims(&mut self, number: CommitNumber, claims: &[Claimed]) {
        let Some(group) = self.group_mut(number) else { return };
        for Claimed { inode, block, claim } in claims {
            group.edit_if_edited(*inode, *block, |_| claim.release());
        }
    }
}
