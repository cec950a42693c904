//! The disk cache: full, slow, damaged, and what it spares.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::support::{PACK, context, noise, pack, reader, refs, store_with, until};
use crate::base::{KIB, MIB, PackNumber};
use crate::data::{
    BlockReader, BuiltPack, Compression, DiskCacheConfig, PackContext, ReaderConfig,
};
use crate::store::object_store::ObjectStoreExt as _;

const BLOCK: usize = 65_536;

fn blocks(count: u64) -> Vec<Bytes> {
    (0..count).map(|seed| noise(seed, BLOCK)).collect()
}

/// Hardly any memory, so that every read goes past it.
fn config(dir: &Path, size_bytes: u64) -> ReaderConfig {
    let disk = Some(DiskCacheConfig {
        dir: dir.to_owned(),
        size_bytes,
        queue_bytes_max: 32 * crate::base::MIB,
    });
    ReaderConfig { memory_bytes: 100, disk, requests_max: 4 }
}

fn volume_dir(dir: &TempDir) -> PathBuf {
    dir.path().join("09".repeat(16))
}

fn file_of(dir: &TempDir, pack: &BuiltPack) -> PathBuf {
    volume_dir(dir).join(pack.path.filename().unwrap())
}

async fn written(reader: &BlockReader) {
    until(|| reader.disk_is_idle()).await;
}

/// The reader that used the cache is gone, with its tasks.
async fn released(dir: &TempDir) {
    until(|| fs::File::open(volume_dir(dir).join("lock")).unwrap().try_lock().is_ok()).await;
}

fn setup(contents: &[Bytes]) -> (TempDir, Arc<PackContext>, BuiltPack) {
    let context = context(Compression::default());
    let built = pack(&context, PACK, contents);
    (tempfile::tempdir().unwrap(), context, built)
}

#[tokio::test]
async fn what_was_fetched_once_comes_from_disk_even_after_a_restart() {
    let contents = blocks(4);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[&built]).await;
    let refs = refs(&built);
    {
        let reader = reader(&store, &context, config(dir.path(), 10 * MIB));
        reader.read(&refs[..2]).await.unwrap();
        written(&reader).await;
        assert_eq!(reader.read(&refs[..2]).await.unwrap(), contents[..2]);
        assert_eq!((reader.stats().disk_hits, store.gets()), (2, 1));
        assert!(reader.stats().disk_bytes >= 2 * 65_536);
    }
    released(&dir).await;
    let reader = reader(&store, &context, config(dir.path(), 10 * MIB));
    assert_eq!(reader.read(&refs[..2]).await.unwrap(), contents[..2]);
    assert_eq!(store.gets(), 1);
    // The holes after what is there are fetched.
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
    assert_eq!(store.gets(), 2);
    assert_eq!(store.gets.lock().unwrap()[1].start, u64::from(refs[2].0.offset));
}

#[tokio::test]
async fn uploaded_pack_that_is_kept_needs_no_request() {
    let contents = blocks(40);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[]).await;
    let reader = reader(&store, &context, config(dir.path(), 10 * MIB));
    reader.keep_sealed(&built);
    written(&reader).await;
    assert_eq!(reader.read(&refs(&built)).await.unwrap(), contents);
    assert_eq!(store.gets(), 0);
}

#[tokio::test]
async fn only_sealed_bytes_reach_the_disk_and_only_the_owner_may_read_them() {
    let secret = Bytes::from(b"attack at dawn! ".repeat(4096));
    let context = context(Compression::None);
    let built = pack(&context, PACK, &[secret]);
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config(dir.path(), 10 * MIB));
    reader.read(&refs(&built)).await.unwrap();
    written(&reader).await;
    let file = file_of(&dir, &built);
    let bytes = fs::read(&file).unwrap();
    assert!(bytes.len() > 65_536 && !bytes.windows(6).any(|part| part == b"attack"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let dir = fs::metadata(volume_dir(&dir)).unwrap();
    assert_eq!(dir.permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn damaged_zeroed_and_cut_files_cost_a_request_and_heal() {
    let contents = blocks(4);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[&built]).await;
    let refs = refs(&built);
    let reader = reader(&store, &context, config(dir.path(), 10 * MIB));
    reader.read(&refs).await.unwrap();
    written(&reader).await;
    let file = fs::OpenOptions::new().write(true).open(file_of(&dir, &built)).unwrap();
    file.write_all_at(b"rot", u64::from(refs[0].0.offset) + 50).unwrap();
    file.write_all_at(&vec![0; BLOCK + 16], u64::from(refs[2].0.offset)).unwrap();
    file.set_len(u64::from(refs[3].0.offset) + 1000).unwrap();
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
    let fetched = store.gets();
    assert!(fetched > 1 && reader.stats().disk_hits == 1);
    written(&reader).await;
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
    assert_eq!(store.gets(), fetched);
}

#[tokio::test]
async fn files_removed_behind_its_back_are_fetched_again() {
    let contents = blocks(2);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config(dir.path(), 10 * MIB));
    reader.read(&refs(&built)).await.unwrap();
    written(&reader).await;
    fs::remove_file(file_of(&dir, &built)).unwrap();
    for gets in [2, 2] {
        assert_eq!(reader.read(&refs(&built)).await.unwrap(), contents);
        written(&reader).await;
        assert_eq!(store.gets(), gets);
    }
}

#[tokio::test]
async fn space_stays_within_the_bound_and_the_least_recently_used_pack_goes_first() {
    let context = context(Compression::None);
    let packs: Vec<_> =
        (0..4).map(|number| pack(&context, PackNumber(number), &blocks(4))).collect();
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(&packs.iter().collect::<Vec<_>>()).await;
    let size = 900 * KIB;
    let used = || -> u64 {
        let files = fs::read_dir(volume_dir(&dir)).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
    };
    let exists = |number: usize| file_of(&dir, &packs[number]).exists();
    {
        let reader = reader(&store, &context, config(dir.path(), size));
        for number in [0, 1, 2, 0, 3] {
            reader.read(&refs(&packs[number])).await.unwrap();
            written(&reader).await;
            assert!(used() <= size);
        }
        assert!(exists(0) && !exists(1) && exists(2) && exists(3));
        assert!(reader.stats().disk_bytes <= size);
    }
    released(&dir).await;
    // A smaller bound holds from the start, and files of others are left alone.
    fs::write(volume_dir(&dir).join("README"), "not ours").unwrap();
    let reader = reader(&store, &context, config(dir.path(), 300 * KIB));
    assert!(reader.stats().disk_bytes <= 300 * KIB);
    assert_eq!((0..4).filter(|number| exists(*number)).count(), 1);
    assert!(volume_dir(&dir).join("README").exists());
}

#[tokio::test]
async fn cache_that_cannot_be_used_fails_no_read() {
    let contents = blocks(2);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[&built]).await;
    let not_a_dir = dir.path().join("file");
    fs::write(&not_a_dir, "").unwrap();
    let off = reader(&store, &context, config(&not_a_dir, MIB));
    assert_eq!(off.read(&refs(&built)).await.unwrap(), contents);
    // A directory stands where a pack's file belongs: every write fails.
    let blocked = reader(&store, &context, config(dir.path(), MIB));
    fs::create_dir(file_of(&dir, &built)).unwrap();
    for _ in 0..3 {
        assert_eq!(blocked.read(&refs(&built)).await.unwrap(), contents);
        written(&blocked).await;
    }
    assert_eq!(blocked.stats().disk_bytes, 0);
}

#[tokio::test]
async fn second_mount_of_a_volume_leaves_the_cache_to_the_first() {
    let contents = blocks(2);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[&built]).await;
    let first = reader(&store, &context, config(dir.path(), MIB));
    let second = reader(&store, &context, config(dir.path(), MIB));
    for reader in [&second, &first] {
        assert_eq!(reader.read(&refs(&built)).await.unwrap(), contents);
        written(reader).await;
    }
    assert_eq!(second.stats().disk_bytes, 0);
    assert!(first.stats().disk_bytes > 0);
}

#[tokio::test]
async fn forged_bytes_on_disk_are_never_returned_even_if_the_pack_is_gone() {
    let contents = blocks(1);
    let (dir, context, built) = setup(&contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config(dir.path(), MIB));
    reader.read(&refs(&built)).await.unwrap();
    written(&reader).await;
    let file = fs::OpenOptions::new().write(true).open(file_of(&dir, &built)).unwrap();
    file.write_all_at(&vec![7; BLOCK + 16], u64::from(refs(&built)[0].0.offset)).unwrap();
    store.inner.delete(&built.path).await.unwrap();
    assert!(reader.read(&refs(&built)).await.is_err());
}
