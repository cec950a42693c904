//! Rekeys of whole volumes: header, metadata engine, packs.

use std::sync::Arc;

use futures::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::*;
use crate::base::{Epoch, SystemClock};
use crate::crypto::{ObjectKind, SecretKey};
use crate::data::{BlockReader, Compression, PackContext, ReaderConfig, Uploader};
use crate::format::header::VolumeParams;
use crate::fs::{FsConfig, FsParts, Records};
use crate::gc::rekey::{RekeyParts, RekeyPolicy, RekeyStage, Rekeyer};
use crate::keys::{NewSlot, Secret};
use crate::meta::{SlateMeta, SlateOptions, SlateReader, View};
use crate::store::SealedStore;
use crate::store::object_store::ObjectStore;
use crate::store::object_store::memory::InMemory;
use crate::volume::{Lease, LeaseSite, Pin, Volume};

const AT_ONCE: RekeyPolicy = RekeyPolicy { rate: None, keep: Duration::ZERO };

fn secret() -> Secret {
    Secret::Keyfile(SecretKey::from_bytes([3; 32]))
}

/// A volume with its header, mounted without a kernel.
struct Mounted {
    fs: FileSystem,
    rekeyer: Arc<Rekeyer>,
}

async fn new_volume(store: &Arc<dyn ObjectStore>) {
    let slot = NewSlot { secret: secret(), label: String::new() };
    let params = VolumeParams::default();
    let volume = Volume::create(Arc::clone(store), params, &[slot], &SystemClock).await.unwrap();
    let meta = SlateMeta::open(sealed(store, &volume), options()).await.unwrap();
    crate::fs::format_volume(&meta, &SystemClock, 0, 0).await.unwrap();
    meta.close().await.unwrap();
}

fn options() -> SlateOptions {
    SlateOptions::new(Handle::current()).busy()
}

fn sealed(store: &Arc<dyn ObjectStore>, volume: &Volume) -> Arc<SealedStore> {
    let (keys, id) = (volume.data_keys(), volume.id());
    Arc::new(SealedStore::new(Arc::clone(store), keys, id, ObjectKind::Metadata))
}

async fn mount(store: &Arc<dyn ObjectStore>) -> Mounted {
    mount_and(store, |_| {}).await
}

/// `changed` is called when the new epoch has begun, and when it is the only one.
async fn mount_and(
    store: &Arc<dyn ObjectStore>,
    changed: impl Fn(Pin) + Send + Sync + 'static,
) -> Mounted {
    let volume = Volume::open(Arc::clone(store), &secret(), None).await.unwrap();
    let (keys, id) = (volume.data_keys(), volume.id());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let site = LeaseSite::new(Arc::clone(store), id, keys.clone(), Arc::clone(&clock));
    let lease = Lease::acquire(site, "here", true).await.unwrap();
    let metadata = sealed(store, &volume);
    let engine = SlateMeta::open(Arc::clone(&metadata) as _, options()).await.unwrap();
    let writer = engine.writer_epoch();
    let meta: Arc<dyn MetaStore> = Arc::new(engine);
    let packs = Arc::new(PackContext::new(id, keys, volume.names_key(), Compression::default()));
    let reader = BlockReader::new(
        Arc::clone(store),
        Arc::clone(&packs),
        ReaderConfig { memory_bytes: MIB, ..ReaderConfig::default() },
        Handle::current(),
    );
    let reader = Arc::new(reader);
    let fs = FileSystem::mount(FsParts {
        records: Records::Writer(Arc::clone(&meta)),
        reader: Arc::clone(&reader),
        packs: Arc::clone(&packs),
        uploader: Arc::new(Uploader::new(Arc::clone(store), 4)),
        names: volume.names_key(),
        writer,
        block_size: volume.params().block_size,
        config: FsConfig { pack_bytes: MIB, ..FsConfig::default() },
        clock: Arc::clone(&clock),
        runtime: Handle::current(),
    });
    let fs = fs.await.unwrap();
    let parts = GcParts { fs: fs.clone(), meta, packs, reader, store: Arc::clone(store), clock };
    let collector = Arc::new(Collector::new(parts));
    let volume = Arc::new(Mutex::new(volume));
    let lease = Arc::new(Mutex::new(lease));
    let parts = RekeyParts { collector, volume, lease, metadata };
    Mounted { fs, rekeyer: Arc::new(Rekeyer::new(parts, changed)) }
}

async fn take_over(store: Arc<dyn ObjectStore>) {
    let volume = Volume::open(Arc::clone(&store), &secret(), None).await.unwrap();
    let site = LeaseSite::new(store, volume.id(), volume.data_keys(), Arc::new(SystemClock));
    Lease::acquire(site, "there", true).await.unwrap();
}

/// The epochs in the headers of all sealed objects.
async fn epochs(store: &Arc<dyn ObjectStore>) -> std::collections::BTreeSet<u32> {
    let mut epochs = std::collections::BTreeSet::new();
    for object in store.list(None).try_collect::<Vec<_>>().await.unwrap() {
        let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
        if bytes.starts_with(b"LIDFS") {
            epochs.insert(u32::from_le_bytes(bytes[8..12].try_into().unwrap()));
        }
    }
    epochs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rekey_nothing_is_sealed_with_the_old_key_and_everything_is_there() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    new_volume(&store).await;
    let mounted = mount(&store).await;
    make(&mounted.fs, "large", 1, 3 * MIB).await;
    make(&mounted.fs, "small", 2, 100).await;
    mounted.fs.flush().await.unwrap();
    make(&mounted.fs, "not stored yet", 3, 200 * KIB).await;
    assert_eq!(epochs(&store).await.into_iter().collect::<Vec<_>>(), [1]);

    mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap();
    assert_eq!(mounted.rekeyer.figures().stage, RekeyStage::Done);
    make(&mounted.fs, "later", 4, MIB).await;
    mounted.fs.close().await.unwrap();
    assert_eq!(epochs(&store).await.into_iter().collect::<Vec<_>>(), [2]);
    let volume = Volume::open(Arc::clone(&store), &secret(), None).await.unwrap();
    assert_eq!(volume.epochs(), [Epoch(2)]);
    drop(mounted);

    let mounted = mount(&store).await;
    let files = [("large", 1, 3 * MIB), ("small", 2, 100), ("not stored yet", 3, 200 * KIB)];
    for (name, seed, len) in files.into_iter().chain([("later", 4, MIB)]) {
        let inode = lookup(&mounted.fs, ROOT, name).await.unwrap().inode;
        assert!(read_all(&mounted.fs, inode).await == noise(seed, len), "{name}");
    }
    mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap();
    mounted.fs.close().await.unwrap();
    assert_eq!(epochs(&store).await.into_iter().collect::<Vec<_>>(), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rekey_that_was_begun_goes_on_in_the_next_mount_with_the_same_epoch() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    new_volume(&store).await;
    let mounted = mount(&store).await;
    make(&mounted.fs, "file", 1, 3 * MIB).await;
    mounted.fs.flush().await.unwrap();
    // Begun, and something is sealed with the new key; then the machine is gone.
    mounted.rekeyer.parts.volume.lock().await.begin_epoch().await.unwrap();
    make(&mounted.fs, "later", 2, MIB).await;
    mounted.fs.flush().await.unwrap();
    assert_eq!(epochs(&store).await.into_iter().collect::<Vec<_>>(), [1, 2]);
    drop(mounted);

    let mounted = mount(&store).await;
    assert!(mounted.rekeyer.is_unfinished().await);
    mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap();
    assert!(!mounted.rekeyer.is_unfinished().await);
    let file = lookup(&mounted.fs, ROOT, "file").await.unwrap().inode;
    assert!(read_all(&mounted.fs, file).await == noise(1, 3 * MIB));
    mounted.fs.close().await.unwrap();
    assert_eq!(epochs(&store).await.into_iter().collect::<Vec<_>>(), [2]);
}

/// With the old key its content would go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_a_pack_without_a_record_needs_is_kept() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    new_volume(&store).await;
    let mounted = mount(&store).await;
    make(&mounted.fs, "file", 1, MIB).await;
    mounted.fs.flush().await.unwrap();
    let (pack, _) = mounted.fs.packs(PackNumber(0)).await.unwrap()[0];
    let mut batch = crate::meta::Batch::new();
    batch.delete(Key::pack(pack).as_bytes().to_vec());
    mounted.rekeyer.parts.collector.parts.meta.apply(batch).await.unwrap();
    mounted.rekeyer.parts.collector.parts.meta.flush().await.unwrap();

    let error = mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap_err();
    assert!(error.to_string().contains("fsck --repair"), "{error}");
    let volume = Volume::open(Arc::clone(&store), &secret(), None).await.unwrap();
    assert_eq!(volume.epochs(), [Epoch(1), Epoch(2)]);
    let file = lookup(&mounted.fs, ROOT, "file").await.unwrap().inode;
    assert!(read_all(&mounted.fs, file).await == noise(1, MIB));
}

/// Who took the lease may have read the header before the epoch began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_kept_once_somebody_else_has_taken_the_lease() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    new_volume(&store).await;
    let bucket = Arc::clone(&store);
    let taken = move |_| {
        tokio::task::block_in_place(|| Handle::current().block_on(take_over(Arc::clone(&bucket))));
    };
    let mounted = mount_and(&store, taken).await;
    make(&mounted.fs, "file", 1, MIB).await;
    let error = mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap_err();
    assert!(matches!(error, GcError::Ended), "{error}");
    let volume = Volume::open(Arc::clone(&store), &secret(), None).await.unwrap();
    assert_eq!(volume.epochs(), [Epoch(1), Epoch(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_lost_the_lease_begins_no_epoch() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    new_volume(&store).await;
    let mounted = mount(&store).await;
    take_over(Arc::clone(&store)).await;
    let error = mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap_err();
    assert!(matches!(error, GcError::Ended), "{error}");
    let volume = Volume::open(Arc::clone(&store), &secret(), None).await.unwrap();
    assert_eq!(volume.epochs(), [Epoch(1)]);
}

/// It has read the header before the new epoch was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_reads_on_through_a_rekey() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    new_volume(&store).await;
    let mounted = mount(&store).await;
    make(&mounted.fs, "file", 1, MIB).await;
    mounted.fs.flush().await.unwrap();
    let volume = Volume::open(Arc::clone(&store), &secret(), None).await.unwrap();
    let metadata = SealedStore::clone(&sealed(&store, &volume));
    let metadata = metadata.with_loader(Arc::new(volume.key_loader()));
    let mut options = options();
    options.follow_interval = Duration::from_millis(50);
    let follower = SlateReader::open(Arc::new(metadata), options, View::Latest).await.unwrap();
    mounted.rekeyer.rekey_anew(AT_ONCE).await.unwrap();
    make(&mounted.fs, "later", 2, MIB).await;
    mounted.fs.flush().await.unwrap();
    let counters = crate::fs::read_counters(&*mounted.rekeyer.parts.collector.parts.meta);
    let written = counters.await.unwrap().commit;
    let mut tries = 0;
    while crate::fs::read_counters(&follower).await.unwrap().commit < written {
        tries += 1;
        assert!(tries < 200, "the follower does not get on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(volume.data_keys().current().epoch, Epoch(2));
}
