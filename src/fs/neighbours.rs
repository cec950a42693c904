//! Small files that were written together are read together.
//!
//! A tree read file by file would cost a request for each. Files made one after
//! the other have neighbouring inode numbers and lie side by side in a pack; so
//! when a second small file near the last one is not in memory, its reader looks
//! around: the content of the small files to both sides is fetched, in a few long
//! requests. Whoever goes on reading there gets more each time.
//!
//! The reader's own request goes out first and does not wait for the look, and the rest of the file
//! comes in one of its own. Readers of others among these files wait a moment, until they are sent
//! for, rather than ask for their own.
//!
//! Invariants: one look is under way at a time, and what it holds is bounded by
//! bytes; what looks send for is at most [`LOOK_BYTES_MAX`], and then
//! [`CREDIT_GROWTH`] times what is read of small files.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::FileSystem;
use crate::base::{Inode, KIB, PackNumber};
use crate::data::{ChunkRef, requests_for};
use crate::format::{Key, Page};

/// A file of no more blocks than this is small.
pub(super) const SMALL_FILE_BLOCKS: u64 = 16;

/// Inodes to each side of one that are looked at, the first time and at most.
const SPREAD_MIN: u64 = 128;
const SPREAD_MAX: u64 = 2048;

/// Who reads small files no farther apart than this is going through a tree, maybe in the order of its
/// directories, in which those made together come one here, one there.
const NEAR: u64 = 4 * SPREAD_MAX;

/// How much farther each look goes than the one before.
const SPREAD_GROWTH: u64 = 4;

/// Bytes that one look sends for at most, for each inode of its spread.
const BYTES_PER_SPREAD: u64 = 16 * KIB;

/// Bytes that one look sends for at most, and that may be sent for without anything being read.
const LOOK_BYTES_MAX: u64 = SPREAD_MAX * BYTES_PER_SPREAD;

/// What a look may send for at least: else there is none. The rest is left to those who read ahead in one file.
const LOOK_BYTES_MIN: u64 = SPREAD_MIN * BYTES_PER_SPREAD;

/// How many times what was read of files looked at may be sent for beyond it.
const CREDIT_GROWTH: u64 = 4;

/// A look that finds little counts as if it had sent for this part of what it might have.
const LOOK_COST: u64 = 16;

/// Requests that one look sends at most.
const REQUESTS_MAX: usize = 16;

/// Block map pages that a look takes in to each side, and their bytes: large files in between end it. The first piece
/// of them tells how many of the rest fit.
const PAGES_MAX: usize = SPREAD_MAX as usize + SPREAD_MAX as usize / 2;
const PAGE_BYTES_MAX: usize = 4 << 20;
const PAGES_FIRST: usize = 512;

/// How long readers wait for a look, from its start. Metadata that takes longer is no help.
const LOOK_WAIT_MAX: Duration = Duration::from_millis(500);

/// A small file and its chunks that are not on their way yet. Of another file: none.
type Missing = (Inode, Vec<ChunkRef>);

/// Where small files were last read.
#[derive(Debug)]
pub(super) struct Neighbourhood {
    last: Option<Inode>,
    /// How far to look next time.
    spread: u64,
    /// Bytes that may be sent for.
    credit: u64,
    /// The last look.
    looked: Option<Looked>,
}

#[derive(Debug)]
struct Looked {
    /// First to last.
    inodes: (Inode, Inode),
    waiting: Waiting,
}

/// For a look to end.
#[derive(Debug, Clone)]
struct Waiting {
    /// Its other end goes away with the look.
    look: watch::Receiver<()>,
    until: Instant,
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.look.has_changed().is_err()
    }
}

/// What to fetch with a small file that is not in memory.
#[derive(Debug)]
enum Miss {
    /// Nothing.
    Alone,
    /// It will be on its way with others.
    Among(Waiting),
    /// What is around it.
    Look(Look),
}

/// A look at what is around an inode.
#[derive(Debug)]
pub(super) struct Look {
    inode: Inode,
    /// First to last.
    inodes: (Inode, Inode),
    bytes_max: u64,
    /// Dropped when all is sent for.
    _under_way: watch::Sender<()>,
}

impl Default for Neighbourhood {
    fn default() -> Self {
        Self { last: None, spread: SPREAD_MIN, credit: LOOK_BYTES_MAX, looked: None }
    }
}

impl Neighbourhood {
    fn looked_at(&self, inode: Inode) -> Option<&Looked> {
        self.looked.as_ref().filter(|looked| (looked.inodes.0..=looked.inodes.1).contains(&inode))
    }

    /// Bytes of a small file are read.
    pub fn on_read(&mut self, inode: Inode, bytes: u64) {
        let growth = if self.looked_at(inode).is_some() { CREDIT_GROWTH } else { 1 };
        self.credit = (self.credit + growth * bytes).min(LOOK_BYTES_MAX);
    }

    /// A small file is not in memory, and `free` bytes may be fetched ahead.
    fn on_miss(&mut self, inode: Inode, free: u64, now: Instant) -> Miss {
        let near = self.last.is_some_and(|last| last.0.abs_diff(inode.0) <= NEAR);
        self.last = Some(inode);
        if !near {
            self.spread = SPREAD_MIN;
        }
        if self.looked.as_ref().is_some_and(|looked| !looked.waiting.is_over()) {
            let among = self.looked_at(inode).map(|looked| Miss::Among(looked.waiting.clone()));
            return among.unwrap_or(Miss::Alone);
        }
        let bytes_max = (self.spread * BYTES_PER_SPREAD).min(self.credit).min(free);
        if !near || bytes_max < LOOK_BYTES_MIN {
            return Miss::Alone;
        }
        let spread = bytes_max / BYTES_PER_SPREAD;
        let inodes = (Inode(inode.0.saturating_sub(spread)), Inode(inode.0.saturating_add(spread)));
        let (under_way, look) = watch::channel(());
        self.looked =
            Some(Looked { inodes, waiting: Waiting { look, until: now + LOOK_WAIT_MAX } });
        self.spread = (self.spread * SPREAD_GROWTH).min(SPREAD_MAX);
        Miss::Look(Look { inode, inodes, bytes_max, _under_way: under_way })
    }

    /// A look has sent for so many bytes.
    fn sent(&mut self, look: &Look, bytes: u64) {
        self.credit = self.credit.saturating_sub(bytes.max(look.bytes_max / LOOK_COST));
    }
}

impl FileSystem {
    /// `inode`, a small file, is not in memory. What to look at once it is sent for itself; or
    /// waits until it is sent for with others.
    pub(super) async fn neighbours(&self, inode: Inode) -> Option<Look> {
        let free = self.inner.reader.room_ahead().free;
        let miss = self.inner.lock().neighbourhood.on_miss(inode, free, Instant::now());
        match miss {
            Miss::Alone => None,
            Miss::Among(mut waiting) => {
                // Whether it ended or takes too long: the reader goes on by itself.
                let _ = timeout_at(waiting.until, waiting.look.changed()).await;
                None
            }
            Miss::Look(look) => Some(look),
        }
    }

    /// Fetches small files in the background. Goes on if the reader goes away: others may wait for it.
    pub(super) fn start_look(&self, look: Look) {
        let fs = self.clone();
        drop(self.inner.runtime.spawn(async move {
            let bytes = fs.look(&look).await.unwrap_or(0);
            fs.inner.lock().neighbourhood.sent(&look, bytes);
        }));
    }

    /// The bytes sent for. What cannot be read is left out: whoever reads it meets the error itself.
    async fn look(&self, look: &Look) -> Option<u64> {
        let (from, to) = look.inodes;
        let (above, _) = self.small_files(look.inode, Inode(to.0.saturating_add(1))).await?;
        let own = above.first().filter(|(inode, _)| *inode == look.inode);
        let own: HashSet<ChunkRef> =
            own.map(|(_, missing)| missing.iter().copied().collect()).unwrap_or_default();
        // Only with nothing left out up to the inode asked for.
        let below = self.small_files(from, look.inode).await.filter(|(_, whole)| *whole);
        let mut files = below.map(|(files, _)| files).unwrap_or_default();
        files.extend(above);
        let taken = around(&files, look.inode, look.bytes_max);
        let chunks: Vec<ChunkRef> = files.drain(taken).flat_map(|(_, missing)| missing).collect();
        let packs: HashSet<PackNumber> = chunks.iter().map(|chunk| chunk.pack).collect();
        let mut seals = HashMap::new();
        for pack in packs {
            if let Ok(seal) = self.run(move |tx| tx.core().pack_seal(pack)).wait().await {
                seals.insert(pack, seal);
            }
        }
        let sealed = |chunk: ChunkRef| Some((chunk, *seals.get(&chunk.pack)?));
        let chunks: Vec<_> = chunks.into_iter().filter_map(sealed).collect();
        let bytes = chunks.iter().map(|(chunk, _)| u64::from(chunk.sealed_len)).sum();
        // The rest of the reader's file in a request of its own, not somewhere in a long one.
        let (own, around) = chunks.into_iter().partition(|(chunk, _)| own.contains(chunk));
        self.inner.reader.prefetch(own);
        self.inner.reader.prefetch(around);
        Some(bytes)
    }

    /// The files among `from..to` and what is missing of them; whether that is all of them.
    async fn small_files(&self, from: Inode, to: Inode) -> Option<(Vec<Missing>, bool)> {
        let key = |inode| Key::page(inode, 0).as_bytes().to_vec();
        let (mut start, end) = (key(from), key(to));
        let (mut files, mut pages, mut bytes) = (Vec::new(), 0, 0);
        let mut limit = PAGES_FIRST;
        loop {
            let records = self.inner.meta.scan(&start, &end, limit).await.ok()?;
            for (key, page) in &records {
                if let (Some(inode), Some(0)) = (Key::number(key, 0), Key::number(key, 1)) {
                    let mut chunks = small(page);
                    chunks.retain(|chunk| !self.inner.reader.is_coming(chunk));
                    files.push((Inode(inode), chunks));
                }
                bytes += page.len();
            }
            let Some((last, _)) = records.last().filter(|_| records.len() == limit) else {
                return Some((files, true));
            };
            pages += records.len();
            limit = (PAGE_BYTES_MAX.saturating_sub(bytes) / (bytes / pages + 1))
                .min(PAGES_MAX.saturating_sub(pages));
            if limit == 0 {
                return Some((files, false));
            }
            start = [last, &[0][..]].concat();
        }
    }
}

/// The chunks in packs of a small file, whose first page this is; none of another file.
fn small(page: &Bytes) -> Vec<ChunkRef> {
    let Ok(page) = Page::decode(page) else { return Vec::new() };
    if page.blocks().any(|(slot, _)| u64::from(slot) >= SMALL_FILE_BLOCKS) {
        return Vec::new();
    }
    let fragments = page.blocks().flat_map(|(_, fragments)| fragments);
    fragments.filter_map(|f| ChunkRef::from_place(&f.place)).map(|(chunk, _)| chunk).collect()
}

/// Which of `files`, in order of their inodes, to take: from `inode` on to both sides, as long as
/// what is missing of them is no more than `bytes_max`, in no more than [`REQUESTS_MAX`] requests.
/// What is here already costs nothing, so that who reads in one direction gets what lies before him.
fn around(files: &[Missing], inode: Inode, bytes_max: u64) -> Range<usize> {
    let bytes = |file: usize| -> u64 {
        files[file].1.iter().map(|chunk| u64::from(chunk.sealed_len)).sum()
    };
    let middle = files.partition_point(|(of, _)| *of < inode);
    let (mut taken, mut left) = (middle..middle, bytes_max);
    let (mut up, mut down) = (true, true);
    while up || down {
        up = up && taken.end < files.len() && bytes(taken.end) <= left;
        if up {
            left -= bytes(taken.end);
            taken.end += 1;
        }
        down = down && taken.start > 0 && bytes(taken.start - 1) <= left;
        if down {
            taken.start -= 1;
            left -= bytes(taken.start);
        }
    }
    let chunks = |taken: &Range<usize>| {
        requests_for(files[taken.clone()].iter().flat_map(|(_, missing)| missing).copied())
    };
    // Files that lie scattered: half as many, until few requests will do.
    while chunks(&taken) > REQUESTS_MAX {
        taken = middle - (middle - taken.start) / 2..middle + (taken.end - middle) / 2;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: u64 = 1 << 30;

    fn miss(neighbourhood: &mut Neighbourhood, inode: u64) -> Miss {
        neighbourhood.on_miss(Inode(inode), PLENTY, Instant::now())
    }

    /// The inodes that a miss looks at, for a look that ends at once.
    fn looked_at(neighbourhood: &mut Neighbourhood, inode: u64) -> Option<(u64, u64)> {
        match miss(neighbourhood, inode) {
            Miss::Look(look) => Some((look.inodes.0.0, look.inodes.1.0)),
            Miss::Alone | Miss::Among(_) => None,
        }
    }

    #[test]
    fn misses_nearby_look_at_the_surroundings_and_then_at_more() {
        let mut neighbourhood = Neighbourhood::default();
        let mut at = |inode| looked_at(&mut neighbourhood, inode);
        assert_eq!(at(10_000), None);
        assert_eq!(at(90_000), None, "far away");
        let around = |inode, spread| Some((inode - spread, inode + spread));
        assert_eq!(at(90_010), around(90_010, SPREAD_MIN));
        assert_eq!(at(90_200), around(90_200, SPREAD_MIN * SPREAD_GROWTH));
        assert_eq!(at(500), None, "far away");
        assert_eq!(at(501), around(501, SPREAD_MIN));
    }

    #[test]
    fn one_look_is_under_way_and_readers_of_what_it_looks_at_wait_for_it() {
        let mut neighbourhood = Neighbourhood::default();
        assert!(matches!(miss(&mut neighbourhood, 1000), Miss::Alone));
        let Miss::Look(look) = miss(&mut neighbourhood, 1001) else { panic!() };
        assert_eq!(look.bytes_max, LOOK_BYTES_MIN);
        let Miss::Among(waiting) = miss(&mut neighbourhood, 1090) else { panic!() };
        assert!(!waiting.is_over());
        assert!(matches!(miss(&mut neighbourhood, 3000), Miss::Alone));
        assert!(matches!(miss(&mut neighbourhood, 3001), Miss::Alone));
        drop(look);
        assert!(waiting.is_over());
        assert!(matches!(miss(&mut neighbourhood, 1090), Miss::Look(_)), "it was left out");
    }

    #[test]
    fn no_look_where_little_may_be_fetched_ahead() {
        let mut neighbourhood = Neighbourhood::default();
        let mut at = |inode, free| neighbourhood.on_miss(Inode(inode), free, Instant::now());
        assert!(matches!(at(1000, PLENTY), Miss::Alone));
        assert!(matches!(at(1001, LOOK_BYTES_MIN - 1), Miss::Alone));
        assert!(matches!(at(1002, LOOK_BYTES_MIN), Miss::Look(_)));
    }

    /// Bytes that looks send for, each as many as it may, while `reads` take `bytes` each.
    fn sent_for(neighbourhood: &mut Neighbourhood, reads: &[u64], bytes: u64) -> u64 {
        let mut sent = 0;
        for inode in reads {
            neighbourhood.on_read(Inode(*inode), bytes);
            if let Miss::Look(look) = miss(neighbourhood, *inode) {
                sent += look.bytes_max;
                neighbourhood.sent(&look, look.bytes_max);
            }
        }
        sent
    }

    #[test]
    fn what_looks_send_for_is_bounded_by_what_is_read() {
        let here_and_there: Vec<_> = (0..5000).map(|read| 50_000 + read * 6151 % 8000).collect();
        let mut neighbourhood = Neighbourhood::default();
        let sent = sent_for(&mut neighbourhood, &here_and_there, 100);
        assert!(sent <= LOOK_BYTES_MAX + 5000 * 100 * CREDIT_GROWTH, "{sent}");
        let in_order: Vec<_> = (50_000..55_000).collect();
        let sent = sent_for(&mut neighbourhood, &in_order, BYTES_PER_SPREAD);
        assert!(sent >= 4000 * BYTES_PER_SPREAD, "whoever reads on is looked ahead for again");
    }

    #[test]
    fn looks_that_find_nothing_come_to_an_end() {
        let mut neighbourhood = Neighbourhood::default();
        let mut looks = 0;
        for inode in 1000..5000 {
            if let Miss::Look(look) = miss(&mut neighbourhood, inode) {
                looks += 1;
                neighbourhood.sent(&look, 0);
            }
        }
        assert!((10..100).contains(&looks), "{looks}");
    }

    fn chunk(pack: u64, offset: u32) -> ChunkRef {
        let pack = PackNumber(pack);
        ChunkRef { pack, chunk: 0, offset, sealed_len: 10, compressed: false }
    }

    #[test]
    fn files_are_taken_to_both_sides_within_the_bound_and_those_here_cost_nothing() {
        let files = |here: u32| -> Vec<Missing> {
            let missing = |n| if n < here { Vec::new() } else { vec![chunk(1, n * 10)] };
            (0..10).map(|n| (Inode(100 + u64::from(n)), missing(n))).collect()
        };
        let taken = |inode, bytes, here| around(&files(here), Inode(inode), bytes);
        assert_eq!(taken(105, 50, 0), 3..8);
        assert_eq!(taken(105, 9, 0), 5..5);
        assert_eq!(taken(105, 50, 5), 0..10);
        assert_eq!(taken(105, 20, 3), 4..6);
        assert_eq!(taken(99, 30, 0), 0..3);
        assert_eq!(taken(200, 30, 0), 7..10);
        assert_eq!(around(&[], Inode(5), 100), 0..0);
    }

    #[test]
    fn of_files_that_lie_scattered_no_more_are_taken_than_few_requests_fetch() {
        let files: Vec<Missing> = (0..1000).map(|n| (Inode(n), vec![chunk(n, 0)])).collect();
        let taken = around(&files, Inode(500), PLENTY);
        assert!(
            taken.contains(&500) && (REQUESTS_MAX / 2 - 1..=REQUESTS_MAX).contains(&taken.len())
        );
        assert_eq!(around(&files, Inode(0), PLENTY).start, 0);
    }
}
