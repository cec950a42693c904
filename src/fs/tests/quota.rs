//! The quota: refused is what adds to it, and only when it is really full.

use super::support::*;
use crate::base::{Inode, MIB};
use crate::fs::*;

const ROOT: Inode = Inode::ROOT;

async fn with_quota(bytes: u64) -> (TestVolume, FileSystem) {
    let mut volume = TestVolume::new().await;
    volume.config.quota_bytes = Some(bytes);
    let fs = volume.mount().await;
    (volume, fs)
}

async fn try_write(fs: &FileSystem, inode: Inode, offset: u64, len: usize) -> Result<(), FsError> {
    let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
    fs.write(inode, offset, &data, PLAIN).wait().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_volume_refuses_more_takes_overwrites_and_has_room_again_after_deletion() {
    let (_volume, fs) = with_quota(4 * MIB).await;
    let usage = fs.statfs().wait().await.unwrap();
    assert_eq!((usage.bytes_total, usage.bytes_used), (4 * MIB, 0));
    let (file, handle) = create(&fs, ROOT, "file").await;
    for part in 0..4 {
        // Twice the same: what is overwritten before its commit counts once.
        try_write(&fs, file, part * MIB, MIB as usize).await.unwrap();
        try_write(&fs, file, part * MIB, MIB as usize).await.unwrap();
    }
    let (other, _) = create(&fs, ROOT, "other").await;
    assert!(matches!(try_write(&fs, other, 0, 1).await, Err(FsError::NoSpace)));
    assert!(matches!(try_write(&fs, file, 4 * MIB, 1).await, Err(FsError::NoSpace)));
    try_write(&fs, file, MIB, 100_000).await.unwrap();
    assert_eq!(fs.statfs().wait().await.unwrap().bytes_total, 4 * MIB);
    fs.flush().await.unwrap();
    assert_eq!(fs.statfs().wait().await.unwrap().bytes_used, 4 * MIB);
    assert_eq!(fs.getattr(other).wait().await.unwrap().record.size, 0, "nothing of it was written");

    fs.unlink(ROOT, b"file").wait().await.unwrap();
    assert!(matches!(try_write(&fs, other, 0, 1).await, Err(FsError::NoSpace)), "still open");
    fs.release(file, handle);
    fs.forget(file, 1);
    fs.reclaim_unreferenced().await.unwrap();
    try_write(&fs, other, 0, 2 * MIB as usize).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserving_and_copying_are_held_to_the_quota_and_holes_are_free() {
    let (_volume, fs) = with_quota(2 * MIB).await;
    let (file, _) = create(&fs, ROOT, "file").await;
    fs.setattr(file, resize(1 << 40)).wait().await.unwrap();
    try_write(&fs, file, 1 << 30, MIB as usize).await.unwrap();
    let reserve = Allocate::Reserve { keep_size: true };
    let refused = fs.fallocate(file, 0, 3 * MIB, reserve).wait().await;
    assert!(matches!(refused, Err(FsError::NoSpace)));
    fs.fallocate(file, 1 << 30, MIB, reserve).wait().await.unwrap();
    let (copy, _) = create(&fs, ROOT, "copy").await;
    let range =
        |to_offset| CopyRange { from: file, from_offset: 1 << 30, to: copy, to_offset, len: MIB };
    assert_eq!(fs.copy_range(range(0)).wait().await.unwrap(), MIB);
    let refused = fs.copy_range(range(MIB)).wait().await;
    assert!(matches!(refused, Err(FsError::NoSpace)), "{refused:?}");
}

/// What an earlier mount left without a name is given back in the background: there will be room.
// One thread, so that nothing is done in the background before the write is tried.
#[tokio::test]
async fn a_full_volume_waits_for_what_an_earlier_mount_left_behind() {
    let (volume, fs) = with_quota(4 * MIB).await;
    let (file, _) = create(&fs, ROOT, "file").await;
    try_write(&fs, file, 0, 4 * MIB as usize).await.unwrap();
    fs.unlink(ROOT, b"file").wait().await.unwrap();
    fs.flush().await.unwrap();
    drop(fs); // crash, with the file still open

    let fs = volume.mount().await;
    let (other, _) = create(&fs, ROOT, "other").await;
    try_write(&fs, other, 0, 4 * MIB as usize).await.unwrap();
    fs.flush().await.unwrap();
    assert_eq!(read_all(&fs, other).await.len() as u64, 4 * MIB);
}
