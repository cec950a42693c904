//! What could not be stored is never forgotten by a later success.

use super::support::*;
use crate::base::{ErrorKind, Inode, MIB};
use crate::format::FileKind;
use crate::fs::{FileSystem, FsError, RenameMode, WriteOrigin};
use crate::store::StoreFault;
use crate::store::faulty::{Fault, Op, Rule};

const ROOT: Inode = Inode::ROOT;
const CACHED: WriteOrigin = WriteOrigin { from_cache: true, kill_privileges: false };

/// Writes from the kernel's cache until one is refused.
async fn overflow(fs: &FileSystem, inode: Inode) -> FsError {
    for part in 0..64 {
        let data = vec![part as u8; MIB as usize];
        if let Err(error) = fs.write(inode, part * MIB, &data, CACHED).wait().await {
            return error;
        }
    }
    panic!("never refused");
}

/// A mount whose file `lost` lost bytes; the store is well again.
async fn after_an_outage() -> (TestVolume, FileSystem, Inode) {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (lost, handle) = create(&fs, ROOT, "lost").await;
    faults.add(Rule::always(Fault::Fail(StoreFault::Denied)).on(Op::Put).path("packs"));
    assert_eq!(overflow(&fs, lost).await.kind(), ErrorKind::Retry);
    fs.release(lost, handle);
    faults.clear();
    // However often: what is left is stored, what is lost is told.
    while fs.fsync(ROOT).wait().await.is_err() {}
    (volume, fs, lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_lost_written_bytes_fails_every_later_fsync_and_flush() {
    let (volume, fs, lost) = after_an_outage().await;
    for _ in 0..3 {
        let error = fs.fsync(lost).wait().await.unwrap_err();
        assert!(matches!(error, FsError::Io { .. }) && error.kind() != ErrorKind::Retry);
        assert!(error.to_string().contains("lost"), "{error}");
        assert!(fs.flush().await.is_err());
        write(&fs, lost, 0, b"more").await;
    }
    let (other, _) = create(&fs, ROOT, "other").await;
    write(&fs, other, 0, b"sound").await;
    fs.fsync(other).wait().await.unwrap();
    assert!(fs.close().await.is_err(), "the end of the mount tells it too");
    let fs = volume.mount().await;
    let other = lookup(&fs, ROOT, "other").await.unwrap().inode;
    assert_eq!(read_all(&fs, other).await, b"sound");
    fs.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_written_anew_or_removed_has_lost_nothing() {
    let (_volume, fs, lost) = after_an_outage().await;
    fs.setattr(lost, resize(1)).wait().await.unwrap();
    assert!(fs.fsync(lost).wait().await.is_err(), "not all of it was written anew");
    fs.setattr(lost, resize(0)).wait().await.unwrap();
    fs.fsync(lost).wait().await.unwrap();
    fs.flush().await.unwrap();

    let (_volume, fs, lost) = after_an_outage().await;
    fs.make(node(ROOT, "new", FileKind::Regular)).wait().await.unwrap();
    fs.rename(ROOT, b"new", ROOT, b"lost", RenameMode::Replace).wait().await.unwrap();
    assert!(fs.fsync(lost).wait().await.is_err(), "still open somewhere");
    fs.flush().await.unwrap();
    fs.forget(lost, 1);
    fs.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_its_own_program_saw_fail_is_not_held_against_the_file() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    faults.add(Rule::always(Fault::Fail(StoreFault::Denied)).on(Op::Put).path("packs"));
    let mut refused = false;
    for part in 0..64 {
        let data = vec![part as u8; MIB as usize];
        refused |= fs.write(file, part * MIB, &data, PLAIN).wait().await.is_err();
        if refused {
            break;
        }
    }
    assert!(refused);
    faults.clear();
    while fs.fsync(file).wait().await.is_err() {}
    fs.flush().await.unwrap();
}
