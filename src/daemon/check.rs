//! Checks of a volume that is not mounted here: `lidfs fsck` and `lidfs scrub`.
//!
//! A check reads one state and disturbs nobody; a repair is a writer like a mount, with the lease
//! and the engine's fence; a scrub follows whoever writes.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::DaemonError;
use super::open::{Storage, open_volume};
use crate::base::{Clock as _, CommitNumber, ErrorKind, Inode, SystemClock};
use crate::check::{
    self, Bucket, CheckError, DamagedObject, Facts, Means, Mended, Progress, Report, ScrubOptions,
    Scrubbed,
};
use crate::config::{Config, effective_gid, effective_uid};
use crate::data::{Compression, PackContext};
use crate::format::{Counters, Key};
use crate::keys::Secret;
use crate::meta::{MetaRead, MetaStore as _, SlateMeta, SlateOptions, SlateReader, View};
use crate::store;
use crate::volume::{HEARTBEAT_INTERVAL, LEASE_NAME, Lease, LeaseError, Volume};

/// A check looks at one state: it must not take longer.
const ONE_STATE: Duration = Duration::from_hours(12);

/// A reader that follows a writer is behind by less.
const LAG: Duration = Duration::from_secs(15);

/// What a check or a repair found.
#[derive(Debug)]
pub struct Checked {
    /// What was found first.
    pub before: Report,
    /// What is left after a repair.
    pub after: Option<Report>,
    /// There was more to mend than one repair does: another one goes on.
    pub is_unfinished: bool,
    /// Paths of the inodes that they name: for the terminal.
    pub paths: BTreeMap<Inode, String>,
    /// What failed afterwards: it changes nothing of what was found and mended.
    pub warnings: Vec<String>,
}

impl Checked {
    fn warn(&mut self, what: &str, error: &dyn Error) {
        self.warnings.push(format!("{what}: {}", store::sentence(error)));
    }

    /// Looks the paths up. Without them, numbers have to do.
    async fn look_up(&mut self, meta: &dyn MetaRead) {
        let mut inodes = self.before.inodes();
        inodes.extend(self.after.iter().flat_map(Report::inodes));
        match check::paths(meta, &inodes).await {
            Ok(paths) => self.paths = paths,
            Err(error) => self.warn("the paths of files could not be looked up", &error),
        }
    }
}

/// Checks the metadata of a volume, mounted or not.
///
/// # Errors
/// It cannot be opened or read.
pub async fn check(config: &Config, secret: &Secret) -> Result<Checked, DaemonError> {
    let (storage, volume) = open_volume(config, secret).await?;
    match Box::pin(check_state(&storage, &volume)).await {
        // A writer may have replaced and deleted a table meanwhile. What the next state misses too is lost.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Box::pin(check_state(&storage, &volume)).await
        }
        other => other,
    }
}

/// Checks the newest state.
async fn check_state(storage: &Storage, volume: &Volume) -> Result<Checked, DaemonError> {
    let meta = follow(storage, volume, Some(ONE_STATE)).await?;
    check_pin(storage, volume, &meta).await?;
    let before = check::fsck_beside(&meta, &facts(volume)).await?;
    let (paths, warnings) = (BTreeMap::new(), Vec::new());
    let mut checked = Checked { before, after: None, is_unfinished: false, paths, warnings };
    checked.look_up(&meta).await;
    // What was read is read.
    let _ = meta.close().await;
    Ok(checked)
}

/// Checks the metadata of a volume that nobody writes to, and mends what can be mended safely. With
/// `takeover` a mount that does write to it is stopped.
///
/// # Errors
/// It is mounted read-write, cannot be opened, read or written.
pub async fn mend(
    config: &Config,
    secret: &Secret,
    takeover: bool,
) -> Result<Checked, DaemonError> {
    let (storage, mut volume) = open_volume(config, secret).await?;
    let report = storage.probe().await?;
    let site = storage.lease_site(&volume);
    let lease = Lease::acquire(site, "lidfs fsck --repair", takeover).await;
    let mut lease = lease.map_err(|source| storage.lease_error(source))?;
    let mut options = SlateOptions::new(Handle::current());
    options.conditional_overwrites = report.conditional_update;
    options.conditional_creates = report.conditional_create;
    let mended = match volume.refresh().await {
        Ok(()) => mend_held(&storage, &volume, options, &mut lease).await,
        Err(source) => Err(storage.volume_error(source)),
    };
    let released = lease.release().await.map_err(|source| storage.lease_error(source));
    let mut checked = mended?;
    if let Err(error) = released {
        checked.warn("the lease could not be given up, so the next mount waits for it", &error);
    }
    Ok(checked)
}

/// A repair under a lease.
async fn mend_held(
    storage: &Storage,
    volume: &Volume,
    options: SlateOptions,
    lease: &mut Lease,
) -> Result<Checked, DaemonError> {
    let failed = |source| storage.meta_error(source);
    let meta = Box::pin(SlateMeta::open(storage.sealed(volume), options)).await.map_err(failed)?;
    lease.set_writer_epoch(meta.writer_epoch());
    let mended = mend_open(storage, volume, &meta, lease).await;
    let closed = meta.close().await.map_err(failed);
    let mut checked = mended?;
    // What was mended is in the bucket.
    if let Err(error) = closed {
        checked.warn("the metadata could not be closed", &error);
    }
    Ok(checked)
}

async fn mend_open(
    storage: &Storage,
    volume: &Volume,
    meta: &SlateMeta,
    lease: &mut Lease,
) -> Result<Checked, DaemonError> {
    check_pin(storage, volume, meta).await?;
    let means = Means {
        bucket: Some(bucket(storage, volume)),
        now: SystemClock.now(),
        commit_min: storage.pin()?.map_or(CommitNumber(0), |pin| pin.commit),
        owner: (effective_uid(), effective_gid()),
    };
    let facts = facts(volume);
    let mut work = std::pin::pin!(check::repair(meta, &facts, &means));
    let Mended { before, after, is_unfinished } = loop {
        tokio::select! {
            mended = &mut work => break mended?,
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => match lease.heartbeat().await {
                Err(error @ LeaseError::Lost { .. }) => return Err(storage.lease_error(error)),
                // The next one may get through; the engine's fence does not depend on it.
                Err(error) => tracing::warn!(%error, "no sign of life for the lease"),
                Ok(()) => {}
            },
        }
    };
    let (paths, warnings) = (BTreeMap::new(), Vec::new());
    let mut checked = Checked { before, after: Some(after), is_unfinished, paths, warnings };
    if let Err(error) = pin(storage, volume, meta).await {
        checked.warn("what was mended could not be remembered on this machine", &error);
    }
    checked.look_up(meta).await;
    Ok(checked)
}

/// Remembers the commit that the volume has now.
async fn pin(storage: &Storage, volume: &Volume, meta: &SlateMeta) -> Result<(), DaemonError> {
    let Some(counters) = counters(meta).await? else { return Ok(()) };
    let recorded = storage.pins.record(&storage.location, &volume.pin(counters.commit));
    recorded.map_err(|source| storage.pin_error(source))
}

/// Fetches and authenticates everything of a volume, mounted or not. How far it came is remembered
/// for the next time.
///
/// # Errors
/// It cannot be opened, or the store fails.
pub async fn scrub(
    config: &Config,
    secret: &Secret,
    rate: Option<u64>,
    restart: bool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Scrubbed, DaemonError> {
    // Header and keyring are authentic once it is open.
    let (storage, volume) = open_volume(config, secret).await?;
    let state = config.state.directory()?.join("scrub").join(format!("{}.json", volume.id()));
    let sealed = storage.sealed(&volume);
    let mut objects = check::scrub_metadata(&*storage.store, &*sealed, rate, progress).await?;
    match storage.lease_site(&volume).holder().await {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let (name, why) = (LEASE_NAME.to_owned(), error.to_string());
            objects.damaged.push(DamagedObject { name, why });
        }
        Err(error) => return Err(storage.lease_error(error)),
        Ok(_) => {}
    }
    let meta = match follow(&storage, &volume, None).await {
        // What is damaged says more than that it is.
        Err(error) if error.kind() == ErrorKind::Corrupt && !objects.damaged.is_empty() => {
            let metadata = Some(store::sentence(&error));
            return Ok(Scrubbed { objects, metadata, ..Scrubbed::default() });
        }
        other => other?,
    };
    match check_pin(&storage, &volume, &meta).await {
        // Where the metadata is damaged, the scrub tells.
        Err(DaemonError::Check(error)) if error.kind() == ErrorKind::Corrupt => {}
        other => other?,
    }
    let location = storage.location.clone();
    let now = SystemClock.now();
    let options = ScrubOptions { rate, state: Some(state), location, lag: LAG, restart, now };
    let bucket = bucket(&storage, &volume);
    let found = check::scrub(&meta, &bucket, &facts(&volume), &options, progress).await?;
    // What was read is read.
    let _ = meta.close().await;
    Ok(Scrubbed { objects, ..found })
}

fn facts(volume: &Volume) -> Facts {
    Facts { block_size: volume.params().block_size, names: Some(volume.names_key()) }
}

fn bucket(storage: &Storage, volume: &Volume) -> Bucket {
    // Nothing is packed, so nothing is compressed.
    let (keys, names) = (volume.data_keys(), volume.names_key());
    let packs = PackContext::new(volume.id(), keys, names, Compression::None);
    Bucket { store: Arc::clone(&storage.store), packs: Arc::new(packs) }
}

/// Metadata to read: it moves on with its writer every so often.
async fn follow(
    storage: &Storage,
    volume: &Volume,
    interval: Option<Duration>,
) -> Result<SlateReader, DaemonError> {
    let mut options = SlateOptions::new(Handle::current());
    options.follow_interval = interval.unwrap_or(options.follow_interval);
    SlateReader::open(storage.sealed(volume), options, View::Latest)
        .await
        .map_err(|source| storage.meta_error(source))
}

/// The counters, if they can be used.
async fn counters(meta: &dyn MetaRead) -> Result<Option<Counters>, DaemonError> {
    let value = meta.get(Key::counters().as_bytes()).await.map_err(CheckError::from)?;
    Ok(value.and_then(|value| Counters::decode(&value).ok()))
}

/// An older state than this machine saw is not one to be mended or trusted.
async fn check_pin(
    storage: &Storage,
    volume: &Volume,
    meta: &dyn MetaRead,
) -> Result<(), DaemonError> {
    let (Some(pin), Some(counters)) = (storage.pin()?, counters(meta).await?) else {
        return Ok(());
    };
    pin.check(&volume.pin(counters.commit)).map_err(|source| storage.pin_error(source))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::crypto::SecretKey;
    use crate::daemon::create;
    use crate::format::{FileKind, InodeRecord};
    use crate::keys::NewSlot;
    use crate::meta::Batch;

    fn volume_in(dir: &std::path::Path) -> (Config, NewSlot) {
        let mut config = Config::default();
        let url = format!("file://{}", dir.join("volume").display());
        config.volume.url = Some(url.parse().unwrap());
        config.state.dir = Some(dir.join("state"));
        let secret = Secret::Keyfile(SecretKey::from_bytes([1; 32]));
        (config, NewSlot { secret, label: String::new() })
    }

    async fn writer(config: &Config, slot: &NewSlot) -> (Storage, Volume, SlateMeta) {
        let (storage, volume) = open_volume(config, &slot.secret).await.unwrap();
        let options = SlateOptions::new(Handle::current());
        let meta = SlateMeta::open(storage.sealed(&volume), options).await.unwrap();
        (storage, volume, meta)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_in_a_bucket_is_checked_mended_and_scrubbed() {
        let dir = tempfile::tempdir().unwrap();
        let (config, slot) = volume_in(dir.path());
        create(&config, slot.clone()).await.unwrap();
        assert!(check(&config, &slot.secret).await.unwrap().before.is_clean());

        let (_, _, meta) = writer(&config, &slot).await;
        let key = Key::inode(Inode::ROOT);
        let value = meta.get(key.as_bytes()).await.unwrap().unwrap();
        let mut root = InodeRecord::decode(&value).unwrap();
        root.nlink = 9;
        let mut batch = Batch::new();
        batch.put(key.as_bytes().to_vec(), root.encode());
        meta.apply(batch).await.unwrap();
        meta.close().await.unwrap();

        let found = check(&config, &slot.secret).await.unwrap();
        assert_eq!(found.before.findings.len(), 1);
        assert_eq!(found.paths[&Inode::ROOT], "/");
        let mended = mend(&config, &slot.secret, false).await.unwrap();
        assert_eq!(mended.before.findings.len(), 1);
        assert!(mended.after.unwrap().is_clean());
        assert!(check(&config, &slot.secret).await.unwrap().before.is_clean());
        let found = scrub(&config, &slot.secret, None, false, &|_| {}).await.unwrap();
        assert!(found.is_clean() && found.records >= 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_after_a_repair_is_told_beside_what_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let (config, slot) = volume_in(dir.path());
        create(&config, slot.clone()).await.unwrap();
        let (_, _, meta) = writer(&config, &slot).await;
        let mut batch = Batch::new();
        batch.delete(Key::inode(Inode::ROOT).as_bytes().to_vec());
        meta.apply(batch).await.unwrap();
        meta.close().await.unwrap();
        // No pin can be written any more.
        let lock = dir.path().join("state/pins/pins.lock");
        std::fs::remove_file(&lock).unwrap();
        std::fs::create_dir(&lock).unwrap();
        let mended = mend(&config, &slot.secret, false).await.unwrap();
        assert!(!mended.before.is_clean() && mended.after.unwrap().is_clean());
        let [warning] = &mended.warnings[..] else { panic!("{:?}", mended.warnings) };
        assert!(warning.contains("pins.lock"), "{warning}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_that_somebody_writes_to_is_checked_and_not_mended() {
        let dir = tempfile::tempdir().unwrap();
        let (config, slot) = volume_in(dir.path());
        create(&config, slot.clone()).await.unwrap();
        let (storage, volume) = open_volume(&config, &slot.secret).await.unwrap();
        let site = storage.lease_site(&volume);
        let mut lease = Lease::acquire(site, "/mnt", false).await.unwrap();
        assert!(check(&config, &slot.secret).await.unwrap().before.is_clean());
        let error = mend(&config, &slot.secret, false).await.unwrap_err();
        assert!(matches!(error, DaemonError::Lease { .. }), "{error}");
        lease.release().await.unwrap();
        assert!(mend(&config, &slot.secret, false).await.unwrap().before.is_clean());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_check_beside_a_writer_that_commits_throughout_sees_one_state() {
        let dir = tempfile::tempdir().unwrap();
        let (config, slot) = volume_in(dir.path());
        create(&config, slot.clone()).await.unwrap();
        let (_, _, meta) = writer(&config, &slot).await;
        let write = async {
            let value = meta.get(Key::counters().as_bytes()).await.unwrap().unwrap();
            let mut counters = Counters::decode(&value).unwrap();
            let value = meta.get(Key::inode(Inode::ROOT).as_bytes()).await.unwrap().unwrap();
            let root = InodeRecord::decode(&value).unwrap();
            let orphan = InodeRecord {
                kind: FileKind::Regular,
                nlink: 0,
                parent: Inode(0),
                entries: 0,
                ..root
            };
            loop {
                let mut batch = Batch::new();
                for _ in 0..500 {
                    let inode = Inode(counters.next_inode);
                    batch.put(Key::inode(inode).as_bytes().to_vec(), orphan.encode());
                    batch.put(Key::orphan(inode).as_bytes().to_vec(), vec![1]);
                    counters.next_inode += 1;
                    counters.inodes += 1;
                }
                counters.commit.0 += 1;
                batch.put(Key::counters().as_bytes().to_vec(), counters.encode());
                meta.apply(batch).await.unwrap();
                meta.flush().await.unwrap();
            }
        };
        let check = async {
            for _ in 0..3 {
                let found = check(&config, &slot.secret).await.unwrap().before;
                assert!(found.is_clean(), "{:#?}", found.findings);
            }
        };
        tokio::select! {
            () = check => {}
            () = write => {}
        }
        meta.close().await.unwrap();
    }

    /// All files below `dir`.
    fn objects(dir: &std::path::Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
        }
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flipped_byte_of_any_object_of_the_metadata_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let (config, slot) = volume_in(dir.path());
        create(&config, slot.clone()).await.unwrap();
        let (storage, volume) = open_volume(&config, &slot.secret).await.unwrap();
        let mut lease = Lease::acquire(storage.lease_site(&volume), "/mnt", false).await.unwrap();
        lease.release().await.unwrap();
        let at = dir.path().join("volume");
        let scrub = async || Box::pin(scrub(&config, &slot.secret, None, false, &|_| {})).await;
        let clean = scrub().await.unwrap();
        assert!(clean.is_clean(), "{clean:?}");
        let mut paths = objects(&at.join("meta"));
        assert_eq!(paths.len() as u64, clean.objects.count);
        assert!(paths.len() > 2, "{paths:?}");
        paths.push(at.join(LEASE_NAME));
        for path in paths {
            let whole = std::fs::read(&path).unwrap();
            let name = path.strip_prefix(&at).unwrap().display().to_string();
            for position in [40, whole.len() / 2, whole.len() - 1] {
                let mut bytes = whole.clone();
                bytes[position] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                let found = scrub().await.unwrap();
                let damaged: Vec<_> =
                    found.objects.damaged.iter().map(|found| &found.name).collect();
                assert_eq!(damaged, [&name], "byte {position}");
            }
            std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            assert_eq!(scrub().await.unwrap().objects.damaged[0].name, name);
            std::fs::write(&path, whole).unwrap();
        }
        assert!(scrub().await.unwrap().is_clean());

        let header = at.join("lidfs.json");
        let text = std::fs::read_to_string(&header).unwrap();
        std::fs::write(&header, text.replacen("\"keyring\": \"", "\"keyring\": \"A", 1)).unwrap();
        let error = scrub().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
