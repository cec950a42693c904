//! The parts of a mount, put together in the one order that is safe.
//!
//! The mount point is looked at before anything is changed, the key is tried
//! before the lease is taken, and metadata is compared with the pin before a
//! single file is shown.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::open::{Storage, open_storage};
use super::signals::Signals;
use super::{DaemonError, FILE_SYSTEM_TYPE, Plan, registry, system};
use crate::base::{Clock, SystemClock, WriterEpoch};
use crate::config::Config;
use crate::data::{BlockReader, Compression, DiskCacheConfig, PackContext, ReaderConfig, Uploader};
use crate::format::header;
use crate::fs::{self, FileSystem, FsParts, Records};
use crate::fuse::{Caching, FuseError, FuseOptions, mount_type_at};
use crate::gc::{Collector, GcParts};
use crate::keys::Purpose;
use crate::meta::{MetaError, SlateLook, SlateMeta, SlateOptions, SlateReader, View};
use crate::store::SealedStore;
use crate::volume::{Lease, Volume};

/// How long metadata may take to open, replay of a killed writer's log included.
const META_DEADLINE: Duration = Duration::from_mins(5);

/// Everything that a mount consists of, before the kernel sees it.
pub(super) struct Assembled {
    pub storage: Storage,
    pub volume: Volume,
    pub pinned: bool,
    pub fs: FileSystem,
    pub reader: Arc<BlockReader>,
    /// `None` on a read-only mount.
    pub collector: Option<Arc<Collector>>,
    /// The metadata engine's store; `None` on a read-only mount.
    pub sealed: Option<Arc<SealedStore>>,
    /// `None` on a read-only mount.
    pub lease: Option<Lease>,
    /// What a read-only mount follows the writer with.
    pub follower: Option<Arc<SlateReader>>,
    pub fuse: FuseOptions,
    pub warnings: Vec<String>,
}

/// Opens everything; what was taken is given back when a later step fails or a signal comes.
///
/// # Errors
/// Any [`DaemonError`], naming what to do.
pub(super) async fn assemble(
    plan: &Plan,
    background: Handle,
    signals: &mut Signals,
) -> Result<Assembled, DaemonError> {
    let fuse = fuse_options(plan)?;
    let (mut opening, pinned) = tokio::select! {
        opening = open(plan, &fuse) => opening?,
        _ = signals.next() => return Err(DaemonError::Interrupted),
    };
    // On the heap: what opening holds is large.
    let opened = tokio::select! {
        opened = Box::pin(opening.open_fs(background)) => opened,
        _ = signals.next() => Err(DaemonError::Interrupted),
    };
    match opened {
        Ok(Parts { fs, reader, collector }) => {
            let Opening { storage, volume, sealed, lease, follower, warnings, .. } = opening;
            Ok(Assembled {
                storage,
                volume,
                pinned,
                fs,
                reader,
                collector,
                sealed,
                lease,
                follower,
                fuse,
                warnings,
            })
        }
        Err(error) => {
            tokio::select! {
                () = opening.give_back() => {}
                // Nobody is made to wait for a store that does not answer.
                _ = signals.next() => {}
            }
            Err(error)
        }
    }
}

/// Opens the volume; takes nothing yet. Also whether this machine knew it.
async fn open<'a>(plan: &'a Plan, fuse: &FuseOptions) -> Result<(Opening<'a>, bool), DaemonError> {
    check_mountpoint(&plan.mountpoint, fuse.non_empty)?;
    let storage = open_storage(&plan.config).await?;
    open_in(plan, storage).await
}

/// Nothing is written before there is a volume that the key opens. What needs no more than that goes out at
/// once: here metadata is read as it is now, then the store is tried out while the lease is taken.
async fn open_in(plan: &Plan, storage: Storage) -> Result<(Opening<'_>, bool), DaemonError> {
    let key = plan.key.clone();
    let secret = blocking(move || key.secret(Purpose::Unlock)).await??;
    let pin = storage.pin()?;
    let expected = pin.as_ref().filter(|_| !plan.accept_rollback);
    let (volume, writing) = if plan.config.mount.read_only {
        (storage.open(&secret, expected).await?, None)
    } else {
        let volume = storage.open(&secret, expected).await?;
        let sealed = storage.sealed(&volume);
        let mut metadata = JoinSet::new();
        metadata.spawn(in_time(SlateLook::new(sealed.clone()).map(Ok)));
        (volume, Some(Writing { sealed, metadata }))
    };
    drop(secret);
    let mut warnings = Vec::new();
    if pin.is_none() {
        warnings.push("this machine has not seen the volume before: from now on a rollback of the bucket is noticed".to_owned());
    }
    let (sealed, lease, follower) = (None, None, None);
    let opening = Opening { plan, storage, volume, writing, warnings, sealed, lease, follower };
    Ok((opening, pin.is_some()))
}

/// What is known before a mount takes the lease.
struct Writing {
    sealed: Arc<SealedStore>,
    /// One task: nobody waits for it before the lease is taken.
    metadata: JoinSet<Result<SlateLook, MetaError>>,
}

/// A mount under way: the volume is open, nothing is shown yet.
struct Opening<'a> {
    plan: &'a Plan,
    storage: Storage,
    volume: Volume,
    /// `None` on a read-only mount, and once it is used.
    writing: Option<Writing>,
    warnings: Vec<String>,
    sealed: Option<Arc<SealedStore>>,
    lease: Option<Lease>,
    follower: Option<Arc<SlateReader>>,
}

/// The file system and what works beside it.
struct Parts {
    fs: FileSystem,
    reader: Arc<BlockReader>,
    collector: Option<Arc<Collector>>,
}

impl Opening<'_> {
    async fn open_fs(&mut self, background: Handle) -> Result<Parts, DaemonError> {
        let config = &self.plan.config;
        let (records, writer) = match self.writing.take() {
            None => (self.open_reader(background).await?, WriterEpoch(0)),
            Some(writing) => Box::pin(self.open_writer(writing, background)).await?,
        };
        if let Err(error) = self.check_pin(&records).await {
            if let Records::Writer(engine) = &records {
                // The engine's own trouble would hide the reason.
                let _ = engine.close().await;
            }
            return Err(error);
        }
        let packs = Arc::new(PackContext::new(
            self.volume.id(),
            self.volume.data_keys(),
            self.volume.names_key(),
            compression(self.volume.params().compression),
        ));
        let reader = Arc::new(BlockReader::new(
            Arc::clone(&self.storage.store),
            Arc::clone(&packs),
            reader_config(config)?,
            Handle::current(),
        ));
        let uploader =
            Arc::new(Uploader::new(Arc::clone(&self.storage.store), Uploader::PARALLEL_DEFAULT));
        let engine = match &records {
            Records::Writer(engine) => Some(Arc::clone(engine)),
            Records::Reader(_) => None,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let fs = FileSystem::mount(FsParts {
            records,
            reader: Arc::clone(&reader),
            packs: Arc::clone(&packs),
            uploader,
            names: self.volume.names_key(),
            writer,
            block_size: self.volume.params().block_size,
            config: config.fs_config(),
            clock: Arc::clone(&clock),
            runtime: Handle::current(),
        })
        .await?;
        let collector = engine.map(|meta| {
            let (fs, reader) = (fs.clone(), Arc::clone(&reader));
            let store = Arc::clone(&self.storage.store);
            Arc::new(Collector::new(GcParts { fs, meta, packs, reader, store, clock }))
        });
        Ok(Parts { fs, reader, collector })
    }

    async fn open_writer(
        &mut self,
        writing: Writing,
        background: Handle,
    ) -> Result<(Records, WriterEpoch), DaemonError> {
        let Writing { sealed, mut metadata } = writing;
        let place = self.plan.mountpoint.display().to_string();
        let site = self.storage.lease_site(&self.volume);
        let taken = Lease::acquire(site, &place, self.plan.takeover);
        let (taken, tried) = if self.plan.takeover {
            // Who has it now turns read-only: not for a mount that the store then refuses.
            let tried = self.storage.try_out().await?;
            (taken.await, Ok(tried))
        } else {
            tokio::join!(taken, self.storage.try_out())
        };
        // Kept first: it is given back whatever else went wrong.
        let taken = taken.map(|lease| self.lease.insert(lease));
        let tried = tried?;
        let lease = match taken {
            Ok(lease) => lease,
            Err(source) => {
                // What is wrong comes first; a probe left behind is small and harmless.
                let _ = tried.remove(&*self.storage.store).await;
                return Err(self.storage.lease_error(source));
            }
        };
        let report = tried.report;
        if !report.conditional_create {
            self.warnings.push("the store has no conditional writes (store.single_machine): two machines that mount this volume at once would damage it".to_owned());
        }
        if let Some(other) = lease.replaced() {
            tracing::warn!(host = other.host, pid = other.pid, "took the volume over");
        }
        let before = self.volume.header_version();
        let refreshed = self.volume.refresh();
        let (refreshed, removed) = tokio::join!(refreshed, tried.remove(&*self.storage.store));
        refreshed.map_err(|source| self.storage.volume_error(source))?;
        removed?;
        if self.volume.header_version() != before {
            // Sealed with the key of now, should a rekey have ended in between.
            lease.heartbeat().await.map_err(|source| self.storage.lease_error(source))?;
        }
        let mut options = SlateOptions::new(background);
        options.conditional_overwrites = report.conditional_update;
        options.conditional_creates = report.conditional_create;
        self.sealed = Some(Arc::clone(&sealed));
        // Without conditions nothing would tell that another mount ended after the look.
        let meta = if report.conditional_create && lease.was_free() {
            let looked = metadata.join_next().await.and_then(Result::ok);
            let looked = looked.ok_or(DaemonError::Panicked)?;
            let looked = looked.map_err(|source| self.storage.meta_error(source))?;
            Box::pin(in_time(SlateMeta::open_seen(looked, options))).await
        } else {
            drop(metadata);
            Box::pin(in_time(SlateMeta::open(sealed, options))).await
        };
        let meta = meta.map_err(|source| self.storage.meta_error(source))?;
        lease.set_writer_epoch(meta.writer_epoch());
        let writer = meta.writer_epoch();
        Ok((Records::Writer(Arc::new(meta)), writer))
    }

    async fn open_reader(&mut self, background: Handle) -> Result<Records, DaemonError> {
        let options = SlateOptions::new(background);
        let sealed = self.storage.sealed(&self.volume);
        let reader = in_time(SlateReader::open(sealed, options, View::Latest))
            .await
            .map_err(|source| self.storage.meta_error(source))?;
        let reader = Arc::new(reader);
        self.follower = Some(Arc::clone(&reader));
        Ok(Records::Reader(reader))
    }

    /// The last commit must not be behind what this machine saw; then it is what was seen.
    async fn check_pin(&self, records: &Records) -> Result<(), DaemonError> {
        let counters = match records {
            Records::Writer(engine) => fs::read_counters(&**engine).await?,
            Records::Reader(engine) => fs::read_counters(&**engine).await?,
        };
        let Storage { pins, location, .. } = &self.storage;
        let seen = self.volume.pin(counters.commit);
        let checked = if self.plan.accept_rollback {
            pins.reset(location, &seen)
        } else {
            match pins.load(location) {
                Ok(Some(pin)) => pin.check(&seen).and_then(|()| pins.record(location, &seen)),
                Ok(None) => pins.record(location, &seen),
                Err(error) => Err(error),
            }
        };
        checked.map_err(|source| self.storage.pin_error(source))
    }

    async fn give_back(&mut self) {
        if let Some(mut lease) = self.lease.take()
            && let Err(error) = lease.release().await
        {
            tracing::warn!(%error, "the lease could not be released: it becomes free by its age");
        }
    }
}

async fn in_time<T>(open: impl Future<Output = Result<T, MetaError>>) -> Result<T, MetaError> {
    match tokio::time::timeout(META_DEADLINE, open).await {
        Ok(result) => result,
        Err(elapsed) => Err(MetaError::Unavailable { doing: "opening", source: Arc::new(elapsed) }),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DaemonError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| DaemonError::Panicked)
}

/// Refuses a mount point that cannot be used, before anything else is touched;
/// a mount that a dead daemon of ours left behind is taken away.
fn check_mountpoint(path: &Path, non_empty: bool) -> Result<(), DaemonError> {
    if let Some(entry) = registry::find(path).filter(|entry| entry.mountpoint == path) {
        return Err(DaemonError::AlreadyMounted { path: path.to_owned(), pid: entry.pid });
    }
    let top = mount_type_at(path).ok().flatten();
    let is_ours = top.as_deref() == Some(FILE_SYSTEM_TYPE);
    let path = || path.to_owned();
    let failed =
        |source: io::Error| DaemonError::Fuse(FuseError::MountPoint { path: path(), source });
    let is_dir = match std::fs::metadata(path()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) && is_ours => {
            system::unmount(&path(), true).map_err(failed)?;
            tracing::warn!("took away the mount that a dead daemon left behind");
            std::fs::metadata(path()).map_err(failed)?.is_dir()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FuseError::MountPointMissing { path: path() }.into());
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(FuseError::MountPointBusy { path: path() }.into());
        }
        other => other.map_err(failed)?.is_dir(),
    };
    // Over something else only where the user insists.
    if top.is_some() && !is_ours && !non_empty {
        return Err(FuseError::MountPointBusy { path: path() }.into());
    }
    if !is_dir {
        return Err(FuseError::MountPointNotDirectory { path: path() }.into());
    }
    if !non_empty && std::fs::read_dir(path()).map_err(failed)?.next().is_some() {
        return Err(FuseError::MountPointNotEmpty { path: path() }.into());
    }
    Ok(())
}

fn fuse_options(plan: &Plan) -> Result<FuseOptions, DaemonError> {
    let config = &plan.config;
    let source = config.url()?.to_string();
    let mut options = if config.mount.read_only {
        FuseOptions::follower(&plan.mountpoint, source)
    } else {
        FuseOptions::writer(&plan.mountpoint, source)
    };
    if config.write.quota.is_some() && !config.mount.read_only {
        // What the kernel had collected first could not be refused to the program any more.
        options.caching = Caching::WriteThrough;
    }
    options.background = config.shares().kernel_requests;
    options.allow_other = config.mount.allow_other;
    options.uid = config.mount.uid;
    options.gid = config.mount.gid;
    for option in &plan.mount_options {
        options.add(option)?;
    }
    Ok(options)
}

fn reader_config(config: &Config) -> Result<ReaderConfig, DaemonError> {
    let disk = config.cache.disk_dir()?;
    let shares = config.shares();
    let size_bytes = config.cache.disk_size.0;
    let queue_bytes_max = shares.disk_queue_bytes;
    Ok(ReaderConfig {
        memory_bytes: shares.cache_bytes,
        disk: disk.map(|dir| DiskCacheConfig { dir, size_bytes, queue_bytes_max }),
        ..ReaderConfig::default()
    })
}

fn compression(chosen: header::Compression) -> Compression {
    match chosen {
        header::Compression::None => Compression::None,
        header::Compression::Zstd { level } => Compression::Zstd { level: i32::from(level) },
    }
}

#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_that_cannot_be_used_are_refused_before_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check_mountpoint(&dir.path().join("x"), false).unwrap_err();
        assert!(matches!(missing, DaemonError::Fuse(FuseError::MountPointMissing { .. })));
        check_mountpoint(dir.path(), false).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let no_dir = check_mountpoint(&file, false).unwrap_err();
        assert!(matches!(no_dir, DaemonError::Fuse(FuseError::MountPointNotDirectory { .. })));
        let full = check_mountpoint(dir.path(), false).unwrap_err();
        assert!(matches!(full, DaemonError::Fuse(FuseError::MountPointNotEmpty { .. })));
        check_mountpoint(dir.path(), true).unwrap();
    }
}
