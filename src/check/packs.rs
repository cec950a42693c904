//! Pack records against what files show.

use super::cursor::Cursor;
use super::tables::Freed;
use super::{Check, CheckError, Problem, Repair};
use crate::base::{CommitNumber, PackNumber};
use crate::format::{FreedRecord, Key, KeyKind, PackRecord};

impl Check<'_> {
    /// Records of packs, in use and freed.
    pub(super) async fn load_packs(&mut self) -> Result<(), CheckError> {
        let mut cursor = Cursor::of(self.meta, KeyKind::Pack);
        while let Some(([pack], value)) = self.next(&mut cursor).await? {
            self.packs.add(PackNumber(pack), PackRecord::decode(&value));
        }
        let mut cursor = Cursor::of(self.meta, KeyKind::Freed);
        while let Some(([commit, pack], value)) = self.next(&mut cursor).await? {
            let (commit, pack) = (CommitNumber(commit), PackNumber(pack));
            let record = FreedRecord::decode(&value);
            let freed = Freed {
                commit,
                size: record.as_ref().map_or(0, |record| record.size),
                damage: record.err(),
            };
            if self.packs.freed.insert(pack, freed).is_some() {
                let repair = Repair::Set(vec![(Key::freed(commit, pack), None)]);
                self.report.add(Problem::FreedTwice { pack }, repair);
            }
        }
        Ok(())
    }

    /// Live bytes and freed packs, once all pages are counted.
    pub(super) fn judge_packs(&mut self) {
        // A page that is damaged or missing may show something of any pack: none is freed.
        let may_be_shown = self.is_doubtful();
        let is_told = self.has_damaged_page || self.has_missing_content;
        let report = &mut self.report;
        for pack in &self.packs.used {
            let (number, live) = (pack.number, pack.shown);
            let freed = self.packs.freed.get(&number);
            let kept = live.max(u64::from(may_be_shown));
            let freed_by = freed.map(|freed| freed.commit);
            let rebuild = Repair::Rebuild { pack: number, freed: freed_by, live: kept };
            match (pack.damage, freed) {
                (Some(_), _) if live > 0 => {
                    let why = "its record does not decode";
                    report.add(Problem::LostPack { pack: number, why, live }, rebuild);
                }
                (Some(error), _) => {
                    report.add(Problem::DamagedPack { pack: number, error }, rebuild);
                }
                (None, Some(freed)) if live > 0 => {
                    let repair = Repair::Set(vec![(Key::freed(freed.commit, number), None)]);
                    report.add(Problem::FreedInUse { pack: number, live }, repair);
                }
                (None, Some(_)) => {
                    let repair = Repair::Set(vec![(Key::pack(number), None)]);
                    let repair = (!may_be_shown).then_some(repair);
                    report.add(Problem::FreedTwice { pack: number }, repair);
                }
                (None, None) if pack.content == 0 => {
                    report.add(Problem::NoContent { pack: number }, rebuild);
                }
                (None, None) if is_told && live < pack.live.max(1) => {}
                (None, None) if live != pack.live => {
                    let problem =
                        Problem::WrongLive { pack: number, recorded: pack.live, found: live };
                    let is_safe = live > pack.live || !may_be_shown;
                    report.add(problem, is_safe.then_some(Repair::Live(number, live)));
                }
                (None, None) if live == 0 => {
                    let repair = (!may_be_shown).then_some(Repair::Live(number, 0));
                    report.add(Problem::Unfreed { pack: number }, repair);
                }
                (None, None) => {}
            }
        }
        for (pack, live) in &self.packs.unknown {
            let (pack, live) = (*pack, *live);
            let freed = self.packs.freed.get(&pack).map(|freed| freed.commit);
            let problem = match freed {
                Some(_) => Problem::FreedInUse { pack, live },
                None => Problem::LostPack { pack, why: "it has no record", live },
            };
            report.add(problem, Repair::Rebuild { pack, freed, live });
        }
        for (pack, freed) in &self.packs.freed {
            if let Some(error) = freed.damage
                && !self.packs.unknown.contains_key(pack)
            {
                let problem = Problem::DamagedFreed { pack: *pack, error };
                report.add(problem, Repair::Free(freed.commit, *pack));
            }
        }
    }
}
