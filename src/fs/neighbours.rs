//! Small files that were written together are read together.
//!
//! A tree read file by file would cost a request for each. Files made one after
//! the other have neighbouring inode numbers and lie side by side in a pack; so
//! when a second small file near the last one is not in memory, the content of
//! all small files around it is fetched, in a few long requests.

use bytes::Bytes;

use super::FileSystem;
use crate::base::Inode;
use crate::data::{ChunkRef, PackSeal};
use crate::format::{Key, Page};

/// Inodes to each side of one that are looked at.
const SPREAD: u64 = 512;

/// Most block map pages that one look takes in: a large file in between ends it.
const PAGES_MAX: usize = 3 * SPREAD as usize;

/// Where small files were last read.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    last: Option<Inode>,
    /// Inodes whose content was last sent for.
    fetched: Option<(Inode, Inode)>,
}

impl Neighbourhood {
    /// A small file was not in memory: the inodes, first to last, to fetch with it.
    fn on_miss(&mut self, inode: Inode) -> Option<(Inode, Inode)> {
        let near = self.last.is_some_and(|last| last.0.abs_diff(inode.0) <= SPREAD);
        self.last = Some(inode);
        // Inside what was sent for it is on its way, or too much for the cache.
        let known = self.fetched.is_some_and(|(from, to)| (from..=to).contains(&inode));
        if !near || known {
            return None;
        }
        let range = (Inode(inode.0.saturating_sub(SPREAD)), Inode(inode.0.saturating_add(SPREAD)));
        self.fetched = Some(range);
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
                let places: Vec<_> = records.iter().filter_map(|(_, page)| small(page)).collect();
                let seals = fs.run(move |tx| {
                    let seal = |chunk: ChunkRef| Ok((chunk, tx.core().pack_seal(chunk.pack)?));
                    places.iter().copied().map(seal).collect()
                });
                if let Ok(chunks) = seals.wait().await {
                    let chunks: Vec<(ChunkRef, PackSeal)> = chunks;
                    fs.inner.reader.prefetch(chunks);
                }
            }
        }));
    }
}

/// The chunk of a file that has one block, in one fragment of a pack.
fn small(page: &Bytes) -> Option<ChunkRef> {
    let page = Page::decode(page).ok()?;
    let mut blocks = page.blocks();
    match (blocks.next(), blocks.next()) {
        (Some((0, [fragment])), None) => ChunkRef::from_place(&fragment.place).map(|(c, _)| c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_miss_nearby_fetches_the_surroundings_once() {
        let mut neighbourhood = Neighbourhood::default();
        assert_eq!(neighbourhood.on_miss(Inode(10_000)), None);
        assert_eq!(neighbourhood.on_miss(Inode(90_000)), None, "far away");
        let range = (Inode(90_010 - SPREAD), Inode(90_010 + SPREAD));
        assert_eq!(neighbourhood.on_miss(Inode(90_010)), Some(range));
        assert_eq!(neighbourhood.on_miss(Inode(90_300)), None, "on its way");
        assert!(neighbourhood.on_miss(Inode(90_600)).is_some());
    }
}
