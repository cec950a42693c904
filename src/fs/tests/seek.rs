//! Seeking in files of many pages, committed and not.

use super::support::*;
use crate::base::{Inode, KIB};
use crate::format::PAGE_BLOCKS;
use crate::fs::{Allocate, FileSystem, FsError, Outcome, Seek, SetAttributes};

const BLOCK: u64 = 4 * KIB;
const PAGE: u64 = PAGE_BLOCKS * BLOCK;

async fn seek(fs: &FileSystem, inode: Inode, offset: u64, what: Seek) -> Option<u64> {
    match fs.seek(inode, offset, what).wait().await {
        Ok(found) => Some(found),
        Err(FsError::BeyondEnd) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn punch(fs: &FileSystem, inode: Inode, offset: u64, len: u64) {
    fs.fallocate(inode, offset, len, Allocate::PunchHole).wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_without_holes_ends_where_the_file_ends() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, Inode::ROOT, "file").await;
    let size = 3 * PAGE + 5;
    write(&fs, file, 0, &vec![1; size as usize]).await;
    for _ in 0..2 {
        assert_eq!(seek(&fs, file, 7, Seek::Hole).await, Some(size));
        assert_eq!(seek(&fs, file, PAGE + 7, Seek::Data).await, Some(PAGE + 7));
        assert_eq!(seek(&fs, file, size, Seek::Hole).await, None);
        assert_eq!(seek(&fs, file, size, Seek::Data).await, None);
        fs.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_over_committed_data_show_before_they_are_committed() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, Inode::ROOT, "file").await;
    let size = 4 * PAGE;
    write(&fs, file, 0, &vec![1; size as usize]).await;
    fs.flush().await.unwrap();
    punch(&fs, file, 100, 3 * PAGE).await;
    for _ in 0..2 {
        assert_eq!(seek(&fs, file, 0, Seek::Hole).await, Some(100));
        assert_eq!(seek(&fs, file, 100, Seek::Data).await, Some(3 * PAGE + 100));
        assert_eq!(seek(&fs, file, 3 * PAGE + 100, Seek::Hole).await, Some(size));
        fs.flush().await.unwrap();
    }
    punch(&fs, file, 0, size).await;
    assert_eq!(seek(&fs, file, 0, Seek::Data).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_that_show_only_zeros_are_no_data() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, Inode::ROOT, "file").await;
    let size = 2000 * PAGE;
    let grow = SetAttributes {
        caller: ROOT_CALLER,
        permissions: None,
        uid: None,
        gid: None,
        size: Some(size),
        atime: None,
        mtime: None,
        ctime: None,
    };
    fs.setattr(file, grow).wait().await.unwrap();
    // More pages than one look takes, none of which shows anything.
    for page in 0..1500 {
        punch(&fs, file, page * PAGE + 10, 10).await;
    }
    let far = 1900 * PAGE + BLOCK + 1;
    write(&fs, file, far, b"data").await;
    for _ in 0..2 {
        assert_eq!(seek(&fs, file, 0, Seek::Data).await, Some(far));
        assert_eq!(seek(&fs, file, far, Seek::Hole).await, Some(far + 4));
        assert_eq!(seek(&fs, file, far + 4, Seek::Data).await, None);
        fs.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_behind_more_pages_than_one_scan_gives_is_found() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, Inode::ROOT, "file").await;
    let pages = 1200;
    for page in 0..pages {
        write(&fs, file, page * PAGE, b"data").await;
    }
    fs.flush().await.unwrap();
    punch(&fs, file, 0, (pages - 1) * PAGE).await;
    let last = (pages - 1) * PAGE;
    assert_eq!(seek(&fs, file, 0, Seek::Data).await, Some(last));
    assert_eq!(seek(&fs, file, last, Seek::Hole).await, Some(last + 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_over_many_pages_leaves_the_thread_that_asked() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, Inode::ROOT, "file").await;
    write(&fs, file, 0, &vec![1; 2 * PAGE as usize]).await;
    let search = fs.seek(file, 0, Seek::Hole);
    assert!(matches!(search, Outcome::Pending(_)));
    assert_eq!(search.wait().await.unwrap(), 2 * PAGE);
}
