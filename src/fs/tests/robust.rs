//! Bounds and damage: settings at their limits, records that make no sense.

use super::support::*;
use crate::base::{CommitNumber, ErrorKind, Inode, KIB, MIB};
use crate::format::{Counters, DirEntry, Key, KeyKind};
use crate::fs::system::SCAN_RECORDS;
use crate::fs::{FileSystem, FsConfig, RenameMode};
use crate::meta::{Batch, MetaStore};

const ROOT: Inode = Inode::ROOT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_of_the_largest_size_take_the_block_that_ends_them() {
    let mut volume = TestVolume::new().await;
    volume.config.pack_bytes = 64 * MIB;
    volume.config.dirty_bytes_max = 256 * MIB;
    volume.block_size = crate::base::BlockSize::new(MIB).unwrap();
    let fs = volume.mount().await;
    let (small, _) = create(&fs, ROOT, "small").await;
    write(&fs, small, 0, &[1; 1000]).await;
    let (big, _) = create(&fs, ROOT, "big").await;
    for part in 0..64 {
        write(&fs, big, part * MIB, &vec![part as u8; MIB as usize]).await;
    }
    fs.flush().await.unwrap();
}

#[test]
fn a_record_cache_too_small_to_work_with_is_refused() {
    let config = |record_cache_bytes| FsConfig { record_cache_bytes, ..FsConfig::default() };
    assert!(config(4 * MIB).check().is_ok());
    assert!(config(4 * MIB - KIB).check().is_err() && config(0).check().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_hide_no_entries_of_a_listing() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    for index in 0..1100 {
        create(&fs, ROOT, &format!("n{index}")).await;
    }
    fs.run(|tx| {
        for place in 16..32 {
            let tombstone = DirEntry { target: None, chained: true, name: Box::default() };
            tx.set(Key::entry(ROOT, place), Some(tombstone.encode().into()));
        }
        Ok(())
    })
    .wait()
    .await
    .unwrap();
    assert_eq!(list(&fs, ROOT).await.len(), 1102);
    let all = fs.readdir(ROOT, 0, 2000, false).wait().await.unwrap();
    assert_eq!(all.len(), 1102);
}

/// Changes a directory's record past all rules.
async fn damage(fs: &FileSystem, inode: Inode, parent: Inode, nlink: u32) {
    let change = fs.run(move |tx| {
        let mut record = tx.inode(inode)?;
        (record.parent, record.nlink) = (parent, nlink);
        tx.set_inode(inode, &record);
        Ok(())
    });
    change.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_of_parents_is_damage_and_the_mount_goes_on() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let a = mkdir(&fs, ROOT, "a").await;
    let b = mkdir(&fs, a, "b").await;
    mkdir(&fs, ROOT, "c").await;
    damage(&fs, a, b, 3).await;
    let moved = fs.rename(ROOT, b"c", b, b"c", RenameMode::Replace).wait().await;
    assert_eq!(moved.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(lookup(&fs, ROOT, "c").await.is_some() && lookup(&fs, b, "c").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_counts_of_links_stay_within_their_type() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (few, many) = (mkdir(&fs, ROOT, "few").await, mkdir(&fs, ROOT, "many").await);
    mkdir(&fs, few, "directory").await;
    create(&fs, many, "file").await;
    damage(&fs, few, ROOT, 1).await;
    damage(&fs, many, ROOT, u32::MAX).await;
    let exchange = |mode| fs.rename(few, b"directory", many, b"file", mode).wait();
    exchange(RenameMode::Exchange).await.unwrap();
    mkdir(&fs, many, "more").await;
    let nlink = async |inode| fs.getattr(inode).wait().await.unwrap().record.nlink;
    assert_eq!((nlink(few).await, nlink(many).await), (0, u32::MAX));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_cut_in_pieces_many_times_over_fit_their_packs() {
    let mut volume = TestVolume::new().await;
    volume.config.pack_bytes = 64 * MIB;
    volume.config.dirty_bytes_max = 256 * MIB;
    volume.config.deadline = std::time::Duration::from_secs(6);
    volume.block_size = crate::base::BlockSize::new(MIB).unwrap();
    let fs = volume.mount().await;
    let (big, _) = create(&fs, ROOT, "big").await;
    for part in 2..64 {
        write(&fs, big, part * MIB, &vec![part as u8; MIB as usize]).await;
    }
    write(&fs, big, 0, &vec![1; MIB as usize]).await;
    for level in 0..4u64 {
        let edge = 10 + level * 20;
        fs.fallocate(big, edge, MIB - 2 * edge, crate::fs::Allocate::PunchHole)
            .wait()
            .await
            .unwrap();
        write(&fs, big, edge + 5, &vec![2; (MIB - 2 * edge - 10) as usize]).await;
    }
    fs.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_brings_what_was_asked_for_and_goes_on_where_it_ended() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    for index in 0..60 {
        create(&fs, ROOT, &format!("n{index}")).await;
        if index == 40 {
            fs.flush().await.unwrap();
        }
    }
    let (mut start, end) = Key::range_under(KeyKind::Entry, ROOT, 0);
    let mut found = 0;
    loop {
        let scanned = fs.scan(&start, &end, 10).await.unwrap();
        assert!(scanned.records.len() <= 20, "ten of what is stored and ten of what is not");
        found += scanned.records.len();
        let Some(next) = scanned.next else { break };
        start = next;
    }
    assert_eq!(found, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_highest_inode_number_ends_the_loading_of_a_range() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    for number in (0..2 * SCAN_RECORDS as u64).map(|back| u64::MAX - back) {
        let put = fs.run(move |tx| {
            let record = tx.inode(ROOT)?;
            tx.set_inode(Inode(number), &record);
            Ok(())
        });
        put.wait().await.unwrap();
    }
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    let wanted = [Key::inode(Inode(u64::MAX))];
    let first = Inode(u64::MAX - SCAN_RECORDS as u64 + 1);
    fs.inner.load_range(&wanted, first, Inode(u64::MAX)).await.unwrap();
    assert!(fs.inner.lock().record(&wanted[0]).is_some_and(|known| known.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_past_all_bounds_are_damage() {
    let volume = TestVolume::new().await;
    let engine = volume.meta.open();
    let sound = crate::fs::read_counters(&engine).await.unwrap();
    for (commit, next_inode) in [(CommitNumber(u64::MAX), 2), (CommitNumber(1), u64::MAX)] {
        let mut batch = Batch::new();
        let damaged = Counters { commit, next_inode, ..sound };
        batch.put(Key::counters().as_bytes().to_vec(), damaged.encode());
        engine.apply(batch).await.unwrap();
        let error = crate::fs::read_counters(&engine).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
