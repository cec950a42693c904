//! What garbage collection asks of the file system: which packs there are, whose they are, moving
//! blocks out of them, and forgetting those that are gone.
//!
//! Invariant: a pack is shown as freed only when the commit that freed it is in the bucket, so
//! deleting it cannot hurt whatever crash follows.

use std::collections::HashSet;

use bytes::Bytes;

use super::core::{Attempt, Tx};
use super::system::SCAN_RECORDS;
use super::tidy::Holes;
use super::{FileSystem, FsError};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{BlockIndex, CommitNumber, Inode, PackNumber, WriterEpoch};
use crate::data::{Extents, Piece};
use crate::format::{
    FormatError, Fragment, FreedRecord, Key, KeyKind, PackRecord, Page, Place, UnsweptRecord,
};
use crate::meta::Record;

/// A pack that nothing in the file system needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreedPack {
    /// The commit that freed it, which is in the bucket.
    pub commit: CommitNumber,
    /// The pack.
    pub pack: PackNumber,
    /// Its record.
    pub record: FreedRecord,
}

/// Pack numbers among which an earlier writer may have left orphans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unswept {
    /// The first one.
    pub from: PackNumber,
    /// Writers before this one are meant.
    pub to: WriterEpoch,
}

impl FileSystem {
    /// The number of the last commit in the bucket.
    pub fn committed(&self) -> CommitNumber {
        self.inner.lock().committed
    }

    /// The records of packs in use from number `from` on, some hundreds at a time; none at the end.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer or a record is damaged.
    pub async fn packs(&self, from: PackNumber) -> Result<Vec<(PackNumber, PackRecord)>, FsError> {
        let (_, end) = Key::range_of(KeyKind::Pack);
        let records = self.stored(Key::pack(from).as_bytes(), &end).await?;
        decoded(&records, |key, value| Ok((PackNumber(number(key, 0)), PackRecord::decode(value)?)))
    }

    /// The packs that pages in the bucket show anything of.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer or a page is damaged.
    pub async fn packs_shown(&self) -> Result<HashSet<PackNumber>, FsError> {
        let (mut start, end) = Key::range_of(KeyKind::Page);
        let mut packs = HashSet::new();
        loop {
            let records = self.stored(&start, &end).await?;
            let pages = decoded(&records, |_, value| Page::decode(value))?;
            let fragments =
                pages.iter().flat_map(Page::blocks).flat_map(|(_, fragments)| fragments);
            packs.extend(fragments.filter_map(Fragment::pack_use).map(|(pack, _)| pack));
            let Some((last, _)) = records.last().filter(|_| records.len() == SCAN_RECORDS) else {
                return Ok(packs);
            };
            start = last.to_vec();
            start.push(0);
        }
    }

    /// Freed packs, in the order of their freeing, from a commit on; some hundreds at a time. All
    /// packs that one commit freed are given together.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer or a record is damaged.
    pub async fn freed_packs(&self, from: CommitNumber) -> Result<Vec<FreedPack>, FsError> {
        let mut start = Key::freed(from, PackNumber(0)).as_bytes().to_vec();
        let (_, end) = Key::range_of(KeyKind::Freed);
        let mut freed: Vec<FreedPack> = Vec::new();
        loop {
            let records = if seeded(Bug::CollectUncommitted) {
                self.scan(&start, &end, SCAN_RECORDS).await?.records
            } else {
                self.stored(&start, &end).await?
            };
            let last = records.last().map(|(key, _)| key.to_vec());
            freed.extend(decoded(&records, |key, value| {
                let (commit, pack) = (CommitNumber(number(key, 0)), PackNumber(number(key, 1)));
                Ok(FreedPack { commit, pack, record: FreedRecord::decode(value)? })
            })?);
            let Some(mut next) = last.filter(|_| records.len() == SCAN_RECORDS) else { break };
            let commit = freed.last().map(|freed| freed.commit);
            if freed.first().map(|freed| freed.commit) != commit {
                // The last commit may have freed more: it is for the next call.
                freed.retain(|freed| Some(freed.commit) != commit);
                break;
            }
            next.push(0);
            start = next;
        }
        let committed = self.committed();
        freed.retain(|freed| freed.commit <= committed || seeded(Bug::CollectUncommitted));
        Ok(freed)
    }

    /// Blocks that share content of `pack` which was written for another place.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer.
    pub async fn references(&self, pack: PackNumber) -> Result<Vec<(Inode, BlockIndex)>, FsError> {
        let (mut start, end) = Key::range_of_references(pack);
        let mut owners = Vec::new();
        loop {
            let scanned = self.scan(&start, &end, SCAN_RECORDS).await?;
            let keys = scanned.records.iter().map(|(key, _)| key);
            owners.extend(keys.map(|key| (Inode(number(key, 1)), BlockIndex(number(key, 2)))));
            let Some(next) = scanned.next else { return Ok(owners) };
            start = next;
        }
    }

    /// The packs of a range that the volume knows of, in use or freed; no other will ever be.
    ///
    /// Those in use are read first: one that is freed meanwhile is among the former, and one that
    /// was freed before among the latter, be that commit in the bucket or not.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer.
    pub async fn known_packs(&self, range: Unswept) -> Result<HashSet<PackNumber>, FsError> {
        let end = PackNumber::new(range.to, 0).unwrap_or(PackNumber(u64::MAX));
        let from_to = [Key::pack(range.from), Key::pack(end)].map(|key| key.as_bytes().to_vec());
        let mut known = HashSet::new();
        for ([mut start, end], index) in [(from_to, 0), (Key::range_of(KeyKind::Freed).into(), 1)] {
            loop {
                let scanned = self.scan(&start, &end, SCAN_RECORDS).await?;
                let packs = scanned.records.iter().map(|(key, _)| PackNumber(number(key, index)));
                known.extend(packs);
                let Some(next) = scanned.next else { break };
                start = next;
            }
        }
        Ok(known)
    }

    /// Writes a block anew if it shows anything of `pack`; whether it did.
    ///
    /// # Errors
    /// [`FsError::Io`] if the block cannot be read, or the mount stores nothing any more.
    pub async fn move_out(
        &self,
        inode: Inode,
        block: BlockIndex,
        pack: PackNumber,
    ) -> Result<bool, FsError> {
        let shows = move |spans: &Extents| is_shown(spans, pack);
        match self.rewrite(inode, block, Holes::Keep, shows).await {
            Err(FsError::NotFound) => Ok(false),
            other => other,
        }
    }

    /// Whether a block shows anything of `pack`.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer or a record is damaged.
    pub async fn shows(
        &self,
        inode: Inode,
        block: BlockIndex,
        pack: PackNumber,
    ) -> Result<bool, FsError> {
        match self.run(move |tx| tx.shown(inode, block)).wait().await {
            Ok(spans) => Ok(is_shown(&spans, pack)),
            Err(FsError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes what the volume still says of freed packs whose objects are deleted.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer, or the mount stores nothing any more.
    pub async fn forget_freed(&self, gone: FreedPack) -> Result<(), FsError> {
        let owners = self.references(gone.pack).await?;
        self.run(move |tx| tx.forget_freed(&gone, &owners)).wait().await
    }

    /// Where orphans may lie.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer or a record is damaged.
    pub async fn unswept(&self) -> Result<Vec<Unswept>, FsError> {
        let (start, end) = Key::range_of(KeyKind::Unswept);
        // Not noted before the first commit.
        let own = self.inner.lock().unswept.map(|from| Unswept { from, to: self.inner.writer });
        let records = self.scan(&start, &end, SCAN_RECORDS).await?.records;
        let mut all = decoded(&records, |key, value| {
            let to = UnsweptRecord::decode(value)?.to;
            Ok(Unswept { from: PackNumber(number(key, 0)), to })
        })?;
        all.extend(own);
        Ok(all)
    }

    /// No orphans are left there.
    ///
    /// # Errors
    /// [`FsError::Io`] if the mount stores nothing any more.
    pub async fn swept(&self, range: Unswept) -> Result<(), FsError> {
        self.run(move |tx| {
            tx.change()?;
            if tx.core().unswept == Some(range.from) {
                tx.core().unswept = None;
            } else {
                tx.set(Key::unswept(range.from), None);
            }
            Ok(())
        })
        .wait()
        .await
    }

    /// Records as the engine has them.
    async fn stored(&self, start: &[u8], end: &[u8]) -> Result<Vec<Record>, FsError> {
        let records = self.inner.meta.scan(start, end, SCAN_RECORDS).await;
        records.map_err(|error| self.inner.unread(&error))
    }
}

fn is_shown(spans: &Extents, pack: PackNumber) -> bool {
    let is_in =
        |piece: &Piece| matches!(piece, Piece::Stored(Place::Pack { pack: p, .. }) if *p == pack);
    spans.spans().iter().any(|span| is_in(&span.piece))
}

/// The `index`-th number of a key that a scan of its kind gave.
fn number(key: &Bytes, index: usize) -> u64 {
    Key::number(key, index).unwrap_or_default()
}

fn decoded<T>(
    records: &[Record],
    decode: impl Fn(&Bytes, &Bytes) -> Result<T, FormatError>,
) -> Result<Vec<T>, FsError> {
    let decode = |(key, value): &Record| decode(key, value);
    let all: Result<Vec<_>, _> = records.iter().map(decode).collect();
    all.map_err(|error| FsError::io(&error, error.kind()))
}

impl Tx<'_> {
    fn forget_freed(&mut self, gone: &FreedPack, owners: &[(Inode, BlockIndex)]) -> Attempt<()> {
        self.change()?;
        let key = Key::freed(gone.commit, gone.pack);
        if self.get(&key)?.is_none() {
            return Ok(());
        }
        for (inode, block) in owners {
            self.set(Key::reference(gone.pack, *inode, *block), None);
        }
        self.set(key, None);
        self.freed_is_gone(gone.record.size);
        Ok(())
    }
}
