//! What reading a tree of small files costs in requests, cold: in the order in which they were made, and in that of
//! their directory.

use std::sync::Arc;
use std::time::Duration;

use super::Random;
use super::volume::{Pace, ProofVolume};
use crate::base::{Inode, KIB};
use crate::data::{Compression, ReaderConfig};
use crate::fs::FsConfig;
use crate::fs::tests::support::{create, list, lookup, mkdir, read_all, write};
use crate::store::MeasuredStore;
use crate::store::object_store::ObjectStore;
use crate::store::object_store::memory::InMemory;
use crate::store::object_store::throttle::{ThrottleConfig, ThrottledStore};

/// Files in the directory.
const FILES: u64 = 2000;
/// How long an answer takes: readers meet requests that are under way.
const DELAY: Duration = Duration::from_millis(5);

fn content(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    std::iter::repeat_with(|| random.next().to_le_bytes()).take(512).flatten().collect()
}

fn name(number: u64) -> String {
    format!("file {number}")
}

/// A way to the bucket that counts and takes its time.
fn far(bucket: &InMemory) -> Arc<MeasuredStore<ThrottledStore<InMemory>>> {
    let delay = ThrottleConfig { wait_get_per_call: DELAY, ..ThrottleConfig::default() };
    Arc::new(MeasuredStore::new(ThrottledStore::new(bucket.clone(), delay)))
}

/// GETs of metadata, GETs of packs.
async fn cold_read(volume: &ProofVolume, bucket: &InMemory, in_order: bool) -> (u64, u64) {
    let (records, packs) = (far(bucket), far(bucket));
    let store = records.clone() as Arc<dyn ObjectStore>;
    let engine = volume.engine(&store, Pace::Calm).await.unwrap();
    let store = packs.clone() as Arc<dyn ObjectStore>;
    let mounted = volume.mount_as(&store, engine, ReaderConfig::default(), FsConfig::default());
    let mounted = mounted.await.unwrap();
    let directory = lookup(&mounted.fs, Inode::ROOT, "files").await.unwrap().inode;
    let mut names: Vec<_> =
        if in_order { (0..FILES).map(name).collect() } else { list(&mounted.fs, directory).await };
    names.retain(|name| name.starts_with("file"));
    let before = records.snapshot().requests.get;
    for name in names {
        let inode = lookup(&mounted.fs, directory, &name).await.unwrap().inode;
        let number = name.split_once(' ').unwrap().1.parse().unwrap();
        assert!(read_all(&mounted.fs, inode).await == content(number), "{name}");
    }
    let gets = (records.snapshot().requests.get - before, packs.snapshot().requests.get);
    mounted.fs.close().await.unwrap();
    gets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_are_read_in_few_requests_in_any_order() {
    let volume = ProofVolume::new(64 * KIB, Compression::default());
    let bucket = InMemory::new();
    let store = Arc::new(bucket.clone()) as Arc<dyn ObjectStore>;
    volume.format(&store).await;
    let engine = volume.engine(&store, Pace::Calm).await.unwrap();
    let mounted = volume.mount_as(&store, engine, ReaderConfig::default(), FsConfig::default());
    let mounted = mounted.await.unwrap();
    let directory = mkdir(&mounted.fs, Inode::ROOT, "files").await;
    for number in 0..FILES {
        let (inode, _) = create(&mounted.fs, directory, &name(number)).await;
        write(&mounted.fs, inode, 0, &content(number)).await;
    }
    mounted.fs.flush().await.unwrap();
    mounted.fs.close().await.unwrap();
    for in_order in [true, false] {
        let (records, packs) = cold_read(&volume, &bucket, in_order).await;
        println!("in order: {in_order}: {records} of records, {packs} of packs");
        assert!(records <= 8 && packs <= 14, "in order: {in_order}: {records}, {packs}");
    }
}
