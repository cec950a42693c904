//! What the engine costs: requests when idle and at open, and reads that never leave memory.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use slatedb::object_store::memory::InMemory;
use slatedb_common::{DefaultSystemClock, SystemClock, SystemClockTicker};

use super::testing::TestStore;
use super::*;

/// Runs `FACTOR` times as fast as the wall clock.
#[derive(Debug)]
struct FastClock {
    wall: DefaultSystemClock,
    started: Instant,
}

impl FastClock {
    const FACTOR: u32 = 2400;
}

impl SystemClock for FastClock {
    fn now(&self) -> DateTime<Utc> {
        let ahead = self.started.elapsed() * (Self::FACTOR - 1);
        self.wall.now() + ahead
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration / Self::FACTOR))
    }

    fn ticker(&self, duration: Duration) -> SystemClockTicker<'_> {
        SystemClockTicker::new(self, duration)
    }
}

fn record(number: u32) -> Batch {
    let mut batch = Batch::new();
    batch.put(format!("key {number:08}"), vec![7; 100]);
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_writer_makes_at_most_one_request_in_twenty_seconds() {
    let store = TestStore::new(Arc::new(InMemory::new()));
    let options = SlateOptions::new(Handle::current());
    let fast = FastClock { wall: DefaultSystemClock::new(), started: Instant::now() };
    let clock = Arc::new(ForwardClock::over(Arc::new(fast)));
    let boxed = store.boxed();
    let db = builder(&boxed, &options, clock.clone()).build().await.unwrap();
    let meta = SlateMeta::start(db, boxed, &options, clock.clone()).unwrap();
    meta.apply(record(1)).await.unwrap();
    meta.flush().await.unwrap();
    write_tables(&meta.db).await.unwrap();
    // Compaction has begun.
    meta.outlast_predecessors().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    let (from, before) = (clock.now(), store.requests());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (seconds, after) = ((clock.now() - from).num_seconds(), store.requests());
    println!("idle for {seconds} s: {before:?} -> {after:?}");
    let requests = after.all() - before.all();
    let seconds = u64::try_from(seconds).unwrap();
    assert!(requests > 0 && requests * 20 < seconds, "{requests} in {seconds} s");
    assert_eq!(after.put, before.put);
    meta.close().await.unwrap();
}

/// A runtime for the background that does nothing before it is started, so that an open is counted
/// without it.
struct Background(tokio::runtime::Runtime);

impl Background {
    fn new() -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Self(builder.enable_all().build().unwrap())
    }

    /// Runs it for as long as the test process lives.
    fn start(self) {
        std::thread::spawn(move || self.0.block_on(std::future::pending::<()>()));
    }
}

/// Requests of an open, its background not among them.
async fn open_counted(bucket: &Arc<InMemory>, what: &str) -> (SlateMeta, u64) {
    let store = TestStore::new(Arc::clone(bucket));
    let background = Background::new();
    let options = SlateOptions::new(background.0.handle().clone());
    let meta = SlateMeta::open(store.boxed(), options).await.unwrap();
    let opened = store.requests();
    println!("open, {what}: {opened:?}");
    background.start();
    (meta, opened.all())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_costs_a_bounded_number_of_requests() {
    const FLUSHES: u32 = 20;
    let bucket = Arc::new(InMemory::new());
    let (meta, empty) = open_counted(&bucket, "empty").await;
    meta.apply(record(0)).await.unwrap();
    meta.close().await.unwrap();
    let (meta, clean) = open_counted(&bucket, "closed cleanly").await;
    for number in 0..FLUSHES {
        meta.apply(record(number)).await.unwrap();
        meta.flush().await.unwrap();
    }
    drop(meta);
    let (meta, killed) = open_counted(&bucket, "killed after 20 flushes").await;
    assert!(empty <= 24 && clean <= 26, "{empty} {clean}");
    assert!(killed <= clean + u64::from(FLUSHES) * 3, "{killed} {clean}");
    meta.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_from_memory_are_ready_at_once_on_a_thread_without_a_runtime() {
    const RECORDS: u32 = 2000;
    let bucket = Arc::new(InMemory::new());
    let (meta, _) = open_counted(&bucket, "empty").await;
    for number in 0..RECORDS {
        meta.apply(record(number)).await.unwrap();
    }
    let meta: Arc<dyn MetaStore> = Arc::new(meta);
    let ready = |meta: &Arc<dyn MetaStore>| {
        let meta = Arc::clone(meta);
        let read = move || {
            let started = Instant::now();
            let ready = (0..RECORDS)
                .filter(|number| {
                    let key = format!("key {number:08}");
                    matches!(meta.get(key.as_bytes()).now_or_never(), Some(Ok(Some(_))))
                })
                .count();
            (ready, started.elapsed() / RECORDS)
        };
        std::thread::spawn(read).join().unwrap()
    };
    let (in_memory_table, each) = ready(&meta);
    println!("memory table: {in_memory_table} ready, {each:?} each");
    assert_eq!(in_memory_table, RECORDS as usize);

    meta.close().await.unwrap();
    let (meta, _) = open_counted(&bucket, "closed cleanly").await;
    let meta: Arc<dyn MetaStore> = Arc::new(meta);
    let all = meta.scan(b"key", b"kez", RECORDS as usize + 1).await.unwrap();
    assert_eq!(all.len(), RECORDS as usize);
    assert!(meta.get(b"key 00000000").await.unwrap().is_some());
    let (in_block_cache, each) = ready(&meta);
    println!("block cache: {in_block_cache} ready, {each:?} each");
    assert!(in_block_cache > RECORDS as usize * 9 / 10, "{in_block_cache}");
    meta.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_clock_is_behind_the_last_ones_can_write() {
    for (clean, tables_later_ms) in [(true, 0), (true, 50), (false, 0), (false, 50)] {
        let bucket = Arc::new(InMemory::new());
        let store: Arc<dyn ObjectStore> = bucket.clone();
        let options = SlateOptions::new(Handle::current());
        let clock = Arc::new(ForwardClock::default());
        clock.raise(clock.now().timestamp_millis() + 3_600_000);
        let db = builder(&store, &options, clock.clone()).build().await.unwrap();
        let ahead = SlateMeta::start(db, store, &options, clock.clone()).unwrap();
        ahead.apply(record(1)).await.unwrap();
        ahead.flush().await.unwrap();
        // Tables are written later than what is in them.
        clock.raise(clock.now().timestamp_millis() + tables_later_ms);
        write_tables(&ahead.db).await.unwrap();
        ahead.apply(record(3)).await.unwrap();
        ahead.flush().await.unwrap();
        if clean {
            ahead.close().await.unwrap();
        }
        drop(ahead);
        let meta = SlateMeta::open(bucket, options).await.unwrap();
        assert!(meta.get(b"key 00000001").await.unwrap().is_some());
        meta.apply(record(2)).await.unwrap_or_else(|error| panic!("clean {clean}: {error:?}"));
        write_tables(&meta.db).await.unwrap();
        meta.close().await.unwrap();
    }
}
