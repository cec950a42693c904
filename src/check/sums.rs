//! The volume's counters against the sums of the records, and the notes of unswept packs.

use bytes::Bytes;

use super::cursor::Cursor;
use super::{Check, CheckError, Problem, Repair};
use crate::base::{CommitNumber, PackNumber, WriterEpoch};
use crate::format::{Counters, Key, KeyKind, NUMBER_MAX, Space, UnsweptRecord};

/// Numbers that stay unused when the next one has to be guessed: programs may have seen them.
const INODES_SKIPPED: u64 = 1 << 20;

impl Check<'_> {
    pub(super) async fn sums(&mut self) -> Result<(), CheckError> {
        self.report.records += 1;
        let value = self.meta.get(Key::counters().as_bytes()).await?;
        let (start, end) = Key::range_of(KeyKind::Counters);
        let mut cursor = Cursor::over(self.meta, (start, end));
        while let Some((key, _)) = cursor.next().await? {
            if key != *Key::counters().as_bytes() {
                self.unknown(key);
            }
        }
        let counted = self.counted();
        self.report.counted = counted;
        match value.and_then(|value| Counters::decode(&value).ok()) {
            Some(recorded) => self.judge_counters(&recorded, counted),
            None => self.report.add(Problem::NoCounters, Repair::Counters(counted)),
        }
        let to = counted.next_pack.writer();
        self.unswept(to).await
    }

    /// The counters as the records have them.
    fn counted(&self) -> Counters {
        let packs = &self.packs.used;
        let freed = &self.packs.freed;
        let births = packs.iter().map(|pack| pack.birth);
        let commits = births.chain(freed.values().map(|freed| freed.commit));
        let commit = commits.filter(|commit| commit.0 <= NUMBER_MAX).max();
        let last = packs.last().map(|pack| pack.number);
        let last = last.max(freed.last_key_value().map(|(pack, _)| *pack)).unwrap_or_default();
        Counters {
            commit: commit.unwrap_or(CommitNumber(1)),
            next_inode: self.inode_max.0.saturating_add(1).saturating_add(INODES_SKIPPED),
            inodes: self.inodes.nodes.len() as u64,
            bytes: sum(self.inodes.nodes.iter().map(|node| node.allocated)),
            next_pack: PackNumber::new(last.writer(), 0).unwrap_or(last),
            space: Space {
                packs: packs.len() as u64,
                pack_bytes: sum(packs.iter().map(|pack| pack.size)),
                content_bytes: sum(packs.iter().map(|pack| pack.content)),
                live_bytes: sum(packs.iter().map(|pack| pack.live)),
                freed_packs: freed.len() as u64,
                freed_bytes: sum(freed.values().map(|freed| freed.size)),
            },
        }
    }

    fn judge_counters(&mut self, recorded: &Counters, counted: Counters) {
        let inodes_decode = self.inodes.nodes.iter().all(|node| node.kind.is_some());
        let packs_decode = self.packs.used.iter().all(|pack| pack.damage.is_none());
        let freed_decode = self.packs.freed.values().all(|freed| freed.damage.is_none());
        let mut right = Counters { next_inode: recorded.next_inode, ..counted };
        let mut wrong = Vec::new();
        let mut compare = |what, recorded: u64, found: &mut u64, is_known: bool| {
            if recorded != *found && is_known {
                wrong.push(Problem::WrongCounter { what, recorded, found: *found });
            }
            if !is_known {
                *found = recorded;
            }
        };
        let (has, is) = (&recorded.space, &mut right.space);
        compare("the number of inodes", recorded.inodes, &mut right.inodes, true);
        compare("bytes of content", recorded.bytes, &mut right.bytes, inodes_decode);
        compare("the number of packs", has.packs, &mut is.packs, true);
        compare("bytes of packs", has.pack_bytes, &mut is.pack_bytes, packs_decode);
        compare("content of packs", has.content_bytes, &mut is.content_bytes, packs_decode);
        compare("live bytes of packs", has.live_bytes, &mut is.live_bytes, packs_decode);
        compare("the number of freed packs", has.freed_packs, &mut is.freed_packs, true);
        compare("bytes of freed packs", has.freed_bytes, &mut is.freed_bytes, freed_decode);
        if !(self.inode_max.0.saturating_add(1)..=NUMBER_MAX).contains(&recorded.next_inode) {
            let (recorded, found) = (recorded.next_inode, counted.next_inode);
            wrong.push(Problem::WrongCounter { what: "the next inode number", recorded, found });
            right.next_inode = found;
        }
        if recorded.next_pack.writer() < counted.next_pack.writer() {
            let (recorded, found) = (recorded.next_pack.0, counted.next_pack.0);
            wrong.push(Problem::WrongCounter { what: "the next pack number", recorded, found });
        } else {
            right.next_pack = recorded.next_pack;
        }
        if (counted.commit.0..=NUMBER_MAX).contains(&recorded.commit.0) {
            right.commit = recorded.commit;
        } else {
            let (recorded, found) = (recorded.commit.0, counted.commit.0);
            wrong.push(Problem::WrongCounter { what: "the number of the commit", recorded, found });
        }
        for problem in wrong {
            self.report.add(problem, Repair::Counters(right));
        }
    }

    /// Notes of packs to be swept; `to` is a writer whose packs have records.
    async fn unswept(&mut self, to: WriterEpoch) -> Result<(), CheckError> {
        let mut cursor = Cursor::of(self.meta, KeyKind::Unswept);
        while let Some(([from], value)) = self.next(&mut cursor).await? {
            let from = PackNumber(from);
            let record = UnsweptRecord::decode(&value).ok();
            if record.is_none_or(|record| record.to <= from.writer()) {
                let note = (to > from.writer()).then(|| UnsweptRecord { to }.encode());
                let repair = Repair::Set(vec![(Key::unswept(from), note.map(Bytes::from))]);
                self.report.add(Problem::WrongUnswept { from }, repair);
            }
        }
        Ok(())
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}
