//! Beginning and end of a mounted file system.

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::cache::RecordCache;
use super::core::{Core, Fixed, Mode};
use super::group::Group;
use super::loading::Loading;
use super::lost::LostWrites;
use super::neighbours::Neighbourhood;
use super::opened::Opened;
use super::pace::Pace;
use super::system::{Inner, SCAN_RECORDS};
use super::{FileSystem, FsError, FsParts, Records};
use crate::base::{Clock, CommitNumber, ErrorKind, Inode, PackNumber};
use crate::format::{Counters, FileKind, InodeFlags, InodeRecord, Key, KeyKind, NUMBER_MAX, Space};
use crate::meta::{Batch, MetaRead, MetaStore};

/// More inodes than one mount can make without a commit.
const INODES_SKIPPED: u64 = 1 << 20;

/// Permission bits of a new volume's root directory.
const ROOT_PERMISSIONS: u16 = 0o755;

/// Makes an empty volume: the root directory, owned by `uid` and `gid`, and the counters.
///
/// # Errors
/// [`FsError::Io`] if the engine fails; [`FsError::Exists`] if there is a volume already.
pub async fn format_volume(
    meta: &dyn MetaStore,
    clock: &dyn Clock,
    uid: u32,
    gid: u32,
) -> Result<(), FsError> {
    let io = |error: crate::meta::MetaError| FsError::io(&error, error.kind());
    if meta.get(Key::counters().as_bytes()).await.map_err(io)?.is_some() {
        return Err(FsError::Exists);
    }
    let now = clock.now();
    let root = InodeRecord {
        kind: FileKind::Directory,
        permissions: ROOT_PERMISSIONS,
        uid,
        gid,
        nlink: 2,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        parent: Inode::ROOT,
        entries: 0,
        flags: InodeFlags::default(),
        target: Box::default(),
    };
    let counters = Counters {
        commit: CommitNumber(1),
        next_inode: Inode::ROOT.0 + 1,
        inodes: 1,
        bytes: 0,
        next_pack: PackNumber(0),
        space: Space::default(),
    };
    let mut batch = Batch::new();
    batch.put(Key::inode(Inode::ROOT).as_bytes().to_vec(), root.encode());
    batch.put(Key::counters().as_bytes().to_vec(), counters.encode());
    meta.apply(batch).await.map_err(io)?;
    meta.flush().await.map_err(io)
}

/// The counters of a volume: among them the number of its last commit.
///
/// # Errors
/// [`FsError::Io`] of kind `Corrupt` if there are none.
pub async fn read_counters(meta: &dyn crate::meta::MetaRead) -> Result<Counters, FsError> {
    let bytes = meta.get(Key::counters().as_bytes()).await;
    let bytes = bytes.map_err(|error| FsError::io(&error, error.kind()))?;
    let bytes = bytes.ok_or_else(|| FsError::Io {
        message: "the volume's metadata is empty: it was not made completely, or was deleted; \
                  restore the bucket, or empty its prefix and run lidfs init again"
            .to_owned(),
        kind: ErrorKind::Corrupt,
    })?;
    let counters = Counters::decode(&bytes).map_err(|error| FsError::io(&error, error.kind()))?;
    if counters.next_inode > NUMBER_MAX || counters.commit.0 > NUMBER_MAX {
        let message = "metadata is damaged: the counters are past all bounds; run lidfs fsck";
        return Err(FsError::Io { message: message.to_owned(), kind: ErrorKind::Corrupt });
    }
    Ok(counters)
}

impl FileSystem {
    /// Opens a volume and, if this mount is the writer, starts its background work.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for impossible settings; [`FsError::Io`] if the store
    /// does not answer or metadata is damaged.
    pub async fn mount(parts: FsParts) -> Result<Self, FsError> {
        let invalid = |message| FsError::Io { message, kind: ErrorKind::Invalid };
        parts.config.check().map_err(invalid)?;
        let (meta, is_writer) = match &parts.records {
            Records::Writer(engine) => (engine.clone() as Arc<dyn MetaRead>, true),
            Records::Reader(engine) => (engine.clone(), false),
        };
        let mut counters = read_counters(&*meta).await?;
        // Numbers that a crashed mount gave out, and that somebody may have seen, stay unused.
        counters.next_inode += INODES_SKIPPED;
        let fixed = Arc::new(Fixed {
            block_size: parts.block_size,
            names: parts.names.clone(),
            quota_bytes: parts.config.quota_bytes,
        });
        let core = Core {
            fixed,
            ended: None,
            mode: if is_writer { Mode::ReadWrite } else { Mode::ReadOnly },
            view: meta.version(),
            open: Group::new(CommitNumber(counters.commit.0 + 1)),
            committing: None,
            committed: counters.commit,
            wanted: CommitNumber(0),
            waited_for: CommitNumber(0),
            cache: RecordCache::new(parts.config.record_cache_bytes as usize),
            loading: Loading::default(),
            inline_pages: BTreeSet::new(),
            unswept: is_writer.then_some(counters.next_pack),
            counters,
            opened: Opened::default(),
            neighbourhood: Neighbourhood::default(),
            orphans: HashSet::new(),
            reclaiming: HashSet::new(),
            lost: LostWrites::default(),
            pace: Pace::new(parts.config.pack_bytes, parts.config.dirty_bytes_max),
        };
        let inner = Arc::new(Inner::new(parts, core));
        let fs = Self { inner };
        if !is_writer {
            return Ok(fs);
        }
        fs.inner.within(fs.find_inline_pages()).await?;
        fs.inner.within(fs.reclaim_leftovers()).await?;
        fs.inner.supervise(fs.inner.clone().run_committer());
        fs.inner.supervise(fs.inner.clone().run_packer());
        fs.inner.supervise(fs.inner.clone().run_reclaimer());
        fs.inner.supervise(fs.inner.clone().run_tidier());
        Ok(fs)
    }

    async fn find_inline_pages(&self) -> Result<(), FsError> {
        let (mut start, end) = Key::range_of(KeyKind::Inline);
        loop {
            let scanned = self.scan(&start, &end, SCAN_RECORDS).await?;
            let pages =
                scanned.records.iter().filter_map(|(key, _)| Key::from_bytes(key).inline_page());
            self.inner.lock().inline_pages.extend(pages);
            let Some(next) = scanned.next else { return Ok(()) };
            start = next;
        }
    }

    /// Commits everything and closes the engine. No operation may follow.
    ///
    /// # Errors
    /// [`FsError::Io`] if not everything is in the bucket; the call may be repeated. Where files
    /// lost bytes (`lost.rs`), all that is not lost is in the bucket nevertheless.
    pub async fn close(&self) -> Result<(), FsError> {
        if self.inner.lock().mode == Mode::ReadWrite {
            self.reclaim_all().await;
        }
        self.make_read_only();
        self.inner.within(self.inner.clone().flush_all()).await?;
        self.inner.closing.send_replace(true);
        let closed = async {
            let Some(engine) = &self.inner.engine else { return Ok(()) };
            engine.close().await.map_err(|error| FsError::io(&error, error.kind()))
        };
        self.inner.within(closed).await?;
        self.inner.check_nothing_lost()
    }
}

impl Inner {
    /// Runs background work; a panic in it ends the process loudly, because what
    /// it kept in step may no longer be so. The volume is at its last commit.
    pub fn supervise(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!("background work panicked: ending the mount");
                std::process::abort();
            }
        });
    }
}
