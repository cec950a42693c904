//! A volume's keys, content of both kinds, and a store that counts and misbehaves on request.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::base::{BlockIndex, CommitNumber, Epoch, Inode, PackNumber, VolumeId};
use crate::crypto::{DataKey, DataKeys, SecretKey};
use crate::data::{
    BlockReader, BuiltPack, Chunk, ChunkRef, Compression, PackContext, PackSeal, ReaderConfig,
};
use crate::store::object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, memory::InMemory, path::Path,
};

pub(super) const PACK: PackNumber = PackNumber(7);

pub(super) fn context(compression: Compression) -> Arc<PackContext> {
    let key = DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([1; 32]) };
    let keys = DataKeys::new(key, Vec::new());
    let names = SecretKey::from_bytes([2; 32]);
    Arc::new(PackContext::new(VolumeId([9; 16]), keys, names, compression))
}

/// `len` bytes that do not compress, the same for the same seed.
pub(super) fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn chunk(block: u64, content: Bytes) -> Chunk {
    Chunk { inode: Inode(5), block: BlockIndex(block), at: 0, content }
}

/// A pack of one chunk for each content.
pub(super) fn pack(context: &PackContext, number: PackNumber, contents: &[Bytes]) -> BuiltPack {
    let chunks = (0..).zip(contents).map(|(block, content)| chunk(block, content.clone()));
    context.build(number, CommitNumber(3), chunks.collect()).unwrap()
}

pub(super) fn refs(pack: &BuiltPack) -> Vec<(ChunkRef, PackSeal)> {
    let seal = PackContext::seal_of(&pack.record);
    pack.places.iter().map(|place| (ChunkRef::from_place(place).unwrap().0, seal)).collect()
}

pub(super) async fn store_with(packs: &[&BuiltPack]) -> Arc<CountingStore> {
    let store = CountingStore::default();
    for pack in packs {
        store.inner.put(&pack.path, pack.body.clone()).await.unwrap();
    }
    Arc::new(store)
}

pub(super) fn reader(
    store: &Arc<CountingStore>,
    context: &Arc<PackContext>,
    config: ReaderConfig,
) -> Arc<BlockReader> {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    Arc::new(BlockReader::new(store, Arc::clone(context), config, Handle::current()))
}

/// Lets every other task go on until `done`.
pub(super) async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Counts GETs and can hold, refuse or break them off.
#[derive(Debug)]
pub(super) struct CountingStore {
    pub(super) inner: InMemory,
    /// Ranges asked for.
    pub(super) gets: Mutex<Vec<Range<u64>>>,
    /// GETs in the store now, and the most there ever were.
    pub(super) running: AtomicUsize,
    pub(super) running_max: AtomicUsize,
    /// GETs wait for one of these.
    pub(super) gate: Semaphore,
    /// So many of the next GETs are refused.
    pub(super) refuse: AtomicUsize,
    /// So many of the next GETs end in the middle of the body.
    pub(super) break_off: AtomicUsize,
    /// So many of the next GETs stand still in the middle of the body, for ever.
    pub(super) stand_still: AtomicUsize,
}

impl Default for CountingStore {
    fn default() -> Self {
        Self {
            inner: InMemory::new(),
            gets: Mutex::default(),
            running: AtomicUsize::new(0),
            running_max: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            refuse: AtomicUsize::new(0),
            break_off: AtomicUsize::new(0),
            stand_still: AtomicUsize::new(0),
        }
    }
}

impl CountingStore {
    pub(super) fn gets(&self) -> usize {
        self.gets.lock().unwrap().len()
    }

    /// GETs wait from now on.
    pub(super) fn close_gate(&self) {
        self.gate.forget_permits(usize::MAX);
    }

    pub(super) fn open_gate(&self) {
        self.let_through(1000);
    }

    /// So many of those that wait go on, in their order.
    pub(super) fn let_through(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// Flips one bit of an object.
    pub(super) async fn tamper(&self, path: &Path, at: usize) {
        let mut bytes = self.inner.get(path).await.unwrap().bytes().await.unwrap().to_vec();
        bytes[at] ^= 1;
        self.inner.put(path, bytes.into()).await.unwrap();
    }
}

fn taken(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting store")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.gets.lock().unwrap().push(range.clone());
        }
        let running = self.running.fetch_add(1, Relaxed) + 1;
        self.running_max.fetch_max(running, Relaxed);
        self.gate.acquire().await.unwrap().forget();
        self.running.fetch_sub(1, Relaxed);
        if taken(&self.refuse) {
            return Err(Error::Generic { store: "test", source: "refused".into() });
        }
        let mut result = self.inner.get_opts(path, options).await?;
        let (breaks_off, stands_still) = (taken(&self.break_off), taken(&self.stand_still));
        if breaks_off || stands_still {
            let (range, meta) = (result.range.clone(), result.meta.clone());
            let attributes = result.attributes.clone();
            let extensions = result.extensions.clone();
            let bytes = result.bytes().await?;
            let half = futures::stream::iter([Ok(bytes.slice(..bytes.len() / 2))]);
            let end = Err(Error::Generic { store: "test", source: "reset by peer".into() });
            let payload = GetResultPayload::Stream(if breaks_off {
                half.chain(futures::stream::iter([end])).boxed()
            } else {
                half.chain(futures::stream::pending()).boxed()
            });
            result = GetResult { payload, meta, range, attributes, extensions };
        }
        Ok(result)
    }

    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let running = self.running.fetch_add(1, Relaxed) + 1;
        self.running_max.fetch_max(running, Relaxed);
        self.gate.acquire().await.unwrap().forget();
        self.running.fetch_sub(1, Relaxed);
        if taken(&self.refuse) {
            return Err(Error::Generic { store: "test", source: "refused".into() });
        }
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
