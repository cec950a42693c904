//! Commits and memory under faults, floods of small changes, and other writers.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::support::*;
use crate::base::{Inode, KIB, MIB, PackNumber};
use crate::format::*;
use crate::fs::system::SCAN_RECORDS;
use crate::fs::*;
use crate::store::faulty::{Fault, Op, Rule};
use crate::store::object_store::ObjectStore;

const ROOT: Inode = Inode::ROOT;

/// Pages that scattered writes touch.
const SCATTERED_PAGES: u64 = 2_500;

/// Pages of a file to be deleted.
const DELETED_PAGES: u64 = 5_000;

/// Processor time of this process in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn until(mut reached: impl FnMut() -> bool) {
    for _ in 0..500 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never");
}

/// A block is merged in N after N+1 shared the pack it leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_during_the_commit_that_merges_its_source_can_be_committed() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (source, _) = create(&fs, ROOT, "source").await;
    write(&fs, source, 0, &vec![7; 100_000]).await;
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    let source = lookup(&fs, ROOT, "source").await.unwrap().inode;
    let (target, _) = create(&fs, ROOT, "target").await;
    // Group N: only block 0 is left of the pack, in more than 16 fragments.
    fs.setattr(source, resize(4096)).wait().await.unwrap();
    for index in 0..20 {
        write(&fs, source, index * 200, &[1; 10]).await;
    }
    faults.add(Rule::always(Fault::Stall).on(Op::Get).path("packs"));
    let flushing = tokio::spawn({
        let fs = fs.clone();
        async move { fs.flush().await }
    });
    until(|| faults.struck() > 0).await; // N is merging
    // Group N+1: shares what N is about to leave.
    let range = CopyRange { from: source, from_offset: 0, to: target, to_offset: 0, len: 4096 };
    assert_eq!(fs.copy_range(range).wait().await.unwrap(), 4096);
    faults.clear();
    flushing.await.unwrap().unwrap();
    let done = fs.flush().await;
    eprintln!("health {:?}", fs.status().health);
    done.unwrap();
}

/// One pack that cannot be read ends all commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_pack_does_not_stop_commits_of_other_files() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (source, _) = create(&fs, ROOT, "damaged").await;
    write(&fs, source, 0, &vec![7; 100_000]).await;
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    let source = lookup(&fs, ROOT, "damaged").await.unwrap().inode;
    faults.add(
        Rule::always(Fault::Fail(crate::store::StoreFault::NotFound)).on(Op::Get).path("packs"),
    );
    for index in 0..20 {
        write(&fs, source, index * 200, &[1; 10]).await;
    }
    let (other, _) = create(&fs, ROOT, "other").await;
    write(&fs, other, 0, b"precious").await;
    let done = fs.flush().await;
    eprintln!("health {:?}", fs.status().health);
    done.unwrap();
}

/// Copies of inline bytes are counted nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_copies_of_a_small_file_can_be_committed() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (source, _) = create(&fs, ROOT, "source").await;
    write(&fs, source, 0, &vec![7; 60 << 10]).await;
    fs.flush().await.unwrap();
    for index in 0..1500 {
        let (target, _) = create(&fs, ROOT, &format!("copy-{index}")).await;
        let range =
            CopyRange { from: source, from_offset: 0, to: target, to_offset: 0, len: 60 << 10 };
        assert_eq!(fs.copy_range(range).wait().await.unwrap(), 60 << 10);
    }
    eprintln!("dirty {}", fs.status().dirty_bytes);
    let done = fs.flush().await;
    eprintln!("health {:?}", fs.status().health);
    done.unwrap();
}

/// Few small writes all over a large, fragmented file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scattered_small_writes_to_a_large_fragmented_file_can_be_committed() {
    let (mut volume, _) = faulty().await;
    volume.config.deadline = Duration::from_mins(5);
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "image").await;
    let page_bytes = PAGE_BLOCKS * 4 * KIB;
    fs.setattr(file, resize(SCATTERED_PAGES * page_bytes)).wait().await.unwrap();
    let mut page = Page::default();
    for slot in 1..128u8 {
        let fragment = |i: u32| Fragment {
            at: i * 200,
            len: 100,
            place: Place::Pack {
                pack: PackNumber(1 << 40 | u64::from(i)),
                chunk: i * 1000 + u32::from(slot),
                offset: 3_000_000 + i * 5000,
                sealed_len: 116,
                skip: 0,
                compressed: false,
            },
        };
        page.set(slot, (0..16).map(fragment).collect());
    }
    let bytes: Bytes = page.encode().into();
    eprintln!("page {} bytes", bytes.len());
    for number in 0..SCATTERED_PAGES {
        let bytes = bytes.clone();
        fs.run(move |tx| {
            tx.set(Key::page(file, number), Some(bytes.clone()));
            Ok(())
        })
        .wait()
        .await
        .unwrap();
        if number % 400 == 0 {
            fs.flush().await.unwrap();
        }
    }
    fs.flush().await.unwrap();
    for number in 0..SCATTERED_PAGES {
        write(&fs, file, number * page_bytes, b"x").await;
    }
    eprintln!("dirty {}", fs.status().dirty_bytes);
    let done = fs.flush().await;
    eprintln!("health {:?}", fs.status().health);
    done.unwrap();
}

/// After fencing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_mount_is_idle() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    faults.add(Rule::always(Fault::Stall).on(Op::Put).path("packs"));
    let (file, _) = create(&fs, ROOT, "file").await;
    write(&fs, file, 0, &vec![7; 100_000]).await;
    let one = tokio::spawn({
        let fs = fs.clone();
        async move { fs.flush().await }
    });
    until(|| faults.struck() > 0).await;
    write(&fs, file, 0, b"next group").await;
    let two = tokio::spawn({
        let fs = fs.clone();
        async move { fs.flush().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _newer = volume.meta.open();
    faults.clear();
    assert!(one.await.unwrap().is_err() && two.await.unwrap().is_err());
    assert!(matches!(fs.status().health, FsHealth::Fenced));
    let before = cpu_ticks();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = cpu_ticks() - before;
    assert!(used < 20, "{used} of 100 ticks of processor time in one idle second");
}

/// One orphan that cannot be given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_orphan_does_not_keep_a_mount_from_closing() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    fs.run(|tx| {
        tx.set(Key::inode(Inode(77)), Some(Bytes::from_static(&[9])));
        tx.set(Key::orphan(Inode(77)), Some(OrphanRecord.encode().into()));
        Ok(())
    })
    .wait()
    .await
    .unwrap();
    fs.reclaim_unreferenced().await.unwrap();
    create(&fs, ROOT, "precious").await;
    let closed = fs.close().await;
    eprintln!("{closed:?}");
    let fs = volume.mount().await;
    assert!(lookup(&fs, ROOT, "precious").await.is_some(), "not even tried to commit");
}

/// Orphans of a crash lie from `next_pack` on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_of_an_uncommitted_group_have_numbers_from_next_pack_on() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    write(&fs, file, 0, &vec![7; 100_000]).await;
    faults.add(Rule::always(Fault::Stall).on(Op::Put).path("packs").times(1));
    let one = tokio::spawn({
        let fs = fs.clone();
        async move { fs.flush().await }
    });
    until(|| faults.struck() > 0).await;
    // The next group packs early while the first one commits.
    for part in 0..3 {
        write(&fs, file, (1 + part) * MIB, &vec![part as u8; 1 << 20]).await;
    }
    until(|| fs.inner.uploader.stats().packs >= 2).await;
    faults.clear();
    one.await.unwrap().unwrap();
    drop(fs); // crash
    let counters = read_counters(&volume.meta.open()).await.unwrap();
    let meta = volume.meta.open();
    let (start, end) = Key::range_of(KeyKind::Pack);
    let known = crate::meta::MetaRead::scan(&meta, &start, &end, 100).await.unwrap().len() as u64;
    let objects = volume.store.list(None).count().await as u64;
    assert!(
        objects - known == 0 || counters.next_pack.counter() <= known,
        "{objects} packs in the bucket, {known} known, orphans said to lie from {} on",
        counters.next_pack
    );
}

/// Who may not keep setuid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copying_into_a_setuid_file_takes_setuid_away() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "tool").await;
    let (evil, _) = create(&fs, ROOT, "evil").await;
    write(&fs, evil, 0, b"#!/bin/sh").await;
    fs.setattr(file, SetAttributes { permissions: Some(0o4777), size: None, ..resize(0) })
        .wait()
        .await
        .unwrap();
    fs.copy_range(CopyRange { from: evil, from_offset: 0, to: file, to_offset: 0, len: 9 })
        .wait()
        .await
        .unwrap();
    assert_eq!(fs.getattr(file).wait().await.unwrap().record.permissions, 0o777);
}

/// Edits that are counted nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copying_holes_is_counted_or_costs_nothing() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (from, _) = create(&fs, ROOT, "from").await;
    let (to, _) = create(&fs, ROOT, "to").await;
    fs.setattr(from, resize(64 << 30)).wait().await.unwrap();
    for part in 0..3u64 {
        let offset = part * (64 << 20);
        fs.copy_range(CopyRange {
            from,
            from_offset: offset,
            to,
            to_offset: offset,
            len: 64 << 20,
        })
        .wait()
        .await
        .unwrap();
    }
    let core = fs.inner.lock();
    let edits = core.open.files[&to].edited_count();
    assert!(edits < 1000, "{edits} edited blocks in memory, {} dirty bytes", core.dirty_bytes());
}

/// Unlinked while nobody refers to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inode_unlinked_without_references_is_given_back() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (file, handle) = create(&fs, ROOT, "file").await;
    fs.release(file, handle);
    fs.forget(file, 1);
    fs.unlink(ROOT, b"file").wait().await.unwrap();
    until(|| fs.status().inodes == 1).await;
}

/// Many tiny writes in one block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scattered_bytes_in_blocks_are_bounded() {
    let (mut volume, _) = faulty().await;
    volume.block_size = crate::base::BlockSize::new(64 * KIB).unwrap();
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    for index in 0..4_096u64 {
        write(&fs, file, index * 2, b"x").await;
    }
    // In the background: a block that is being written gives it no chance.
    until(|| {
        let core = fs.inner.lock();
        let blocks = core.open.files[&file].blocks();
        blocks.map(|(_, extents)| extents.spans().len()).sum::<usize>() < 600
    })
    .await;
}

/// A hole over many pages: all of them go, in one batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_large_file_fits_one_batch() {
    let (mut volume, _) = faulty().await;
    volume.config.deadline = Duration::from_mins(2);
    volume.config.record_cache_bytes = 4 << 20;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "image").await;
    let mut page = Page::default();
    page.set(0, vec![Fragment { at: 0, len: 1, place: Place::Inline(Bytes::from_static(b"x")) }]);
    let bytes: Bytes = page.encode().into();
    fs.setattr(file, resize(DELETED_PAGES * PAGE_BLOCKS * 4096)).wait().await.unwrap();
    for first in (0..DELETED_PAGES).step_by(1_000) {
        let bytes = bytes.clone();
        fs.run(move |tx| {
            for n in first..first + 1_000 {
                tx.core().open.set(Key::page(file, n), Some(bytes.clone()));
            }
            Ok(())
        })
        .wait()
        .await
        .unwrap();
        fs.flush().await.unwrap();
    }
    fs.setattr(file, resize(0)).wait().await.unwrap();
    fs.flush().await.unwrap();
    assert_eq!(fs.getattr(file).wait().await.unwrap().record.allocated, 0);
    let (start, end) = Key::range_under(KeyKind::Page, file, 0);
    assert!(fs.scan(&start, &end, SCAN_RECORDS).await.unwrap().records.is_empty());
}
