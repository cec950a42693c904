//! What every store must do.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::stream::{StreamExt, TryStreamExt, iter};
use lidfs::store::object_store::path::Path;
use lidfs::store::object_store::{
    Attribute, Attributes, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use lidfs::store::{StoreFault, classify, probe};

type Store = Arc<dyn ObjectStore>;
type Check = fn(Store) -> BoxFuture<'static, ()>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check with its name.
        pub const CHECKS: &[(&str, Check)] =
            &[$((stringify!($name), |store| Box::pin($name(store)))),*];
    };
}

checks![
    what_was_put_is_read_back,
    an_empty_object_is_an_object,
    a_payload_in_pieces_is_stored_in_order,
    a_put_replaces_what_was_there,
    a_missing_object_is_not_found,
    a_prefix_of_names_is_no_object,
    ranges_are_exact,
    a_suffix_longer_than_the_object_is_all_of_it,
    a_range_past_the_end_is_refused,
    several_ranges_come_in_order,
    a_create_is_refused_if_the_object_exists,
    an_update_needs_the_present_version,
    of_concurrent_creates_exactly_one_wins,
    of_concurrent_updates_exactly_one_wins,
    metadata_comes_back_with_get_and_head,
    a_put_without_metadata_removes_it,
    a_conditional_read_is_refused_by_its_condition,
    a_listing_is_recursive_and_by_whole_names,
    a_listing_agrees_with_head,
    a_listing_has_the_etags_of_head,
    a_listing_may_begin_after_a_name,
    a_listing_by_level_shows_names_and_prefixes,
    a_listing_of_nothing_is_empty,
    more_keys_than_a_page_are_all_listed_and_deleted,
    deletes_come_in_order_and_may_miss,
    a_copy_has_content_and_metadata,
    a_copy_may_refuse_to_replace,
    an_upload_in_parts_appears_whole,
    an_upload_without_parts_is_an_empty_object,
    an_upload_with_a_part_given_up_never_has_a_hole,
    an_aborted_upload_leaves_nothing,
    names_of_any_kind_round_trip,
    a_key_may_be_the_beginning_of_another,
    the_probe_finds_it_fit,
];

fn path(text: &str) -> Path {
    Path::parse(text).unwrap()
}

/// Bytes that differ at every place.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(len);
    bytes
}

async fn read(store: &Store, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

async fn put_if(store: &Store, path: &Path, body: &str, mode: PutMode) -> Result<PutResult> {
    store.put_opts(path, body.to_owned().into(), PutOptions::from(mode)).await
}

async fn ranged(store: &Store, path: &Path, range: GetRange) -> Result<(Bytes, u64)> {
    let options = GetOptions { range: Some(range), ..GetOptions::default() };
    let result = store.get_opts(path, options).await?;
    let size = result.meta.size;
    Ok((result.bytes().await?, size))
}

fn metadata(value: &str) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata("slatedbputid".into()), value.to_owned().into());
    attributes
}

fn found(attributes: &Attributes) -> Option<&str> {
    attributes.get(&Attribute::Metadata("slatedbputid".into())).map(AsRef::as_ref)
}

async fn names(store: &Store, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(path);
    let all: Vec<_> = store.list(prefix.as_ref()).try_collect().await.unwrap();
    let mut names: Vec<_> = all.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

async fn what_was_put_is_read_back(store: Store) {
    for len in [1, 4096, 100_000, 9 << 20] {
        let (name, body) = (path(&format!("object-{len}")), Bytes::from(noise(len, 1)));
        let put = store.put(&name, body.clone().into()).await.unwrap();
        let got = store.get(&name).await.unwrap();
        assert_eq!((got.meta.size, got.range.clone()), (len as u64, 0..len as u64));
        assert_eq!(got.meta.location, name);
        assert_eq!(got.meta.e_tag, put.e_tag);
        assert!(put.e_tag.is_some());
        assert_eq!(got.bytes().await.unwrap(), body);
    }
}

async fn an_empty_object_is_an_object(store: Store) {
    let name = path("empty");
    store.put(&name, PutPayload::default()).await.unwrap();
    assert_eq!(store.head(&name).await.unwrap().size, 0);
    assert_eq!(read(&store, &name).await, "");
}

async fn a_payload_in_pieces_is_stored_in_order(store: Store) {
    let name = path("pieces");
    let pieces = ["one ", "", "two ", "three"].map(|piece| Bytes::from_static(piece.as_bytes()));
    store.put(&name, PutPayload::from_iter(pieces)).await.unwrap();
    assert_eq!(read(&store, &name).await, "one two three");
}

async fn a_put_replaces_what_was_there(store: Store) {
    let name = path("a/b");
    let first = store.put(&name, "first".into()).await.unwrap();
    let second = store.put(&name, "second, longer".into()).await.unwrap();
    assert_ne!(first.e_tag, second.e_tag);
    assert_eq!(read(&store, &name).await, "second, longer");
}

async fn a_missing_object_is_not_found(store: Store) {
    store.put(&path("there/object"), "x".into()).await.unwrap();
    for name in ["missing", "there/other", "there/object-2"] {
        assert_missing(&store, &path(name)).await;
    }
}

async fn a_prefix_of_names_is_no_object(store: Store) {
    store.put(&path("there/object"), "x".into()).await.unwrap();
    assert_missing(&store, &path("there")).await;
}

async fn assert_missing(store: &Store, name: &Path) {
    let error = store.get(name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(classify(&error), StoreFault::NotFound);
    let error = store.head(name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let error = ranged(store, name, GetRange::Suffix(4)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

async fn a_suffix_longer_than_the_object_is_all_of_it(store: Store) {
    let name = path("object");
    for body in ["0123456789", ""] {
        store.put(&name, body.into()).await.unwrap();
        let expected = (Bytes::from_static(body.as_bytes()), body.len() as u64);
        assert_eq!(ranged(&store, &name, GetRange::Suffix(20_000)).await.unwrap(), expected);
    }
}

async fn ranges_are_exact(store: Store) {
    let name = path("object");
    let body = noise(10_000, 2);
    store.put(&name, body.clone().into()).await.unwrap();
    for (range, expected) in [
        (GetRange::Bounded(0..1), 0..1),
        (GetRange::Bounded(0..10_000), 0..10_000),
        (GetRange::Bounded(4_999..7_001), 4_999..7_001),
        (GetRange::Bounded(9_990..20_000), 9_990..10_000),
        (GetRange::Offset(0), 0..10_000),
        (GetRange::Offset(9_999), 9_999..10_000),
        (GetRange::Suffix(1), 9_999..10_000),
        (GetRange::Suffix(4_096), 5_904..10_000),
        (GetRange::Suffix(10_000), 0..10_000),
    ] {
        let (bytes, size) = ranged(&store, &name, range.clone()).await.unwrap();
        assert_eq!(size, 10_000, "{range:?}");
        assert_eq!(bytes, body[expected], "{range:?}");
    }
}

async fn a_range_past_the_end_is_refused(store: Store) {
    let name = path("object");
    store.put(&name, "0123456789".into()).await.unwrap();
    for range in [GetRange::Bounded(10..12), GetRange::Offset(11), GetRange::Bounded(100..200)] {
        assert!(ranged(&store, &name, range.clone()).await.is_err(), "{range:?}");
    }
    let backwards = GetRange::Bounded(std::ops::Range { start: 5, end: 5 });
    assert!(ranged(&store, &name, backwards).await.is_err());
}

async fn several_ranges_come_in_order(store: Store) {
    let name = path("object");
    let body = noise(3 << 20, 3);
    store.put(&name, body.clone().into()).await.unwrap();
    let ranges = [3_000_000..3_000_100, 0..10, 5..500, 1_000_000..1_000_001];
    let found = store.get_ranges(&name, &ranges).await.unwrap();
    for (bytes, range) in found.iter().zip(&ranges) {
        assert_eq!(*bytes, body[range.start as usize..range.end as usize]);
    }
    assert_eq!(found.len(), ranges.len());
}

async fn a_create_is_refused_if_the_object_exists(store: Store) {
    let name = path("object");
    put_if(&store, &name, "first", PutMode::Create).await.unwrap();
    let error = put_if(&store, &name, "second", PutMode::Create).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    assert_eq!(read(&store, &name).await, "first");
    store.delete(&name).await.unwrap();
    put_if(&store, &name, "third", PutMode::Create).await.unwrap();
    assert_eq!(read(&store, &name).await, "third");
}

async fn an_update_needs_the_present_version(store: Store) {
    let name = path("object");
    let first = store.put(&name, "first".into()).await.unwrap();
    let update = |version: &PutResult| PutMode::Update(version.clone().into());
    let second = put_if(&store, &name, "second", update(&first)).await.unwrap();
    let error = put_if(&store, &name, "third", update(&first)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error:?}");
    assert_eq!(read(&store, &name).await, "second");
    let third = put_if(&store, &name, "third", update(&second)).await.unwrap();
    let found = store.head(&name).await.unwrap();
    assert_eq!(found.e_tag, third.e_tag);
    let by_head = PutResult { e_tag: found.e_tag, ..third.clone() };
    put_if(&store, &name, "fourth", update(&by_head)).await.unwrap();
    let error = put_if(&store, &path("missing"), "x", update(&first)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error:?}");
}

const RACERS: usize = 8;
const ROUNDS: usize = 5;

async fn of_concurrent_creates_exactly_one_wins(store: Store) {
    for round in 0..ROUNDS {
        race(&store, &path(&format!("race-{round}")), PutMode::Create).await;
    }
}

async fn of_concurrent_updates_exactly_one_wins(store: Store) {
    for round in 0..ROUNDS {
        let name = path(&format!("race-{round}"));
        let first = store.put(&name, "first".into()).await.unwrap();
        race(&store, &name, PutMode::Update(first.into())).await;
    }
}

async fn race(store: &Store, name: &Path, mode: PutMode) {
    let bodies: Vec<String> = (0..RACERS).map(|n| format!("body of racer {n}")).collect();
    let racers = bodies.iter().map(|body| put_if(store, name, body, mode.clone()));
    let results = join_all(racers).await;
    let won: Vec<usize> = (0..RACERS).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(won.len(), 1, "winners: {won:?}");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        let fault = classify(error);
        let expected = [StoreFault::AlreadyExists, StoreFault::Precondition];
        assert!(expected.contains(&fault), "{error:?}");
    }
    assert_eq!(read(store, name).await, bodies[won[0]]);
}

async fn metadata_comes_back_with_get_and_head(store: Store) {
    let value = "01JD6Y0000000000000000000A";
    for mode in [PutMode::Overwrite, PutMode::Create] {
        let name = path(&format!("{mode:?}"));
        let opts = PutOptions { mode, attributes: metadata(value), ..PutOptions::default() };
        store.put_opts(&name, "x".into(), opts).await.unwrap();
        let got = store.get(&name).await.unwrap();
        assert_eq!(found(&got.attributes), Some(value));
        let options = GetOptions { head: true, ..GetOptions::default() };
        let head = store.get_opts(&name, options).await.unwrap();
        assert_eq!(found(&head.attributes), Some(value));
    }
}

async fn a_put_without_metadata_removes_it(store: Store) {
    let name = path("object");
    let opts = PutOptions { attributes: metadata("old"), ..PutOptions::default() };
    store.put_opts(&name, "x".into(), opts).await.unwrap();
    store.put(&name, "y".into()).await.unwrap();
    assert_eq!(found(&store.get(&name).await.unwrap().attributes), None);
}

async fn a_conditional_read_is_refused_by_its_condition(store: Store) {
    let name = path("object");
    let first = store.put(&name, "first".into()).await.unwrap().e_tag;
    let second = store.put(&name, "second".into()).await.unwrap().e_tag;
    for head in [false, true] {
        let if_match = |e_tag: &Option<String>| GetOptions {
            if_match: e_tag.clone(),
            head,
            ..GetOptions::default()
        };
        let error = store.get_opts(&name, if_match(&first)).await.unwrap_err();
        assert!(matches!(error, Error::Precondition { .. }), "{error:?}");
        store.get_opts(&name, if_match(&second)).await.unwrap();
        let if_none_match = |e_tag: &Option<String>| GetOptions {
            if_none_match: e_tag.clone(),
            head,
            ..GetOptions::default()
        };
        let error = store.get_opts(&name, if_none_match(&second)).await.unwrap_err();
        assert!(matches!(error, Error::NotModified { .. }), "{error:?}");
        store.get_opts(&name, if_none_match(&first)).await.unwrap();
    }
}

async fn a_listing_is_recursive_and_by_whole_names(store: Store) {
    for name in ["a/x", "a/b/y", "a/b/c/z", "ab/w", "v"] {
        store.put(&path(name), "x".into()).await.unwrap();
    }
    assert_eq!(names(&store, None).await, ["a/b/c/z", "a/b/y", "a/x", "ab/w", "v"]);
    assert_eq!(names(&store, Some("a")).await, ["a/b/c/z", "a/b/y", "a/x"]);
    assert_eq!(names(&store, Some("a/b")).await, ["a/b/c/z", "a/b/y"]);
    assert_eq!(names(&store, Some("v")).await, [""; 0]);
    store.delete(&path("a/b/y")).await.unwrap();
    assert_eq!(names(&store, Some("a")).await, ["a/b/c/z", "a/x"]);
}

async fn listed_and_headed(store: &Store) -> Vec<(ObjectMeta, ObjectMeta)> {
    for len in [0, 1, 5000] {
        store.put(&path(&format!("dir/{len}")), noise(len, 4).into()).await.unwrap();
    }
    let listed: Vec<_> = store.list(Some(&path("dir"))).try_collect().await.unwrap();
    assert_eq!(listed.len(), 3);
    let mut both = Vec::new();
    for meta in listed {
        let head = store.head(&meta.location).await.unwrap();
        both.push((meta, head));
    }
    both
}

async fn a_listing_agrees_with_head(store: Store) {
    for (meta, head) in listed_and_headed(&store).await {
        assert_eq!((meta.location, meta.size), (head.location, head.size));
        // Headers have whole seconds, listings may have more.
        assert_eq!(meta.last_modified.timestamp(), head.last_modified.timestamp());
    }
}

async fn a_listing_has_the_etags_of_head(store: Store) {
    for (meta, head) in listed_and_headed(&store).await {
        assert_eq!(meta.e_tag, head.e_tag);
    }
}

async fn a_listing_may_begin_after_a_name(store: Store) {
    for name in ["dir/a", "dir/b", "dir/c", "other/d"] {
        store.put(&path(name), "x".into()).await.unwrap();
    }
    let listed = store.list_with_offset(Some(&path("dir")), &path("dir/a"));
    let mut found: Vec<_> =
        listed.map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
    found.sort();
    assert_eq!(found, ["dir/b", "dir/c"]);
}

async fn a_listing_by_level_shows_names_and_prefixes(store: Store) {
    for name in ["a/x", "a/b/y", "a/c/z", "a/c/d/e", "v"] {
        store.put(&path(name), "x".into()).await.unwrap();
    }
    let level = store.list_with_delimiter(Some(&path("a"))).await.unwrap();
    assert_eq!(level.common_prefixes, [path("a/b"), path("a/c")]);
    assert_eq!(level.objects.iter().map(|meta| &meta.location).collect::<Vec<_>>(), [&path("a/x")]);
    let root = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(root.common_prefixes, [path("a")]);
    assert_eq!(root.objects.len(), 1);
    store.delete(&path("a/b/y")).await.unwrap();
    let level = store.list_with_delimiter(Some(&path("a"))).await.unwrap();
    assert_eq!(level.common_prefixes, [path("a/c")]);
}

async fn a_listing_of_nothing_is_empty(store: Store) {
    assert_eq!(names(&store, None).await, [""; 0]);
    assert_eq!(names(&store, Some("nowhere/at/all")).await, [""; 0]);
    let level = store.list_with_delimiter(Some(&path("nowhere"))).await.unwrap();
    assert!(level.objects.is_empty() && level.common_prefixes.is_empty());
}

/// One more than two pages of S3.
const MANY: usize = 2001;

async fn more_keys_than_a_page_are_all_listed_and_deleted(store: Store) {
    let all: Vec<Path> = (0..MANY).map(|n| path(&format!("many/{:02}/{n}", n % 10))).collect();
    let puts = iter(all.clone()).map(|name| {
        let store = Arc::clone(&store);
        async move { store.put(&name, "x".into()).await.map(drop) }
    });
    puts.buffer_unordered(16).try_collect::<Vec<()>>().await.unwrap();
    assert_eq!(names(&store, Some("many")).await.len(), MANY);
    let deleted = store.delete_stream(iter(all.clone().into_iter().map(Ok)).boxed());
    assert_eq!(deleted.try_collect::<Vec<Path>>().await.unwrap(), all);
    assert_eq!(names(&store, Some("many")).await, [""; 0]);
}

async fn deletes_come_in_order_and_may_miss(store: Store) {
    let all = ["d/1", "missing", "d/2", "d/none/x", "d/3"].map(path);
    for name in ["d/1", "d/2", "d/3"] {
        store.put(&path(name), "x".into()).await.unwrap();
    }
    let deleted = store.delete_stream(iter(all.clone().map(Ok)).boxed());
    assert_eq!(deleted.try_collect::<Vec<Path>>().await.unwrap(), all);
    assert_eq!(names(&store, None).await, [""; 0]);
    store.delete(&path("d/1")).await.unwrap();
}

async fn a_copy_has_content_and_metadata(store: Store) {
    let (from, to) = (path("from/object"), path("to/object"));
    let opts = PutOptions { attributes: metadata("value"), ..PutOptions::default() };
    store.put_opts(&from, "content".into(), opts).await.unwrap();
    store.put(&to, "old".into()).await.unwrap();
    store.copy(&from, &to).await.unwrap();
    assert_eq!(read(&store, &to).await, "content");
    assert_eq!(read(&store, &from).await, "content");
    assert_eq!(found(&store.get(&to).await.unwrap().attributes), Some("value"));
    let error = store.copy(&path("missing"), &to).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

async fn a_copy_may_refuse_to_replace(store: Store) {
    let (from, to) = (path("from"), path("to"));
    store.put(&from, "new".into()).await.unwrap();
    store.copy_if_not_exists(&from, &to).await.unwrap();
    store.put(&to, "old".into()).await.unwrap();
    let error = store.copy_if_not_exists(&from, &to).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    assert_eq!(read(&store, &to).await, "old");
}

const PART: usize = 5 << 20;

async fn an_upload_in_parts_appears_whole(store: Store) {
    let name = path("dir/large");
    let body = Bytes::from(noise(2 * PART + 1234, 5));
    let opts = PutMultipartOptions { attributes: metadata("large"), ..Default::default() };
    let mut upload = store.put_multipart_opts(&name, opts).await.unwrap();
    let parts: Vec<_> = [0..PART, PART..2 * PART, 2 * PART..body.len()]
        .map(|range| upload.put_part(body.slice(range).into()))
        .into_iter()
        .rev()
        .collect();
    // The last part is stored first: its place is that of its call.
    for part in parts {
        part.await.unwrap();
    }
    assert!(matches!(store.head(&name).await.unwrap_err(), Error::NotFound { .. }));
    assert_eq!(names(&store, None).await, [""; 0]);
    let put = upload.complete().await.unwrap();
    let got = store.get(&name).await.unwrap();
    assert_eq!(got.meta.e_tag, put.e_tag);
    assert_eq!(found(&got.attributes), Some("large"));
    assert!(got.bytes().await.unwrap() == body, "content differs");
}

async fn an_upload_without_parts_is_an_empty_object(store: Store) {
    let name = path("nothing");
    store.put_multipart(&name).await.unwrap().complete().await.unwrap();
    assert_eq!(read(&store, &name).await, "");
}

async fn an_upload_with_a_part_given_up_never_has_a_hole(store: Store) {
    let name = path("dir/holed");
    let body = Bytes::from(noise(PART + 1000, 7));
    let mut upload = store.put_multipart(&name).await.unwrap();
    drop(upload.put_part(body.slice(..PART).into()));
    // What stores nothing on its own may refuse from here on, or have it all.
    let rest = upload.put_part(body.slice(PART..).into()).await;
    if rest.is_ok() && upload.complete().await.is_ok() {
        assert!(store.get(&name).await.unwrap().bytes().await.unwrap() == body, "it has a hole");
        return;
    }
    upload.abort().await.unwrap();
    assert_eq!(names(&store, None).await, [""; 0]);
}

async fn an_aborted_upload_leaves_nothing(store: Store) {
    let name = path("dir/never");
    let mut upload = store.put_multipart(&name).await.unwrap();
    upload.put_part(noise(PART, 6).into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(matches!(store.head(&name).await.unwrap_err(), Error::NotFound { .. }));
    assert_eq!(names(&store, None).await, [""; 0]);
}

async fn names_of_any_kind_round_trip(store: Store) {
    let mut all = Vec::new();
    for name in ["space in it", "plus+plus", "percent%25", "quote'\"", "\u{e9}\u{1f600}", "a=b&c"] {
        let name = Path::from_iter([name]);
        store.put(&name, name.to_string().into()).await.unwrap();
        assert_eq!(read(&store, &name).await, name.to_string());
        store.copy(&name, &path("copy")).await.unwrap();
        assert_eq!(read(&store, &path("copy")).await, name.to_string());
        all.push(name.to_string());
    }
    all.push("copy".to_owned());
    all.sort();
    assert_eq!(names(&store, None).await, all);
}

async fn a_key_may_be_the_beginning_of_another(store: Store) {
    store.put(&path("a"), "outer".into()).await.unwrap();
    store.put(&path("a/b"), "inner".into()).await.unwrap();
    assert_eq!(read(&store, &path("a")).await, "outer");
    assert_eq!(read(&store, &path("a/b")).await, "inner");
}

async fn the_probe_finds_it_fit(store: Store) {
    let report = probe(&store, false).await.unwrap();
    assert!(report.conditional_create && report.conditional_update && report.metadata);
    assert_eq!(names(&store, None).await, [""; 0]);
}
