//! Records that were made together are looked up together.
//!
//! A tree that is walked cold would cost a request for each block of the engine's tables, one after
//! the other. So when a second directory entry or inode near the last one has to be loaded, those
//! around it are scanned: that takes few, longer requests, and leaves the blocks in the engine's
//! cache, where the loads that follow find them. Whoever goes on there gets more each time.

use std::collections::VecDeque;
use std::time::Duration;

use super::system::Inner;
use crate::base::Inode;
use crate::format::{Key, KeyKind};

/// Numbers of inodes that are near each other: a walk in the order of directories meets those made
/// together one here, one there.
const NEAR: u64 = 8192;

/// Inodes to each side that a scan takes in, the first time and at most: some 500 KiB then.
const SPREAD_MIN: u64 = 256;
const SPREAD_MAX: u64 = 2048;

/// How much farther each scan goes than the one before.
const SPREAD_GROWTH: u64 = 8;

/// Most records of one scan.
const RECORDS_MAX: usize = 2 * SPREAD_MAX as usize;

/// Scans remembered: a walk goes up and down between directories.
const SCANS_MAX: usize = 16;

/// How long a load waits for a scan. Metadata that takes longer is no help.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Where records were last loaded.
#[derive(Debug, Default)]
pub(super) struct RecordsAhead {
    entries: Front,
    inodes: Front,
}

/// Of one kind of record.
#[derive(Debug, Default)]
struct Front {
    last: Option<u64>,
    spread: u64,
    /// Inodes that were scanned for, first to last, the latest scan first.
    scanned: VecDeque<(u64, u64)>,
}

impl Front {
    /// The inodes to scan for, first to last.
    fn on_load(&mut self, number: u64) -> Option<(u64, u64)> {
        let near = self.last.is_some_and(|last| last.abs_diff(number) <= NEAR);
        let known = self.scanned.iter().any(|(from, to)| (from..=to).contains(&&number));
        self.last = Some(number);
        if !near {
            self.spread = SPREAD_MIN;
        }
        if !near || known {
            return None;
        }
        let (from, to) = (number.saturating_sub(self.spread), number.saturating_add(self.spread));
        self.spread = (self.spread * SPREAD_GROWTH).min(SPREAD_MAX);
        self.scanned.truncate(SCANS_MAX - 1);
        self.scanned.push_front((from, to));
        Some((from, to))
    }

    /// A scan for `inodes` went no further than `to`. Its first half counts as scanned all the same: there would be
    /// no end of scans where records are many.
    fn ended(&mut self, inodes: (u64, u64), to: u64) {
        if let Some(scanned) = self.scanned.iter_mut().find(|scanned| **scanned == inodes) {
            scanned.1 = to.max(inodes.0.midpoint(inodes.1));
        }
    }
}

impl RecordsAhead {
    fn front(&mut self, kind: KeyKind) -> Option<&mut Front> {
        match kind {
            KeyKind::Entry => Some(&mut self.entries),
            KeyKind::Inode => Some(&mut self.inodes),
            _ => None,
        }
    }

    /// `key` has to be loaded: the kind of record and the inodes, first to last, to scan before.
    pub fn on_load(&mut self, key: &Key) -> Option<(KeyKind, u64, u64)> {
        let mut kinds = [KeyKind::Entry, KeyKind::Inode].into_iter();
        let kind = kinds.find(|kind| key.as_bytes().first() == Some(&(*kind as u8)))?;
        let number = Key::number(key.as_bytes(), 0)?;
        self.front(kind)?.on_load(number).map(|(from, to)| (kind, from, to))
    }
}

impl Inner {
    /// Has the engine read records. What cannot be read shows when it is needed.
    pub(super) async fn scan_ahead(&self, (kind, from, to): (KeyKind, u64, u64)) {
        let key = |number| match kind {
            KeyKind::Entry => Key::entry(Inode(number), 0),
            _ => Key::inode(Inode(number)),
        };
        let (start, end) = (key(from), key(to.saturating_add(1)));
        let scan = self.meta.scan(start.as_bytes(), end.as_bytes(), RECORDS_MAX);
        let Ok(Ok(records)) = tokio::time::timeout(WAIT_MAX, scan).await else { return };
        let last = records.last().filter(|_| records.len() == RECORDS_MAX);
        if let Some(reached) = last.and_then(|(key, _)| Key::number(key, 0))
            && let Some(front) = self.lock().records_ahead.front(kind)
        {
            front.ended((from, to), reached);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_nearby_scan_the_surroundings_once_and_then_more() {
        let mut front = Front::default();
        assert_eq!(front.on_load(1000), None);
        assert_eq!(front.on_load(50_000), None, "far away");
        assert_eq!(front.on_load(50_300), Some((50_300 - SPREAD_MIN, 50_300 + SPREAD_MIN)));
        assert_eq!(front.on_load(50_100), None, "was scanned");
        assert_eq!(front.on_load(50_300 + SPREAD_MIN), None);
        let next = 50_301 + SPREAD_MIN;
        assert_eq!(front.on_load(next), Some((next - SPREAD_MAX, next + SPREAD_MAX)));
        front.ended((next - SPREAD_MAX, next + SPREAD_MAX), next + 10);
        assert_eq!(front.on_load(next + 10), None);
        assert!(front.on_load(next + 11).is_some(), "the scan came only so far");
        assert_eq!(front.on_load(50_100), None, "still known");
    }

    #[test]
    fn dense_records_are_scanned_once_although_the_scan_does_not_reach_what_was_asked_for() {
        let mut front = Front { last: Some(5000), spread: SPREAD_MAX, ..Front::default() };
        let inodes = front.on_load(5001).unwrap();
        front.ended(inodes, 3500);
        for number in 4000..=5001 {
            assert_eq!(front.on_load(number), None);
        }
    }

    #[test]
    fn entries_and_inodes_are_apart_and_other_records_are_left_alone() {
        let mut ahead = RecordsAhead::default();
        let inode = |number| Key::inode(Inode(number));
        assert_eq!(ahead.on_load(&inode(700)), None);
        assert_eq!(ahead.on_load(&Key::page(Inode(701), 0)), None);
        assert_eq!(ahead.on_load(&Key::entry(Inode(701), 5)), None);
        let around = (KeyKind::Inode, 701 - SPREAD_MIN, 701 + SPREAD_MIN);
        assert_eq!(ahead.on_load(&inode(701)), Some(around));
        assert_eq!(ahead.on_load(&inode(702)), None);
    }
}
