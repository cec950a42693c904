//! The SlateDB engine against stores that count, fail, stall and stop.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use slatedb::VersionedCompactions;
use slatedb::object_store::ObjectStoreExt as _;
use slatedb::object_store::memory::InMemory;
use tokio::sync::Notify;

use super::settings::Bounds;
use super::testing::TestStore;
use super::*;
use crate::base::{Epoch, VolumeId};
use crate::crypto::{DataKey, DataKeys, ObjectKind, SecretKey};
use crate::meta::suite::{self, Engine};
use crate::store::SealedStore;
use crate::store::faulty::{Fault, FaultyStore, Op, Rule};

pub(super) fn options() -> SlateOptions {
    let mut options = SlateOptions::new(Handle::current());
    options.follow_interval = Duration::from_millis(50);
    options
}

/// Tables are read when they are needed, not before.
fn late() -> SlateOptions {
    let mut options = options();
    options.bounds.ahead_bytes = 0;
    options
}

struct Volume(Arc<dyn ObjectStore>);

#[async_trait]
impl Engine for Volume {
    async fn open(&self) -> Arc<dyn MetaStore> {
        Arc::new(SlateMeta::open(Arc::clone(&self.0), options()).await.unwrap())
    }

    async fn follow(&self) -> Arc<dyn MetaRead> {
        let store = Arc::clone(&self.0);
        Arc::new(SlateReader::open(store, options(), View::Latest).await.unwrap())
    }

    async fn open_checkpoint(&self, id: CheckpointId) -> Result<Arc<dyn MetaRead>, MetaError> {
        let view = View::Checkpoint(id);
        Ok(Arc::new(SlateReader::open(Arc::clone(&self.0), options(), view).await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slate_engine_passes_the_suite() {
    suite::all(async || Box::new(Volume(Arc::new(InMemory::new()))) as Box<dyn Engine>).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_does_not_authenticate_is_damage_and_no_outage() {
    let bucket = Arc::new(InMemory::new());
    let key = DataKey { epoch: Epoch(1), key: SecretKey::generate() };
    let keys = DataKeys::new(key, Vec::new());
    let sealed = || {
        let (keys, volume) = (keys.clone(), VolumeId([7; 16]));
        Arc::new(SealedStore::new(bucket.clone(), keys, volume, ObjectKind::Metadata))
    };
    SlateMeta::open(sealed(), options()).await.unwrap().close().await.unwrap();
    let manifests = bucket.list(Some(&"meta/manifest".into()));
    for manifest in manifests.try_collect::<Vec<_>>().await.unwrap() {
        let path = manifest.location;
        let mut bytes = bucket.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        bytes[100] ^= 1;
        bucket.put(&path, bytes.into()).await.unwrap();
    }
    let reader = SlateReader::open(sealed(), options(), View::Latest).await.err().unwrap();
    assert_eq!(reader.kind(), crate::base::ErrorKind::Corrupt, "{reader}");
    let writer = SlateMeta::open(sealed(), options()).await.err().unwrap();
    assert_eq!(writer.kind(), crate::base::ErrorKind::Corrupt, "{writer}");
}

const MINUTE: Duration = Duration::from_mins(1);

/// A writer on a runtime of its own, so that it can be killed.
struct Doomed {
    runtime: tokio::runtime::Runtime,
    store: TestStore,
    meta: Arc<SlateMeta>,
}

impl Doomed {
    fn open(bucket: &Arc<InMemory>, tune: impl FnOnce(&mut SlateOptions)) -> Self {
        let runtime = runtime();
        let store = TestStore::new(Arc::clone(bucket));
        let meta = runtime.block_on(async {
            let mut options = options();
            tune(&mut options);
            Arc::new(SlateMeta::open(store.boxed(), options).await.unwrap())
        });
        Self { runtime, store, meta }
    }

    /// Nothing of this writer reaches the bucket after this.
    fn kill(self) {
        self.store.cut_after(0, false);
        self.store.set_down(true);
        drop(self.meta);
        self.runtime.shutdown_timeout(MINUTE);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn small(options: &mut SlateOptions) {
    options.bounds = Bounds {
        table_bytes: 16 << 10,
        tables_max: 4,
        unflushed_bytes_max: 64 << 10,
        table_interval: Duration::from_millis(30),
        table_flushes: 4,
        compaction_poll: Duration::from_millis(40),
        ..Bounds::default()
    };
}

pub(super) fn numbered(number: u64, len: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put(format!("key {number:08}"), vec![number as u8; len]);
    batch.put("newest", number.to_be_bytes().to_vec());
    batch
}

#[test]
fn a_batch_larger_than_every_limit_is_there_whole_or_not_at_all_wherever_the_store_is_cut() {
    const RECORDS: usize = 64;
    let mut large = Batch::new();
    for record in 0..RECORDS {
        large.put(format!("large {record:02}"), vec![record as u8; 1 << 20]);
    }
    for writes in 0..64 {
        let bucket = Arc::new(InMemory::new());
        let doomed = Doomed::open(&bucket, small);
        let (meta, store) = (&doomed.meta, &doomed.store);
        let (acknowledged, ended) = doomed.runtime.block_on(async {
            meta.apply(numbered(0, 10)).await.unwrap();
            meta.flush().await.unwrap();
            store.cut_after(writes, writes % 2 == 1);
            let mut acknowledged = false;
            let work = async {
                meta.apply(large.clone()).await?;
                meta.flush().await?;
                acknowledged = true;
                meta.close().await
            };
            let ended = tokio::select! {
                done = work => { done.unwrap(); true }
                () = store.until_cut() => false,
            };
            (acknowledged, ended)
        });
        doomed.kill();

        runtime().block_on(async {
            let meta = SlateMeta::open(bucket, options()).await.unwrap();
            let found = meta.scan(b"large", b"largf", 2 * RECORDS).await.unwrap();
            assert!(found.is_empty() || found.len() == RECORDS, "cut at {writes}: {}", found.len());
            assert!(!acknowledged || found.len() == RECORDS, "cut at {writes}: lost");
            assert!(meta.get(b"key 00000000").await.unwrap().is_some(), "cut at {writes}");
            meta.close().await.unwrap();
        });
        if ended {
            assert!(writes > 3, "the cut was never met");
            return;
        }
    }
    panic!("the batch never went through");
}

#[test]
fn acknowledged_batches_survive_a_kill_under_backpressure_of_tables_and_log() {
    for kill_at in [1, 7, 40, 150] {
        let bucket = Arc::new(InMemory::new());
        let doomed = Doomed::open(&bucket, small);
        doomed.store.delay_puts(Duration::from_millis(3));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        doomed.runtime.block_on(async {
            let (next, killed) = (AtomicU64::new(0), Notify::new());
            let writer = || async {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    doomed.meta.apply(numbered(number, 6000)).await.unwrap();
                    doomed.meta.flush().await.unwrap();
                    let mut acknowledged = acknowledged.lock().unwrap();
                    acknowledged.push(number);
                    if acknowledged.len() >= kill_at {
                        killed.notify_one();
                    }
                }
            };
            let writers = futures::future::join_all((0..8).map(|_| writer()));
            tokio::select! {
                _ = writers => unreachable!("writers never end"),
                () = killed.notified() => {}
            }
        });
        let acknowledged = acknowledged.lock().unwrap().clone();
        doomed.kill();

        runtime().block_on(async {
            let meta = SlateMeta::open(bucket, options()).await.unwrap();
            for number in &acknowledged {
                let key = format!("key {number:08}");
                let value = meta.get(key.as_bytes()).await.unwrap();
                assert_eq!(value.as_deref(), Some(&[*number as u8; 6000][..]), "{number}");
            }
            meta.close().await.unwrap();
        });
    }
}

#[test]
fn a_flush_dropped_in_an_outage_is_made_good_by_a_later_one() {
    let bucket = Arc::new(InMemory::new());
    let doomed = Doomed::open(&bucket, |_| ());
    doomed.runtime.block_on(async {
        let meta = &doomed.meta;
        doomed.store.set_down(true);
        for number in 0..20 {
            meta.apply(numbered(number, 10)).await.unwrap();
            let waited = tokio::time::timeout(Duration::from_millis(20), meta.flush()).await;
            assert!(waited.is_err(), "acknowledged while the store was down");
        }
        doomed.store.set_down(false);
        let before = doomed.store.requests().put;
        meta.flush().await.unwrap();
        // The one that hung, and one for all that came after it.
        assert!(doomed.store.requests().put - before <= 3);
    });
    doomed.kill();
    runtime().block_on(async {
        let meta = SlateMeta::open(bucket, options()).await.unwrap();
        assert_eq!(meta.scan(b"key", b"kez", 100).await.unwrap().len(), 20);
        meta.close().await.unwrap();
    });
}

#[test]
fn a_close_dropped_in_an_outage_ends_when_the_store_is_back() {
    let bucket = Arc::new(InMemory::new());
    let doomed = Doomed::open(&bucket, |_| ());
    doomed.runtime.block_on(async {
        doomed.meta.apply(numbered(1, 10)).await.unwrap();
        doomed.store.set_down(true);
        let closing = tokio::time::timeout(Duration::from_millis(20), doomed.meta.close()).await;
        assert!(closing.is_err());
        doomed.store.set_down(false);
        doomed.meta.close().await.unwrap();
    });
    doomed.kill();
    runtime().block_on(async {
        let meta = SlateMeta::open(bucket, options()).await.unwrap();
        assert_eq!(meta.version(), 1);
        assert!(meta.get(b"key 00000001").await.unwrap().is_some());
        meta.close().await.unwrap();
    });
}

/// A runtime whose tasks end wherever they are when it is dropped.
struct KilledRuntime(Option<tokio::runtime::Runtime>);

impl KilledRuntime {
    fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Self(Some(builder.worker_threads(1).enable_all().build().unwrap()))
    }
}

impl Drop for KilledRuntime {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// Each leaves tables, and what it was merging when it was killed waits for its worker to count as dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_mounts_one_after_another_do_not_come_to_wait_for_the_compactors_next_look() {
    let store = TestStore::new(Arc::new(InMemory::new()));
    let mounts = async {
        for mount in 0..16_u32 {
            let background = KilledRuntime::new();
            let options = SlateOptions {
                bounds: Bounds { tables_max: 10, ..Bounds::default() },
                ..SlateOptions::new(background.0.as_ref().unwrap().handle().clone())
            };
            let meta = SlateMeta::open(store.boxed(), options).await.unwrap();
            let mut batch = Batch::new();
            batch.put(mount.to_be_bytes().to_vec(), vec![1]);
            meta.apply(batch).await.unwrap();
            meta.flush().await.unwrap();
        }
    };
    // Less than the compactor's sleep, more than a worker takes to count as dead, a few times.
    tokio::time::timeout(Duration::from_secs(80), mounts).await.expect("waits for compaction");
}

/// Tables that a writer has replaced may go while a follower still looks at the state before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_misses_a_table_looks_again_at_the_next_state() {
    let bucket = Arc::new(InMemory::new());
    let writer = SlateMeta::open(bucket.clone(), options()).await.unwrap();
    writer.apply(numbered(1, 100)).await.unwrap();
    writer.close().await.unwrap();
    let reader = SlateReader::open(bucket.clone(), late(), View::Latest).await.unwrap();
    let tables = bucket.list(Some(&"meta/compacted".into())).try_collect::<Vec<_>>().await.unwrap();
    let mut gone = Vec::new();
    for table in tables {
        gone.push((table.location.clone(), bucket.get(&table.location).await.unwrap()));
        bucket.delete(&table.location).await.unwrap();
    }
    assert!(!gone.is_empty());
    let (read, scanned, ()) =
        tokio::join!(reader.get(b"key 00000001"), reader.scan(b"key", b"kez", 10), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            for (path, table) in gone {
                bucket.put(&path, table.bytes().await.unwrap().into()).await.unwrap();
            }
        });
    assert_eq!(read.unwrap().unwrap().len(), 100);
    assert_eq!(scanned.unwrap().len(), 1);
}

/// Not for ever: what stays away is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_for_good_is_told() {
    let bucket = Arc::new(InMemory::new());
    let writer = SlateMeta::open(bucket.clone(), options()).await.unwrap();
    writer.apply(numbered(1, 100)).await.unwrap();
    writer.close().await.unwrap();
    let reader = SlateReader::open(bucket.clone(), late(), View::Latest).await.unwrap();
    let tables = bucket.list(Some(&"meta/compacted".into())).try_collect::<Vec<_>>().await.unwrap();
    let mut gone = Vec::new();
    for table in tables {
        gone.push((table.location.clone(), bucket.get(&table.location).await.unwrap()));
        bucket.delete(&table.location).await.unwrap();
    }
    let error = reader.get(b"key 00000001").await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Corrupt, "{error}");
    // Who stays at one state for long is not made to wait for the next.
    let mut patient = late();
    patient.follow_interval = Duration::from_hours(12);
    let other = SlateReader::open(bucket.clone(), patient, View::Latest).await.unwrap();
    let error = other.get(b"key 00000001").await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Corrupt, "{error}");
    // Waited for once, not with every read: this one ends before the table comes back.
    let (error, ()) = tokio::join!(reader.get(b"key 00000001"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (path, table) in gone {
            bucket.put(&path, table.bytes().await.unwrap().into()).await.unwrap();
        }
    });
    assert_eq!(error.unwrap_err().kind(), crate::base::ErrorKind::Corrupt);
}

/// Epochs of the newest writer and the newest compactor.
pub(super) async fn epochs(bucket: &Arc<InMemory>) -> (u64, u64) {
    let admin = AdminBuilder::new(PATH, bucket.clone()).build();
    let manifest = admin.read_manifest(None).await.unwrap().unwrap();
    (manifest.writer_epoch(), manifest.compactor_epoch())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_is_claimed_for_the_newest_writer_alone() {
    let bucket = Arc::new(InMemory::new());
    let old = SlateMeta::open(bucket.clone(), options()).await.unwrap();
    let new = SlateMeta::open(bucket.clone(), options()).await.unwrap();
    // Both had no time to claim it yet.
    assert_eq!(epochs(&bucket).await, (2, 0));
    let told = tokio::time::timeout(MINUTE, old.outlast_predecessors()).await.unwrap();
    assert!(matches!(told, Err(MetaError::Fenced)), "{told:?}");
    assert!(matches!(old.apply(numbered(1, 10)).await, Err(MetaError::Fenced)));
    assert_eq!(epochs(&bucket).await, (2, 0));
    tokio::time::timeout(MINUTE, new.outlast_predecessors()).await.unwrap().unwrap();
    assert_eq!(epochs(&bucket).await, (2, 1));
    new.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_writer_takes_compaction_back_from_whoever_fenced_it() {
    let bucket = Arc::new(InMemory::new());
    let meta = SlateMeta::open(bucket.clone(), options().busy()).await.unwrap();
    meta.outlast_predecessors().await.unwrap();
    let stray =
        slatedb::CompactorBuilder::new(PATH, bucket.clone() as Arc<dyn ObjectStore>).build();
    let running = tokio::spawn({
        let stray = stray.clone();
        async move { stray.run().await }
    });
    let taken_back = async {
        while epochs(&bucket).await.1 < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(MINUTE, taken_back).await.unwrap();
    meta.apply(numbered(1, 10)).await.unwrap();
    meta.flush().await.unwrap();
    meta.close().await.unwrap();
    stray.stop().await.ok();
    running.await.unwrap().ok();
}

/// A worker is fenced by no claim. What one of a killed writer has taken on may be noted as done at any time.
#[test]
fn nothing_is_left_of_an_earlier_writers_merging_when_it_was_outlasted() {
    let bucket = Arc::new(InMemory::new());
    let runtime_of_old = runtime();
    let store = FaultyStore::new(Arc::clone(&bucket));
    runtime_of_old.block_on(async {
        let mut calm = options();
        calm.bounds.tables_max = 16;
        let meta = SlateMeta::open(Arc::new(store.clone()), calm).await.unwrap();
        for number in 0..6 {
            meta.apply(numbered(number, 1000)).await.unwrap();
            write_tables(&meta.db).await.unwrap();
        }
        meta.close().await.unwrap();
        // What is merged arrives nowhere.
        store.faults().add(Rule::always(Fault::Stall).on(Op::Put).path("meta/compacted"));
        store.faults().add(Rule::always(Fault::Stall).on(Op::Multipart).path("meta/compacted"));
        let meta = SlateMeta::open(Arc::new(store.clone()), options().busy()).await.unwrap();
        while running(&bucket).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        store.faults().outage(true);
        std::mem::forget(meta);
    });
    runtime_of_old.shutdown_background();
    runtime().block_on(async {
        let old = running(&bucket).await;
        assert_eq!(old.len(), 1);
        let mut quick = options().busy();
        quick.bounds.worker_dead = Duration::from_secs(7);
        let started = std::time::Instant::now();
        let meta = SlateMeta::open(bucket.clone(), quick).await.unwrap();
        tokio::time::timeout(MINUTE, meta.outlast_predecessors()).await.unwrap().unwrap();
        println!("outlasted after {:?}", started.elapsed());
        assert!(running(&bucket).await.iter().all(|job| !old.contains(job)));
        meta.close().await.unwrap();
    });
}

/// Jobs that are being merged, with their workers.
async fn running(bucket: &Arc<InMemory>) -> Vec<(String, String)> {
    let admin = AdminBuilder::new(PATH, bucket.clone()).build();
    let noted = admin.read_compactions(None).await.unwrap();
    let jobs = noted.iter().flat_map(VersionedCompactions::recent_compactions);
    let taken = jobs.filter(|job| job.status() == slatedb::compactor::CompactionStatus::Running);
    taken
        .map(|job| (job.id().to_string(), format!("{:?}", job.worker().map(|w| &w.worker_id))))
        .collect()
}

/// Tables wait for compaction, but not for one that has ended for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_compaction_that_will_never_go_on() {
    let bucket = Arc::new(InMemory::new());
    let mut full = options();
    full.bounds.tables_max = 4;
    full.bounds.compaction_poll = Duration::from_millis(40);
    let garbage = slatedb::object_store::path::Path::from(
        "meta/compactions/00000000000000000099.compactions",
    );
    let meta = SlateMeta::open(bucket.clone(), full.clone()).await.unwrap();
    bucket.put(&garbage, "no list of work".into()).await.unwrap();
    for number in 0..4 {
        meta.apply(numbered(number, 1000)).await.unwrap();
        write_tables(&meta.db).await.unwrap();
    }
    meta.apply(numbered(4, 1000)).await.unwrap();
    meta.flush().await.unwrap();
    let closed =
        tokio::time::timeout(MINUTE / 2, meta.close()).await.expect("waits for compaction");
    let error = closed.unwrap_err();
    assert!(matches!(error, MetaError::Stopped { .. }), "{error}");
    // The log has to become a table.
    let opened = SlateMeta::open(bucket.clone(), full);
    let opened = tokio::time::timeout(MINUTE / 2, opened).await.expect("waits for compaction");
    let error = opened.err().unwrap();
    assert!(matches!(error, MetaError::Stopped { .. }), "{error}");
    bucket.delete(&garbage).await.unwrap();
    let meta = SlateMeta::open(bucket, options()).await.unwrap();
    assert_eq!(meta.scan(b"key", b"kez", 10).await.unwrap().len(), 5);
    meta.close().await.unwrap();
}
