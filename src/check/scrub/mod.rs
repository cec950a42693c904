//! Scrubbing: every byte of a volume is fetched and authenticated.
//!
//! ```text
//! objects of the metadata, whole --> all records
//! packs in order, 4 at a time: whole object, header, directory, chunks
//!   |                          block maps of those the directory names
//!   '--> state file: last pack, faults so far
//! faulty packs --> all block maps --> files and byte ranges that cannot be read
//! ```
//!
//! Beside a writer, packs come and go: one whose record is gone by the time that something is found
//! wrong with it was compacted, and is no fault.

mod files;
mod objects;
mod state;
mod trial;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::cursor::Cursor;
use super::{Bucket, CheckError, Facts};
use crate::base::{ErrorKind, Inode, PackNumber, Timestamp};
use crate::format::{
    Counters, DirEntry, FreedRecord, InodeRecord, Key, KeyKind, Page, UnsweptRecord,
};
use crate::meta::{MetaError, MetaRead};
use crate::store::{self, Rate};

pub use files::DamagedFile;
use files::DamagedPages;
pub use objects::{DamagedObject, Objects, scrub_metadata};
use state::State;
use trial::Trial;

/// Objects that are fetched and tried at once.
const PARALLEL: usize = 4;
/// How often the state is written, besides when a fault is found.
const STATE_INTERVAL: Duration = Duration::from_secs(5);

/// How to scrub.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// Where it is remembered how far a scrub came.
    pub state: Option<PathBuf>,
    /// Where the volume is: what is remembered of a copy of it elsewhere does not count.
    pub location: String,
    /// By how much the records may be behind their writer: what is faulty is looked at again then.
    pub lag: Duration,
    /// Begin anew, whatever is remembered.
    pub restart: bool,
    /// The present moment.
    pub now: Timestamp,
}

/// What is wrong with a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fault {
    /// The object is not there.
    #[error("the object is not in the bucket")]
    Missing,
    /// The store does not give the object, but others.
    #[error("it cannot be read: {why}")]
    Unreadable {
        /// What the store said.
        why: String,
    },
    /// Its record in the metadata does not decode: it is not known where its content lies.
    #[error("its record does not decode, lidfs fsck --repair reads it out of the pack")]
    Record,
    /// The keyring has no key for it.
    #[error("the volume has no key for it")]
    NoKey,
    /// The object has another length.
    #[error("the object has {found} bytes and not {recorded}")]
    Size {
        /// What its record says.
        recorded: u64,
        /// Its length.
        found: u64,
    },
    /// The header is damaged; nothing needs it as long as there is metadata.
    #[error("its header is damaged, which no file needs")]
    Header,
    /// The directory is damaged: gc cannot compact the pack.
    #[error("its directory is damaged, so gc cannot compact it")]
    Directory,
    /// A chunk is damaged.
    #[error("chunk {chunk} is damaged")]
    Chunk {
        /// Which.
        chunk: u32,
    },
    /// A block map does not agree with the directory.
    #[error("a block map refers to a chunk {chunk} that is not as its directory says")]
    Reference {
        /// Which chunk it refers to.
        chunk: u32,
    },
    /// More of it counts as shown than the block maps show that its directory and the
    /// back-references name: gc cannot move it.
    #[error(
        "{bytes} bytes of it count as shown, but no block map that it names shows them: run lidfs fsck"
    )]
    Unlisted {
        /// How much.
        bytes: u64,
    },
}

/// A pack with faults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultyPack {
    /// Its number.
    pub pack: u64,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// How far a scrub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of objects tried, first those of the metadata and then those of packs.
    pub bytes: u64,
    /// Bytes of all of them.
    pub bytes_total: u64,
    /// Those with faults so far.
    pub faulty: u64,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// The objects of the metadata.
    pub objects: Objects,
    /// Metadata records read.
    pub records: u64,
    /// Those that do not decode, besides the records of packs.
    pub damaged_records: u64,
    /// Packs tried, those before an interruption included.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// If it went on where an earlier one was interrupted: when that began, in seconds since 1970.
    pub resumed: Option<i64>,
    /// Why not all metadata could be read; packs and files are not known to be whole then.
    pub metadata: Option<String>,
    /// Packs with faults.
    pub faulty: Vec<FaultyPack>,
    /// Files that cannot be read whole.
    pub files: Vec<DamagedFile>,
}

impl Scrubbed {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.objects.damaged.is_empty()
            && self.metadata.is_none()
            && self.damaged_records == 0
            && self.faulty.is_empty()
    }

    /// Whether all metadata could be read.
    pub fn is_readable(&self) -> bool {
        self.metadata.is_none()
    }

    /// Takes note of metadata that is damaged; any other error is given back.
    fn note(&mut self, error: CheckError) -> Result<(), CheckError> {
        if !matches!(&error, CheckError::Meta(error) if error.kind() == ErrorKind::Corrupt) {
            return Err(error);
        }
        self.metadata.get_or_insert_with(|| store::sentence(&error));
        Ok(())
    }
}

/// Reads all records, fetches and authenticates all packs of a volume. Metadata that cannot be read
/// is told in the result.
///
/// # Errors
/// The store fails: what was found until then is remembered, and the next scrub goes on there.
pub async fn scrub(
    meta: &dyn MetaRead,
    bucket: &Bucket,
    facts: &Facts,
    options: &ScrubOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Scrubbed, CheckError> {
    let mut state = State::load(options)?;
    let remembered = state.faulty.len();
    let resumed = (state.packs > 0).then_some(state.began);
    let mut found = Scrubbed { resumed, ..Scrubbed::default() };
    let mut pages = DamagedPages::new();
    if let Err(error) = all_records(meta, facts, &mut found, &mut pages).await {
        found.note(error.into())?;
    }
    let trial = Trial { meta, bucket, rate: Rate::new(options.rate) };
    let mut tried = try_packs(&trial, &mut state, options, progress).await;
    if tried.is_ok() {
        tried = try_again(&trial, &mut state.faulty, remembered).await;
    }
    if let Err(error) = tried {
        state.store(options.state.as_deref())?;
        found.note(error)?;
    }
    match files::damaged(&trial, facts, options.lag, &mut state.faulty, pages).await {
        Ok(files) => found.files = files,
        Err(error) => {
            state.store(options.state.as_deref())?;
            found.note(error)?;
        }
    }
    state::forget(options.state.as_deref())?;
    (found.packs, found.bytes, found.faulty) = (state.packs, state.bytes, state.faulty);
    Ok(found)
}

/// Tries all packs that `state` does not have yet.
async fn try_packs(
    trial: &Trial<'_>,
    state: &mut State,
    options: &ScrubOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<(), CheckError> {
    let counters = trial.meta.get(Key::counters().as_bytes()).await?;
    let counters = counters.and_then(|value| Counters::decode(&value).ok()).unwrap_or_default();
    let show = |state: &State| {
        let bytes_total = counters.space.pack_bytes.max(state.bytes);
        progress(Progress { bytes: state.bytes, bytes_total, faulty: state.faulty.len() as u64 });
    };
    show(state);
    let (_, end) = Key::range_of(KeyKind::Pack);
    let start = Key::pack(PackNumber(state.next_pack)).as_bytes().to_vec();
    let cursor = Cursor::over(trial.meta, (start, end));
    let packs = stream::try_unfold(cursor, |mut cursor| async move {
        Ok::<_, CheckError>(cursor.next().await?.map(|record| (record, cursor)))
    });
    // A key of another form is for fsck to tell.
    let numbered = packs.try_filter_map(|(key, value)| async move {
        Ok(Key::numbers(&key).map(|[pack]| (PackNumber(pack), value)))
    });
    let tried = numbered.map_ok(|(pack, value)| trial.try_pack(pack, value));
    let mut tried = std::pin::pin!(tried.try_buffered(PARALLEL));
    let mut written = Instant::now();
    while let Some((pack, bytes, faults)) = tried.try_next().await? {
        state.next_pack = pack.0.saturating_add(1);
        state.packs += 1;
        state.bytes += bytes;
        let is_faulty = !faults.is_empty();
        if is_faulty {
            state.faulty.push(FaultyPack { pack: pack.0, faults });
        }
        if is_faulty || written.elapsed() >= STATE_INTERVAL {
            state.store(options.state.as_deref())?;
            written = Instant::now();
        }
        show(state);
    }
    Ok(())
}

/// Tries the first `remembered` of the faulty packs again: that was another day, the store may have
/// failed, or they may be back.
async fn try_again(
    trial: &Trial<'_>,
    faulty: &mut Vec<FaultyPack>,
    remembered: usize,
) -> Result<(), CheckError> {
    let packs: Vec<_> =
        faulty.iter().take(remembered).map(|faulty| PackNumber(faulty.pack)).collect();
    let tries = packs.into_iter().map(|pack| async move {
        let value = trial.meta.get(Key::pack(pack).as_bytes()).await?;
        let faults = match value {
            Some(value) => trial.try_pack(pack, value).await?.2,
            None => Vec::new(),
        };
        Ok::<_, CheckError>(FaultyPack { pack: pack.0, faults })
    });
    let again: Vec<_> = stream::iter(tries).buffered(PARALLEL).try_collect().await?;
    let new = faulty.split_off(remembered);
    *faulty = again.into_iter().filter(|pack| !pack.faults.is_empty()).chain(new).collect();
    Ok(())
}

/// Reads every record, and tells which do not decode. Those of packs are tried with the packs.
async fn all_records(
    meta: &dyn MetaRead,
    facts: &Facts,
    found: &mut Scrubbed,
    pages: &mut DamagedPages,
) -> Result<(), MetaError> {
    let mut cursor = Cursor::over(meta, (vec![0], vec![0xff; 2]));
    while let Some((key, value)) = cursor.next().await? {
        found.records += 1;
        if decodes(&key, &value) {
            continue;
        }
        found.damaged_records += 1;
        if key.first() == Some(&(KeyKind::Page as u8))
            && let Some([inode, page]) = Key::numbers(&key)
        {
            files::add_page(pages, facts, Inode(inode), page);
        }
    }
    Ok(())
}

/// Whether a record says something to this lidfs; what has no form of its own does.
fn decodes(key: &[u8], value: &Bytes) -> bool {
    let kind = KeyKind::ALL.into_iter().find(|kind| key.first() == Some(&(*kind as u8)));
    match kind {
        Some(KeyKind::Page) => Page::decode(value).is_ok(),
        Some(KeyKind::Entry) => DirEntry::decode(value).is_ok(),
        Some(KeyKind::Freed) => FreedRecord::decode(value).is_ok(),
        Some(KeyKind::Inode) => InodeRecord::decode(value).is_ok(),
        Some(KeyKind::Counters) => Counters::decode(value).is_ok(),
        Some(KeyKind::Unswept) => UnsweptRecord::decode(value).is_ok(),
        _ => true,
    }
}
