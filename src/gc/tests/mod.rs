//! Garbage collection on a volume in memory.

mod rekey;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};

use super::*;
use crate::base::{Inode, KIB, MIB, PackNumber, Timestamp};
use crate::format::Key;
use crate::fs::CopyRange;
use crate::fs::tests::support::*;
use crate::store::StoreFault;
use crate::store::faulty::{Fault, Faults, Op, Rule};
use crate::store::object_store::ObjectStoreExt as _;

const ROOT: Inode = Inode::ROOT;
const NOW: GcPolicy = GcPolicy { keep: Duration::ZERO, compact_below: 90 };

/// A clock that the test sets.
#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ahead = self.0.load(Ordering::Relaxed);
        let now = crate::base::SystemClock.now();
        Timestamp { seconds: now.seconds + ahead, ..now }
    }
}

struct Bench {
    volume: TestVolume,
    faults: Faults,
    clock: Arc<TestClock>,
}

impl Bench {
    async fn new() -> Self {
        let (mut volume, faults) = faulty().await;
        volume.config.deadline = Duration::from_secs(10);
        Self { volume, faults, clock: Arc::default() }
    }

    async fn mount(&self) -> (FileSystem, Collector) {
        let (fs, meta, reader) = self.volume.mount_with_parts().await;
        let (packs, store) = (self.volume.context.clone(), self.volume.store.clone());
        let clock = self.clock.clone();
        let parts = GcParts { fs: fs.clone(), meta, packs, reader, store, clock };
        (fs, Collector::new(parts))
    }

    /// Orphans are looked for from the first pack on; the record of `lost` is removed.
    async fn sweep_from_the_first_pack(&self, lost: Option<PackNumber>) {
        let meta = self.volume.meta.open();
        let counters = crate::fs::read_counters(&meta).await.unwrap();
        let next_pack = PackNumber::new(counters.next_pack.writer(), 0).unwrap();
        let mut batch = crate::meta::Batch::new();
        let record = crate::format::Counters { next_pack, ..counters }.encode();
        batch.put(Key::counters().as_bytes().to_vec(), record);
        if let Some(lost) = lost {
            batch.delete(Key::pack(lost).as_bytes().to_vec());
        }
        meta.apply(batch).await.unwrap();
        meta.flush().await.unwrap();
    }

    /// Objects in the bucket and their bytes.
    async fn bucket(&self) -> (usize, u64) {
        let objects: Vec<_> = self.volume.store.list(None).collect().await;
        (objects.len(), objects.into_iter().map(|object| object.unwrap().size).sum())
    }
}

/// Incompressible, and different for each seed.
fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

async fn make(fs: &FileSystem, name: &str, seed: u64, len: u64) -> Inode {
    let (inode, handle) = create(fs, ROOT, name).await;
    write(fs, inode, 0, &noise(seed, len)).await;
    fs.release(inode, handle);
    fs.forget(inode, 1);
    inode
}

async fn remove(fs: &FileSystem, name: &str) {
    fs.unlink(ROOT, name.as_bytes()).wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_deleted_files_comes_back_and_the_others_stay_readable() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    for number in 0..80 {
        make(&fs, &format!("file{number}"), number, 100 * KIB).await;
    }
    fs.flush().await.unwrap();
    let (_, full) = bench.bucket().await;
    for number in (0..80).filter(|number| number % 2 == 0) {
        remove(&fs, &format!("file{number}")).await;
    }
    let figures = collector.collect(NOW).await.unwrap();
    assert!(figures.compacted_packs > 0 && figures.deleted_packs > 0, "{figures:?}");
    let (_, left) = bench.bucket().await;
    let live = fs.status().bytes;
    assert_eq!(live, 40 * 100 * KIB);
    assert!(left < live + live / 20 && left > full / 3, "{left} bytes for {live} live ones");
    assert_eq!(fs.status().space.freed_packs, 0);
    assert_eq!(fs.status().space.pack_bytes, left);
    fs.close().await.unwrap();
    bench.volume.assert_clean().await;
    let fs = bench.volume.mount().await;
    for number in (0..80).filter(|number| number % 2 == 1) {
        let file = lookup(&fs, ROOT, &format!("file{number}")).await.unwrap();
        assert_eq!(read_all(&fs, file.inode).await, noise(number, 100 * KIB), "file {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_shared_by_copying_survive_the_file_they_were_written_for() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    let original = make(&fs, "original", 1, MIB).await;
    fs.flush().await.unwrap();
    let (copy, _) = create(&fs, ROOT, "copy").await;
    let range =
        CopyRange { from: original, from_offset: 0, to: copy, to_offset: 0, len: 300 * KIB };
    assert_eq!(fs.copy_range(range).wait().await.unwrap(), 300 * KIB);
    remove(&fs, "original").await;
    fs.flush().await.unwrap();
    let figures = collector.collect(NOW).await.unwrap();
    assert!(figures.compacted_packs > 0 && figures.deleted_packs > 0, "{figures:?}");
    assert_eq!(read_all(&fs, copy).await, noise(1, MIB)[..300 * KIB as usize]);
    assert!(bench.bucket().await.1 < 320 * KIB);
    fs.close().await.unwrap();
    bench.volume.assert_clean().await;
    let fs = bench.volume.mount().await;
    let copy = lookup(&fs, ROOT, "copy").await.unwrap().inode;
    assert_eq!(read_all(&fs, copy).await, noise(1, MIB)[..300 * KIB as usize]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_leaves_holes_and_their_accounts_alone() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    let (file, _) = create(&fs, ROOT, "sparse").await;
    for block in 0..100 {
        write(&fs, file, block * 4 * KIB + 100, &noise(block, 1000)).await;
        write(&fs, file, block * 4 * KIB + 3000, &noise(block, 500)).await;
    }
    make(&fs, "rest", 7, 800 * KIB).await;
    fs.flush().await.unwrap();
    let before = fs.getattr(file).wait().await.unwrap().record.allocated;
    let content = read_all(&fs, file).await;
    remove(&fs, "rest").await;
    let figures = collector.collect(NOW).await.unwrap();
    assert_eq!(figures.moved_blocks, 100, "{figures:?}");
    assert_eq!(fs.getattr(file).wait().await.unwrap().record.allocated, before);
    assert_eq!(read_all(&fs, file).await, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn freed_packs_are_kept_for_followers_and_for_checkpoints() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    make(&fs, "file", 1, MIB).await;
    fs.flush().await.unwrap();
    remove(&fs, "file").await;
    let policy = GcPolicy { keep: Duration::from_hours(1), compact_below: 50 };
    fs.flush().await.unwrap();
    let figures = collector.collect(policy).await.unwrap();
    assert_eq!(figures.deleted_packs, 0);
    assert!(figures.kept_packs > 0 && figures.kept_bytes > 0, "{figures:?}");
    let checkpoint = collector.parts.meta.checkpoint("held", None).await.unwrap();
    // The engine makes such for itself, and crashes leave them.
    collector.parts.meta.checkpoint("", None).await.unwrap();
    bench.clock.0.store(10_000, Ordering::Relaxed);
    let figures = collector.collect(policy).await.unwrap();
    assert_eq!(figures.deleted_packs, 0, "a checkpoint may need it");
    collector.parts.meta.delete_checkpoint(checkpoint).await.unwrap();
    let figures = collector.collect(policy).await.unwrap();
    assert!(figures.deleted_packs > 0 && figures.kept_packs == 0, "{figures:?}");
    assert_eq!(bench.bucket().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_open_file_shows_is_not_garbage() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    let (file, handle) = create(&fs, ROOT, "file").await;
    write(&fs, file, 0, &noise(1, MIB)).await;
    fs.flush().await.unwrap();
    remove(&fs, "file").await;
    collector.collect(NOW).await.unwrap();
    assert_eq!(read_all(&fs, file).await, noise(1, MIB));
    fs.release(file, handle);
    fs.forget(file, 1);
    let mut collected = 0;
    while collected == 0 {
        collected = collector.collect(NOW).await.unwrap().deleted_packs;
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.bucket().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_of_crashed_writers_are_swept_and_no_others() {
    let bench = Bench::new().await;
    let (fs, _) = bench.mount().await;
    make(&fs, "kept", 1, MIB).await;
    fs.flush().await.unwrap();
    let (committed, _) = bench.bucket().await;
    for crash in 0..3 {
        let (fs, _) = bench.mount().await;
        make(&fs, "lost", 10 + crash, 3 * MIB).await;
        while bench.bucket().await.0 < committed + 3 * (crash as usize + 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(fs);
    }
    let (with_orphans, _) = bench.bucket().await;
    let (fs, collector) = bench.mount().await;
    assert!(lookup(&fs, ROOT, "lost").await.is_none());
    // Whether or not this writer has committed anything yet.
    let figures = collector.collect(NOW).await.unwrap();
    assert_eq!(figures.orphans as usize, with_orphans - committed, "{figures:?}");
    make(&fs, "new", 2, MIB).await;
    fs.flush().await.unwrap();
    let kept = lookup(&fs, ROOT, "kept").await.unwrap().inode;
    assert_eq!(read_all(&fs, kept).await, noise(1, MIB));
    assert_eq!(bench.bucket().await.1, fs.status().space.pack_bytes);
    assert_eq!(collector.collect(NOW).await.unwrap().orphans, 0);
    bench.volume.assert_clean().await;
}

/// A live pack may have a number from which orphans are looked for. Freed while that goes on, it is
/// no orphan: the commit before still shows it, and followers may read that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_freed_during_a_sweep_is_not_taken_for_an_orphan() {
    let bench = Bench::new().await;
    let (fs, _) = bench.mount().await;
    for number in 0..12 {
        make(&fs, &format!("file{number}"), number, MIB).await;
        fs.flush().await.unwrap();
    }
    fs.close().await.unwrap();
    bench.sweep_from_the_first_pack(None).await;
    let (fs, collector) = bench.mount().await;
    remove(&fs, "file0").await;
    collector.collect(NOW).await.unwrap();
    let (objects, _) = bench.bucket().await;

    // The first number is absent now: asking for it takes until file 11 is gone.
    bench.faults.add(Rule::always(Fault::Stall).on(Op::Head).times(1));
    let struck = bench.faults.struck();
    let collector = Arc::new(collector);
    let collecting = tokio::spawn({
        let collector = collector.clone();
        let keep = Duration::from_hours(1);
        async move { collector.collect(GcPolicy { keep, compact_below: 0 }).await }
    });
    while bench.faults.struck() == struck {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    remove(&fs, "file11").await;
    fs.reclaim_unreferenced().await.unwrap();
    fs.flush().await.unwrap();
    bench.faults.release();
    let figures = collecting.await.unwrap().unwrap();
    assert_eq!((figures.orphans, figures.deleted_packs), (0, 0), "{figures:?}");
    assert_eq!(bench.bucket().await.0, objects);
}

/// Packs of the next group may get their numbers before the last ones of the group that commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_in_use_with_numbers_after_an_orphan_are_not_swept() {
    let mut bench = Bench::new().await;
    // Groups close only when they are told to.
    bench.volume.config.dirty_bytes_max = 64 * MIB;
    let (fs, _) = bench.mount().await;
    bench.faults.add(Rule::always(Fault::Stall).on(Op::Put).path("packs"));
    // Four packs under way, and more than one to come.
    make(&fs, "kept", 1, 5 * MIB + 512 * KIB).await;
    while bench.faults.struck() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Asked for before there is anything else.
    let mut flush = Box::pin(fs.flush());
    assert!(flush.as_mut().now_or_never().is_none());
    while fs.status().oldest_change_ms.is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    make(&fs, "lost", 2, MIB).await;
    // The pack of the next group is in the queue, before those that its predecessor has left.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.faults.clear();
    flush.await.unwrap();
    while bench.bucket().await.0 < 7 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(fs);

    let (fs, collector) = bench.mount().await;
    let range = *fs.unswept().await.unwrap().last().unwrap();
    assert!(!fs.known_packs(range).await.unwrap().is_empty(), "nothing to be confused");
    let figures = collector.collect(NOW).await.unwrap();
    assert_eq!(figures.orphans, 1, "{figures:?}");
    let kept = lookup(&fs, ROOT, "kept").await.unwrap().inode;
    assert_eq!(read_all(&fs, kept).await, noise(1, 5 * MIB + 512 * KIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_to_a_block_while_it_is_moved_stays() {
    let bench = Bench::new().await;
    let (fs, _) = bench.mount().await;
    let file = make(&fs, "file", 1, MIB).await;
    fs.flush().await.unwrap();
    write(&fs, file, 0, &noise(2, 768 * KIB)).await;
    fs.flush().await.unwrap();
    // Nothing is in memory any more.
    let (fs, collector) = bench.mount().await;
    let file = lookup(&fs, ROOT, "file").await.unwrap().inode;
    // The first request is for the pack's directory, the second for its content.
    bench.faults.add(Rule::always(Fault::Stall).on(Op::Get).path("packs").after(1));
    let collecting = tokio::spawn(async move { collector.collect(NOW).await });
    while bench.faults.struck() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // All that move at once have looked at their blocks.
    tokio::time::sleep(Duration::from_millis(200)).await;
    write(&fs, file, 768 * KIB + 100, b"meanwhile").await;
    bench.faults.clear();
    assert!(collecting.await.unwrap().unwrap().moved_blocks > 0);
    let mut expected = noise(2, 768 * KIB);
    expected.extend_from_slice(&noise(1, MIB)[768 << 10..]);
    let at = (768 << 10) + 100;
    expected[at..at + 9].copy_from_slice(b"meanwhile");
    assert!(read_all(&fs, file).await == expected);
}

/// Damage that a repair can undo from the pack itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_files_show_is_not_swept_though_its_record_is_lost() {
    let bench = Bench::new().await;
    let (fs, _) = bench.mount().await;
    make(&fs, "file", 1, MIB).await;
    fs.flush().await.unwrap();
    let pack = fs.packs(PackNumber(0)).await.unwrap()[0].0;
    fs.close().await.unwrap();
    bench.sweep_from_the_first_pack(Some(pack)).await;
    let objects = bench.bucket().await;

    let (_, collector) = bench.mount().await;
    let figures = collector.collect(NOW).await.unwrap();
    assert_eq!((figures.orphans, figures.damaged_packs), (0, 1), "{figures:?}");
    assert_eq!(bench.bucket().await, objects);
}

/// The damaged page may have shown it; and what else there is to collect is collected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_a_damaged_page_may_show_is_kept_and_the_collection_goes_on() {
    let bench = Bench::new().await;
    let (fs, _) = bench.mount().await;
    let damaged = make(&fs, "damaged", 1, MIB).await;
    fs.flush().await.unwrap();
    let pack = fs.packs(PackNumber(0)).await.unwrap()[0].0;
    make(&fs, "dead", 2, MIB).await;
    fs.close().await.unwrap();
    bench.sweep_from_the_first_pack(Some(pack)).await;
    let meta = bench.volume.meta.open();
    let mut batch = crate::meta::Batch::new();
    batch.put(Key::page(damaged, 0).as_bytes().to_vec(), b"garbage".to_vec());
    meta.apply(batch).await.unwrap();
    meta.flush().await.unwrap();
    let before = bench.bucket().await.0;

    let (fs, collector) = bench.mount().await;
    remove(&fs, "dead").await;
    let figures = collector.collect(NOW).await.unwrap();
    assert_eq!((figures.orphans, figures.damaged_packs), (0, 1), "{figures:?}");
    assert!(figures.deleted_packs > 0, "{figures:?}");
    assert!(bench.bucket().await.0 < before);
    assert!(bench.volume.store.head(&bench.volume.context.path(pack)).await.is_ok());
}

/// The record goes after the object: what failed in between is done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_fails_or_whose_answer_is_lost_is_repeated() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    make(&fs, "file", 1, MIB).await;
    fs.flush().await.unwrap();
    remove(&fs, "file").await;
    for fault in [Fault::Fail(StoreFault::Unavailable), Fault::LoseAnswer(StoreFault::Unavailable)]
    {
        bench.faults.add(Rule::always(fault).on(Op::Delete).times(1));
        let error = collector.collect(NOW).await.unwrap_err();
        assert!(matches!(error, GcError::Store(_)), "{error}");
        assert!(fs.status().space.freed_packs > 0);
    }
    collector.collect(NOW).await.unwrap();
    assert_eq!((fs.status().space.freed_packs, bench.bucket().await), (0, (0, 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_was_taken_over_deletes_nothing() {
    let bench = Bench::new().await;
    let (fs, collector) = bench.mount().await;
    make(&fs, "file", 1, MIB).await;
    fs.flush().await.unwrap();
    remove(&fs, "file").await;
    fs.flush().await.unwrap();
    let before = bench.bucket().await;
    let (newer, _) = bench.mount().await;
    make(&newer, "new", 2, 10 * KIB).await;
    newer.flush().await.unwrap();
    assert!(matches!(collector.collect(NOW).await, Err(GcError::Ended)));
    assert_eq!(bench.bucket().await.0, before.0);
}
