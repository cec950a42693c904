//! What every engine must do, run against each of them.

use std::sync::Arc;
use std::time::Duration;

use crate::base::ErrorKind;
use crate::meta::{
    BATCH_BYTES_MAX, Batch, CheckpointId, KEY_LEN_MAX, MetaError, MetaRead, MetaStore,
};

/// One empty volume of an engine under test.
#[async_trait::async_trait]
pub(crate) trait Engine: Send + Sync {
    /// A new writer; fences the one before.
    async fn open(&self) -> Arc<dyn MetaStore>;
    /// A reader of what is flushed at this moment.
    async fn follow(&self) -> Arc<dyn MetaRead>;
    /// A reader of a checkpoint.
    async fn open_checkpoint(&self, id: CheckpointId) -> Result<Arc<dyn MetaRead>, MetaError>;
}

pub(super) async fn all(fresh: impl AsyncFn() -> Box<dyn Engine>) {
    reads_see_what_was_applied(&*fresh().await).await;
    scans_are_ordered_and_bounded(&*fresh().await).await;
    bad_batches_are_refused_and_leave_no_trace(&*fresh().await).await;
    flushed_batches_outlive_the_writer(&*fresh().await).await;
    a_closed_engine_refuses_work_and_leaves_all_of_it(&*fresh().await).await;
    a_newer_writer_fences_the_older(&*fresh().await).await;
    readers_see_only_what_was_flushed(&*fresh().await).await;
    checkpoints_keep_their_moment(&*fresh().await).await;
}

fn batch(changes: &[(&str, Option<&str>)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key.to_string(), value.to_string()),
            None => batch.delete(key.to_string()),
        }
    }
    batch
}

async fn value(meta: &(impl MetaRead + ?Sized), key: &str) -> Option<String> {
    let found = meta.get(key.as_bytes()).await.unwrap();
    found.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

async fn keys(meta: &(impl MetaRead + ?Sized), start: &str, end: &str, limit: usize) -> String {
    let found = meta.scan(start.as_bytes(), end.as_bytes(), limit).await.unwrap();
    found.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
}

async fn reads_see_what_was_applied(engine: &dyn Engine) {
    let meta = engine.open().await;
    assert_eq!(value(&*meta, "a").await, None);
    let before = meta.version();
    meta.apply(batch(&[("a", Some("1")), ("b", Some(""))])).await.unwrap();
    assert!(meta.version() > before);
    assert_eq!(value(&*meta, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&*meta, "b").await.as_deref(), Some(""));
    meta.apply(batch(&[("a", None), ("b", Some("2"))])).await.unwrap();
    assert_eq!(value(&*meta, "a").await, None);
    assert_eq!(value(&*meta, "b").await.as_deref(), Some("2"));
    meta.apply(Batch::new()).await.unwrap();
    meta.flush().await.unwrap();
    meta.close().await.unwrap();
}

async fn scans_are_ordered_and_bounded(engine: &dyn Engine) {
    let meta = engine.open().await;
    for key in ["d", "b", "a", "c", "e"] {
        meta.apply(batch(&[(key, Some("x"))])).await.unwrap();
        meta.flush().await.unwrap();
    }
    meta.apply(batch(&[("c", None)])).await.unwrap();
    assert_eq!(keys(&*meta, "a", "z", 10).await, "abde");
    assert_eq!(keys(&*meta, "a", "z", 2).await, "ab");
    assert_eq!(keys(&*meta, "b", "e", 10).await, "bd");
    assert_eq!(keys(&*meta, "", "b", 10).await, "a");
    assert_eq!(keys(&*meta, "b", "b", 10).await, "");
    assert_eq!(keys(&*meta, "e", "a", 10).await, "");
    assert_eq!(keys(&*meta, "a", "z", 0).await, "");
    meta.close().await.unwrap();
}

async fn bad_batches_are_refused_and_leave_no_trace(engine: &dyn Engine) {
    let meta = engine.open().await;
    let mut large = batch(&[("good", Some("1"))]);
    large.put("large", vec![0; BATCH_BYTES_MAX]);
    let mut long = batch(&[("good", Some("1"))]);
    long.put(vec![b'k'; KEY_LEN_MAX + 1], "1");
    for bad in [large, long, batch(&[("good", Some("1")), ("", Some("1"))])] {
        assert_eq!(meta.apply(bad).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(value(&*meta, "good").await, None);
    assert_eq!(value(&*meta, "").await, None);
    meta.close().await.unwrap();
}

async fn flushed_batches_outlive_the_writer(engine: &dyn Engine) {
    let meta = engine.open().await;
    meta.apply(batch(&[("kept", Some("1"))])).await.unwrap();
    meta.flush().await.unwrap();
    meta.apply(batch(&[("lost", Some("1")), ("kept", Some("2"))])).await.unwrap();
    drop(meta);
    let meta = engine.open().await;
    assert_eq!(value(&*meta, "kept").await.as_deref(), Some("1"));
    assert_eq!(value(&*meta, "lost").await, None);
    meta.close().await.unwrap();
}

async fn a_closed_engine_refuses_work_and_leaves_all_of_it(engine: &dyn Engine) {
    let meta = engine.open().await;
    meta.apply(batch(&[("a", Some("1"))])).await.unwrap();
    meta.close().await.unwrap();
    meta.close().await.unwrap();
    for result in [meta.apply(batch(&[("b", Some("1"))])).await, meta.flush().await] {
        assert!(matches!(result, Err(MetaError::Closed { .. })), "{result:?}");
    }
    let read = meta.get(b"a").await;
    assert!(matches!(read, Err(MetaError::Closed { .. })), "{read:?}");
    let meta = engine.open().await;
    assert_eq!(value(&*meta, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&*meta, "b").await, None);
    meta.close().await.unwrap();
}

async fn a_newer_writer_fences_the_older(engine: &dyn Engine) {
    let old = engine.open().await;
    old.apply(batch(&[("a", Some("old"))])).await.unwrap();
    old.flush().await.unwrap();
    let new = engine.open().await;
    new.apply(batch(&[("a", Some("new"))])).await.unwrap();
    new.flush().await.unwrap();

    // Applying may still go to memory; the flush is what must not succeed.
    let late = old.apply(batch(&[("a", Some("late"))])).await;
    let flushed = old.flush().await;
    assert!(matches!(flushed, Err(MetaError::Fenced)), "{late:?} {flushed:?}");
    assert_eq!(flushed.unwrap_err().kind(), ErrorKind::Conflict);
    let applied = old.apply(batch(&[("a", Some("later"))])).await;
    assert!(matches!(applied, Err(MetaError::Fenced)), "{applied:?}");
    let read = old.get(b"a").await;
    assert!(matches!(read, Err(MetaError::Fenced)), "{read:?}");
    let closed = old.close().await;
    assert!(matches!(closed, Err(MetaError::Fenced)), "{closed:?}");

    assert_eq!(value(&*new, "a").await.as_deref(), Some("new"));
    new.close().await.unwrap();
    let last = engine.open().await;
    assert_eq!(value(&*last, "a").await.as_deref(), Some("new"));
    last.close().await.unwrap();
}

async fn readers_see_only_what_was_flushed(engine: &dyn Engine) {
    let meta = engine.open().await;
    meta.apply(batch(&[("a", Some("1"))])).await.unwrap();
    meta.flush().await.unwrap();
    meta.apply(batch(&[("a", Some("2"))])).await.unwrap();
    let reader = engine.follow().await;
    assert_eq!(value(&*reader, "a").await.as_deref(), Some("1"));
    assert_eq!(keys(&*reader, "a", "b", 9).await, "a");

    let version = reader.version();
    meta.flush().await.unwrap();
    // Bounded by the runner's own limit: a follower that never moves fails there.
    while reader.version() == version {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(value(&*reader, "a").await.as_deref(), Some("2"));
    meta.close().await.unwrap();
}

async fn checkpoints_keep_their_moment(engine: &dyn Engine) {
    let meta = engine.open().await;
    meta.apply(batch(&[("a", Some("1"))])).await.unwrap();
    let first = meta.checkpoint("first", None).await.unwrap();
    meta.apply(batch(&[("a", Some("2")), ("b", Some("2"))])).await.unwrap();
    let second = meta.checkpoint("second", Some(Duration::from_hours(1))).await.unwrap();
    meta.apply(batch(&[("a", None)])).await.unwrap();
    meta.flush().await.unwrap();

    let listed = meta.checkpoints().await.unwrap();
    let names: Vec<_> = listed.iter().map(|one| (one.id, one.name.as_str())).collect();
    assert_eq!(names, [(first, "first"), (second, "second")]);
    assert_eq!(listed[0].expires, None);
    assert!(listed[1].expires > Some(listed[1].created));
    assert_eq!(first.to_string().parse::<CheckpointId>().unwrap(), first);

    let reader = engine.open_checkpoint(first).await.unwrap();
    assert_eq!(value(&*reader, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&*reader, "b").await, None);
    let reader = engine.open_checkpoint(second).await.unwrap();
    assert_eq!(keys(&*reader, "a", "z", 9).await, "ab");

    meta.delete_checkpoint(first).await.unwrap();
    meta.delete_checkpoint(first).await.unwrap();
    assert_eq!(meta.checkpoints().await.unwrap().len(), 1);
    let gone = engine.open_checkpoint(first).await.err().unwrap();
    assert!(matches!(gone, MetaError::NoCheckpoint(id) if id == first), "{gone:?}");
    meta.close().await.unwrap();
}

mod memory {
    use super::*;
    use crate::meta::MemoryVolume;

    #[async_trait::async_trait]
    impl Engine for MemoryVolume {
        async fn open(&self) -> Arc<dyn MetaStore> {
            Arc::new(MemoryVolume::open(self))
        }

        async fn follow(&self) -> Arc<dyn MetaRead> {
            Arc::new(MemoryVolume::follow(self))
        }

        async fn open_checkpoint(&self, id: CheckpointId) -> Result<Arc<dyn MetaRead>, MetaError> {
            Ok(Arc::new(MemoryVolume::open_checkpoint(self, id)?))
        }
    }

    #[tokio::test]
    async fn memory_engine_passes_the_suite() {
        all(async || Box::new(MemoryVolume::new()) as Box<dyn Engine>).await;
    }
}

#[test]
fn a_batch_counts_each_key_once_with_its_last_value() {
    let mut batch = Batch::new();
    batch.put("key", "12345");
    batch.put("key", "12");
    assert_eq!((batch.len(), batch.bytes()), (1, 5));
    batch.delete("key");
    assert_eq!((batch.len(), batch.bytes()), (1, 3));
    assert!(!batch.is_empty());
}
