//! Sealed stores over an in-memory one: same answers as a plain store, and an error for every forgery.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::{join, join_all};
use proptest::prelude::*;
use slatedb::object_store::memory::InMemory;
use slatedb::object_store::{Attribute, ObjectStoreExt, UpdateVersion, WriteMultipart};

use super::geometry::{CHUNK, HEADER, SEALED_CHUNK, sealed_len};
use super::*;
use crate::base::Epoch;
use crate::crypto::{DataKey, SecretKey};
use crate::store::StoreFault;
use crate::store::faulty::{Fault, FaultyStore, Op, Rule};
use crate::store::object_store::GetRange;

const VOLUME: VolumeId = VolumeId([7; 16]);
/// Small, so that uploads of several parts stay quick.
const PART_HERE: usize = 200_000;

fn keys(byte: u8) -> DataKeys {
    DataKeys::new(DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([byte; 32]) }, vec![])
}

/// A sealed store and the store below it.
fn stores() -> (SealedStore, Arc<InMemory>) {
    let inner = Arc::new(InMemory::new());
    (over(&inner), inner)
}

/// Another sealed store over the same one, with nothing cached.
fn over(inner: &Arc<InMemory>) -> SealedStore {
    let inner = Arc::clone(inner) as Arc<dyn ObjectStore>;
    SealedStore {
        part: PART_HERE,
        ..SealedStore::new(inner, keys(1), VOLUME, ObjectKind::Metadata)
    }
}

fn path(name: &str) -> Path {
    Path::from(name)
}

/// Bytes that differ at every place within reach of a chunk.
fn content(len: u64) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn read(store: &dyn ObjectStore, name: &str, range: Option<GetRange>) -> Result<Bytes> {
    let options = GetOptions { range, ..GetOptions::default() };
    store.get_opts(&path(name), options).await?.bytes().await
}

async fn raw(inner: &InMemory, name: &str) -> Vec<u8> {
    inner.get(&path(name)).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn put_raw(inner: &InMemory, name: &str, bytes: Vec<u8>) {
    inner.put(&path(name), bytes.into()).await.unwrap();
}

/// The forgery behind a failed read.
async fn forgery(store: &SealedStore, name: &str, range: Option<GetRange>) -> OpenError {
    let error = read(store, name, range).await.expect_err("a forged object was read");
    assert!(matches!(error, Error::Generic { store: STORE, .. }), "{error:?}");
    open_error(&error).unwrap_or_else(|| panic!("not an open error: {error:?}")).clone()
}

#[test]
fn objects_of_all_sizes_come_back_and_show_their_plaintext_size() {
    run(async {
        let (store, inner) = stores();
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 17, 1 << 20] {
            let name = format!("meta/{len}");
            store.put(&path(&name), content(len).into()).await.unwrap();
            assert_eq!(inner.head(&path(&name)).await.unwrap().size, sealed_len(len));
            assert_eq!(store.head(&path(&name)).await.unwrap().size, len);
            let result = store.get(&path(&name)).await.unwrap();
            assert_eq!((result.meta.size, result.range.clone()), (len, 0..len));
            assert_eq!(result.bytes().await.unwrap(), content(len));
            assert_eq!(read(&over(&inner), &name, None).await.unwrap(), content(len));
        }
        let mut listed: Vec<_> =
            store.list(None).map_ok(|meta| (meta.location, meta.size)).try_collect().await.unwrap();
        listed.sort();
        for (location, size) in listed {
            assert_eq!(location.as_ref(), format!("meta/{size}"));
        }
        let below = store.list_with_delimiter(Some(&path("meta"))).await.unwrap();
        assert_eq!((below.objects.len(), below.objects[0].size), (8, 0));
    });
}

#[test]
fn the_store_below_holds_neither_plaintext_nor_equal_ciphertexts() {
    run(async {
        let (store, inner) = stores();
        let canary = b"a canary that must not be seen".repeat(40);
        store.put(&path("a"), canary.clone().into()).await.unwrap();
        store.put(&path("b"), canary.into()).await.unwrap();
        let (a, b) = (raw(&inner, "a").await, raw(&inner, "b").await);
        assert!(!a.windows(8).any(|window| window == b"a canary"));
        assert_ne!(a[HEADER as usize..], b[HEADER as usize..]);
    });
}

#[test]
fn conditions_attributes_and_etags_pass_through() {
    run(async {
        let (store, inner) = stores();
        let at = path("wal/1");
        let mut attributes = slatedb::object_store::Attributes::new();
        attributes.insert(Attribute::Metadata("slatedbputid".into()), "ulid".into());
        let create = PutOptions {
            mode: PutMode::Create,
            attributes: attributes.clone(),
            ..PutOptions::default()
        };
        let first = store.put_opts(&at, "one".into(), create.clone()).await.unwrap();
        let again = store.put_opts(&at, "two".into(), create).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })));
        let head = GetOptions { head: true, ..GetOptions::default() };
        let head = store.get_opts(&at, head).await.unwrap();
        assert_eq!((head.attributes, head.meta.size), (attributes, 3));
        assert_eq!(head.meta.e_tag, inner.head(&at).await.unwrap().e_tag);

        let update = PutOptions::from(PutMode::Update(UpdateVersion::from(first.clone())));
        store.put_opts(&at, "three".into(), update.clone()).await.unwrap();
        let stale = store.put_opts(&at, "four".into(), update).await;
        assert!(matches!(stale, Err(Error::Precondition { .. })));
        let matching = GetOptions { if_match: first.e_tag, ..GetOptions::default() };
        assert!(matches!(store.get_opts(&at, matching).await, Err(Error::Precondition { .. })));
        let e_tag = store.head(&at).await.unwrap().e_tag;
        let known = GetOptions { if_none_match: e_tag, ..GetOptions::default() };
        assert!(matches!(store.get_opts(&at, known).await, Err(Error::NotModified { .. })));
        store.delete(&at).await.unwrap();
        assert!(matches!(store.head(&at).await, Err(Error::NotFound { .. })));
    });
}

#[test]
fn an_object_overwritten_after_its_header_was_cached_reads_as_the_new_one() {
    run(async {
        let (store, inner) = stores();
        let far = Some(GetRange::Bounded(5 * CHUNK..5 * CHUNK + 100));
        for byte in [1_u8, 2, 3] {
            let bytes = vec![byte; 6 * CHUNK as usize];
            // Written behind this store's back, whose cache still holds the header before.
            over(&inner).put(&path("x"), bytes.into()).await.unwrap();
            assert_eq!(read(&store, "x", far.clone()).await.unwrap(), vec![byte; 100]);
            assert_eq!(read(&store, "x", Some(GetRange::Suffix(9))).await.unwrap(), vec![byte; 9]);
        }
    });
}

#[test]
fn a_copied_or_renamed_object_opens_at_its_new_place() {
    run(async {
        let (store, inner) = stores();
        for len in [0, 100, PART_HERE as u64 + 3 * CHUNK + 1] {
            store.put(&path("from"), content(len).into()).await.unwrap();
            store.copy(&path("from"), &path("to")).await.unwrap();
            assert_eq!(read(&over(&inner), "to", None).await.unwrap(), content(len));
            let there = store.copy_if_not_exists(&path("from"), &path("to")).await;
            assert!(matches!(there, Err(Error::AlreadyExists { .. })));
            store.copy_if_not_exists(&path("from"), &path("new")).await.unwrap();
            assert_eq!(read(&store, "new", None).await.unwrap(), content(len));
            store.rename(&path("new"), &path("moved")).await.unwrap();
            assert_eq!(read(&store, "moved", None).await.unwrap(), content(len));
            assert!(matches!(read(&store, "new", None).await, Err(Error::NotFound { .. })));
        }
    });
}

#[test]
fn parts_of_any_length_awaited_in_any_order_give_the_whole_object() {
    run(async {
        let (store, inner) = stores();
        let plain = content(3 << 20);
        let mut upload = store.put_multipart(&path("big")).await.unwrap();
        let (mut rest, mut parts) = (plain.clone(), Vec::new());
        for len in [1, CHUNK as usize, 0, 1 << 20, 77, 300_000, 700_000, 5] {
            parts.push(upload.put_part(rest.split_to(len).into()));
        }
        parts.push(upload.put_part(rest.into()));
        parts.reverse();
        assert!(join_all(parts).await.into_iter().all(|part| part.is_ok()));
        upload.complete().await.unwrap();
        assert_eq!(read(&over(&inner), "big", None).await.unwrap(), plain);

        let upload = store.put_multipart(&path("written")).await.unwrap();
        let mut writer = WriteMultipart::new_with_chunk_size(upload, 70_001);
        writer.write(&plain);
        writer.finish().await.unwrap();
        assert_eq!(read(&store, "written", None).await.unwrap(), plain);

        store.put_multipart(&path("empty")).await.unwrap().complete().await.unwrap();
        assert_eq!(store.head(&path("empty")).await.unwrap().size, 0);
    });
}

#[test]
fn an_upload_with_a_part_given_up_never_completes() {
    run(async {
        let (store, inner) = stores();
        let mut upload = store.put_multipart(&path("x")).await.unwrap();
        drop(upload.put_part(content(100).into()));
        upload.put_part(content(100).into()).await.unwrap();
        drop(upload.put_part(content(1 << 20).into()));
        // Either the part is still queued, or it was sealed with nobody to send it on.
        assert!(upload.complete().await.is_err());
        assert!(upload.complete().await.is_err());
        upload.abort().await.unwrap();
        assert!(upload.put_part(content(1).into()).await.is_err());
        assert!(inner.head(&path("x")).await.is_err());
    });
}

#[test]
fn a_swapped_renamed_or_foreign_object_is_refused() {
    run(async {
        let (store, inner) = stores();
        store.put(&path("a"), content(3 * CHUNK).into()).await.unwrap();
        store.put(&path("b"), content(3 * CHUNK).into()).await.unwrap();
        inner.copy(&path("a"), &path("c")).await.unwrap();
        assert!(matches!(forgery(&store, "c", None).await, OpenError::WrongKey { .. }));
        inner.copy(&path("b"), &path("a")).await.unwrap();
        let suffix = Some(GetRange::Suffix(10));
        assert!(matches!(forgery(&store, "a", suffix).await, OpenError::WrongKey { .. }));

        let inner_dyn = || Arc::clone(&inner) as Arc<dyn ObjectStore>;
        let other_kind = SealedStore::new(inner_dyn(), keys(1), VOLUME, ObjectKind::Probe);
        assert!(matches!(forgery(&other_kind, "b", None).await, OpenError::WrongKind { .. }));
        let other_key = SealedStore::new(inner_dyn(), keys(2), VOLUME, ObjectKind::Metadata);
        assert!(matches!(forgery(&other_key, "b", None).await, OpenError::WrongKey { .. }));
        let other = VolumeId([8; 16]);
        let other_volume = SealedStore::new(inner_dyn(), keys(1), other, ObjectKind::Metadata);
        assert!(matches!(forgery(&other_volume, "b", None).await, OpenError::OtherVolume { .. }));
        put_raw(&inner, "plain", vec![b'x'; 500]).await;
        assert!(matches!(forgery(&store, "plain", None).await, OpenError::NotSealed { .. }));
    });
}

#[test]
fn chunks_spliced_from_the_same_or_another_object_are_refused() {
    run(async {
        let (store, inner) = stores();
        store.put(&path("a"), content(3 * CHUNK).into()).await.unwrap();
        let twin = raw(&inner, "a").await;
        store.put(&path("a"), content(3 * CHUNK).into()).await.unwrap();
        let good = raw(&inner, "a").await;
        let chunk = |index: u64| {
            (HEADER + index * SEALED_CHUNK) as usize..(HEADER + (index + 1) * SEALED_CHUNK) as usize
        };
        let mut replayed = good.clone();
        replayed[chunk(1)].copy_from_slice(&twin[chunk(1)]);
        let mut moved = good.clone();
        moved[chunk(1)].copy_from_slice(&good[chunk(0)]);
        let mut headed = good.clone();
        headed[..HEADER as usize].copy_from_slice(&twin[..HEADER as usize]);
        for (forged, index) in [(replayed, 1), (moved, 1), (headed, 0)] {
            put_raw(&inner, "a", forged).await;
            let error = forgery(&store, "a", None).await;
            assert!(matches!(error, OpenError::ForgedChunk { index: found, .. } if found == index));
        }
    });
}

#[test]
fn a_cut_or_extended_object_is_refused_wherever_its_end_is_read() {
    run(async {
        let (store, inner) = stores();
        let len = 3 * CHUNK + 100;
        store.put(&path("a"), content(len).into()).await.unwrap();
        let good = raw(&inner, "a").await;
        let boundary = |index: u64| (HEADER + index * SEALED_CHUNK) as usize;
        let ends = [1, 16, 100, 116].map(|less| good.len() - less).into_iter();
        let cuts: Vec<_> = ends.chain((1..=3).map(boundary)).chain([0, 50, 96, 112, 200]).collect();
        for cut in cuts {
            put_raw(&inner, "a", good[..cut].to_vec()).await;
            forgery(&store, "a", None).await;
            forgery(&over(&inner), "a", Some(GetRange::Suffix(1))).await;
        }
        for more in [1, 16, 17, SEALED_CHUNK as usize] {
            let mut longer = good.clone();
            longer.resize(good.len() + more, 0);
            put_raw(&inner, "a", longer).await;
            forgery(&store, "a", None).await;
            forgery(&over(&inner), "a", Some(GetRange::Suffix(1))).await;
        }
        // An earlier part of a cut object is still what it was, or an error.
        put_raw(&inner, "a", good[..boundary(3)].to_vec()).await;
        let start = Some(GetRange::Bounded(0..10));
        assert_eq!(read(&store, "a", start).await.unwrap(), content(10));
    });
}

#[test]
fn any_flipped_bit_is_refused() {
    run(async {
        let (store, inner) = stores();
        store.put(&path("a"), content(40).into()).await.unwrap();
        let good = raw(&inner, "a").await;
        for bit in 0..good.len() * 8 {
            let mut bent = good.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            put_raw(&inner, "a", bent).await;
            forgery(&store, "a", None).await;
        }
    });
}

#[test]
fn an_object_cut_to_look_empty_is_refused_even_by_head_and_list() {
    run(async {
        let (store, inner) = stores();
        store.put(&path("wal/fence"), Bytes::new().into()).await.unwrap();
        assert_eq!(store.head(&path("wal/fence")).await.unwrap().size, 0);
        store.put(&path("wal/1"), content(50).into()).await.unwrap();
        let cut = raw(&inner, "wal/1").await[..sealed_len(0) as usize].to_vec();
        put_raw(&inner, "wal/1", cut).await;
        let head = store.head(&path("wal/1")).await.unwrap_err();
        assert!(matches!(open_error(&head), Some(OpenError::ForgedChunk { .. })));
        let listed = store.list(None).try_collect::<Vec<_>>().await.unwrap_err();
        assert!(matches!(open_error(&listed), Some(OpenError::ForgedChunk { .. })));
        put_raw(&inner, "wal/1", vec![]).await;
        let head = store.head(&path("wal/1")).await.unwrap_err();
        assert!(matches!(open_error(&head), Some(OpenError::WrongLength { len: 0, .. })));
    });
}

/// The engine would ask for what is not there for ever.
#[test]
fn a_range_beyond_the_end_of_a_cut_object_is_a_forgery() {
    run(async {
        let (store, inner) = stores();
        store.put(&path("x"), content(6 * CHUNK).into()).await.unwrap();
        let mut sealed = raw(&inner, "x").await;
        sealed.truncate(2 * SEALED_CHUNK as usize);
        put_raw(&inner, "x", sealed).await;
        let ranges = [GetRange::Bounded(5 * CHUNK..5 * CHUNK + 9), GetRange::Offset(3 * CHUNK)];
        for range in ranges {
            for reader in [&store, &over(&inner)] {
                let found = forgery(reader, "x", Some(range.clone())).await;
                assert!(matches!(found, OpenError::TooShort { .. }), "{found}");
            }
        }
        let found = forgery(&over(&inner), "x", Some(GetRange::Bounded(CHUNK..3 * CHUNK))).await;
        assert!(matches!(found, OpenError::ForgedChunk { .. }), "{found}");
    });
}

#[test]
fn forgeries_are_not_retried_and_short_answers_are() {
    use slatedb_common::retry::should_retry;
    let wrong = OpenError::NotSealed { path: "x".to_owned() };
    assert!(!should_retry(&forged(wrong)));
    assert!(should_retry(&passing("short".to_owned())));
}

#[test]
fn objects_written_while_read_give_one_version_or_the_other() {
    run(async {
        let (store, inner) = stores();
        let version = |byte: u8| vec![byte; 8 * CHUNK as usize];
        store.put(&path("x"), version(0).into()).await.unwrap();
        for byte in 1..20 {
            let reader = over(&inner);
            let range = Some(GetRange::Bounded(6 * CHUNK..7 * CHUNK));
            let (bytes, written) =
                join(read(&reader, "x", range), store.put(&path("x"), version(byte).into())).await;
            written.unwrap();
            let bytes = bytes.unwrap();
            assert!(bytes.iter().all(|&at| at == bytes[0]) && bytes.len() == CHUNK as usize);
        }
    });
}

/// Puts 500 records of a round into the engine's database, durably.
async fn fill_engine(inner: &Arc<InMemory>, round: u32) {
    use slatedb::config::{FlushOptions, FlushType};
    let db = slatedb::Db::open("meta", Arc::new(over(inner))).await.unwrap();
    for key in 0..500_u32 {
        let value = [&round.to_le_bytes()[..], &b"value canary ".repeat(8)].concat();
        db.put([b"name canary ", &key.to_be_bytes()[..]].concat(), value).await.unwrap();
    }
    db.flush().await.unwrap();
    if round == 1 {
        let memtable = FlushOptions { flush_type: FlushType::MemTable };
        db.flush_with_options(memtable).await.unwrap();
    }
    // Not closed in round 2: what it wrote is found by replaying its log.
    if round < 2 {
        db.close().await.unwrap();
    }
}

#[test]
fn the_metadata_engine_finds_everything_again_and_nothing_of_it_shows_below() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let inner = Arc::new(InMemory::new());
        for round in 0..3_u32 {
            fill_engine(&inner, round).await;
            let db = slatedb::Db::open("meta", Arc::new(over(&inner))).await.unwrap();
            let mut scan = db.scan::<std::ops::RangeFull>(..).await.unwrap();
            let mut found = 0_u32;
            while let Some(entry) = scan.next().await.unwrap() {
                assert!(entry.key.ends_with(&found.to_be_bytes()));
                assert!(entry.value.starts_with(&round.to_le_bytes()));
                found += 1;
            }
            assert_eq!(found, 500);
            db.close().await.unwrap();
        }
        let objects: Vec<_> = inner.list(None).try_collect().await.unwrap();
        assert!(objects.iter().any(|object| object.location.as_ref().contains("compacted")));
        for object in objects {
            let bytes = raw(&inner, object.location.as_ref()).await;
            assert!(bytes.starts_with(b"LIDFS"), "{}", object.location);
            assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", object.location);
        }
    });
}

/// The engine fences itself out if it takes its own earlier write for another writer's.
#[test]
fn no_lost_answer_to_the_metadata_engine_is_taken_for_another_writer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for lost in 0..8 {
            let below = FaultyStore::new(InMemory::new());
            let rule = Rule::always(Fault::LoseAnswer(StoreFault::Unavailable)).on(Op::Put);
            below.faults().add(rule.after(lost).times(2));
            let faults = below.faults();
            let store: Arc<dyn ObjectStore> =
                Arc::new(SealedStore::new(Arc::new(below), keys(1), VOLUME, ObjectKind::Metadata));
            for round in [b"one", b"two"] {
                let db = slatedb::Db::open("meta", Arc::clone(&store)).await.unwrap();
                db.put(b"key", round).await.unwrap();
                db.flush().await.unwrap();
                assert_eq!(db.get(b"key").await.unwrap().unwrap(), round[..]);
                db.close().await.unwrap();
            }
            assert_eq!(faults.struck(), 2, "no put was struck from the {lost}th on");
        }
    });
}

#[test]
fn the_metadata_engine_refuses_a_forged_object_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let inner = Arc::new(InMemory::new());
        fill_engine(&inner, 1).await;
        let manifests = inner.list(Some(&path("meta/manifest"))).try_collect::<Vec<_>>();
        for manifest in manifests.await.unwrap() {
            let mut bytes = raw(&inner, manifest.location.as_ref()).await;
            *bytes.last_mut().unwrap() ^= 1;
            put_raw(&inner, manifest.location.as_ref(), bytes).await;
        }
        let opened = slatedb::Db::open("meta", Arc::new(over(&inner))).await;
        let error = opened.err().expect("a forged manifest was accepted");
        assert!(error.to_string().contains("fails authentication"), "{error}");
    });
}

/// Counts the reads that reach the store below.
#[derive(Debug)]
struct Counted(Arc<InMemory>, AtomicUsize);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, at: &Path, data: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.put_opts(at, data, opts).await
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.get_opts(at, options).await
    }
    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[test]
fn a_read_costs_one_request_and_a_second_one_only_for_an_unknown_header_far_away() {
    run(async {
        let (store, inner) = stores();
        store.put(&path("small"), content(3 * CHUNK).into()).await.unwrap();
        store.put(&path("large"), content(20 * CHUNK).into()).await.unwrap();
        let cases = [
            ("large", None, 1, 1),
            ("large", Some(GetRange::Bounded(100..200)), 1, 1),
            ("large", Some(GetRange::Offset(19 * CHUNK)), 2, 1),
            ("large", Some(GetRange::Bounded(15 * CHUNK..16 * CHUNK)), 2, 1),
            ("large", Some(GetRange::Suffix(64)), 2, 1),
            ("small", Some(GetRange::Suffix(2 * CHUNK)), 1, 1),
        ];
        for (name, range, unknown, known) in cases {
            let below = Arc::new(Counted(Arc::clone(&inner), AtomicUsize::new(0)));
            let inner = Arc::clone(&below) as Arc<dyn ObjectStore>;
            let store = SealedStore::new(inner, keys(1), VOLUME, ObjectKind::Metadata);
            for expected in [unknown, known] {
                read(&store, name, range.clone()).await.unwrap();
                let requests = below.1.swap(0, Ordering::SeqCst);
                assert_eq!(requests, expected, "{range:?} of {name}");
            }
        }
    });
}

fn any_range(len: u64) -> impl Strategy<Value = Option<GetRange>> {
    let place = prop_oneof![0..=len + 10, Just(CHUNK - 1), Just(CHUNK), Just(5 * CHUNK)];
    prop_oneof![
        1 => Just(None),
        4 => (place.clone(), place.clone()).prop_map(|(a, b)| Some(GetRange::Bounded(a..b))),
        2 => place.clone().prop_map(|start| Some(GetRange::Offset(start))),
        3 => place.prop_map(|len| Some(GetRange::Suffix(len))),
    ]
}

fn object_and_ranges() -> impl Strategy<Value = (u64, Vec<Option<GetRange>>)> {
    prop_oneof![0..40_u64, 0..6 * CHUNK, (0..6_u64).prop_map(|chunks| chunks * CHUNK)]
        .prop_flat_map(|len| (Just(len), prop::collection::vec(any_range(len), 1..8)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_range_reads_as_it_does_from_a_plain_store((len, ranges) in object_and_ranges()) {
        run(async {
            let (store, inner) = stores();
            let plain = InMemory::new();
            store.put(&path("x"), content(len).into()).await.unwrap();
            plain.put(&path("x"), content(len).into()).await.unwrap();
            for range in ranges {
                let expected = read(&plain, "x", range.clone()).await.ok();
                for sealed in [&store, &over(&inner)] {
                    let found = read(sealed, "x", range.clone()).await.ok();
                    assert_eq!(found, expected, "{range:?} of {len}");
                }
            }
        });
    }
}
