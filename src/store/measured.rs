//! Counts what a mount asks of its store: requests, bytes, errors, time.
//!
//! Invariant: one count for each request that a billing store would charge, as far as this side of
//! the trait can know. A multipart upload counts its start, every part and its end; a listing one
//! for each thousand keys; a batch of deletes one. Retries inside the store below are not seen.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use serde::Serialize;

use crate::store::classify;
use crate::store::object_store::path::Path;
use crate::store::object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};

/// Keys that S3 returns or deletes in one request.
const KEYS_PER_REQUEST: u64 = 1000;

/// Counts of one kind of request.
#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    errors: AtomicU64,
    micros: AtomicU64,
    micros_max: AtomicU64,
}

impl Counter {
    fn finish<T>(&self, started: Instant, result: &Result<T>) {
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.requests.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
        self.micros_max.fetch_max(micros, Relaxed);
        if let Err(error) = result
            && !classify(error).is_answer()
        {
            self.errors.fetch_add(1, Relaxed);
        }
    }

    fn read(&self) -> OperationCounts {
        let requests = self.requests.load(Relaxed);
        let ms = |micros| Duration::from_micros(micros).as_secs_f64() * 1000.0;
        OperationCounts {
            requests,
            errors: self.errors.load(Relaxed),
            latency_ms_mean: ms(self.micros.load(Relaxed) / requests.max(1)),
            latency_ms_max: ms(self.micros_max.load(Relaxed)),
        }
    }
}

/// The counters of one store, shared by everything that looks at them.
#[derive(Debug, Default)]
pub struct StoreMeter {
    get: Counter,
    put: Counter,
    head: Counter,
    list: Counter,
    delete: Counter,
    copy: Counter,
    part: Counter,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// What one kind of request has cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperationCounts {
    /// Requests made.
    pub requests: u64,
    /// Of these, failed by a fault rather than by an answer such as "not found".
    pub errors: u64,
    /// Mean time to the answer's headers, in milliseconds.
    pub latency_ms_mean: f64,
    /// Longest time, in milliseconds.
    pub latency_ms_max: f64,
}

/// Requests by the names of the status schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// Reads of content.
    pub get: u64,
    /// Writes: whole objects, and starts, parts and ends of multipart uploads.
    pub put: u64,
    /// Reads of headers only.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Deletes, a batch counting as one.
    pub delete: u64,
    /// Copies on the server.
    pub copy: u64,
}

/// Details by operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperationTable {
    /// Reads of content.
    pub get: OperationCounts,
    /// Writes of whole objects.
    pub put: OperationCounts,
    /// Requests of multipart uploads.
    pub part: OperationCounts,
    /// Reads of headers only.
    pub head: OperationCounts,
    /// Pages of listings.
    pub list: OperationCounts,
    /// Deletes.
    pub delete: OperationCounts,
    /// Copies on the server.
    pub copy: OperationCounts,
}

/// Everything counted, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StoreCounts {
    /// Requests by kind.
    pub requests: RequestCounts,
    /// Bytes of bodies sent.
    pub bytes_up: u64,
    /// Bytes of bodies received.
    pub bytes_down: u64,
    /// Requests that failed by a fault.
    pub errors: u64,
    /// Details by operation.
    pub operations: OperationTable,
}

impl StoreMeter {
    /// What has been counted so far.
    pub fn snapshot(&self) -> StoreCounts {
        let operations = OperationTable {
            get: self.get.read(),
            put: self.put.read(),
            part: self.part.read(),
            head: self.head.read(),
            list: self.list.read(),
            delete: self.delete.read(),
            copy: self.copy.read(),
        };
        let OperationTable { get, put, part, head, list, delete, copy } = operations;
        let errors = [get, put, part, head, list, delete, copy].iter().map(|one| one.errors).sum();
        StoreCounts {
            requests: RequestCounts {
                get: get.requests,
                put: put.requests + part.requests,
                head: head.requests,
                list: list.requests,
                delete: delete.requests,
                copy: copy.requests,
            },
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
            errors,
            operations,
        }
    }
}

/// Passes everything on and counts it.
#[derive(Debug, Clone)]
pub struct MeasuredStore<T> {
    inner: T,
    meter: Arc<StoreMeter>,
}

impl<T: ObjectStore> MeasuredStore<T> {
    /// Counts what passes to `inner`.
    pub fn new(inner: T) -> Self {
        Self { inner, meter: Arc::default() }
    }

    /// The counters, which live on after the store is given away.
    pub fn meter(&self) -> Arc<StoreMeter> {
        Arc::clone(&self.meter)
    }

    /// What has been counted so far.
    pub fn snapshot(&self) -> StoreCounts {
        self.meter.snapshot()
    }
}

impl<T: fmt::Display> fmt::Display for MeasuredStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ObjectStore> ObjectStore for MeasuredStore<T> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let started = Instant::now();
        self.meter.bytes_up.fetch_add(payload.content_length() as u64, Relaxed);
        let result = self.inner.put_opts(location, payload, opts).await;
        self.meter.put.finish(started, &result);
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let started = Instant::now();
        let result = self.inner.put_multipart_opts(location, opts).await;
        self.meter.part.finish(started, &result);
        let inner = result?;
        Ok(Box::new(MeasuredUpload { inner, meter: Arc::clone(&self.meter) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let counter = if options.head { &self.meter.head } else { &self.meter.get };
        let (started, is_head) = (Instant::now(), options.head);
        let result = self.inner.get_opts(location, options).await;
        counter.finish(started, &result);
        let mut result = result?;
        if !is_head {
            result.payload = self.counted(result.payload, &result.range);
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // Through `get_opts`, so that each request is counted however the ranges are merged.
        crate::store::object_store::coalesce_ranges(
            ranges,
            |range| async move {
                let options =
                    GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
                self.get_opts(location, options).await?.bytes().await
            },
            crate::store::object_store::OBJECT_STORE_COALESCE_DEFAULT,
        )
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let meter = Arc::clone(&self.meter);
        let mut watch = Batch::new(meter, |meter| &meter.delete);
        let deleted = self.inner.delete_stream(locations).map(move |result| watch.item(result));
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let started = Instant::now();
        let result = self.inner.list_with_delimiter(prefix).await;
        self.meter.list.finish(started, &result);
        if let Ok(list) = &result {
            let keys = (list.objects.len() + list.common_prefixes.len()) as u64;
            let more_pages = keys.div_ceil(KEYS_PER_REQUEST).saturating_sub(1);
            self.meter.list.requests.fetch_add(more_pages, Relaxed);
        }
        result
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let started = Instant::now();
        let result = self.inner.copy_opts(from, to, options).await;
        self.meter.copy.finish(started, &result);
        result
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let started = Instant::now();
        let result = self.inner.rename_opts(from, to, options).await;
        self.meter.copy.finish(started, &result);
        if result.is_ok() {
            self.meter.delete.finish(started, &result);
        }
        result
    }
}

impl<T: ObjectStore> MeasuredStore<T> {
    fn counted(&self, payload: GetResultPayload, range: &Range<u64>) -> GetResultPayload {
        match payload {
            GetResultPayload::Stream(stream) => {
                let meter = Arc::clone(&self.meter);
                let stream = stream.inspect(move |chunk| match chunk {
                    Ok(chunk) => {
                        meter.bytes_down.fetch_add(chunk.len() as u64, Relaxed);
                    }
                    Err(_) => {
                        meter.get.errors.fetch_add(1, Relaxed);
                    }
                });
                GetResultPayload::Stream(stream.boxed())
            }
            // A file is read behind our back; it will be read whole.
            other @ GetResultPayload::File(..) => {
                self.meter.bytes_down.fetch_add(range.end - range.start, Relaxed);
                other
            }
        }
    }

    fn listing(
        &self,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut watch = Batch::new(Arc::clone(&self.meter), |meter| &meter.list);
        // The end of the stream stands for the one request of an empty listing.
        inner
            .map(Some)
            .chain(futures::stream::iter([None]))
            .filter_map(move |item| {
                let item = if let Some(result) = item {
                    Some(watch.item(result))
                } else {
                    watch.end();
                    None
                };
                std::future::ready(item)
            })
            .boxed()
    }
}

/// Counts a stream of keys as the requests that carry them.
struct Batch {
    meter: Arc<StoreMeter>,
    counter: fn(&StoreMeter) -> &Counter,
    started: Instant,
    keys: u64,
}

impl Batch {
    fn new(meter: Arc<StoreMeter>, counter: fn(&StoreMeter) -> &Counter) -> Self {
        Self { meter, counter, started: Instant::now(), keys: 0 }
    }

    fn item<K>(&mut self, result: Result<K>) -> Result<K> {
        let counter = (self.counter)(&self.meter);
        if result.is_err() || self.keys.is_multiple_of(KEYS_PER_REQUEST) {
            counter.finish(self.started, &result);
            self.started = Instant::now();
        }
        self.keys += 1;
        result
    }

    fn end(&mut self) {
        if self.keys == 0 {
            (self.counter)(&self.meter).finish(self.started, &Ok(()));
        }
    }
}

#[derive(Debug)]
struct MeasuredUpload {
    inner: Box<dyn MultipartUpload>,
    meter: Arc<StoreMeter>,
}

#[async_trait]
impl MultipartUpload for MeasuredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let meter = Arc::clone(&self.meter);
        let len = data.content_length() as u64;
        let part = self.inner.put_part(data);
        Box::pin(async move {
            let started = Instant::now();
            meter.bytes_up.fetch_add(len, Relaxed);
            let result = part.await;
            meter.part.finish(started, &result);
            result
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let started = Instant::now();
        let result = self.inner.complete().await;
        self.meter.part.finish(started, &result);
        result
    }

    async fn abort(&mut self) -> Result<()> {
        let started = Instant::now();
        let result = self.inner.abort().await;
        self.meter.part.finish(started, &result);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::object_store::ObjectStoreExt;
    use crate::store::object_store::memory::InMemory;

    #[tokio::test]
    async fn every_request_is_counted_once_with_its_bytes() {
        let store = MeasuredStore::new(InMemory::new());
        let path = Path::from("a");
        store.put(&path, vec![0; 100].into()).await.unwrap();
        store.get(&path).await.unwrap().bytes().await.unwrap();
        store.get_range(&path, 10..20).await.unwrap();
        store.head(&path).await.unwrap();
        store.list(None).collect::<Vec<_>>().await;
        store.list(Some(&Path::from("none"))).collect::<Vec<_>>().await;
        store.delete(&path).await.unwrap();
        assert!(store.get(&path).await.is_err());
        let counts = store.snapshot();
        let expected = RequestCounts { get: 3, put: 1, head: 1, list: 2, delete: 1, copy: 0 };
        assert_eq!(counts.requests, expected);
        assert_eq!((counts.bytes_up, counts.bytes_down), (100, 110));
        assert_eq!(counts.errors, 0, "a missing object is an answer, not an error");
    }

    #[tokio::test]
    async fn a_multipart_upload_counts_its_parts() {
        let store = MeasuredStore::new(InMemory::new());
        let mut upload = store.put_multipart(&Path::from("a")).await.unwrap();
        for _ in 0..3 {
            upload.put_part(vec![0; 10].into()).await.unwrap();
        }
        upload.complete().await.unwrap();
        let counts = store.snapshot();
        assert_eq!((counts.requests.put, counts.bytes_up), (5, 30));
        let json = serde_json::to_value(counts).unwrap();
        assert_eq!(json["requests"]["put"], 5);
    }

    #[tokio::test]
    async fn listings_count_a_request_for_each_thousand_keys() {
        let store = MeasuredStore::new(InMemory::new());
        for n in 0..2001 {
            store.put(&Path::from(format!("{n}")), "x".into()).await.unwrap();
        }
        assert_eq!(store.list(None).count().await, 2001);
        assert_eq!(store.snapshot().requests.list, 3);
        let all = store.list(None).map(|meta| meta.map(|meta| meta.location)).boxed();
        assert_eq!(store.delete_stream(all).count().await, 2001);
        assert_eq!(store.snapshot().requests.delete, 3);
    }
}
