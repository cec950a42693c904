//! From faulty packs to the files and byte ranges that cannot be read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use super::trial::Trial;
use super::{Fault, FaultyPack};
use crate::base::{Inode, PackNumber};
use crate::check::cursor::Cursor;
use crate::check::refusal::refused_pack;
use crate::check::{Bucket, CheckError, Facts, paths};
use crate::data::{self, ChunkRef, DataError};
use crate::format::{Fragment, Key, KeyKind, PAGE_BLOCKS, PackRecord, Page};

/// Faulty packs that are in memory at once; each further one costs another look at all block maps.
const PACKS_AT_ONCE: usize = 8;

/// A file that cannot be read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// Its inode.
    pub inode: Inode,
    /// Its path, if it has a name.
    pub path: Option<String>,
    /// The bytes that cannot be read.
    pub ranges: Vec<Range<u64>>,
}

/// What pages that do not decode would show.
pub(super) type DamagedPages = BTreeMap<Inode, Vec<Range<u64>>>;

/// A faulty pack, as far as it is there.
struct Suspect {
    /// Record and object; `None` if nothing of it can be read.
    object: Option<(PackRecord, Bytes)>,
    /// Content of the chunks that were tried: its length, if they are whole.
    tried: HashMap<ChunkRef, Option<u64>>,
}

/// The files that show something of `faulty` that cannot be read, and those of `pages`. None, if what
/// is damaged is not shown any more.
pub(super) async fn damaged(
    trial: &Trial<'_>,
    facts: &Facts,
    lag: Duration,
    faulty: &mut Vec<FaultyPack>,
    pages: DamagedPages,
) -> Result<Vec<DamagedFile>, CheckError> {
    if !faulty.is_empty() {
        tokio::time::sleep(lag).await;
    }
    let mut there = Vec::new();
    for faulty in faulty.iter() {
        // What was compacted since is no fault any more.
        if trial.has_record(PackNumber(faulty.pack)).await? {
            there.push(faulty.clone());
        }
    }
    *faulty = there;
    let mut files = pages;
    let (gone, there): (Vec<_>, Vec<_>) = faulty.iter().partition(|faulty| is_gone(faulty));
    for faulty in std::iter::once(gone.as_slice()).chain(there.chunks(PACKS_AT_ONCE)) {
        let mut suspects = HashMap::new();
        for faulty in faulty {
            if let Some(suspect) = suspect(trial, faulty).await? {
                suspects.insert(PackNumber(faulty.pack), suspect);
            }
        }
        if !suspects.is_empty() {
            search(trial, facts, &mut suspects, &mut files).await?;
        }
    }
    let inodes: BTreeSet<_> = files.keys().copied().collect();
    let mut paths =
        if inodes.is_empty() { BTreeMap::new() } else { paths(trial.meta, &inodes).await? };
    let file = |(inode, mut ranges): (Inode, Vec<Range<u64>>)| {
        ranges.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            extend(&mut merged, range);
        }
        DamagedFile { inode, path: paths.remove(&inode), ranges: merged }
    };
    Ok(files.into_iter().map(file).collect())
}

/// Whether nothing of a pack can be read, even if it is back by now: all of those are looked for at
/// once, and take no memory.
fn is_gone(faulty: &FaultyPack) -> bool {
    let is_gone =
        |fault: &Fault| matches!(fault, Fault::Missing | Fault::Unreadable { .. } | Fault::Record);
    faulty.faults.iter().any(is_gone)
}

async fn suspect(trial: &Trial<'_>, faulty: &FaultyPack) -> Result<Option<Suspect>, CheckError> {
    let pack = PackNumber(faulty.pack);
    let mut suspect = Suspect { object: None, tried: HashMap::new() };
    let Some(record) = trial.record(pack).await? else {
        // One that does not decode, as long as it is there.
        return Ok(trial.has_record(pack).await?.then_some(suspect));
    };
    if is_gone(faulty) {
        return Ok(Some(suspect));
    }
    trial.rate.wait(record.size).await;
    let bucket = trial.bucket;
    match data::read_whole(&bucket.store, &bucket.packs, pack, record.size).await {
        Ok((object, _)) => suspect.object = Some((record, object)),
        Err(DataError::Missing { .. }) => {}
        Err(error) => {
            refused_pack(&*bucket.store, error).await?;
        }
    }
    Ok(Some(suspect))
}

/// Takes note of a page that does not decode.
pub(super) fn add_page(pages: &mut DamagedPages, facts: &Facts, inode: Inode, page: u64) {
    let page_bytes = facts.block_size.bytes().saturating_mul(PAGE_BLOCKS);
    let from = page.saturating_mul(page_bytes);
    extend(pages.entry(inode).or_default(), from..from.saturating_add(page_bytes));
}

async fn search(
    trial: &Trial<'_>,
    facts: &Facts,
    suspects: &mut HashMap<PackNumber, Suspect>,
    files: &mut BTreeMap<Inode, Vec<Range<u64>>>,
) -> Result<(), CheckError> {
    let block_bytes = facts.block_size.bytes();
    let mut cursor = Cursor::of(trial.meta, KeyKind::Page);
    while let Some((key, value)) = cursor.next().await? {
        let (Some([inode, number]), Ok(page)) = (Key::numbers(&key), Page::decode(&value)) else {
            continue;
        };
        for (slot, fragments) in page.blocks() {
            let block = number.saturating_mul(PAGE_BLOCKS).saturating_add(u64::from(slot));
            let start = block.saturating_mul(block_bytes);
            for fragment in fragments {
                let Some((pack, _)) = fragment.pack_use() else { continue };
                let Some(suspect) = suspects.get_mut(&pack) else { continue };
                if !suspect.reads(trial.bucket, fragment) {
                    let from = start.saturating_add(u64::from(fragment.at));
                    let to = from.saturating_add(u64::from(fragment.len));
                    extend(files.entry(Inode(inode)).or_default(), from..to);
                }
            }
        }
    }
    Ok(())
}

impl Suspect {
    /// Whether a fragment can be read.
    fn reads(&mut self, bucket: &Bucket, fragment: &Fragment) -> bool {
        let Some((chunk, skip)) = ChunkRef::from_place(&fragment.place) else { return true };
        let Some((record, object)) = &self.object else { return false };
        let len = *self.tried.entry(chunk).or_insert_with(|| {
            bucket.packs.try_pack(chunk.pack, record, object).ok()?.content_len(&chunk)
        });
        len.is_some_and(|len| u64::from(skip) + u64::from(fragment.len) <= len)
    }
}

/// Adds a range, to the last one if it goes on there.
fn extend(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end >= range.start && last.start <= range.start => {
            last.end = last.end.max(range.end);
        }
        _ => ranges.push(range),
    }
}
