//! Reading: from memory, disk and bucket, merged, shared, and under faults.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::support::{PACK, context, noise, pack, reader, refs, store_with, until};
use crate::base::{ErrorKind, MIB, PackNumber};
use crate::data::{
    BlockReader, ChunkRef, Compression, DataError, DiskCacheConfig, PackSeal, ReadAhead,
    ReaderConfig,
};
use crate::store::object_store::ObjectStoreExt as _;

const BLOCK: usize = 65_536;

fn blocks(count: u64) -> Vec<Bytes> {
    (0..count).map(|seed| noise(seed, BLOCK)).collect()
}

fn config() -> ReaderConfig {
    ReaderConfig::default()
}

#[tokio::test]
async fn neighbours_come_in_one_request_and_then_from_memory() {
    let context = context(Compression::None);
    let contents = blocks(16);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    assert_eq!(reader.cached(&refs[0].0), None);
    let mut backwards = refs.clone();
    backwards.reverse();
    let mut read = reader.read(&backwards).await.unwrap();
    read.reverse();
    assert_eq!(read, contents);
    assert_eq!(store.gets(), 1);
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
    assert_eq!(reader.cached(&refs[3].0), Some(contents[3].clone()));
    let stats = reader.stats();
    assert_eq!((stats.hits, stats.misses, stats.requests), (17, 16, 1));
    assert_eq!(stats.fetched_bytes, 16 * (BLOCK as u64 + 16));
}

#[tokio::test]
async fn compressed_chunks_of_several_packs_come_back_in_the_order_asked() {
    let context = context(Compression::default());
    let contents: Vec<_> = (1..40u8).map(|i| Bytes::from(vec![i; 100 * usize::from(i)])).collect();
    let one = pack(&context, PackNumber(1), &contents);
    let two = pack(&context, PackNumber(2), &contents);
    let store = store_with(&[&one, &two]).await;
    let reader = reader(&store, &context, config());
    let wanted: Vec<_> = refs(&one).into_iter().zip(refs(&two)).flat_map(|(a, b)| [a, b]).collect();
    let expected: Vec<_> = contents.iter().flat_map(|c| [c.clone(), c.clone()]).collect();
    assert_eq!(reader.read(&wanted).await.unwrap(), expected);
    assert_eq!(store.gets(), 2);
}

#[tokio::test]
async fn chunks_far_apart_are_not_fetched_with_what_lies_between() {
    let context = context(Compression::None);
    let contents = blocks(16);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    reader.read(&[refs[0], refs[8]]).await.unwrap();
    assert_eq!(store.gets(), 2);
    assert_eq!(reader.stats().fetched_bytes, 2 * (BLOCK as u64 + 16));
}

#[tokio::test]
async fn large_reads_split_into_parallel_requests_within_the_bound() {
    let context = context(Compression::None);
    let contents = blocks(80);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    store.close_gate();
    let reader = reader(&store, &context, ReaderConfig { requests_max: 3, ..config() });
    let refs = refs(&built);
    let read = tokio::spawn({
        let (reader, refs) = (Arc::clone(&reader), refs.clone());
        async move { reader.read(&refs).await }
    });
    until(|| store.running.load(Relaxed) == 3).await;
    store.open_gate();
    assert_eq!(read.await.unwrap().unwrap(), contents);
    assert_eq!(store.running_max.load(Relaxed), 3);
    let gets = store.gets.lock().unwrap().clone();
    assert!(gets.len() >= 3 && gets.iter().all(|range| range.end - range.start <= 4 * MIB));
}

fn sealed_bytes<'a>(refs: impl IntoIterator<Item = &'a (ChunkRef, PackSeal)>) -> u64 {
    refs.into_iter().map(|(chunk, _)| u64::from(chunk.sealed_len)).sum()
}

/// Reads the blocks of `refs` as the kernel does, 128 KiB at a time and with read-ahead.
async fn read_in_order(reader: &Arc<BlockReader>, refs: &[(ChunkRef, PackSeal)]) {
    let (block, size) = (BLOCK as u64, (refs.len() * BLOCK) as u64);
    let mut ahead = ReadAhead::new();
    for (part, wanted) in (0..).zip(refs.chunks(2)) {
        let len = wanted.len() as u64 * block;
        if let Some(range) = ahead.on_read(part * 2 * block, len, size, reader.room_ahead()) {
            let blocks = (range.start / block) as usize..range.end.div_ceil(block) as usize;
            reader.prefetch(refs[blocks].to_vec());
        }
        reader.read(wanted).await.unwrap();
    }
}

#[tokio::test]
async fn file_read_from_start_to_end_comes_in_few_long_requests_and_each_byte_once() {
    let context = context(Compression::default());
    let contents: Vec<_> = (0..256u32).map(|i| Bytes::from(vec![i as u8; BLOCK])).collect();
    let packs: Vec<_> = (1..3).map(|n| pack(&context, PackNumber(n), &contents)).collect();
    let store = store_with(&packs.iter().collect::<Vec<_>>()).await;
    for (memory_bytes, gets_max) in [(128 * MIB, 14), (16 * MIB, 40)] {
        store.gets.lock().unwrap().clear();
        let reader = reader(&store, &context, ReaderConfig { memory_bytes, ..config() });
        let refs: Vec<_> = packs.iter().flat_map(refs).collect();
        read_in_order(&reader, &refs).await;
        // 32 MiB: 8 requests of 4 MiB, and the first shorter ones. A small memory has smaller ones.
        assert!(store.gets() <= gets_max, "{} at {memory_bytes}", store.gets());
        assert_eq!(reader.stats().fetched_bytes, sealed_bytes(&refs));
        assert!(reader.stats().memory_bytes <= memory_bytes);
        until(|| reader.nothing_in_flight()).await;
    }
}

#[tokio::test]
async fn streams_beside_each_other_share_the_room_and_none_falls_back_to_short_requests() {
    let context = context(Compression::default());
    let contents: Vec<_> = (0..128u32).map(|i| Bytes::from(vec![i as u8; BLOCK])).collect();
    let packs: Vec<_> = (1..5).map(|n| pack(&context, PackNumber(n), &contents)).collect();
    let store = store_with(&packs.iter().collect::<Vec<_>>()).await;
    let reader = reader(&store, &context, ReaderConfig { memory_bytes: 16 * MIB, ..config() });
    let files: Vec<_> = packs.iter().map(refs).collect();
    futures::future::join_all(files.iter().map(|refs| read_in_order(&reader, refs))).await;
    // 32 MiB through 8 MiB for all that is on its way, at 1 MiB a request.
    assert!(store.gets() <= 60, "{}", store.gets());
    assert_eq!(reader.stats().fetched_bytes, sealed_bytes(files.iter().flatten()));
}

#[tokio::test]
async fn reads_here_and_there_fetch_nothing_else() {
    let context = context(Compression::default());
    let contents: Vec<_> = (0..256u32).map(|i| Bytes::from(vec![i as u8; BLOCK])).collect();
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    let (mut ahead, mut state) = (ReadAhead::new(), 1);
    let size = (refs.len() * BLOCK) as u64;
    let mut wanted = HashSet::new();
    for _ in 0..60 {
        let at = step(&mut state) as usize % refs.len();
        wanted.insert(at);
        let asked = ahead.on_read((at * BLOCK) as u64, 4096, size, reader.room_ahead());
        assert_eq!(asked, None);
        reader.read(&refs[at..=at]).await.unwrap();
    }
    let (stats, read) = (reader.stats(), wanted.iter().map(|at| &refs[*at]));
    assert_eq!((stats.fetched_bytes, stats.prefetched), (sealed_bytes(read), 0));
}

#[tokio::test]
async fn reader_has_its_block_before_a_long_request_is_through() {
    let context = context(Compression::None);
    let contents = blocks(64);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    store.stand_still.store(1, Relaxed);
    reader.prefetch(refs.clone());
    assert_eq!(reader.read(&refs[..28]).await.unwrap(), contents[..28]);
    assert_eq!(store.gets(), 1);
    assert!(!reader.nothing_in_flight());
    // Who wants something else does not wait for it.
    let other = pack(&context, PackNumber(8), &contents[..1]);
    store.inner.put(&other.path, other.body.clone()).await.unwrap();
    assert_eq!(reader.read(&super::support::refs(&other)).await.unwrap(), contents[..1]);
}

#[tokio::test]
async fn many_readers_and_a_prefetch_share_one_request() {
    let context = context(Compression::None);
    let contents = blocks(1);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    store.close_gate();
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    reader.prefetch(refs.clone());
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let (reader, refs) = (Arc::clone(&reader), refs.clone());
            tokio::spawn(async move { reader.read(&refs).await })
        })
        .collect();
    until(|| reader.stats().misses == 20).await;
    store.open_gate();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), contents);
    }
    assert_eq!(store.gets(), 1);
}

#[tokio::test]
async fn fetch_ahead_that_fails_in_passing_is_begun_again_by_its_reader_and_no_other() {
    let context = context(Compression::None);
    let contents = blocks(4);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    let spawn = || {
        let (reader, refs) = (Arc::clone(&reader), refs.clone());
        tokio::spawn(async move { reader.read(&refs).await })
    };
    store.close_gate();
    store.refuse.store(1, Relaxed);
    reader.prefetch(refs.clone());
    let both = [spawn(), spawn()];
    until(|| reader.stats().misses == 8).await;
    store.open_gate();
    for read in both {
        assert_eq!(read.await.unwrap().unwrap(), contents);
    }
    assert_eq!(store.gets(), 2);

    // Of damage there is no other copy.
    let one = pack(&context, PackNumber(8), &contents);
    store.inner.put(&one.path, one.body.clone()).await.unwrap();
    let refs = super::support::refs(&one);
    store.tamper(&one.path, refs[2].0.offset as usize).await;
    store.close_gate();
    reader.prefetch(refs.clone());
    let read = reader.read(&refs);
    store.open_gate();
    assert_eq!(read.await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.gets(), 3);
}

#[tokio::test(start_paused = true)]
async fn reader_asks_for_himself_where_what_is_read_ahead_stands_still() {
    let context = context(Compression::None);
    let contents = blocks(64);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    store.stand_still.store(1, Relaxed);
    reader.prefetch(refs.clone());
    let start = tokio::time::Instant::now();
    let reads = [reader.read(&refs[24..48]), reader.read(&refs[40..48])];
    let reads = futures::future::join_all(reads).await;
    for (read, from) in reads.into_iter().zip([24, 40]) {
        assert_eq!(read.unwrap(), contents[from..48]);
    }
    assert!(start.elapsed().as_secs() < 15);
    assert_eq!(store.gets(), 2);
    assert_eq!(store.gets.lock().unwrap()[1].start, u64::from(refs[32].0.offset));
    assert_eq!(reader.read(&refs[24..48]).await.unwrap(), contents[24..48]);
    assert_eq!(store.gets(), 2);
}

/// The request ahead is answered after the reader has asked for himself, and his own never is.
#[tokio::test(start_paused = true)]
async fn what_was_waited_for_in_vain_serves_when_it_comes_first() {
    let context = context(Compression::None);
    let contents = blocks(4);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    store.close_gate();
    reader.prefetch(refs.clone());
    let reading = tokio::spawn(reader.read(&refs));
    until(|| store.gets() == 2).await;
    store.let_through(1);
    let read = tokio::time::timeout(std::time::Duration::from_mins(1), reading).await;
    assert_eq!(read.expect("waits for his own").unwrap().unwrap(), contents);
}

#[tokio::test]
async fn reader_that_goes_away_takes_nothing_from_the_others() {
    let context = context(Compression::None);
    let contents = blocks(2);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    store.close_gate();
    let reader = reader(&store, &context, config());
    let spawn = || {
        let (reader, refs) = (Arc::clone(&reader), refs(&built));
        tokio::spawn(async move { reader.read(&refs).await })
    };
    let first = spawn();
    until(|| store.gets() == 1).await;
    let second = spawn();
    until(|| reader.stats().misses == 4).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    store.open_gate();
    assert_eq!(second.await.unwrap().unwrap(), contents);
    assert_eq!(store.gets(), 1);
}

#[tokio::test]
async fn flipped_bit_fails_its_chunk_alone_and_is_not_remembered() {
    let context = context(Compression::default());
    let contents = blocks(4);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    let at = refs[1].0.offset as usize + 77;
    store.tamper(&built.path, at).await;
    let error = reader.read(&refs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        matches!(error, DataError::Open { pack: PACK, offset, .. } if offset == u64::from(refs[1].0.offset))
    );
    for good in [0, 2, 3] {
        assert_eq!(reader.read(&[refs[good]]).await.unwrap(), [contents[good].clone()]);
    }
    assert_eq!(store.gets(), 1);
    store.tamper(&built.path, at).await;
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
}

#[tokio::test]
async fn chunks_swapped_within_or_between_packs_are_corrupt() {
    let context = context(Compression::None);
    let one = pack(&context, PackNumber(1), &blocks(2));
    let two = pack(&context, PackNumber(2), &blocks(2));
    let store = store_with(&[&one, &two]).await;
    let reader = reader(&store, &context, config());
    let (a, b) = (refs(&one), refs(&two));
    let swapped = ChunkRef { chunk: 1, ..a[0].0 };
    assert_eq!(reader.read(&[(swapped, a[0].1)]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    store.inner.copy(&one.path, &two.path).await.unwrap();
    assert_eq!(reader.read(&b[..1]).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn missing_and_cut_packs_are_corrupt_and_whole_chunks_before_the_cut_are_read() {
    let context = context(Compression::None);
    let contents = blocks(8);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    let object: Bytes = built.body.clone().into();
    let cut = object.slice(..refs[2].0.offset as usize + 10);
    store.inner.put(&built.path, cut.into()).await.unwrap();
    for wanted in [&refs[..], &refs[5..]] {
        let error = reader.read(wanted).await.unwrap_err();
        assert!(matches!(error, DataError::Truncated { .. }));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    assert_eq!(reader.read(&refs[..2]).await.unwrap(), contents[..2]);
    store.inner.delete(&built.path).await.unwrap();
    let error = reader.read(&refs[4..5]).await.unwrap_err();
    assert!(matches!(error, DataError::Missing { .. }) && error.kind() == ErrorKind::Corrupt);
}

#[tokio::test]
async fn impossible_lengths_are_refused_without_a_request() {
    let context = context(Compression::None);
    let built = pack(&context, PACK, &blocks(1));
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let (chunk, seal) = refs(&built)[0];
    for sealed_len in [0, 16, MIB as u32 + 17, u32::MAX] {
        let error = reader.read(&[(ChunkRef { sealed_len, ..chunk }, seal)]).await.unwrap_err();
        assert!(matches!(error, DataError::BadReference { .. }));
    }
    assert_eq!(store.gets(), 0);
}

#[tokio::test]
async fn store_faults_may_be_tried_again_and_broken_bodies_are_resumed() {
    let context = context(Compression::None);
    let contents = blocks(8);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    let refs = refs(&built);
    store.refuse.store(1, Relaxed);
    assert_eq!(reader.read(&refs).await.unwrap_err().kind(), ErrorKind::Retry);
    store.break_off.store(1, Relaxed);
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
    assert_eq!(store.gets(), 3);
    // Half of eight sealed blocks is four.
    let resumed = store.gets.lock().unwrap()[2].start;
    assert_eq!(resumed, u64::from(refs[4].0.offset));
}

#[tokio::test]
async fn body_that_always_breaks_off_is_given_up() {
    let context = context(Compression::None);
    let built = pack(&context, PACK, &blocks(1));
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, config());
    store.break_off.store(1000, Relaxed);
    assert_eq!(reader.read(&refs(&built)).await.unwrap_err().kind(), ErrorKind::Retry);
    assert_eq!(store.gets(), 3);
}

#[tokio::test]
async fn memory_stays_within_its_bound_and_what_was_inserted_is_found() {
    let context = context(Compression::None);
    let contents = blocks(64);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let reader = reader(&store, &context, ReaderConfig { memory_bytes: MIB, ..config() });
    let refs = refs(&built);
    assert_eq!(reader.read(&refs).await.unwrap(), contents);
    let stats = reader.stats();
    assert!(stats.memory_bytes <= MIB && stats.evictions >= 48);
    reader.insert(refs[0].0, contents[0].clone());
    assert_eq!(reader.cached(&refs[0].0), Some(contents[0].clone()));
}

#[tokio::test]
async fn prefetch_is_bounded_and_never_repeats_what_is_here() {
    let context = context(Compression::None);
    let contents = blocks(64);
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    store.close_gate();
    let reader = reader(&store, &context, ReaderConfig { memory_bytes: 4 * MIB, ..config() });
    let refs = refs(&built);
    reader.prefetch(refs.clone());
    assert_eq!(reader.stats().prefetched, 15);
    reader.prefetch(refs.clone());
    assert_eq!(reader.stats().prefetched, 15);
    store.open_gate();
    until(|| reader.cached(&refs[14].0).is_some()).await;
    reader.prefetch(refs[..15].to_vec());
    assert_eq!(reader.stats().prefetched, 15);
    assert_eq!(reader.read(&refs[..15]).await.unwrap(), contents[..15]);
}

#[test]
fn reads_end_with_an_error_when_the_runtime_stops() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let context = context(Compression::None);
    let built = pack(&context, PACK, &blocks(1));
    let store = runtime.block_on(store_with(&[&built]));
    store.close_gate();
    let reader = runtime.block_on(async { reader(&store, &context, config()) });
    let outside = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let refs = refs(&built);
    let read = outside.block_on(async {
        let mut read = Box::pin(reader.read(&refs));
        assert!(futures::poll!(&mut read).is_pending());
        runtime.shutdown_background();
        read.await
    });
    assert!(matches!(read, Err(DataError::Abandoned { .. })));
}

/// A cheap source of choices, the same for the same seed.
fn step(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *state >> 33
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_faults_and_cancelled_readers_content_is_right_and_nothing_is_left_over() {
    let context = context(Compression::default());
    let contents: Vec<_> = (0..48).map(|seed| noise(seed, 1500 + 30 * seed as usize)).collect();
    let built = pack(&context, PACK, &contents);
    let store = store_with(&[&built]).await;
    let dir = tempfile::tempdir().unwrap();
    let disk = Some(DiskCacheConfig {
        dir: dir.path().to_owned(),
        size_bytes: 64 * 1024,
        queue_bytes_max: 32 * crate::base::MIB,
    });
    let bounds = ReaderConfig { memory_bytes: 20_000, disk, requests_max: 3 };
    let reader = reader(&store, &context, bounds);
    let (refs, contents) = (Arc::new(refs(&built)), Arc::new(contents));
    let tasks = (0..8u64).map(|task| {
        let (reader, store) = (Arc::clone(&reader), Arc::clone(&store));
        let (refs, contents) = (Arc::clone(&refs), Arc::clone(&contents));
        tokio::spawn(async move {
            let mut state = task;
            for round in 0..150 {
                let picks: Vec<_> =
                    (0..=step(&mut state) % 6).map(|_| step(&mut state) as usize % 48).collect();
                let wanted: Vec<_> = picks.iter().map(|pick| refs[*pick]).collect();
                match step(&mut state) % 8 {
                    0 => store.refuse.store(1, Relaxed),
                    1 => store.break_off.store(2, Relaxed),
                    2 => reader.prefetch(wanted.clone()),
                    3 if round % 10 == 0 => {
                        let mut read = Box::pin(reader.read(&wanted));
                        let _ = futures::poll!(&mut read);
                        continue;
                    }
                    _ => {}
                }
                match reader.read(&wanted).await {
                    Ok(read) => {
                        for (pick, content) in picks.iter().zip(read) {
                            assert_eq!(content, contents[*pick]);
                        }
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Retry),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(store.running_max.load(Relaxed) <= 3);
    until(|| reader.nothing_in_flight()).await;
    assert!(reader.stats().memory_bytes <= 20_000);
    assert!(reader.stats().evictions > 0 && reader.stats().disk_hits > 0);
}
