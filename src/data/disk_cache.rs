//! Sealed bytes of packs on the local disk, below the memory cache.
//!
//! ```text
//! <dir>/<volume id>/lock            held while a mount uses the cache
//! <dir>/<volume id>/<pack's name>   sparse; each chunk's sealed bytes at their offset in the pack
//! ```
//!
//! Nothing records which chunks are there: holes read as zeros, which do not
//! authenticate, and what does not authenticate is fetched again and written
//! over. So crashes, cut files and damage cost a request and nothing else.
//!
//! Invariants: only sealed bytes are written; no failure here fails a read; at
//! most `size_bytes` of disk are in use, besides what one batch of writes adds
//! before whole files go, least recently used first.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::runtime::Handle;

use crate::base::VolumeId;
use crate::store::object_store::path::Path;

/// Where and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCacheConfig {
    /// Made if missing; each volume has a directory of its own in it.
    pub dir: PathBuf,
    /// Disk space in bytes, for each volume.
    pub size_bytes: u64,
    /// Bytes that may wait to be written; what comes while they do is left out.
    pub queue_bytes_max: u64,
}

/// Unit of `st_blocks`, whatever the file system's block size (POSIX leaves it open, Linux fixes it).
const STAT_BLOCK: u64 = 512;
/// What is shorter than this shares pages with its neighbours, which would be read back to be completed.
const UNCACHED_LEN_MIN: usize = 1 << 20;
/// `linux/fs.h`; rustix has no name for it.
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
const TAG_LEN: usize = crate::crypto::TAG_LEN;

/// Sealed bytes of one volume's packs on disk, or nothing at all.
#[derive(Clone)]
pub(super) struct DiskCache(Option<Arc<Cache>>);

struct Cache {
    dir: PathBuf,
    size_bytes: u64,
    queue_bytes_max: u64,
    runtime: Handle,
    /// Switched off for good after the first error.
    off: AtomicBool,
    index: Mutex<Index>,
    queue: Mutex<Queue>,
    /// Held as long as the cache is in use.
    _lock: File,
}

/// The files, by name, with the disk space each takes.
struct Index {
    files: LruCache<String, u64>,
    bytes: u64,
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    bytes: u64,
    /// A task is emptying the queue.
    draining: bool,
}

struct Write {
    name: String,
    offset: u64,
    bytes: Bytes,
}

/// A pack's file, open for reading.
pub(super) struct CachedPack {
    cache: Arc<Cache>,
    file: File,
}

impl DiskCache {
    /// No cache.
    pub(super) fn off() -> Self {
        Self(None)
    }

    /// Takes over what an earlier mount left. What stands in the way is warned of once, and the
    /// cache stays off.
    pub(super) fn open(config: &DiskCacheConfig, volume: VolumeId, runtime: Handle) -> Self {
        let dir = config.dir.join(volume.to_string());
        match Cache::open(dir.clone(), config, runtime) {
            Ok(cache) => Self(Some(Arc::new(cache))),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "disk cache is off: cannot use its directory");
                Self::off()
            }
        }
    }

    fn active(&self) -> Option<&Arc<Cache>> {
        self.0.as_ref().filter(|cache| !cache.off.load(Relaxed))
    }

    /// Whether it keeps anything.
    pub(super) fn is_on(&self) -> bool {
        self.active().is_some()
    }

    /// Whether anything of the pack is there. Never waits for the disk.
    pub(super) fn has(&self, pack: &Path) -> bool {
        let named = self.active().zip(pack.filename());
        named.is_some_and(|(cache, name)| cache.index().files.contains(name))
    }

    /// The pack's file, which becomes the most recently used. Waits for the disk.
    pub(super) fn read(&self, pack: &Path) -> Option<CachedPack> {
        let cache = self.active()?;
        let name = pack.filename()?;
        cache.index().files.get(name)?;
        match File::open(cache.dir.join(name)) {
            Ok(file) => Some(CachedPack { cache: Arc::clone(cache), file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                cache.index().forget(name);
                None
            }
            Err(error) => {
                cache.switch_off(&error);
                None
            }
        }
    }

    /// Writes sealed bytes of a pack in the background, or not at all if too much waits already.
    pub(super) fn put(&self, pack: &Path, offset: u64, bytes: Bytes) {
        let (Some(cache), Some(name)) = (self.active(), pack.filename()) else { return };
        let mut queue = cache.queue();
        let len = bytes.len() as u64;
        if queue.bytes + len > cache.queue_bytes_max {
            return;
        }
        queue.bytes += len;
        queue.writes.push_back(Write { name: name.to_owned(), offset, bytes });
        if !std::mem::replace(&mut queue.draining, true) {
            let task = Arc::clone(cache);
            cache.runtime.spawn_blocking(move || task.drain());
        }
    }

    /// Nothing waits to be written.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.0.as_ref().is_none_or(|cache| !cache.queue().draining)
    }

    /// Disk space in use.
    pub(super) fn bytes(&self) -> u64 {
        self.active().map_or(0, |cache| cache.index().bytes)
    }
}

impl CachedPack {
    /// The bytes at `offset`, unless they were surely never written. They prove nothing yet.
    pub(super) fn chunk(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        match self.file.read_exact_at(&mut bytes, offset) {
            // A tag of zeros is a hole: it saves the try to open it.
            Ok(()) => {
                let hole = bytes.last_chunk::<TAG_LEN>().is_none_or(|tag| *tag == [0; TAG_LEN]);
                (!hole).then_some(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => {
                self.cache.switch_off(&error);
                None
            }
        }
    }
}

impl Cache {
    fn open(dir: PathBuf, config: &DiskCacheConfig, runtime: Handle) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let lock = private().create(true).truncate(false).open(dir.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::Error(error) => error,
            fs::TryLockError::WouldBlock => {
                io::Error::other("another mount of this volume uses it; give this one its own")
            }
        })?;
        let mut index = Index { files: LruCache::unbounded(), bytes: 0 };
        for (name, bytes) in scan(&dir)? {
            index.set(&name, bytes);
        }
        let cache = Self {
            dir,
            size_bytes: config.size_bytes,
            queue_bytes_max: config.queue_bytes_max,
            runtime,
            off: AtomicBool::new(false),
            index: Mutex::new(index),
            queue: Mutex::new(Queue::default()),
            _lock: lock,
        };
        cache.evict()?;
        Ok(cache)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Nothing under these locks panics halfway through a change.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits until nothing does.
    fn drain(&self) {
        loop {
            let write = {
                let mut queue = self.queue();
                let Some(write) = queue.writes.pop_front() else {
                    queue.draining = false;
                    return;
                };
                write
            };
            if !self.off.load(Relaxed)
                && let Err(error) = self.write(&write).and_then(|()| self.evict())
            {
                self.switch_off(&error);
            }
            // Counted until written, so that the bound is on memory in use.
            self.queue().bytes -= write.bytes.len() as u64;
        }
    }

    fn write(&self, write: &Write) -> io::Result<()> {
        let file = private().create(true).truncate(false).open(self.dir.join(&write.name))?;
        write_past_page_cache(&file, &write.bytes, write.offset)?;
        let bytes = file.metadata()?.blocks() * STAT_BLOCK;
        self.index().set(&write.name, bytes);
        Ok(())
    }

    /// Removes whole files, least recently used first, until the rest fits.
    fn evict(&self) -> io::Result<()> {
        loop {
            let name = {
                let mut index = self.index();
                if index.bytes <= self.size_bytes {
                    return Ok(());
                }
                let Some((name, bytes)) = index.files.pop_lru() else { return Ok(()) };
                index.bytes -= bytes;
                name
            };
            remove(&self.dir.join(name))?;
        }
    }

    fn switch_off(&self, error: &io::Error) {
        if self.off.swap(true, Relaxed) {
            return;
        }
        tracing::warn!(dir = %self.dir.display(), %error, "disk cache is off until the next mount");
        if error.kind() == io::ErrorKind::StorageFull {
            // What can be fetched again is the first to go on a full disk.
            let names: Vec<String> =
                self.index().files.iter().map(|(name, _)| name.clone()).collect();
            for name in names {
                let _ = remove(&self.dir.join(name));
            }
        }
    }
}

impl Index {
    fn set(&mut self, name: &str, bytes: u64) {
        let before = self.files.put(name.to_owned(), bytes).unwrap_or(0);
        self.bytes = self.bytes + bytes - before;
    }

    fn forget(&mut self, name: &str) {
        self.bytes -= self.files.pop(name).unwrap_or(0);
    }
}

/// Writes all of `bytes`, long ones without leaving them in the kernel's page cache, where they would push out what
/// programs use: what is read back from here soon is in memory above.
fn write_past_page_cache(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while bytes.len() >= UNCACHED_LEN_MIN {
        match pwritev2(file, &[IoSlice::new(bytes)], offset, RWF_DONTCACHE) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            // Before Linux 6.14, and on file systems that cannot.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => break,
            Err(error) => return Err(error.into()),
        }
    }
    file.write_all_at(bytes, offset)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

fn remove(path: &FilePath) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Name and disk space of each pack's file, least recently used first. Other files are not ours to count or remove.
fn scan(dir: &FilePath) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let ours = name.len() == 32 && name.bytes().all(|digit| digit.is_ascii_hexdigit());
        let metadata = entry.metadata()?;
        if ours && metadata.is_file() {
            let used = (metadata.atime(), metadata.atime_nsec());
            let written = (metadata.mtime(), metadata.mtime_nsec());
            found.push((used.max(written), name, metadata.blocks() * STAT_BLOCK));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name, bytes)| (name, bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MIB;

    const QUEUE_BYTES_MAX: u64 = 4 * MIB;

    #[tokio::test]
    async fn full_disk_gives_the_space_back_and_switches_the_cache_off() {
        let dir = tempfile::tempdir().unwrap();
        let config = DiskCacheConfig {
            dir: dir.path().to_owned(),
            size_bytes: MIB,
            queue_bytes_max: QUEUE_BYTES_MAX,
        };
        let disk = DiskCache::open(&config, VolumeId([9; 16]), Handle::current());
        let cache = disk.active().unwrap();
        let path = Path::from(format!("packs/ab/{}", "ab".repeat(16)));
        let name = path.filename().unwrap().to_owned();
        let bytes = Bytes::from_static(&[7; 100]);
        cache.write(&Write { name: name.clone(), offset: 4096, bytes }).unwrap();
        assert_eq!(disk.read(&path).unwrap().chunk(4096, 100).unwrap(), [7; 100]);
        assert!(disk.read(&path).unwrap().chunk(0, 100).is_none());
        let volume_dir = cache.dir.clone();
        cache.switch_off(&io::ErrorKind::StorageFull.into());
        assert!(!volume_dir.join(name).exists());
        assert!(!disk.has(&path) && disk.read(&path).is_none() && disk.bytes() == 0);
        disk.put(&path, 0, Bytes::from_static(b"x"));
        assert!(disk.is_idle());
    }

    #[tokio::test]
    async fn what_comes_faster_than_the_disk_writes_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let config = DiskCacheConfig {
            dir: dir.path().to_owned(),
            size_bytes: MIB,
            queue_bytes_max: QUEUE_BYTES_MAX,
        };
        let disk = DiskCache::open(&config, VolumeId([9; 16]), Handle::current());
        let cache = disk.active().unwrap();
        // As if a task were writing already.
        cache.queue().draining = true;
        let part = Bytes::from(vec![7; (QUEUE_BYTES_MAX / 4) as usize]);
        for _ in 0..10 {
            disk.put(&Path::from("packs/ab/abc"), 0, part.clone());
        }
        let queue = cache.queue();
        assert_eq!((queue.writes.len(), queue.bytes), (4, QUEUE_BYTES_MAX));
    }

    #[test]
    fn long_writes_past_the_page_cache_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = private()
            .read(true)
            .create(true)
            .truncate(false)
            .open(dir.path().join("pack"))
            .unwrap();
        let bytes: Vec<u8> = (0..3 * UNCACHED_LEN_MIN + 777).map(|i| (i % 251) as u8).collect();
        write_past_page_cache(&file, &bytes, 123).unwrap();
        write_past_page_cache(&file, &bytes[..500], 123 + bytes.len() as u64).unwrap();
        let mut back = vec![0; bytes.len() + 500];
        file.read_exact_at(&mut back, 123).unwrap();
        assert_eq!((&back[..bytes.len()], &back[bytes.len()..]), (&bytes[..], &bytes[..500]));
    }
}
