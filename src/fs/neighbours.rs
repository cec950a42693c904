//! Small files that were written together are read together.
//!
//! A tree read file by file would cost a request for each. Files made one after
//! the other have neighbouring inode numbers and lie side by side in a pack; so
//! when a second small file near the last one is not in memory, the content of
//! the small files around it is fetched, in a few long requests. Whoever goes on
//! reading there gets more each time.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::FileSystem;
use super::core::Attempt;
use crate::base::{Inode, PackNumber};
use crate::data::{ChunkRef, PackSeal};
use crate::format::{Key, Page};

/// A file of no more blocks than this is small.
pub(super) const SMALL_FILE_BLOCKS: u64 = 16;

/// Inodes to each side of one that are looked at, the first time and at most.
const SPREAD_MIN: u64 = 128;
const SPREAD_MAX: u64 = 2048;

/// How much farther each look goes than the one before.
const SPREAD_GROWTH: u64 = 4;

/// Most block map pages that one look takes in: a large file in between ends it.
const PAGES_MAX: usize = 3 * SPREAD_MAX as usize;

/// Where small files were last read.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    last: Option<Inode>,
    /// How far to look next time.
    spread: u64,
    /// Inodes whose content was last sent for.
    fetched: Option<(Inode, Inode)>,
}

impl Neighbourhood {
    /// A small file was not in memory: the inodes, first to last, to fetch with it.
    fn on_miss(&mut self, inode: Inode) -> Option<(Inode, Inode)> {
        let near = self.last.is_some_and(|last| last.0.abs_diff(inode.0) <= SPREAD_MAX);
        self.last = Some(inode);
        if !near {
            self.spread = SPREAD_MIN;
        }
        // Inside what was sent for it is on its way, or too much for the cache.
        let known = self.fetched.is_some_and(|(from, to)| (from..=to).contains(&inode));
        if !near || known {
            return None;
        }
        let spread = self.spread;
        let range = (Inode(inode.0.saturating_sub(spread)), Inode(inode.0.saturating_add(spread)));
        self.fetched = Some(range);
        self.spread = (spread * SPREAD_GROWTH).min(SPREAD_MAX);
        Some(range)
    }
}

impl FileSystem {
    /// Fetches the small files around `inode`, which was not in memory, if that seems worth it.
    pub(super) fn read_neighbours(&self, inode: Inode) {
        let Some((from, to)) = self.inner.lock().neighbourhood.on_miss(inode) else { return };
        let fs = self.clone();
        // Whoever reads one of them meets the error itself.
        drop(self.inner.runtime.spawn(async move {
            let start = Key::page(from, 0).as_bytes().to_vec();
            let end = Key::page(Inode(to.0.saturating_add(1)), 0).as_bytes().to_vec();
            if let Ok(records) = fs.inner.meta.scan(&start, &end, PAGES_MAX).await {
                let places: Vec<_> = records.iter().flat_map(|(_, page)| small(page)).collect();
                let packs: HashSet<_> = places.iter().map(|chunk| chunk.pack).collect();
                // Places are many, packs are few: only these are looked up under the lock.
                let seals = fs.run(move |tx| {
                    let seal = |pack: &PackNumber| Ok((*pack, tx.core().pack_seal(*pack)?));
                    packs.iter().map(seal).collect::<Attempt<HashMap<PackNumber, PackSeal>>>()
                });
                if let Ok(seals) = seals.wait().await {
                    let sealed = |chunk: ChunkRef| Some((chunk, *seals.get(&chunk.pack)?));
                    fs.inner.reader.prefetch(places.into_iter().filter_map(sealed).collect());
                }
            }
        }));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_nearby_fetch_the_surroundings_once_and_then_more() {
        let mut neighbourhood = Neighbourhood::default();
        assert_eq!(neighbourhood.on_miss(Inode(10_000)), None);
        assert_eq!(neighbourhood.on_miss(Inode(90_000)), None, "far away");
        let around = |inode, spread| Some((Inode(inode - spread), Inode(inode + spread)));
        assert_eq!(neighbourhood.on_miss(Inode(90_010)), around(90_010, SPREAD_MIN));
        assert_eq!(neighbourhood.on_miss(Inode(90_100)), None, "on its way");
        let wider = SPREAD_MIN * SPREAD_GROWTH;
        assert_eq!(neighbourhood.on_miss(Inode(90_200)), around(90_200, wider));
        assert_eq!(neighbourhood.on_miss(Inode(500)), None, "far away");
    }
}
