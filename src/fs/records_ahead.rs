//! Records that were made together are looked up together.
//!
//! A tree that is walked cold would cost a request for each block of the engine's tables, one after
//! the other. So when a second directory entry or inode near the last one has to be loaded, those
//! around it are scanned: that takes few, longer requests, and leaves the blocks in the engine's
//! cache, where the loads that follow find them. Whoever goes on there gets more each time.
//!
//! Invariant: one scan of each kind of record is under way at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
pub(super) struct RecordsAhead(Mutex<Fronts>);

#[derive(Debug, Default)]
struct Fronts {
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
    /// The latest of them is under way.
    scanning: bool,
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
        if !near || known || self.scanning {
            return None;
        }
        self.scanning = true;
        let (from, to) = (number.saturating_sub(self.spread), number.saturating_add(self.spread));
        self.spread = (self.spread * SPREAD_GROWTH).min(SPREAD_MAX);
        self.scanned.truncate(SCANS_MAX - 1);
        self.scanned.push_front((from, to));
        Some((from, to))
    }

    /// The scan has ended, no further than `reached`; `None` if it failed, and is forgotten. If there were too many
    /// records, its first half counts as scanned all the same: there would be no end of scans.
    fn ended(&mut self, reached: Option<u64>) {
        self.scanning = false;
        if let Some((from, to)) = self.scanned.pop_front()
            && let Some(reached) = reached
        {
            self.scanned.push_front((from, reached.clamp(from.midpoint(to), to)));
        }
    }
}

impl Fronts {
    fn front(&mut self, kind: KeyKind) -> &mut Front {
        if kind == KeyKind::Entry { &mut self.entries } else { &mut self.inodes }
    }
}

impl RecordsAhead {
    fn lock(&self) -> MutexGuard<'_, Fronts> {
        // Nothing under this lock panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `key` has to be loaded: the kind of record and the inodes, first to last, to scan before.
    fn on_load(&self, key: &Key) -> Option<(KeyKind, u64, u64)> {
        let mut kinds = [KeyKind::Entry, KeyKind::Inode].into_iter();
        let kind = kinds.find(|kind| key.as_bytes().first() == Some(&(*kind as u8)))?;
        let number = Key::number(key.as_bytes(), 0)?;
        self.lock().front(kind).on_load(number).map(|(from, to)| (kind, from, to))
    }
}

impl Inner {
    /// `key` has to be loaded: has the engine read those around it if that seems worth it. What
    /// cannot be read shows when it is needed.
    pub(super) async fn scan_ahead(&self, key: &Key) {
        let Some((kind, from, to)) = self.records_ahead.on_load(key) else { return };
        let (meta, ahead) = (self.meta.clone(), self.records_ahead.clone());
        let scan = self.runtime.spawn(async move {
            let key = |number| match kind {
                KeyKind::Entry => Key::entry(Inode(number), 0),
                _ => Key::inode(Inode(number)),
            };
            let (start, end) = (key(from), key(to.saturating_add(1)));
            let scan = meta.scan(start.as_bytes(), end.as_bytes(), RECORDS_MAX);
            let reached = scan.await.ok().map(|records| {
                let last = records.last().filter(|_| records.len() == RECORDS_MAX);
                last.and_then(|(key, _)| Key::number(key, 0)).unwrap_or(to)
            });
            ahead.lock().front(kind).ended(reached);
        });
        // Whether it ended or takes too long, when it goes on: the load goes on by itself.
        let _ = tokio::time::timeout(WAIT_MAX, scan).await;
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
        assert_eq!(front.on_load(51_000), None, "one at a time");
        front.ended(Some(50_300 + SPREAD_MIN));
        assert_eq!(front.on_load(50_100), None, "was scanned");
        assert_eq!(front.on_load(50_300 + SPREAD_MIN), None);
        let next = 50_301 + SPREAD_MIN;
        assert_eq!(front.on_load(next), Some((next - SPREAD_MAX, next + SPREAD_MAX)));
        front.ended(Some(next + 10));
        assert_eq!(front.on_load(next + 10), None);
        assert!(front.on_load(next + 11).is_some(), "the scan came only so far");
        assert_eq!(front.on_load(50_100), None, "still known");
    }

    #[test]
    fn dense_records_are_scanned_once_although_the_scan_does_not_reach_what_was_asked_for() {
        let mut front = Front { last: Some(5000), spread: SPREAD_MAX, ..Front::default() };
        assert!(front.on_load(5001).is_some());
        front.ended(Some(3500));
        for number in 4000..=5001 {
            assert_eq!(front.on_load(number), None);
        }
    }

    #[test]
    fn failed_scan_is_tried_again() {
        let mut front = Front { last: Some(5000), ..Front::default() };
        front.spread = SPREAD_MIN;
        assert!(front.on_load(5001).is_some());
        front.ended(None);
        assert!(front.on_load(5002).is_some());
        front.ended(Some(5002 + SPREAD_MAX));
        assert_eq!(front.on_load(5003), None);
    }

    #[test]
    fn entries_and_inodes_are_apart_and_other_records_are_left_alone() {
        let ahead = RecordsAhead::default();
        let inode = |number| Key::inode(Inode(number));
        assert_eq!(ahead.on_load(&inode(700)), None);
        assert_eq!(ahead.on_load(&Key::page(Inode(701), 0)), None);
        assert_eq!(ahead.on_load(&Key::entry(Inode(701), 5)), None);
        let around = (KeyKind::Inode, 701 - SPREAD_MIN, 701 + SPREAD_MIN);
        assert_eq!(ahead.on_load(&inode(701)), Some(around));
        assert_eq!(ahead.on_load(&inode(702)), None);
    }
}
