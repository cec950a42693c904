//! Small files read cold: few requests, and none that anybody waits for in vain.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::support::*;
use crate::base::{Inode, KIB, MIB, PackNumber};
use crate::format::Key;
use crate::fs::{FileSystem, Handle};
use crate::meta::{MemoryReader, MetaError, MetaRead, Record};
use crate::store::object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};

const ROOT: Inode = Inode::ROOT;

/// Bytes that come together.
const PIECE: usize = 4096;

/// A bucket behind one line, which all bodies share; counts them.
#[derive(Debug)]
struct Line {
    bucket: InMemory,
    bytes_per_s: u64,
    free: Arc<Mutex<()>>,
    gets: AtomicUsize,
}

impl Line {
    fn new(bytes_per_s: u64) -> Arc<Self> {
        let (free, gets) = (Arc::default(), AtomicUsize::new(0));
        Arc::new(Self { bucket: InMemory::new(), bytes_per_s, free, gets })
    }

    /// GETs since the last call.
    fn gets(&self) -> usize {
        self.gets.swap(0, SeqCst)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("line")
    }
}

#[async_trait]
impl ObjectStore for Line {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, SeqCst);
        let result = self.bucket.get_opts(path, options).await?;
        let (range, meta) = (result.range.clone(), result.meta.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let bytes = result.bytes().await?;
        let (free, bytes_per_s) = (self.free.clone(), self.bytes_per_s);
        let pieces = (0..bytes.len()).step_by(PIECE).map(move |at| {
            let (free, piece) = (free.clone(), bytes.slice(at..bytes.len().min(at + PIECE)));
            async move {
                let _line = free.lock().await;
                let micros = piece.len() as u64 * 1_000_000 / bytes_per_s;
                tokio::time::sleep(Duration::from_micros(micros)).await;
                Ok(piece)
            }
        });
        let payload = GetResultPayload::Stream(stream::iter(pieces).then(|piece| piece).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.bucket.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bucket.put_multipart_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.bucket.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.bucket.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.bucket.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.bucket.copy_opts(from, to, options).await
    }
}

const FAST: u64 = 1 << 40;
const FILE_BYTES: usize = 48 * KIB as usize;

/// A volume behind a line, with room to fetch ahead.
async fn volume(bytes_per_s: u64) -> (TestVolume, Arc<Line>) {
    let line = Line::new(bytes_per_s);
    let mut volume = TestVolume::on(line.clone()).await;
    volume.reading.memory_bytes = 64 * MIB;
    (volume, line)
}

fn content(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..FILE_BYTES).map(|_| next()).collect()
}

async fn make_files(fs: &FileSystem, numbers: std::ops::Range<u64>) -> Vec<Inode> {
    let mut files = Vec::new();
    for number in numbers {
        let (inode, _) = create(fs, ROOT, &format!("file {number}")).await;
        write(fs, inode, 0, &content(number)).await;
        files.push(inode);
    }
    fs.flush().await.unwrap();
    files
}

async fn assert_read(fs: &FileSystem, files: &[Inode], number: usize) {
    assert!(read_all(fs, files[number]).await == content(number as u64), "{number}");
}

#[tokio::test(start_paused = true)]
async fn on_a_slow_line_a_small_file_is_there_after_its_own_request() {
    let (mut volume, line) = volume(64 * KIB).await;
    volume.config.deadline = Duration::from_mins(2);
    let fs = volume.mount().await;
    let files = make_files(&fs, 0..200).await;
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    let seconds = async |number| {
        let start = Instant::now();
        assert_read(&fs, &files, number).await;
        start.elapsed().as_secs_f64()
    };
    line.gets();
    assert!(seconds(199).await < 1.0);
    // What is sent for around it takes half a minute.
    let start = Instant::now();
    fs.read(files[198], Handle(0), 0, 4096).wait().await.unwrap();
    let first = start.elapsed().as_secs_f64();
    assert!(first < 1.0, "{first}");
    let rest = seconds(198).await;
    assert!(rest < 5.0 && line.gets() > 2, "{rest}");
    // On its way, far behind.
    let late = seconds(190).await;
    assert!(late < 20.0, "{late}");
}

#[tokio::test]
async fn large_file_in_between_does_not_hide_what_lies_before_the_reader() {
    let (volume, line) = volume(FAST).await;
    let fs = volume.mount().await;
    let (large, _) = create(&fs, ROOT, "large").await;
    for page in 0..6500 {
        write(&fs, large, page * 512 * KIB, b"x").await;
    }
    let files = make_files(&fs, 0..60).await;
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    line.gets();
    for number in 0..files.len() {
        assert_read(&fs, &files, number).await;
    }
    let gets = line.gets();
    assert!(gets <= 8, "{gets}");
}

#[tokio::test]
async fn damaged_pack_record_keeps_no_other_file_from_being_fetched() {
    let (volume, line) = volume(FAST).await;
    let fs = volume.mount().await;
    let mut files = Vec::new();
    // Each flush makes a pack of its own.
    for ten in 0..6 {
        files.extend(make_files(&fs, ten * 10..ten * 10 + 10).await);
    }
    let damaged = files[15];
    let plan = fs.run(move |tx| tx.core().plan_read(damaged, 0, 1)).wait().await.unwrap();
    let pack: PackNumber = plan.chunks()[0].0.pack;
    let damage = move |tx: &mut crate::fs::core::Tx<'_>| {
        tx.set(Key::pack(pack), Some(Bytes::from_static(b"garbage")));
        Ok(())
    };
    fs.run(damage).wait().await.unwrap();
    fs.close().await.unwrap();
    let fs = volume.mount().await;
    line.gets();
    for number in (0..10).chain(20..60) {
        assert_read(&fs, &files, number).await;
    }
    let gets = line.gets();
    assert!(gets <= 10, "{gets}");
    let error = fs.read(damaged, Handle(0), 0, 10).wait().await.unwrap_err();
    assert_eq!(error.kind(), crate::base::ErrorKind::Corrupt);
}

/// Scans wait for the gate.
struct SlowScans {
    records: MemoryReader,
    gate: Semaphore,
    begun: AtomicUsize,
    done: AtomicUsize,
}

#[async_trait]
impl MetaRead for SlowScans {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        self.records.get(key).await
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        self.begun.fetch_add(1, SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.done.fetch_add(1, SeqCst);
        self.records.scan(start, end, limit).await
    }

    fn version(&self) -> u64 {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn slow_scan_of_records_holds_a_load_up_for_a_moment_and_goes_on() {
    let volume = TestVolume::new().await;
    let fs = volume.mount().await;
    let files = make_files(&fs, 0..20).await;
    fs.close().await.unwrap();
    let records = volume.meta.follow();
    let (gate, zero) = (Semaphore::new(Semaphore::MAX_PERMITS), || AtomicUsize::new(0));
    let slow = Arc::new(SlowScans { records, gate, begun: zero(), done: zero() });
    let fs = volume.follow(slow.clone()).await;
    slow.gate.forget_permits(usize::MAX);
    let (begun, start) = (slow.begun.load(SeqCst), Instant::now());
    for file in &files {
        fs.getattr(*file).wait().await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(slow.begun.load(SeqCst), begun + 1);
    slow.gate.add_permits(100);
    let goes_on = async {
        while slow.done.load(SeqCst) <= begun {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), goes_on).await.unwrap();
}
