//! Mending what a check found, in stages: which records there are, names that were lost, what the
//! records say of each other, the sums.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::edit::Edit;
use super::refusal::refused_pack;
use super::report::{Fields, Stage};
use super::{CheckError, Facts, Problem, Repair, Report, fsck, fsck_again};
use crate::base::{CommitNumber, Inode, MIB, PackNumber, Timestamp};
use crate::crypto::SecretKey;
use crate::data::{self, PackContext};
use crate::format::{
    Counters, FileKind, FreedRecord, InodeFlags, InodeRecord, Key, NUMBER_MAX, PackRecord,
};
use crate::meta::MetaStore;
use crate::store::object_store::ObjectStore;

/// Changes are applied when they have come to so many bytes.
const BATCH_BYTES: usize = 8 * MIB as usize;
/// Rounds of checking and mending. Each mends all that it sees, up to a report's findings.
const ROUNDS_MAX: usize = 64;
/// Where inodes go that have lost their names.
const LOST_AND_FOUND: &str = "lost+found";
/// Other names that are tried when one is taken.
const OTHER_NAMES_MAX: u32 = 100;

/// Flags of inodes that a check compares with their extended attributes.
const FLAGS_KNOWN: u32 = InodeFlags::XATTRS | InodeFlags::ACCESS_ACL | InodeFlags::DEFAULT_ACL;

/// Where packs are.
#[derive(Clone)]
pub struct Bucket {
    /// The store, rooted at the volume's prefix.
    pub store: Arc<dyn ObjectStore>,
    /// Names and opens packs.
    pub packs: Arc<PackContext>,
}

/// What a repair works with.
pub struct Means {
    /// To read records of packs out of the packs; without it, they stay lost.
    pub bucket: Option<Bucket>,
    /// The present moment.
    pub now: Timestamp,
    /// The volume's commits come after this one.
    pub commit_min: CommitNumber,
    /// User and group that new directories belong to.
    pub owner: (u32, u32),
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// What was found first.
    pub before: Report,
    /// What is left.
    pub after: Report,
    /// There was so much to mend that the rounds ran out: another repair goes on.
    pub is_unfinished: bool,
}

/// Checks a volume, and mends what can be mended safely; what it did is durable on return.
///
/// Nobody else may write meanwhile. It may be cut short at any point and begun again.
///
/// # Errors
/// Records or packs could not be read or written; what was mended until then stays so.
pub async fn repair(
    meta: &dyn MetaStore,
    facts: &Facts,
    means: &Means,
) -> Result<Mended, CheckError> {
    let mut work = Work { meta, facts, means, unread: BTreeMap::new() };
    let before = fsck(meta, facts).await?;
    let mut after = before.clone();
    let mut is_unfinished = true;
    for _ in 0..ROUNDS_MAX {
        let mut is_changed = false;
        for stage in Stage::ALL {
            is_changed = work.mend(&after, stage).await?;
            if is_changed {
                break;
            }
        }
        if !is_changed {
            is_unfinished = false;
            break;
        }
        // What made it doubtful may be what was mended.
        let now = fsck_again(meta, facts, before.is_doubtful).await?;
        let is_stuck = (&now.findings, now.count()) == (&after.findings, after.count());
        after = now;
        if is_stuck {
            is_unfinished = false;
            break;
        }
    }
    let is_clean = after.repairable == 0;
    for (pack, why) in work.unread {
        after.add(Problem::UnreadPack { pack, why }, None);
    }
    Ok(Mended { before, after, is_unfinished: is_unfinished && !is_clean })
}

/// A repair under way.
struct Work<'a> {
    meta: &'a dyn MetaStore,
    facts: &'a Facts,
    means: &'a Means,
    /// Packs that the store refuses, and why: they are asked for once.
    unread: BTreeMap<PackNumber, String>,
}

impl Work<'_> {
    /// Applies the repairs of one stage; whether that changed anything.
    async fn mend(&mut self, report: &Report, stage: Stage) -> Result<bool, CheckError> {
        let Self { meta, facts, means, ref mut unread } = *self;
        let repairs: Vec<_> = report
            .findings
            .iter()
            .filter_map(|finding| finding.repair.as_ref())
            .filter(|repair| repair.stage() == stage)
            .collect();
        if repairs.is_empty() {
            return Ok(false);
        }
        let counters = meta.get(Key::counters().as_bytes()).await?;
        let counters = counters.and_then(|value| Counters::decode(&value).ok());
        let recorded = counters.map(|counters| counters.commit);
        let recorded = recorded.filter(|commit| commit.0 <= NUMBER_MAX).unwrap_or_default();
        let last = recorded.max(report.counted.commit);
        let commit = CommitNumber(last.max(means.commit_min).0.saturating_add(1));
        let mut edit = Edit::new(meta, commit, counters);
        let mut mender = Mender { edit: &mut edit, facts, means, unread, lost_and_found: None };
        for repair in repairs {
            mender.apply(repair).await?;
            if mender.edit.bytes() >= BATCH_BYTES {
                mender.edit.store().await?;
            }
        }
        edit.store().await?;
        meta.flush().await?;
        Ok(edit.is_changed())
    }
}

/// One stage of mending.
struct Mender<'a, 'e> {
    edit: &'e mut Edit<'a>,
    facts: &'e Facts,
    means: &'e Means,
    unread: &'e mut BTreeMap<PackNumber, String>,
    lost_and_found: Option<Inode>,
}

impl Mender<'_, '_> {
    async fn apply(&mut self, repair: &Repair) -> Result<(), CheckError> {
        match repair {
            Repair::Set(changes) => {
                for (key, value) in changes {
                    self.edit.set(key.clone(), value.clone());
                }
            }
            Repair::Inode(inode, fields) => self.fields(*inode, fields).await?,
            Repair::Unlink { holder, place } => {
                self.edit.unlink(*holder, *place).await?;
            }
            Repair::UnlinkNames { holder, inode, keep } => {
                self.edit.unlink_names(*holder, *inode, *keep).await?;
            }
            Repair::Replace { holder, place } => {
                if let Some(names) = &self.facts.names {
                    self.edit.replace(names, *holder, *place).await?;
                }
            }
            Repair::Retype { holder, place, kind } => {
                self.edit.retype(*holder, *place, *kind).await?;
            }
            Repair::MakeDirectory(inode) => {
                let record = self.made(FileKind::Directory);
                self.edit.set_inode(*inode, &record);
            }
            Repair::MakeFile { inode, size, allocated } => {
                let (size, allocated) = (*size, *allocated);
                let record = InodeRecord { size, allocated, ..self.made(FileKind::Regular) };
                self.edit.set_inode(*inode, &record);
            }
            Repair::Adopt(inode) => self.adopt(*inode).await?,
            Repair::Rebuild { pack, freed, live } => self.rebuild(*pack, *freed, *live).await?,
            Repair::Free(commit, pack) => {
                let record = self.freed_record(None);
                self.edit.set(Key::freed(*commit, *pack), Some(record.encode().into()));
            }
            Repair::Live(pack, live) => {
                let value = self.edit.get(&Key::pack(*pack)).await?;
                if let Some(record) = value.and_then(|value| PackRecord::decode(&value).ok()) {
                    self.set_pack(*pack, &PackRecord { live: *live, ..record });
                }
            }
            Repair::Counters(counters) => {
                self.edit.set_counters(counters);
            }
        }
        Ok(())
    }

    async fn fields(&mut self, inode: Inode, fields: &Fields) -> Result<(), CheckError> {
        let Some(mut record) = self.edit.inode(inode).await? else { return Ok(()) };
        record.nlink = fields.nlink.unwrap_or(record.nlink);
        record.entries = fields.entries.unwrap_or(record.entries);
        record.parent = fields.parent.unwrap_or(record.parent);
        record.size = fields.size.unwrap_or(record.size);
        record.allocated = fields.allocated.unwrap_or(record.allocated);
        if let Some(flags) = fields.flags {
            // Of those that a later version may have set, nothing is known.
            record.flags.0 = record.flags.0 & !FLAGS_KNOWN | flags;
        }
        if fields.normal {
            if !record.is_directory() {
                record.parent = Inode(0);
                record.entries = 0;
            }
            if record.kind != FileKind::Symlink {
                record.target = Box::default();
            }
            if record.kind != FileKind::Regular {
                record.size = record.target.len() as u64;
                record.allocated = 0;
            }
        }
        self.edit.set_inode(inode, &record);
        Ok(())
    }

    /// A new file, or a directory in the root; its counts are put right in a later stage.
    fn made(&self, kind: FileKind) -> InodeRecord {
        let Means { now, owner: (uid, gid), .. } = *self.means;
        let is_directory = kind == FileKind::Directory;
        InodeRecord {
            kind,
            permissions: if is_directory { 0o700 } else { 0o600 },
            uid,
            gid,
            nlink: if is_directory { 2 } else { 1 },
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            parent: if is_directory { Inode::ROOT } else { Inode(0) },
            entries: 0,
            flags: InodeFlags::default(),
            target: Box::default(),
        }
    }

    /// Gives an inode a name under `/lost+found`, and makes sure that it has a link.
    async fn adopt(&mut self, inode: Inode) -> Result<(), CheckError> {
        let Some(names) = &self.facts.names else { return Ok(()) };
        let Some(holder) = self.lost_and_found(names).await? else { return Ok(()) };
        let Some(mut record) = self.edit.inode(inode).await? else { return Ok(()) };
        let numbered = format!("#{inode}");
        let mut is_named = false;
        for name in candidates(&numbered) {
            is_named = self.edit.add(names, holder, name.as_bytes(), (inode, record.kind)).await?;
            if is_named {
                break;
            }
        }
        if !is_named {
            return Ok(());
        }
        if record.is_directory() {
            record.parent = holder;
        }
        record.nlink = record.nlink.max(1);
        self.edit.set_inode(inode, &record);
        Ok(())
    }

    /// The directory `/lost+found`, made if there is none; `None` if it cannot be made yet.
    async fn lost_and_found(&mut self, names: &SecretKey) -> Result<Option<Inode>, CheckError> {
        if self.lost_and_found.is_some() {
            return Ok(self.lost_and_found);
        }
        if !self.edit.inode(Inode::ROOT).await?.is_some_and(|root| root.is_directory()) {
            return Ok(None);
        }
        for name in candidates(LOST_AND_FOUND) {
            let Some((inode, _)) = self.edit.find(names, Inode::ROOT, name.as_bytes()).await?
            else {
                self.lost_and_found = self.make_lost_and_found(names, &name).await?;
                break;
            };
            if self.edit.inode(inode).await?.is_some_and(|record| record.is_directory()) {
                self.lost_and_found = Some(inode);
                break;
            }
        }
        Ok(self.lost_and_found)
    }

    async fn make_lost_and_found(
        &mut self,
        names: &SecretKey,
        name: &str,
    ) -> Result<Option<Inode>, CheckError> {
        let Some(mut counters) = self.edit.counters() else { return Ok(None) };
        let inode = Inode(counters.next_inode);
        // A number that is in use, because the counter is wrong: that is put right first.
        if self.edit.stored().get(Key::inode(inode).as_bytes()).await?.is_some() {
            return Ok(None);
        }
        counters.next_inode = counters.next_inode.saturating_add(1);
        counters.inodes = counters.inodes.saturating_add(1);
        self.edit.set_counters(&counters);
        self.edit.set_inode(inode, &self.made(FileKind::Directory));
        let target = (inode, FileKind::Directory);
        self.edit.add(names, Inode::ROOT, name.as_bytes(), target).await?;
        Ok(Some(inode))
    }

    /// Reads a pack's record out of the pack.
    async fn rebuild(
        &mut self,
        pack: PackNumber,
        freed: Option<CommitNumber>,
        live: u64,
    ) -> Result<(), CheckError> {
        let Some(bucket) = &self.means.bucket else { return Ok(()) };
        if self.unread.contains_key(&pack) {
            return Ok(());
        }
        let record = match data::recover_record(&bucket.store, &bucket.packs, pack).await {
            Ok(record) => record,
            // Nothing is lost with it.
            Err(data::DataError::Missing { .. }) if live == 0 => {
                self.edit.set(Key::pack(pack), None);
                return Ok(());
            }
            Err(error @ (data::DataError::Read { .. } | data::DataError::Abandoned { .. })) => {
                let why = refused_pack(&*bucket.store, error).await?;
                self.unread.insert(pack, why);
                return Ok(());
            }
            // Damaged or gone: nothing can be made of it.
            Err(_) => return Ok(()),
        };
        if record.content == 0 && live > 0 {
            return Ok(());
        }
        if let Some(commit) = freed {
            self.edit.set(Key::freed(commit, pack), None);
        }
        self.set_pack(pack, &PackRecord { live, birth: self.edit.commit(), ..record });
        Ok(())
    }

    /// Sets a pack's record; without live bytes the pack is freed.
    fn set_pack(&mut self, pack: PackNumber, record: &PackRecord) {
        if record.live > 0 {
            self.edit.set(Key::pack(pack), Some(record.encode().into()));
        } else {
            let freed = self.freed_record(Some(record));
            self.edit.set(Key::pack(pack), None);
            self.edit.set(Key::freed(self.edit.commit(), pack), Some(freed.encode().into()));
        }
    }

    fn freed_record(&self, record: Option<&PackRecord>) -> FreedRecord {
        FreedRecord {
            epoch: record.map(|record| record.epoch).unwrap_or_default(),
            size: record.map_or(0, |record| record.size),
            freed: self.means.now.seconds.max(0).cast_unsigned(),
        }
    }
}

/// A name, and others for when it is taken.
fn candidates(name: &str) -> impl Iterator<Item = String> {
    let others = (1..=OTHER_NAMES_MAX).map(move |number| format!("{name}.{number}"));
    std::iter::once(name.to_owned()).chain(others)
}
