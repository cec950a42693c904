//! Leases between machines, which differ here by what a record says of its holder.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::base::{Epoch, Timestamp};
use crate::crypto::{DataKey, SecretKey};
use crate::store::faulty::{Fault, FaultyStore, Op, Rule};
use crate::store::object_store::ObjectStoreExt;
use crate::store::object_store::local::LocalFileSystem;
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::path::Path;

const START: i64 = 1_700_000_000;

struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { seconds: self.0.load(Ordering::Relaxed), nanos: 0 }
    }
}

struct Bench {
    site: LeaseSite,
    clock: Arc<TestClock>,
}

fn bench_in(store: Arc<dyn ObjectStore>) -> Bench {
    let clock = Arc::new(TestClock(AtomicI64::new(START)));
    let key = DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([1; 32]) };
    let keys = DataKeys::new(key, Vec::new());
    let site = LeaseSite::new(store, VolumeId([1; 16]), keys, clock.clone());
    Bench { site, clock }
}

fn bench() -> Bench {
    bench_in(Arc::new(InMemory::new()))
}

impl Bench {
    async fn acquire(&self, takeover: bool) -> Result<Lease, LeaseError> {
        Lease::acquire(self.site.clone(), "/mnt", takeover).await
    }

    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::Relaxed);
    }

    async fn put(&self, bytes: Bytes) {
        self.site.object.store.put(&Path::from(LEASE_NAME), bytes.into()).await.unwrap();
    }

    /// Another machine holds the lease, with its last heartbeat now.
    async fn held_by(&self, holder: Holder) {
        let now = self.clock.now().seconds;
        let id = "other".to_owned();
        let record =
            Record { id, holder, writer_epoch: 7, acquired: now, heartbeat: now, released: false };
        self.put(self.site.seal(&record).unwrap()).await;
    }
}

fn elsewhere() -> Holder {
    Holder {
        host: "elsewhere".to_owned(),
        machine_id: "other".to_owned(),
        boot_id: "other".to_owned(),
        ..Holder::this_process("/data")
    }
}

#[tokio::test]
async fn a_free_lease_is_taken_held_and_given_back() {
    let bench = bench();
    assert_eq!(bench.site.holder().await.unwrap(), None);
    let mut lease = bench.acquire(false).await.unwrap();
    lease.set_writer_epoch(WriterEpoch(3));
    bench.pass(30);
    lease.heartbeat().await.unwrap();
    bench.pass(10);
    let (holder, age) = bench.site.holder().await.unwrap().unwrap();
    assert_eq!((&holder, age), (lease.holder(), Duration::from_secs(10)));
    lease.release().await.unwrap();
    assert_eq!(bench.site.holder().await.unwrap(), None);
    assert!(bench.acquire(false).await.unwrap().replaced().is_none());
}

#[tokio::test]
async fn a_held_lease_is_refused_with_holder_and_age() {
    let bench = bench();
    bench.held_by(elsewhere()).await;
    bench.pass(12);
    let error = bench.acquire(false).await.unwrap_err();
    let LeaseError::Held { holder, age, acquired, writer_epoch } = &error else {
        panic!("{error}");
    };
    assert_eq!((&**holder, *age), (&elsewhere(), Duration::from_secs(12)));
    assert_eq!((*acquired, *writer_epoch), (START, WriterEpoch(7)));
    let text = error.to_string();
    assert!(text.contains("elsewhere") && text.contains("/data") && text.contains("12 s"));
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn it_is_known_whether_others_had_the_lease_just_now() {
    let objects = Arc::new(InMemory::new());
    let store = FaultyStore::new(Arc::clone(&objects));
    let bench = bench_in(Arc::new(store.clone()));
    let mut first = bench.acquire(false).await.unwrap();
    assert!(first.was_free());
    first.release().await.unwrap();
    let mut second = bench.acquire(false).await.unwrap();
    assert!(second.was_free());
    second.release().await.unwrap();
    // Another comes and goes between our look and our write.
    store.faults().add(Rule::always(Fault::Stall).on(Op::Put).times(1));
    let (taken, ()) = tokio::join!(bench.acquire(false), async {
        while store.faults().struck() == 0 {
            tokio::task::yield_now().await;
        }
        let other = bench_in(objects);
        other.acquire(false).await.unwrap().release().await.unwrap();
        store.faults().release();
    });
    assert!(!taken.unwrap().was_free());
    bench.held_by(elsewhere()).await;
    assert!(!bench.acquire(true).await.unwrap().was_free());
}

#[tokio::test]
async fn a_lease_without_heartbeats_is_free_after_its_age_and_not_before() {
    let bench = bench();
    bench.held_by(elsewhere()).await;
    bench.pass(89);
    assert!(matches!(bench.acquire(false).await, Err(LeaseError::Held { .. })));
    bench.pass(1);
    assert!(bench.acquire(false).await.unwrap().replaced().is_none());
}

#[tokio::test]
async fn a_heartbeat_from_the_future_holds() {
    let bench = bench();
    bench.held_by(elsewhere()).await;
    bench.pass(-3600);
    let error = bench.acquire(false).await.unwrap_err();
    assert!(matches!(error, LeaseError::Held { age: Duration::ZERO, .. }));
}

#[tokio::test]
async fn the_lease_of_an_ended_process_of_this_machine_is_free_at_once() {
    let bench = bench();
    let ended = Holder { pid: u32::MAX, ..Holder::this_process("/mnt") };
    bench.held_by(ended).await;
    bench.acquire(false).await.unwrap();
    // And one of a living process is not.
    assert!(matches!(bench.acquire(false).await, Err(LeaseError::Held { .. })));
}

#[tokio::test]
async fn a_takeover_names_whom_it_replaced_and_the_old_holder_notices() {
    let bench = bench();
    let mut old = bench.acquire(false).await.unwrap();
    let new = bench.acquire(true).await.unwrap();
    assert_eq!(new.replaced(), Some(old.holder()));
    bench.pass(30);
    let error = old.heartbeat().await.unwrap_err();
    assert!(matches!(&error, LeaseError::Lost { by } if **by == *new.holder()));
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(matches!(old.release().await, Err(LeaseError::Lost { .. })));
    let (_, age) = bench.site.holder().await.unwrap().unwrap();
    assert_eq!(age, Duration::from_secs(30), "the old holder must not have touched the lease");
}

#[tokio::test]
async fn a_holder_notices_too_late_heartbeats_that_somebody_used() {
    let bench = bench();
    let mut old = bench.acquire(false).await.unwrap();
    bench.pass(90);
    let mut new = bench.acquire(false).await.unwrap();
    assert!(matches!(old.heartbeat().await, Err(LeaseError::Lost { .. })));
    new.heartbeat().await.unwrap();
}

#[tokio::test]
async fn a_deleted_or_replayed_lease_of_our_own_is_written_again() {
    let bench = bench();
    let mut lease = bench.acquire(false).await.unwrap();
    let first = bench.site.object.read().await.unwrap().unwrap().bytes;
    bench.pass(30);
    lease.heartbeat().await.unwrap();
    bench.put(first).await;
    bench.pass(30);
    lease.heartbeat().await.unwrap();
    bench.site.object.store.delete(&Path::from(LEASE_NAME)).await.unwrap();
    lease.heartbeat().await.unwrap();
    let (_, age) = bench.site.holder().await.unwrap().unwrap();
    assert_eq!(age, Duration::ZERO);
}

#[tokio::test]
async fn a_lease_that_no_key_sealed_is_refused_unless_taken_over() {
    let bench = bench();
    bench.put(Bytes::from_static(b"nonsense")).await;
    let error = bench.acquire(false).await.unwrap_err();
    assert!(matches!(error, LeaseError::Unreadable { .. }));
    assert!(matches!(bench.site.holder().await, Err(LeaseError::Unreadable { .. })));
    let mut lease = bench.acquire(true).await.unwrap();
    lease.heartbeat().await.unwrap();
    // The same lease is of no use to another volume.
    let other = LeaseSite { volume: VolumeId([2; 16]), ..bench.site.clone() };
    assert!(matches!(other.holder().await, Err(LeaseError::Unreadable { .. })));
}

#[tokio::test]
async fn the_object_shows_nothing_of_its_holder() {
    let bench = bench();
    let lease = bench.acquire(false).await.unwrap();
    let bytes = bench.site.object.read().await.unwrap().unwrap().bytes;
    assert!(bytes.starts_with(b"LIDFS"));
    for text in [&lease.holder().boot_id, &lease.holder().mount_point] {
        assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_ask_at_once_one_gets_the_lease() {
    let bench = bench();
    let askers = (0..8).map(|_| tokio::spawn(Lease::acquire(bench.site.clone(), "/mnt", false)));
    let mut held = 0;
    for asker in futures::future::join_all(askers).await {
        match asker.unwrap() {
            Ok(_) => held += 1,
            Err(error) => assert!(matches!(error, LeaseError::Held { .. }), "{error}"),
        }
    }
    assert_eq!(held, 1);
}

#[tokio::test]
async fn without_conditional_writes_the_lease_works_on_one_machine() {
    let dir = tempfile::tempdir().unwrap();
    let bench = bench_in(Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap()));
    let mut old = bench.acquire(false).await.unwrap();
    old.heartbeat().await.unwrap();
    assert!(matches!(bench.acquire(false).await, Err(LeaseError::Held { .. })));
    let mut new = bench.acquire(true).await.unwrap();
    assert!(matches!(old.heartbeat().await, Err(LeaseError::Lost { .. })));
    new.release().await.unwrap();
    bench.acquire(false).await.unwrap();
}
