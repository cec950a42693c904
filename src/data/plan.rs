//! Which chunks are asked for together: neighbours in a pack become one request.

use std::ops::Range;

use super::chunk::ChunkRef;
use super::readahead::AHEAD_BYTES;
use crate::base::{KIB, MIB, PackNumber};

/// Bytes between two chunks that are fetched along rather than paid with a request of their own.
pub(super) const GAP_MAX: u64 = 64 * KIB;
/// Longest request in bytes: what is read ahead at once, with its tags.
pub(super) const REQUEST_MAX: u64 = AHEAD_BYTES + 64 * KIB;
/// Large reads that somebody waits for are split over several requests, but not below this many
/// bytes: the kernel's largest read (1 MiB) with its tags stays whole.
pub(super) const REQUEST_SPLIT_MIN: u64 = MIB + 64 * KIB;

/// Something that stands for a chunk.
pub(super) trait Wanted {
    fn chunk(&self) -> &ChunkRef;
}

/// Chunks of one pack in order of their offset, none overlapping, to be fetched in one request.
#[derive(Debug)]
pub(super) struct Run<T> {
    pub(super) pack: PackNumber,
    /// Bytes of the object from the first chunk's start to the last one's end.
    pub(super) range: Range<u64>,
    pub(super) wanted: Vec<T>,
}

/// The length that spreads `total` bytes over `parallel` requests.
pub(super) fn request_len(total: u64, parallel: usize) -> u64 {
    (total / parallel.max(1) as u64).clamp(REQUEST_SPLIT_MIN, REQUEST_MAX)
}

/// Merges neighbours into runs of at most `len_max` bytes (one chunk may be longer).
pub(super) fn plan<T: Wanted>(mut wanted: Vec<T>, len_max: u64) -> Vec<Run<T>> {
    wanted.sort_by_key(|wanted| (wanted.chunk().pack, wanted.chunk().offset));
    let mut runs: Vec<Run<T>> = Vec::new();
    for next in wanted {
        let chunk = *next.chunk();
        let range = chunk.range();
        if let Some(run) = runs.last_mut() {
            let follows = run.pack == chunk.pack
                && (run.range.end..=run.range.end + GAP_MAX).contains(&range.start)
                && range.end - run.range.start <= len_max;
            if follows {
                run.range.end = range.end;
                run.wanted.push(next);
                continue;
            }
        }
        runs.push(Run { pack: chunk.pack, range, wanted: vec![next] });
    }
    runs
}

impl Wanted for ChunkRef {
    fn chunk(&self) -> &ChunkRef {
        self
    }
}

/// How many requests fetch `chunks` ahead.
pub fn requests_for(chunks: impl IntoIterator<Item = ChunkRef>) -> usize {
    let mut wanted: Vec<_> = chunks.into_iter().collect();
    wanted.sort_by_key(|chunk| (chunk.pack, chunk.offset));
    wanted.dedup();
    plan(wanted, REQUEST_MAX).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(pack: u64, offset: u32, sealed_len: u32) -> ChunkRef {
        ChunkRef { pack: PackNumber(pack), chunk: 0, offset, sealed_len, compressed: false }
    }

    fn ranges(wanted: Vec<ChunkRef>, len_max: u64) -> Vec<(u64, Range<u64>)> {
        plan(wanted, len_max).into_iter().map(|run| (run.pack.0, run.range)).collect()
    }

    #[test]
    fn neighbours_merge_in_any_order_and_packs_stay_apart() {
        let wanted = vec![chunk(1, 300, 100), chunk(2, 400, 9), chunk(1, 100, 100)];
        assert_eq!(ranges(wanted, REQUEST_MAX), [(1, 100..400), (2, 400..409)]);
    }

    #[test]
    fn wide_gaps_overlaps_and_long_requests_split() {
        let gap = GAP_MAX as u32;
        assert_eq!(ranges(vec![chunk(1, 0, 10), chunk(1, 10 + gap, 10)], 1 << 20).len(), 1);
        assert_eq!(ranges(vec![chunk(1, 0, 10), chunk(1, 11 + gap, 10)], 1 << 20).len(), 2);
        assert_eq!(ranges(vec![chunk(1, 0, 10), chunk(1, 9, 10)], 1 << 20).len(), 2);
        let long = (0..10).map(|i| chunk(1, i * 100, 100)).collect();
        assert_eq!(ranges(long, 300), [(1, 0..300), (1, 300..600), (1, 600..900), (1, 900..1000)]);
    }

    #[test]
    fn chunks_that_several_files_share_are_one_request() {
        let shared = [chunk(1, 0, 10), chunk(1, 10, 10), chunk(1, 0, 10), chunk(2, 0, 10)];
        assert_eq!((requests_for(shared), requests_for([])), (2, 0));
    }
}
