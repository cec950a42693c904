//! Small files that were written together are read together.
//!
//! A tree read file by file would cost a request for each. Files made one after
//! the other have neighbouring inode numbers and lie side by side in a pack; so
//! when a second small file near the last one is not in memory, the content of
//! the small files around it is fetched, in a few long requests. Whoever goes on
//! reading there gets more each time. Readers of others among these files wait
//! until they are sent for, and then for them, rather than ask for their own.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::Shared;
use tokio::sync::oneshot;

use super::FileSystem;
use super::core::Attempt;
use crate::base::{Inode, KIB, PackNumber};
use crate::data::{ChunkRef, PackSeal};
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

/// Less room than this is left to those who read ahead in one file.
const ROOM_MIN: u64 = SPREAD_MIN * BYTES_PER_SPREAD;

/// Most block map pages that one look takes in: a large file in between ends it.
const PAGES_MAX: usize = 3 * SPREAD_MAX as usize;

/// How long a reader waits for a look. Metadata that takes longer is no help.
const LOOK_WAIT_MAX: Duration = Duration::from_millis(500);

/// Ends when what a look found is sent for, however that went.
type Looking = Shared<oneshot::Receiver<()>>;

/// Where small files were last read.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    last: Option<Inode>,
    /// How far to look next time.
    spread: u64,
    sent: Option<Sent>,
}

/// Inodes whose content was last sent for, first to last.
#[derive(Debug)]
struct Sent {
    inodes: (Inode, Inode),
    looking: Looking,
}

/// What to fetch with a small file that was not in memory.
#[derive(Debug)]
enum Miss {
    /// Nothing.
    Alone,
    /// It is on its way with others, once this has ended.
    Among(Looking),
    /// What is around it, and it with that, once this has ended.
    Look(Look, Looking),
}

#[derive(Debug)]
struct Look {
    inode: Inode,
    /// First to last.
    inodes: (Inode, Inode),
    bytes_max: u64,
    /// Dropped when all is sent for.
    done: oneshot::Sender<()>,
}

impl Neighbourhood {
    /// A small file was not in memory, and `free` bytes may be fetched ahead.
    fn on_miss(&mut self, inode: Inode, free: u64) -> Miss {
        let near = self.last.is_some_and(|last| last.0.abs_diff(inode.0) <= NEAR);
        self.last = Some(inode);
        if !near {
            self.spread = SPREAD_MIN;
        }
        let known = self.sent.as_ref();
        if let Some(sent) = known.filter(|sent| (sent.inodes.0..=sent.inodes.1).contains(&inode)) {
            return Miss::Among(sent.looking.clone());
        }
        if !near || free < ROOM_MIN {
            return Miss::Alone;
        }
        let spread = self.spread;
        let inodes = (Inode(inode.0.saturating_sub(spread)), Inode(inode.0.saturating_add(spread)));
        let (done, looking) = oneshot::channel();
        let looking = looking.shared();
        self.sent = Some(Sent { inodes, looking: looking.clone() });
        self.spread = (spread * SPREAD_GROWTH).min(SPREAD_MAX);
        let bytes_max = (spread * BYTES_PER_SPREAD).min(free);
        Miss::Look(Look { inode, inodes, bytes_max, done }, looking)
    }

    /// Of the inodes that a look took in, only these were sent for.
    fn narrow(&mut self, inodes: (Inode, Inode), sent_for: (Inode, Inode)) {
        if let Some(sent) = self.sent.as_mut().filter(|sent| sent.inodes == inodes) {
            sent.inodes = sent_for;
        }
    }
}

impl FileSystem {
    /// Fetches the small files around `inode`, which was not in memory, if that seems worth it, or
    /// waits until it is sent for with others.
    pub(super) async fn read_neighbours(&self, inode: Inode) {
        let free = self.inner.reader.room_ahead().free;
        let miss = self.inner.lock().neighbourhood.on_miss(inode, free);
        let looking = match miss {
            Miss::Alone => return,
            Miss::Among(looking) => looking,
            Miss::Look(look, looking) => {
                let fs = self.clone();
                // Goes on if this reader goes away: others may wait for it.
                drop(self.inner.runtime.spawn(async move { fs.look(look).await }));
                looking
            }
        };
        // Whether it ended or took too long: the reader goes on by itself.
        let _ = tokio::time::timeout(LOOK_WAIT_MAX, looking).await;
    }

    /// What cannot be read is left out: whoever reads it meets the error itself.
    async fn look(&self, look: Look) {
        let (from, to) = look.inodes;
        let start = Key::page(from, 0).as_bytes().to_vec();
        let end = Key::page(Inode(to.0.saturating_add(1)), 0).as_bytes().to_vec();
        let Ok(records) = self.inner.meta.scan(&start, &end, PAGES_MAX).await else { return };
        let mut files: Vec<(Inode, Vec<ChunkRef>)> = Vec::new();
        for (key, page) in &records {
            if let (Some(inode), Some(0)) = (Key::number(key, 0), Key::number(key, 1)) {
                files.push((Inode(inode), small(page)));
            }
        }
        let missing = |chunk: &ChunkRef| !self.inner.reader.is_coming(chunk);
        let taken = &files[around(&files, look.inode, look.bytes_max, missing)];
        let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return };
        let packs: HashSet<_> = taken.iter().flat_map(|(_, of)| of).map(|of| of.pack).collect();
        // Places are many, packs are few: only these are looked up under the lock.
        let seals = self.run(move |tx| {
            let seal = |pack: &PackNumber| Ok((*pack, tx.core().pack_seal(*pack)?));
            packs.iter().map(seal).collect::<Attempt<HashMap<PackNumber, PackSeal>>>()
        });
        let Ok(seals) = seals.wait().await else { return };
        let sealed = |chunk: &ChunkRef| Some((*chunk, *seals.get(&chunk.pack)?));
        self.inner
            .reader
            .prefetch(taken.iter().flat_map(|(_, of)| of).filter_map(sealed).collect());
        self.inner.lock().neighbourhood.narrow(look.inodes, (first.0, last.0));
        drop(look.done);
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

/// Which of `files`, in order of their inodes, to take: from `inode` on to both sides, as long as what is `missing`
/// of them is no more than `bytes_max`. What is here already costs nothing, so that who reads in
/// one direction gets what lies before him.
fn around(
    files: &[(Inode, Vec<ChunkRef>)],
    inode: Inode,
    bytes_max: u64,
    missing: impl Fn(&ChunkRef) -> bool,
) -> Range<usize> {
    let bytes = |file: usize| -> u64 {
        let chunks = files[file].1.iter().filter(|chunk| missing(chunk));
        chunks.map(|chunk| u64::from(chunk.sealed_len)).sum()
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
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: u64 = 1 << 30;

    /// The inodes that a miss looks at.
    fn looked_at(neighbourhood: &mut Neighbourhood, inode: u64) -> Option<(u64, u64)> {
        match neighbourhood.on_miss(Inode(inode), PLENTY) {
            Miss::Look(look, _) => Some((look.inodes.0.0, look.inodes.1.0)),
            Miss::Alone | Miss::Among(_) => None,
        }
    }

    #[test]
    fn misses_nearby_fetch_the_surroundings_once_and_then_more() {
        let mut neighbourhood = Neighbourhood::default();
        let mut at = |inode| looked_at(&mut neighbourhood, inode);
        assert_eq!(at(10_000), None);
        assert_eq!(at(90_000), None, "far away");
        let around = |inode, spread| Some((inode - spread, inode + spread));
        assert_eq!(at(90_010), around(90_010, SPREAD_MIN));
        assert_eq!(at(90_100), None, "on its way");
        let wider = SPREAD_MIN * SPREAD_GROWTH;
        assert_eq!(at(90_200), around(90_200, wider));
        assert_eq!(at(500), None, "far away");
    }

    #[test]
    fn readers_of_what_is_looked_for_wait_and_what_was_left_out_is_looked_for_again() {
        let mut neighbourhood = Neighbourhood::default();
        assert!(matches!(neighbourhood.on_miss(Inode(1000), PLENTY), Miss::Alone));
        let Miss::Look(look, _) = neighbourhood.on_miss(Inode(1001), PLENTY) else { panic!() };
        assert_eq!(look.bytes_max, SPREAD_MIN * BYTES_PER_SPREAD);
        let Miss::Among(looking) = neighbourhood.on_miss(Inode(1090), PLENTY) else { panic!() };
        assert!(looking.clone().now_or_never().is_none());
        neighbourhood.narrow(look.inodes, (Inode(995), Inode(1005)));
        drop(look.done);
        assert!(looking.now_or_never().is_some());
        assert!(matches!(neighbourhood.on_miss(Inode(1005), PLENTY), Miss::Among(_)));
        assert!(matches!(neighbourhood.on_miss(Inode(1006), ROOM_MIN - 1), Miss::Alone));
        assert!(matches!(neighbourhood.on_miss(Inode(1006), ROOM_MIN), Miss::Look(..)));
    }

    #[test]
    fn files_are_taken_to_both_sides_within_the_bound_and_those_here_cost_nothing() {
        let chunk = |chunk, sealed_len| ChunkRef {
            pack: PackNumber(1),
            chunk,
            offset: 0,
            sealed_len,
            compressed: false,
        };
        let files: Vec<_> = (0..10).map(|n| (Inode(100 + n), vec![chunk(n as u32, 10)])).collect();
        let taken = |inode, bytes, here: u32| {
            around(&files, Inode(inode), bytes, |chunk| chunk.chunk >= here)
        };
        assert_eq!(taken(105, 50, 0), 3..8);
        assert_eq!(taken(105, 9, 0), 5..5);
        assert_eq!(taken(105, 50, 5), 0..10);
        assert_eq!(taken(105, 20, 3), 4..6);
        assert_eq!(taken(99, 30, 0), 0..3);
        assert_eq!(taken(200, 30, 0), 7..10);
        assert_eq!(around(&[], Inode(5), 100, |_| true), 0..0);
    }
}
