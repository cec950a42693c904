//! Directory entries: their places, what they lead to, what they count.

use super::cursor::Cursor;
use super::{Check, CheckError, Problem, Repair};
use crate::base::Inode;
use crate::format::{DirEntry, FileKind, HASH_MIN, Key, KeyKind, name_hash};

/// Names of one chain that are compared with each other; no chain is nearly as long.
const CHAIN_MAX: usize = 1024;

/// Names of missing inodes that are looked at in one go: mending those shows the next ones.
const DANGLING_MAX: usize = 100_000;

/// A name of an inode that has no record.
pub(super) struct Dangling {
    holder: Inode,
    place: u64,
    inode: Inode,
}

/// What the inode is that entries stand under.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Under {
    Directory,
    /// It has no record, so it can only have been a directory.
    Missing,
    /// Its record does not decode or contradicts itself: it may be one.
    Unknown,
    Other,
}

/// The directory that the scan is in.
struct Holder {
    inode: Inode,
    under: Under,
    names: u64,
    /// The last place, and whether it is chained.
    last: Option<(u64, bool)>,
    /// First place of the chain that the last place belongs to.
    chain_start: u64,
    /// Names in that chain.
    chain: Vec<Box<[u8]>>,
}

impl Holder {
    /// Goes on to `place`, which is chained to the next one or not.
    fn step(&mut self, place: u64, chained: bool) {
        let follows = self.last == place.checked_sub(1).map(|before| (before, true));
        if !follows {
            self.chain_start = place;
            self.chain.clear();
        }
        self.last = Some((place, chained));
    }
}

impl Check<'_> {
    pub(super) async fn entries(&mut self) -> Result<(), CheckError> {
        if self.inodes.node(Inode::ROOT).is_none() {
            let problem = Problem::MissingDirectory { inode: Inode::ROOT, entries: 0 };
            self.report.add(problem, Repair::MakeDirectory(Inode::ROOT));
        }
        let mut cursor = Cursor::of(self.meta, KeyKind::Entry);
        let mut holder: Option<Holder> = None;
        while let Some(([inode, place], value)) = self.next(&mut cursor).await? {
            if holder.as_ref().is_none_or(|holder| holder.inode.0 != inode) {
                self.leave(holder.take().as_ref());
            }
            let holder = holder.get_or_insert_with(|| self.enter(Inode(inode)));
            self.entry(holder, place, &value);
        }
        self.leave(holder.as_ref());
        for Dangling { holder, place, inode } in std::mem::take(&mut self.dangling) {
            // What has content or names in it is made anew.
            if !self.missing.contains(&inode) {
                let repair = Repair::Unlink { holder, place };
                self.report.add(Problem::DanglingEntry { holder, place, inode }, repair);
            }
        }
        Ok(())
    }

    fn enter(&mut self, inode: Inode) -> Holder {
        self.met(inode);
        let under = match self.inodes.node(inode).map(|node| node.kind) {
            None => Under::Missing,
            Some(None) => Under::Unknown,
            Some(Some(FileKind::Directory)) => Under::Directory,
            Some(Some(_)) => match self.odd.binary_search_by_key(&inode, |odd| odd.inode) {
                Ok(at) => {
                    self.odd[at].is_safe = false;
                    Under::Unknown
                }
                Err(_) => Under::Other,
            },
        };
        Holder { inode, under, names: 0, last: None, chain_start: 0, chain: Vec::new() }
    }

    fn leave(&mut self, holder: Option<&Holder>) {
        let Some(&Holder { inode, under, names: entries, .. }) = holder else { return };
        if under == Under::Missing && inode != Inode::ROOT && self.missing.insert(inode) {
            let problem = Problem::MissingDirectory { inode, entries };
            self.report.add(problem, Repair::MakeDirectory(inode));
        }
    }

    fn entry(&mut self, at: &mut Holder, place: u64, value: &[u8]) {
        let holder = at.inode;
        let unlink = Repair::Unlink { holder, place };
        let entry = match DirEntry::decode(value) {
            Ok(entry) => entry,
            Err(error) => {
                // Whether it is chained is not known: what comes next may belong to it.
                at.step(place, true);
                self.report.add(Problem::DamagedEntry { holder, place, error }, unlink);
                return;
            }
        };
        at.step(place, entry.chained);
        let Some((inode, kind)) = entry.target else {
            if !entry.chained {
                let repair = Repair::Set(vec![(Key::entry(holder, place), None)]);
                self.report.add(Problem::LooseTombstone { holder, place }, repair);
            }
            return;
        };
        self.met(inode);
        at.names += 1;
        if at.under == Under::Other {
            self.report.add(Problem::EntryOfNoDirectory { holder, place }, unlink);
            return;
        }
        if let Some(dir) = self.inodes.dir(holder) {
            dir.names += 1;
            dir.subdirectories += u32::from(kind == FileKind::Directory);
        }
        if is_impossible(&entry.name) {
            self.report.add(Problem::ImpossibleName { holder, place }, unlink);
            return;
        }
        if at.chain.contains(&entry.name) {
            self.report.add(Problem::DoubleEntry { holder, place }, unlink);
            return;
        }
        self.judge_place(at, place, &entry.name);
        if at.chain.len() < CHAIN_MAX {
            at.chain.push(entry.name);
        }
        self.target(holder, place, (inode, kind));
    }

    fn judge_place(&mut self, at: &Holder, place: u64, name: &[u8]) {
        let holder = at.inode;
        match &self.facts.names {
            Some(names) => {
                let hash = name_hash(names, name);
                if !(at.chain_start..=place).contains(&hash) {
                    let repair = Repair::Replace { holder, place };
                    self.report.add(Problem::MisplacedEntry { holder, place }, repair);
                }
            }
            None if place < HASH_MIN => {
                self.report.add(Problem::MisplacedEntry { holder, place }, None);
            }
            None => {}
        }
    }

    /// What an entry leads to gets a name.
    fn target(&mut self, holder: Inode, place: u64, (inode, says): (Inode, FileKind)) {
        let unlink = Repair::Unlink { holder, place };
        let Some(node) = self.inodes.node(inode) else {
            if self.dangling.len() < DANGLING_MAX {
                self.dangling.push(Dangling { holder, place, inode });
            }
            return;
        };
        node.names = node.names.saturating_add(1);
        if let Some(kind) = node.kind
            && kind != says
        {
            let repair = Repair::Retype { holder, place, kind };
            self.report.add(Problem::WrongType { holder, place, inode }, repair);
        }
        let Some(dir) = self.inodes.dir(inode) else { return };
        if inode == Inode::ROOT {
            self.report.add(Problem::SecondName { inode, holder }, unlink);
            return;
        }
        let Some(first) = dir.holder else {
            dir.holder = Some(holder);
            return;
        };
        // The one that the directory itself names stays.
        let (holder, repair) = if first == holder {
            (holder, Repair::UnlinkNames { holder, inode, keep: 1 })
        } else if dir.parent == holder {
            dir.holder = Some(holder);
            (first, Repair::UnlinkNames { holder: first, inode, keep: 0 })
        } else {
            (holder, unlink)
        };
        self.report.add(Problem::SecondName { inode, holder }, repair);
    }
}

fn is_impossible(name: &[u8]) -> bool {
    matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0)
}
