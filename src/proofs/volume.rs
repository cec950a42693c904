//! A volume in a bucket, opened as a machine opens it: sealed store, engine, file system, collector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::base::{BlockSize, Epoch, KIB, MIB, SystemClock, VolumeId};
use crate::check::{Facts, fsck};
use crate::crypto::{DataKey, DataKeys, ObjectKind, SecretKey};
use crate::data::{BlockReader, Compression, PackContext, ReaderConfig, Uploader};
use crate::fs::{self, FileSystem, FsConfig, FsParts, Records};
use crate::gc::{Collector, GcParts};
use crate::meta::{MetaStore, SlateLook, SlateMeta, SlateOptions};
use crate::store::SealedStore;
use crate::store::object_store::ObjectStore;

const VOLUME: VolumeId = VolumeId([9; 16]);

/// What opens a volume, wherever its bucket is.
pub(super) struct ProofVolume {
    keys: DataKeys,
    names: SecretKey,
    pub packs: Arc<PackContext>,
    pub block_size: BlockSize,
}

/// A volume that is mounted read-write.
pub(super) struct Mounted {
    pub fs: FileSystem,
    pub meta: Arc<SlateMeta>,
    pub collector: Arc<Collector>,
}

/// How lively the engine's background work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// As in a mount: nothing happens within a test.
    Calm,
    /// Tables are written and merged all the time.
    Busy,
}

impl ProofVolume {
    pub fn new(block_bytes: u64, compression: Compression) -> Self {
        let names = SecretKey::generate();
        let keys =
            DataKeys::new(DataKey { epoch: Epoch(1), key: SecretKey::generate() }, Vec::new());
        let packs = PackContext::new(VOLUME, keys.clone(), names.clone(), compression);
        Self {
            keys,
            names,
            packs: Arc::new(packs),
            block_size: BlockSize::new(block_bytes).unwrap(),
        }
    }

    /// The engine alone.
    pub async fn engine(
        &self,
        store: &Arc<dyn ObjectStore>,
        pace: Pace,
    ) -> Result<SlateMeta, String> {
        let sealed =
            SealedStore::new(store.clone(), self.keys.clone(), VOLUME, ObjectKind::Metadata);
        let options = SlateOptions::new(Handle::current());
        let options = if pace == Pace::Busy { options.busy() } else { options };
        // As a mount does it.
        let look = SlateLook::new(Arc::new(sealed)).await;
        let opened = SlateMeta::open_seen(look, options).await;
        opened.map_err(|error| format!("engine: {error:?}"))
    }

    /// Makes the volume.
    pub async fn format(&self, store: &Arc<dyn ObjectStore>) {
        let engine = self.engine(store, Pace::Calm).await.unwrap();
        fs::format_volume(&engine, &SystemClock, 0, 0).await.unwrap();
        engine.close().await.unwrap();
    }

    pub async fn mount(&self, store: &Arc<dyn ObjectStore>, pace: Pace) -> Result<Mounted, String> {
        let engine = self.engine(store, pace).await?;
        self.mount_on(store, engine).await
    }

    /// What is wrong with the records, if anything.
    pub async fn check_records(&self, engine: &SlateMeta) -> Result<(), String> {
        let facts = Facts { block_size: self.block_size, names: Some(self.names.clone()) };
        let report = fsck(engine, &facts).await.map_err(|error| format!("fsck: {error}"))?;
        let lines = report.lines(&BTreeMap::new());
        if report.is_clean() { Ok(()) } else { Err(format!("fsck: {}", lines.join("; "))) }
    }

    pub async fn mount_on(
        &self,
        store: &Arc<dyn ObjectStore>,
        engine: SlateMeta,
    ) -> Result<Mounted, String> {
        let reading = ReaderConfig { memory_bytes: MIB, ..ReaderConfig::default() };
        let config = FsConfig {
            commit_interval: Duration::from_millis(200),
            dirty_bytes_max: 8 * MIB,
            pack_bytes: MIB,
            record_cache_bytes: 4 * MIB + 64 * KIB,
            ..FsConfig::default()
        };
        self.mount_as(store, engine, reading, config).await
    }

    pub async fn mount_as(
        &self,
        store: &Arc<dyn ObjectStore>,
        engine: SlateMeta,
        reading: ReaderConfig,
        config: FsConfig,
    ) -> Result<Mounted, String> {
        let writer = engine.writer_epoch();
        let meta = Arc::new(engine);
        let runtime = Handle::current();
        let reader = BlockReader::new(store.clone(), self.packs.clone(), reading, runtime.clone());
        let reader = Arc::new(reader);
        let parts = FsParts {
            writer,
            records: Records::Writer(meta.clone()),
            reader: reader.clone(),
            packs: self.packs.clone(),
            uploader: Arc::new(Uploader::new(store.clone(), Uploader::PARALLEL_DEFAULT)),
            names: self.names.clone(),
            block_size: self.block_size,
            config,
            clock: Arc::new(SystemClock),
            runtime,
        };
        let fs = FileSystem::mount(parts).await.map_err(|error| format!("mount: {error}"))?;
        let parts = GcParts {
            fs: fs.clone(),
            meta: meta.clone() as Arc<dyn MetaStore>,
            packs: self.packs.clone(),
            reader,
            store: store.clone(),
            clock: Arc::new(SystemClock),
        };
        Ok(Mounted { fs, meta, collector: Arc::new(Collector::new(parts)) })
    }
}
