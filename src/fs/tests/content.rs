//! Content against a plain array, with commits, remounts and lost machines in between.

use proptest::prelude::*;

use super::support::*;
use crate::base::{Inode, KIB, MIB};
use crate::fs::{Allocate, CopyRange, FileSystem, FsError, Seek};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_content_is_there_after_a_crash_and_the_rest_is_not() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (inode, _) = create(&fs, Inode::ROOT, "kept").await;
    let content: Vec<u8> = (0..3 * MIB).map(|i| (i * 7 % 251) as u8).collect();
    write(&fs, inode, 0, &content).await;
    fs.fsync(inode).wait().await.unwrap();
    create(&fs, Inode::ROOT, "lost").await;
    drop(fs);
    let fs = volume.mount().await;
    assert!(lookup(&fs, Inode::ROOT, "lost").await.is_none());
    let found = lookup(&fs, Inode::ROOT, "kept").await.unwrap();
    assert_eq!(found.record.allocated, content.len() as u64);
    assert_eq!(read_all(&fs, found.inode).await, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_commits_are_inline_and_move_to_packs_later() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let mut files = Vec::new();
    for index in 0..20u8 {
        let (inode, _) = create(&fs, Inode::ROOT, &format!("file-{index}")).await;
        write(&fs, inode, 0, &[index; 1000]).await;
        fs.flush().await.unwrap();
        write(&fs, inode, 1000, &[index; 5000]).await;
        fs.flush().await.unwrap();
        files.push(inode);
    }
    assert_eq!(fs.inner.lock().inline_pages.len(), 20);
    let (big, _) = create(&fs, Inode::ROOT, "big").await;
    write(&fs, big, 0, &vec![9; 200_000]).await;
    fs.flush().await.unwrap();
    assert_eq!(fs.inner.lock().inline_pages.len(), 0);
    drop(fs);
    let fs = volume.mount().await;
    for (index, inode) in files.into_iter().enumerate() {
        assert_eq!(read_all(&fs, inode).await, vec![index as u8; 6000]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_and_holes_are_found() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (inode, _) = create(&fs, Inode::ROOT, "sparse").await;
    let far = 1 << 62;
    write(&fs, inode, far, b"far").await;
    let seek = async |fs: &FileSystem, offset, what| fs.seek(inode, offset, what).wait().await;
    for _ in 0..2 {
        assert_eq!(seek(&fs, 0, Seek::Hole).await.unwrap(), 0);
        assert_eq!(seek(&fs, 0, Seek::Data).await.unwrap(), far);
        assert_eq!(seek(&fs, far + 1, Seek::Hole).await.unwrap(), far + 3);
        assert!(matches!(seek(&fs, far + 3, Seek::Data).await, Err(FsError::BeyondEnd)));
        fs.flush().await.unwrap();
    }
    fs.setattr(inode, resize(5)).wait().await.unwrap();
    fs.flush().await.unwrap();
    assert!(matches!(seek(&fs, 0, Seek::Data).await, Err(FsError::BeyondEnd)));
    assert_eq!(fs.getattr(inode).wait().await.unwrap().record.allocated, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Write { file: usize, offset: u64, len: usize, fill: u8 },
    Truncate { file: usize, size: u64 },
    Punch { file: usize, offset: u64, len: u64 },
    Copy { from: usize, to: usize, from_offset: u64, to_offset: u64, len: u64 },
    Commit,
    Flush,
    Crash,
    Check,
}

const FILES: usize = 2;
const SPAN: u64 = 40_000;

fn step() -> impl Strategy<Value = Step> {
    let file = 0..FILES;
    prop_oneof![
        6 => (file.clone(), 0..SPAN, prop_oneof![1..200usize, 1..9000usize, Just(4096), 60_000..140_000usize], 1u8..)
            .prop_map(|(file, offset, len, fill)| Step::Write { file, offset, len, fill }),
        2 => (file.clone(), 0..SPAN).prop_map(|(file, size)| Step::Truncate { file, size }),
        2 => (file.clone(), 0..SPAN, 1..20_000u64)
            .prop_map(|(file, offset, len)| Step::Punch { file, offset, len }),
        2 => (file.clone(), file, 0..SPAN, 0..SPAN, 1..20_000u64).prop_map(
            |(from, to, from_offset, to_offset, len)| Step::Copy { from, to, from_offset, to_offset, len }),
        1 => Just(Step::Commit),
        2 => Just(Step::Flush),
        1 => Just(Step::Crash),
        1 => Just(Step::Check),
    ]
}

/// One file as it should be.
type Plain = Vec<u8>;

fn plain_write(plain: &mut Plain, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    if plain.len() < end {
        plain.resize(end, 0);
    }
    plain[offset as usize..end].copy_from_slice(data);
}

async fn check(fs: &FileSystem, files: &[Inode], plain: &[Plain]) {
    for (inode, plain) in files.iter().zip(plain) {
        let content = read_all(fs, *inode).await;
        let differs = content.iter().zip(plain).position(|(a, b)| a != b);
        assert_eq!((content.len(), differs), (plain.len(), None));
    }
}

async fn run(steps: Vec<Step>) {
    let volume = TestVolume::new().await;
    let mut fs = volume.mount().await;
    let mut files = Vec::new();
    for name in ["a", "b"] {
        files.push(create(&fs, Inode::ROOT, name).await.0);
    }
    fs.flush().await.unwrap();
    let mut plain = vec![Plain::new(); FILES];
    let mut committed = plain.clone();
    for step in steps {
        match step {
            Step::Write { file, offset, len, fill } => {
                let data: Vec<u8> = (0..len).map(|i| fill.wrapping_add((i / 97) as u8)).collect();
                write(&fs, files[file], offset, &data).await;
                plain_write(&mut plain[file], offset, &data);
            }
            Step::Truncate { file, size } => {
                fs.setattr(files[file], resize(size)).wait().await.unwrap();
                plain[file].resize(size as usize, 0);
            }
            Step::Punch { file, offset, len } => {
                fs.fallocate(files[file], offset, len, Allocate::PunchHole).wait().await.unwrap();
                let size = plain[file].len() as u64;
                plain[file][offset.min(size) as usize..(offset + len).min(size) as usize].fill(0);
            }
            Step::Copy { from, to, from_offset, to_offset, len } => {
                if from == to && from_offset < to_offset + len && to_offset < from_offset + len {
                    continue;
                }
                let (source, target) = (files[from], files[to]);
                let range = CopyRange { from: source, from_offset, to: target, to_offset, len };
                let copied = fs.copy_range(range).wait().await.unwrap() as usize;
                let size = plain[from].len();
                let start = (from_offset as usize).min(size);
                let data = plain[from][start..(start + len as usize).min(size)].to_vec();
                assert_eq!(copied, data.len());
                if copied > 0 {
                    plain_write(&mut plain[to], to_offset, &data);
                }
            }
            Step::Commit => {
                // Begins a commit that later steps overlap with.
                let _ = fs.inner.want_commit().unwrap();
                fs.inner.commit_wanted.notify_one();
                tokio::task::yield_now().await;
                // What it commits may or may not be there after a crash: settle it first.
                committed.clear();
            }
            Step::Flush => {
                volume.assert_settled(&fs).await;
                committed = plain.clone();
            }
            Step::Crash => {
                if committed.is_empty() {
                    fs.flush().await.unwrap();
                    committed = plain.clone();
                }
                fs = volume.mount().await;
                plain = committed.clone();
            }
            Step::Check => check(&fs, &files, &plain).await,
        }
    }
    check(&fs, &files, &plain).await;
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    check(&fs, &files, &plain).await;
    volume.assert_clean().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn content_equals_a_plain_array_through_commits_and_crashes(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}

#[tokio::test]
async fn blocks_written_out_of_order_lie_in_order_in_their_pack() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (one, _) = create(&fs, Inode::ROOT, "one").await;
    let (two, _) = create(&fs, Inode::ROOT, "two").await;
    for block in [5, 2, 7, 0, 3, 6, 1, 4] {
        for file in [two, one] {
            write(&fs, file, block * 16 * KIB, &[file.0 as u8; 16 * KIB as usize]).await;
        }
    }
    fs.flush().await.unwrap();
    let mut places = Vec::new();
    for file in [one, two] {
        let plan = fs.run(move |tx| tx.core().plan_read(file, 0, 128 * KIB)).wait().await.unwrap();
        let chunks = plan.chunks().into_iter();
        places.extend(chunks.map(|(chunk, _)| (chunk.pack, chunk.offset)));
    }
    assert_eq!(places.len(), 64);
    assert!(places.is_sorted(), "{places:?}");
}
