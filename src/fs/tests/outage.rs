//! The store away, refusing or answering nonsense while groups wait for it.

use std::time::Duration;

use bytes::Bytes;

use super::support::*;
use crate::base::{ErrorKind, Inode, MIB};
use crate::format::{Key, KeyKind, OrphanRecord, PAGE_BLOCKS};
use crate::fs::{FileSystem, FsHealth, Handle};
use crate::store::StoreFault;
use crate::store::faulty::{Fault, Faults, Op, Rule};

const ROOT: Inode = Inode::ROOT;

fn packs_fail(faults: &Faults, fault: StoreFault) {
    faults.add(Rule::always(Fault::Fail(fault)).on(Op::Put).path("packs"));
}

/// Writes half of what may be dirty, then, while that commits, until there is no more room.
async fn fill(fs: &FileSystem, file: Inode) {
    write(fs, file, 0, &vec![7; 4 * MIB as usize]).await;
    let committing = fs.clone();
    drop(tokio::spawn(async move { committing.flush().await }));
    while fs.inner.lock().committing.is_none() {
        tokio::task::yield_now().await;
    }
    for part in 4..64 {
        let data = vec![part as u8; MIB as usize];
        if fs.write(file, part * MIB, &data, PLAIN).wait().await.is_err() {
            return;
        }
    }
    panic!("never full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_at_once_is_not_asked_without_pause() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    packs_fail(&faults, StoreFault::Denied);
    fill(&fs, file).await;
    // The last write waited for all of the deadline, with packs to be sent all the time.
    assert!(faults.struck() < 60, "{} requests", faults.struck());
    let numbers = fs.inner.next_pack_counter();
    assert!(numbers <= 16, "{numbers} packs were sealed anew");
    faults.clear();
    while fs.flush().await.is_err() {}
    let (start, end) = Key::range_of(KeyKind::Freed);
    let given_up = fs.scan(&start, &end, 1000).await.unwrap().records.len();
    assert!(given_up <= 16, "{given_up} numbers of packs given up");
    assert_eq!(read_all(&fs, file).await[..5], [7; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_refused_as_a_conflict_does_not_look_like_another_writer() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    write(&fs, file, 0, &vec![7; 100_000]).await;
    packs_fail(&faults, StoreFault::Precondition);
    assert!(fs.flush().await.is_err());
    assert!(!matches!(fs.status().health, FsHealth::Fenced));
    faults.clear();
    while fs.flush().await.is_err() {
        assert!(!fs.is_read_only());
    }
    assert_eq!(read_all(&fs, file).await, vec![7; 100_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_loses_what_is_written_there_and_nothing_else() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    let page_bytes = PAGE_BLOCKS * 4096;
    for page in 0..3 {
        write(&fs, file, page * page_bytes, b"before").await;
    }
    fs.flush().await.unwrap();
    fs.run(move |tx| {
        tx.set(Key::page(file, 1), Some(Bytes::from_static(b"garbage")));
        Ok(())
    })
    .wait()
    .await
    .unwrap();
    fs.flush().await.unwrap();

    let (other, _) = create(&fs, ROOT, "other").await;
    write(&fs, other, 0, b"precious").await;
    for page in 0..3 {
        write(&fs, file, page * page_bytes, b"after!").await;
    }
    fs.fsync(other).wait().await.unwrap();
    assert!(fs.fsync(file).wait().await.unwrap_err().to_string().contains("lost"));
    let read = async |page| fs.read(file, Handle(0), page * page_bytes, 6).wait().await;
    assert_eq!(
        (&read(0).await.unwrap()[..], &read(2).await.unwrap()[..]),
        (&b"after!"[..], &b"after!"[..])
    );
    assert_eq!(read(1).await.unwrap_err().kind(), ErrorKind::Corrupt);

    fs.setattr(file, resize(0)).wait().await.unwrap();
    fs.flush().await.unwrap();
    write(&fs, file, page_bytes, b"anew").await;
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    let (file, other) = (lookup(&fs, ROOT, "file").await, lookup(&fs, ROOT, "other").await);
    assert_eq!(read_all(&fs, file.unwrap().inode).await[page_bytes as usize..], *b"anew");
    assert_eq!(read_all(&fs, other.unwrap().inode).await, b"precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_the_engine_refuses_ends_the_mount_instead_of_being_tried_for_ever() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    fs.run(|tx| {
        for number in 0..90 {
            let value = Bytes::from(vec![0; MIB as usize]);
            tx.core().open.set(Key::inode(Inode(1_000 + number)), Some(value));
        }
        Ok(())
    })
    .wait()
    .await
    .unwrap();
    let error = fs.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(fs.is_read_only() && fs.flush().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_has_ended_ends_the_mount_though_a_commit_has_to_read_first() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    fs.flush().await.unwrap();
    write(&fs, file, 0, b"content").await;
    fs.inner.lock().cache.clear();
    fs.inner.engine.as_ref().unwrap().close().await.unwrap();
    let error = fs.flush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(fs.is_read_only());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_that_cannot_be_given_back_does_not_keep_others_from_it() {
    let (volume, _) = faulty().await;
    let fs = volume.mount().await;
    let (file, handle) = create(&fs, ROOT, "file").await;
    fs.unlink(ROOT, b"file").wait().await.unwrap();
    fs.run(|tx| {
        tx.set(Key::inode(Inode(77)), Some(Bytes::from_static(&[9])));
        tx.set(Key::orphan(Inode(77)), Some(OrphanRecord.encode().into()));
        Ok(())
    })
    .wait()
    .await
    .unwrap();
    fs.release(file, handle);
    fs.forget(file, 1);
    let deadline = Duration::from_secs(30);
    let given_back = async {
        while fs.inner.lock().orphans.contains(&file) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(deadline, given_back).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_of_a_store_that_is_silent_once_somebody_waited_in_vain() {
    let (volume, faults) = faulty().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    write(&fs, file, 0, &vec![7; MIB as usize]).await;
    faults.add(Rule::always(Fault::Stall).on(Op::Put).path("packs"));
    assert_eq!(fs.flush().await.unwrap_err().kind(), ErrorKind::Retry);
    assert!(matches!(fs.status().health, FsHealth::Failing { .. }));
    faults.clear();
    fs.flush().await.unwrap();
    // Whoever waits for a commit is told a moment before.
    while fs.status().health != FsHealth::Ok {
        tokio::task::yield_now().await;
    }
}
