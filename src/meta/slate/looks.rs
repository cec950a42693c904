//! What may happen between the look and the opening: each on a store that keeps conditions, and on one that
//! ignores them.

use std::time::Duration;

use futures::TryStreamExt as _;
use slatedb::admin::AdminBuilder;
use slatedb::config::{GarbageCollectorDirectoryOptions, GarbageCollectorOptions};
use slatedb::object_store::memory::InMemory;

use super::tests::{epochs, numbered, options};
use super::*;
use crate::store::StoreFault;
use crate::store::faulty::{Fault, FaultyStore, Op, Rule};

const MINUTE: Duration = Duration::from_mins(1);

#[derive(Clone)]
struct Bucket {
    objects: Arc<InMemory>,
    store: FaultyStore<Arc<InMemory>>,
    ignores: bool,
}

impl Bucket {
    fn both() -> [Self; 2] {
        [false, true].map(|ignores| {
            let objects = Arc::new(InMemory::new());
            let store = FaultyStore::new(Arc::clone(&objects));
            store.faults().ignore_conditions(ignores);
            Self { objects, store, ignores }
        })
    }

    fn options(&self) -> SlateOptions {
        let mut options = options();
        options.conditional_creates = !self.ignores;
        options.conditional_overwrites = !self.ignores;
        options
    }

    fn boxed(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.store.clone())
    }

    async fn open(&self) -> SlateMeta {
        SlateMeta::open(self.boxed(), self.options()).await.unwrap()
    }

    async fn look(&self) -> SlateLook {
        SlateLook::new(self.boxed()).await
    }

    async fn open_seen(&self, look: SlateLook) -> SlateMeta {
        let opened = SlateMeta::open_seen(look, self.options());
        tokio::time::timeout(MINUTE, opened).await.expect("in time").unwrap()
    }

    /// Writes records, each acknowledged.
    async fn write(&self, meta: &SlateMeta, numbers: std::ops::Range<u64>) {
        for number in numbers {
            meta.apply(numbered(number, 1000)).await.unwrap();
            meta.flush().await.unwrap();
        }
    }

    /// All of them are there, for this writer and for whoever comes after it.
    async fn check(&self, meta: SlateMeta, records: u64, what: &str) {
        for _ in 0..2 {
            let found = meta.scan(b"key", b"kez", usize::MAX >> 1).await.unwrap().len() as u64;
            assert_eq!(found, records, "{what}, ignores conditions: {}", self.ignores);
        }
        self.write(&meta, records..records + 3).await;
        meta.close().await.unwrap();
        let meta = self.open().await;
        let found = meta.scan(b"key", b"kez", usize::MAX >> 1).await.unwrap().len() as u64;
        assert_eq!(found, records + 3, "{what}, after, ignores conditions: {}", self.ignores);
        meta.close().await.unwrap();
    }
}

/// The predecessor goes on until it is fenced. Where conditions are ignored that needs the lease,
/// by which it has ended; the look is dropped there, but even so it does no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_predecessor_logs_after_the_look_is_there() {
    for bucket in Bucket::both() {
        let old = bucket.open().await;
        bucket.write(&old, 0..5).await;
        let look = bucket.look().await;
        bucket.write(&old, 5..30).await;
        let new = bucket.open_seen(look).await;
        if !bucket.ignores {
            let late = old.apply(numbered(99, 10)).await;
            assert!(late.is_err() || old.flush().await.is_err(), "not fenced");
        }
        bucket.check(new, 30, "log").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_a_predecessor_writes_after_the_look_are_there() {
    for bucket in Bucket::both() {
        let old = bucket.open().await;
        bucket.write(&old, 0..5).await;
        let look = bucket.look().await;
        for round in 0..3 {
            bucket.write(&old, 5 + round * 5..10 + round * 5).await;
            write_tables(&old.db).await.unwrap();
        }
        bucket.write(&old, 20..22).await;
        let new = bucket.open_seen(look).await;
        bucket.check(new, 22, "tables").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_comes_and_goes_after_the_look_has_not_been_in_vain() {
    for bucket in Bucket::both() {
        let first = bucket.open().await;
        bucket.write(&first, 0..5).await;
        first.close().await.unwrap();
        let look = bucket.look().await;
        let other = bucket.open().await;
        bucket.write(&other, 5..12).await;
        other.close().await.unwrap();
        let killed = bucket.open().await;
        bucket.write(&killed, 12..20).await;
        drop(killed);
        let new = bucket.open_seen(look).await;
        assert_eq!(epochs(&bucket.objects).await.0, 4);
        bucket.check(new, 20, "another writer").await;
    }
}

/// With the boundary that it leaves numbers cannot be used again, however old the look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_after_the_look_makes_no_number_new() {
    let [bucket, _] = Bucket::both();
    let old = bucket.open().await;
    bucket.write(&old, 0..5).await;
    let look = bucket.look().await;
    for round in 0..6 {
        bucket.write(&old, 5 + round * 5..10 + round * 5).await;
        write_tables(&old.db).await.unwrap();
    }
    old.close().await.unwrap();
    let at_once = || {
        let (interval, min_age) = (None, Duration::ZERO);
        Some(GarbageCollectorDirectoryOptions { interval, min_age, dry_run: false })
    };
    let everything = GarbageCollectorOptions {
        manifest_options: at_once(),
        compactions_options: at_once(),
        compacted_options: at_once(),
        wal_options: at_once(),
        wal_fence_options: None,
        detach_options: None,
        boundary_files_enabled: true,
        ..GarbageCollectorOptions::default()
    };
    let count = async || bucket.objects.list(None).try_collect::<Vec<_>>().await.unwrap().len();
    let before = count().await;
    let admin = AdminBuilder::new(PATH, bucket.boxed()).build();
    admin.run_gc_once(everything).await.unwrap();
    assert!(count().await < before - 10, "nothing was collected");
    let new = bucket.open_seen(look).await;
    bucket.check(new, 35, "collection").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_whose_answer_is_lost_is_a_fence() {
    for bucket in Bucket::both() {
        let old = bucket.open().await;
        bucket.write(&old, 0..5).await;
        let look = bucket.look().await;
        for path in ["meta/wal/", "meta/manifest/"] {
            let lost = Fault::LoseAnswer(StoreFault::Unavailable);
            bucket.store.faults().add(Rule::always(lost).on(Op::Put).path(path).times(2));
        }
        let new = bucket.open_seen(look).await;
        assert!(bucket.store.faults().struck() >= 3);
        if !bucket.ignores {
            let late = old.apply(numbered(99, 10)).await;
            assert!(late.is_err() || old.flush().await.is_err(), "not fenced");
        }
        bucket.check(new, 5, "fence").await;
    }
}

/// Writer and compactor both write manifests. What one wrote the other must not overwrite.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writer_and_compactor_do_not_overwrite_each_others_manifests() {
    const RECORDS: u64 = 400;
    for bucket in Bucket::both() {
        let meta = SlateMeta::open(bucket.boxed(), bucket.options().busy()).await.unwrap();
        for number in 0..RECORDS {
            meta.apply(numbered(number, 4000)).await.unwrap();
            meta.flush().await.unwrap();
            if number % 40 == 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        let merged = async {
            while meta.db.manifest().compacted().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(MINUTE, merged).await.expect("nothing is merged");
        bucket.check(meta, RECORDS, "merging").await;
        assert!(epochs(&bucket.objects).await.1 >= 1);
    }
}
