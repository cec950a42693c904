//! Mounts that only read and follow a writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use async_trait::async_trait;
use bytes::Bytes;

use super::support::*;
use crate::base::Inode;
use crate::fs::Handle;
use crate::meta::{MemoryReader, MetaError, MetaRead, Record};

const ROOT: Inode = Inode::ROOT;

/// Shows one state, then another, which it announces before and vouches for after.
struct Moving {
    old: MemoryReader,
    new: MemoryReader,
    stage: AtomicU8,
}

const ANNOUNCED: u8 = 1;
const SHOWN: u8 = 2;
const SETTLED: u8 = 3;

impl Moving {
    fn shown(&self) -> &MemoryReader {
        if self.stage.load(SeqCst) < SHOWN { &self.old } else { &self.new }
    }
}

#[async_trait]
impl MetaRead for Moving {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        self.shown().get(key).await
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        self.shown().scan(start, end, limit).await
    }

    fn version(&self) -> u64 {
        u64::from(self.stage.load(SeqCst) == SETTLED)
    }

    fn is_settling(&self) -> bool {
        (ANNOUNCED..SETTLED).contains(&self.stage.load(SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_moves_on_answers_no_read_from_two_states() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let (file, _) = create(&fs, ROOT, "file").await;
    write(&fs, file, 0, b"old content").await;
    fs.flush().await.unwrap();
    let engine = fs.inner.engine.clone().unwrap();
    let old = engine.checkpoint("old", None).await.unwrap();
    fs.setattr(file, resize(0)).wait().await.unwrap();
    fs.flush().await.unwrap();

    let old = volume.meta.open_checkpoint(old).unwrap();
    let moving = Moving { old, new: volume.meta.follow(), stage: AtomicU8::new(0) };
    let moving = Arc::new(moving);
    let follower = volume.follow(moving.clone()).await;
    assert_eq!(follower.getattr(file).wait().await.unwrap().record.size, 11);
    moving.stage.store(SHOWN, SeqCst);
    let read = tokio::spawn(async move { follower.read(file, Handle(0), 0, 100).wait().await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    moving.stage.store(SETTLED, SeqCst);
    assert_eq!(read.await.unwrap().unwrap(), b""[..], "the old size with the new content");
}
