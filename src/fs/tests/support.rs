//! A volume in memory that can be mounted again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;

use crate::base::{BlockSize, Inode, KIB, MIB, SystemClock, VolumeId, WriterEpoch};
use crate::check::{Facts, fsck};
use crate::crypto::{DataKey, DataKeys, SecretKey};
use crate::data::{BlockReader, Compression, PackContext, ReaderConfig, Uploader};
use crate::format::FileKind;
use crate::fs::SetAttributes;
use crate::fs::{
    Attributes, Caller, FileSystem, FsConfig, FsParts, Handle, NewNode, Records, WriteOrigin,
    format_volume, read_counters,
};
use crate::meta::{MemoryVolume, MetaRead, MetaStore};
use crate::store::FaultyStore;
use crate::store::faulty::Faults;
use crate::store::object_store::ObjectStore;
use crate::store::object_store::memory::InMemory;

pub const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0 };
pub const PLAIN: WriteOrigin = WriteOrigin { from_cache: false, kill_privileges: false };

/// The bucket: it outlives mounts.
pub struct TestVolume {
    pub meta: MemoryVolume,
    pub store: Arc<dyn ObjectStore>,
    pub context: Arc<PackContext>,
    names: SecretKey,
    pub config: FsConfig,
    pub reading: ReaderConfig,
    pub block_size: BlockSize,
}

impl TestVolume {
    pub async fn new() -> Self {
        Self::on(Arc::new(InMemory::new())).await
    }

    pub async fn on(store: Arc<dyn ObjectStore>) -> Self {
        let names = SecretKey::generate();
        let key = DataKey { epoch: crate::base::Epoch(1), key: SecretKey::generate() };
        let keys = DataKeys::new(key, Vec::new());
        let volume = VolumeId([7; 16]);
        let context = PackContext::new(volume, keys, names.clone(), Compression::default());
        let meta = MemoryVolume::new();
        format_volume(&meta.open(), &SystemClock, 0, 0).await.unwrap();
        let config = FsConfig {
            commit_interval: Duration::from_hours(1),
            dirty_bytes_max: 8 * MIB,
            pack_bytes: MIB,
            deadline: Duration::from_secs(10),
            ..FsConfig::default()
        };
        let block_size = BlockSize::new(4 * KIB).unwrap();
        let reading = ReaderConfig { memory_bytes: MIB, ..ReaderConfig::default() };
        Self { meta, store, context: Arc::new(context), names, config, reading, block_size }
    }

    /// What a check has to know.
    pub fn facts(&self) -> Facts {
        Facts { block_size: self.block_size, names: Some(self.names.clone()) }
    }

    /// What is committed is as it must be.
    pub async fn assert_clean(&self) {
        let report = fsck(&self.meta.follow(), &self.facts()).await.unwrap();
        assert!(report.is_clean(), "{:#?}", report.findings);
    }

    /// As [`assert_clean`](Self::assert_clean), and the mount's own sums are those that are committed.
    pub async fn assert_settled(&self, fs: &FileSystem) {
        let mut tries = 0;
        loop {
            fs.flush().await.unwrap();
            let status = fs.status();
            let counters = read_counters(&self.meta.follow()).await.unwrap();
            // Work in the background may have come in between.
            if (status.bytes, status.inodes, status.space)
                == (counters.bytes, counters.inodes, counters.space)
            {
                break;
            }
            tries += 1;
            assert!(tries < 100, "{status:?} is committed as {counters:?}");
        }
        self.assert_clean().await;
    }

    pub async fn mount(&self) -> FileSystem {
        self.mount_with_parts().await.0
    }

    /// The mounted volume, its engine, and the reader of its blocks.
    pub async fn mount_with_parts(&self) -> (FileSystem, Arc<dyn MetaStore>, Arc<BlockReader>) {
        let meta = self.meta.open();
        let writer = meta.writer_epoch();
        let meta: Arc<dyn MetaStore> = Arc::new(meta);
        let (fs, reader) = self.mount_on(Records::Writer(meta.clone()), writer).await;
        (fs, meta, reader)
    }

    /// A mount that only reads.
    pub async fn follow(&self, meta: Arc<dyn MetaRead>) -> FileSystem {
        self.mount_on(Records::Reader(meta), WriterEpoch(0)).await.0
    }

    async fn mount_on(
        &self,
        records: Records,
        writer: WriterEpoch,
    ) -> (FileSystem, Arc<BlockReader>) {
        let runtime = Runtime::current();
        let reader = BlockReader::new(
            self.store.clone(),
            self.context.clone(),
            self.reading.clone(),
            runtime.clone(),
        );
        let reader = Arc::new(reader);
        let parts = FsParts {
            writer,
            records,
            reader: reader.clone(),
            packs: self.context.clone(),
            uploader: Arc::new(Uploader::new(self.store.clone(), 4)),
            names: self.names.clone(),
            block_size: self.block_size,
            config: self.config.clone(),
            clock: Arc::new(SystemClock),
            runtime,
        };
        (FileSystem::mount(parts).await.unwrap(), reader)
    }
}

/// A change of size alone.
pub fn resize(size: u64) -> SetAttributes {
    SetAttributes {
        caller: ROOT_CALLER,
        permissions: None,
        uid: None,
        gid: None,
        size: Some(size),
        atime: None,
        mtime: None,
        ctime: None,
    }
}

/// A volume whose store fails as told, and which does not wait long for it.
pub async fn faulty() -> (TestVolume, Faults) {
    let store = FaultyStore::new(InMemory::new());
    let faults = store.faults();
    let mut volume = TestVolume::on(Arc::new(store)).await;
    volume.config.deadline = Duration::from_secs(4);
    (volume, faults)
}

/// What to make at `parent/name`.
pub fn node(parent: Inode, name: &str, kind: FileKind) -> NewNode {
    NewNode {
        parent,
        name: name.as_bytes().into(),
        kind,
        permissions: if kind == FileKind::Directory { 0o755 } else { 0o644 },
        umask: 0,
        caller: ROOT_CALLER,
        rdev: 0,
        target: Box::default(),
    }
}

pub async fn create(fs: &FileSystem, parent: Inode, name: &str) -> (Inode, Handle) {
    let made = fs.create(node(parent, name, FileKind::Regular)).wait().await.unwrap();
    (made.0.inode, made.1)
}

pub async fn mkdir(fs: &FileSystem, parent: Inode, name: &str) -> Inode {
    fs.make(node(parent, name, FileKind::Directory)).wait().await.unwrap().inode
}

pub async fn lookup(fs: &FileSystem, parent: Inode, name: &str) -> Option<Attributes> {
    fs.lookup(parent, name.as_bytes()).wait().await.ok()
}

pub async fn write(fs: &FileSystem, inode: Inode, offset: u64, data: &[u8]) {
    let written = fs.write(inode, offset, data, PLAIN).wait().await.unwrap();
    assert_eq!(written as usize, data.len());
}

pub async fn read_all(fs: &FileSystem, inode: Inode) -> Vec<u8> {
    let size = fs.getattr(inode).wait().await.unwrap().record.size;
    let mut content = Vec::new();
    while (content.len() as u64) < size {
        let offset = content.len() as u64;
        let part = fs.read(inode, Handle(0), offset, 100_000).wait().await.unwrap();
        assert!(!part.is_empty());
        content.extend_from_slice(&part);
    }
    content
}

pub async fn list(fs: &FileSystem, inode: Inode) -> Vec<String> {
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let entries = fs.readdir(inode, offset, 7, true).wait().await.unwrap();
        let Some(last) = entries.last() else { return names };
        offset = last.offset;
        names.extend(entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()));
    }
}
