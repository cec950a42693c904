//! Names: making, linking, renaming, removing, listing.

use super::support::*;
use crate::base::Inode;
use crate::format::{DirEntry, FileKind, Key};
use crate::fs::{FsError, RenameMode};

const ROOT: Inode = Inode::ROOT;

async fn rename(
    fs: &crate::fs::FileSystem,
    from: (Inode, &str),
    to: (Inode, &str),
    mode: RenameMode,
) -> Result<(), FsError> {
    fs.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode).wait().await
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_shows_each_name_once_and_survives_a_remount() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let mut wanted = vec![".".to_owned(), "..".to_owned()];
    for index in 0..100 {
        create(&fs, ROOT, &format!("n{index}")).await;
        wanted.push(format!("n{index}"));
        if index == 50 {
            fs.flush().await.unwrap();
        }
    }
    wanted.sort();
    for _ in 0..2 {
        let mut names = list(&fs, ROOT).await;
        names.sort();
        assert_eq!(names, wanted);
        fs.flush().await.unwrap();
    }
    let fs = volume.mount().await;
    let mut names = list(&fs, ROOT).await;
    names.sort();
    assert_eq!(names, wanted);
    assert_eq!(fs.getattr(ROOT).wait().await.unwrap().record.entries, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_follows_posix() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let a = mkdir(&fs, ROOT, "a").await;
    let b = mkdir(&fs, a, "b").await;
    let (file, _) = create(&fs, ROOT, "file").await;
    let (other, _) = create(&fs, b, "other").await;
    let replace = RenameMode::Replace;
    assert!(matches!(rename(&fs, (ROOT, "a"), (b, "x"), replace).await, Err(FsError::Invalid)));
    assert!(matches!(rename(&fs, (ROOT, "none"), (a, "x"), replace).await, Err(FsError::NotFound)));
    assert!(matches!(
        rename(&fs, (ROOT, "file"), (b, "other"), RenameMode::NoReplace).await,
        Err(FsError::Exists)
    ));
    assert!(matches!(
        rename(&fs, (ROOT, "file"), (ROOT, "a"), replace).await,
        Err(FsError::IsDirectory)
    ));
    assert!(matches!(
        rename(&fs, (a, "b"), (ROOT, "file"), replace).await,
        Err(FsError::NotDirectory)
    ));
    mkdir(&fs, ROOT, "empty").await;
    assert!(matches!(
        rename(&fs, (ROOT, "empty"), (a, "b"), replace).await,
        Err(FsError::NotEmpty)
    ));
    rename(&fs, (a, "b"), (ROOT, "empty"), replace).await.unwrap();
    let root = fs.getattr(ROOT).wait().await.unwrap().record;
    assert_eq!((root.nlink, root.entries), (4, 3));
    assert_eq!(fs.getattr(a).wait().await.unwrap().record.nlink, 2);
    assert_eq!(fs.getattr(b).wait().await.unwrap().record.parent, ROOT);
    rename(&fs, (ROOT, "file"), (b, "other"), RenameMode::Exchange).await.unwrap();
    assert_eq!(lookup(&fs, ROOT, "file").await.unwrap().inode, other);
    assert_eq!(lookup(&fs, b, "other").await.unwrap().inode, file);
    fs.link(file, ROOT, b"again").wait().await.unwrap();
    rename(&fs, (ROOT, "again"), (b, "other"), replace).await.unwrap();
    assert_eq!(
        fs.getattr(file).wait().await.unwrap().record.nlink,
        2,
        "same inode: nothing happens"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_over_open_file_leaves_reader_its_content() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (old, handle) = create(&fs, ROOT, "name").await;
    write(&fs, old, 0, b"old content").await;
    let (new, _) = create(&fs, ROOT, "temporary").await;
    write(&fs, new, 0, b"new").await;
    rename(&fs, (ROOT, "temporary"), (ROOT, "name"), RenameMode::Replace).await.unwrap();
    fs.forget(old, 1);
    fs.flush().await.unwrap();
    assert_eq!(read_all(&fs, old).await, b"old content");
    fs.release(old, handle);
    for _ in 0..100 {
        if fs.getattr(old).wait().await.is_err() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(matches!(fs.getattr(old).wait().await, Err(FsError::NotFound)));
    assert_eq!(fs.status().inodes, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphan_of_a_crash_is_given_back_at_the_next_mount() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (inode, _) = create(&fs, ROOT, "open").await;
    write(&fs, inode, 0, &vec![1; 100_000]).await;
    fs.unlink(ROOT, b"open").wait().await.unwrap();
    fs.flush().await.unwrap();
    drop(fs);
    let fs = volume.mount().await;
    for _ in 0..200 {
        if fs.status().inodes == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    fs.flush().await.unwrap();
    assert_eq!((fs.status().inodes, fs.status().bytes), (1, 0));
    assert!(fs.getattr(inode).wait().await.is_err());
}

/// Two names at one hash: the second stands behind the first, found, listed and removed on its own.
#[tokio::test(flavor = "multi_thread")]
async fn names_with_the_same_hash_live_side_by_side() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (first, _) = create(&fs, ROOT, "first").await;
    let (start, end) = Key::range_under(crate::format::KeyKind::Entry, ROOT, 0);
    let key = fs.scan(&start, &end, 100).await.unwrap().records[0].0.clone();
    let place = Key::number(&key, 1).unwrap();
    // Another name takes the place where "first" belongs, as if it had its hash.
    let stranger = DirEntry {
        target: Some((first, FileKind::Regular)),
        chained: false,
        name: b"stranger"[..].into(),
    };
    let record = stranger.encode();
    fs.unlink(ROOT, b"first").wait().await.unwrap();
    fs.run(move |tx| {
        tx.set(Key::entry(ROOT, place), Some(record.clone().into()));
        Ok(())
    })
    .wait()
    .await
    .unwrap();
    let (again, _) = create(&fs, ROOT, "first").await;
    assert_eq!(lookup(&fs, ROOT, "first").await.unwrap().inode, again);
    let mut names = list(&fs, ROOT).await;
    names.retain(|name| name != "stranger");
    assert_eq!(names, [".", "..", "first"]);
    fs.unlink(ROOT, b"first").wait().await.unwrap();
    assert!(lookup(&fs, ROOT, "first").await.is_none());
    create(&fs, ROOT, "first").await;
    assert!(matches!(
        fs.create(node(ROOT, "first", FileKind::Regular)).wait().await,
        Err(FsError::Exists)
    ));
}
