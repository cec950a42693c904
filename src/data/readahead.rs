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
//! The window grows with what was read, so that who reads little has little
//! fetched for nothing. A large window is asked for in parts of [`AHEAD_BYTES`],
//! one request each, so that several are under way and a new one goes out as
//! soon as the reader has used up one.
//!
//! Invariants: a stream never asks for a byte twice; it asks for nothing
//! further ahead than [`GROWTH`] times what was read from it, nor than the
//! largest window. (The first window is [`WINDOW_MIN`] however little was read.)

use std::ops::Range;

use crate::base::{KIB, MIB};

/// First window in bytes.
const WINDOW_MIN: u64 = 256 * KIB;
/// Largest window in bytes, where there is [`Room`]: eight requests, which a fast line takes side by side.
const WINDOW_MAX: u64 = 32 * MIB;
/// How many times what was read may be asked for beyond it.
const GROWTH: u64 = 4;
/// What a large window is asked for in, in bytes of content: long enough that a request's own cost
/// does not count, short enough that a window is several.
pub(super) const AHEAD_BYTES: u64 = 4 * MIB;
/// How far from the stream's front a read may be and still belong to it: the requests of the
/// kernel's own read-ahead that may be under way at once.
const NEAR: u64 = MIB;
/// Streams followed at once.
const STREAMS_MAX: usize = 4;

/// What of the memory for read-ahead one stream may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Largest window.
    pub window_max: u64,
    /// What may be asked for now.
    pub free: u64,
}

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
    /// Those that made it longer.
    reads: u32,
    /// One past the furthest byte asked for ahead.
    ahead: u64,
}

impl ReadAhead {
    /// No reads so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a read of `len` bytes at `offset` of a file of `file_size` bytes. What to prefetch
    /// now, if anything: never empty, never past the end of the file, never more than is free.
    pub fn on_read(
        &mut self,
        offset: u64,
        len: u64,
        file_size: u64,
        room: Room,
    ) -> Option<Range<u64>> {
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
        let wanted = stream.wanted(file_size, room)?;
        let start = others.iter().fold(wanted.start, |start, other| {
            if (other.next..other.ahead).contains(&start) { other.ahead } else { start }
        });
        stream.ahead = wanted.end;
        (start < wanted.end).then_some(start..wanted.end)
    }
}

impl Stream {
    fn new(start: u64, next: u64) -> Self {
        Self { start, next, read: next - start, reads: 1, ahead: 0 }
    }

    fn owns(&self, offset: u64) -> bool {
        let from = self.next.saturating_sub(NEAR).max(self.start.saturating_sub(NEAR));
        (from..=self.next.saturating_add(NEAR)).contains(&offset)
    }

    fn note(&mut self, offset: u64, end: u64) {
        // What was read before says nothing of what comes next.
        self.reads = self.reads.saturating_add(u32::from(offset < self.start || end > self.next));
        // The kernel's second request may arrive before its first.
        self.start = self.start.min(offset);
        self.next = self.next.max(end);
        self.read = (self.read + (end - offset)).min(self.next - self.start);
    }

    /// The next range to ask for, once half of the last one or one request's worth is used up.
    fn wanted(&self, file_size: u64, room: Room) -> Option<Range<u64>> {
        let sequential = self.reads > 1 && self.read >= (self.next - self.start) / 2;
        let window = self.read.saturating_mul(GROWTH).clamp(WINDOW_MIN, WINDOW_MAX);
        let window = window.min(room.window_max);
        let part = (window / 2).clamp(1, AHEAD_BYTES);
        let front = self.next.saturating_add(window);
        // On the same places for each stream, which are those of packs in a file written at once.
        let aligned = if part == AHEAD_BYTES { front - front % AHEAD_BYTES } else { front };
        let start = self.ahead.max(self.next);
        // What is not free now is wanted again by the next read.
        let end = aligned.min(file_size).min(start.saturating_add(room.free - room.free % part));
        let due = start < end && (end - start >= part || end == file_size);
        (sequential && due).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PART: u64 = 128 * KIB;

    const PLENTY: Room = Room { window_max: 1 << 40, free: 1 << 40 };

    /// Every range asked for while `offsets` are read, `PART` bytes each.
    fn ranges(offsets: impl IntoIterator<Item = u64>, size: u64) -> Vec<Range<u64>> {
        let mut ahead = ReadAhead::new();
        let mut ask = |offset| ahead.on_read(offset, PART, size, PLENTY);
        offsets.into_iter().filter_map(&mut ask).collect()
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
    fn window_grows_with_what_was_read_to_32_mib_and_stays_ahead() {
        let size = 1 << 40;
        let mut ahead = ReadAhead::new();
        let mut front = 0;
        let mut longest = 0;
        for part in 0..1000 {
            let next = (part + 1) * PART;
            if let Some(range) = ahead.on_read(part * PART, PART, size, PLENTY) {
                assert!(part > 0 && range.start == front.max(next));
                front = range.end;
                longest = longest.max(front - next);
                assert!(front - next <= GROWTH * next);
            }
            assert!(part == 0 || front >= next + PART);
        }
        assert!(longest > WINDOW_MAX - AHEAD_BYTES && longest <= WINDOW_MAX);
    }

    #[test]
    fn large_window_is_asked_for_in_whole_aligned_parts() {
        let size = 256 * MIB + 1000;
        let asked = ranges((0..size / PART).map(|part| part * PART), size);
        let late: Vec<_> = asked.iter().filter(|range| range.start >= 64 * MIB).collect();
        let (last, whole) = late.split_last().unwrap();
        for range in whole {
            assert_eq!((range.start % AHEAD_BYTES, range.end - range.start), (0, AHEAD_BYTES));
        }
        assert_eq!(last.end, size);
        assert!(asked.len() < 256 / 4 + 12, "{}", asked.len());
    }

    #[test]
    fn what_is_not_free_is_asked_for_later_and_windows_keep_to_their_share() {
        let (size, window_max) = (1 << 40, 8 * MIB);
        let mut ahead = ReadAhead::new();
        let mut read =
            |part: u64, free| ahead.on_read(part * PART, PART, size, Room { window_max, free });
        assert_eq!(read(0, 0), None);
        assert_eq!(read(1, 3 * PART), None, "half of the window is 4 parts");
        assert_eq!(read(2, 12 * PART), Some(3 * PART..15 * PART));
        let mut front = 15 * PART;
        for part in 3..1000 {
            if let Some(range) = read(part, 5 * MIB) {
                assert_eq!(range.start, front);
                assert!(range.end - range.start <= 5 * MIB);
                front = range.end;
            }
            assert!(front <= (part + 1) * PART + window_max);
        }
        assert!(front > 1000 * PART + window_max - AHEAD_BYTES - PART);
        for part in 1000..2000 {
            assert_eq!(read(part, MIB), None);
        }
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
                if let Some(range) = ahead.on_read(offset, len, size, PLENTY) {
                    prop_assert!(range.start < range.end && range.end <= size);
                    asked += range.end - range.start;
                } else {
                    streams += 1;
                }
                read += len;
            }
            // What was skipped, at most as much as was read, may have been asked for, too.
            prop_assert!(asked <= (2 + GROWTH) * read + streams * WINDOW_MIN);
        }

        #[test]
        fn extreme_offsets_never_overflow(
            reads in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..50), size: u64,
            (window_max, free) in (any::<u64>(), any::<u64>()),
        ) {
            let room = Room { window_max, free };
            let mut ahead = ReadAhead::new();
            for (offset, len) in reads {
                if let Some(range) = ahead.on_read(offset, len, size, room) {
                    prop_assert!(range.start < range.end && range.end <= size);
                    prop_assert!(range.end - range.start <= room.free);
                }
                ahead.on_read(u64::MAX - 1, u64::MAX, u64::MAX, room);
            }
        }
    }
}
