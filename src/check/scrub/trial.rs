//! One pack: its bytes, and whether block maps agree with it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Fault;
use crate::base::{Inode, PackNumber};
use crate::check::cursor::Cursor;
use crate::check::refusal::refused_pack;
use crate::check::{Bucket, CheckError};
use crate::data::{self, ChunkRef, DataError, Verdict};
use crate::format::{Key, PAGE_BLOCKS, PackDirectory, PackRecord, Page, page_of};
use crate::meta::MetaRead;
use crate::store::Rate;

/// What packs are tried with.
pub(super) struct Trial<'a> {
    pub meta: &'a dyn MetaRead,
    pub bucket: &'a Bucket,
    pub rate: Rate,
}

impl Trial<'_> {
    /// The pack's record, if there is one that can be used.
    pub async fn record(&self, pack: PackNumber) -> Result<Option<PackRecord>, CheckError> {
        let value = self.meta.get(Key::pack(pack).as_bytes()).await?;
        Ok(value.and_then(|value| PackRecord::decode(&value).ok()))
    }

    /// Whether the pack has a record, of whatever kind.
    pub async fn has_record(&self, pack: PackNumber) -> Result<bool, CheckError> {
        Ok(self.meta.get(Key::pack(pack).as_bytes()).await?.is_some())
    }

    /// The pack's number and size, and what is wrong with it.
    pub async fn try_pack(
        &self,
        pack: PackNumber,
        value: Bytes,
    ) -> Result<(PackNumber, u64, Vec<Fault>), CheckError> {
        let Ok(record) = PackRecord::decode(&value) else {
            return Ok((pack, 0, vec![Fault::Record]));
        };
        self.rate.wait(record.size).await;
        let (mut faults, directory) = self.try_object(pack, &record).await?;
        if let Some(directory) = directory {
            let mut wrong = self.references(pack, &directory).await?;
            if !wrong.is_empty() {
                // A commit between two of its reads looks like that once, not twice.
                let again = self.references(pack, &directory).await?;
                wrong.retain(|fault| again.contains(fault));
            }
            faults.extend(wrong);
        }
        if !faults.is_empty() && !self.has_record(pack).await? {
            faults.clear();
        }
        Ok((pack, record.size, faults))
    }

    async fn try_object(
        &self,
        pack: PackNumber,
        record: &PackRecord,
    ) -> Result<(Vec<Fault>, Option<PackDirectory>), CheckError> {
        let Bucket { store, packs } = self.bucket;
        let (object, found) = match data::read_whole(store, packs, pack, record.size).await {
            Ok(read) => read,
            Err(DataError::Missing { .. }) => return Ok((vec![Fault::Missing], None)),
            Err(error) => {
                let why = refused_pack(&**store, error).await?;
                return Ok((vec![Fault::Unreadable { why }], None));
            }
        };
        let mut faults = Vec::new();
        if found != record.size {
            faults.push(Fault::Size { recorded: record.size, found });
        }
        let (packs, record) = (packs.clone(), record.clone());
        let verdict = tokio::task::spawn_blocking(move || {
            packs.try_pack(pack, &record, &object).map(|trial| trial.verdict())
        });
        let verdict = verdict.await.map_err(|_| DataError::Abandoned { pack, offset: 0 })?;
        let Ok(Verdict { header, directory, damaged }) = verdict else {
            return Ok((vec![Fault::NoKey], None));
        };
        if !header {
            faults.push(Fault::Header);
        }
        if directory.is_none() {
            faults.push(Fault::Directory);
        }
        faults.extend(damaged.into_iter().map(|chunk| Fault::Chunk { chunk }));
        Ok((faults, directory))
    }

    /// Whether block maps agree with the directory, and it names all of them.
    async fn references(
        &self,
        pack: PackNumber,
        directory: &PackDirectory,
    ) -> Result<Vec<Fault>, CheckError> {
        let chunks = data::chunks_of(pack, directory);
        let owners = directory.entries.iter().map(|entry| (entry.inode, entry.block));
        let mut pages: BTreeSet<(Inode, u64)> =
            owners.map(|(inode, block)| (inode, page_of(block).0)).collect();
        let mut cursor = Cursor::over(self.meta, Key::range_of_references(pack));
        while let Some((key, _)) = cursor.next().await? {
            if let Some([_, inode, block]) = Key::numbers(&key) {
                pages.insert((Inode(inode), block / PAGE_BLOCKS));
            }
        }
        let (mut shown, mut wrong) = (0, BTreeSet::new());
        for (inode, number) in pages {
            let value = self.meta.get(Key::page(inode, number).as_bytes()).await?;
            let Some(page) = value.and_then(|value| Page::decode(&value).ok()) else { continue };
            for fragment in page.blocks().flat_map(|(_, fragments)| fragments) {
                let Some((chunk, skip)) = ChunkRef::from_place(&fragment.place) else { continue };
                if chunk.pack != pack {
                    continue;
                }
                shown += u64::from(fragment.len);
                let index = chunk.chunk as usize;
                let entry =
                    directory.entries.get(index).filter(|_| chunks.get(index) == Some(&chunk));
                let end = u64::from(skip) + u64::from(fragment.len);
                if entry.is_none_or(|entry| end > u64::from(entry.len)) {
                    wrong.insert(chunk.chunk);
                }
            }
        }
        let mut faults: Vec<_> =
            wrong.into_iter().map(|chunk| Fault::Reference { chunk }).collect();
        let live = self.record(pack).await?.map_or(0, |record| record.live);
        if shown < live {
            faults.push(Fault::Unlisted { bytes: live - shown });
        }
        Ok(faults)
    }
}
