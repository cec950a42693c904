//! Packs: built, named, opened, refused.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::support::{PACK, chunk, context, noise, pack, refs, store_with};
use crate::base::{BlockIndex, CommitNumber, ErrorKind, Inode, MIB, PackNumber};
use crate::crypto::TAG_LEN;
use crate::data::pack::open_chunk;
use crate::data::{
    BuiltPack, CHUNK_LEN_MAX, Compression, DataError, PACK_CONTENT_MAX, PackContext, Uploader,
    read_directory,
};
use crate::format::Place;
use crate::store::object_store::{ObjectStore, ObjectStoreExt as _};

fn object(pack: &BuiltPack) -> Bytes {
    pack.body.clone().into()
}

/// What every chunk of the pack reads as.
fn contents(context: &PackContext, pack: &BuiltPack) -> Vec<Bytes> {
    let object = object(pack);
    let opener = context.opener(pack.number, pack.record.epoch, &pack.record.salt).unwrap();
    let read = |(chunk, _): &(crate::data::ChunkRef, _)| {
        let range = chunk.offset as usize..(chunk.offset + chunk.sealed_len) as usize;
        open_chunk(chunk, &opener, &mut object[range].to_vec()).unwrap()
    };
    refs(pack).iter().map(read).collect()
}

fn content() -> impl Strategy<Value = Bytes> {
    let text = (1usize..70_000, any::<u8>()).prop_map(|(len, byte)| Bytes::from(vec![byte; len]));
    let noise = (1usize..70_000, any::<u64>()).prop_map(|(len, seed)| noise(seed, len));
    prop_oneof![text, noise]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_is_packed_reads_back_and_stands_in_the_directory(
        all in proptest::collection::vec(content(), 0..20),
        level in prop_oneof![Just(None), Just(Some(1)), Just(Some(3))],
    ) {
        let compression = level.map_or(Compression::None, |level| Compression::Zstd { level });
        let context = context(compression);
        let built = pack(&context, PACK, &all);
        prop_assert_eq!(&contents(&context, &built), &all);
        let object = object(&built);
        prop_assert_eq!(object.len() as u64, built.record.size);
        let (_, directory) = context.open_whole(PACK, &object).unwrap();
        prop_assert_eq!(directory.entries.len(), all.len());
        for (index, entry) in directory.entries.iter().enumerate() {
            prop_assert_eq!(entry.inode, Inode(5));
            prop_assert_eq!(entry.block, BlockIndex(index as u64));
            prop_assert_eq!(entry.len as usize, all[index].len());
            let Place::Pack { sealed_len, compressed, skip, .. } = built.places[index] else {
                panic!("a packed chunk lies in the pack");
            };
            prop_assert_eq!((entry.sealed_len, entry.compressed, skip), (sealed_len, compressed, 0));
            prop_assert!(compressed || sealed_len as usize == all[index].len() + TAG_LEN);
        }
    }
}

#[test]
fn text_takes_less_room_and_noise_takes_no_more() {
    let context = context(Compression::default());
    let text = pack(&context, PACK, &vec![Bytes::from(vec![b'x'; 65_536]); 64]);
    assert!(text.record.size < 65_536);
    let noise: Vec<_> = (0..64).map(|seed| noise(seed, 65_536)).collect();
    let noisy = pack(&context, PACK, &noise);
    let directory_max = 2048;
    assert!(noisy.record.size < 64 * (65_536 + 16) + directory_max);
}

#[test]
fn names_differ_by_pack_and_volume_key_and_show_no_number() {
    let context = context(Compression::None);
    let paths: Vec<_> = (0..100).map(|number| context.path(PackNumber(number))).collect();
    for (index, path) in paths.iter().enumerate() {
        assert!(!paths[..index].contains(path));
        assert!(path.as_ref().starts_with("packs/") && path.as_ref().len() == 41);
    }
    assert_eq!(pack(&context, PACK, &[]).path, context.path(PACK));
}

#[test]
fn packing_twice_seals_under_another_salt() {
    let context = context(Compression::None);
    let one = pack(&context, PACK, &[noise(1, 100)]);
    let two = pack(&context, PACK, &[noise(1, 100)]);
    assert_ne!(one.record.salt, two.record.salt);
    assert_ne!(object(&one), object(&two));
}

#[test]
fn content_that_does_not_fit_is_refused() {
    let context = context(Compression::None);
    let build = |contents: Vec<Bytes>| {
        let chunks = contents.into_iter().map(|content| chunk(0, content)).collect();
        context.build(PACK, CommitNumber(1), chunks)
    };
    assert!(matches!(build(vec![Bytes::new()]), Err(DataError::ChunkLength { len: 0, .. })));
    let long = Bytes::from(vec![0; CHUNK_LEN_MAX + 1]);
    assert!(matches!(build(vec![long]), Err(DataError::ChunkLength { .. })));
    let block = Bytes::from(vec![0; MIB as usize]);
    let many = vec![block; (PACK_CONTENT_MAX / MIB) as usize + 1];
    assert_eq!(build(many).unwrap_err().kind(), ErrorKind::Bug);
}

#[test]
fn cut_and_changed_packs_do_not_open_and_never_panic() {
    let context = context(Compression::default());
    let built = pack(&context, PACK, &[noise(1, 300), Bytes::from(vec![0; 300])]);
    let object = object(&built);
    for len in 0..object.len() {
        assert_eq!(
            context.open_whole(PACK, &object[..len]).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
    let directory = object.len() - 100;
    for at in (0..96).chain(directory..object.len()) {
        let mut changed = object.to_vec();
        changed[at] ^= 4;
        let _ = context.open_whole(PACK, &changed);
    }
    assert!(context.open_whole(PackNumber(8), &object).is_err());
}

#[tokio::test]
async fn directory_is_read_with_one_request_or_two_when_long() {
    let context = context(Compression::None);
    for (count, requests) in [(0, 1), (10, 1), (3000, 2)] {
        let built = pack(&context, PACK, &vec![Bytes::from_static(b"x"); count]);
        let counting = store_with(&[&built]).await;
        let store = Arc::clone(&counting) as Arc<dyn ObjectStore>;
        let directory = read_directory(&store, &context, PACK, &built.record).await.unwrap();
        assert_eq!((directory.entries.len(), counting.gets()), (count, requests));
        for at in [built.record.size as usize - 1, built.record.size as usize - 20] {
            counting.tamper(&built.path, at).await;
            let error = read_directory(&store, &context, PACK, &built.record).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            counting.tamper(&built.path, at).await;
        }
        counting.inner.delete(&built.path).await.unwrap();
        let gone = read_directory(&store, &context, PACK, &built.record).await.unwrap_err();
        assert!(matches!(gone, DataError::Missing { .. }));
    }
}

#[tokio::test]
async fn uploads_are_counted_and_at_most_so_many_run_at_once() {
    let context = context(Compression::None);
    let packs: Vec<_> =
        (0..8).map(|number| pack(&context, PackNumber(number), &[noise(number, 500)])).collect();
    let store = store_with(&[]).await;
    let uploader = Arc::new(Uploader::new(Arc::clone(&store) as Arc<dyn ObjectStore>, 2));
    store.close_gate();
    let size: u64 = packs.iter().map(|pack| pack.record.size).sum();
    let all = futures::future::join_all(packs.iter().map(|pack| uploader.put(pack)));
    let release = async {
        assert_eq!(uploader.stats().in_flight_bytes, size);
        store.open_gate();
    };
    let (results, ()) = tokio::join!(all, release);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(store.running_max.load(std::sync::atomic::Ordering::Relaxed), 2);
    let stats = uploader.stats();
    assert_eq!((stats.packs, stats.bytes, stats.in_flight_bytes), (8, size, 0));
    let stored = store.inner.get(&packs[3].path).await.unwrap().bytes().await.unwrap();
    assert_eq!(stored, object(&packs[3]));
}

#[tokio::test]
async fn upload_that_the_store_refuses_can_be_repeated() {
    let context = context(Compression::None);
    let built = pack(&context, PACK, &[noise(1, 500)]);
    let store = store_with(&[]).await;
    store.refuse.store(1, std::sync::atomic::Ordering::Relaxed);
    let uploader = Uploader::new(Arc::clone(&store) as Arc<dyn ObjectStore>, 1);
    let error = uploader.put(&built).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    uploader.put(&built).await.unwrap();
    let stats = uploader.stats();
    assert_eq!((stats.packs, stats.failures, stats.in_flight_bytes), (1, 1, 0));
}
