//! Scrubs of volumes whose packs are damaged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::support::*;
use crate::base::{Inode, KIB, PackNumber, Timestamp};
use crate::check::{
    Bucket, CheckError, DamagedFile, Fault, FaultyPack, ScrubOptions, Scrubbed, scrub,
    scrub_metadata,
};
use crate::format::{Key, KeyKind, PackRecord};
use crate::fs::Handle;
use crate::meta::{Batch, MetaRead as _, MetaStore as _};
use crate::store::faulty::{Fault as StoreFailure, Op, Rule};
use crate::store::object_store::ObjectStoreExt as _;
use crate::store::object_store::memory::InMemory;
use crate::store::{FaultyStore, StoreFault};

const ROOT: Inode = Inode::ROOT;
const BLOCK: u64 = 4 * KIB;

async fn try_scrub(volume: &TestVolume, options: &ScrubOptions) -> Result<Scrubbed, CheckError> {
    let bucket = Bucket { store: volume.store.clone(), packs: volume.context.clone() };
    scrub(&volume.meta.follow(), &bucket, &volume.facts(), options, &|_| {}).await
}

async fn scrubbed(volume: &TestVolume) -> Scrubbed {
    try_scrub(volume, &ScrubOptions::default()).await.unwrap()
}

/// A volume with files of one pack each; the packs and their records.
async fn volume_of(
    files: u64,
    store: Arc<dyn crate::store::object_store::ObjectStore>,
) -> (TestVolume, Vec<Inode>, Vec<(PackNumber, PackRecord)>) {
    let volume = TestVolume::on(store).await;
    let fs = volume.mount().await;
    let mut inodes = Vec::new();
    for number in 0..files {
        let (inode, _) = create(&fs, ROOT, &format!("file{number}")).await;
        write(&fs, inode, 0, &noise(number)).await;
        fs.flush().await.unwrap();
        inodes.push(inode);
    }
    fs.close().await.unwrap();
    let (start, end) = Key::range_of(KeyKind::Pack);
    let packs = volume.meta.follow().scan(&start, &end, 100).await.unwrap();
    let packs = packs.iter().map(|(key, value)| {
        (PackNumber(Key::number(key, 0).unwrap()), PackRecord::decode(value).unwrap())
    });
    let packs = packs.collect();
    (volume, inodes, packs)
}

/// 100,000 bytes that do not compress.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..100_000).map(|_| next()).collect()
}

async fn change(volume: &TestVolume, pack: PackNumber, change: impl FnOnce(&mut Vec<u8>)) {
    let path = volume.context.path(pack);
    let mut bytes = volume.store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    change(&mut bytes);
    volume.store.put(&path, bytes.into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_found_named_and_costs_its_block_alone() {
    let (volume, inodes, packs) = volume_of(2, Arc::new(InMemory::new())).await;
    let whole = scrubbed(&volume).await;
    assert!(whole.is_clean() && whole.packs == 2, "{whole:?}");
    // Somewhere in the third chunk: chunks of 4 KiB and a tag follow the header.
    change(&volume, packs[0].0, |bytes| bytes[96 + 2 * 4112 + 100] ^= 1).await;
    let found = scrubbed(&volume).await;
    let faults = vec![Fault::Chunk { chunk: 2 }];
    assert_eq!(found.faulty, [FaultyPack { pack: packs[0].0.0, faults }]);
    let path = Some("/file0".to_owned());
    let damaged = 2 * BLOCK..3 * BLOCK;
    assert_eq!(found.files, [DamagedFile { inode: inodes[0], path, ranges: vec![damaged] }]);

    let fs = volume.mount().await;
    let read = async |inode, offset| fs.read(inode, Handle(0), offset, 4096).wait().await;
    for block in 0..24 {
        let content = read(inodes[0], block * BLOCK).await;
        assert_eq!(content.is_err(), block == 2, "block {block}");
    }
    assert_eq!(read_all(&fs, inodes[1]).await, noise(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_no_file_shows_is_told_and_harms_none() {
    let (volume, _, packs) = volume_of(3, Arc::new(InMemory::new())).await;
    change(&volume, packs[0].0, |bytes| bytes[20] ^= 1).await;
    change(&volume, packs[1].0, |bytes| {
        let len = bytes.len();
        bytes[len - 30] ^= 1;
    })
    .await;
    // The first blocks of the third file are not shown any more.
    let fs = volume.mount().await;
    let third = lookup(&fs, ROOT, "file2").await.unwrap().inode;
    write(&fs, third, 0, &[0; 8192]).await;
    fs.close().await.unwrap();
    change(&volume, packs[2].0, |bytes| bytes[100] ^= 1).await;
    let found = scrubbed(&volume).await;
    let faulty = |at: usize, fault| FaultyPack { pack: packs[at].0.0, faults: vec![fault] };
    let all = [
        faulty(0, Fault::Header),
        faulty(1, Fault::Directory),
        faulty(2, Fault::Chunk { chunk: 0 }),
    ];
    assert_eq!(found.faulty, all);
    assert_eq!(found.files, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_are_gone_cut_or_swapped_are_told_with_their_files() {
    let (volume, inodes, packs) = volume_of(4, Arc::new(InMemory::new())).await;
    volume.store.delete(&volume.context.path(packs[0].0)).await.unwrap();
    change(&volume, packs[1].0, |bytes| bytes.truncate(96 + 4112 * 10)).await;
    let other = volume.context.path(packs[3].0);
    let other = volume.store.get(&other).await.unwrap().bytes().await.unwrap();
    change(&volume, packs[2].0, |bytes| *bytes = other.to_vec()).await;
    let found = scrubbed(&volume).await;
    assert_eq!(found.faulty.len(), 3, "{:#?}", found.faulty);
    assert_eq!(found.faulty[0].faults, [Fault::Missing]);
    assert!(found.faulty[1].faults.contains(&Fault::Directory));
    let ranges: Vec<_> = found.files.iter().map(|file| (file.inode, &file.ranges[..])).collect();
    let expected = [0..100_000, 10 * BLOCK..100_000, 0..100_000].map(|range| [range]);
    let expected: Vec<_> =
        inodes.iter().copied().zip(expected.iter().map(|range| &range[..])).collect();
    assert_eq!(ranges, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_scrub_goes_on_with_what_it_found() {
    let store = FaultyStore::new(InMemory::new());
    let faults = store.faults();
    let (volume, inodes, packs) = volume_of(8, Arc::new(store)).await;
    change(&volume, packs[1].0, |bytes| bytes[200] ^= 1).await;
    let dir = tempfile::tempdir().unwrap();
    let state = Some(dir.path().join("deep/state.json"));
    let options = ScrubOptions { state: state.clone(), ..ScrubOptions::default() };
    let failing = |pack: PackNumber| {
        let path = volume.context.path(pack).to_string();
        Rule::always(StoreFailure::Fail(StoreFault::Unavailable)).on(Op::Get).path(path)
    };
    faults.add(failing(packs[5].0));
    faults.add(Rule::always(StoreFailure::Fail(StoreFault::Unavailable)).on(Op::Head));
    let error = try_scrub(&volume, &options).await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Retry);
    faults.clear();
    let mode = std::os::unix::fs::PermissionsExt::mode;
    let metadata = std::fs::metadata(state.as_ref().unwrap()).unwrap();
    assert_eq!(mode(&metadata.permissions()) & 0o777, 0o600);
    // What comes before the fault is not fetched again.
    let before = faults.struck();
    faults.add(failing(packs[0].0));
    let found = try_scrub(&volume, &options).await.unwrap();
    assert_eq!(faults.struck(), before);
    assert!(found.resumed.is_some() && found.packs == 8, "{found:?}");
    assert_eq!(found.files.len(), 1);
    assert_eq!((found.files[0].inode, found.faulty.len()), (inodes[1], 1));
    assert!(!state.as_ref().unwrap().exists(), "the next scrub begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_the_store_refuses_is_told_with_its_files_and_the_others_are_read() {
    let store = FaultyStore::new(InMemory::new());
    let faults = store.faults();
    let (volume, inodes, packs) = volume_of(8, Arc::new(store)).await;
    for fault in [StoreFault::Denied, StoreFault::Unavailable] {
        let path = volume.context.path(packs[2].0).to_string();
        faults.add(Rule::always(StoreFailure::Fail(fault)).on(Op::Get).path(path));
        let found = scrubbed(&volume).await;
        assert_eq!((found.packs, found.faulty.len()), (8, 1), "{found:?}");
        let [Fault::Unreadable { why }] = &found.faulty[0].faults[..] else { panic!("{found:?}") };
        assert!(!why.is_empty());
        let ranges: Vec<_> = found.files.iter().map(|f| (f.inode, &f.ranges[..])).collect();
        let whole = 0..100_000;
        assert_eq!(ranges, [(inodes[2], &[whole][..])]);
        faults.clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_the_metadata_that_the_store_refuses_is_told_and_the_others_are_read() {
    let store = FaultyStore::new(InMemory::new());
    let faults = store.faults();
    for number in 0..4 {
        let path = format!("meta/{number}");
        store.put(&path.as_str().into(), vec![number].into()).await.unwrap();
    }
    let denied = || Rule::always(StoreFailure::Fail(StoreFault::Denied));
    faults.add(denied().on(Op::Get).path("meta/2"));
    let try_all = async || scrub_metadata(&store, &store, None, &|_| {}).await;
    let objects = try_all().await.unwrap();
    assert_eq!((objects.count, objects.damaged.len()), (4, 1), "{objects:?}");
    assert_eq!(objects.damaged[0].name, "meta/2");
    assert!(objects.damaged[0].why.starts_with("cannot be read: "), "{objects:?}");
    faults.add(denied().on(Op::Head));
    let error = try_all().await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_in_bytes_of_packs() {
    let (volume, _, packs) = volume_of(3, Arc::new(InMemory::new())).await;
    let old = volume.meta.follow();
    let bytes = AtomicU64::new(0);
    let bucket = Bucket { store: volume.store.clone(), packs: volume.context.clone() };
    let total: u64 = packs.iter().map(|(_, record)| record.size).sum();
    let progress = |progress: crate::check::Progress| {
        assert_eq!(progress.bytes_total, total);
        bytes.store(progress.bytes, Relaxed);
    };
    let options = ScrubOptions::default();
    let found = scrub(&old, &bucket, &volume.facts(), &options, &progress).await.unwrap();
    assert!(found.is_clean());
    assert_eq!((bytes.into_inner(), found.bytes), (total, total));
}

/// A volume with `files` packs, and a runtime whose clock runs as fast as nothing else is to be done.
fn volume_and_paused_runtime(
    files: u64,
) -> (TestVolume, Vec<(PackNumber, PackRecord)>, tokio::runtime::Runtime) {
    let making = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (volume, _, packs) = making.block_on(volume_of(files, Arc::new(InMemory::new())));
    let mut paused = tokio::runtime::Builder::new_current_thread();
    (volume, packs, paused.enable_all().start_paused(true).build().unwrap())
}

#[test]
fn a_scrub_with_a_rate_takes_the_time_that_its_bytes_need() {
    let (volume, packs, runtime) = volume_and_paused_runtime(6);
    let before_last: u64 = packs[..5].iter().map(|(_, record)| record.size).sum();
    runtime.block_on(async {
        let began = tokio::time::Instant::now();
        assert!(scrubbed(&volume).await.is_clean());
        assert_eq!(began.elapsed().as_secs(), 0);
        let options = ScrubOptions { rate: Some(10_000), ..ScrubOptions::default() };
        assert!(try_scrub(&volume, &options).await.unwrap().is_clean());
        assert_eq!(began.elapsed().as_secs(), before_last / 10_000);
    });
}

#[test]
fn a_scrub_that_is_killed_goes_on_where_it_was() {
    let (volume, packs, runtime) = volume_and_paused_runtime(6);
    let dir = tempfile::tempdir().unwrap();
    let state = Some(dir.path().join("state.json"));
    let slow = ScrubOptions { rate: Some(10_000), state, ..ScrubOptions::default() };
    runtime.block_on(async {
        // A pack takes 10 s, so it is killed in the third one.
        let time = std::time::Duration::from_secs(25);
        assert!(tokio::time::timeout(time, try_scrub(&volume, &slow)).await.is_err());
        // What was tried before is not looked at again, even if it is gone by now.
        volume.store.delete(&volume.context.path(packs[0].0)).await.unwrap();
        let options = ScrubOptions { rate: None, ..slow.clone() };
        let found = try_scrub(&volume, &options).await.unwrap();
        assert!(found.resumed.is_some() && found.is_clean() && found.packs == 6, "{found:?}");
        assert!(!try_scrub(&volume, &options).await.unwrap().is_clean());

        let restart = ScrubOptions { restart: true, ..options.clone() };
        let elsewhere = ScrubOptions { location: "a copy".to_owned(), ..options };
        for options in [restart, elsewhere] {
            assert!(tokio::time::timeout(time, try_scrub(&volume, &slow)).await.is_err());
            let found = try_scrub(&volume, &options).await.unwrap();
            assert!(found.resumed.is_none() && found.packs == 6, "{found:?}");
        }
    });
}

#[test]
fn an_old_scrub_does_not_count_and_what_was_faulty_is_tried_again() {
    let (volume, packs, runtime) = volume_and_paused_runtime(6);
    let dir = tempfile::tempdir().unwrap();
    let state = Some(dir.path().join("state.json"));
    let day = |days: i64| Timestamp { seconds: 1_700_000_000 + days * 86_400, nanos: 0 };
    let slow = ScrubOptions { rate: Some(10_000), state, now: day(0), ..Default::default() };
    let time = std::time::Duration::from_secs(25);
    runtime.block_on(async {
        let path = volume.context.path(packs[0].0);
        let whole = volume.store.get(&path).await.unwrap().bytes().await.unwrap();
        for (days, is_resumed) in [(7, true), (8, false), (-1, false)] {
            volume.store.delete(&path).await.unwrap();
            assert!(tokio::time::timeout(time, try_scrub(&volume, &slow)).await.is_err());
            volume.store.put(&path, whole.clone().into()).await.unwrap();
            let later = ScrubOptions { rate: None, now: day(days), ..slow.clone() };
            let found = try_scrub(&volume, &later).await.unwrap();
            assert!(found.is_clean() && found.packs == 6, "{found:?}");
            assert_eq!(found.resumed, is_resumed.then_some(day(0).seconds), "after {days} days");
        }
        // What is still faulty stays so.
        volume.store.delete(&path).await.unwrap();
        assert!(tokio::time::timeout(time, try_scrub(&volume, &slow)).await.is_err());
        let found = try_scrub(&volume, &ScrubOptions { rate: None, ..slow }).await.unwrap();
        assert_eq!((found.faulty.len(), found.files.len()), (1, 1), "{found:?}");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_were_gone_are_not_all_taken_into_memory_when_they_are_back() {
    let store = FaultyStore::new(InMemory::new());
    let faults = store.faults();
    let (volume, inodes, packs) = volume_of(12, Arc::new(store)).await;
    for (pack, _) in &packs {
        let path = volume.context.path(*pack).to_string();
        let gone = Rule::always(StoreFailure::Fail(StoreFault::NotFound)).on(Op::Get).path(path);
        faults.add(gone.times(1));
    }
    let found = scrubbed(&volume).await;
    assert_eq!(found.faulty.len(), packs.len());
    let files: Vec<_> = found.files.iter().map(|file| file.inode).collect();
    assert_eq!(files, inodes, "those of packs that were gone");
    assert!(scrubbed(&volume).await.is_clean());
}

#[test]
fn a_pack_that_is_deleted_ahead_of_what_the_scrub_sees_of_the_records_is_no_damage() {
    let (volume, packs, runtime) = volume_and_paused_runtime(2);
    runtime.block_on(async {
        let (pack, record) = &packs[0];
        volume.store.delete(&volume.context.path(*pack)).await.unwrap();
        // The record goes 10 s later, as a follower sees it.
        let later = async {
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
            let mut batch = Batch::new();
            batch.delete(Key::pack(*pack).as_bytes().to_vec());
            let meta = volume.meta.open();
            meta.apply(batch).await.unwrap();
            meta.close().await.unwrap();
        };
        let options =
            ScrubOptions { lag: std::time::Duration::from_secs(15), ..Default::default() };
        let (found, ()) = tokio::join!(try_scrub(&volume, &options), later);
        let found = found.unwrap();
        assert!(found.is_clean() && found.bytes >= record.size, "{found:?}");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_do_not_decode_are_told_with_the_files_that_need_them() {
    let (volume, inodes, packs) = volume_of(3, Arc::new(InMemory::new())).await;
    let damage = async |key: Key| {
        let meta = volume.meta.open();
        let mut batch = Batch::new();
        batch.put(key.as_bytes().to_vec(), vec![0xff]);
        meta.apply(batch).await.unwrap();
        meta.close().await.unwrap();
    };
    damage(Key::pack(packs[0].0)).await;
    let found = scrubbed(&volume).await;
    let faults = vec![Fault::Record];
    assert_eq!(found.faulty, [FaultyPack { pack: packs[0].0.0, faults }]);
    let files = |found: &Scrubbed| -> Vec<_> {
        found.files.iter().map(|file| (file.inode, file.ranges.clone())).collect()
    };
    let whole = 0..100_000;
    assert_eq!(files(&found), [(inodes[0], vec![whole.clone()])]);

    damage(Key::page(inodes[1], 0)).await;
    let found = scrubbed(&volume).await;
    assert_eq!(found.damaged_records, 1);
    let page = 0..128 * BLOCK;
    assert_eq!(files(&found), [(inodes[0], vec![whole]), (inodes[1], vec![page])]);

    damage(Key::inode(inodes[2])).await;
    assert_eq!(scrubbed(&volume).await.damaged_records, 2);
    let (volume, inodes, _) = volume_of(1, Arc::new(InMemory::new())).await;
    let meta = volume.meta.open();
    let mut batch = Batch::new();
    batch.put(Key::inode(inodes[0]).as_bytes().to_vec(), vec![0xff]);
    meta.apply(batch).await.unwrap();
    meta.close().await.unwrap();
    assert!(!scrubbed(&volume).await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_longer_than_it_was_is_told_and_still_read() {
    let (volume, inodes, packs) = volume_of(1, Arc::new(InMemory::new())).await;
    change(&volume, packs[0].0, |bytes| bytes.extend([0; 1000])).await;
    let found = scrubbed(&volume).await;
    let recorded = packs[0].1.size;
    assert_eq!(found.faulty[0].faults, [Fault::Size { recorded, found: recorded + 1000 }]);
    assert_eq!(found.files, []);
    let fs = volume.mount().await;
    assert_eq!(read_all(&fs, inodes[0]).await, noise(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_anywhere_in_a_pack_is_found_and_no_other_file_is_blamed() {
    let (volume, inodes, packs) = volume_of(2, Arc::new(InMemory::new())).await;
    let len = packs[0].1.size as usize;
    for at in (0..len).step_by(4001).chain((8..96).step_by(9)).chain((len - 60..len).step_by(3)) {
        change(&volume, packs[0].0, |bytes| bytes[at] ^= 0x10).await;
        let found = scrubbed(&volume).await;
        assert_eq!(found.faulty.len(), 1, "byte {at}");
        assert_eq!(found.faulty[0].pack, packs[0].0.0);
        // 25 chunks with a tag each; header, directory and trailer are not content.
        let mut expected = Vec::new();
        if (96..96 + 100_000 + 25 * 16).contains(&at) {
            let start = ((at - 96) / 4112) as u64 * BLOCK;
            let range = start..100_000.min(start + BLOCK);
            expected.push(DamagedFile {
                inode: inodes[0],
                path: Some("/file0".to_owned()),
                ranges: vec![range],
            });
        }
        assert_eq!(found.files, expected, "byte {at}");
        change(&volume, packs[0].0, |bytes| bytes[at] ^= 0x10).await;
    }
    assert!(scrubbed(&volume).await.is_clean());
}
