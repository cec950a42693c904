//! What to fetch before it is asked for. Pure: no I/O, no clock.
//!
//! ```text
//!  start            next        next + window
//!    |---- read -----|---- ahead ----|
//!                    `- reads from a little before to a little behind here are the same stream
//! ```
//!
//! One [`ReadAhead`] stands behind an open file. It follows a few streams at
//! once, so that two readers of one handle, or a reader and a seeker, do not
//! end each other's. The kernel sends the parts of one read side by side, so
//! they may arrive out of order.
//!
//! Invariants: a stream never asks for a byte twice; what one asks for in all
//! is at most twice what was read from it, and one window.

use std::ops::Range;

use crate::base::{KIB, MIB};

/// First window in bytes; it doubles with each request.
const WINDOW_MIN: u64 = 256 * KIB;
/// Largest window in bytes: a fifth of a second of a 100 MB/s line, over several connections.
const WINDOW_MAX: u64 = 16 * MIB;
/// How far from the stream's front a read may be and still belong to it: the requests of the
/// kernel's own read-ahead that may be under way at once.
const NEAR: u64 = MIB;
/// Streams followed at once.
const STREAMS_MAX: usize = 4;

/// Watches the reads of one open file.
#[derive(Debug, Clone, Default)]
pub struct ReadAhead {
    /// Most recently used first.
    streams: Vec<Stream>,
}

#[derive(Debug, Clone)]
struct Stream {
    start: u64,
    /// One past the furthest byte read.
    next: u64,
    /// Bytes read, at most `next - start`: below half of it the stream skips about.
    read: u64,
    reads: u32,
    /// One past the furthest byte asked for ahead.
    ahead: u64,
    window: u64,
}

impl ReadAhead {
    /// No reads so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a read of `len` bytes at `offset` of a file of `file_size` bytes. What to prefetch
    /// now, if anything: never empty, never past the end of the file.
    pub fn on_read(&mut self, offset: u64, len: u64, file_size: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len).min(file_size);
        if offset >= end {
            return None;
        }
        let Some(found) = self.streams.iter().position(|stream| stream.owns(offset)) else {
            self.streams.truncate(STREAMS_MAX - 1);
            self.streams.insert(0, Stream::new(offset, end));
            return None;
        };
        self.streams[..=found].rotate_right(1);
        let (stream, others) = self.streams.split_first_mut()?;
        stream.note(offset, end);
        // What another stream has asked for already is on its way.
        let wanted = stream.wanted(file_size)?;
        let start = others.iter().fold(wanted.start, |start, other| {
            if (other.next..other.ahead).contains(&start) { other.ahead } else { start }
        });
        stream.ahead = wanted.end;
        stream.window = (stream.window * 2).min(WINDOW_MAX);
        (start < wanted.end).then_some(start..wanted.end)
    }
}

impl Stream {
    fn new(start: u64, next: u64) -> Self {
        Self { start, next, read: next - start, reads: 1, ahead: 0, window: WINDOW_MIN }
    }

    fn owns(&self, offset: u64) -> bool {
        let from = self.next.saturating_sub(NEAR).max(self.start.saturating_sub(NEAR));
        (from..=self.next.saturating_add(NEAR)).contains(&offset)
    }

    fn note(&mut self, offset: u64, end: u64) {
        // The kernel's second request may arrive before its first.
        self.start = self.start.min(offset);
        self.next = self.next.max(end);
        self.read = (self.read + (end - offset)).min(self.next - self.start);
        self.reads = self.reads.saturating_add(1);
    }

    /// The next range to ask for, once half of the last one is used up.
    fn wanted(&self, file_size: u64) -> Option<Range<u64>> {
        let sequential = self.reads > 1 && self.read >= (self.next - self.start) / 2;
        let start = self.ahead.max(self.next);
        let end = self.next.saturating_add(self.window).min(file_size);
        let used_up = start - self.next <= self.window / 2;
        (sequential && used_up && start < end).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PART: u64 = 128 * KIB;

    /// Every range asked for while `offsets` are read, `PART` bytes each.
    fn ranges(offsets: impl IntoIterator<Item = u64>, size: u64) -> Vec<Range<u64>> {
        let mut ahead = ReadAhead::new();
        offsets.into_iter().filter_map(|offset| ahead.on_read(offset, PART, size)).collect()
    }

    fn total(ranges: &[Range<u64>]) -> u64 {
        ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Sequential offsets, each displaced by up to `window` places.
    fn shuffled(count: u64, window: usize, seed: u64) -> Vec<u64> {
        let mut offsets: Vec<u64> = (0..count).map(|part| part * PART).collect();
        let mut state = seed | 1;
        for group in offsets.chunks_mut(window) {
            for at in (1..group.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                group.swap(at, (state >> 33) as usize % (at + 1));
            }
        }
        offsets
    }

    #[test]
    fn window_doubles_from_256_kib_to_16_mib_and_stays_ahead() {
        let size = 1 << 40;
        let mut ahead = ReadAhead::new();
        let mut front = 0;
        let mut longest = 0;
        for part in 0..1000 {
            let next = (part + 1) * PART;
            if let Some(range) = ahead.on_read(part * PART, PART, size) {
                assert!(part > 0 && range.start == front.max(next));
                front = range.end;
                longest = longest.max(front - next);
            }
            assert!(part == 0 || front >= next + PART);
        }
        assert_eq!(longest, WINDOW_MAX);
    }

    #[test]
    fn first_read_and_random_reads_ask_for_nothing() {
        let size = 1 << 40;
        assert!(ranges([0], size).is_empty());
        let scattered = (0..1000).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 25);
        assert!(ranges(scattered, size).is_empty());
    }

    #[test]
    fn reading_again_from_the_start_asks_again() {
        let size = 64 * MIB;
        let pass = || (0..size / PART).map(|part| part * PART);
        let once = total(&ranges(pass(), size));
        assert_eq!(once, size - 2 * PART);
        let twice = total(&ranges(pass().chain(pass()), size));
        assert_eq!(twice, 2 * once);
    }

    #[test]
    fn interleaved_streams_each_get_their_own_window() {
        let size = 1 << 40;
        let streams = [0, 1 << 30, 2 << 30];
        let reads = (0..200).flat_map(|part| streams.map(|start| start + part * PART));
        let asked = ranges(reads, size);
        for start in streams {
            let own = asked.iter().filter(|range| range.start >> 30 == start >> 30).cloned();
            assert!(total(&own.collect::<Vec<_>>()) > 198 * PART);
        }
    }

    #[test]
    fn random_reads_between_do_not_end_a_stream() {
        let size = 1 << 40;
        let reads = (0..200).flat_map(|part: u64| {
            [part * PART, (1 << 35) + (part.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 28)]
        });
        assert!(total(&ranges(reads, size)) > 198 * PART);
    }

    proptest! {
        #[test]
        fn sequential_reads_out_of_order_are_covered_once(
            count in 16u64..600, window in 1usize..6, seed: u64,
        ) {
            let size = count * PART - 1000;
            let asked = ranges(shuffled(count, window, seed), size);
            for pair in asked.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
            }
            prop_assert_eq!(asked.last().map(|range| range.end), Some(size));
            // All but the start and what overtook the window while it was small.
            prop_assert!(total(&asked) + 16 * PART >= size);
        }

        #[test]
        fn whatever_is_read_waste_is_bounded_and_ranges_lie_in_the_file(
            reads in proptest::collection::vec((0u64..8 * MIB, 1u64..MIB), 1..300),
            size in 1u64..8 * MIB,
        ) {
            let mut ahead = ReadAhead::new();
            let (mut read, mut asked, mut streams) = (0, 0, 1);
            for (offset, len) in reads {
                if let Some(range) = ahead.on_read(offset, len, size) {
                    prop_assert!(range.start < range.end && range.end <= size);
                    asked += range.end - range.start;
                } else {
                    streams += 1;
                }
                read += len;
            }
            prop_assert!(asked <= 2 * read + streams * WINDOW_MAX);
        }

        #[test]
        fn extreme_offsets_never_overflow(
            reads in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..50), size: u64,
        ) {
            let mut ahead = ReadAhead::new();
            for (offset, len) in reads {
                if let Some(range) = ahead.on_read(offset, len, size) {
                    prop_assert!(range.start < range.end && range.end <= size);
                }
                ahead.on_read(u64::MAX - 1, u64::MAX, u64::MAX);
            }
        }
    }
}
